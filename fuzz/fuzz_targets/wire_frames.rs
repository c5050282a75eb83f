//! What a peer may send: handshake, frames, and the messages of all three services (I12).
#![no_main]
use libfuzzer_sys::fuzz_target;
use mars_net::{
    FRAME_HEADER, Hello, HelloMessage, Refusal, Service, accept_hello, decode_frame_header,
    decode_hello, encode_frame_header, hello_needs, offer_hello, read_frame, write_frame,
};
use std::io::{self, Read, Write};

// The messages of the daemons, from their own sources: the daemons' other dependencies need not be built here.
#[allow(dead_code)]
#[path = "../../bins/mars-fetch/src/proto.rs"]
mod fetch;
#[allow(dead_code)]
#[path = "../../bins/mars-sync/src/proto.rs"]
mod sync;
#[allow(dead_code)]
#[path = "../../bins/mars-meta/src/wire.rs"]
mod wire;

/// A peer that has said everything already and does not listen.
struct Peer<'a>(&'a [u8]);
impl Read for Peer<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}
impl Write for Peer<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn handshake(bytes: &[u8]) {
    // More bytes never change what fewer bytes already told.
    for n in [0, 1, 8, 12, 14, bytes.len() / 2] {
        if let Some(head) = bytes.get(..n)
            && let Ok(Some(need)) = hello_needs(head)
        {
            assert_eq!(hello_needs(bytes).ok().flatten(), Some(need));
        }
    }
    if let Ok(HelloMessage::Hello(h)) = decode_hello(bytes) {
        assert_eq!(h.encode(), bytes);
        assert_eq!(decode_hello(&h.encode()).ok(), Some(HelloMessage::Hello(h)));
    }
    for service in [Service::Meta, Service::Fetch, Service::Sync] {
        let mine = Hello::new(service, "hostA_1700000000.123456789", "hostA");
        let check = |h: &Hello| {
            if h.uuid == mine.uuid {
                Ok(())
            } else {
                Err(Refusal::Uuid {
                    theirs: h.uuid.clone(),
                    ours: mine.uuid.clone(),
                })
            }
        };
        for r in [
            accept_hello(&mut Peer(bytes), &mine, check),
            offer_hello(&mut Peer(bytes), &mine, check),
        ] {
            match r {
                Ok(h) => assert!(h.service == service && h.uuid == mine.uuid),
                // One line, whatever the peer put into its reason.
                Err(e) => assert!(!e.to_string().contains(['\n', '\0', '\x1b'])),
            }
        }
    }
}

fn frames(mut bytes: &[u8], max: usize) {
    if let Some(head) = bytes.first_chunk::<FRAME_HEADER>()
        && let Ok((kind, len)) = decode_frame_header(head, max)
    {
        assert!(len <= max);
        assert_eq!(encode_frame_header(kind, len), *head);
    }
    while let Ok(f) = read_frame(&mut bytes, max) {
        assert!(f.body.len() <= max && f.body.capacity() <= 2 * max.max(64 << 10));
        let mut again = Vec::new();
        if write_frame(&mut again, f.kind, &f.body).is_ok() {
            assert_eq!(read_frame(&mut &again[..], max).ok().as_ref(), Some(&f));
        }
        message(f.kind, &f.body);
    }
}

fn message(kind: u8, body: &[u8]) {
    if let Ok(m) = wire::Message::decode(kind, body) {
        let frame = m.encode();
        assert_eq!(
            wire::Message::decode(frame[4], &frame[FRAME_HEADER..]),
            Ok(m)
        );
    }
}

fn services(body: &[u8]) {
    if let Some(w) = fetch::Want::decode(body) {
        assert_eq!(w.encode(), body);
        let path = format!("resource-{}/{}", w.res, w.log);
        assert!(!path.contains("..") && path.matches('/').count() == 1);
    }
    if let Some(n) = fetch::decode_len(body) {
        assert_eq!(n.to_le_bytes(), body);
    }
    for text in [fetch::decode_reason(body), sync::text(body)] {
        assert!(!text.contains(char::is_control) && text.chars().count() <= 200);
    }
    if let Some(c) = sync::Check::decode(body) {
        assert!(c.digests.len() <= sync::CHUNK_BLOCKS && c.chunk.len as usize <= sync::CHUNK);
        assert_eq!(c.encode(), body);
    }
    if let Some((a, content)) = sync::Answer::decode(body) {
        assert!(a.chunk.len as usize <= sync::CHUNK && content.len() <= sync::CHUNK);
        let mut sent = 0;
        for i in a.sent() {
            let (from, len) = a.chunk.block(i);
            assert!(len > 0 && from + len <= a.chunk.len as usize);
            sent += len;
        }
        assert_eq!(sent, content.len());
        assert_eq!([a.encode().as_slice(), content].concat(), body);
    }
}

fuzz_target!(|data: &[u8]| {
    match data {
        [0, rest @ ..] => handshake(rest),
        [1, kind, rest @ ..] => message(*kind, rest),
        [2, rest @ ..] => services(rest),
        [_, a, b, rest @ ..] => frames(rest, usize::from(u16::from_le_bytes([*a, *b]))),
        _ => (),
    }
});
