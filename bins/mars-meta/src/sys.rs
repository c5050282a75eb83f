//! Kernel interfaces that have no safe wrapper.
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Marks all descriptors above stderr as close-on-exec: locks that this process inherited must not live on in what it starts.
pub fn seal_descriptors() {
    // SAFETY: the call changes only descriptor flags of this process; no memory is passed.
    let r = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if r != 0 {
        tracing::debug!("close_range: {}", io::Error::last_os_error());
    }
}

/// A descriptor whose readability tokio reports. Must be called inside a runtime.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor until it is dropped, which happens only after `AsyncFd` has deregistered it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? })
}
