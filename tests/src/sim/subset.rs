//! Which unflushed sectors a power cut leaves.
use super::rng::Rng;

/// What becomes of one unflushed write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing of it is there.
    Absent,
    /// All of it is there.
    Present,
    /// Only the sectors before this one.
    Until(u64),
    /// Only the sectors from this one on.
    From(u64),
    /// Each sector is there with this chance in 100.
    Scattered(u64),
}

/// How one power cut treats the unflushed writes of one device: extremes are as likely as mixtures.
#[derive(Clone, Copy, Debug)]
pub enum Fates {
    /// The same for all.
    All(Fate),
    /// All but one.
    Except(usize, Fate),
    /// The first ones are there, then one in part, then none: what a device without reordering leaves.
    Ordered(usize),
    /// Independent.
    Mixed,
}

impl Fates {
    /// For a device with so many unflushed writes.
    pub fn sample(rng: &mut Rng, writes: usize) -> Fates {
        let one = rng.below(writes as u64) as usize;
        match rng.below(10) {
            0 => Fates::All(Fate::Absent),
            1 => Fates::All(Fate::Present),
            2 => Fates::All(Fate::Scattered(*rng.pick(&[5, 50, 95]))),
            3 => Fates::Except(one, Fate::Absent),
            4 => Fates::Except(one, Fate::Present),
            5 | 6 => Fates::Ordered(one),
            _ => Fates::Mixed,
        }
    }

    /// Fate of write number `nr` with so many sectors.
    pub fn of(&self, nr: usize, sectors: u64, rng: &mut Rng) -> Fate {
        let part = |rng: &mut Rng| match rng.below(3) {
            0 => Fate::Until(rng.below(sectors + 1)),
            1 => Fate::From(rng.below(sectors + 1)),
            _ => Fate::Scattered(*rng.pick(&[10, 50, 90])),
        };
        match *self {
            Fates::All(fate) => fate,
            Fates::Except(one, fate) if nr == one => fate,
            Fates::Except(_, Fate::Absent) => Fate::Present,
            Fates::Except(..) => Fate::Absent,
            Fates::Ordered(one) if nr < one => Fate::Present,
            Fates::Ordered(one) if nr == one => Fate::Until(rng.below(sectors + 1)),
            Fates::Ordered(_) => Fate::Absent,
            Fates::Mixed => match rng.below(3) {
                0 => Fate::Absent,
                1 => Fate::Present,
                _ => part(rng),
            },
        }
    }
}

impl Fate {
    /// Is this sector of the write there?
    pub fn has(&self, sector: u64, rng: &mut Rng) -> bool {
        match *self {
            Fate::Absent => false,
            Fate::Present => true,
            Fate::Until(n) => sector < n,
            Fate::From(n) => sector >= n,
            Fate::Scattered(percent) => rng.chance(percent),
        }
    }
}
