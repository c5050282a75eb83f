//! Every key of the tree, typed (symlink-tree.md section 1).
use crate::names::numbered;
use crate::{HostName, LogName, ResName};

/// A switch in `todo-HOST/`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TodoSwitch {
    /// `attach`
    Attach,
    /// `connect` (log fetch)
    Connect,
    /// `sync`
    Sync,
    /// `allow-replay`
    AllowReplay,
}

/// A key: a path below the root. `Key::parse(&key.path()) == key` for every key; what fits no rule is `Other` and is
/// stored and forwarded unchanged.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    /// `uuid`
    Uuid,
    /// `ips/ip-HOST`
    Ip(HostName),
    /// `defaults/NAME` (feature masks)
    Default(String),
    /// `defaults-HOST/NAME` (`sync-limit`, `sync-pref-list`, masks)
    HostDefault(HostName, String),
    /// `todo-global/NAME`
    TodoGlobal(String),
    /// `userspace/PATH`
    Userspace(String),
    /// `actual-HOST/NAME` (`time`, `alive`, `tree`, `features`, ...)
    HostActual(HostName, String),
    /// `resource-RES/size`
    Size(ResName),
    /// `resource-RES/primary`
    Primary(ResName),
    /// `resource-RES/maxnr`
    MaxNr(ResName),
    /// `resource-RES/systemd-NAME` (`want`, `start-unit`, `stop-unit`)
    Systemd(ResName, String),
    /// `resource-RES/userspace/PATH` (`last-primary`, `prev-primary`, ...)
    ResUserspace(ResName, String),
    /// `resource-RES/data-HOST`
    Data(ResName, HostName),
    /// `resource-RES/device-HOST`
    Device(ResName, HostName),
    /// `resource-RES/actsize-HOST`
    ActSize(ResName, HostName),
    /// `resource-RES/replay-HOST`
    Replay(ResName, HostName),
    /// `resource-RES/version-NNNNNNNNN-HOST`
    Version(ResName, u32, HostName),
    /// `resource-RES/syncstatus-HOST`
    SyncStatus(ResName, HostName),
    /// `resource-RES/syncpos-HOST`
    SyncPos(ResName, HostName),
    /// `resource-RES/verifystatus-HOST`
    VerifyStatus(ResName, HostName),
    /// `resource-RES/syncfrom-HOST`
    SyncFrom(ResName, HostName),
    /// `resource-RES/skip-check-HOST`
    SkipCheck(ResName, HostName),
    /// `resource-RES/connect-HOST`
    ConnectPref(ResName, HostName),
    /// `resource-RES/log-NNNNNNNNN-HOST` (a regular file, or a tombstone link)
    Log(ResName, LogName),
    /// `resource-RES/todo-HOST/attach|connect|sync|allow-replay`
    Todo(ResName, HostName, TodoSwitch),
    /// `resource-RES/todo-HOST/NAME` (others: `emergency-limit`, `exports`)
    TodoOther(ResName, HostName, String),
    /// `resource-RES/actual-HOST/NAME` (`is-primary`, `open-count`, `replay-code`, rates, `msg-CLASS-NAME`, ...)
    Actual(ResName, HostName, String),
    /// `resource-RES/defaults/NAME`
    ResDefault(ResName, String),
    /// `resource-RES/defaults-HOST/NAME`
    ResHostDefault(ResName, HostName, String),
    /// Anything else, as the path below the root.
    Other(String),
}

impl TodoSwitch {
    /// All switches, in the order in which they are shown.
    pub const ALL: [TodoSwitch; 4] = [
        TodoSwitch::Attach,
        TodoSwitch::Connect,
        TodoSwitch::Sync,
        TodoSwitch::AllowReplay,
    ];
    /// The name below `todo-HOST/`.
    pub const fn name(self) -> &'static str {
        match self {
            TodoSwitch::Attach => "attach",
            TodoSwitch::Connect => "connect",
            TodoSwitch::Sync => "sync",
            TodoSwitch::AllowReplay => "allow-replay",
        }
    }
}

/// Longest path below the root in bytes.
const PATH_MAX: usize = 1000;
/// Longest name of an entry: 255 minus what the name of a temporary link adds.
const NAME_MAX: usize = 238;
/// Most components of a path: three directories and a name.
pub(crate) const DEPTH_MAX: usize = 4;

/// May this path exist in a tree at all? No hidden, empty or too long components, not too deep, no control characters.
pub(crate) fn is_valid_path(path: &str) -> bool {
    path.len() <= PATH_MAX
        && !path.chars().any(char::is_control)
        && path.split('/').count() <= DEPTH_MAX
        && path.split('/').all(is_plain)
}
/// One visible component.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/') && name.len() <= NAME_MAX
}
/// One or more visible components.
fn is_plain_path(path: &str) -> bool {
    path.split('/').all(is_plain)
}

