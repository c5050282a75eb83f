//! Start and stop of the daemon.
use crate::control::{Control, Ended};
use crate::core::CoreConfig;
use crate::engine::{Engine, EngineParts};
use crate::io::{DataDisk, Links as _, LogDir, LogStore};
use crate::links::TreeLinks;
use crate::prepare::PreparedLogs;
use crate::progress::Progress;
use crate::recovery::{Recovery, StartPoint};
use crate::threads;
use crate::wake::Waker;
use crate::wrap::Wrap;
use anyhow::{Context as _, bail, ensure};
use mars_daemon::{
    Daemon, Durability, FrontChoice, InstanceLock, LogCompression, LogDigest, ResourceConfig,
};
use mars_disk::{Disk, DiskMode};
use mars_front::{Front, FrontKind};
use mars_live::LivePage;
use mars_log::{Compression, Digest, EncodeOptions, FeatureMask};
use mars_tree::{Batch, HostName, Key, ResName, Snapshot, TodoSwitch, Tree, Watcher};
use std::path::PathBuf;
use std::sync::Arc;

/// Runs the logger of one resource until it is stopped or not designated any more.
pub fn run(daemon: &Daemon, res: &ResName, wrap: &Wrap) -> anyhow::Result<()> {
    let env = &daemon.env;
    let me = &env.host;
    let _lock = InstanceLock::acquire(env, "logger", Some(res))?;
    let tree = Tree::open(env)?;
    let mut watcher = Watcher::resource(&tree, res)?;
    let snap = tree.snapshot_of(res)?;
    let facts = Facts::check(&snap, res, me)?;
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
    let disk = (wrap.disk)(Arc::new(disk));
    daemon.status("recovery");
    let start = Recovery {
        tree: &tree,
        res,
        me,
        disk: disk.as_ref(),
        size: facts.size,
        stop: &Progress {
            daemon,
            page: LivePage::open(&env.run_dir, res.as_str())?,
        },
    }
    .run()
    .inspect_err(|e| daemon.status(&format!("not primary: {e:#}")))?;
    let config = daemon.config.resource(res);
    Primary {
        daemon,
        res,
        tree: &tree,
        facts: &facts,
        config: &config,
        wrap,
    }
    .serve(&mut watcher, disk, disk_size, &start)
}

/// What the tree says about the resource here.
struct Facts {
    disk: PathBuf,
    device: String,
    size: u64,
    mask: FeatureMask,
}

impl Facts {
    fn check(snap: &Snapshot, res: &ResName, me: &HostName) -> anyhow::Result<Facts> {
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
            mask: common_features(snap, res),
        })
    }
}

/// What all members understand; members that have not published anything yet do not count.
fn common_features(snap: &Snapshot, res: &ResName) -> FeatureMask {
    let masks = snap.members(res).into_iter().filter_map(|h| {
        let text = snap.text(&Key::HostActual(h, "features".to_string()))?;
        let hex = text.rsplit(',').next()?.strip_prefix("0x")?;
        u32::from_str_radix(hex, 16).ok()
    });
    FeatureMask(masks.fold(FeatureMask::OURS.0, |all, m| all & m))
}

/// Configuration, bounded by what the peers understand.
fn core_config(config: &ResourceConfig, mask: FeatureMask) -> CoreConfig {
    let allowed = |bits: FeatureMask| mask.0 & bits.0 == bits.0;
    let wanted = match config.log_digest {
        LogDigest::Crc32c => Digest::Crc32c,
        LogDigest::Md5 => Digest::Md5,
    };
    let digest = if allowed(FeatureMask::of_digest(wanted)) {
        wanted
    } else {
        mask.best_digest()
    };
    let compression = match config.log_compression {
        LogCompression::None => None,
        LogCompression::Lz4 => Some(Compression::Lz4),
        LogCompression::Zlib => Some(Compression::Zlib),
    }
    .filter(|c| allowed(FeatureMask::of_compression(*c)));
    CoreConfig {
        strict: config.durability == Durability::Strict,
        limit: usize::try_from(config.buffer_limit_bytes).unwrap_or(usize::MAX),
        encode: EncodeOptions {
            digest,
            compression,
            ..EncodeOptions::default()
        },
        age: config.writeback_age,
        recovery_limit: config.recovery_limit_bytes,
        zeroes_packed: allowed(FeatureMask::of_compression(Compression::Lz4)),
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

/// The resource while this host serves it.
struct Primary<'a> {
    daemon: &'a Daemon,
    res: &'a ResName,
    tree: &'a Tree,
    facts: &'a Facts,
    config: &'a ResourceConfig,
    wrap: &'a Wrap,
}

impl Primary<'_> {
    fn serve(
        &self,
        watcher: &mut Watcher,
        disk: Arc<dyn DataDisk>,
        disk_size: u64,
        start: &StartPoint,
    ) -> anyhow::Result<()> {
        let Primary {
            daemon,
            res,
            tree,
            facts,
            config,
            wrap,
        } = *self;
        let env = &daemon.env;
        let me = &env.host;
        let dir = LogDir(env.root.join(format!("resource-{res}")));
        let store: Box<dyn LogStore> = match config.prepare_bytes {
            0 => Box::new(dir),
            ahead => Box::new(PreparedLogs::new(
                dir,
                ahead,
                config.durability == Durability::Strict,
            )),
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
            config: core_config(config, facts.mask),
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
        let threads = threads::start(&engine)?;
        let kind = match config.front {
            FrontChoice::Auto => FrontKind::Auto,
            FrontChoice::Fuse => FrontKind::Fuse,
            FrontChoice::NbdSocket => FrontKind::NbdSocket,
        };
        let backend = Arc::clone(&engine) as Arc<dyn mars_front::Backend>;
        let mut front = match mars_front::start(kind, env, res, &facts.device, backend) {
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
        links.set_actsize(disk_size);
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
        tracing::info!(
            "primary, logging in {}, {} records recovered, device {}",
            start.log,
            start.records,
            front.target().display()
        );
        daemon.ready();
        let ended = Control {
            daemon: Some(daemon),
            stop: &daemon.stop,
            tree,
            res,
            me,
            engine: &engine,
            links: &links,
            front: Some(front.as_mut()),
            waker: &waker,
            disk_size,
        }
        .run(watcher);
        daemon.status("stopping: writing back");
        engine.leave();
        take_away(front.as_mut());
        drop(front);
        engine.set_device_on(false);
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
        links.set_actual(&[
            ("ops-if_rate", 0),
            ("amount-if_rate", 0),
            ("if-flying", 0),
            ("open-count", 0),
            ("if-on", 0),
            ("is-primary", 0),
        ]);
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
        tracing::info!("stopped at {},{}", back.log, back.pos);
        Ok(())
    }
}
