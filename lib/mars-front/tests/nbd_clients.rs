//! The NBD server with clients that nobody here wrote: libnbd, qemu, fio.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::mem::Mode;
use common::{Served, eventually, noise, output, run, text};
use mars_front::Backend;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;

const MIB: u64 = 1 << 20;

/// Runs a libnbd script; `h` is connected to the server, `uri` is its address.
fn nbdsh(served: &Served, script: &str) {
    let head = "import nbd, errno, os, sys\nuri = sys.argv[1]\nh = nbd.NBD()\nh.set_strict_mode(0)\n\
        def fails(what, *numbers):\n    try:\n        what()\n    except nbd.Error as e:\n        assert e.errnum in numbers, e\n        return\n    assert False, 'no error'\n";
    let script = format!("{head}{script}\nprint('ok')\n");
    let out = run("/usr/bin/python3", &["-c", &script, &served.uri()]);
    assert!(out.contains("ok"), "{out}");
}

#[test]
fn nbdinfo_shows_flags_and_sizes() {
    let served = Served::nbd(64 * MIB, Mode::Inline);
    let info = run("nbdinfo", &["--json", &served.uri()]);
    for part in [
        "\"export-size\": 67108864",
        "\"structured\": true",
        "\"can_cache\": true",
        "\"can_df\": true",
        "\"can_fast_zero\": false",
        "\"can_flush\": true",
        "\"can_fua\": true",
        "\"can_multi_conn\": true",
        "\"can_trim\": true",
        "\"can_zero\": true",
        "\"block_minimum\": 512",
        "\"block_preferred\": 4096",
        "\"block_maximum\": 33554432",
    ] {
        let part = part.replace("block_", "block_size_");
        assert!(info.contains(&part), "{part} is not in {info}");
    }
    let list = run("nbdinfo", &["--list", &served.uri()]);
    assert!(list.contains("export=\"disk\""), "{list}");
}

#[test]
fn export_names_resource_device_and_default() {
    let served = Served::nbd(MIB, Mode::Inline);
    for (name, good) in [("disk", true), ("vol", true), ("", true), ("other", false)] {
        let uri = format!("nbd+unix:///{name}?socket={}", served.link().display());
        let out = output("nbdinfo", &["--size", &uri]);
        assert_eq!(out.status.success(), good, "{name}: {}", text(&out));
    }
}

#[test]
fn nbdcopy_there_and_back() {
    for mode in [Mode::Inline, Mode::Scrambled] {
        let served = Served::nbd(48 * MIB, mode);
        let source = served.dir.path().join("source");
        let back = served.dir.path().join("back");
        std::fs::write(&source, noise(7, 48 << 20)).unwrap();
        run(
            "nbdcopy",
            &["--flush", source.to_str().unwrap(), &served.uri()],
        );
        assert_eq!(served.mem.content(), std::fs::read(&source).unwrap());
        served
            .mem
            .cold
            .store(mode == Mode::Scrambled, Ordering::SeqCst);
        run("nbdcopy", &[&served.uri(), back.to_str().unwrap()]);
        assert!(std::fs::read(&back).unwrap() == std::fs::read(&source).unwrap());
        assert!(served.mem.flushes.load(Ordering::SeqCst) > 0);
    }
}

#[test]
fn qemu_io_writes_zeroes_and_discards() {
    let served = Served::nbd(16 * MIB, Mode::Scrambled);
    let mut args = vec!["-f", "raw"];
    for c in [
        "write -P 0x5a 512 66048",
        "read -P 0x5a 512 66048",
        "write -f -P 0x77 8k 512",
        "write -z 16k 8k",
        "discard 32k 4k",
        "flush",
        "read -P 0 16k 8k",
        "read -P 0 32k 4k",
        "read -P 0x77 8k 512",
        "aio_write -P 1 1M 2M",
        "aio_write -P 2 4M 2M",
        "aio_flush",
        "read -P 1 1M 2M",
        "read -P 2 4M 2M",
    ] {
        args.extend(["-c", c]);
    }
    let uri = served.uri();
    args.push(&uri);
    let out = run("qemu-io", &args);
    assert!(!out.contains("failed"), "{out}");
}

