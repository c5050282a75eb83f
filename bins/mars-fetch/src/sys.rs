//! The one call that nobody wraps.
#![allow(unsafe_code)]
use std::fs::File;
use std::os::fd::AsRawFd;

/// Starts write-out of dirty pages without waiting; a hint, errors show up at the next sync.
pub fn start_writeout(file: &File, from: u64, to: u64) {
    let (Ok(pos), Ok(len)) = (i64::try_from(from), i64::try_from(to.saturating_sub(from))) else {
        return;
    };
    // SAFETY: no memory is passed.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), pos, len, libc::SYNC_FILE_RANGE_WRITE);
    }
}
