//! Which object is asked for next: precomputed lists in which a few objects are asked for often and most of them hardly ever.
//!
//! A seed gives one list, so every server is asked for the same objects in the same order.

use crate::random::Random;

/// How much rarer the next object in the order of popularity is: the classical law, half as often at twice the rank.
const EXPONENT: f64 = 1.0;

/// Returns `count` numbers below `objects`, drawn by Zipf's law. Which number is the most popular is drawn as well, so that popular
/// objects are no neighbours.
pub(crate) fn zipf(objects: u32, count: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    let mut order: Vec<u32> = (0..objects).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, random.between(0, last as u64) as usize);
    }
    let mut total = 0.0;
    let sums: Vec<f64> = (1..=objects)
        .map(|rank| {
            total += f64::from(rank).powf(-EXPONENT);
            total
        })
        .collect();
    let mut pick = || {
        // 53 random bits are a fraction below 1.
        let point = (random.next() >> 11) as f64 / (1_u64 << 53) as f64 * total;
        let rank = sums.partition_point(|sum| *sum <= point);
        order[rank.min(order.len() - 1)]
    };
    (0..count).map(|_| pick()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_second_is_asked_for_half_as_often_as_the_first() {
        let mut counts: HashMap<u32, u32> = HashMap::new();
        for object in zipf(1000, 200_000, 7) {
            *counts.entry(object).or_default() += 1;
        }
        let mut sorted: Vec<u32> = counts.values().copied().collect();
        sorted.sort_unstable_by(|left, right| right.cmp(left));
        let (first, second) = (f64::from(sorted[0]), f64::from(sorted[1]));
        assert!((0.45..0.55).contains(&(second / first)), "{second} of {first}");
        // The harmonic sum of 1000 is 7.485.
        assert!((0.12..0.15).contains(&(first / 200_000.0)), "{first}");
        assert!(sorted.len() > 950, "{} of 1000", sorted.len());
    }

    #[test]
    fn a_seed_gives_one_list() {
        assert_eq!(zipf(100, 50, 3), zipf(100, 50, 3));
        assert_ne!(zipf(100, 50, 3), zipf(100, 50, 4));
        assert!(zipf(1, 10, 1).iter().all(|object| *object == 0));
    }
}
