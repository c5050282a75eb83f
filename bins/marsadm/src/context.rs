//! Checks before every command, in the order of marsadm-commands.md 1.5.
use crate::cli::Options;
use crate::ctx::Ctx;
use crate::error::{Done, refuse};
use crate::out;
use mars_tree::{HostEnv, HostName, Key, Tree, UnitManager};
use std::cell::Cell;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

/// Host name, root directory, cluster.
pub fn context(opts: &Options, needs_cluster: bool, reading: bool) -> Done<Ctx> {
    let mut env = HostEnv::from_process()?;
    let mut opts = opts.clone();
    configure(&mut env, &mut opts, reading)?;
    let opts = &opts;
    let root = env.root.display();
    let meta = match std::fs::metadata(&env.root) {
        Ok(m) if m.is_dir() => m,
        Ok(_) => {
            return refuse(format!(
                "{root} is no directory; set MARS_ROOT, or mount a file system there"
            ));
        }
        Err(e) => {
            return refuse(format!(
                "{root}: {e}; mount a file system there, or set MARS_ROOT"
            ));
        }
    };
    let system = env.unit_manager == UnitManager::Systemd;
    if system && !reading && !nix::unistd::geteuid().is_root() {
        return refuse(format!("only root may change {root}; use sudo"));
    }
    if !reading && !opts.dry_run {
        repair(&env, &meta);
    }
    let tree = if reading || opts.dry_run {
        Tree::open_readonly(&env)?
    } else {
        Tree::open(&env)?
    };
    let uuid = tree.text(&Key::Uuid)?;
    if needs_cluster && uuid.is_none() {
        return refuse(format!(
            "{root} belongs to no cluster; run marsadm create-cluster or marsadm join-cluster first"
        ));
    }
    let me = acting_host(opts, &env, &tree, reading)?;
    let ctx = Ctx {
        env,
        tree,
        opts: opts.clone(),
        me,
        unit_failed: Cell::new(false),
    };
    if ctx.opts.backup_dir.is_some() && !reading {
        ctx.backup_dir()?;
    }
    Ok(ctx)
}

/// Owner and mode of the root directory.
fn repair(env: &HostEnv, meta: &Metadata) {
    let root = env.root.display();
    let mode = meta.permissions().mode() & 0o777;
    if mode != 0o700 {
        match std::fs::set_permissions(&env.root, std::fs::Permissions::from_mode(0o700)) {
            Ok(()) => out::warn(format!("{root} had mode {mode:o}, it has 700 now")),
            Err(e) => out::warn(format!("{root} has mode {mode:o}, it should have 700: {e}")),
        }
    }
    let owner = meta.uid();
    if owner != 0 && nix::unistd::geteuid().is_root() {
        match std::os::unix::fs::chown(&env.root, Some(0), None) {
            Ok(()) => out::warn(format!("{root} belonged to user {owner}, it is root's now")),
            Err(e) => out::warn(format!("{root} belongs to user {owner}, not to root: {e}")),
        }
    }
}

/// What the configuration says about this tool. A damaged one stops whoever wants to change something.
fn configure(env: &mut HostEnv, opts: &mut Options, reading: bool) -> Done {
    let config = match mars_daemon::Config::load(env) {
        Ok(c) => c,
        Err(e) if reading => {
            out::warn(e.to_string());
            return Ok(());
        }
        Err(e) => return refuse(format!("{e}; no daemon starts with this")),
    };
    if std::env::var_os("MARS_PORT").is_none() {
        env.port = config.port();
    }
    opts.thresh_logfiles.get_or_insert(config.thresh_logfiles());
    opts.thresh_logsize
        .get_or_insert(config.thresh_logsize_bytes());
    Ok(())
}

/// Version of the tree's layout that this tool knows: major and minor.
const TREE_VERSION: (u32, u32) = (0, 1);

/// The engine of this host may be newer than the tool: then the tool would not understand what it changes. Looking is allowed.
pub fn engine_version(ctx: &Ctx, reading: bool) -> Done {
    let (env, tree) = (&ctx.env, &ctx.tree);
    let key = Key::HostActual(env.host.clone(), "tree".into());
    let Some(text) = tree.text(&key)? else {
        return Ok(());
    };
    let number = |t: &str| t.parse::<u32>().ok();
    let (Some(theirs), (ours, minor)) = (
        text.split_once('.')
            .and_then(|(a, b)| Some((number(a)?, number(b)?))),
        TREE_VERSION,
    ) else {
        // Damaged: as good as absent.
        return Ok(());
    };
    let line = format!("mars-meta of {} uses tree version {text}", env.host);
    match theirs.cmp(&TREE_VERSION) {
        std::cmp::Ordering::Greater if !reading => refuse(format!(
            "{line}, this marsadm knows {ours}.{minor}; upgrade the tool"
        )),
        std::cmp::Ordering::Equal => Ok(()),
        _ => {
            out::warn(format!(
                "{line}, this marsadm {ours}.{minor}; both should be of the same release"
            ));
            Ok(())
        }
    }
}

fn acting_host(opts: &Options, env: &HostEnv, tree: &Tree, reading: bool) -> Done<HostName> {
    let Some(text) = &opts.host else {
        return Ok(env.host.clone());
    };
    let host: HostName = match text.parse() {
        Ok(h) => h,
        Err(e) => return refuse(format!("--host: {e}")),
    };
    if host == env.host {
        return Ok(host);
    }
    if tree.text(&Key::Ip(host.clone()))?.is_none() && !opts.force {
        return refuse(format!(
            "--host={host}: this host is not in the cluster; see marsadm lowlevel-ls-host-ips"
        ));
    }
    out::attention(format!("acting as host {host}, not as {}", env.host));
    if !reading {
        out::warn(format!(
            "--host is dangerous: whatever {host} does by itself meanwhile is not seen in time"
        ));
        out::warn(format!(
            "what is changed becomes effective when {host} hears of it, perhaps much later"
        ));
    }
    Ok(host)
}
