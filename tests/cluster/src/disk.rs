//! Disks of the hosts: loop devices over sparse files.
use crate::util::run;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device that lives as long as this value, or as somebody else has it open.
#[derive(Debug)]
pub struct Disk {
    /// `/dev/loopN`.
    pub device: PathBuf,
    /// The sparse file below it.
    pub image: PathBuf,
    _open: File,
}

impl Disk {
    /// Makes the file, which must not exist, and attaches it.
    pub fn create(image: &Path, mib: u64) -> Disk {
        let file = File::create_new(image).unwrap_or_else(|e| panic!("{}: {e}", image.display()));
        file.set_len(mib << 20).expect("size of the disk");
        let device = run(Command::new("losetup")
            .args(["--find", "--show"])
            .arg(image));
        let device = PathBuf::from(device.trim());
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&device)
            .unwrap_or_else(|e| panic!("{}: {e}", device.display()));
        // While it is open this only means: with the last close.
        run(Command::new("losetup").arg("--detach").arg(&device));
        Disk {
            device,
            image: image.to_path_buf(),
            _open: open,
        }
    }
}

/// Loop devices that are attached, with the name of what is below them.
pub fn attached() -> Vec<(String, PathBuf)> {
    let list = fs::read_dir("/sys/block").expect("/sys/block");
    let mut v: Vec<(String, PathBuf)> = list
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let file = fs::read_to_string(e.path().join("loop/backing_file")).ok()?;
            Some((name, PathBuf::from(file.trim_end())))
        })
        .collect();
    v.sort();
    v
}
