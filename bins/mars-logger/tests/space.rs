//! Emergency by free space: logging stops before `/mars` is full, nobody sees an error, and it resumes when there is enough space again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use mars_daemon::Stop;
use mars_front::Backend;
use mars_logger::control::Control;
use mars_logger::stopping::Why;
use mars_logger::wake::Waker;
use mars_tree::{Batch, Key, TreeEvent, Watcher};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn set_level(host: &Host, level: u8) {
    let mut b = Batch::new();
    b.set(Key::parse("actual-alpha/emergency"), level);
    host.tree.commit(&b).unwrap();
}

fn wait_emergency(host: &Host, watcher: &mut Watcher, on: &str) {
    while host.get("actual-alpha/is-emergency").as_deref() != Some(on) {
        assert_ne!(watcher.wait(None).unwrap(), TreeEvent::Timeout);
    }
}

/// Ends the control loop, also when the script fails.
struct Over<'a>(&'a Stop, &'a Waker);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.set();
        self.1.wake();
    }
}

#[test]
fn level_4_stops_logging_and_level_0_resumes_it() {
    let host = Host::new(1 << 20);
    let mut b = Batch::new();
    b.mkdir("actual-alpha");
    host.tree.commit(&b).unwrap();
    set_level(&host, 3);
    let running = host.start(Options::default());
    let (stop, waker) = (Stop::new(), Waker::new().unwrap());
    let mut watcher = Watcher::resource(&host.tree, &host.res).unwrap();
    let mut seen = Watcher::resource(&host.tree, &host.res).unwrap();
    let acks = Arc::new(Acks::default());
    std::thread::scope(|s| {
        s.spawn(|| {
            let _over = Over(&stop, &waker);
            let write = |tag, byte: u8| {
                let ticket = acks.ticket(tag);
                running
                    .engine
                    .write(tag * 4096, &[byte; PAGE], false, ticket);
                running.engine.kick();
                assert!(acks.wait(tag, &AtomicBool::new(false)));
            };
            write(1, 1);
            assert!(!running.engine.status().is_emergency, "level 3");
            set_level(&host, 4);
            wait_emergency(&host, &mut seen, "1");
            write(2, 2);
            // Not before everything is good again.
            set_level(&host, 1);
            write(3, 3);
            assert!(!running.engine.try_resume());
            set_level(&host, 0);
            wait_emergency(&host, &mut seen, "0");
            write(4, 4);
            let log = running.engine.status().durable.log;
            assert_eq!(log, host.own_log(12), "behind the hole");
        });
        Control {
            daemon: None,
            stop: &stop,
            why: &|| Why::Stop,
            unmount: &|_| (),
            tree: &host.tree,
            res: &host.res,
            me: &host.me,
            engine: &running.engine,
            links: &running.links,
            front: None,
            waker: &waker,
            disk_size: &|| Ok(host.size),
            features_changed: &|| {},
        }
        .run(&mut watcher)
        .unwrap()
    });
    assert!(running.stop());
}
