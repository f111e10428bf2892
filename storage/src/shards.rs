//! Which core owns a key.
//!
//! The key space has a fixed number of shards, so that what is kept in shards outlives a change of the core count. A shard is the top bits
//! of the hash of the *primary* key: variants and parts live where their URI lives. Every core computes the owner by itself.

/// Shards of the key space.
pub const SHARD_COUNT: usize = 1 << SHARD_BITS;

/// The top bits of a hash that name its shard.
const SHARD_BITS: u32 = 10;

/// Returns the core, 0 to `cores` - 1, that owns the primary key of this hash.
///
/// Neighbouring shards have the same owner, and each core owns as many as any other, give or take one. Up to [`SHARD_COUNT`] cores each
/// own at least one.
///
/// # Panics
/// If `cores` is 0: somebody must own the key.
pub fn owner_core(primary_hash: u128, cores: usize) -> usize {
    assert!(cores > 0, "a cache has at least one core");
    let shard = (primary_hash >> (u128::BITS - SHARD_BITS)) as usize;
    (shard * cores) >> SHARD_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards_of_each(cores: usize) -> Vec<usize> {
        let mut owned = vec![0; cores];
        for shard in 0..SHARD_COUNT as u128 {
            let first = shard << (128 - SHARD_BITS);
            let owner = owner_core(first, cores);
            assert_eq!(
                owner,
                owner_core(first | ((1 << (128 - SHARD_BITS)) - 1), cores),
                "one owner a shard"
            );
            owned[owner] += 1;
        }
        owned
    }

    #[test]
    fn every_core_owns_as_many_shards_as_any_other() {
        for cores in 1..=SHARD_COUNT {
            let owned = shards_of_each(cores);
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
        let owned = shards_of_each(SHARD_COUNT + 500);
        assert_eq!(owned.iter().sum::<usize>(), SHARD_COUNT);
        assert!(owned.iter().all(|count| *count <= 1));
    }
}
