//! Numbers to bytes and back, little endian, and the seeds of checks.
//!
//! Used by the formats beside it. Fixed places are for structures whose length was looked at before; everything of variable length
//! is written through [`Put`] and read through [`Take`], which ends instead of panicking.

use super::format::StoreId;

/// Mixes the number of a place into its store's hash; odd, so that no two numbers share a seed.
const PLACE_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the seed for checks of what lies in a place: a structure from elsewhere, or from an earlier life of the place, does not verify.
pub(super) fn seed(store: StoreId, number: u64) -> u64 {
    store.hash64() ^ number.wrapping_mul(PLACE_FACTOR)
}

/// Reads a number at a place that is there.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

/// Reads a number at a place that is there.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

/// Reads a number at a place that is there.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

/// Writes fields one after the other, or only counts how long they are.
#[derive(Debug)]
pub(super) struct Put<'o> {
    out: Option<&'o mut [u8]>,
    at: usize,
}

impl<'o> Put<'o> {
    /// Writes to a buffer that must have room for all.
    pub(super) fn to(out: &'o mut [u8]) -> Self {
        Put { out: Some(out), at: 0 }
    }

    /// Counts.
    pub(super) fn counting() -> Self {
        Put { out: None, at: 0 }
    }

    /// Returns how much was written.
    pub(super) fn len(&self) -> usize {
        self.at
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        if let Some(out) = &mut self.out {
            out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        }
        self.at += bytes.len();
    }

    /// Leaves room for `len` bytes, which are zero until something else is put there.
    pub(super) fn zeros(&mut self, len: usize) {
        if let Some(out) = &mut self.out {
            out[self.at..self.at + len].fill(0);
        }
        self.at += len;
    }

    /// A number in as few groups of seven bits as it needs, the lowest first.
    pub(super) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.bytes(&[value as u8]);
    }

    /// How far `value` is from `base`, which is short in either direction.
    pub(super) fn distance(&mut self, value: u64, base: u64) {
        let distance = value.wrapping_sub(base) as i64;
        self.varint(((distance << 1) ^ (distance >> 63)) as u64);
    }
}

/// Reads fields one after the other; `None` once they do not fit into what is there.
#[derive(Debug)]
pub(super) struct Take<'b> {
    rest: &'b [u8],
}

impl<'b> Take<'b> {
    pub(super) fn of(bytes: &'b [u8]) -> Self {
        Take { rest: bytes }
    }

    /// Returns what was not read yet.
    pub(super) fn rest(&self) -> &'b [u8] {
        self.rest
    }

    pub(super) fn bytes(&mut self, len: u64) -> Option<&'b [u8]> {
        let (taken, rest) = self.rest.split_at_checked(usize::try_from(len).ok()?)?;
        self.rest = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.bytes(4).map(|bytes| u32_at(bytes, 0))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.bytes(8).map(|bytes| u64_at(bytes, 0))
    }

    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn varint32(&mut self) -> Option<u32> {
        self.varint()?.try_into().ok()
    }

    pub(super) fn distance(&mut self, base: u64) -> Option<u64> {
        let folded = self.varint()?;
        let distance = (folded >> 1) as i64 ^ -((folded & 1) as i64);
        Some(base.wrapping_add(distance as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_are_read_as_they_were_put(value in any::<u64>(), small in any::<u16>(), base in any::<u64>()) {
            for value in [value, u64::from(small), u64::MAX, value >> 31] {
                let mut out = [0; 64];
                let mut put = Put::to(&mut out);
                put.varint(value);
                put.distance(value, base);
                let len = put.len();
                let mut counting = Put::counting();
                counting.varint(value);
                counting.distance(value, base);
                prop_assert_eq!(counting.len(), len);
                let mut take = Take::of(&out[..len]);
                prop_assert_eq!((take.varint(), take.distance(base)), (Some(value), Some(value)));
                prop_assert_eq!((take.rest(), take.varint()), (&[][..], None));
            }
        }

        #[test]
        fn any_bytes_give_a_number_or_none(bytes in prop::collection::vec(any::<u8>(), 0..16)) {
            let mut take = Take::of(&bytes);
            while take.varint().is_some() {}
            prop_assert!(take.u64().is_none() || take.rest().len() < 16);
        }
    }

    #[test]
    fn a_number_that_is_too_long_is_none() {
        assert_eq!(Take::of(&[0xff; 12]).varint(), None);
        assert_eq!(Take::of(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).varint(), None);
        assert_eq!(Take::of(&[0xff, 0xff, 0xff, 0xff, 0x1f]).varint32(), None);
    }
}
