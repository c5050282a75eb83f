//! Shared words: a mapped file of the run directory, or private memory. The only `unsafe` code of this crate.
//!
//! Every access is atomic, so neither another process nor a torn file can cause undefined behaviour; the worst that a
//! foreign writer can do is store wrong numbers. Nobody shortens these files (they live in a private directory).
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

/// An array of 64-bit words that is shared between processes (or private), zeroed when new, page aligned when mapped.
/// The first two words hold magic and length.
pub(crate) enum Words {
    Mapped { base: NonNull<c_void>, words: usize },
    Private(Box<[AtomicU64]>),
}

// SAFETY: the memory is only accessed through atomics and stays mapped until the value is dropped.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Private memory of `words` words.
    pub(crate) fn private(words: usize) -> Words {
        Words::Private((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    /// Maps `dir/name`. File and directory (mode 0700) are created when absent; a file with another magic or another
    /// size is replaced by a new one (processes that still map the old file keep it: they run another version).
    pub(crate) fn open(dir: &Path, name: &str, magic: u64, words: usize) -> io::Result<Words> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // Only one process at a time may judge and replace; the lock is on the directory, so it needs no file of its own.
        let lock = lock_dir(dir)?;
        let path = dir.join(name);
        let file = match open_valid(&path, magic, words)? {
            Some(f) => f,
            None => create(dir, name, magic, words)?,
        };
        drop(lock);
        Words::map(&file, words)
    }

    fn map(file: &File, words: usize) -> io::Result<Words> {
        let len = NonZeroUsize::new(words * 8)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: a fresh shared mapping at an address chosen by the kernel; the file has at least `len` bytes.
        let base = unsafe {
            mmap(
                None,
                len,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                file,
                0,
            )
        }?;
        Ok(Words::Mapped { base, words })
    }

    /// The words.
    pub(crate) fn get(&self) -> &[AtomicU64] {
        match self {
            // SAFETY: `base` is page aligned and valid for `words` words as long as `self` lives; AtomicU64 has the
            // layout of u64 and any bit pattern is valid.
            Words::Mapped { base, words } => unsafe {
                std::slice::from_raw_parts(base.as_ptr().cast::<AtomicU64>(), *words)
            },
            Words::Private(b) => b,
        }
    }

    /// The 32-bit cell in the first half of word `index` (a futex has 32 bits). A word that is used through this is never
    /// used as a 64-bit word.
    pub(crate) fn cell32(&self, index: usize) -> &AtomicU32 {
        let word: *const AtomicU64 = &self.get()[index];
        // SAFETY: alignment and size of an AtomicU64 suffice for an AtomicU32, the lifetime is that of `self`, and the
        // same memory is never accessed with the other size (callers keep the cells apart).
        unsafe { &*word.cast::<AtomicU32>() }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        if let Words::Mapped { base, words } = self {
            // SAFETY: exactly the mapping made in `map`; no reference outlives `self`.
            let _ = unsafe { munmap(*base, *words * 8) };
        }
    }
}

fn lock_dir(dir: &Path) -> io::Result<Flock<File>> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(dir)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(l) => return Ok(l),
            Err((f, Errno::EINTR)) => file = f,
            Err((_, e)) => return Err(e.into()),
        }
    }
}

fn open_valid(path: &Path, magic: u64, words: usize) -> io::Result<Option<File>> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = match opened {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        // A symlink: not ours, to be replaced.
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
        Err(e) => return Err(e),
    };
    let meta = file.metadata()?;
    let mut head = [0u8; 16];
    let len = words as u64 * 8;
    if !meta.is_file() || meta.len() != len || file.read_exact_at(&mut head, 0).is_err() {
        return Ok(None);
    }
    let mut want = [0u8; 16];
    want[..8].copy_from_slice(&magic.to_ne_bytes());
    want[8..].copy_from_slice(&len.to_ne_bytes());
    Ok((head == want).then_some(file))
}

fn create(dir: &Path, name: &str, magic: u64, words: usize) -> io::Result<File> {
    let tmp = dir.join(format!(".tmp.{}.{name}", std::process::id()));
    match std::fs::remove_file(&tmp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&tmp)?;
    let len = words as u64 * 8;
    file.set_len(len)?;
    // Allocated, not sparse: a full file system must be an error here, not a SIGBUS at the first store.
    file.write_all_at(&vec![0u8; words * 8], 0)?;
    file.write_all_at(&magic.to_ne_bytes(), 0)?;
    file.write_all_at(&len.to_ne_bytes(), 8)?;
    std::fs::rename(&tmp, dir.join(name))?;
    Ok(file)
}

/// Sleeps while `cell` holds `expected`, until woken or the deadline is over. May return early.
pub(crate) fn futex_wait(cell: &AtomicU32, expected: u32, deadline: Option<Instant>) {
    let timeout = deadline.map(|d| {
        let rest = d.saturating_duration_since(Instant::now());
        let rest = rest.min(Duration::from_secs(1 << 30));
        libc::timespec {
            tv_sec: rest.as_secs() as libc::time_t,
            tv_nsec: rest.subsec_nanos() as _,
        }
    });
    let ts = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // Not PRIVATE: waiters and wakers are different processes.
    // SAFETY: `cell` is a valid aligned 32-bit word and `ts` is null or points to a timespec for the whole call.
    let _ = unsafe { libc::syscall(libc::SYS_futex, cell, libc::FUTEX_WAIT, expected, ts) };
}

/// As the kernel wants it.
#[repr(C)]
struct FutexWaitv {
    val: u64,
    uaddr: u64,
    flags: u32,
    reserved: u32,
}
/// FUTEX2_SIZE_U32, not private.
const SIZE_U32: u32 = 2;

/// Sleeps while every cell holds its value. May return early. Fails with ENOSYS on kernels before 5.16, EINVAL for more than 128 cells.
pub(crate) fn futex_wait_any(cells: &[(&AtomicU32, u32)]) -> io::Result<()> {
    let waiters: Vec<FutexWaitv> = cells
        .iter()
        .map(|(cell, val)| FutexWaitv {
            val: u64::from(*val),
            uaddr: std::ptr::from_ref(*cell) as u64,
            flags: SIZE_U32,
            reserved: 0,
        })
        .collect();
    // SAFETY: `waiters` is an array of `len` elements laid out as the kernel expects; every `uaddr` points to an aligned 32-bit word that
    // outlives the call; without a timeout the clock is not looked at.
    let r = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            waiters.as_ptr(),
            waiters.len() as libc::c_uint,
            0 as libc::c_uint,
            std::ptr::null::<libc::timespec>(),
            libc::CLOCK_MONOTONIC,
        )
    };
    if r >= 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        e if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(()),
        e => Err(e),
    }
}

/// Wakes everybody who sleeps on `cell`.
pub(crate) fn futex_wake_all(cell: &AtomicU32) {
    // SAFETY: `cell` is a valid aligned 32-bit word; FUTEX_WAKE does not access memory of this process otherwise.
    let _ = unsafe { libc::syscall(libc::SYS_futex, cell, libc::FUTEX_WAKE, i32::MAX) };
}
