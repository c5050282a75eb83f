//! Digests and compressions by name: flags, masks, preferences (transaction-log.md 1.5).

/// Digest of a record's payload.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Digest {
    /// First four bytes of an MD5.
    Md5Old,
    /// MD5 of both halves, folded.
    Md5,
    /// Eight CRC32C, folded. The default.
    Crc32c,
    /// Eight raw CRC32, folded.
    Crc32,
    /// SHA1, folded.
    Sha1,
}

/// Compression of a record's payload.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Compression {
    /// LZO1X: read only.
    Lzo,
    /// Raw LZ4 block.
    Lz4,
    /// zlib stream.
    Zlib,
}

impl Digest {
    /// All digests, the preferred one first.
    pub const BY_PREFERENCE: [Digest; 5] = [
        Digest::Crc32c,
        Digest::Crc32,
        Digest::Md5,
        Digest::Sha1,
        Digest::Md5Old,
    ];

    /// The bit in `crc_flags`.
    pub(crate) const fn flag(self) -> u16 {
        match self {
            Digest::Md5Old => 0x0001,
            Digest::Md5 => 0x0002,
            Digest::Crc32c => 0x0004,
            Digest::Crc32 => 0x0008,
            Digest::Sha1 => 0x0010,
        }
    }
}

impl Compression {
    /// All compressions, the preferred one first.
    pub const BY_PREFERENCE: [Compression; 3] =
        [Compression::Lzo, Compression::Lz4, Compression::Zlib];

    /// Can records be written with it?
    pub const fn is_writable(self) -> bool {
        !matches!(self, Compression::Lzo)
    }

    /// The bit in `crc_flags`.
    pub(crate) const fn flag(self) -> u16 {
        match self {
            Compression::Lzo => 0x0100,
            Compression::Lz4 => 0x0200,
            Compression::Zlib => 0x0400,
        }
    }
}

/// All compression bits of `crc_flags`.
pub(crate) const COMPRESSION_FLAGS: u16 = 0x0700;

/// The 32-bit feature mask of peers and `defaults` links (symlink-tree.md 1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FeatureMask(pub u32);

impl FeatureMask {
    /// What this implementation supports: all digests, LZO (read), LZ4, ZLIB.
    pub const OURS: FeatureMask = FeatureMask(0x071f_0000);

    /// Best digest allowed by the mask (transaction-log.md 1.5); MD5_OLD as the last resort.
    pub fn best_digest(self) -> Digest {
        Digest::BY_PREFERENCE
            .into_iter()
            .find(|d| self.contains(Self::of_digest(*d)))
            .unwrap_or(Digest::Md5Old)
    }

    /// First allowed compression that we can write.
    pub fn best_compression(self) -> Option<Compression> {
        Compression::BY_PREFERENCE
            .into_iter()
            .find(|c| c.is_writable() && self.contains(Self::of_compression(*c)))
    }

    /// The mask with one bit for this digest.
    pub fn of_digest(d: Digest) -> FeatureMask {
        FeatureMask(u32::from(d.flag()) << 16)
    }

    /// The mask with one bit for this compression.
    pub fn of_compression(c: Compression) -> FeatureMask {
        FeatureMask(u32::from(c.flag()) << 16)
    }

    /// Are all bits of `other` set?
    pub const fn contains(self, other: FeatureMask) -> bool {
        self.0 & other.0 == other.0
    }

    /// Bits that both have.
    pub const fn and(self, other: FeatureMask) -> FeatureMask {
        FeatureMask(self.0 & other.0)
    }

    /// Bits of `self` that `other` does not have.
    pub const fn without(self, other: FeatureMask) -> FeatureMask {
        FeatureMask(self.0 & !other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_bits_are_the_documented_ones() {
        let bits: Vec<u32> = [
            Digest::Md5Old,
            Digest::Md5,
            Digest::Crc32c,
            Digest::Crc32,
            Digest::Sha1,
        ]
        .into_iter()
        .map(|d| FeatureMask::of_digest(d).0)
        .chain(Compression::BY_PREFERENCE.map(|c| FeatureMask::of_compression(c).0))
        .collect();
        assert_eq!(
            bits,
            [
                0x0001_0000,
                0x0002_0000,
                0x0004_0000,
                0x0008_0000,
                0x0010_0000,
                0x0100_0000,
                0x0200_0000,
                0x0400_0000
            ]
        );
        assert_eq!(bits.iter().sum::<u32>(), FeatureMask::OURS.0);
    }

    #[test]
    fn best_digest_follows_the_preference() {
        let m = FeatureMask;
        assert_eq!(FeatureMask::OURS.best_digest(), Digest::Crc32c);
        assert_eq!(m(0x001b_0000).best_digest(), Digest::Crc32);
        assert_eq!(m(0x0013_0000).best_digest(), Digest::Md5);
        assert_eq!(m(0x0011_0000).best_digest(), Digest::Sha1);
        assert_eq!(m(0x0001_0000).best_digest(), Digest::Md5Old);
        assert_eq!(m(0).best_digest(), Digest::Md5Old);
    }

    #[test]
    fn best_compression_skips_what_we_cannot_write() {
        let m = FeatureMask;
        assert_eq!(FeatureMask::OURS.best_compression(), Some(Compression::Lz4));
        assert_eq!(m(0x0500_0000).best_compression(), Some(Compression::Zlib));
        assert_eq!(m(0x0100_0000).best_compression(), None);
        assert_eq!(m(0).best_compression(), None);
    }
}
