//! Front end `fuse`: a FUSE file system with one file ([`fs`]), a loop device on it ([`loopdev`]), for all hosts with `/dev/fuse`.
//!
//! What keeps a dead daemon from leaving things behind: the mount is detached as soon as the file is open, so it is in nobody's mount
//! table; the file is held by the loop device only; the loop device is cleared by the kernel with its last opener, which is this process.
//! With the process `/dev/fuse` is closed, so that requests fail instead of waiting.
//!
//! # Restart without an I/O error
//!
//! With a [`Keeper`] the descriptor of `/dev/fuse` also lives there, the loop device stays without being held, and the next process goes on with both
//! ([`go_on`]). The users see requests that take longer. The loop device is not kept by a descriptor: its last close waits for write-back, that is for
//! a process that serves, and neither the service manager nor a dying process may wait for that.
//!
//! - *Restart*: [`Front::hand_over`] stops reading, waits until everything that was read is answered, and ends. What comes meanwhile waits in the kernel.
//! - *Crash*: what the dead process had read and not answered is sent again by the kernel (FUSE_NOTIFY_RESEND, Linux 6.9). On older kernels such
//!   requests would wait for ever, so there the device is kept only from `hand_over` to the next start: a crash costs I/O errors.
//!
//! A request may so be carried out twice, when the crash came between carrying out and answering. That is harmless: a read changes nothing, and
//! for a write or write-zeroes
//! - I1 speaks of acknowledged writes. It was not acknowledged; what was acknowledged before the crash is in the log that recovery has read.
//! - I2: it was in flight all the time from its first record to the answer after its second one. A write in flight may take effect at any moment of it,
//!   relative to other writes in flight, and the order of these is free. So the log with both records is one that a slow device could have
//!   written: the second record is behind all that was acknowledged before, and before its own acknowledgement. Who needs an order between two writes
//!   of the same sectors waits for the first, as on every disk; the block layer itself sends requests again in the same way (path failover).
//! - Only an unchanged request comes again: the kernel keeps it, with the pages of the one who waits.
//!
//! A flush is carried out again by the new process: what the old one accepted it finds in the log, and recovery makes it durable before the device answers.

mod fs;
mod loopdev;
mod proto;
mod session;

pub(crate) use loopdev::mount_points;

use crate::link::DeviceLink;
use crate::{Backend, Front, Keeper};
use fs::{DeviceFs, Requests};
use inotify::{Inotify, WatchMask};
use loopdev::LoopDevice;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use session::{Channel, Readers};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Under this name and the identity of the loop device the connection is kept. The number is that of what the processes agree on: the INIT answer and
/// the inodes.
const NAME: &str = "mars-fuse-1";
/// In the private directory of the resource: the loop device that was let stay, for the case that nobody goes on with it.
const STAYS: &str = "loop";
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

/// A connection in the care of somebody else.
struct Kept {
    keeper: Arc<dyn Keeper>,
    /// The name under which it is there now.
    name: Option<String>,
    /// The kernel can send requests again, so that it is kept all the time.
    always: bool,
}

fn kept_name((number, backing): (u32, u64)) -> String {
    format!("{NAME}-{number}-{backing}")
}

/// Number and backing device of the loop device.
fn parse_kept_name(name: &str) -> Option<(u32, u64)> {
    let (number, backing) = name
        .strip_prefix(NAME)?
        .strip_prefix('-')?
        .split_once('-')?;
    Some((number.parse().ok()?, backing.parse().ok()?))
}

/// Frees the loop device that a process has let stay and nobody goes on with. Not while its connection is kept anywhere.
pub(crate) fn sweep(run_dir: &Path) {
    let note = run_dir.join(STAYS);
    let Ok(name) = std::fs::read_to_string(&note) else {
        return;
    };
    if let Some((number, _)) = parse_kept_name(name.trim_end()) {
        loopdev::clear_dead(number);
    }
    let _ = std::fs::remove_file(&note);
}

/// Where a device is offered.
pub(crate) struct Place {
    pub(crate) dev_dir: PathBuf,
    /// Private directory of the resource.
    pub(crate) run_dir: PathBuf,
    /// Name of the device.
    pub(crate) device: String,
}

