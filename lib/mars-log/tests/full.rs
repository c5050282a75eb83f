//! A write that fails in the middle. In a process of its own, because the limit that makes it fail is per process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mars_log::LogFile;

fn limit_files(bytes: libc::rlim_t) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the pointer is valid for the call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) };
    assert_eq!(result, 0);
}

#[test]
fn no_data_after_a_failed_append() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogFile::create(dir.path(), &"log-000000001-alpha".parse().unwrap()).unwrap();
    // SAFETY: a plain call; ignoring SIGXFSZ turns the signal into EFBIG.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    // No space to prepare: no trouble for the log, and nothing of it is left.
    let path = dir.path().join("log-000000001-alpha");
    limit_files(1000);
    log.append(&[1; 300]).unwrap();
    let e = log.tail().prepare(1 << 20).unwrap_err();
    assert_eq!(e.raw_os_error(), Some(libc::EFBIG));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 300);
    log.tail().prepare(1 << 20).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 300, "given up");
    log.append(&[1; 300]).unwrap();
    log.sync().unwrap();
    // 400 bytes of this one fit.
    let e = log.append(&[2; 600]).unwrap_err();
    // The limit counts for the standard output too, which may be a file.
    limit_files(libc::RLIM_INFINITY);
    assert_eq!(e.raw_os_error(), Some(libc::EFBIG));
    assert!(log.is_failed());
    assert!(
        log.append(&[3; 10]).is_err(),
        "there is room, but order would be lost"
    );
    assert!(log.sync().is_err());
    assert_eq!((log.len(), log.durable_len()), (600, 600));
    let on_disk = std::fs::read(path).unwrap();
    assert!(on_disk == [1; 600], "ends at the last whole append");
}
