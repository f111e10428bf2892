//! What an allocation really takes of the heap: allocators round up to classes of sizes, and a head of 1,025 B costs 1,280.
//!
//! Read by whoever charges heap memory to the budget. Invariant: never less than what was asked for.

/// Returns what an allocation of `len` bytes takes: multiples of 16 up to 64 B, then four classes for each doubling, as mimalloc has them.
pub(crate) const fn class_len(len: usize) -> usize {
    const ALIGNMENT: usize = 16;
    const SMALL: usize = 64;
    if len <= SMALL {
        return len.next_multiple_of(ALIGNMENT);
    }
    let step = (1 << ((len - 1).ilog2() - 2)) as usize;
    len.next_multiple_of(step)
}

/// Returns what an `Arc` of a `T` takes, with its two counts.
pub(crate) const fn arc_len<T>() -> usize {
    class_len(size_of::<T>() + 2 * size_of::<usize>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_rounded_up_to_their_class() {
        for (len, class) in [
            (0, 0),
            (1, 16),
            (16, 16),
            (17, 32),
            (64, 64),
            (65, 80),
            (128, 128),
            (129, 160),
            (300, 320),
            (1024, 1024),
            (1025, 1280),
            (1281, 1536),
            (2049, 2560),
        ] {
            assert_eq!(class_len(len), class, "{len}");
        }
        assert!((1..100_000).all(|len| class_len(len) >= len && class_len(len) <= len + len / 4 + 15));
    }
}
