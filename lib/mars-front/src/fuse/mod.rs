//! Front end `fuse`: a FUSE file system with one file ([`fs`]), a loop device on it ([`loopdev`]), for all hosts with `/dev/fuse`.
//!
//! What keeps a dead daemon from leaving things behind: the mount is detached as soon as the file is open, so it is in nobody's mount
//! table; the file is held by the loop device only; the loop device is cleared by the kernel with its last opener, which is this process.
//! With the process `/dev/fuse` is closed, so that requests fail instead of waiting.

mod fs;
mod loopdev;

use crate::link::DeviceLink;
use crate::{Backend, Front};
use fs::{DeviceFs, Requests};
use inotify::{Inotify, WatchMask};
use loopdev::LoopDevice;
use mars_tree::{HostEnv, ResName};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

/// Threads of the session.
const THREADS: usize = 2;
/// `stop`: the kernel writes its cache back and lets go.
const LET_GO: Duration = Duration::from_secs(5);
/// `stop` by force: time for the users to let go by themselves.
const FORCE_AFTER: Duration = Duration::from_secs(10);
/// `stop` by force: the backend answers what is in flight.
const ANSWERS: Duration = Duration::from_secs(120);

/// Whether this host and this user can do it.
pub(crate) fn available() -> bool {
    let opens = |path: &str| OpenOptions::new().read(true).write(true).open(path).is_ok();
    nix::unistd::geteuid().is_root() && opens("/dev/fuse") && opens("/dev/loop-control")
}

fn context(what: &str) -> impl Fn(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("{what}: {e}"))
}

/// The mount point while it is needed. Taken away when dropped, with everything mounted there.
struct MountPoint(PathBuf);

impl MountPoint {
    fn new(path: PathBuf) -> io::Result<MountPoint> {
        let point = MountPoint(path);
        // A daemon that was killed while it started.
        point.detach();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&point.0)?;
        Ok(point)
    }
    fn detach(&self) {
        // Bounded: nobody stacks mounts here on purpose.
        for _ in 0..16 {
            if umount2(&self.0, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_err() {
                return;
            }
        }
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        self.detach();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Becomes readable when somebody opens or closes the device or mounts anything.
struct Watch {
    epoll: Epoll,
    inotify: Mutex<Inotify>,
    _mounts: File,
}

impl Watch {
    fn new(device: &Path) -> io::Result<Watch> {
        let inotify = Inotify::init()?;
        inotify
            .watches()
            .add(device, WatchMask::OPEN | WatchMask::CLOSE)?;
        let mounts = File::open("/proc/self/mountinfo")?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&inotify, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        epoll.add(
            &mounts,
            EpollEvent::new(EpollFlags::EPOLLPRI | EpollFlags::EPOLLERR, 1),
        )?;
        Ok(Watch {
            epoll,
            inotify: Mutex::new(inotify),
            _mounts: mounts,
        })
    }

    /// Forgets what has happened so far.
    fn clear(&self) {
        let _ = self
            .epoll
            .wait(&mut [EpollEvent::empty(); 2], EpollTimeout::ZERO);
        let mut inotify = self.inotify.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [0; 4096];
        while inotify
            .read_events(&mut buffer)
            .is_ok_and(|mut events| events.next().is_some())
        {}
    }
}

struct FuseFront {
    requests: Arc<Requests>,
    watch: Watch,
    /// Taken away by `stop`.
    device: Option<LoopDevice>,
    link: Option<DeviceLink>,
    /// To ask for the size of the file with, which makes the kernel look at it. Not the open file, which is the loop device's.
    file: Option<OwnedFd>,
    dev_dir: PathBuf,
    name: String,
    target: PathBuf,
}

fn io_flusher() {
    static ONCE: Once = Once::new();
    if let Err(e) = crate::sys::set_io_flusher() {
        ONCE.call_once(|| {
            tracing::warn!("PR_SET_IO_FLUSHER: {e}: under memory pressure the device may stall (needs CAP_SYS_RESOURCE)");
        });
    }
}

/// Mounts, and starts the threads that serve. Returns when the file system answers.
fn serve(point: &MountPoint, name: &str, fs: DeviceFs) -> io::Result<()> {
    let fuse = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(context("/dev/fuse"))?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        fuse.as_raw_fd()
    );
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    mount(
        Some(&*format!("mars:{name}")),
        &point.0,
        Some("fuse.mars"),
        flags,
        Some(&*data),
    )
    .map_err(|e| io::Error::other(format!("mounting FUSE at {}: {e}", point.0.display())))?;
    let mut config = fuser::Config::default();
    config.acl = fuser::SessionACL::RootAndOwner;
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    let session = fuser::Session::from_fd(fs, OwnedFd::from(fuse), config.acl, config)?;
    // They end when the kernel has given up the file system, that is when the loop device has closed the file.
    let run = move || {
        if let Err(e) = session.run() {
            tracing::error!("fuse: {e}");
        }
    };
    std::thread::Builder::new()
        .name("fuse-session".into())
        .stack_size(128 << 10)
        .spawn(run)?;
    Ok(())
}

pub(crate) fn start(
    env: &HostEnv,
    res: &ResName,
    device: &str,
    backend: Arc<dyn Backend>,
) -> io::Result<Box<dyn Front>> {
    io_flusher();
    let point = MountPoint::new(env.resource_run_dir(res).join("fuse"))?;
    let requests = Requests::new();
    let name = device.to_owned();
    let fs = DeviceFs {
        backend,
        name: name.clone(),
        requests: Arc::clone(&requests),
        pool: Arc::default(),
        waits: AtomicBool::new(false),
    };
    serve(&point, device, fs)?;
    let path = point.0.join(device);
    let open = |flags| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(&path)
    };
    let backing = open(libc::O_DIRECT).map_err(context("opening the FUSE file"))?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(&path)?;
    drop(point);
    let device = LoopDevice::attach(&backing, &name)?;
    drop(backing);
    let target = device.path.clone();
    let watch = Watch::new(&target)?;
    let link = DeviceLink::publish(&env.dev_dir, &name, &target)?;
    Ok(Box::new(FuseFront {
        requests,
        watch,
        device: Some(device),
        link: Some(link),
        file: Some(OwnedFd::from(file)),
        dev_dir: env.dev_dir.clone(),
        name,
        target,
    }))
}

