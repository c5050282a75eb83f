//! Messages between two `mars-meta`, as frames of `mars-net`.
//!
//! Version history (the version stands in the hello): 1 = first.
use mars_net::{FRAME_HEADER, encode_frame_header};
use mars_tree::{RemoteLink, Stamp};
use serde::{Deserialize, Serialize};

/// Links, with the sender's clock.
pub const KIND_LINKS: u8 = 1;
/// "Publish a fresh heartbeat now."
pub const KIND_PING: u8 = 2;
/// Nothing to say, but still here.
pub const KIND_IDLE: u8 = 3;

/// Largest body that is accepted.
pub const BODY_MAX: usize = 256 << 10;
/// A frame of links is closed when its links reach this size.
pub const BATCH_BYTES: usize = 64 << 10;

/// A message. Every one carries the sender's Lamport time, which the receiver observes before it acts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Links that the receiver may not have.
    Links {
        /// Sender's clock.
        now: Stamp,
        /// True when the sender had nothing else to send at that moment: the receiver has seen everything.
        complete: bool,
        /// The links, in the order in which they are to be applied.
        links: Vec<RemoteLink>,
    },
    /// Asks for a fresh heartbeat.
    Ping {
        /// Sender's clock.
        now: Stamp,
    },
    /// Keeps an idle connection.
    Idle {
        /// Sender's clock.
        now: Stamp,
    },
}

#[derive(Serialize, Deserialize)]
struct LinksBody<'a> {
    now: u64,
    complete: bool,
    #[serde(borrow)]
    links: Vec<WireLink<'a>>,
}

#[derive(Serialize, Deserialize)]
struct WireLink<'a> {
    path: &'a str,
    value: &'a [u8],
    stamp: u64,
}

#[derive(Serialize, Deserialize)]
struct ClockBody {
    now: u64,
}

impl Message {
    /// The sender's clock.
    pub fn now(&self) -> Stamp {
        match self {
            Message::Links { now, .. } | Message::Ping { now } | Message::Idle { now } => *now,
        }
    }

    /// The complete frame: header and body.
    pub fn encode(&self) -> Vec<u8> {
        let clock = |now: &Stamp| {
            postcard::to_allocvec(&ClockBody {
                now: now.as_nanos(),
            })
        };
        let (kind, body) = match self {
            Message::Ping { now } => (KIND_PING, clock(now)),
            Message::Idle { now } => (KIND_IDLE, clock(now)),
            Message::Links {
                now,
                complete,
                links,
            } => {
                let body = LinksBody {
                    now: now.as_nanos(),
                    complete: *complete,
                    links: links
                        .iter()
                        .map(|l| WireLink {
                            path: &l.path,
                            value: &l.value,
                            stamp: l.stamp.as_nanos(),
                        })
                        .collect(),
                };
                (KIND_LINKS, postcard::to_allocvec(&body))
            }
        };
        // Writing plain structures into memory cannot fail.
        let body = body.unwrap_or_default();
        let mut out = Vec::with_capacity(FRAME_HEADER + body.len());
        out.extend_from_slice(&encode_frame_header(kind, body.len()));
        out.extend_from_slice(&body);
        out
    }

    /// Decodes the body of a frame of that kind.
    pub fn decode(kind: u8, body: &[u8]) -> Result<Message, &'static str> {
        fn whole<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, &'static str> {
            match postcard::take_from_bytes(body) {
                Ok((v, [])) => Ok(v),
                Ok(_) => Err("surplus bytes in a message"),
                Err(_) => Err("damaged message"),
            }
        }
        if body.len() > BODY_MAX {
            return Err("message too large");
        }
        match kind {
            KIND_PING => whole::<ClockBody>(body).map(|b| Message::Ping {
                now: Stamp::from_nanos(b.now),
            }),
            KIND_IDLE => whole::<ClockBody>(body).map(|b| Message::Idle {
                now: Stamp::from_nanos(b.now),
            }),
            KIND_LINKS => whole::<LinksBody>(body).map(|b| Message::Links {
                now: Stamp::from_nanos(b.now),
                complete: b.complete,
                links: b
                    .links
                    .iter()
                    .map(|l| RemoteLink {
                        path: l.path.to_string(),
                        value: l.value.to_vec(),
                        stamp: Stamp::from_nanos(l.stamp),
                    })
                    .collect(),
            }),
            _ => Err("unknown kind of message"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn decode_frame(bytes: &[u8]) -> Result<Message, &'static str> {
        Message::decode(bytes[4], &bytes[FRAME_HEADER..])
    }

    #[test]
    fn golden_bytes() {
        let m = Message::Links {
            now: Stamp::from_nanos(1),
            complete: true,
            links: vec![RemoteLink {
                path: "uuid".into(),
                value: b"x\xff".to_vec(),
                stamp: Stamp::from_nanos(300),
            }],
        };
        assert_eq!(
            m.encode(),
            b"\x0d\0\0\0\x01\0\0\0\x01\x01\x01\x04uuid\x02x\xff\xac\x02"
        );
        let p = Message::Ping {
            now: Stamp::from_nanos(5),
        };
        assert_eq!(p.encode(), b"\x01\0\0\0\x02\0\0\0\x05");
    }

    #[test]
    fn surplus_and_unknown_are_refused() {
        assert!(Message::decode(KIND_PING, &[5, 0]).is_err());
        assert!(Message::decode(77, &[5]).is_err());
        assert!(Message::decode(KIND_LINKS, &[]).is_err());
        // A list that announces 2^60 links has none of them.
        assert!(
            Message::decode(KIND_LINKS, &[1, 1, 255, 255, 255, 255, 255, 255, 255, 127]).is_err()
        );
    }

    proptest! {
        #[test]
        fn any_body_is_survived(kind in 0u8..5, body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Message::decode(kind, &body);
        }
        #[test]
        fn round_trip(now in any::<u64>(), complete in any::<bool>(),
            links in proptest::collection::vec(("[ -~]{1,40}", proptest::collection::vec(any::<u8>(), 0..100), any::<u64>()), 0..20),
            hit in any::<prop::sample::Index>(), to in any::<u8>())
        {
            let links = links.into_iter().map(|(path, value, s)| RemoteLink { path, value, stamp: Stamp::from_nanos(s) }).collect();
            let m = Message::Links { now: Stamp::from_nanos(now), complete, links };
            let mut bytes = m.encode();
            prop_assert_eq!(decode_frame(&bytes), Ok(m));
            let i = hit.index(bytes.len());
            bytes[i] = to;
            let _ = decode_frame(&bytes);
        }
    }
}
