//! The first bytes of every connection, both directions.
//!
//! Three messages: the client's hello, the server's hello, the client's accept; either side may send a refusal with its reason instead.
//! All have the same head, which is the same in every version to come, so that hosts of different versions can tell each other so:
//!
//! | bytes | content |
//! |---|---|
//! | 0..8 | `MARSwire` |
//! | 8..10 | protocol version of the sender, little-endian |
//! | 10 | service: 1 metadata, 2 log fetch, 3 sync |
//! | 11 | message: 1 hello, 2 accept, 3 refusal |
//! | 12..14 | length of the body, little-endian |
//!
//! Body of a hello: one byte length and text of the cluster uuid, one byte length and text of the host name. Of an accept: nothing.
//! Of a refusal: the reason, one line.
//!
//! Version history: 1 = first.
use std::io::{self, Read, Write};

/// Version of all three protocols.
pub const PROTOCOL_VERSION: u16 = 1;
/// Largest hello in bytes.
pub const HELLO_MAX: usize = 512;
/// Bytes of the head that all messages of the handshake share.
pub const HELLO_HEAD: usize = 14;

const MAGIC: &[u8; 8] = b"MARSwire";
const UUID_MAX: usize = 200;
const HOST_MAX: usize = 63;
const REASON_MAX: usize = HELLO_MAX - HELLO_HEAD;

const MSG_HELLO: u8 = 1;
const MSG_ACCEPT: u8 = 2;
const MSG_REFUSAL: u8 = 3;

/// What the connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// Metadata, port base.
    Meta,
    /// Log fetch, port base + 1.
    Fetch,
    /// Sync, port base + 2.
    Sync,
}

impl Service {
    fn code(self) -> u8 {
        match self {
            Service::Meta => 1,
            Service::Fetch => 2,
            Service::Sync => 3,
        }
    }
    fn from_code(c: u8) -> Option<Service> {
        match c {
            1 => Some(Service::Meta),
            2 => Some(Service::Fetch),
            3 => Some(Service::Sync),
            _ => None,
        }
    }
}

/// Who speaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Purpose.
    pub service: Service,
    /// Protocol version.
    pub version: u16,
    /// Cluster uuid (`(any)` while joining; only Meta allows it).
    pub uuid: String,
    /// Host name.
    pub host: String,
}

/// Why a peer is refused; sent to it and logged on both sides.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Other cluster.
    #[error("cluster uuid {theirs:?} does not match {ours:?}")]
    Uuid {
        /// Peer's.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// Other version.
    #[error("protocol version {theirs}, this host speaks {ours}")]
    Version {
        /// Peer's.
        theirs: u16,
        /// Ours.
        ours: u16,
    },
    /// Wrong port.
    #[error("wrong service")]
    Service,
    /// Not a member.
    #[error("host {0:?} is not a member of this cluster")]
    Host(String),
    /// Other reason, one line.
    #[error("{0}")]
    Other(String),
}

/// Failure of the handshake.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// Connection broke, or silence.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// First bytes are not ours.
    #[error("not a MARS peer (unexpected first bytes)")]
    Garbage,
    /// We refused the peer.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The peer refused us, with its reason.
    #[error("refused by the peer: {0}")]
    RefusedByPeer(String),
}

/// One message of the handshake as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HelloMessage {
    /// Who the sender is.
    Hello(Hello),
    /// The client agrees.
    Accept,
    /// The sender does not agree; its reason.
    Refusal(String),
    /// A message of another version: its body is not understood.
    OtherVersion(u16),
}

fn message(service: Service, version: u16, msg: u8, body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(REASON_MAX)];
    let mut out = Vec::with_capacity(HELLO_HEAD + body.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&version.to_le_bytes());
    out.push(service.code());
    out.push(msg);
    // REASON_MAX fits into 16 bits.
    out.extend_from_slice(&(body.len() as u16).to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// The longest beginning of `s` with at most `max` bytes.
fn clip(s: &str, max: usize) -> &str {
    let mut n = s.len().min(max);
    while !s.is_char_boundary(n) {
        n -= 1;
    }
    &s[..n]
}

/// Text from the network that may go to a log: one line, no control characters, bounded.
fn printable(bytes: &[u8], max: usize) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .take(max)
        .collect()
}