/// Is this the place of a directory? A link there would be in the way of everything below.
fn is_directory_place(path: &str) -> bool {
    let mut c = path.split('/');
    let (first, second, third) = (c.next().unwrap_or(""), c.next(), c.next());
    let global = |n: &str| {
        matches!(n, "ips" | "userspace" | "defaults" | "todo-global")
            || n.starts_with("resource-")
            || n.starts_with("defaults-")
            || n.starts_with("actual-")
    };
    let inner = |n: &str| {
        matches!(n, "userspace" | "defaults")
            || n.starts_with("defaults-")
            || n.starts_with("actual-")
            || n.starts_with("todo-")
    };
    match (second, third) {
        (None, _) => global(first),
        (Some(n), None) => first.starts_with("resource-") && inner(n),
        _ => false,
    }
}

impl Key {
    /// Never fails: what fits no rule becomes [`Key::Other`].
    pub fn parse(path: &str) -> Key {
        Key::known(path).unwrap_or_else(|| Key::Other(path.to_string()))
    }

    fn known(path: &str) -> Option<Key> {
        let Some((dir, rest)) = path.split_once('/') else {
            return (path == "uuid").then_some(Key::Uuid);
        };
        if let Some(res) = dir.strip_prefix("resource-") {
            return Key::known_in(res.parse().ok()?, rest);
        }
        if dir == "userspace" {
            return is_plain_path(rest).then(|| Key::Userspace(rest.to_string()));
        }
        if !is_plain(rest) {
            return None;
        }
        let name = rest.to_string();
        match dir {
            "ips" => Some(Key::Ip(rest.strip_prefix("ip-")?.parse().ok()?)),
            "defaults" => Some(Key::Default(name)),
            "todo-global" => Some(Key::TodoGlobal(name)),
            _ => {
                if let Some(h) = dir.strip_prefix("defaults-") {
                    Some(Key::HostDefault(h.parse().ok()?, name))
                } else {
                    let h = dir.strip_prefix("actual-")?;
                    Some(Key::HostActual(h.parse().ok()?, name))
                }
            }
        }
    }

    /// Keys below `resource-RES/`.
    fn known_in(res: ResName, rest: &str) -> Option<Key> {
        let Some((dir, name)) = rest.split_once('/') else {
            return Key::known_flat(res, rest);
        };
        if dir == "userspace" {
            return is_plain_path(name).then(|| Key::ResUserspace(res, name.to_string()));
        }
        if !is_plain(name) {
            return None;
        }
        if dir == "defaults" {
            return Some(Key::ResDefault(res, name.to_string()));
        }
        if let Some(h) = dir.strip_prefix("todo-") {
            let host = h.parse().ok()?;
            return Some(match TodoSwitch::ALL.iter().find(|s| s.name() == name) {
                Some(switch) => Key::Todo(res, host, *switch),
                None => Key::TodoOther(res, host, name.to_string()),
            });
        }
        if let Some(h) = dir.strip_prefix("actual-") {
            return Some(Key::Actual(res, h.parse().ok()?, name.to_string()));
        }
        let h = dir.strip_prefix("defaults-")?;
        Some(Key::ResHostDefault(res, h.parse().ok()?, name.to_string()))
    }

    /// Keys directly in `resource-RES/`.
    fn known_flat(res: ResName, name: &str) -> Option<Key> {
        match name {
            "size" => return Some(Key::Size(res)),
            "primary" => return Some(Key::Primary(res)),
            "maxnr" => return Some(Key::MaxNr(res)),
            _ => {}
        }
        if let Some(rest) = name.strip_prefix("log-") {
            let (nr, host) = numbered(rest)?;
            return Some(Key::Log(res, LogName { nr, host }));
        }
        if let Some(rest) = name.strip_prefix("version-") {
            let (nr, host) = numbered(rest)?;
            return Some(Key::Version(res, nr, host));
        }
        if let Some(rest) = name.strip_prefix("systemd-") {
            return is_plain(rest).then(|| Key::Systemd(res, rest.to_string()));
        }
        type Make = fn(ResName, HostName) -> Key;
        const OWNED: [(&str, Make); 10] = [
            ("data-", Key::Data),
            ("device-", Key::Device),
            ("actsize-", Key::ActSize),
            ("replay-", Key::Replay),
            ("syncstatus-", Key::SyncStatus),
            ("syncpos-", Key::SyncPos),
            ("verifystatus-", Key::VerifyStatus),
            ("syncfrom-", Key::SyncFrom),
            ("skip-check-", Key::SkipCheck),
            ("connect-", Key::ConnectPref),
        ];
        let (host, make) = OWNED
            .iter()
            .find_map(|(prefix, make)| Some((name.strip_prefix(prefix)?, make)))?;
        Some(make(res, host.parse().ok()?))
    }

