//! Serves a disk in memory through a front end, for trials and benchmarks:
//! `memdisk DIR SIZE_MIB nbd|fuse` (device `DIR/dev/disk`, resource `disk`), until its standard input ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/common/mem.rs"]
mod mem;

use mars_front::{Backend, FrontKind};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, mib, kind] = &args[..] else {
        panic!("usage: memdisk DIR SIZE_MIB nbd|fuse");
    };
    let kind = if kind == "fuse" {
        FrontKind::Fuse
    } else {
        FrontKind::NbdSocket
    };
    let backend: Arc<dyn Backend> =
        Arc::new(mem::Mem::new(mib.parse::<u64>().expect("size") << 20));
    let env = mem::host_env(Path::new(dir));
    let mut front = mars_front::start(kind, &env, &"disk".parse().expect("name"), "disk", backend)
        .expect("start");
    println!("{}", front.target().display());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    front.stop(true).expect("stop");
}