#[test]
fn fio_verifies() {
    for (mode, cold) in [(Mode::Inline, false), (Mode::Scrambled, true)] {
        let served = Served::nbd(32 * MIB, mode);
        served.mem.cold.store(cold, Ordering::SeqCst);
        let uri = format!("--uri={}", served.uri());
        for (rw, bs) in [
            ("randwrite", "4k-4k"),
            ("randrw", "512-64k"),
            ("write", "1m-1m"),
        ] {
            let out = run(
                "fio",
                &[
                    "--name=t",
                    "--ioengine=nbd",
                    &uri,
                    &format!("--rw={rw}"),
                    &format!("--bsrange={bs}"),
                    "--size=32m",
                    "--iodepth=32",
                    "--verify=crc32c",
                    "--verify_state_save=0",
                    "--verify_fatal=1",
                    "--do_verify=1",
                ],
            );
            assert!(out.contains("err= 0"), "{out}");
        }
    }
}

#[test]
fn several_connections_flush_and_fua() {
    let served = Served::nbd(8 * MIB, Mode::Scrambled);
    nbdsh(
        &served,
        "
h.connect_uri(uri)
others = []
for i in range(7):
    o = nbd.NBD(); o.connect_uri(uri); others.append(o)
    o.pwrite(bytes([i + 1]) * 4096, i * 4096)
h.flush()
for i in range(7):
    assert h.pread(4096, i * 4096) == bytes([i + 1]) * 4096
h.pwrite(b'x' * 512, 65536, nbd.CMD_FLAG_FUA)
h.trim(4096, 0, nbd.CMD_FLAG_FUA)
h.zero(4096, 4096, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE)
h.cache(4096, 0)
assert h.pread(8192, 0, nbd.CMD_FLAG_DF) == bytes(8192)
for o in others: o.shutdown()
h.shutdown()
",
    );
    assert_eq!(served.mem.fua_writes.load(Ordering::SeqCst), 3);
    assert_eq!(served.mem.flushes.load(Ordering::SeqCst), 1);
    eventually("all closed", || {
        served.mem.openers.load(Ordering::SeqCst) == 0
    });
    assert_eq!(served.mem.opened_ever.load(Ordering::SeqCst), 8);
}

