//! The dirty buffer: newest version of what is not yet on the disk. Pure: no I/O, no clock, no threads.
//!
//! Two generations. `current` takes new writes. `freeze` makes it the `frozen` one, which is written back as a whole, sorted by
//! position, then dropped; the replay position then moves to where the generation ended in the log. Reads see current over frozen
//! over disk. The same type builds replay windows.
use crate::Ranges;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::Arc;

/// Bytes per page of the buffer.
pub const PAGE: usize = 4096;
const PAGE_U64: u64 = PAGE as u64;
const SECTOR: usize = 512;
const FULL: u8 = 0xff;

/// One contiguous piece of write-back, ascending by position.
#[derive(Debug, PartialEq, Eq)]
pub enum WriteRun<'a> {
    /// Data: consecutive pieces that start at `pos` without gaps.
    Data {
        /// Device offset.
        pos: u64,
        /// Pieces.
        pieces: Vec<&'a [u8]>,
    },
    /// Zeros.
    Zeroes {
        /// Device offset.
        pos: u64,
        /// Bytes.
        len: u64,
    },
}

/// Page numbers are small and near each other: one multiplication spreads them over the high and, by the shift, the low bits.
#[derive(Debug, Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(self.0 ^ u64::from(*b));
        }
    }
    fn write_u64(&mut self, n: u64) {
        let x = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = x ^ (x >> 32);
    }
}

type PageMap = HashMap<u64, Page, BuildHasherDefault<PageHasher>>;

/// Valid sectors of a page; without data the valid sectors are zeros.
#[derive(Debug)]
struct Page {
    data: Option<Slot>,
    mask: u8,
}

/// Newest data of a set of writes: pages of 4096 bytes with a mask of valid 512-byte sectors, and ranges of whole zero pages.
/// A page is either in the map or in a zero range, never in both.
#[derive(Debug, Default)]
pub struct Generation {
    pages: PageMap,
    store: Pages,
    /// First page -> page behind the last; disjoint, not touching.
    zeros: BTreeMap<u64, u64>,
    page_sectors: u64,
    zero_pages: u64,
}

/// The part of a page that a range covers: page number, offset in the page, length.
fn split_pages(pos: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = pos.saturating_add(len);
    let mut at = pos;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let page = at / PAGE_U64;
        let from = (at % PAGE_U64) as usize;
        let n = ((PAGE - from) as u64).min(end - at) as usize;
        at += n as u64;
        Some((page, from, n))
    })
}

/// Mask of the sectors in `[from, from + len)` of a page.
fn mask_of(from: usize, len: usize) -> u8 {
    let first = from / SECTOR;
    let behind = (from + len).div_ceil(SECTOR);
    let below = |n: usize| -> u8 { if n >= 8 { FULL } else { (1u8 << n) - 1 } };
    below(behind) & !below(first)
}

impl Generation {
    /// Empty.
    pub fn new() -> Generation {
        Generation::default()
    }

    /// Newest wins. `pos` and length are multiples of 512.
    pub fn write(&mut self, pos: u64, data: &[u8]) {
        debug_assert!(pos.is_multiple_of(SECTOR as u64) && data.len().is_multiple_of(SECTOR));
        let mut rest = data;
        for (nr, from, n) in split_pages(pos, data.len() as u64) {
            let (piece, tail) = rest.split_at(n.min(rest.len()));
            rest = tail;
            let was_zero = self.take_zero(nr, nr + 1) != 0;
            if let Ok(whole) = <&[u8; PAGE]>::try_from(piece) {
                self.put_whole(nr, whole);
            } else {
                let page = self.pages.entry(nr).or_insert(Page {
                    data: None,
                    mask: if was_zero { FULL } else { 0 },
                });
                if was_zero {
                    self.page_sectors += 8;
                }
                let slot = match page.data {
                    Some(slot) => slot,
                    None => {
                        // Its valid sectors were zeros so far.
                        let slot = self.store.take();
                        self.store.page_mut(slot).fill(0);
                        page.data = Some(slot);
                        slot
                    }
                };
                if let Some(target) = self.store.page_mut(slot).get_mut(from..from + n) {
                    target.copy_from_slice(piece);
                }
                let mask = mask_of(from, n);
                self.page_sectors += u64::from((mask & !page.mask).count_ones());
                page.mask |= mask;
            }
        }
    }