impl Hello {
    /// A hello of this version.
    pub fn new(service: Service, uuid: impl Into<String>, host: impl Into<String>) -> Hello {
        Hello {
            service,
            version: PROTOCOL_VERSION,
            uuid: uuid.into(),
            host: host.into(),
        }
    }
    /// Bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let uuid = clip(&self.uuid, UUID_MAX);
        let host = clip(&self.host, HOST_MAX);
        let mut body = Vec::with_capacity(2 + uuid.len() + host.len());
        body.push(uuid.len() as u8);
        body.extend_from_slice(uuid.as_bytes());
        body.push(host.len() as u8);
        body.extend_from_slice(host.as_bytes());
        message(self.service, self.version, MSG_HELLO, &body)
    }
}

/// The client's agreement.
pub fn encode_accept(service: Service) -> Vec<u8> {
    message(service, PROTOCOL_VERSION, MSG_ACCEPT, &[])
}

/// A refusal with its reason.
pub fn encode_refusal(service: Service, why: &Refusal) -> Vec<u8> {
    let text = printable(why.to_string().as_bytes(), REASON_MAX);
    message(
        service,
        PROTOCOL_VERSION,
        MSG_REFUSAL,
        clip(&text, REASON_MAX).as_bytes(),
    )
}

/// How many bytes the message that starts with `head` needs in all; `None` while that is not known yet. Garbage is an error as soon as its first
/// wrong byte is there, so that a port scanner does not keep a connection until the timeout.
pub fn hello_needs(head: &[u8]) -> Result<Option<usize>, HelloError> {
    let n = head.len().min(MAGIC.len());
    if head[..n] != MAGIC[..n] {
        return Err(HelloError::Garbage);
    }
    match head.get(12..HELLO_HEAD) {
        None => Ok(None),
        Some(len) => {
            let len = usize::from(u16::from_le_bytes([len[0], len[1]]));
            if len > REASON_MAX {
                return Err(HelloError::Garbage);
            }
            Ok(Some(HELLO_HEAD + len))
        }
    }
}

/// Decodes one complete message of the handshake; surplus or missing bytes are garbage.
pub fn decode_hello(bytes: &[u8]) -> Result<HelloMessage, HelloError> {
    if hello_needs(bytes)? != Some(bytes.len()) {
        return Err(HelloError::Garbage);
    }
    let version = u16::from_le_bytes([bytes[8], bytes[9]]);
    let body = &bytes[HELLO_HEAD..];
    // A refusal is understood in every version, else nobody could say why.
    if bytes[11] == MSG_REFUSAL {
        return Ok(HelloMessage::Refusal(printable(body, REASON_MAX)));
    }
    if version != PROTOCOL_VERSION {
        return Ok(HelloMessage::OtherVersion(version));
    }
    let service = Service::from_code(bytes[10]).ok_or(HelloError::Garbage)?;
    match bytes[11] {
        MSG_ACCEPT if body.is_empty() => Ok(HelloMessage::Accept),
        MSG_HELLO => {
            let (uuid, rest) = text_field(body, UUID_MAX)?;
            let (host, rest) = text_field(rest, HOST_MAX)?;
            if !rest.is_empty() || host.is_empty() || !host.bytes().all(is_name_byte) {
                return Err(HelloError::Garbage);
            }
            Ok(HelloMessage::Hello(Hello {
                service,
                version,
                uuid,
                host,
            }))
        }
        _ => Err(HelloError::Garbage),
    }
}

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

fn text_field(bytes: &[u8], max: usize) -> Result<(String, &[u8]), HelloError> {
    let (&len, rest) = bytes.split_first().ok_or(HelloError::Garbage)?;
    let len = usize::from(len);
    if len > max || len > rest.len() {
        return Err(HelloError::Garbage);
    }
    let (text, rest) = rest.split_at(len);
    let text = std::str::from_utf8(text).map_err(|_| HelloError::Garbage)?;
    if text.chars().any(char::is_control) {
        return Err(HelloError::Garbage);
    }
    Ok((text.to_string(), rest))
}

