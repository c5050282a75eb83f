//! Signals while the terminal is taken.
use crate::error::{CmdError, Done};
use crate::watch::screen::give_back_settings;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// A terminal that takes no more output (a connection that hangs) can hold whoever writes to it: the program ends all the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Back to the shell.
    Suspend,
    /// It went on.
    Continue,
    /// The terminal has another size.
    Resize,
}

/// Signals as events.
pub struct Signals {
    fd: SignalFd,
    quit: Arc<EventFd>,
}

fn set(signals: &[Signal]) -> SigSet {
    signals.iter().copied().collect()
}

fn cannot(e: impl std::fmt::Display) -> CmdError {
    CmdError::Failed(format!("signals cannot be awaited: {e}"))
}

impl Signals {
    /// From now on. To be called before any other thread is started: they inherit what is blocked.
    pub fn start() -> Done<Signals> {
        let ends = set(&[
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ]);
        let other = set(&[Signal::SIGTSTP, Signal::SIGCONT, Signal::SIGWINCH]);
        ends.thread_block().map_err(cannot)?;
        other.thread_block().map_err(cannot)?;
        let fd = SignalFd::with_flags(&other, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(cannot)?;
        let quit = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(cannot)?);
        let tell = Arc::clone(&quit);
        let body = move || {
            if ends.wait().is_err() {
                return;
            }
            let _ = tell.write(1);
            std::thread::sleep(PATIENCE);
            give_back_settings();
            std::process::exit(1);
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(body)
            .map_err(cannot)?;
        Ok(Signals { fd, quit })
    }

    /// Readable when the program shall end.
    pub fn quit(&self) -> BorrowedFd<'_> {
        self.quit.as_fd()
    }

    /// Readable when [`Signals::next`] has something.
    pub fn other(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What came, without waiting.
    pub fn next(&mut self) -> Option<Ask> {
        let info = self.fd.read_signal().ok()??;
        match i32::try_from(info.ssi_signo).map(Signal::try_from) {
            Ok(Ok(Signal::SIGTSTP)) => Some(Ask::Suspend),
            Ok(Ok(Signal::SIGCONT)) => Some(Ask::Continue),
            _ => Some(Ask::Resize),
        }
    }
}
