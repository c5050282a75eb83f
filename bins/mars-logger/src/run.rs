//! Start and stop of the daemon.
use crate::control::{Control, Ended};
use crate::core::CoreConfig;
use crate::engine::{Engine, EngineParts};
use crate::io::{DataDisk, Links as _, LogDir, LogStore};
use crate::links::TreeLinks;
use crate::prepare::{PrepareControl, PreparedLogs};
use crate::progress::Progress;
use crate::recovery::{Recovery, StartPoint};
use crate::stopping::{self, Why};
use crate::threads;
use crate::wake::Waker;
use crate::wrap::Wrap;
use anyhow::{Context as _, bail, ensure};
use mars_daemon::{
    Daemon, Durability, Failures, FdStore, FrontChoice, InstanceLock, LogCompression, LogDigest,
    ResourceConfig, events, harden,
};
use mars_disk::{Disk, DiskMode};
use mars_front::{Front, FrontKind, Handover, Keeper};
use mars_live::LivePage;
use mars_log::{Compression, Digest, EncodeOptions, FeatureMask};
use mars_policy::{common_features, log_compression, log_digest};
use mars_tree::{Batch, HostName, Key, ResName, Snapshot, TodoSwitch, Tree, Watcher};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Restart: time to write back while the device is still served.
const BEFORE_RESTART: Duration = Duration::from_secs(60);

/// Runs the logger of one resource until it is stopped or not designated any more.
pub fn run(daemon: &Daemon, res: &ResName, wrap: &Wrap) -> anyhow::Result<()> {
    let store = FdStore::from_env();
    let kept = store.as_ref().map(FdStore::take).unwrap_or_default();
    let names: Vec<String> = kept.iter().map(|(name, _)| name.clone()).collect();
    let in_use = !names.is_empty();
    let handover = store.clone().map(|store| Handover {
        kept,
        keeper: Arc::new(Store(store)),
    });
    let _lock = InstanceLock::acquire(&daemon.env, "logger", Some(res))?;
    let failures = Failures::of(&daemon.env.resource_run_dir(res), "logger");
    let result = run_locked(daemon, res, wrap, handover, &failures);
    if let Err(e) = &result
        && in_use
    {
        // Somebody waits for the device; ending would soon use up the restarts that systemd allows, and with them the device.
        let pause = failures.add();
        if !daemon.stop.is_set() {
            tracing::error!("{e:#}; the device is in use, trying again in {pause:?}");
            daemon.status(&format!("waiting to try again: {e:#}"));
        }
        if daemon.stop.wait(pause) && stopping::ask(res) == Why::Stop {
            failures.clear();
            let forgotten = names
                .iter()
                .try_for_each(|n| store.iter().try_for_each(|s| s.forget(n)));
            if let Err(e) = forgotten {
                tracing::warn!("{e:#}");
            }
            mars_front::sweep(&daemon.env, res);
        }
    }
    result
}

struct Store(FdStore);

impl Keeper for Store {
    fn keep(&self, name: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.keep(name, fds).map_err(io::Error::other)
    }
    fn forget(&self, name: &str) -> io::Result<()> {
        self.0.forget(name).map_err(io::Error::other)
    }
}

fn run_locked(
    daemon: &Daemon,
    res: &ResName,
    wrap: &Wrap,
    handover: Option<Handover>,
    failures: &Failures,
) -> anyhow::Result<()> {
    let env = &daemon.env;
    let me = &env.host;
    let in_use = handover.as_ref().is_some_and(|h| !h.kept.is_empty());
    let tree = Tree::open(env)?;
    let mut watcher = Watcher::resource(&tree, res)?;
    let snap = tree.snapshot_of(res)?;
    let facts = Facts::check(&snap, res, me, in_use)?;
    let mut dirs = Batch::new();
    dirs.mkdir(format!("resource-{res}/actual-{me}"));
    tree.commit(&dirs)?;
    let disk = open_disk(daemon, &tree, res, &facts)?;
    let disk_size = disk
        .size()
        .with_context(|| disk.path().display().to_string())?;
    ensure!(
        disk_size >= facts.size,
        "resource {res}: disk {} has {disk_size} bytes, the resource has {}; enlarge the disk",
        disk.path().display(),
        facts.size
    );
    let raw = Arc::new(disk);
    let disk = (wrap.disk)(Arc::clone(&raw) as Arc<dyn DataDisk>);
    harden::write_path();
    daemon.status("recovery");
    let start = Recovery {
        tree: &tree,
        res,
        me,
        disk: disk.as_ref(),
        // Logs that were fetched may speak of a part of the device that is newer than the size in this tree.
        size: disk_size,
        stop: &Progress {
            daemon,
            page: LivePage::open(&env.run_dir, res.as_str())?,
            in_use,
        },
    }
    .run()
    .inspect_err(|e| daemon.status(&format!("not primary: {e:#}")))?;
    let config = daemon.config().resource(res);
    Primary {
        daemon,
        res,
        tree: &tree,
        facts: &facts,
        config: &config,
        wrap,
        failures,
    }
    .serve(&mut watcher, disk, &raw, &start, handover)
}

