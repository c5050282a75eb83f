//! A visit: a host of another cluster looks at the tree of this one, and may ask that both become one (`merge-cluster`).
//!
//! The visitor says hello with [`VISITOR`] in the place of a uuid and hears the uuid of the other side. The visited host sends its links
//! (frames of [`KIND_TREE`], then [`KIND_END`]) and takes nothing in return but at most one [`MergeRequest`], which it answers. It does
//! not become a connection of the cluster: nothing that a visitor sends gets into the tree as it is.
use crate::{
    Conn, ConnectOptions, FrameError, Hello, HelloError, Refusal, Service, connect,
    encode_frame_header, read_frame, write_frame,
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What stands for the uuid in a visitor's hello.
pub const VISITOR: &str = "(visit)";
/// Some links of the tree.
pub const KIND_TREE: u8 = 16;
/// All links have been sent.
pub const KIND_END: u8 = 17;
/// The visitor's request.
pub const KIND_MERGE: u8 = 18;
/// The answer to it.
pub const KIND_ANSWER: u8 = 19;

/// Largest body of a frame of a visit.
pub const VISIT_BODY_MAX: usize = 256 << 10;
/// A frame of links is closed when they reach this size.
const BATCH_BYTES: usize = 64 << 10;
/// Largest tree that a visitor takes, in bytes of its frames.
const TREE_MAX: usize = 64 << 20;

/// A link as it stands in the other tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VisitLink {
    /// Path below the root.
    pub path: String,
    /// Target.
    pub value: Vec<u8>,
    /// Lamport stamp in nanoseconds.
    pub stamp: u64,
}

/// "Let my cluster into yours": what the visited host must know to check that, and to let the others in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MergeRequest {
    /// Sender's Lamport clock in nanoseconds.
    pub now: u64,
    /// uuid of the visitor's cluster.
    pub from: String,
    /// uuid of the visited cluster, as the visitor has seen it.
    pub into: String,
    /// Hosts of the visitor's cluster with their addresses.
    pub hosts: Vec<(String, String)>,
    /// Resources there, with their members.
    pub resources: Vec<(String, Vec<String>)>,
}

/// What became of a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MergeAnswer {
    /// Sender's Lamport clock in nanoseconds, after the change.
    pub now: u64,
    /// Why not.
    pub refused: Option<String>,
}

/// The end of the tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct End {
    now: u64,
}

/// A frame with this body. Writing plain structures into memory cannot fail.
fn frame(kind: u8, body: &impl Serialize) -> Vec<u8> {
    let body = postcard::to_allocvec(body).unwrap_or_default();
    let mut out = encode_frame_header(kind, body.len()).to_vec();
    out.extend_from_slice(&body);
    out
}

fn whole<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((v, [])) => Ok(v),
        _ => Err(FrameError::Damaged("a message of a visit")),
    }
}

/// The frames that tell a whole tree, the end with the sender's clock included.
pub fn tree_frames(links: impl IntoIterator<Item = VisitLink>, now: u64) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for link in links {
        bytes += link.path.len() + link.value.len() + 16;
        batch.push(link);
        if bytes >= BATCH_BYTES {
            frames.push(frame(KIND_TREE, &batch));
            (batch, bytes) = (Vec::new(), 0);
        }
    }
    if !batch.is_empty() {
        frames.push(frame(KIND_TREE, &batch));
    }
    frames.push(frame(KIND_END, &End { now }));
    frames
}

/// The request in the body of a frame.
pub fn decode_request(kind: u8, body: &[u8]) -> Result<MergeRequest, FrameError> {
    match kind {
        KIND_MERGE => whole(body),
        _ => Err(FrameError::Damaged("unexpected kind of message in a visit")),
    }
}

/// The answer as a frame.
pub fn answer_frame(answer: &MergeAnswer) -> Vec<u8> {
    frame(KIND_ANSWER, answer)
}

/// The visitor's side.
#[derive(Debug)]
pub struct Visit {
    conn: Conn,
}

impl Visit {
    /// Calls on `host`, which must answer under that name. `me`: the own host name.
    pub fn begin(
        (addr, port): (IpAddr, u16),
        me: &str,
        host: &str,
        opts: &ConnectOptions,
    ) -> Result<Visit, HelloError> {
        let mine = Hello::new(Service::Meta, VISITOR, me);
        let conn = connect(addr, port, &mine, opts, |peer| match peer.host == host {
            true => Ok(()),
            false => Err(Refusal::Other(format!(
                "expected host {host}, found {}",
                peer.host
            ))),
        })?;
        Ok(Visit { conn })
    }