/// Reads exactly one message. Never reads beyond it.
fn read_message<S: Read>(s: &mut S) -> Result<HelloMessage, HelloError> {
    let mut buf = [0u8; HELLO_MAX];
    let mut have = 0;
    loop {
        let need = hello_needs(&buf[..have])?;
        if need == Some(have) {
            return decode_hello(&buf[..have]);
        }
        let upto = need.unwrap_or(HELLO_HEAD).min(HELLO_MAX);
        match s.read(&mut buf[have..upto]) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// What both sides check before their own `check`: a hello, of this version, for this service.
pub fn expect_hello(msg: HelloMessage, mine: &Hello) -> Result<Hello, HelloError> {
    match msg {
        HelloMessage::Refusal(why) => Err(HelloError::RefusedByPeer(why)),
        HelloMessage::OtherVersion(theirs) => Err(HelloError::Refused(Refusal::Version {
            theirs,
            ours: PROTOCOL_VERSION,
        })),
        HelloMessage::Accept => Err(HelloError::Garbage),
        HelloMessage::Hello(h) if h.service != mine.service => {
            Err(HelloError::Refused(Refusal::Service))
        }
        HelloMessage::Hello(h) => Ok(h),
    }
}

fn judge(
    msg: HelloMessage,
    mine: &Hello,
    check: impl FnOnce(&Hello) -> Result<(), Refusal>,
) -> Result<Hello, HelloError> {
    let hello = expect_hello(msg, mine)?;
    check(&hello).map_err(HelloError::Refused)?;
    Ok(hello)
}

/// Tells the peer when it was refused by us. Best effort: the refusal itself is the error to report.
fn tell<S: Write>(s: &mut S, service: Service, e: HelloError) -> HelloError {
    if let HelloError::Refused(why) = &e {
        let _ = s
            .write_all(&encode_refusal(service, why))
            .and_then(|()| s.flush());
    }
    e
}

/// Client side: sends `mine`, reads the peer's hello and agrees. `check` may refuse it.
pub fn offer_hello<S: Read + Write>(
    s: &mut S,
    mine: &Hello,
    check: impl FnOnce(&Hello) -> Result<(), Refusal>,
) -> Result<Hello, HelloError> {
    s.write_all(&mine.encode())?;
    s.flush()?;
    let msg = read_message(s)?;
    let hello = judge(msg, mine, check).map_err(|e| tell(s, mine.service, e))?;
    s.write_all(&encode_accept(mine.service))?;
    s.flush()?;
    Ok(hello)
}

/// Server side: reads the peer's hello, checks service and version, then `check` (uuid, host), then answers with `mine` or the refusal,
/// and waits for the client's agreement.
pub fn accept_hello<S: Read + Write>(
    s: &mut S,
    mine: &Hello,
    check: impl FnOnce(&Hello) -> Result<(), Refusal>,
) -> Result<Hello, HelloError> {
    let msg = read_message(s)?;
    let hello = judge(msg, mine, check).map_err(|e| tell(s, mine.service, e))?;
    s.write_all(&mine.encode())?;
    s.flush()?;
    match read_message(s)? {
        HelloMessage::Accept => Ok(hello),
        HelloMessage::Refusal(why) => Err(HelloError::RefusedByPeer(why)),
        HelloMessage::Hello(_) | HelloMessage::OtherVersion(_) => Err(HelloError::Garbage),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::net::UnixStream;
    use std::thread;

    fn hello(host: &str) -> Hello {
        Hello::new(Service::Meta, "alpha_1700000000.123456789", host)
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(
            hello("beta").encode(),
            b"MARSwire\x01\x00\x01\x01\x20\x00\x1aalpha_1700000000.123456789\x04beta"
        );
        assert_eq!(
            encode_accept(Service::Sync),
            b"MARSwire\x01\x00\x03\x02\x00\x00"
        );
        assert_eq!(
            encode_refusal(Service::Fetch, &Refusal::Service),
            b"MARSwire\x01\x00\x02\x03\x0d\x00wrong service"
        );
    }

    fn shake(
        client: Hello,
        server: Hello,
        client_check: Result<(), Refusal>,
        server_check: Result<(), Refusal>,
    ) -> (Result<Hello, HelloError>, Result<Hello, HelloError>) {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let t = thread::spawn(move || accept_hello(&mut b, &server, |_| server_check));
        let c = offer_hello(&mut a, &client, |_| client_check);
        drop(a);
        (c, t.join().unwrap())
    }

    #[test]
    fn both_sides_learn_each_other() {
        let (c, s) = shake(hello("alpha"), hello("beta"), Ok(()), Ok(()));
        assert_eq!(c.unwrap().host, "beta");
        assert_eq!(s.unwrap().host, "alpha");
    }

    #[test]
    fn refusal_reaches_the_other_side_in_both_directions() {
        let no = || Err(Refusal::Host("x".into()));
        let (c, s) = shake(hello("alpha"), hello("beta"), Ok(()), no());
        assert!(matches!(c, Err(HelloError::RefusedByPeer(r)) if r.contains("not a member")));
        assert!(matches!(s, Err(HelloError::Refused(Refusal::Host(_)))));
        let (c, s) = shake(hello("alpha"), hello("beta"), no(), Ok(()));
        assert!(matches!(c, Err(HelloError::Refused(Refusal::Host(_)))));
        assert!(matches!(s, Err(HelloError::RefusedByPeer(r)) if r.contains("not a member")));
    }

    #[test]
    fn other_version_is_named_on_both_sides() {
        let mut old = hello("alpha");
        old.version = 7;
        let (c, s) = shake(old, hello("beta"), Ok(()), Ok(()));
        assert!(matches!(c, Err(HelloError::RefusedByPeer(r)) if r.contains("version 7")));
        assert!(matches!(
            s,
            Err(HelloError::Refused(Refusal::Version { theirs: 7, ours: 1 }))
        ));
    }

    #[test]
    fn other_service_is_refused() {
        let mut fetch = hello("alpha");
        fetch.service = Service::Fetch;
        let (c, _) = shake(fetch, hello("beta"), Ok(()), Ok(()));
        assert!(matches!(c, Err(HelloError::RefusedByPeer(r)) if r == "wrong service"));
    }

    #[test]
    fn garbage_is_found_at_the_first_wrong_byte() {
        assert!(matches!(hello_needs(b"G"), Err(HelloError::Garbage)));
        assert!(matches!(hello_needs(b"MARSwirf"), Err(HelloError::Garbage)));
        assert!(matches!(hello_needs(b"MARS"), Ok(None)));
        let mut giant = hello("a").encode();
        giant[12..14].copy_from_slice(&0xffffu16.to_le_bytes());
        assert!(matches!(hello_needs(&giant), Err(HelloError::Garbage)));
    }

    #[test]
    fn long_names_and_reasons_stay_within_the_limit() {
        let h = Hello::new(Service::Meta, "ä".repeat(500), "h".repeat(500));
        assert!(h.encode().len() <= HELLO_MAX);
        let r = encode_refusal(Service::Meta, &Refusal::Other("\u{1f600}\n".repeat(500)));
        assert!(r.len() <= HELLO_MAX);
        assert!(
            matches!(decode_hello(&r), Ok(HelloMessage::Refusal(t)) if !t.contains('\n') && t.starts_with('\u{1f600}'))
        );
    }

    proptest! {
        #[test]
        fn decode_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode_hello(&bytes);
        }
        #[test]
        fn decode_of_damaged_hello_never_panics(at in 0usize..46, to in any::<u8>(), cut in 0usize..60) {
            let mut b = hello("beta").encode();
            let n = b.len();
            b[at % n] = to;
            b.truncate(cut);
            let _ = decode_hello(&b);
            let _ = hello_needs(&b);
        }
        #[test]
        fn round_trip(uuid in "[ -~]{0,200}", host in "[A-Za-z0-9_][-A-Za-z0-9_]{0,62}") {
            let h = Hello::new(Service::Sync, uuid, host);
            prop_assert_eq!(decode_hello(&h.encode()).unwrap(), HelloMessage::Hello(h));
        }
    }
}
