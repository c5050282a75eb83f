//! Exclusive use, and I/O at the edges.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use mars_tree::UnitManager;

fn setup() -> (tempfile::TempDir, HostEnv, ResName, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let p = |n: &str| dir.path().join(n);
    let env = HostEnv {
        root: p("root"),
        dev_dir: p("dev"),
        run_dir: p("run"),
        etc_dir: p("etc"),
        host: "alpha".parse().unwrap(),
        unit_manager: UnitManager::Direct,
        port: 7777,
    };
    let path = p("disk");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    (dir, env, "r".parse().unwrap(), path)
}

#[test]
fn exclusive_is_shared_within_the_resource_only() {
    let (_dir, env, res, path) = setup();
    let other: ResName = "s".parse().unwrap();
    let open = |res: &ResName| Disk::open(&path, DiskMode::Exclusive, &env, res);
    let first = open(&res).unwrap();
    let second = open(&res).unwrap();
    assert!(matches!(open(&other), Err(DiskError::InUse(_))));
    assert!(matches!(Disk::probe(&path), Err(DiskError::InUse(_))));
    // The one that holds the disk goes; who comes next takes it over.
    drop(first);
    let third = open(&res).unwrap();
    assert!(matches!(open(&other), Err(DiskError::InUse(_))));
    drop((second, third));
    assert_eq!(Disk::probe(&path).unwrap(), 1 << 20);
    open(&other).unwrap();
}

#[test]
fn foreign_user_keeps_us_out_but_not_readers() {
    let (_dir, env, res, path) = setup();
    let foreign = File::open(&path).unwrap();
    foreign.try_lock().unwrap();
    let e = Disk::open(&path, DiskMode::Exclusive, &env, &res).unwrap_err();
    assert!(matches!(e, DiskError::InUse(_)), "{e}");
    assert_eq!(e.errno(), libc::EBUSY);
    Disk::open(&path, DiskMode::ReadOnly, &env, &res).unwrap();
    drop(foreign);
    Disk::open(&path, DiskMode::Exclusive, &env, &res).unwrap();
}

#[test]
fn wrong_kinds_are_named() {
    let (dir, env, res, _) = setup();
    let open = |p: &Path| Disk::open(p, DiskMode::Exclusive, &env, &res).unwrap_err();
    assert!(matches!(
        open(&dir.path().join("nothing")),
        DiskError::Missing(_)
    ));
    assert!(matches!(
        open(&dir.path().join("disk/below")),
        DiskError::Missing(_)
    ));
    assert!(matches!(open(dir.path()), DiskError::Kind(_)));
    assert!(matches!(open(Path::new("/dev/null")), DiskError::Kind(_)));
}

#[test]
fn io_at_the_edges() {
    let (_dir, env, res, path) = setup();
    let disk = Disk::open(&path, DiskMode::Exclusive, &env, &res).unwrap();
    let pieces: Vec<Vec<u8>> = (0..2500u32)
        .map(|i| vec![i as u8; 1 + i as usize % 7])
        .collect();
    let refs: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    disk.write_vectored_at(&refs, 12345).unwrap();
    let all = pieces.concat();
    let mut buf = vec![0; all.len()];
    disk.read_at(&mut buf, 12345).unwrap();
    assert_eq!(buf, all);
    disk.flush().unwrap();
    // Behind the end: zeros.
    let mut tail = vec![7; 8192];
    disk.write_at(&[9; 4096], (1 << 20) - 4096).unwrap();
    disk.read_at(&mut tail, (1 << 20) - 4096).unwrap();
    assert_eq!(tail, [[9; 4096], [0; 4096]].concat());
    let mut cached = vec![7; 8192];
    if disk.try_read_at(&mut cached, (1 << 20) - 4096).unwrap() {
        assert_eq!(cached, tail);
    }
    for (pos, len) in [(0u64, 1u64 << 20), (512, 100), (0, 512)] {
        disk.write_at(&[1; 1 << 14], pos).unwrap();
        disk.zero_at(pos, len).unwrap();
        let mut z = vec![1; len.min(1 << 14) as usize];
        disk.read_at(&mut z, pos).unwrap();
        assert!(z.iter().all(|b| *b == 0));
    }
    assert_eq!(disk.size().unwrap(), 1 << 20, "zeroing keeps the size");
}
