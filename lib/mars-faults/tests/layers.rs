//! The layers do what their rules say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mars_disk::{DataDisk, Disk};
use mars_faults::{Faults, switch};
use mars_logger::io::LogDir;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn disk(dir: &Path) -> Arc<dyn DataDisk> {
    let path = dir.join("disk");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    file.set_len(1 << 20).unwrap();
    Arc::new(Disk::from_file(file, &path).unwrap())
}

fn read(disk: &dyn DataDisk, pos: u64) -> u8 {
    let mut b = [0];
    disk.read_at(&mut b, pos).unwrap();
    b[0]
}

fn errno<T: std::fmt::Debug>(r: std::io::Result<T>) -> i32 {
    r.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn only_the_range_fails_and_only_so_often() {
    let dir = tempfile::tempdir().unwrap();
    let f = Faults::fixed("disk.write EIO pos=4096-8192 times=1").unwrap();
    let d = f.disk(disk(dir.path()));
    d.write_vectored_at(&[&[1; 4096]], 0).unwrap();
    assert_eq!(
        errno(d.write_vectored_at(&[&[2; 512]], 7680)),
        nix::libc::EIO
    );
    assert_eq!((read(&*d, 0), read(&*d, 7680)), (1, 0));
    d.write_vectored_at(&[&[2; 512]], 7680).unwrap();
    assert_eq!((read(&*d, 7680), f.hits()), (2, 1));
}

#[test]
fn short_write_leaves_its_half() {
    let dir = tempfile::tempdir().unwrap();
    let f = Faults::fixed("disk.write EIO short").unwrap();
    let d = f.disk(disk(dir.path()));
    assert!(d.write_vectored_at(&[&[3; 1024], &[4; 1024]], 512).is_err());
    assert_eq!((read(&*d, 1535), read(&*d, 1536)), (3, 0));
}

#[test]
fn failing_flush_loses_what_was_not_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let f = Faults::fixed("disk.flush EIO lose skip=1 times=1").unwrap();
    let d = f.disk(disk(dir.path()));
    d.write_vectored_at(&[&[1; 512]], 0).unwrap();
    d.flush().unwrap();
    d.write_vectored_at(&[&[2; 512]], 0).unwrap();
    d.zero_at(0, 256).unwrap();
    assert_eq!(errno(d.flush()), nix::libc::EIO);
    assert_eq!(read(&*d, 0), 1);
    d.flush().unwrap();
}

#[test]
fn full_log_takes_what_fits() {
    let dir = tempfile::tempdir().unwrap();
    let f = Faults::fixed("log.append ENOSPC after=1000\nlog.space ENOSPC").unwrap();
    let store = f.store(Box::new(LogDir(dir.path().to_path_buf())));
    let name = "log-000000001-a".parse().unwrap();
    let mut log = store.create(&name).unwrap();
    log.append(&[1; 600]).unwrap();
    assert_eq!(errno(log.append(&[2; 600])), nix::libc::ENOSPC);
    assert!(!store.has_space());
    let file = std::fs::read(dir.path().join(name.to_string())).unwrap();
    assert!(file.starts_with(&[[1; 600].as_slice(), &[2; 400]].concat()));
    assert!(file.iter().skip(1000).all(|b| *b == 0));
}

#[test]
fn trigger_file_switches_a_running_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("faults");
    let f = Faults::watching(&file);
    let d = f.disk(disk(dir.path()));
    d.flush().unwrap();
    switch(&file, "disk.flush EIO").unwrap();
    assert!(d.flush().is_err());
    switch(&file, "disk.flush hang").unwrap();
    let back = Arc::new(AtomicBool::new(false));
    let (d2, back2) = (Arc::clone(&d), Arc::clone(&back));
    let hanging = std::thread::spawn(move || {
        d2.flush().unwrap();
        back2.store(true, Ordering::SeqCst);
    });
    while !dir.path().join("faults.hits").exists() {
        std::thread::yield_now();
    }
    assert!(!back.load(Ordering::SeqCst));
    switch(&file, "").unwrap();
    hanging.join().unwrap();
    assert!(switch(&file, "disk.flush EWHAT").is_err());
}
