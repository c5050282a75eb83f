//! A cluster for one scenario: built, checked at the end, taken away whatever happens.
use crate::disk::{Disk, attached};
use crate::host::Host;
use crate::install;
use crate::journal;
use crate::keeper::{self, Keeper, wait_gone};
use crate::rootfs;
use crate::util::{digest, run, target_dir, write};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Name below `/dev/vg` of the disk with `/mars`.
const MARS_DISK: &str = "mars";

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What a cluster shall be.
#[derive(Clone, Debug)]
pub struct Builder<'a> {
    scenario: &'a str,
    hosts: &'a [&'a str],
    disks: Vec<(&'a str, u64)>,
    mars_mib: u64,
    config: &'a str,
    installed: bool,
}

impl<'a> Builder<'a> {
    /// Hosts `alpha` and `beta`, without data disks.
    pub fn new(scenario: &'a str) -> Builder<'a> {
        Builder {
            scenario,
            hosts: &["alpha", "beta"],
            disks: Vec::new(),
            mars_mib: 1024,
            config: "",
            installed: true,
        }
    }

    /// Other hosts. The first one creates the cluster.
    pub fn hosts(mut self, hosts: &'a [&'a str]) -> Self {
        self.hosts = hosts;
        self
    }

    /// One more disk for each host: `/dev/vg/NAME`.
    pub fn disk(mut self, name: &'a str, mib: u64) -> Self {
        self.disks.push((name, mib));
        self
    }

    /// Size of the file system on `/mars`.
    pub fn mars_mib(mut self, mib: u64) -> Self {
        self.mars_mib = mib;
        self
    }

    /// `/etc/mars/mars.conf` of all hosts.
    pub fn config(mut self, text: &'a str) -> Self {
        self.config = text;
        self
    }

    /// Without MARS, for scenarios that install it themselves.
    pub fn bare(mut self) -> Self {
        self.installed = false;
        self
    }

    /// Builds it; returns when all hosts are up.
    pub fn start(self) -> Cluster {
        Cluster::start(&self)
    }
}

/// Running hosts.
#[derive(Debug)]
pub struct Cluster {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// From the first step to all hosts being up.
    pub start_time: Duration,
    scenario: String,
    dir: PathBuf,
    keeper: Option<Keeper>,
    /// Loop devices of others.
    loops_before: Vec<String>,
    _one: MutexGuard<'static, ()>,
}