/// What the tree says about the resource here.
struct Facts {
    disk: PathBuf,
    device: String,
    size: u64,
}

impl Facts {
    /// `in_use`: an earlier process has left a device behind; it is served until it is closed, whoever is designated by now.
    fn check(snap: &Snapshot, res: &ResName, me: &HostName, in_use: bool) -> anyhow::Result<Facts> {
        let disk = snap
            .text(&Key::Data(res.clone(), me.clone()))
            .with_context(|| {
                format!("resource {res}: {me} is no member; run `marsadm join-resource {res} DISK`")
            })?;
        let size = snap
            .number(&Key::Size(res.clone()))
            .filter(|s| *s > 0)
            .with_context(|| format!("resource {res}: its size is missing or damaged"))?;
        ensure!(
            snap.todo(res, me, TodoSwitch::Attach),
            "resource {res} is detached; run `marsadm attach {res}`"
        );
        match snap.host(&Key::Primary(res.clone())) {
            Some(p) if p == *me => {}
            _ if in_use => {}
            Some(p) => bail!(
                "resource {res}: {p} is designated primary, not {me}; run `marsadm primary {res}`"
            ),
            None => bail!("resource {res}: no primary is designated; run `marsadm primary {res}`"),
        }
        let device = snap
            .text(&Key::Device(res.clone(), me.clone()))
            .filter(|d| *d != "(none)" && !d.contains(['/', '@']) && !d.starts_with('.'))
            .unwrap_or(res.as_str());
        Ok(Facts {
            disk: PathBuf::from(disk),
            device: device.to_string(),
            size: size / 512 * 512,
        })
    }
}

/// How this host writes records of this resource.
struct Features {
    /// What all members understand.
    common: FeatureMask,
    digest: Digest,
    compression: Option<Compression>,
}

impl Features {
    /// Configuration, bounded by what the members understand and by what is enabled and disabled in the cluster.
    fn of(snap: &Snapshot, res: &ResName, me: &HostName, config: &ResourceConfig) -> Features {
        let common = common_features(snap, snap.members(res));
        let digest = match config.log_digest {
            LogDigest::Crc32c => Digest::Crc32c,
            LogDigest::Md5 => Digest::Md5,
        };
        let compression = match config.log_compression {
            LogCompression::None => None,
            LogCompression::Lz4 => Some(Compression::Lz4),
            LogCompression::Zlib => Some(Compression::Zlib),
        };
        Features {
            common,
            digest: log_digest(snap, me, common, digest),
            compression: log_compression(snap, me, common, compression),
        }
    }
}

fn core_config(config: &ResourceConfig, features: &Features) -> CoreConfig {
    let lz4 = FeatureMask::of_compression(Compression::Lz4);
    CoreConfig {
        strict: config.durability == Durability::Strict,
        limit: usize::try_from(config.buffer_limit_bytes).unwrap_or(usize::MAX),
        encode: EncodeOptions {
            digest: features.digest,
            compression: features.compression,
            zlib_level: config.zlib_level,
            ..EncodeOptions::default()
        },
        age: config.writeback_age,
        recovery_limit: config.recovery_limit_bytes,
        zeroes_packed: features.common.contains(lz4),
    }
}

fn open_disk(daemon: &Daemon, tree: &Tree, res: &ResName, facts: &Facts) -> anyhow::Result<Disk> {
    let me = &daemon.env.host;
    Disk::open(&facts.disk, DiskMode::Exclusive, &daemon.env, res).map_err(|e| {
        let mut b = Batch::new();
        let error = Key::Actual(res.clone(), me.clone(), "disk-error".to_string());
        b.set_if_changed(error, -e.errno());
        if let Err(t) = tree.commit(&b) {
            tracing::warn!("{t}");
        }
        events::disk_error(res, &e.to_string());
        anyhow::Error::new(e).context(format!("resource {res}"))
    })
}

