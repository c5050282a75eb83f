//! Addresses: our own, a peer's from what is known here, or by asking it over ssh.
use crate::cli::Options;
use crate::ctx::Ctx;
use crate::error::{Done, one_line, refuse, show};
use mars_tree::{HostName, Key, Snapshot};
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::path::Path;
use std::process::{Command, Stdio};

/// Order: `--ip` (or `--ip-ME`), the tree, the first IPv4 address of an interface that is not loopback.
pub fn own_address(opts: &Options, snap: &Snapshot, me: &HostName) -> Done<Ipv4Addr> {
    let given = opts.ip.or_else(|| opts.peer_ips.get(me.as_str()).copied());
    let in_tree = || snap.text(&Key::Ip(me.clone()))?.parse().ok();
    match given.or_else(in_tree).or_else(interface_address) {
        Some(ip) => Ok(ip),
        None => refuse(format!(
            "no IPv4 address of {me} is known; give --ip=ADDRESS"
        )),
    }
}

/// Address of another host: `--ip-HOST`, the tree (unless it is to be replaced), the newest backup, the resolver.
pub fn known_address(ctx: &Ctx, host: &HostName, with_tree: bool) -> Done<Ipv4Addr> {
    let given = ctx.opts.peer_ips.get(host.as_str()).copied();
    let in_tree = || {
        let text = ctx.tree.text(&Key::Ip(host.clone())).ok()??;
        text.parse().ok().filter(|_| with_tree)
    };
    let found = given
        .or_else(in_tree)
        .or_else(|| backup_address(ctx.tree.root(), host))
        .or_else(|| resolved(host));
    match found {
        Some(ip) => Ok(ip),
        None => refuse(format!(
            "no address of host {host} is known (not in a backup, not from the resolver); give it: {host} ADDRESS"
        )),
    }
}

/// From the newest `backups-SECONDS/ips-backup/ip-HOST` below the root.
pub fn backup_address(root: &Path, host: &HostName) -> Option<Ipv4Addr> {
    let mut dirs: Vec<(u64, std::path::PathBuf)> = std::fs::read_dir(root)
        .ok()?
        .flatten()
        .filter_map(|e| {
            let name = e.file_name();
            let secs = name.to_str()?.strip_prefix("backups-")?.parse().ok()?;
            Some((secs, e.path()))
        })
        .collect();
    dirs.sort();
    let link = |dir: &Path| std::fs::read_link(dir.join("ips-backup").join(format!("ip-{host}")));
    dirs.iter()
        .rev()
        .find_map(|(_, dir)| link(dir).ok()?.to_str()?.parse().ok())
}

/// A loopback address is what the resolver calls this host itself.
fn resolved(host: &HostName) -> Option<Ipv4Addr> {
    (host.as_str(), 0)
        .to_socket_addrs()
        .ok()?
        .find_map(|a| match a.ip() {
            IpAddr::V4(ip) if !ip.is_loopback() => Some(ip),
            _ => None,
        })
}

fn interface_address() -> Option<Ipv4Addr> {
    nix::ifaddrs::getifaddrs()
        .ok()?
        .filter_map(|i| i.address?.as_sockaddr_in().map(|a| a.ip()))
        .find(|ip| !ip.is_loopback())
}

/// Asks `root@HOST` for its list of addresses. `MARS_SSH` names another program than ssh.
pub fn peer_address_over_ssh(opts: &Options, peer: &HostName) -> Done<Ipv4Addr> {
    let way_out = format!("give --ip-{peer}=ADDRESS");
    if opts.ssh_port == 0 {
        return refuse(format!(
            "no address of host {peer} is known and ssh is off; {way_out}"
        ));
    }
    let program = std::env::var("MARS_SSH").unwrap_or_else(|_| "ssh".into());
    let mut command = Command::new(&program);
    command.args(ssh_arguments(opts, peer)).stdin(Stdio::null());
    let output = match command.output() {
        Ok(o) => o,
        Err(e) => {
            return refuse(format!(
                "no address of host {peer} is known, and {program} cannot be run: {e}; {way_out}"
            ));
        }
    };
    if !output.status.success() {
        let said = one_line(&String::from_utf8_lossy(&output.stderr));
        let said: String = said.chars().take(200).collect();
        return refuse(format!(
            "no address of host {peer} is known, and asking it over ssh failed ({}): {said}; {way_out}",
            output.status
        ));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    match find_address(&text, peer) {
        Some(ip) => Ok(ip),
        None => refuse(format!(
            "host {peer} answered over ssh, but does not name its own address (it said {}); is it in a cluster? {way_out}",
            show(&text)
        )),
    }
}

/// Arguments of ssh. The options are split at blanks, as the shell would.
pub fn ssh_arguments(opts: &Options, peer: &HostName) -> Vec<String> {
    let mut args: Vec<String> = opts
        .ssh_opts
        .split_whitespace()
        .map(str::to_string)
        .collect();
    args.push("-p".into());
    args.push(opts.ssh_port.to_string());
    args.push(format!("root@{peer}"));
    args.extend(["marsadm", "lowlevel-ls-host-ips"].map(str::to_string));
    args
}

/// The address in `HOST IP` lines.
pub fn find_address(text: &str, peer: &HostName) -> Option<Ipv4Addr> {
    text.lines()
        .filter_map(|l| l.split_once(' '))
        .find(|(h, _)| *h == peer.as_str())
        .and_then(|(_, ip)| ip.trim().parse().ok())
}