fn own_dir() -> PathBuf {
    let base =
        std::env::var_os("MARS_CLUSTER_DIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    base.join(format!("mars-cluster-{}-{number}", std::process::id()))
}

fn mkfs(disk: &Disk) {
    run(Command::new("mkfs.ext4")
        .args([
            "-q",
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
        ])
        .arg(&disk.device));
}

impl Cluster {
    fn start(b: &Builder<'_>) -> Cluster {
        assert!(
            nix::unistd::geteuid().is_root(),
            "clusters of containers need root"
        );
        let one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let rootfs = rootfs::get();
        let mut layers = vec![rootfs.clone()];
        if b.installed {
            layers.insert(0, install::layer(&rootfs));
        }
        let started = Instant::now();
        let dir = own_dir();
        fs::create_dir_all(dir.join("shared")).expect("directory of the cluster");
        for host in b.hosts {
            host_files(&dir.join(host), host, b);
        }
        let loops_before = attached().into_iter().map(|(name, _)| name).collect();
        // From here on the keeper removes everything.
        let keeper = Keeper::start(&dir, &layers, b.hosts);
        let world = keeper.world;
        let mut cluster = Cluster {
            hosts: Vec::new(),
            start_time: Duration::ZERO,
            scenario: b.scenario.to_string(),
            dir: dir.clone(),
            keeper: Some(keeper),
            loops_before,
            _one: one,
        };
        for (i, host) in b.hosts.iter().enumerate() {
            let at = |name: &str| dir.join(host).join(format!("{name}.img"));
            let mars = Disk::create(&at(MARS_DISK), b.mars_mib);
            mkfs(&mars);
            let mut disks = vec![(MARS_DISK.to_string(), mars)];
            for (name, mib) in &b.disks {
                disks.push((name.to_string(), Disk::create(&at(name), *mib)));
            }
            cluster
                .hosts
                .push(Host::new(host, i, dir.join(host), world, disks));
        }
        for host in &cluster.hosts {
            host.boot_begin();
        }
        for host in &cluster.hosts {
            host.boot_end();
        }
        cluster.start_time = started.elapsed();
        println!(
            "{}: {} hosts up in {:.1} s",
            b.scenario,
            b.hosts.len(),
            cluster.start_time.as_secs_f64()
        );
        cluster
    }

    /// Host by number.
    pub fn host(&self, i: usize) -> &Host {
        &self.hosts[i]
    }

    /// Everything of this cluster is below here.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A directory that all hosts see as `/cluster`.
    pub fn shared(&self) -> PathBuf {
        self.dir.join("shared")
    }

    /// A file in the directory that all hosts see as `/cluster`.
    pub fn share(&self, name: &str, text: &str, mode: u32) {
        let path = self.shared().join(name);
        write(&path, text);
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("mode");
    }

    /// The content of a file in that directory; empty when there is none.
    pub fn shared_text(&self, name: &str) -> String {
        fs::read_to_string(self.shared().join(name)).unwrap_or_default()
    }

    /// The program `mars-cluster`, as the hosts see it.
    pub fn share_program(&self) -> String {
        fs::copy(keeper::program(), self.shared().join("mars-cluster")).expect("copy");
        "/cluster/mars-cluster".to_string()
    }

    /// The package, as the hosts see it.
    pub fn share_package(&self, version: Option<&str>) -> String {
        let deb = install::deb(version);
        let name = deb.file_name().expect("a name");
        fs::copy(&deb, self.shared().join(name)).expect("copy");
        format!("/cluster/{}", name.to_string_lossy())
    }

    /// MARS is enabled everywhere, the first host creates the cluster, the others join it.
    pub fn form(&self) {
        let first = &self.hosts[0];
        for h in &self.hosts {
            h.ok(&["systemctl", "enable", "--quiet", "mars.target"]);
        }
        first.marsadm(&["create-cluster", &format!("--ip={}", first.ip)]);
        for h in &self.hosts[1..] {
            h.marsadm(&[
                "join-cluster",
                &first.name,
                &format!("--ip={}", h.ip),
                &format!("--ip-{}={}", first.name, first.ip),
            ]);
        }
    }

    /// A resource on `/dev/vg/DISK` of all hosts; the first one is primary; returns when the others are `UpToDate`.
    pub fn resource(&self, res: &str, disk: &str) {
        let disk = format!("/dev/vg/{disk}");
        self.hosts[0].marsadm(&["create-resource", res, &disk]);
        for h in &self.hosts[1..] {
            h.marsadm(&["join-resource", res, &disk]);
        }
        self.hosts[0].wait_device(res);
        for h in &self.hosts[1..] {
            h.wait_view("diskstate", res, "UpToDate");
        }
    }

    /// Waits until every host has all of `res`, then compares what stands on their disks with what the primary's device says.
    pub fn assert_same(&self, primary: usize, res: &str, disk: &str) {
        let digest = |h: &Host, path: &str| {
            let out = h.ok(&["sha256sum", path]);
            out.split(' ').next().unwrap_or_default().to_string()
        };
        let first = &self.hosts[primary];
        let device = digest(first, &format!("/dev/mars/{res}"));
        for h in self.hosts.iter().filter(|h| h.name != first.name) {
            h.wait_view("diskstate", res, "UpToDate");
            h.wait_view("work-rest", res, "0");
            let there = digest(h, &format!("/dev/vg/{disk}"));
            assert_eq!(there, device, "{}: disk of {res} differs", h.name);
        }
    }

    /// Shuts everything down and fails when something was not as it should be: panics and lines of priority err that contain none of
    /// the `allowed` words, failed units, loop devices, mounts, processes or name spaces that stay behind.
    pub fn finish(mut self, allowed: &[&str]) {
        let mut bad = Vec::new();
        for h in self.hosts.iter().filter(|h| h.is_up()) {
            bad.extend(
                h.failed_units()
                    .into_iter()
                    .map(|u| format!("{}: failed unit: {u}", h.name)),
            );
        }
        let spaces = self.name_spaces();
        std::thread::scope(|s| {
            for h in self.hosts.iter().filter(|h| h.is_up()) {
                s.spawn(|| h.shutdown());
            }
        });
        for h in &self.hosts {
            let lines = journal::problems(&h.journal_dir(), allowed);
            bad.extend(
                lines
                    .into_iter()
                    .map(|l| format!("{}: journal: {l}", h.name)),
            );
        }
        // The kernel may take a moment to clear them.
        let end = Instant::now() + Duration::from_secs(5);
        let mut left = keeper::dead(&self.loops_before);
        while !left.is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            left = keeper::dead(&self.loops_before);
        }
        for (name, file) in left {
            bad.push(format!("leaked: loop device {name} on {}", file.display()));
        }
        assert!(bad.is_empty(), "{}: {bad:#?}", self.scenario);
        self.hosts.clear();
        let left = self.keeper.take().map_or_else(Vec::new, Keeper::end);
        assert!(left.is_empty(), "{}: left behind: {left:?}", self.scenario);
        for (kind, id) in spaces {
            wait_gone(kind, &id);
        }
    }

    /// The name spaces that must be gone in the end.
    fn name_spaces(&self) -> Vec<(&'static str, PathBuf)> {
        let world = self.keeper.iter().map(|k| k.world);
        let pids = world.chain(self.hosts.iter().filter_map(Host::leader));
        pids.flat_map(|p| ["pid", "mnt", "net"].map(|kind| (kind, p)))
            .filter_map(|(kind, p)| {
                let id = fs::read_link(format!("/proc/{p}/ns/{kind}")).ok()?;
                Some((kind, id))
            })
            .collect()
    }

    /// Saves the evidence; returns where.
    pub fn save(&self) -> PathBuf {
        let into = target_dir().join("cluster-logs").join(&self.scenario);
        let _ = fs::remove_dir_all(&into);
        for h in &self.hosts {
            h.save(&into);
        }
        into
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.hosts.is_empty() {
            let saved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.save()));
            if let Ok(dir) = saved {
                eprintln!("{}: journals are in {}", self.scenario, dir.display());
            }
        }
    }
}

