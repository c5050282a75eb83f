//! Peers of another cluster, another version, garbage and silence, at a serving daemon. Used by the process tests of fetch and sync.
use crate::support::{Host, PATIENCE, Pair};
use mars_net::{Conn, ConnectOptions, Hello, HelloError, Service, connect};
use mars_tree::Key;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const UUID: &str = "alpha_1700000000.000000001";

/// A serving daemon whose journal can be read.
struct Server {
    child: Child,
    journal: PathBuf,
    at: SocketAddr,
}

impl Server {
    fn start(exe: &str, host: &Host, port: u16) -> Server {
        let journal = host.disk.with_extension("journal");
        let mut c = Command::new(exe);
        c.arg("serve").stdin(Stdio::null());
        c.stderr(fs::File::create(&journal).unwrap());
        c.envs(host.env.to_vars()).env_remove("MARS_LOG");
        Server {
            child: c.spawn().unwrap(),
            journal,
            at: SocketAddr::new(host.ip.parse().unwrap(), port),
        }
    }
    fn call(&self, from: IpAddr, hello: &Hello) -> Result<Conn, HelloError> {
        let opts = ConnectOptions {
            bind: Some(from),
            timeout: PATIENCE,
            read_timeout: PATIENCE,
        };
        let end = Instant::now() + PATIENCE;
        loop {
            match connect(self.at.ip(), self.at.port(), hello, &opts, |_| Ok(())) {
                Err(HelloError::Io(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                    assert!(Instant::now() < end, "server does not start");
                    std::thread::yield_now();
                }
                other => return other,
            }
        }
    }
    /// Lines of the journal with these words, as soon as there is one.
    fn said(&self, words: &str) -> usize {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&self.journal).unwrap();
            let n = text.lines().filter(|l| l.contains(words)).count();
            if n > 0 {
                return n;
            }
            assert!(Instant::now() < end, "{words:?} is not in {text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    fn stranger(&self) -> TcpStream {
        let s = TcpStream::connect(self.at).unwrap();
        s.set_read_timeout(Some(PATIENCE)).unwrap();
        s
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits until the other side has closed.
fn closed(mut s: TcpStream) {
    let mut rest = Vec::new();
    match s.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}"),
    }
}

/// Each stranger is refused with the reason on both sides, logged once, and members are served before, meanwhile and afterwards.
/// `works` uses a connection that stands.
pub fn strangers(exe: &str, p: &Pair, (service, port): (Service, u16), works: impl Fn(&mut Conn)) {
    let server = Server::start(exe, &p.a, port);
    let hello = |uuid: &str, host: &str| Hello::new(service, uuid, host);
    let member: IpAddr = p.b.ip.parse().unwrap();
    let evil: IpAddr = format!("{}5", p.b.ip).parse().unwrap();
    let mut early = server.call(member, &hello(UUID, "beta")).unwrap();
    works(&mut early);

    let refused = |h: &Hello| match server.call(evil, h) {
        Err(HelloError::RefusedByPeer(why)) => why,
        other => panic!("{:?}", other.map(|c| c.peer)),
    };
    for _ in 0..3 {
        let why = refused(&hello("other_1700000000.000000001", "beta"));
        assert!(why.contains("other_17") && why.contains(UUID), "{why}");
        let mut old = hello(UUID, "beta");
        old.version = 99;
        assert!(refused(&old).contains("version 99"));
        let mut other = hello(UUID, "beta");
        other.service = Service::Meta;
        assert!(refused(&other).contains("wrong service"));
        assert!(refused(&hello(UUID, "gamma")).contains("not a member"));
    }
    for why in ["cluster uuid", "version 99", "wrong service", "gamma"] {
        assert_eq!(server.said(&format!("{evil}: refused: ")), 4, "{why}");
        assert_eq!(server.said(why), 1, "{why}");
    }
    for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"\0", &[0xff; 4096]] {
        let mut s = server.stranger();
        s.write_all(garbage).ok();
        closed(s);
    }
    assert_eq!(server.said("not a MARS peer"), 1);
    // Silence, and half a hello, both several times.
    let silent: Vec<TcpStream> = (0..10)
        .map(|i| {
            let mut s = server.stranger();
            if i % 2 == 0 {
                s.write_all(b"MARSwire\x01").unwrap();
            }
            s
        })
        .collect();
    works(&mut early);
    works(&mut server.call(member, &hello(UUID, "beta")).unwrap());
    silent.into_iter().for_each(closed);
    assert_eq!(server.said("connection from 127.0.0.1: "), 2);
    works(&mut early);
    works(&mut server.call(member, &hello(UUID, "beta")).unwrap());
    // More silence than there are places, all from one address: a member still gets through at once.
    let silent: Vec<TcpStream> = (0..300).map(|_| server.stranger()).collect();
    works(&mut server.call(member, &hello(UUID, "beta")).unwrap());
    assert_eq!(server.said("connection from 127.0.0.1: too many"), 1);
    drop(silent);
}

/// Addresses of their own, so that nothing else on this machine is met.
pub fn readdress(p: &mut Pair, net: u8) {
    p.a.ip = format!("127.44.{net}.1");
    p.b.ip = format!("127.44.{net}.2");
    p.both(|b| {
        b.set(Key::Ip("alpha".parse().unwrap()), &p.a.ip);
        b.set(Key::Ip("beta".parse().unwrap()), &p.b.ip);
    });
}
