//! What only the kernel of this machine knows.
use jiff::Timestamp;
use jiff::tz::TimeZone;
use mars_macro::Machine;
use mars_tree::{HostEnv, Key, Snapshot, Stamp};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::LazyLock;

/// Seconds that local time is ahead of UTC at a moment (seconds since 1970): `TZ`, or what `/etc/localtime` says.
pub fn utc_offset(secs: u64) -> i32 {
    static ZONE: LazyLock<TimeZone> =
        LazyLock::new(|| TimeZone::try_system().unwrap_or(TimeZone::UTC));
    let at = i64::try_from(secs)
        .ok()
        .and_then(|s| Timestamp::from_second(s).ok());
    at.map_or(0, |at| ZONE.to_offset(at).seconds())
}

/// Disks and devices of this host; mounts and status files are left empty.
pub fn machine(env: &HostEnv, snap: &Snapshot) -> Machine {
    let mut m = Machine {
        dev_dir: env.dev_dir.display().to_string(),
        root: env.root.display().to_string(),
        real_time: Stamp::real_time().secs(),
        utc_offset: Some(utc_offset),
        ..Machine::default()
    };
    for res in snap.resources() {
        let device = Key::Device(res.clone(), env.host.clone());
        let device = snap.sound_text(&device).unwrap_or(res.as_str());
        if env.dev_dir.join(device).exists() {
            m.devices.push(res.to_string());
        }
        if let Some(disk) = snap.sound_text(&Key::Data(res.clone(), env.host.clone())) {
            let usable = std::fs::metadata(Path::new(disk))
                .is_ok_and(|m| m.file_type().is_block_device() || m.is_file());
            if usable {
                m.disks_present.push(disk.to_string());
            }
        }
    }
    m
}
