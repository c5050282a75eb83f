//! What only the kernel of this machine knows.
use mars_macro::Machine;
use mars_tree::{HostEnv, Key, Snapshot, Stamp};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Disks and devices of this host; mounts and status files are left empty.
pub fn machine(env: &HostEnv, snap: &Snapshot) -> Machine {
    let mut m = Machine {
        dev_dir: env.dev_dir.display().to_string(),
        root: env.root.display().to_string(),
        real_time: Stamp::real_time().secs(),
        ..Machine::default()
    };
    for res in snap.resources() {
        let device = Key::Device(res.clone(), env.host.clone());
        let device = snap.text(&device).unwrap_or(res.as_str());
        if env.dev_dir.join(device).exists() {
            m.devices.push(res.to_string());
        }
        if let Some(disk) = snap.text(&Key::Data(res.clone(), env.host.clone())) {
            let usable = std::fs::metadata(Path::new(disk))
                .is_ok_and(|m| m.file_type().is_block_device() || m.is_file());
            if usable {
                m.disks_present.push(disk.to_string());
            }
        }
    }
    m
}