#[test]
fn bad_requests_are_refused_and_the_connection_lives() {
    let served = Served::nbd(MIB, Mode::Inline);
    nbdsh(
        &served,
        "
h.connect_uri(uri)
M = 1 << 20
fails(lambda: h.pread(512, M), errno.EINVAL)
fails(lambda: h.pread(1024, M - 512), errno.EINVAL)
fails(lambda: h.pread(511, 0), errno.EINVAL)
fails(lambda: h.pread(512, 1), errno.EINVAL)
fails(lambda: h.pread(512, (1 << 63) - 512), errno.EINVAL)
fails(lambda: h.pwrite(bytes(512), M), errno.ENOSPC)
fails(lambda: h.pwrite(bytes(300000 // 512 * 512), M - 512), errno.ENOSPC)
fails(lambda: h.pwrite(bytes(100), 0), errno.EINVAL)
fails(lambda: h.zero(1024, M - 512), errno.ENOSPC)
fails(lambda: h.zero(1024, 0, nbd.CMD_FLAG_FAST_ZERO), errno.ENOTSUP)
fails(lambda: h.trim(1024, M - 512), errno.EINVAL)
fails(lambda: h.cache(1024, M), errno.EINVAL)
fails(lambda: h.pwrite(bytes(512), 0, nbd.CMD_FLAG_DF), errno.EINVAL)
h.pwrite(b'y' * 1024, M - 1024)
assert h.pread(1024, M - 1024) == b'y' * 1024
h.shutdown()
",
    );
}

/// The old ways: EXPORT_NAME without structured replies.
#[test]
fn simple_replies_and_export_name() {
    let served = Served::nbd(4 * MIB, Mode::Inline);
    nbdsh(
        &served,
        "
h.set_request_structured_replies(False)
h.set_handshake_flags(nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE)
h.connect_uri(uri)
assert not h.get_structured_replies_negotiated()
assert not h.can_df()
h.pwrite(b'z' * 3145728, 512)
assert h.pread(3145728, 512) == b'z' * 3145728
fails(lambda: h.pread(512, 1 << 30), errno.EINVAL)
h.shutdown()
o = nbd.NBD()
o.set_handshake_flags(0)
o.connect_uri(uri)
assert o.get_protocol() == 'newstyle', o.get_protocol()
assert o.pread(512, 512) == b'z' * 512
o.shutdown()
",
    );
}

#[test]
fn largest_requests_pass() {
    let served = Served::nbd(40 * MIB, Mode::Scrambled);
    nbdsh(
        &served,
        "
h.connect_uri(uri)
big = os.urandom(32 << 20)
h.pwrite(big, 4096)
assert h.pread(32 << 20, 4096) == big
h.zero(40 << 20, 0)
assert h.pread(32 << 20, 4096) == bytes(32 << 20)
",
    );
    assert!(served.mem.content().iter().all(|&b| b == 0));
}

#[test]
fn growth_is_seen() {
    let mut served = Served::nbd(MIB, Mode::Inline);
    served.mem.grow(3 * MIB);
    served.front.resized().unwrap();
    assert_eq!(run("nbdinfo", &["--size", &served.uri()]).trim(), "3145728");
}

#[test]
fn stop_respects_openers_and_cleans_up() {
    let mut served = Served::nbd(MIB, Mode::Inline);
    let link = served.link();
    let target = served.front.target().to_owned();
    assert_eq!(std::fs::read_link(&link).unwrap(), target);
    assert_eq!(
        std::fs::metadata(&target).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let uri = served.uri();
    let mut client = std::process::Command::new("/usr/bin/python3")
        .args(["-c", "import nbd, sys\nh = nbd.NBD(); h.connect_uri(sys.argv[1]); print('in', flush=True); sys.stdin.read(1)", &uri])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(client.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    assert_eq!(served.front.openers(), 1);
    let busy = served.front.stop(false).unwrap_err();
    assert_eq!(busy.raw_os_error(), Some(libc::EBUSY));
    assert_eq!(
        run("nbdinfo", &["--size", &uri]).trim(),
        "1048576",
        "still serving"
    );
    served.front.stop(true).unwrap();
    assert_eq!(served.front.openers(), 0);
    assert_eq!(served.mem.openers.load(Ordering::SeqCst), 0);
    assert!(!link.is_symlink() && !target.exists());
    drop(client.stdin.take());
    client.wait().unwrap();
}

/// The logger refuses openers while it leaves.
#[test]
fn refused_opening_is_told() {
    let served = Served::nbd(MIB, Mode::Inline);
    served.mem.refuse.store(true, Ordering::SeqCst);
    let out = output("nbdinfo", &["--size", &served.uri()]);
    assert!(!out.status.success());
    assert_eq!(served.mem.openers.load(Ordering::SeqCst), 0);
    assert_eq!(served.mem.size(), MIB);
}

#[test]
fn stale_names_are_replaced_and_foreign_files_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let env = common::mem::host_env(dir.path());
    std::fs::create_dir_all(dir.path().join("dev")).unwrap();
    std::fs::create_dir_all(dir.path().join("run/disk")).unwrap();
    std::os::unix::fs::symlink("/nonexistent", dir.path().join("dev/vol")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("run/disk/nbd.sock")).unwrap());
    let start = |device: &str| {
        let backend = std::sync::Arc::new(common::mem::Mem::new(MIB));
        mars_front::start(
            mars_front::FrontKind::NbdSocket,
            &env,
            &"disk".parse().unwrap(),
            device,
            backend,
        )
    };
    let front = start("vol").unwrap();
    let uri = format!(
        "nbd+unix:///disk?socket={}",
        dir.path().join("dev/vol").display()
    );
    run("nbdinfo", &["--size", &uri]);
    assert_eq!(
        start("vol").err().unwrap().kind(),
        std::io::ErrorKind::AddrInUse
    );
    run("nbdinfo", &["--size", &uri]);
    drop(front);
    assert!(!dir.path().join("dev/vol").is_symlink());
    std::fs::write(dir.path().join("dev/file"), b"mine").unwrap();
    assert_eq!(
        start("file").err().unwrap().kind(),
        std::io::ErrorKind::AlreadyExists
    );
    assert_eq!(
        start("../file").err().unwrap().kind(),
        std::io::ErrorKind::InvalidInput
    );
    assert!(
        !dir.path().join("run/disk/nbd.sock").exists(),
        "a failed start leaves nothing"
    );
}