    /// The path below the root.
    pub fn path(&self) -> String {
        match self {
            Key::Uuid => "uuid".to_string(),
            Key::Ip(h) => format!("ips/ip-{h}"),
            Key::Default(n) => format!("defaults/{n}"),
            Key::HostDefault(h, n) => format!("defaults-{h}/{n}"),
            Key::TodoGlobal(n) => format!("todo-global/{n}"),
            Key::Userspace(p) => format!("userspace/{p}"),
            Key::HostActual(h, n) => format!("actual-{h}/{n}"),
            Key::Size(r) => format!("resource-{r}/size"),
            Key::Primary(r) => format!("resource-{r}/primary"),
            Key::MaxNr(r) => format!("resource-{r}/maxnr"),
            Key::Systemd(r, n) => format!("resource-{r}/systemd-{n}"),
            Key::ResUserspace(r, p) => format!("resource-{r}/userspace/{p}"),
            Key::Data(r, h) => format!("resource-{r}/data-{h}"),
            Key::Device(r, h) => format!("resource-{r}/device-{h}"),
            Key::ActSize(r, h) => format!("resource-{r}/actsize-{h}"),
            Key::Replay(r, h) => format!("resource-{r}/replay-{h}"),
            Key::Version(r, nr, h) => format!("resource-{r}/version-{nr:09}-{h}"),
            Key::SyncStatus(r, h) => format!("resource-{r}/syncstatus-{h}"),
            Key::SyncPos(r, h) => format!("resource-{r}/syncpos-{h}"),
            Key::VerifyStatus(r, h) => format!("resource-{r}/verifystatus-{h}"),
            Key::SyncFrom(r, h) => format!("resource-{r}/syncfrom-{h}"),
            Key::SkipCheck(r, h) => format!("resource-{r}/skip-check-{h}"),
            Key::ConnectPref(r, h) => format!("resource-{r}/connect-{h}"),
            Key::Log(r, log) => format!("resource-{r}/{log}"),
            Key::Todo(r, h, s) => format!("resource-{r}/todo-{h}/{}", s.name()),
            Key::TodoOther(r, h, n) => format!("resource-{r}/todo-{h}/{n}"),
            Key::Actual(r, h, n) => format!("resource-{r}/actual-{h}/{n}"),
            Key::ResDefault(r, n) => format!("resource-{r}/defaults/{n}"),
            Key::ResHostDefault(r, h, n) => format!("resource-{r}/defaults-{h}/{n}"),
            Key::Other(p) => p.clone(),
        }
    }

    /// The resource the key belongs to (also for `Other` keys below `resource-RES/`).
    pub fn resource(&self) -> Option<ResName> {
        match self {
            Key::Size(r)
            | Key::Primary(r)
            | Key::MaxNr(r)
            | Key::Systemd(r, _)
            | Key::ResUserspace(r, _)
            | Key::Data(r, _)
            | Key::Device(r, _)
            | Key::ActSize(r, _)
            | Key::Replay(r, _)
            | Key::Version(r, _, _)
            | Key::SyncStatus(r, _)
            | Key::SyncPos(r, _)
            | Key::VerifyStatus(r, _)
            | Key::SyncFrom(r, _)
            | Key::SkipCheck(r, _)
            | Key::ConnectPref(r, _)
            | Key::Log(r, _)
            | Key::Todo(r, _, _)
            | Key::TodoOther(r, _, _)
            | Key::Actual(r, _, _)
            | Key::ResDefault(r, _)
            | Key::ResHostDefault(r, _, _) => Some(r.clone()),
            Key::Other(p) => p
                .strip_prefix("resource-")?
                .split_once('/')
                .and_then(|(r, _)| r.parse().ok()),
            _ => None,
        }
    }

    /// The owner named by the key's suffix or directory, if it has one.
    pub fn owner(&self) -> Option<&HostName> {
        match self {
            Key::Ip(h)
            | Key::HostDefault(h, _)
            | Key::HostActual(h, _)
            | Key::Data(_, h)
            | Key::Device(_, h)
            | Key::ActSize(_, h)
            | Key::Replay(_, h)
            | Key::Version(_, _, h)
            | Key::SyncStatus(_, h)
            | Key::SyncPos(_, h)
            | Key::VerifyStatus(_, h)
            | Key::SyncFrom(_, h)
            | Key::SkipCheck(_, h)
            | Key::ConnectPref(_, h)
            | Key::Todo(_, h, _)
            | Key::TodoOther(_, h, _)
            | Key::Actual(_, h, _)
            | Key::ResHostDefault(_, h, _) => Some(h),
            Key::Log(_, log) => Some(&log.host),
            _ => None,
        }
    }

    /// May this key travel between hosts (symlink-tree.md 3.1)? False for hidden names, `ignore*`, `cache-*`, `backup*`,
    /// `probe-*`, `local-*`, paths with `..`, empty components, too deep (more than 3 directories), too long, NUL or newline;
    /// also for the trigger files and for the places of directories.
    pub fn is_replicated(&self) -> bool {
        let path = self.path();
        if !is_valid_path(&path) || is_directory_place(&path) {
            return false;
        }
        if path.split('/').any(|c| c.starts_with("ignore")) {
            return false;
        }
        match self {
            // Free name spaces; only the files that start the reconciler stay at home.
            Key::Userspace(p) => p != "systemd-trigger" && p != "emergency-trigger",
            Key::ResUserspace(..) => true,
            Key::Systemd(_, n) => n != "trigger",
            _ => !path.split('/').any(|c| {
                ["cache-", "backup", "probe-", "local-"]
                    .iter()
                    .any(|p| c.starts_with(p))
            }),
        }
    }
}