    fn put_whole(&mut self, nr: u64, bytes: &[u8; PAGE]) {
        let page = self.pages.entry(nr).or_insert(Page {
            data: None,
            mask: 0,
        });
        self.page_sectors += u64::from(8 - page.mask.count_ones());
        page.mask = FULL;
        let slot = match page.data {
            Some(slot) => slot,
            None => *page.data.insert(self.store.take()),
        };
        self.store.page_mut(slot).copy_from_slice(bytes);
    }

    /// Zeros; needs no memory for whole pages. `pos` and length are multiples of 512.
    pub fn write_zeroes(&mut self, pos: u64, len: u64) {
        debug_assert!(pos.is_multiple_of(SECTOR as u64) && len.is_multiple_of(SECTOR as u64));
        let end = pos.saturating_add(len);
        let first_whole = pos.div_ceil(PAGE_U64);
        let behind_whole = end / PAGE_U64;
        if first_whole < behind_whole {
            self.zero_partial(pos, first_whole * PAGE_U64 - pos);
            self.zero_whole(first_whole, behind_whole);
            self.zero_partial(behind_whole * PAGE_U64, end - behind_whole * PAGE_U64);
        } else {
            self.zero_partial(pos, len);
        }
    }

    /// Zeros in at most two pages, none of them completely.
    fn zero_partial(&mut self, pos: u64, len: u64) {
        for (nr, from, n) in split_pages(pos, len) {
            if self.in_zeros(nr) {
                continue;
            }
            let page = self.pages.entry(nr).or_insert(Page {
                data: None,
                mask: 0,
            });
            if let Some(slot) = page.data
                && let Some(target) = self.store.page_mut(slot).get_mut(from..from + n)
            {
                target.fill(0);
            }
            let mask = mask_of(from, n);
            self.page_sectors += u64::from((mask & !page.mask).count_ones());
            page.mask |= mask;
        }
    }

    fn zero_whole(&mut self, first: u64, behind: u64) {
        if behind - first < self.pages.len() as u64 {
            for nr in first..behind {
                if let Some(page) = self.pages.remove(&nr) {
                    self.forget(&page);
                }
            }
        } else {
            let store = &mut self.store;
            let mut gone_sectors = 0;
            self.pages.retain(|nr, page| {
                let keep = *nr < first || *nr >= behind;
                if !keep {
                    store.give_back(page.data);
                    gone_sectors += u64::from(page.mask.count_ones());
                }
                keep
            });
            self.page_sectors -= gone_sectors;
        }
        self.take_zero(first, behind);
        let (mut from, mut to) = (first, behind);
        // Join with neighbours that touch.
        if let Some((&a, &b)) = self.zeros.range(..first).next_back()
            && b == first
        {
            self.zeros.remove(&a);
            from = a;
        }
        if let Some(b) = self.zeros.remove(&behind) {
            to = b;
        }
        self.zeros.insert(from, to);
        self.zero_pages += behind - first;
    }

    fn forget(&mut self, page: &Page) {
        self.store.give_back(page.data);
        self.page_sectors -= u64::from(page.mask.count_ones());
    }

    fn in_zeros(&self, nr: u64) -> bool {
        !self.zeros.is_empty()
            && self
                .zeros
                .range(..=nr)
                .next_back()
                .is_some_and(|(_, &behind)| nr < behind)
    }

    /// Takes the pages `[first, behind)` out of the zero ranges; returns how many were in them.
    fn take_zero(&mut self, first: u64, behind: u64) -> u64 {
        let mut taken = 0;
        while !self.zeros.is_empty() {
            let Some((&a, &b)) = self.zeros.range(..behind).next_back() else {
                break;
            };
            if b <= first {
                break;
            }
            self.zeros.remove(&a);
            if a < first {
                self.zeros.insert(a, first);
            }
            if b > behind {
                self.zeros.insert(behind, b);
            }
            taken += b.min(behind) - a.max(first);
        }
        self.zero_pages -= taken;
        taken
    }

