//! Listening: socket activation or own bind.
use nix::sys::socket::{getsockopt, sockopt::AcceptConn};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};

/// A listener that came from systemd or was bound here.
#[derive(Debug)]
pub struct Listener {
    /// The socket, blocking.
    pub socket: TcpListener,
    /// True when systemd passed it.
    pub activated: bool,
}

/// First descriptor that systemd passes (sd_listen_fds(3)).
const LISTEN_FDS_START: i32 = 3;

/// Did systemd pass at least one socket to this very process?
fn passed(pid: Option<&str>, fds: Option<&str>, me: u32) -> bool {
    let number = |s: Option<&str>| s.and_then(|s| s.parse::<u32>().ok());
    number(pid) == Some(me) && number(fds).is_some_and(|n| n > 0)
}

/// Takes the descriptor once; a second caller binds for itself.
fn take_passed() -> Option<TcpListener> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let var = |k| std::env::var(k).ok();
    let (pid, fds) = (var("LISTEN_PID"), var("LISTEN_FDS"));
    if !passed(pid.as_deref(), fds.as_deref(), std::process::id())
        || TAKEN.swap(true, Ordering::SeqCst)
    {
        return None;
    }
    fd::listener(LISTEN_FDS_START)
}

/// Takes the first socket that systemd passed (LISTEN_FDS, LISTEN_PID), or binds `addr:port` (SO_REUSEADDR).
pub fn listen(addr: IpAddr, port: u16) -> io::Result<Listener> {
    if let Some(socket) = take_passed() {
        if !getsockopt(&socket, AcceptConn)? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the descriptor passed by systemd is no listening socket",
            ));
        }
        // Units pass non-blocking sockets by default.
        socket.set_nonblocking(false)?;
        return Ok(Listener {
            socket,
            activated: true,
        });
    }
    // The standard library sets SO_REUSEADDR.
    let socket = TcpListener::bind(SocketAddr::new(addr, port)).map_err(|e| {
        io::Error::new(
            e.kind(),
            format!("cannot listen on {addr} port {port}: {e}"),
        )
    })?;
    Ok(Listener {
        socket,
        activated: false,
    })
}

mod fd {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use std::net::TcpListener;
    use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

    /// Takes over a descriptor that was passed to the process at its start, if it is open.
    pub(super) fn listener(raw: i32) -> Option<TcpListener> {
        // SAFETY: only used to ask the kernel whether the number is open; nothing is closed.
        let probe = unsafe { BorrowedFd::borrow_raw(raw) };
        fcntl(probe, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
        // SAFETY: the number is open (just checked) and belongs to us by the socket activation protocol; the caller takes it only once.
        let owned = unsafe { OwnedFd::from_raw_fd(raw) };
        Some(TcpListener::from(owned))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn sockets_for_others_are_not_taken() {
        assert!(passed(Some("42"), Some("1"), 42));
        assert!(!passed(Some("41"), Some("1"), 42));
        assert!(!passed(Some("42"), Some("0"), 42));
        assert!(!passed(None, Some("1"), 42));
        assert!(!passed(Some("42"), Some("x"), 42));
    }

    #[test]
    fn port_can_be_bound_again_and_a_used_one_is_named() {
        let at: IpAddr = "127.41.2.1".parse().unwrap();
        let l = listen(at, 0).unwrap();
        let port = l.socket.local_addr().unwrap().port();
        let e = listen(at, port).unwrap_err();
        assert!(e.to_string().contains(&format!("127.41.2.1 port {port}")));
        drop(l);
        listen(at, port).unwrap();
    }
}
