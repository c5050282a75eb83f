//! Threads for what has to wait for the device: made on demand, a bounded number, gone when idle.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Enough to keep a disk busy; more only cost memory.
const THREADS_MAX: usize = 16;
const IDLE: Duration = Duration::from_secs(1);
const STACK: usize = 128 << 10;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

/// The pool. Its queue is bounded by its users (requests in flight per connection).
#[derive(Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
    cond: Condvar,
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `job` soon in another thread. Fails, with the job not run and dropped, when there is no thread and none can be made.
    pub(crate) fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut state = self.state();
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() {
            self.cond.notify_one();
            return Ok(());
        }
        if state.threads >= THREADS_MAX {
            return Ok(());
        }
        state.threads += 1;
        let pool = Arc::clone(self);
        let made = std::thread::Builder::new()
            .name("front-read".into())
            .stack_size(STACK)
            .spawn(move || pool.work());
        if let Err(e) = made {
            state.threads -= 1;
            if state.threads == 0 {
                state.jobs.pop_back();
                return Err(e);
            }
        }
        Ok(())
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.state();
                continue;
            }
            state.idle += 1;
            let (guard, timeout) = self
                .cond
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}
