//! How many volumes has a store, how long are their segments, and how many of them fit? Numbers in, numbers out.
//!
//! Asked where a store is made or its size changes, and by the start for the length of the index. Invariants: a volume belongs to one core whole,
//! so a new store has at least as many as there are cores; a new volume has at least [`SEGMENT_COUNT_MIN`] segments, so that reclaiming one
//! costs a small part of what is kept.

use aspis_config::values::write_size;
use aspis_storage::disk::format::{self, Geometry};

/// The least segments of a volume that is made.
const SEGMENT_COUNT_MIN: u64 = 64;
/// The least segments of a volume that is made smaller: what is being written, what is kept clean ahead, and something to keep.
const SEGMENT_COUNT_LEFT_MIN: u64 = 16;
/// The longest segments, 16 MiB: the format has no longer ones.
const SEGMENT_SHIFT_MAX: u8 = *format::SEGMENT_SHIFTS.end();
/// The shortest that are made, 2 MiB: a slice of a large object with its head, and the segment's own header and footer, need more than one.
const SEGMENT_SHIFT_MIN: u8 = 21;
/// Volumes are about so long where the store is large enough.
const VOLUME_LEN: u64 = 4 << 30;
/// The most volumes of a store.
pub(super) const VOLUME_COUNT_MAX: u64 = 64;
/// The most segments of a volume: with any count up to this the first lies at the same place, so that a change of size moves none.
const SEGMENT_COUNT_MAX: u64 = format::SEGMENT_COUNT_MAX as u64;
/// Index slots for each hundred records: it is filled to 85 %.
const SLOTS_FOR_100: u64 = 118;
/// What a slot takes.
const SLOT_LEN: u64 = 8;
/// The index takes at most this part of `--memory`: the rest is for what is served from there.
const INDEX_SHARE: u64 = 2;

/// Returns the least volumes of a new store, so that each of so many cores, or folders, has one.
fn volumes_min(cores: usize) -> u64 {
    (cores as u64).clamp(1, VOLUME_COUNT_MAX).next_power_of_two()
}

/// Returns the least size of a new store for so many cores.
pub(super) fn len_min(cores: usize) -> u64 {
    volumes_min(cores) * (SEGMENT_COUNT_MIN << SEGMENT_SHIFT_MIN)
}

/// The form of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// There are two to the power of this volumes.
    pub(super) shard_bits: u8,
    /// A segment is two to the power of this long.
    pub(super) segment_shift: u8,
    /// The segments of each volume.
    pub(super) segment_count: u32,
}

impl Plan {
    /// Returns the form of a new store of `size` bytes for so many cores, in so many folders. The error is a text that names the flag.
    pub(super) fn new(size: u64, cores: usize, folders: usize) -> Result<Plan, String> {
        let needed = volumes_min(cores).max(volumes_min(folders));
        let least = needed * (SEGMENT_COUNT_MIN << SEGMENT_SHIFT_MIN);
        if folders as u64 > needed {
            return Err(format!("a store has at most {VOLUME_COUNT_MAX} folders"));
        }
        if size < least {
            return Err(format!(
                "--disk-size {}: {cores} core(s) and {folders} folder(s) need {needed} volume(s) of at least 128MiB, {} in all",
                write_size(size),
                write_size(least)
            ));
        }
        let wanted = (size / VOLUME_LEN).clamp(1, VOLUME_COUNT_MAX);
        let volumes = wanted.next_power_of_two().max(needed);
        let volume_len = size / volumes;
        let segment_shift = (SEGMENT_SHIFT_MIN..=SEGMENT_SHIFT_MAX)
            .rev()
            .find(|shift| volume_len >> shift >= SEGMENT_COUNT_MIN)
            .expect("volumes have the least length at least, as was seen above");
        let segment_count = volume_len >> segment_shift;
        if segment_count > SEGMENT_COUNT_MAX {
            let most = volumes * (SEGMENT_COUNT_MAX << segment_shift);
            return Err(format!("--disk-size {}: at most {}", write_size(size), write_size(most)));
        }
        Ok(Plan {
            shard_bits: u8::try_from(volumes.ilog2()).expect("64 volumes at most"),
            segment_shift,
            segment_count: u32::try_from(segment_count).expect("bounded a line above"),
        })
    }

