//! The fetch protocol on port base + 1, above the hello: frames of `mars-net`, all numbers little-endian.
//!
//! ```text
//! client: Want  u8 length, resource, u8 length, log name, u64 offset
//! server: Data  raw bytes of the log, in order, starting at the offset
//!         Idle  u64 durable length here; at once when everything durable was sent, then at least every 5 s
//!         End   u64 final length: the log is complete and everything was sent; the next Want may follow
//!         Gone  text: this host cannot give the log; the next Want may follow
//! client: Accept  u32 feature mask, before the first Want: data may come packed, with these digests and compressions
//! server: Packed  as Data, in pieces with a digest each, compressed where that pays (`mars_log::wire`)
//! ```
//! Without a compression data come as Data: the records of a log have digests of their own.
use mars_tree::{LogName, ResName};

/// Port of the service above the base port.
pub const PORT_OFFSET: u16 = 1;

/// Client asks for a log from an offset on.
pub const WANT: u8 = 1;
/// Bytes of the log.
pub const DATA: u8 = 2;
/// Nothing more that is durable.
pub const IDLE: u8 = 3;
/// The log is complete.
pub const END: u8 = 4;
/// Not here.
pub const GONE: u8 = 5;

/// Client understands packed data.
pub const ACCEPT: u8 = 6;
/// Bytes of the log, packed.
pub const PACKED: u8 = 7;

/// Largest body of a frame that is no data.
pub const CONTROL_MAX: usize = 512;
/// Largest data frame.
pub const DATA_MAX: usize = 1 << 20;

/// Largest frame of packed data.
pub const PACKED_MAX: usize = mars_log::wire::wrapped_max(DATA_MAX);

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Want {
    /// Resource.
    pub res: ResName,
    /// Log.
    pub log: LogName,
    /// First byte wanted.
    pub offset: u64,
}

impl Want {
    /// Body of the frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for name in [self.res.as_str(), self.log.to_string().as_str()] {
            // Names are bounded far below 255 bytes.
            out.push(u8::try_from(name.len()).unwrap_or(0));
            out.extend_from_slice(name.as_bytes());
        }
        out.extend_from_slice(&self.offset.to_le_bytes());
        out
    }

    /// Checked: names must be names, nothing may follow, the offset must be a file offset.
    pub fn decode(body: &[u8]) -> Option<Want> {
        let (res, rest) = take_name(body)?;
        let (log, rest) = take_name(rest)?;
        let offset = decode_len(rest)?;
        Some(Want {
            res: res.parse().ok()?,
            log: log.parse().ok()?,
            offset,
        })
    }
}

fn take_name(b: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = b.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*len))?;
    Some((std::str::from_utf8(name).ok()?, rest))
}

/// The one number of `Idle` and `End`, and the offset: at most what a file offset can be.
pub fn decode_len(body: &[u8]) -> Option<u64> {
    let n = u64::from_le_bytes(body.try_into().ok()?);
    i64::try_from(n).is_ok().then_some(n)
}

/// The text of `Gone`, made harmless for the journal.
pub fn decode_reason(body: &[u8]) -> String {
    String::from_utf8_lossy(body)
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn want_golden_bytes() {
        let w = Want {
            res: "lv0".parse().unwrap(),
            log: "log-000000003-hostB".parse().unwrap(),
            offset: 8192,
        };
        let bytes = w.encode();
        assert_eq!(bytes, b"\x03lv0\x13log-000000003-hostB\0\x20\0\0\0\0\0\0");
        assert_eq!(Want::decode(&bytes), Some(w));
    }

    #[test]
    fn path_tricks_are_refused() {
        for (res, log) in [
            ("..", "log-000000001-a"),
            ("a/b", "log-000000001-a"),
            ("r", "../../etc/passwd"),
            ("r", "log-000000001-a/../x"),
            ("r", "data-a"),
            ("", "log-000000001-a"),
        ] {
            let mut b = vec![res.len() as u8];
            b.extend_from_slice(res.as_bytes());
            b.push(log.len() as u8);
            b.extend_from_slice(log.as_bytes());
            b.extend_from_slice(&[0; 8]);
            assert_eq!(Want::decode(&b), None, "{res} {log}");
        }
    }

    #[test]
    fn huge_offset_is_refused() {
        assert_eq!(decode_len(&u64::MAX.to_le_bytes()), None);
        assert_eq!(decode_len(&[0; 7]), None);
        assert_eq!(decode_len(&[0; 9]), None);
    }

    proptest! {
        #[test]
        fn any_input_is_survived(b in prop::collection::vec(any::<u8>(), 0..200)) {
            decode_reason(&b);
            if let Some(w) = Want::decode(&b) {
                prop_assert_eq!(w.encode(), b);
            }
        }
    }
}