fn host_files(dir: &Path, host: &str, b: &Builder<'_>) {
    for sub in ["upper", "work", "root"] {
        fs::create_dir_all(dir.join(sub)).expect("directory of a host");
    }
    let etc = dir.join("upper/etc");
    write(&etc.join("hostname"), &format!("{host}\n"));
    let id = digest([host, &dir.display().to_string()]);
    write(&etc.join("machine-id"), &format!("{id}{id}\n"));
    // A unit, because systemd in a container passes over the devices of fstab.
    let system = etc.join("systemd/system");
    write(
        &system.join("mars.mount"),
        &format!(
            "[Unit]\nDescription=State of MARS\nBefore=local-fs.target\n\n[Mount]\nWhat=/dev/vg/{MARS_DISK}\nWhere=/mars\nType=ext4\n"
        ),
    );
    let wants = system.join("local-fs.target.requires");
    fs::create_dir_all(&wants).expect("directory");
    std::os::unix::fs::symlink("../mars.mount", wants.join("mars.mount")).expect("link");
    let names = b.hosts.iter().enumerate();
    let hosts: String = names
        .map(|(i, h)| format!("{}.{} {h}\n", crate::keeper::NET, i + 1))
        .collect();
    write(&etc.join("hosts"), &format!("127.0.0.1 localhost\n{hosts}"));
    if !b.config.is_empty() {
        write(&etc.join("mars/mars.conf"), b.config);
    }
    fs::create_dir_all(dir.join("upper/var/log/journal")).expect("directory");
}
