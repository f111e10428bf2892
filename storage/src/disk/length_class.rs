//! 64 classes of lengths, in which an index slot and a footer say how much to read for a record.
//!
//! Each step of eight units has a class of its own up to eight units, then there are four classes in each doubling, so that a
//! class is at most a quarter, and a ninth on average, longer than what it stands for; always rounded up, so that one read holds the record.

use super::format::UNIT_LEN;

/// How many classes there are.
pub const COUNT: u8 = 64;

/// Bytes of the longest length that has a class.
pub const LEN_MAX: u64 = len(COUNT - 1);

/// Returns the class of the shortest length that is at least `len`, which is at most [`LEN_MAX`].
pub const fn of(len: u64) -> u8 {
    let units = len.div_ceil(UNIT_LEN);
    if units <= 8 {
        return if units == 0 { 0 } else { units as u8 - 1 };
    }
    // The number before it decides: a power of two and its quarters end a class.
    let before = units - 1;
    let doubling = before.ilog2() - 3;
    let quarter = (before >> (doubling + 1)) & 3;
    let class = 8 + 4 * doubling as u64 + quarter;
    if class < COUNT as u64 { class as u8 } else { COUNT - 1 }
}

/// Returns the bytes that a class stands for; of its six bits only.
pub const fn len(class: u8) -> u64 {
    let class = (class % COUNT) as u64;
    let units = if class < 8 { class + 1 } else { (5 + (class - 8) % 4) << (1 + (class - 8) / 4) };
    units * UNIT_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_its_lengths_and_no_smaller_class_does() {
        assert_eq!((len(0), len(7), len(8), LEN_MAX), (64, 512, 640, 8 << 20));
        for units in 1..=LEN_MAX / UNIT_LEN {
            let class = of(units * UNIT_LEN);
            assert_eq!(of(units * UNIT_LEN - 1), class);
            assert!(len(class) >= units * UNIT_LEN, "{units}");
            assert!(class == 0 || len(class - 1) < units * UNIT_LEN, "{units}");
            assert!(len(class) <= units * UNIT_LEN * 5 / 4);
        }
        for class in 0..COUNT {
            assert_eq!(of(len(class)), class);
        }
        assert_eq!((of(0), of(u64::MAX)), (0, 63));
    }
}