struct FuseFront {
    channel: Arc<Channel>,
    readers: Arc<Readers>,
    requests: Arc<Requests>,
    watch: Watch,
    /// Taken away by `stop`.
    device: Option<LoopDevice>,
    link: Option<DeviceLink>,
    kept: Option<Kept>,
    place: Place,
    target: PathBuf,
}

/// Mounts. The descriptor is one end of the connection.
fn mount_at(point: &MountPoint, name: &str) -> io::Result<OwnedFd> {
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
    Ok(OwnedFd::from(fuse))
}

/// Starts the threads that serve.
fn serve(
    channel: &Arc<Channel>,
    name: &str,
    backend: Arc<dyn Backend>,
) -> io::Result<(Arc<Readers>, Arc<Requests>)> {
    let requests = Requests::new(channel);
    let fs = DeviceFs {
        backend,
        name: name.to_owned(),
        requests: Arc::clone(&requests),
        pool: Arc::default(),
        waits: AtomicBool::new(false),
    };
    let released = Arc::clone(&requests);
    let readers = Readers::start(
        channel,
        move |channel, r| fs.serve(channel, r),
        move || released.set_released(),
    )?;
    Ok((readers, requests))
}

/// A new device.
pub(crate) fn start(
    place: Place,
    backend: Arc<dyn Backend>,
    keeper: Option<Arc<dyn Keeper>>,
) -> io::Result<Box<dyn Front>> {
    let point = MountPoint::new(place.run_dir.join("fuse"))?;
    sweep(&place.run_dir);
    let channel = Channel::new(mount_at(&point, &place.device)?);
    let can_resend = channel.handshake()?;
    let (readers, requests) = serve(&channel, &place.device, backend)?;
    let backing = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(point.0.join(fs::file_path(&place.device)))
        .map_err(context("opening the FUSE file"))?;
    drop(point);
    let device = LoopDevice::attach(&backing, &place.device)?;
    drop(backing);
    let kept = keeper.map(|keeper| Kept {
        keeper,
        name: None,
        always: can_resend,
    });
    if kept.is_some() && !can_resend {
        tracing::info!(
            "this kernel cannot send requests again (Linux 6.9 can): a restart costs no I/O error, a crash does"
        );
    }
    offer(place, channel, (readers, requests), device, kept)
}

/// The last steps: kept by the keeper, then known by name.
fn offer(
    place: Place,
    channel: Arc<Channel>,
    (readers, requests): (Arc<Readers>, Arc<Requests>),
    device: LoopDevice,
    kept: Option<Kept>,
) -> io::Result<Box<dyn Front>> {
    let target = device.path.clone();
    let mut front = FuseFront {
        watch: Watch::new(&target)?,
        channel,
        readers,
        requests,
        device: Some(device),
        link: None,
        kept,
        place,
        target,
    };
    if front.always()
        && let Err(e) = front.keep()
    {
        tracing::warn!("{e}: a crash of this process costs its users I/O errors");
    }
    front.publish()?;
    Ok(Box::new(front))
}

/// Goes on with the device that the process before has left. `None` when it has left none, or when nothing of it is alive.
pub(crate) fn go_on(
    place: &Place,
    backend: &Arc<dyn Backend>,
    keeper: &Arc<dyn Keeper>,
    kept: Vec<(String, OwnedFd)>,
) -> io::Result<Option<Box<dyn Front>>> {
    let mut found = None;
    for (name, fd) in kept {
        match parse_kept_name(&name) {
            Some(identity) if found.is_none() => found = Some((name, identity, fd)),
            _ => {
                // Another version's: its users are lost, and nothing of it must stay.
                tracing::warn!("unknown descriptor {name:?} in the store");
                keeper.forget(&name)?;
            }
        }
    }
    let Some((name, (number, backing), fuse)) = found else {
        return Ok(None);
    };
    let channel = Channel::new(fuse);
    if !channel.is_alive() {
        keeper.forget(&name)?;
        return Ok(None);
    }
    // Before anything is read here: what this process has read would come again, too.
    let can_resend = channel.resend()?;
    let served = serve(&channel, &place.device, Arc::clone(backend))?;
    let Some(mut device) = LoopDevice::adopt(number, (backing, fs::FILE))? else {
        tracing::warn!("/dev/loop{number} is not what it was: starting anew");
        served.0.stop();
        keeper.forget(&name)?;
        return Ok(None);
    };
    let mut kept = Kept {
        keeper: Arc::clone(keeper),
        name: Some(name),
        always: can_resend,
    };
    if !can_resend {
        device.hold()?;
        kept.forget()?;
    }
    // It may have grown meanwhile.
    device.grow()?;
    tracing::info!(
        "{} goes on where the process before left it",
        device.path.display()
    );
    let place = Place {
        dev_dir: place.dev_dir.clone(),
        run_dir: place.run_dir.clone(),
        device: place.device.clone(),
    };
    offer(place, channel, served, device, Some(kept)).map(Some)
}

