//! The system calls that neither the standard library nor `nix` wraps.
#![allow(unsafe_code)]
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Size of a block device in bytes (`BLKGETSIZE64`).
pub(crate) fn block_device_size(file: &File) -> io::Result<u64> {
    nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);
    let mut bytes: u64 = 0;
    // SAFETY: the kernel stores one u64 at the address, which points to a live u64; the declared `usize` only enters the request number.
    unsafe { blkgetsize64(file.as_raw_fd(), std::ptr::from_mut(&mut bytes).cast()) }?;
    Ok(bytes)
}

/// Reads what is in the page cache: `Ok(None)` when the call would have to wait, else the number of bytes (0 = end).
pub(crate) fn read_cached(file: &File, buf: &mut [u8], pos: u64) -> io::Result<Option<usize>> {
    let Ok(offset) = libc::off_t::try_from(pos) else {
        return Ok(Some(0));
    };
    let iov = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    // SAFETY: one iovec that describes a live, exclusively borrowed buffer.
    let n = unsafe { libc::preadv2(file.as_raw_fd(), &iov, 1, offset, libc::RWF_NOWAIT) };
    if let Ok(n) = usize::try_from(n) {
        return Ok(Some(n));
    }
    let e = io::Error::last_os_error();
    match e.raw_os_error() {
        Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::EINTR | libc::ENOSYS) => Ok(None),
        _ => Err(e),
    }
}

/// Starts write-out of dirty pages without waiting; a hint, errors show up at the next flush.
pub(crate) fn start_writeout(file: &File, pos: u64, len: u64) {
    let (Ok(pos), Ok(len)) = (i64::try_from(pos), i64::try_from(len)) else {
        return;
    };
    // SAFETY: no memory is passed.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), pos, len, libc::SYNC_FILE_RANGE_WRITE);
    }
}