/// A stop means stop: users are told in the journal that they are cut, and are cut.
fn take_away(front: &mut dyn Front) {
    let Err(e) = front.stop(false) else {
        return;
    };
    tracing::warn!(
        "stopping although {} is in use ({e}): its users are cut off; close it first next time",
        front.target().display()
    );
    if let Err(e) = front.stop(true) {
        tracing::warn!("the device did not go away cleanly: {e}");
    }
}

/// Leaves the device to the next process. False when that is not possible.
fn hand_over(front: &mut dyn Front) -> bool {
    match front.hand_over() {
        Ok(true) => {
            tracing::info!("{} stays for the next process", front.target().display());
            true
        }
        Ok(false) => false,
        Err(e) => {
            tracing::warn!("{} cannot be handed over: {e}", front.target().display());
            false
        }
    }
}

/// The resource while this host serves it.
struct Primary<'a> {
    daemon: &'a Daemon,
    res: &'a ResName,
    tree: &'a Tree,
    facts: &'a Facts,
    config: &'a ResourceConfig,
    wrap: &'a Wrap,
    failures: &'a Failures,
}

impl Primary<'_> {
    /// What changes the running engine after a reload of the configuration, or when the tree says something else about digests and
    /// compressions.
    fn follow_config(
        &self,
        engine: &Arc<Engine>,
        prepare: Option<PrepareControl>,
    ) -> Arc<dyn Fn(&mars_daemon::Config) + Send + Sync> {
        let (res, tree, me) = (
            self.res.clone(),
            self.tree.clone(),
            self.daemon.env.host.clone(),
        );
        let engine = Arc::downgrade(engine);
        let apply = move |config: &mars_daemon::Config| {
            let config = config.resource(&res);
            if let Some(p) = &prepare {
                p.set_ahead(config.prepare_bytes);
            }
            let Some(e) = engine.upgrade() else {
                return;
            };
            match tree.snapshot_of(&res) {
                Ok(snap) => {
                    let features = Features::of(&snap, &res, &me, &config);
                    let (rotate, resume) = (config.rotate_bytes, config.resume);
                    e.reconfigure(core_config(&config, &features), rotate, resume);
                }
                Err(e) => tracing::warn!("{e}; settings stay as they were"),
            }
        };
        let apply: Arc<dyn Fn(&mars_daemon::Config) + Send + Sync> = Arc::new(apply);
        // Whatever was changed during the recovery is taken over, too.
        apply(&self.daemon.config());
        let on_reload = Arc::clone(&apply);
        self.daemon.on_reload(move |config| on_reload(config));
        apply
    }

    fn serve(
        &self,
        watcher: &mut Watcher,
        disk: Arc<dyn DataDisk>,
        raw: &Disk,
        start: &StartPoint,
        handover: Option<Handover>,
    ) -> anyhow::Result<()> {
        let Primary {
            daemon,
            res,
            tree,
            facts,
            config,
            wrap,
            failures,
        } = *self;
        let env = &daemon.env;
        let me = &env.host;
        let dir = LogDir(env.root.join(format!("resource-{res}")));
        let mut prepare = None;
        let store: Box<dyn LogStore> = match config.prepare_bytes {
            0 => Box::new(dir),
            ahead => {
                let strict = config.durability == Durability::Strict;
                let logs = PreparedLogs::new(dir, ahead, strict);
                prepare = Some(logs.control());
                Box::new(logs)
            }
        };
        let store = (wrap.store)(store);
        let sink = store
            .create(&start.log)
            .with_context(|| format!("resource {res}: cannot open {}", start.log))?;
        let links = Arc::new(TreeLinks::new(
            tree.clone(),
            res.clone(),
            me.clone(),
            start.log.clone(),
            start.prev.clone(),
        ));
        links.opened();
        let waker = Arc::new(Waker::new()?);
        let engine_waker = Arc::clone(&waker);
        let stop_waker = Arc::clone(&waker);
        daemon.stop.on_set(move || stop_waker.wake());
        let engine = Engine::new(EngineParts {
            config: core_config(
                config,
                &Features::of(&tree.snapshot_of(res)?, res, me, config),
            ),
            log: start.log.clone(),
            sink,
            store,
            disk,
            links: Arc::clone(&links) as Arc<dyn crate::io::Links>,
            live: Some(LivePage::open(&env.run_dir, res.as_str())?),
            clock: tree.clock().clone(),
            size: facts.size,
            rotate_bytes: config.rotate_bytes,
            wake_control: Box::new(move || engine_waker.wake()),
        })?;
        let reconfigure = self.follow_config(&engine, prepare);
        let threads = threads::start(&engine)?;
        let kind = match config.front {
            FrontChoice::Auto => FrontKind::Auto,
            FrontChoice::Fuse => FrontKind::Fuse,
            FrontChoice::NbdSocket => FrontKind::NbdSocket,
        };
        let backend = Arc::clone(&engine) as Arc<dyn mars_front::Backend>;
        let front = mars_front::start_or_continue(kind, env, res, &facts.device, backend, handover);
        let mut front = match front {
            Ok(f) => f,
            Err(e) => {
                threads.drain();
                return Err(e).with_context(|| {
                    format!(
                        "resource {res}: the device {} cannot be offered",
                        facts.device
                    )
                });
            }
        };
        engine.set_device_on(true);
        // Together with `is-primary`: whoever sees the role also sees whether the device is in use.
        engine.set_front_openers(front.openers());
        let openers = i64::try_from(engine.status().openers).unwrap_or(i64::MAX);
        links.set_actsize(raw.size()?);
        links.set_actual(&[
            ("is-attached", 1),
            ("disk-error", 0),
            ("replay-code", 0),
            ("has-emergency", 0),
            ("is-emergency", 0),
            ("open-count", openers),
            ("if-on", 1),
            ("is-primary", 1),
        ]);
        let what = format!(
            "logging in {}, {} records recovered, device {}",
            start.log,
            start.records,
            front.target().display()
        );
        failures.clear();
        events::device_up(res, &start.log, &what);
        daemon.ready();
        // Leaves the bus at the end of this function.
        let _bus = crate::bus::start(&engine, tree, res, me);
        let ended = Control {
            daemon: Some(daemon),
            stop: &daemon.stop,
            why: &|| stopping::ask(res),
            unmount: &stopping::unmount,
            tree,
            res,
            me,
            engine: &engine,
            links: &links,
            front: Some(front.as_mut()),
            waker: &waker,
            disk_size: &|| raw.size(),
            features_changed: &|| reconfigure(&daemon.config()),
        }
        .run(watcher);
        daemon.status("stopping: writing back");
        // Users get time to let go, and write-back takes as long as the disk needs.
        let _waiting = mars_daemon::watchdog::waiting();
        engine.end_freeze();
        if matches!(ended, Ok(Ended::Restart)) {
            // While the users are still served: afterwards they wait. What is left is written before the end, or by the next process.
            engine.drain(BEFORE_RESTART).ok();
        }
        let handed_over = matches!(ended, Ok(Ended::Restart)) && hand_over(front.as_mut());
        if !handed_over {
            engine.leave();
            take_away(front.as_mut());
        }
        drop(front);
        engine.set_device_on(handed_over);
        let clean = threads.drain();
        if let Err(e) = engine.finish_log() {
            // The next start cuts it.
            tracing::warn!("the log keeps its prepared tail: {e}");
        }
        let status = engine.status();
        links.version(&status.durable.log, status.durable.pos);
        let back = &status.written_back;
        if clean {
            links.replay(&back.log, back.pos, 0);
        }
        links.set_actual(&[("ops-if_rate", 0), ("amount-if_rate", 0), ("if-flying", 0)]);
        if !handed_over {
            links.set_actual(&[("open-count", 0), ("if-on", 0), ("is-primary", 0)]);
        }
        let ended = ended?;
        if ended == Ended::NotDesignated
            && let Err(e) = env.request_reconcile()
        {
            tracing::warn!("{}: {e}", env.trigger_file().display());
        }
        ensure!(
            clean,
            "resource {res}: stopped, but disk {} could not be written (error {}); the log has everything, the next start writes it",
            facts.disk.display(),
            status.disk_error
        );
        let what = format!("stopped at {},{}", back.log, back.pos);
        events::device_down(res, &back.log, &what);
        Ok(())
    }
}