impl Kept {
    fn forget(&mut self) -> io::Result<()> {
        self.name
            .take()
            .map_or(Ok(()), |name| self.keeper.forget(&name))
    }
}

fn busy() -> io::Error {
    io::Error::from_raw_os_error(libc::EBUSY)
}

impl FuseFront {
    fn publish(&mut self) -> io::Result<()> {
        let link = DeviceLink::publish(&self.place.dev_dir, &self.place.device, &self.target)?;
        self.link = Some(link);
        Ok(())
    }

    fn always(&self) -> bool {
        self.kept.as_ref().is_some_and(|k| k.always)
    }

    /// Makes the device outlive this process.
    fn keep(&mut self) -> io::Result<()> {
        if let (Some(kept), Some(device)) = (&mut self.kept, &mut self.device) {
            if kept.name.is_none() {
                let name = kept_name(device.identity());
                kept.keeper.keep(&name, &[self.channel.fd()])?;
                std::fs::write(self.place.run_dir.join(STAYS), &name)?;
                kept.name = Some(name);
            }
            device.let_stay()?;
        }
        Ok(())
    }

    /// Lets the device go with this process again. The device must be served.
    fn forget(&mut self, device: &mut LoopDevice) {
        let held = device.hold();
        let forgotten = self.kept.as_mut().map_or(Ok(()), Kept::forget);
        let _ = std::fs::remove_file(self.place.run_dir.join(STAYS));
        if let Err(e) = held.and(forgotten) {
            tracing::warn!("{}: {e}", device.path.display());
        }
    }

    /// Without force: only when nobody uses it. What cannot be seen (an opener in another process name space) shows itself by the
    /// device not going away; then it stays.
    fn stop_idle(&mut self, mut device: LoopDevice) -> io::Result<()> {
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
        self.forget(&mut device);
        let closed = device.close();
        drop(claim);
        if self.requests.wait_released(LET_GO) {
            return Ok(());
        }
        match LoopDevice::reopen(closed)? {
            Some(device) => {
                self.device = Some(device);
                if self.always() {
                    self.keep()?;
                }
                self.publish()?;
                Err(busy())
            }
            None => Ok(()),
        }
    }

    /// By force: no new name, time to let go, then every further request fails.
    fn stop_forced(&mut self, mut device: LoopDevice) -> io::Result<()> {
        self.link = None;
        self.forget(&mut device);
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
            self.stop_forced(device)
        } else {
            self.stop_idle(device)
        }
    }

    fn resized(&mut self) -> io::Result<()> {
        self.device.as_ref().map_or(Ok(()), LoopDevice::grow)
    }

    fn hand_over(&mut self) -> io::Result<bool> {
        if self.device.is_none() || self.kept.is_none() {
            return Ok(false);
        }
        // As long as it is served: both may have to wait for requests.
        self.keep()?;
        self.readers.stop();
        if !self.requests.wait_answered(ANSWERS) && !self.always() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "requests in flight are not answered",
            ));
        }
        self.device = None;
        if let Some(link) = self.link.take() {
            link.leave();
        }
        Ok(true)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kept_connections_come_back() {
        assert_eq!(parse_kept_name(&kept_name((7, 97))), Some((7, 97)));
        for bad in [
            "",
            "mars-fuse-1",
            "mars-fuse-1-7",
            "mars-fuse-2-7-97",
            "mars-fuse-1-7-x",
            "stored",
        ] {
            assert_eq!(parse_kept_name(bad), None, "{bad}");
        }
    }
}