    /// Returns how many volumes there are.
    pub(super) fn volume_count(&self) -> u16 {
        1 << self.shard_bits
    }

    /// Returns the form of a volume.
    pub(super) fn geometry(&self) -> Geometry {
        Geometry { segment_shift: self.segment_shift, segment_count: self.segment_count }
    }

    /// Returns how many bytes of the store can hold something.
    pub(super) fn len(&self) -> u64 {
        self.geometry().segments_len() << self.shard_bits
    }
}

/// Returns the form of a volume of `geometry` in a store of `volumes` when that is to have `size` bytes. Segments stay where they are.
pub(super) fn resized(geometry: Geometry, volumes: u64, size: u64) -> Result<Geometry, String> {
    let segment_shift = geometry.segment_shift;
    let count = (size / volumes) >> segment_shift;
    let len_of = |count: u64| write_size((volumes * count) << segment_shift);
    if !(SEGMENT_COUNT_LEFT_MIN..=SEGMENT_COUNT_MAX).contains(&count) {
        return Err(format!(
            "--disk-size {}: a store of {volumes} volume(s) with segments of {} can have {} to {}. For another size it has to be made anew",
            write_size(size),
            write_size(1 << segment_shift),
            len_of(SEGMENT_COUNT_LEFT_MIN),
            len_of(SEGMENT_COUNT_MAX)
        ));
    }
    Ok(Geometry { segment_shift, segment_count: u32::try_from(count).expect("bounded a line above") })
}

/// Returns how many slots the index of a volume has, for records of this mean length.
fn index_slots(geometry: Geometry, mean_object: u64) -> u64 {
    (geometry.segments_len() / mean_object.max(1) * SLOTS_FOR_100).div_ceil(100).next_multiple_of(8).max(1024)
}

