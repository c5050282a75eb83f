//! The two threads of the engine. They decide nothing: each carries out the steps that the core hands out.
use crate::core::{Answer, DiskStep, Due, Exit, LogStep};
use crate::engine::Engine;
use mars_front::Ticket;
use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

/// Running threads.
pub struct Threads {
    engine: Arc<Engine>,
    handles: Vec<JoinHandle<()>>,
}

/// Starts both threads.
pub fn start(engine: &Arc<Engine>) -> io::Result<Threads> {
    let spawn = |name: &str, body: fn(&Engine)| {
        let engine = Arc::clone(engine);
        std::thread::Builder::new()
            .name(name.to_string())
            .stack_size(256 << 10)
            .spawn(move || body(&engine))
    };
    Ok(Threads {
        engine: Arc::clone(engine),
        handles: vec![spawn("log", log_loop)?, spawn("writeback", disk_loop)?],
    })
}

impl Threads {
    /// Ends after everything is durable and written back. When the disk fails it ends as soon as everything is in the log; returns whether the
    /// buffer is empty.
    pub fn drain(self) -> bool {
        self.end(Exit::Drained);
        let engine = Arc::clone(&self.engine);
        self.join();
        engine.lock().core.is_drained()
    }

    /// Ends at once; what is not durable is lost, as in a crash. `cut` runs when nothing new begins any more, while steps under way may still
    /// go on. For tests.
    pub fn abandon(self, cut: impl FnOnce()) {
        self.end(Exit::Now);
        cut();
        let engine = Arc::clone(&self.engine);
        self.join();
        // A thread of the front end may carry out a step, too.
        engine.wait_for_log();
    }

    fn end(&self, how: Exit) {
        self.engine.lock().core.end(how);
        self.engine.log_cv.notify_all();
        self.engine.disk_cv.notify_all();
        self.engine.room_cv.notify_all();
    }

    fn join(self) {
        for h in self.handles {
            if h.join().is_err() {
                tracing::error!("a thread of the engine panicked");
            }
        }
    }
}

fn log_loop(engine: &Engine) {
    let mut answers: Vec<Answer<Ticket>> = Vec::new();
    let mut st = engine.lock();
    loop {
        match st.core.next_log_step() {
            LogStep::End => {
                engine.wake(&mut st);
                return;
            }
            LogStep::Sleep => {
                st.log_sleeps = true;
                st = engine
                    .log_cv
                    .wait(st)
                    .unwrap_or_else(PoisonError::into_inner);
                st.log_sleeps = false;
            }
            step => {
                engine.wake(&mut st);
                drop(st);
                st = engine.do_log_step(step, &mut answers);
                engine.wake(&mut st);
                if !answers.is_empty() {
                    drop(st);
                    engine.deliver(&mut answers);
                    st = engine.lock();
                }
            }
        }
    }
}

fn disk_loop(engine: &Engine) {
    let mut answers: Vec<Answer<Ticket>> = Vec::new();
    let mut st = engine.lock();
    loop {
        let now = engine.now();
        match st.core.next_disk_step(now) {
            DiskStep::End => return,
            DiskStep::Sleep(until) => {
                // A frozen generation may wait for the log.
                engine.wake(&mut st);
                st.disk_sleeps = until.map_or(Due::Never, Due::At);
                st = match until {
                    Some(t) => {
                        engine
                            .disk_cv
                            .wait_timeout(st, t.saturating_sub(now))
                            .unwrap_or_else(PoisonError::into_inner)
                            .0
                    }
                    None => engine
                        .disk_cv
                        .wait(st)
                        .unwrap_or_else(PoisonError::into_inner),
                };
                st.disk_sleeps = Due::Now;
            }
            step => {
                engine.wake(&mut st);
                drop(st);
                st = engine.do_disk_step(step, &mut answers);
                if !answers.is_empty() {
                    drop(st);
                    engine.deliver(&mut answers);
                    st = engine.lock();
                }
            }
        }
    }
}
