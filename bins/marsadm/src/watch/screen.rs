//! The terminal: taken over, and given back as it was, whatever ends the program.
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Pid, write};
use ratatui_core::layout::Rect;
use ratatui_core::terminal::{Frame, Terminal, TerminalOptions, Viewport};
use ratatui_crossterm::CrosstermBackend;
use ratatui_crossterm::crossterm::terminal::window_size;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// Other screen, no cursor.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[2J";
/// The reverse, and no colours or reversed letters.
const LEAVE: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";

/// What is needed to give the terminal back; `None`: it is not taken.
static TAKEN: Mutex<Option<Taken>> = Mutex::new(None);

struct Taken {
    input: OwnedFd,
    output: OwnedFd,
    before: Termios,
}

/// Gives the terminal back, if it is taken.
pub fn give_back() {
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(t) = taken {
        let _ = write(&t.output, LEAVE);
        let _ = tcsetattr(&t.input, SetArg::TCSANOW, &t.before);
    }
}

/// Gives back only how the terminal treats letters: nothing is written, so it cannot block.
pub fn give_back_settings() {
    if let Ok(taken) = TAKEN.try_lock()
        && let Some(t) = taken.as_ref()
    {
        let _ = tcsetattr(&t.input, SetArg::TCSANOW, &t.before);
    }
}

/// A panic gives the terminal back before its message is written, and ends the program in whatever thread it is.
pub fn on_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        give_back();
        usual(info);
        std::process::exit(101);
    }));
}

/// Where keys come from: stdin, or the terminal of the session when stdin is something else.
pub fn keyboard() -> io::Result<OwnedFd> {
    if stdin().is_terminal() {
        return stdin().as_fd().try_clone_to_owned();
    }
    Ok(File::options()
        .read(true)
        .write(true)
        .open("/dev/tty")?
        .into())
}

/// The screen, taken until this goes.
pub struct Screen {
    input: OwnedFd,
    output: OwnedFd,
    terminal: Terminal<CrosstermBackend<BufWriter<File>>>,
}

/// Serial lines do not tell their size.
fn area() -> Rect {
    match window_size() {
        Ok(s) if s.columns > 0 && s.rows > 0 => Rect::new(0, 0, s.columns, s.rows),
        _ => Rect::new(0, 0, 80, 24),
    }
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When it cannot be set.
    pub fn take(input: OwnedFd) -> io::Result<Screen> {
        let output = stdout().as_fd().try_clone_to_owned()?;
        let writer = BufWriter::with_capacity(64 << 10, File::from(output.try_clone()?));
        let viewport = Viewport::Fixed(area());
        let screen = Screen {
            input,
            output,
            terminal: Terminal::with_options(
                CrosstermBackend::new(writer),
                TerminalOptions { viewport },
            )?,
        };
        screen.enter()?;
        Ok(screen)
    }

    fn enter(&self) -> io::Result<()> {
        let before = tcgetattr(&self.input)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        let taken = Taken {
            input: self.input.try_clone()?,
            output: self.output.try_clone()?,
            before,
        };
        // First the way back, then the way in.
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(taken);
        tcsetattr(&self.input, SetArg::TCSANOW, &raw)?;
        write(&self.output, ENTER)?;
        Ok(())
    }

    /// Where keys come from.
    pub fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// Draws; only what differs from the last frame is written.
    pub fn draw(&mut self, body: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(body)?;
        Ok(())
    }

    /// The next frame is written as a whole, in the size that the terminal has now.
    pub fn repaint(&mut self) -> io::Result<()> {
        self.terminal.resize(area())
    }

    /// After somebody else had the terminal: the program was stopped and goes on.
    pub fn again(&mut self) -> io::Result<()> {
        give_back();
        self.enter()?;
        self.repaint()
    }

    /// Back to the shell, until it lets us go on.
    pub fn suspend(&mut self) -> io::Result<()> {
        give_back();
        let mut stop = SigSet::empty();
        stop.add(Signal::SIGTSTP);
        stop.thread_unblock()?;
        // As the terminal does it: to everybody of the job. Returns when the job goes on.
        let stopped = kill(Pid::from_raw(0), Signal::SIGTSTP);
        stop.thread_block()?;
        stopped?;
        self.again()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}