/// Returns how many slots the index of each of `volumes` volumes has, or a text that names the flags that help if `--memory` has no room for them.
pub(super) fn fitting_index(
    geometry: Geometry,
    volumes: u64,
    memory: u64,
    mean_object: u64,
) -> Result<u64, String> {
    let slots = index_slots(geometry, mean_object);
    let (len, most) = (volumes * slots * SLOT_LEN, memory / INDEX_SHARE);
    if len <= most {
        return Ok(slots);
    }
    let fitting = mean_object.saturating_mul(len.div_ceil(most.max(1))).next_power_of_two();
    Err(format!(
        "the index of the store takes {} MiB, more than half of --memory {} MiB: give more memory, a smaller --disk-size, or say with \
         --disk-mean-object {} that the responses are larger",
        len.div_ceil(1 << 20),
        memory >> 20,
        write_size(fitting)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const TIB: u64 = 1 << 40;

    #[test]
    fn a_store_has_a_volume_for_each_core_and_one_for_each_4_gib() {
        for (size, cores, volumes, segment_len, segments) in [
            (128 * MIB, 1, 1, 2 * MIB, 64),
            (512 * MIB, 2, 2, 4 * MIB, 64),
            (GIB, 1, 1, 16 * MIB, 64),
            (10 * GIB, 3, 4, 16 * MIB, 160),
            (64 * GIB, 1, 16, 16 * MIB, 256),
            (TIB, 8, 64, 16 * MIB, 1024),
            (TIB, 200, 64, 16 * MIB, 1024),
            (8 * GIB, 64, 64, 2 * MIB, 64),
            (300 * MIB, 1, 1, 4 * MIB, 75),
        ] {
            let plan = Plan::new(size, cores, 1).expect("large enough");
            let found =
                (u64::from(plan.volume_count()), 1 << plan.segment_shift, u64::from(plan.segment_count));
            assert_eq!(found, (volumes, segment_len, segments), "{size} for {cores}");
            assert!(plan.len() <= size && plan.len() * 100 >= size * 97, "{size}: {}", plan.len());
        }
    }

    #[test]
    fn every_size_gives_a_sound_store_or_says_what_it_needs() {
        for cores in [1, 2, 3, 8, 64, 1000] {
            for shift in 20..60 {
                for size in [1 << shift, (1 << shift) + 12_345_678, 3 << (shift - 1)] {
                    match Plan::new(size, cores, 1) {
                        Ok(plan) => {
                            assert!(
                                plan.len() <= size && (64..=20_480).contains(&plan.segment_count),
                                "{plan:?}"
                            );
                            assert!(
                                (21..=24).contains(&plan.segment_shift) && plan.volume_count() <= 64,
                                "{plan:?}"
                            );
                            assert!(usize::from(plan.volume_count()) >= cores.min(64), "{plan:?}");
                        }
                        Err(text) if size < 8 * GIB => assert!(text.contains("need"), "{size}: {text}"),
                        Err(text) => {
                            assert!(size > 20 * TIB && text.contains("at most 20TiB"), "{size}: {text}")
                        }
                    }
                }
            }
        }
        let text = Plan::new(200 * MIB, 3, 1).expect_err("four volumes are needed");
        assert_eq!(
            text,
            "--disk-size 200MiB: 3 core(s) and 1 folder(s) need 4 volume(s) of at least 128MiB, 512MiB in all"
        );
        assert_eq!(Plan::new(TIB, 1, 5).expect("room").volume_count(), 64);
        assert_eq!(Plan::new(GIB, 1, 5).expect("room").volume_count(), 8, "each folder has one");
        assert!(Plan::new(TIB, 1, 65).is_err());
    }

    #[test]
    fn a_volume_grows_and_shrinks_without_moving_a_segment() {
        let geometry = Geometry { segment_shift: 24, segment_count: 256 };
        let count = |size| resized(geometry, 4, size).map(|resized| resized.segment_count);
        assert_eq!(count(16 * GIB), Ok(256));
        assert_eq!(count(17 * GIB), Ok(272));
        assert_eq!(count(GIB), Ok(16));
        for size in [GIB - 1, 4 * 321 * GIB] {
            let text = count(size).expect_err("out of bounds");
            assert!(text.contains("can have 1GiB to 1280GiB"), "{text}");
        }
        for segment_shift in 20..=24 {
            let first = |segment_count| Geometry { segment_shift, segment_count }.segment_offset(0);
            let most = u32::try_from(SEGMENT_COUNT_MAX).expect("a small number");
            assert!((1..=most).all(|count| first(count) == first(1)));
        }
    }

    #[test]
    fn the_index_has_room_for_the_mean_record_and_stays_within_half_of_the_memory() {
        let geometry = Geometry { segment_shift: 24, segment_count: 256 };
        let slots = index_slots(geometry, 16 << 10);
        let records = (4 * GIB) / (16 << 10);
        assert!(
            slots.is_multiple_of(8) && slots * 85 / 100 >= records && slots * 8 <= records * 19 / 2,
            "{slots}"
        );
        assert_eq!(index_slots(Geometry { segment_shift: 21, segment_count: 64 }, 64 * MIB), 1024);
        assert_eq!(fitting_index(geometry, 1, 64 * MIB, 16 << 10), Ok(slots));
        let text = fitting_index(geometry, 64, 64 * MIB, 16 << 10).expect_err("too much");
        assert!(text.contains("152 MiB") && text.contains("--disk-mean-object 128KiB"), "{text}");
        assert!(fitting_index(geometry, 64, 64 * MIB, 128 << 10).is_ok(), "what it says helps");
    }
}