    /// Copies what is known in `[pos, pos + buf.len())` into `buf`; returns true when that was everything. With `covered` given, sets one flag
    /// per 512-byte sector that was copied.
    pub fn read(&self, pos: u64, buf: &mut [u8], mut covered: Option<&mut [bool]>) -> bool {
        if self.is_empty() {
            return buf.is_empty();
        }
        let mut all = true;
        let mut rest = buf;
        let mut sector = 0;
        for (nr, from, n) in split_pages(pos, rest.len() as u64) {
            let (piece, tail) = std::mem::take(&mut rest).split_at_mut(n);
            rest = tail;
            let sectors = n.div_ceil(SECTOR);
            let wanted = mask_of(from, n);
            let known = match self.pages.get(&nr) {
                Some(page) => {
                    let known = page.mask & wanted;
                    copy_sectors(self.store.get(page), from, piece, known);
                    known
                }
                None if self.in_zeros(nr) => {
                    piece.fill(0);
                    wanted
                }
                None => 0,
            };
            all &= known == wanted;
            if let Some(flags) = covered.as_deref_mut() {
                let first = from / SECTOR;
                for (i, flag) in flags.iter_mut().skip(sector).take(sectors).enumerate() {
                    *flag |= known >> (first + i) & 1 != 0;
                }
            }
            sector += sectors;
        }
        all
    }

    /// Memory used by data and bookkeeping, in bytes.
    pub fn memory(&self) -> usize {
        // Two hash buckets with a control byte each per page, 32 bytes per range.
        self.store.used() * PAGE
            + self.pages.len() * 2 * (size_of::<(u64, Page)>() + 1)
            + self.zeros.len() * 32
    }

    /// Bytes of the device that it holds.
    pub fn bytes(&self) -> u64 {
        self.page_sectors * SECTOR as u64 + self.zero_pages * PAGE_U64
    }

    /// Nothing in it?
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.zeros.is_empty()
    }

    /// Forgets all content but keeps up to `keep_bytes` of memory for the next use.
    fn reset(&mut self, keep_bytes: usize) {
        self.store.reset(keep_bytes);
        if keep_bytes == 0 {
            self.pages = PageMap::default();
        } else {
            self.pages.clear();
        }
        self.zeros.clear();
        self.page_sectors = 0;
        self.zero_pages = 0;
    }

    /// Forgets all content but keeps the memory for the next use.
    pub fn clear(&mut self) {
        self.reset(usize::MAX);
    }

    /// What it holds something for.
    pub fn ranges(&self) -> Ranges {
        let pages = self.pages.iter().flat_map(|(&nr, page)| {
            let at = move |sector: u64| nr * PAGE_U64 + sector * SECTOR as u64;
            (0..8)
                .filter(|s| page.mask >> s & 1 != 0)
                .map(move |s| at(s)..at(s + 1))
        });
        let zeros = self.zeros.iter().map(|(a, b)| a * PAGE_U64..b * PAGE_U64);
        pages.chain(zeros).collect()
    }

    /// What `other` holds in these ranges is put over the own content.
    fn put_over(&mut self, other: &Generation, only: Option<&Ranges>) {
        let parts = |r: Range<u64>| match only {
            Some(only) => only.within(r).collect(),
            None => vec![r],
        };
        for run in other.runs(PAGE) {
            match run {
                WriteRun::Data { pos, pieces } => {
                    let mut at = pos;
                    for piece in pieces {
                        let end = at + piece.len() as u64;
                        for r in parts(at..end) {
                            let bytes = piece.get((r.start - at) as usize..(r.end - at) as usize);
                            self.write(r.start, bytes.unwrap_or_default());
                        }
                        at = end;
                    }
                }
                WriteRun::Zeroes { pos, len } => {
                    for r in parts(pos..pos + len) {
                        self.write_zeroes(r.start, r.end - r.start);
                    }
                }
            }
        }
    }

    /// All content in ascending order, neighbours merged. Data runs have at most `max_run` bytes (but at least one page); zero runs are
    /// not split, they cost no memory.
    pub fn runs(&self, max_run: usize) -> Vec<WriteRun<'_>> {
        let mut numbers: Vec<u64> = self.pages.keys().copied().collect();
        numbers.sort_unstable();
        let mut out = Runs {
            runs: Vec::new(),
            end: 0,
            bytes: 0,
            max_run,
        };
        let mut zeros = self.zeros.iter().peekable();
        for nr in numbers {
            while let Some((a, b)) = zeros.next_if(|(a, _)| **a < nr) {
                out.zeroes(a * PAGE_U64, (b - a) * PAGE_U64);
            }
            if let Some(page) = self.pages.get(&nr) {
                out.page(nr * PAGE_U64, page.mask, self.store.get(page));
            }
        }
        for (a, b) in zeros {
            out.zeroes(a * PAGE_U64, (b - a) * PAGE_U64);
        }
        out.runs
    }
}

