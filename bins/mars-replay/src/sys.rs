//! The one call that nobody wraps.
#![allow(unsafe_code)]

/// Gives the freed memory of large windows back to the kernel: glibc keeps it for later, and later may be hours away.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no memory is passed; malloc_trim only touches what the allocator knows to be free, under its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
