//! One request that goes to the backend in several pieces, with one answer.

use crate::{Answers, IoResult, Ticket};
use std::sync::{Arc, Mutex, PoisonError};

struct State {
    /// Pieces not answered yet, and one for the submitter until it is through.
    open: u64,
    result: IoResult,
    whole: Option<Ticket>,
}

/// Collects the answers of the pieces; the first error wins.
pub(crate) struct Split {
    state: Mutex<State>,
    to: Arc<dyn Answers>,
}

impl Split {
    pub(crate) fn new(whole: Ticket) -> Arc<Split> {
        let to = Arc::clone(&whole.to);
        let state = State {
            open: 1,
            result: Ok(()),
            whole: Some(whole),
        };
        Arc::new(Split {
            state: Mutex::new(state),
            to,
        })
    }

    /// The ticket of one more piece.
    pub(crate) fn piece(self: &Arc<Self>) -> Ticket {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .open += 1;
        Ticket {
            to: Arc::clone(self) as Arc<dyn Answers>,
            tag: 0,
        }
    }

    /// No more pieces follow. The answer of the whole may be queued by this; the caller flushes.
    pub(crate) fn submitted(&self, result: IoResult) {
        self.finish(result);
    }

    fn finish(&self, result: IoResult) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open -= 1;
        if state.result.is_ok() {
            state.result = result;
        }
        if state.open > 0 {
            return;
        }
        let result = state.result;
        let whole = state.whole.take();
        drop(state);
        if let Some(whole) = whole {
            whole.done(result);
        }
    }
}

impl Answers for Split {
    fn done(&self, _tag: u64, result: IoResult) {
        self.finish(result);
    }
    fn flush(&self) {
        self.to.flush();
    }
}