/// Copies the sectors of `known` that lie in `[from, from + piece.len())` of the page.
fn copy_sectors(data: Option<&[u8; PAGE]>, from: usize, piece: &mut [u8], known: u8) {
    let copy = |start: usize, target: &mut [u8]| match data
        .and_then(|d| d.get(start..start + target.len()))
    {
        Some(source) => target.copy_from_slice(source),
        None => target.fill(0),
    };
    if known == mask_of(from, piece.len()) {
        return copy(from, piece);
    }
    for (i, target) in piece.chunks_mut(SECTOR).enumerate() {
        if known >> (from / SECTOR + i) & 1 != 0 {
            copy(from + i * SECTOR, target);
        }
    }
}

/// Where a page's data are.
type Slot = u32;

/// Pages per block.
const BLOCK: usize = 128;

/// Storage for pages in blocks, so that neither the allocator nor the kernel is asked for every page, and whole blocks can be used again.
#[derive(Default)]
struct Pages {
    blocks: Vec<Box<[u8]>>,
    /// Slots below this were handed out.
    next: Slot,
    free: Vec<Slot>,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pages({} of {})", self.used(), self.blocks.len() * BLOCK)
    }
}

impl Pages {
    /// A slot with any content.
    fn take(&mut self) -> Slot {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        let slot = self.next;
        self.next += 1;
        if slot as usize / BLOCK >= self.blocks.len() {
            // Zeroed memory as the kernel hands it out, not touched before it is used.
            self.blocks.push(vec![0; PAGE * BLOCK].into_boxed_slice());
        }
        slot
    }

    fn give_back(&mut self, slot: Option<Slot>) {
        self.free.extend(slot);
    }

    fn used(&self) -> usize {
        self.next as usize - self.free.len()
    }

    fn page_mut(&mut self, slot: Slot) -> &mut [u8; PAGE] {
        let slot = slot as usize;
        &mut self.blocks[slot / BLOCK].as_chunks_mut().0[slot % BLOCK]
    }

    fn get(&self, page: &Page) -> Option<&[u8; PAGE]> {
        let slot = page.data? as usize;
        self.blocks
            .get(slot / BLOCK)?
            .as_chunks()
            .0
            .get(slot % BLOCK)
    }

    /// Forgets all content, keeps at most this many bytes of blocks.
    fn reset(&mut self, keep_bytes: usize) {
        self.next = 0;
        self.free = Vec::new();
        self.blocks.truncate(keep_bytes / (BLOCK * PAGE));
    }
}

/// Collects runs in ascending order.
struct Runs<'a> {
    runs: Vec<WriteRun<'a>>,
    /// Behind the last run.
    end: u64,
    /// Bytes in the last data run.
    bytes: usize,
    max_run: usize,
}

impl<'a> Runs<'a> {
    fn page(&mut self, pos: u64, mask: u8, data: Option<&'a [u8; PAGE]>) {
        let mut sector = 0;
        while sector < 8 {
            let left = mask >> sector;
            if left & 1 == 0 {
                sector += 1;
                continue;
            }
            let count = left.trailing_ones() as usize;
            let from = sector * SECTOR;
            let len = count * SECTOR;
            match data.and_then(|d| d.get(from..from + len)) {
                Some(bytes) => self.data(pos + from as u64, bytes),
                None => self.zeroes(pos + from as u64, len as u64),
            }
            sector += count;
        }
    }

    fn data(&mut self, pos: u64, bytes: &'a [u8]) {
        match self.runs.last_mut() {
            Some(WriteRun::Data { pieces, .. })
                if self.end == pos && self.bytes + bytes.len() <= self.max_run =>
            {
                pieces.push(bytes);
                self.bytes += bytes.len();
            }
            _ => {
                self.runs.push(WriteRun::Data {
                    pos,
                    pieces: vec![bytes],
                });
                self.bytes = bytes.len();
            }
        }
        self.end = pos + bytes.len() as u64;
    }

    fn zeroes(&mut self, pos: u64, len: u64) {
        match self.runs.last_mut() {
            Some(WriteRun::Zeroes { len: l, .. }) if self.end == pos => *l += len,
            _ => self.runs.push(WriteRun::Zeroes { pos, len }),
        }
        self.end = pos + len;
    }
}

