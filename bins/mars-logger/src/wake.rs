//! An event descriptor to wake the control loop, and the allocator's trim call.
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Wakes a `poll`.
#[derive(Debug)]
pub struct Waker(EventFd);

impl Waker {
    /// Makes one.
    pub fn new() -> io::Result<Waker> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Waker(EventFd::from_value_and_flags(0, flags)?))
    }
    /// Wakes. Fails only when the counter is full, and then it is awake anyway.
    pub fn wake(&self) {
        let _ = self.0.write(1);
    }
    /// Forgets that it was woken.
    pub fn drain(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives freed memory back to the kernel: a logger that was busy and is idle now shall be small again.
#[allow(unsafe_code)]
pub fn trim_memory() {
    // SAFETY: no arguments that point anywhere; the call is thread-safe.
    unsafe {
        libc::malloc_trim(0);
    }
}