    /// The uuid of the visited cluster.
    pub fn uuid(&self) -> &str {
        &self.conn.peer.uuid
    }

    /// Reads the whole tree and the other side's clock.
    pub fn tree(&mut self) -> Result<(Vec<VisitLink>, u64), FrameError> {
        let mut links: Vec<VisitLink> = Vec::new();
        let mut bytes = 0;
        loop {
            let f = read_frame(&mut self.conn.stream, VISIT_BODY_MAX)?;
            bytes += f.body.len();
            if bytes > TREE_MAX {
                let max = TREE_MAX;
                return Err(FrameError::TooLarge { got: bytes, max });
            }
            match f.kind {
                KIND_TREE => links.extend(whole::<Vec<VisitLink>>(&f.body)?),
                KIND_END => return Ok((links, whole::<End>(&f.body)?.now)),
                _ => return Err(FrameError::Damaged("unexpected kind of message in a visit")),
            }
        }
    }

    /// Asks for a merge; after [`Visit::tree`], at most once.
    pub fn ask(&mut self, request: &MergeRequest) -> Result<MergeAnswer, FrameError> {
        let body = postcard::to_allocvec(request).unwrap_or_default();
        write_frame(&mut self.conn.stream, KIND_MERGE, &body)?;
        let f = read_frame(&mut self.conn.stream, VISIT_BODY_MAX)?;
        match f.kind {
            KIND_ANSWER => whole(&f.body),
            _ => Err(FrameError::Damaged("unexpected kind of message in a visit")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::FRAME_HEADER;
    use proptest::prelude::*;

    fn link(path: &str, bytes: usize) -> VisitLink {
        VisitLink {
            path: path.into(),
            value: vec![b'v'; bytes],
            stamp: 7,
        }
    }

    #[test]
    fn golden_bytes() {
        let frames = tree_frames([link("uuid", 1)], 5);
        assert_eq!(frames[0], b"\x09\0\0\0\x10\0\0\0\x01\x04uuid\x01v\x07");
        assert_eq!(frames[1], b"\x01\0\0\0\x11\0\0\0\x05");
        let answer = MergeAnswer {
            now: 1,
            refused: Some("no".into()),
        };
        assert_eq!(answer_frame(&answer), b"\x05\0\0\0\x13\0\0\0\x01\x01\x02no");
    }

    #[test]
    fn frames_of_a_large_tree_stay_below_the_limit() {
        let frames = tree_frames((0..500).map(|i| link(&format!("k{i}"), 1000)), 1);
        assert!(frames.len() > 5);
        assert!(
            frames
                .iter()
                .all(|f| f.len() - FRAME_HEADER < VISIT_BODY_MAX)
        );
        let mut paths = 0;
        for f in &frames[..frames.len() - 1] {
            paths += whole::<Vec<VisitLink>>(&f[FRAME_HEADER..]).unwrap().len();
        }
        assert_eq!(paths, 500);
    }

    #[test]
    fn surplus_missing_and_other_kinds_are_refused() {
        let r = MergeRequest {
            now: 1,
            from: "a".into(),
            into: "b".into(),
            hosts: vec![("h".into(), "1.2.3.4".into())],
            resources: vec![("r".into(), vec!["h".into()])],
        };
        let mut body = postcard::to_allocvec(&r).unwrap();
        assert_eq!(decode_request(KIND_MERGE, &body).unwrap(), r);
        assert!(decode_request(KIND_TREE, &body).is_err());
        body.push(0);
        assert!(decode_request(KIND_MERGE, &body).is_err());
        assert!(decode_request(KIND_MERGE, &body[..3]).is_err());
        // Announces 2^60 hosts.
        let giant = [1, 0, 0, 255, 255, 255, 255, 255, 255, 255, 127];
        assert!(decode_request(KIND_MERGE, &giant).is_err());
    }

    proptest! {
        #[test]
        fn any_body_is_survived(kind in 15u8..21, body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_request(kind, &body);
            let _ = whole::<Vec<VisitLink>>(&body);
            let _ = whole::<MergeAnswer>(&body);
        }
    }
}
