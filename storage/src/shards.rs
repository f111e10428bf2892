//! Which core owns a key.
//!
//! The key space has a fixed number of shards, so that what is kept in shards outlives a change of the core count. A shard is the top bits
//! of the hash of the *primary* key: variants and parts live where their URI lives. Every core computes the owner by itself.

/// Shards of the key space where nothing is on disk.
pub const SHARD_COUNT: usize = 1 << Sharding::IN_MEMORY.bits;

/// How the key space is divided. A store on disk has its own division, fixed when it was formatted; else there is one of more shards than
/// any machine has cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharding {
    /// The top bits of a hash that name its shard.
    bits: u8,
}

impl Sharding {
    /// The division where nothing is on disk.
    pub const IN_MEMORY: Sharding = Sharding { bits: 10 };

    /// The most bits that name a shard.
    pub const BITS_MAX: u8 = 16;

    /// Makes the division into two to the power of `bits` shards, at most [`Sharding::BITS_MAX`].
    pub const fn of_bits(bits: u8) -> Sharding {
        assert!(bits <= Self::BITS_MAX, "shards are counted in 16 bits");
        Sharding { bits }
    }

    /// Returns how many shards there are.
    pub const fn count(self) -> usize {
        1 << self.bits
    }

    /// Returns the shard of a primary key of this hash.
    #[inline]
    pub const fn shard(self, primary_hash: u128) -> usize {
        // Every hit asks: a rotation needs no branch for the division into one shard.
        let top = (primary_hash >> 64) as u64;
        top.rotate_left(self.bits as u32) as usize & (self.count() - 1)
    }

    /// Returns the core, 0 to `cores` - 1, that owns a shard.
    ///
    /// Neighbouring shards have the same owner, and each core owns as many as any other, give or take one. Up to [`Sharding::count`] cores
    /// each own at least one.
    ///
    /// # Panics
    /// If `cores` is 0: somebody must own the key.
    #[inline]
    pub const fn owner_of_shard(self, shard: usize, cores: usize) -> usize {
        assert!(cores > 0, "a cache has at least one core");
        (shard * cores) >> self.bits
    }

    /// Returns the core that owns the primary key of this hash.
    #[inline]
    pub const fn owner_core(self, primary_hash: u128, cores: usize) -> usize {
        self.owner_of_shard(self.shard(primary_hash), cores)
    }
}

/// Returns the core that owns the primary key of this hash where nothing is on disk.
pub fn owner_core(primary_hash: u128, cores: usize) -> usize {
    Sharding::IN_MEMORY.owner_core(primary_hash, cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards_of_each(sharding: Sharding, cores: usize) -> Vec<usize> {
        let mut owned = vec![0; cores];
        for shard in 0..sharding.count() {
            let shift = 128 - u32::from(sharding.bits);
            let first = (shard as u128).checked_shl(shift).unwrap_or(0);
            let last = first | u128::MAX.checked_shr(sharding.bits.into()).unwrap_or(0);
            assert_eq!((sharding.shard(first), sharding.shard(last)), (shard, shard));
            let owner = sharding.owner_core(first, cores);
            assert_eq!(owner, sharding.owner_core(last, cores), "one owner a shard");
            owned[owner] += 1;
        }
        owned
    }

    #[test]
    fn every_core_owns_as_many_shards_as_any_other() {
        for cores in 1..=SHARD_COUNT {
            let owned = shards_of_each(Sharding::IN_MEMORY, cores);
            let (least, most) = (owned.iter().min().unwrap(), owned.iter().max().unwrap());
            assert!(*least > 0 && most - least <= 1, "{cores} cores: {least} to {most}");
        }
    }

    #[test]
    fn owners_are_the_same_in_every_build() {
        let table =
            [(0, 2, 0), (u128::MAX, 2, 1), (1 << 127, 2, 1), ((1 << 127) - 1, 2, 0), (1 << 126, 3, 0)];
        for (hash, cores, owner) in table.into_iter().chain([(1 << 127, 3, 1), (u128::MAX, 3, 2), (7, 1, 0)])
        {
            assert_eq!(owner_core(hash, cores), owner, "{hash:x} of {cores}");
        }
    }

    #[test]
    fn more_cores_than_shards_leave_some_without() {
        let owned = shards_of_each(Sharding::IN_MEMORY, SHARD_COUNT + 500);
        assert_eq!(owned.iter().sum::<usize>(), SHARD_COUNT);
        assert!(owned.iter().all(|count| *count <= 1));
    }

    #[test]
    fn a_store_of_few_shards_has_an_owner_for_each() {
        for bits in 0..=6 {
            let sharding = Sharding::of_bits(bits);
            for cores in 1..=sharding.count() {
                let owned = shards_of_each(sharding, cores);
                let (least, most) = (owned.iter().min().unwrap(), owned.iter().max().unwrap());
                assert!(*least > 0 && most - least <= 1, "{bits} bits, {cores} cores: {least} to {most}");
            }
            // More cores than shards leave some without.
            assert_eq!(shards_of_each(sharding, 100).iter().sum::<usize>(), sharding.count());
        }
    }
}
