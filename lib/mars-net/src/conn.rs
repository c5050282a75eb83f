//! Blocking connections for the data services.
use crate::{Hello, HelloError, Refusal, accept_hello, offer_hello};
use nix::sys::socket::sockopt::{
    KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpNoDelay, TcpUserTimeout,
};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect as sys_connect, setsockopt,
    socket,
};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Own address to bind to (so that hosts on one machine differ); `None` = any.
    pub bind: Option<IpAddr>,
    /// Limit for connecting and for the handshake.
    pub timeout: Duration,
    /// Read timeout afterwards: silence for so long means the peer is gone.
    pub read_timeout: Duration,
}

/// A connection after the handshake.
#[derive(Debug)]
pub struct Conn {
    /// Who is on the other side.
    pub peer: Hello,
    /// The stream (plain TCP; TLS will take its place behind the same type).
    pub stream: TcpStream,
}

/// The address that outgoing connections should come from: a loopback address is bound, so that several hosts on one machine
/// are told apart; for others the routing table knows best.
pub fn bind_for(own: Option<IpAddr>) -> Option<IpAddr> {
    own.filter(IpAddr::is_loopback)
}

/// No delay for small frames; a dead peer is noticed after about half a minute also when we only wait.
pub fn tune<F: AsFd>(s: &F) -> io::Result<()> {
    setsockopt(s, TcpNoDelay, &true)?;
    setsockopt(s, KeepAlive, &true)?;
    setsockopt(s, TcpKeepIdle, &10)?;
    setsockopt(s, TcpKeepInterval, &5)?;
    setsockopt(s, TcpKeepCount, &4)?;
    // Unacknowledged data: same patience.
    setsockopt(s, TcpUserTimeout, &30_000)?;
    Ok(())
}

/// A stream for the time of the handshake: every call ends at one common deadline, so that a byte now and then does not prolong it.
struct Deadline<'a> {
    stream: &'a TcpStream,
    until: Instant,
}

impl Deadline<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no answer in time during the handshake",
            ));
        }
        Ok(Some(left))
    }
}

/// A socket timeout comes as `WouldBlock`; say what it is.
fn timed_out(e: io::Error) -> io::Error {
    if e.kind() == io::ErrorKind::WouldBlock {
        io::Error::new(
            io::ErrorKind::TimedOut,
            "no answer in time during the handshake",
        )
    } else {
        e
    }
}

impl Read for Deadline<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        (&mut &*self.stream).read(buf).map_err(timed_out)
    }
}
impl Write for Deadline<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        (&mut &*self.stream).write(buf).map_err(timed_out)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Timeouts of zero would be an error of the system call and mean "for ever" to nobody's surprise: `None`.
fn limit(d: Duration) -> Option<Duration> {
    Some(d).filter(|d| !d.is_zero())
}