/// Current and frozen generation.
#[derive(Debug, Default)]
pub struct DirtyBuffer {
    current: Generation,
    frozen: Option<Arc<Generation>>,
    /// Empty; its memory is used for the next generation.
    spare: Generation,
}

impl DirtyBuffer {
    /// Empty.
    pub fn new() -> DirtyBuffer {
        DirtyBuffer::default()
    }
    /// Into the current generation.
    pub fn write(&mut self, pos: u64, data: &[u8]) {
        self.current.write(pos, data);
    }
    /// Into the current generation.
    pub fn write_zeroes(&mut self, pos: u64, len: u64) {
        self.current.write_zeroes(pos, len);
    }
    /// Current over frozen; as [`Generation::read`].
    pub fn read(&self, pos: u64, buf: &mut [u8], covered: Option<&mut [bool]>) -> bool {
        let Some(frozen) = &self.frozen else {
            return self.current.read(pos, buf, covered);
        };
        if self.current.is_empty() {
            return frozen.read(pos, buf, covered);
        }
        if let Some(flags) = covered {
            frozen.read(pos, buf, Some(flags));
            self.current.read(pos, buf, Some(flags));
            return flags
                .iter()
                .take(buf.len().div_ceil(SECTOR))
                .all(|known| *known);
        }
        if frozen.read(pos, buf, None) {
            self.current.read(pos, buf, None);
            return true;
        }
        if self.current.read(pos, buf, None) {
            return true;
        }
        // Each alone has gaps; together they may not.
        let mut flags = vec![false; buf.len().div_ceil(SECTOR)];
        self.read(pos, buf, Some(&mut flags))
    }
    /// Makes the current generation the frozen one. `None` when a frozen one still exists or there is nothing to freeze.
    pub fn freeze(&mut self) -> Option<Arc<Generation>> {
        if self.frozen.is_some() || self.current.is_empty() {
            return None;
        }
        let next = std::mem::take(&mut self.spare);
        let frozen = Arc::new(std::mem::replace(&mut self.current, next));
        self.frozen = Some(Arc::clone(&frozen));
        Some(frozen)
    }
    /// Only these ranges of the frozen generation are not on the disk: they stay frozen, and the current generation comes over them. `None` when
    /// nothing is frozen.
    pub fn refreeze(&mut self, left: &Ranges) -> Option<Arc<Generation>> {
        let old = self.frozen.take()?;
        let mut new = Generation::new();
        new.put_over(&old, Some(left));
        new.put_over(&self.current, None);
        self.current = Generation::new();
        let new = Arc::new(new);
        self.frozen = Some(Arc::clone(&new));
        Some(new)
    }
    /// What both hold something for.
    pub fn ranges(&self) -> Ranges {
        let frozen = self.frozen.as_ref().map(|f| f.ranges());
        let all = [self.current.ranges(), frozen.unwrap_or_default()];
        all.iter().flat_map(|r| r.iter().cloned()).collect()
    }
    /// The frozen generation is on the disk and flushed: drop it. Returned so that the caller can free it outside its lock.
    pub fn release_frozen(&mut self) -> Option<Arc<Generation>> {
        self.frozen.take()
    }
    /// Takes up to `keep_bytes` of the memory of a released generation for the next one; the rest is freed.
    pub fn recycle(&mut self, mut released: Generation, keep_bytes: usize) {
        if self.spare.store.blocks.is_empty() {
            released.reset(keep_bytes);
            self.spare = released;
        }
    }
    /// Frees memory that is only kept for later.
    pub fn shrink(&mut self) {
        self.spare = Generation::new();
        if self.current.is_empty() {
            self.current.reset(0);
        }
    }
    /// Is a frozen generation being written back?
    pub fn is_freezing(&self) -> bool {
        self.frozen.is_some()
    }
    /// The generation that takes new writes.
    pub fn current(&self) -> &Generation {
        &self.current
    }
    /// Nothing in either?
    pub fn is_empty(&self) -> bool {
        self.current.is_empty() && self.frozen.is_none()
    }
    /// Memory of both, in bytes.
    pub fn memory(&self) -> usize {
        self.current.memory() + self.frozen.as_ref().map_or(0, |f| f.memory())
    }
    /// Device bytes of both.
    pub fn bytes(&self) -> u64 {
        self.current.bytes() + self.frozen.as_ref().map_or(0, |f| f.bytes())
    }
}

#[cfg(test)]
#[path = "buffer_tests.rs"]
mod tests;