fn busy() -> io::Error {
    io::Error::from_raw_os_error(libc::EBUSY)
}

impl FuseFront {
    /// Without force: only when nobody uses it. What cannot be seen (an opener in another process name space) shows itself by the
    /// device not going away; then it stays.
    fn stop_idle(&mut self, device: LoopDevice) -> io::Result<()> {
        if device.openers() > 0 {
            self.device = Some(device);
            return Err(busy());
        }
        let claim = match device.claim() {
            Ok(claim) => claim,
            Err(e) => {
                self.device = Some(device);
                return Err(e);
            }
        };
        self.link = None;
        let closed = device.close();
        drop(claim);
        if self.requests.wait_released(LET_GO) {
            return Ok(());
        }
        match LoopDevice::reopen(closed)? {
            Some(device) => {
                self.link = Some(DeviceLink::publish(
                    &self.dev_dir,
                    &self.name,
                    &device.path,
                )?);
                self.device = Some(device);
                Err(busy())
            }
            None => Ok(()),
        }
    }

    /// By force: no new name, time to let go, then every further request fails.
    fn stop_forced(&mut self, device: LoopDevice) -> io::Result<()> {
        self.link = None;
        let path = device.close().path;
        if self.requests.wait_released(FORCE_AFTER) {
            return Ok(());
        }
        tracing::warn!(
            "{} is still in use: its users get I/O errors from now on",
            path.display()
        );
        self.requests.cut();
        if self.requests.wait_answered(ANSWERS) {
            Ok(())
        } else {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "requests in flight are not answered",
            ))
        }
    }
}

impl Front for FuseFront {
    fn stop(&mut self, force: bool) -> io::Result<()> {
        let Some(device) = self.device.take() else {
            return Ok(());
        };
        if force {
            self.stop_forced(device)?
        } else {
            self.stop_idle(device)?
        }
        self.file = None;
        Ok(())
    }

    fn resized(&mut self) -> io::Result<()> {
        let (Some(device), Some(file)) = (&self.device, &self.file) else {
            return Ok(());
        };
        // Attributes are not cached, so this makes the kernel ask for the size.
        File::from(file.try_clone()?).metadata()?.size();
        device.grow()
    }

    fn target(&self) -> &Path {
        &self.target
    }

    fn openers(&self) -> u64 {
        self.watch.clear();
        self.device.as_ref().map_or(0, LoopDevice::openers)
    }

    fn changes(&self) -> Option<BorrowedFd<'_>> {
        Some(self.watch.epoll.0.as_fd())
    }
}

impl Drop for FuseFront {
    fn drop(&mut self) {
        if let Err(e) = self.stop(true) {
            tracing::warn!("fuse: {e}");
        }
    }
}