fn dial(addr: SocketAddr, from: Option<IpAddr>, timeout: Duration) -> io::Result<TcpStream> {
    let Some(from) = from else {
        return TcpStream::connect_timeout(&addr, timeout);
    };
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let fd = socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    use std::os::fd::AsRawFd;
    bind(
        fd.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(from, 0)),
    )?;
    match sys_connect(fd.as_raw_fd(), &SockaddrStorage::from(addr)) {
        Ok(()) => {}
        Err(nix::errno::Errno::EINPROGRESS) => wait_connected(&fd, timeout)?,
        Err(e) => return Err(e.into()),
    }
    let stream = TcpStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn wait_connected<F: AsFd>(fd: &F, timeout: Duration) -> io::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let until = Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let ms = PollTimeout::try_from(left.as_millis().min(i32::MAX as u128) as i32)
            .unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, ms) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "connection timed out",
                ));
            }
            Ok(_) => {
                let e = nix::sys::socket::getsockopt(fd, nix::sys::socket::sockopt::SocketError)?;
                return if e == 0 {
                    Ok(())
                } else {
                    Err(io::Error::from_raw_os_error(e))
                };
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Connects, says hello, checks the answer.
pub fn connect(
    addr: IpAddr,
    port: u16,
    mine: &Hello,
    opts: &ConnectOptions,
    check: impl FnOnce(&Hello) -> Result<(), Refusal>,
) -> Result<Conn, HelloError> {
    let until = Instant::now() + opts.timeout;
    let stream = dial(SocketAddr::new(addr, port), opts.bind, opts.timeout)?;
    tune(&stream)?;
    let peer = offer_hello(
        &mut Deadline {
            stream: &stream,
            until,
        },
        mine,
        check,
    )?;
    settle(&stream, opts.read_timeout)?;
    Ok(Conn { peer, stream })
}

/// The serving side of [`connect`]: shakes hands on a fresh connection. `timeout` bounds the whole handshake, `read_timeout` every read after it
/// (zero = none).
pub fn accept(
    stream: TcpStream,
    mine: &Hello,
    timeout: Duration,
    read_timeout: Duration,
    check: impl FnOnce(&Hello) -> Result<(), Refusal>,
) -> Result<Conn, HelloError> {
    let until = Instant::now() + timeout;
    stream.set_nonblocking(false)?;
    tune(&stream)?;
    let peer = accept_hello(
        &mut Deadline {
            stream: &stream,
            until,
        },
        mine,
        check,
    )?;
    settle(&stream, read_timeout)?;
    Ok(Conn { peer, stream })
}

/// Timeouts of the working phase. A writer that makes no progress for that long gives up, too.
fn settle(stream: &TcpStream, read_timeout: Duration) -> io::Result<()> {
    stream.set_read_timeout(limit(read_timeout))?;
    stream.set_write_timeout(limit(read_timeout))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::{Service, listen};
    use std::thread;

    fn opts(from: &str) -> ConnectOptions {
        ConnectOptions {
            bind: Some(from.parse().unwrap()),
            timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(20),
        }
    }

    #[test]
    fn connection_comes_from_the_own_address() {
        let at: IpAddr = "127.41.1.1".parse().unwrap();
        let l = listen(at, 0).unwrap();
        let port = l.socket.local_addr().unwrap().port();
        let t = thread::spawn(move || {
            let (s, from) = l.socket.accept().unwrap();
            let mine = Hello::new(Service::Fetch, "u", "beta");
            let c = accept(
                s,
                &mine,
                Duration::from_secs(5),
                Duration::from_secs(5),
                |_| Ok(()),
            )
            .unwrap();
            (c.peer.host, from.ip())
        });
        let mine = Hello::new(Service::Fetch, "u", "alpha");
        let c = connect(at, port, &mine, &opts("127.41.1.2"), |_| Ok(())).unwrap();
        assert_eq!(c.peer.host, "beta");
        assert_eq!(
            c.stream.read_timeout().unwrap(),
            Some(Duration::from_secs(20))
        );
        assert_eq!(
            t.join().unwrap(),
            ("alpha".to_string(), "127.41.1.2".parse().unwrap())
        );
    }

    #[test]
    fn silent_server_ends_the_handshake_at_the_deadline() {
        let at: IpAddr = "127.41.1.3".parse().unwrap();
        let l = listen(at, 0).unwrap();
        let port = l.socket.local_addr().unwrap().port();
        let mut o = opts("127.41.1.4");
        o.timeout = Duration::from_millis(100);
        let mine = Hello::new(Service::Fetch, "u", "alpha");
        let e = connect(at, port, &mine, &o, |_| Ok(())).unwrap_err();
        assert!(matches!(e, HelloError::Io(e) if e.kind() == io::ErrorKind::TimedOut));
    }

    #[test]
    fn dripping_client_is_cut_at_the_common_deadline() {
        let (a, b) = {
            let l = listen("127.41.1.5".parse().unwrap(), 0).unwrap();
            let a = TcpStream::connect(l.socket.local_addr().unwrap()).unwrap();
            (a, l.socket.accept().unwrap().0)
        };
        // One correct byte per 20 ms would keep a per-read timeout of 100 ms alive through the whole hello of 32 bytes and more.
        let drip = thread::spawn(move || {
            let bytes = Hello::new(Service::Fetch, "u".repeat(200), "alpha").encode();
            let n = bytes
                .chunks(1)
                .take_while(|c| {
                    thread::sleep(Duration::from_millis(20));
                    (&a).write_all(c).is_ok()
                })
                .count();
            (n, bytes.len())
        });
        let mine = Hello::new(Service::Fetch, "u", "beta");
        let e = accept(
            b,
            &mine,
            Duration::from_millis(100),
            Duration::from_secs(5),
            |_| Ok(()),
        )
        .unwrap_err();
        assert!(matches!(e, HelloError::Io(e) if e.kind() == io::ErrorKind::TimedOut));
        let (n, all) = drip.join().unwrap();
        assert!(n < all);
    }

    #[test]
    fn nobody_listens_is_an_error_at_once() {
        let mine = Hello::new(Service::Fetch, "u", "alpha");
        let e = connect(
            "127.41.1.6".parse().unwrap(),
            1,
            &mine,
            &opts("127.41.1.7"),
            |_| Ok(()),
        )
        .unwrap_err();
        assert!(matches!(e, HelloError::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused));
    }
}
