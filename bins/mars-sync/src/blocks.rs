//! Looking at a chunk of a disk: zero or digest per block, and comparing with what the other side sees.
use crate::proto::{Answer, BLOCK, Check, Chunk, DIGEST};
use mars_disk::Disk;
use nix::unistd::{Whence, lseek};
use std::io;

/// Read at once: fits the second-level cache, so that the digest finds its input there.
const PIECE: usize = 256 << 10;

/// Reads chunks with one small buffer.
pub struct Reader<'a> {
    disk: &'a Disk,
    sparse: bool,
    buf: Vec<u8>,
}

/// What a block is.
enum Content<'b> {
    Zero,
    Data(&'b [u8]),
}

impl<'a> Reader<'a> {
    /// For one disk.
    pub fn new(disk: &'a Disk) -> Reader<'a> {
        Reader {
            disk,
            sparse: disk.file().metadata().is_ok_and(|m| m.is_file()),
            buf: vec![0; PIECE],
        }
    }

    /// The client's question about a chunk.
    pub fn check(&mut self, chunk: Chunk) -> io::Result<Check> {
        let (mut zero, mut digests) = (0, Vec::with_capacity(chunk.blocks()));
        self.each_block(chunk, |i, content| match content {
            Content::Zero => zero |= 1 << i,
            Content::Data(b) => digests.push(digest(b)),
        })?;
        Ok(Check {
            chunk,
            zero,
            digests,
        })
    }

    /// The server's answer. Content of different blocks is appended to `out`.
    pub fn compare(&mut self, check: &Check, out: &mut Vec<u8>) -> io::Result<Answer> {
        let mut answer = Answer {
            chunk: check.chunk,
            different: 0,
            zero: 0,
        };
        let mut theirs = check.digests.iter();
        self.each_block(check.chunk, |i, content| {
            let bit = 1 << i;
            let theirs = if check.zero & bit == 0 {
                theirs.next()
            } else {
                None
            };
            match content {
                Content::Zero if theirs.is_none() => {}
                Content::Zero => {
                    answer.different |= bit;
                    answer.zero |= bit;
                }
                Content::Data(b) if theirs.is_some_and(|t| *t == digest(b)) => {}
                Content::Data(b) => {
                    answer.different |= bit;
                    out.extend_from_slice(b);
                }
            }
        })?;
        Ok(answer)
    }

    fn each_block(
        &mut self,
        chunk: Chunk,
        mut f: impl FnMut(usize, Content<'_>),
    ) -> io::Result<()> {
        let per_piece = PIECE / BLOCK;
        for first in (0..chunk.blocks()).step_by(per_piece) {
            let (from, _) = chunk.block(first);
            let len = (chunk.len as usize - from).min(PIECE);
            let pos = chunk.pos + from as u64;
            let buf = self.buf.get_mut(..len).unwrap_or_default();
            let hole = self.sparse && is_hole(self.disk, pos, len as u64);
            if !hole {
                self.disk.read_at(buf, pos)?;
            }
            for (k, block) in buf.chunks(BLOCK).enumerate() {
                if hole || is_zero(block) {
                    f(first + k, Content::Zero);
                } else {
                    f(first + k, Content::Data(block));
                }
            }
        }
        Ok(())
    }
}

fn digest(b: &[u8]) -> [u8; DIGEST] {
    *blake3::hash(b).as_bytes()
}

/// Only zeros? Stops at the first other byte, which is nearly always among the first ones.
pub fn is_zero(b: &[u8]) -> bool {
    let (head, words, tail) = (b.get(..16), b.chunks_exact(64), b.len() % 64);
    head.is_none_or(|h| h.iter().all(|x| *x == 0))
        && words
            .clone()
            .all(|c| c.iter().fold(0, |acc, x| acc | x) == 0)
        && b.get(b.len() - tail..)
            .is_none_or(|t| t.iter().all(|x| *x == 0))
}

/// True when the file is known to have no data there. Not knowing is no error: then it is read.
fn is_hole(disk: &Disk, pos: u64, len: u64) -> bool {
    let Ok(at) = i64::try_from(pos) else {
        return false;
    };
    match lseek(disk.file(), at, Whence::SeekData) {
        Ok(data) => u64::try_from(data).is_ok_and(|d| d >= pos + len),
        // No data up to the end of the file.
        Err(nix::errno::Errno::ENXIO) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::proto::{CHUNK, bits};
    use proptest::prelude::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    fn disk(dir: &tempfile::TempDir, name: &str, size: u64) -> Disk {
        let path = dir.path().join(name);
        let f = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        f.set_len(size).unwrap();
        Disk::from_file(f, &path).unwrap()
    }

    #[test]
    fn zero_is_seen_at_every_place() {
        for len in [1, 15, 16, 17, 63, 64, 65, 512, BLOCK] {
            let mut b = vec![0; len];
            assert!(is_zero(&b));
            for at in [0, len / 2, len - 1] {
                b[at] = 1;
                assert!(!is_zero(&b), "{len} {at}");
                b[at] = 0;
            }
        }
    }

    #[test]
    fn holes_are_zero_and_stay_holes_unread() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let d = disk(&dir, "d", 3 * CHUNK as u64);
        d.write_at(&[1; 4096], CHUNK as u64).unwrap();
        let c = Reader::new(&d)
            .check(Chunk::at(0, 3 * CHUNK as u64))
            .unwrap();
        assert_eq!((c.zero, c.digests.len()), (u64::MAX, 0));
        let c = Reader::new(&d)
            .check(Chunk::at(CHUNK as u64, 3 * CHUNK as u64))
            .unwrap();
        assert_eq!((c.zero, c.digests.len()), (!1, 1));
        assert!(d.file().metadata().unwrap().blocks() <= 16);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever the two disks hold: applying the answer makes the chunk equal, and only what differs is sent.
        #[test]
        fn answer_makes_equal(
            size in 1u64..(300 << 10), fills in prop::collection::vec((0u64..300, any::<bool>(), 0u8..3), 0..12),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let (a, b) = (disk(&dir, "a", size), disk(&dir, "b", size));
            for (kib, first, fill) in fills {
                let pos = kib << 10;
                if pos < size {
                    let n = (size - pos).min(40 << 10) as usize;
                    let d = if first { &a } else { &b };
                    d.write_at(&vec![fill; n], pos).unwrap();
                }
            }
            let chunk = Chunk::at(0, size);
            let check = Reader::new(&b).check(chunk).unwrap();
            let mut content = Vec::new();
            let answer = Reader::new(&a).compare(&check, &mut content).unwrap();
            let (mut da, mut db) = (vec![0; size as usize], vec![0; size as usize]);
            a.file().read_exact_at(&mut da, 0).unwrap();
            b.file().read_exact_at(&mut db, 0).unwrap();
            for i in 0..chunk.blocks() {
                let (from, len) = chunk.block(i);
                let same = da[from..from + len] == db[from..from + len];
                prop_assert_eq!(answer.different >> i & 1 == 0, same);
            }
            let mut rest = &content[..];
            for i in bits(answer.different) {
                let (from, len) = chunk.block(i);
                if answer.zero >> i & 1 == 0 {
                    let (block, tail) = rest.split_at(len);
                    db[from..from + len].copy_from_slice(block);
                    rest = tail;
                } else {
                    db[from..from + len].fill(0);
                }
            }
            prop_assert!(rest.is_empty());
            prop_assert!(da == db);
        }
    }
}
