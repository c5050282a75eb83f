//! Kernel interfaces that need `unsafe`: page-backed buffers, loop ioctls, waking a thread. The only unsafe code of this crate.

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// Anonymous pages, zero at first. Pages cost memory only once they are touched, and [`Pages::release`] or dropping
/// gives them back to the system at once (an allocator would keep them).
pub(crate) struct Pages {
    addr: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping is owned by this value alone and is plain memory.
unsafe impl Send for Pages {}
// SAFETY: shared access only reads.
unsafe impl Sync for Pages {}

impl Pages {
    pub(crate) fn new(len: usize) -> io::Result<Pages> {
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let addr = unsafe { mmap_anonymous(None, size, prot, flags) }?;
        Ok(Pages { addr, len })
    }

    /// Gives the memory back; the content is zero afterwards, or as before when that is not possible.
    pub(crate) fn release(&mut self) {
        /// `linux/mman.h` (5.18): also pages that are locked into memory.
        const MADV_DONTNEED_LOCKED: libc::c_int = 24;
        // SAFETY: the range is exactly this mapping, `&mut self` excludes references into it; private anonymous pages
        // read as zeros afterwards. A failure leaves the pages as they are.
        let done = unsafe { libc::madvise(self.addr.as_ptr(), self.len, MADV_DONTNEED_LOCKED) };
        if done != 0 {
            // SAFETY: as above.
            let _ = unsafe { madvise(self.addr, self.len, MmapAdvise::MADV_DONTNEED) };
        }
    }
}

impl std::ops::Deref for Pages {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `len` readable, initialised (zero) bytes and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.addr.as_ptr().cast(), self.len) }
    }
}

impl std::ops::DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.addr.as_ptr().cast(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; no reference outlives `self`.
        let _ = unsafe { munmap(self.addr, self.len) };
    }
}

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// The loop device goes away with its last opener.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

mod ioctl {
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4c0a, super::LoopConfig);
    nix::ioctl_none_bad!(loop_set_capacity, 0x4c07);
    nix::ioctl_none_bad!(loop_clr_fd, 0x4c01);
    nix::ioctl_write_ptr_bad!(loop_set_status64, 0x4c04, super::LoopInfo64);
    nix::ioctl_read_bad!(loop_get_status64, 0x4c05, super::LoopInfo64);
    nix::ioctl_none_bad!(loop_ctl_get_free, 0x4c82);
}

const EMPTY_INFO: LoopInfo64 = LoopInfo64 {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// Number of a loop device that is free now (another process may be faster).
pub(crate) fn loop_get_free(control: BorrowedFd<'_>) -> nix::Result<u32> {
    // SAFETY: the request takes no argument; on a wrong descriptor it fails.
    let n = unsafe { ioctl::loop_ctl_get_free(control.as_raw_fd()) }?;
    u32::try_from(n).map_err(|_| nix::errno::Errno::ENODEV)
}

/// Binds `backing` to the loop device: direct I/O, 512 byte blocks, cleared with its last opener. EBUSY when it is bound already.
pub(crate) fn loop_configure(
    device: BorrowedFd<'_>,
    backing: BorrowedFd<'_>,
    name: &[u8],
) -> nix::Result<()> {
    let mut info = LoopInfo64 {
        flags: LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
        ..EMPTY_INFO
    };
    // The last byte stays 0.
    for (to, from) in info.file_name[..63].iter_mut().zip(name) {
        *to = *from;
    }
    let fd = u32::try_from(backing.as_raw_fd()).map_err(|_| nix::errno::Errno::EBADF)?;
    let config = LoopConfig {
        fd,
        block_size: 512,
        info,
        reserved: [0; 8],
    };
    // SAFETY: `config` has the layout that the kernel reads and lives during the call.
    unsafe { ioctl::loop_configure(device.as_raw_fd(), &raw const config) }.map(|_| ())
}

/// Takes over the size of the backing file.
pub(crate) fn loop_set_capacity(device: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { ioctl::loop_set_capacity(device.as_raw_fd()) }.map(|_| ())
}

/// Inode of the backing file, with its device number; fails with ENXIO when the loop device is free.
pub(crate) fn loop_backing(device: BorrowedFd<'_>) -> nix::Result<(u64, u64)> {
    let mut info = EMPTY_INFO;
    // SAFETY: `info` has the layout that the kernel fills and lives during the call.
    unsafe { ioctl::loop_get_status64(device.as_raw_fd(), &raw mut info) }?;
    Ok((info.device, info.inode))
}

/// Whether the device goes away with its last opener.
pub(crate) fn loop_set_autoclear(device: BorrowedFd<'_>, on: bool) -> nix::Result<()> {
    let mut info = EMPTY_INFO;
    // SAFETY: `info` has the layout that the kernel fills and lives during the call.
    unsafe { ioctl::loop_get_status64(device.as_raw_fd(), &raw mut info) }?;
    info.flags = match on {
        true => info.flags | LO_FLAGS_AUTOCLEAR,
        false => info.flags & !LO_FLAGS_AUTOCLEAR,
    };
    // SAFETY: `info` has the layout that the kernel reads and lives during the call.
    unsafe { ioctl::loop_set_status64(device.as_raw_fd(), &raw const info) }.map(|_| ())
}

/// Frees the device as soon as nobody has it open.
pub(crate) fn loop_clear(device: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { ioctl::loop_clr_fd(device.as_raw_fd()) }.map(|_| ())
}

/// A thread of this process that can be woken from a system call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thread(libc::pthread_t);

// SAFETY: on this system an identifier is a number that means the same in all threads.
unsafe impl Send for Thread {}

impl Thread {
    /// The calling thread.
    pub(crate) fn this() -> Thread {
        // SAFETY: no arguments.
        Thread(unsafe { libc::pthread_self() })
    }

    /// Makes a blocking system call of the thread fail with EINTR. The thread must not have ended.
    pub(crate) fn interrupt(&self) {
        // SAFETY: the caller knows that the thread lives; `interruptible` has set a handler that does nothing.
        unsafe { libc::pthread_kill(self.0, WAKE) };
    }
}

/// Ignored by default, so that it does no harm to anybody who gets it by mistake.
const WAKE: libc::c_int = libc::SIGURG;

extern "C" fn nothing(_: libc::c_int) {}

/// To be called before [`Thread::interrupt`]: a handler that does nothing, without restarting the system call.
pub(crate) fn interruptible() -> nix::Result<()> {
    // SAFETY: all fields of `sigaction` may be zero; the handler touches nothing.
    let r = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(WAKE, &raw const action, std::ptr::null_mut())
    };
    nix::errno::Errno::result(r).map(|_| ())
}
