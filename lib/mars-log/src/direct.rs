//! Appending past the page cache: whole blocks from an aligned buffer. Half the CPU time of a write through the page cache, and nothing is
//! left there that has to be written before a commit is over.
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Covers the logical blocks of all disks that are around.
const BLOCK: usize = 4096;
/// Bytes per write.
const STAGE: usize = 1 << 20;

/// The end of a log that is written in whole blocks. The last block is kept and written again when more comes: the part of it that was there
/// before does not change, so a write that is torn between sectors does no harm to it. Says only what is to be written where; simulations of
/// power cuts use it as [`crate::LogFile`] does.
pub struct DirectBlocks {
    /// The staging buffer lies in it at an aligned place.
    memory: Vec<u8>,
    start: usize,
    /// Bytes of the last block that are at the beginning of the buffer.
    kept: usize,
}

impl std::fmt::Debug for DirectBlocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DirectBlocks({} kept)", self.kept)
    }
}

impl DirectBlocks {
    /// For an empty log.
    pub fn new() -> io::Result<DirectBlocks> {
        let memory = vec![0; STAGE + 2 * BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        if start > BLOCK {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(DirectBlocks {
            memory,
            start,
            kept: 0,
        })
    }

    /// Appends `bytes` at `len`, the end of the log, padded with zeros to a whole block: `write` is told which blocks to write at which offset.
    pub fn append(
        &mut self,
        bytes: &[u8],
        len: u64,
        write: &mut dyn FnMut(&[u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let DirectBlocks {
            memory,
            start,
            kept,
        } = self;
        let stage = &mut memory[*start..*start + STAGE + BLOCK];
        let mut at = len - *kept as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(rest.len().min(STAGE));
            rest = tail;
            let end = *kept + piece.len();
            let padded = end.next_multiple_of(BLOCK);
            stage[*kept..end].copy_from_slice(piece);
            stage[end..padded].fill(0);
            write(&stage[..padded], at)?;
            let whole = end / BLOCK * BLOCK;
            stage.copy_within(whole..end, 0);
            *kept = end - whole;
            at += whole as u64;
        }
        Ok(())
    }
}

/// The end of a log file.
#[derive(Debug)]
pub(crate) struct DirectEnd {
    file: File,
    blocks: DirectBlocks,
}

impl DirectEnd {
    /// For an empty log. Fails where the file system cannot do it.
    pub(crate) fn open(path: &Path) -> io::Result<DirectEnd> {
        Ok(DirectEnd {
            file: open_direct(path)?,
            blocks: DirectBlocks::new()?,
        })
    }

    /// Writes `bytes` at `len`, the end of the log.
    pub(crate) fn append(&mut self, bytes: &[u8], len: u64) -> io::Result<()> {
        let DirectEnd { file, blocks } = self;
        blocks.append(bytes, len, &mut |block, at| file.write_all_at(block, at))
    }
}

/// Opens an existing file for writing past the page cache.
pub(crate) fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_DIRECT)
        .open(path)
}
