//! What keeps a daemon on the write path alive when memory is short: pages that stay in memory, allocations that do not wait for write-back.
use nix::errno::Errno;

/// For daemons that the kernel waits for when it writes memory back. To be called before any thread exists that does such work. What is not permitted is
/// told, and is no failure.
pub fn write_path() {
    if let Err(e) = sys::io_flusher() {
        tracing::warn!(
            "PR_SET_IO_FLUSHER: {e}: under memory pressure the device may stall (needs CAP_SYS_RESOURCE)"
        );
    }
    match sys::lock_memory() {
        Ok(true) => tracing::debug!("memory is locked"),
        // Not started by the unit: an ordinary limit would make later allocations fail.
        Ok(false) => tracing::debug!("memory is not locked: RLIMIT_MEMLOCK is limited"),
        Err(e) => tracing::warn!("mlockall: {e}: under memory pressure the device may stall"),
    }
}

#[allow(unsafe_code)]
mod sys {
    use super::Errno;

    /// `linux/prctl.h`; libc does not have it.
    const PR_SET_IO_FLUSHER: libc::c_int = 57;

    /// From this size on the allocator asks the kernel for each block.
    const LARGE: libc::c_int = 128 << 10;

    /// This thread, and those that it makes from now on.
    pub(super) fn io_flusher() -> nix::Result<()> {
        // SAFETY: prctl with plain numbers touches no memory of ours.
        let r = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
        Errno::result(r).map(drop)
    }

    /// Locks every page from its first use on: buffers that are reserved and not used cost nothing. False when there is a limit.
    pub(super) fn lock_memory() -> nix::Result<bool> {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the structure lives during the call.
        Errno::result(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) })?;
        if limit.rlim_cur != libc::RLIM_INFINITY {
            return Ok(false);
        }
        let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
        // SAFETY: plain numbers; no memory changes its content.
        Errno::result(unsafe { libc::mlockall(flags) })?;
        // Locked pages inside the heap cannot be given back, mappings can: large blocks stay mappings, whatever was freed before.
        // SAFETY: plain numbers.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
        Ok(true)
    }
}
