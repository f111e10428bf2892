//! Which segments stay, and where, when a volume is made smaller.
//!
//! The daemon asks before it cuts segments off the end of a volume that nobody uses. What is cut off must not be newer than what stays: an older
//! version of a key, or one that a tombstone hides, would be found again. So the newest segments stay wherever they lie, in the places of
//! older ones. A segment is moved byte by byte but for its header, which names its place; sequence, records and footer stay as they are.

use std::cmp::Reverse;

use super::format::{SegmentState, TableEntry};

/// Segments that are left free if any is moved, so that the volume can be written before it has reclaimed anything.
const SPARE_COUNT: usize = 4;

/// A segment and the place that it is moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Where it lies, behind the end of the smaller volume.
    pub from: u32,
    /// Where it will lie. What lies there is older, or nothing.
    pub to: u32,
}

/// What to do before segments are cut off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Places whose entry in the table becomes [`TableEntry::FREE`], before anything is moved.
    pub freed: Vec<u32>,
    /// The moves, the newest segment first.
    pub moves: Vec<Move>,
}

/// Returns how a volume with these segments becomes one of `kept` segments.
pub fn plan(segments: &[TableEntry], kept: u32) -> Plan {
    let is_used = |entry: &TableEntry| entry.state.may_have_records();
    let mut used: Vec<(u64, u32)> = (0..)
        .zip(segments)
        .filter(|(_, entry)| is_used(entry))
        .map(|(segment, entry)| (entry.sequence, segment))
        .collect();
    used.sort_unstable_by_key(|(sequence, segment)| (Reverse(*sequence), *segment));
    // There twice after a move that was interrupted.
    used.dedup_by_key(|(sequence, _)| *sequence);
    if used.iter().all(|(_, segment)| *segment < kept) {
        return Plan::default();
    }
    let usable = |segment: &u32| segments[*segment as usize].state != SegmentState::Bad;
    let places = (0..kept.min(segments.len() as u32)).filter(usable);
    let room = places.clone().count().saturating_sub(SPARE_COUNT);
    let stay: Vec<u32> = used.into_iter().take(room).map(|(_, segment)| segment).collect();
    let mut is_taken = vec![false; segments.len()];
    stay.iter().for_each(|segment| is_taken[*segment as usize] = true);
    let vacant: Vec<u32> = places.filter(|place| !is_taken[*place as usize]).collect();
    let freed = vacant.iter().copied().filter(|place| is_used(&segments[*place as usize])).collect();
    let leaving = stay.into_iter().filter(|segment| *segment >= kept);
    // There are at least as many vacant places as segments that have none.
    let moves = leaving.zip(vacant).map(|(from, to)| Move { from, to }).collect();
    Plan { freed, moves }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn entry(state: SegmentState, sequence: u64) -> TableEntry {
        TableEntry { state, sequence, ..TableEntry::FREE }
    }

    #[test]
    fn nothing_moves_when_nothing_is_cut() {
        let mut segments = vec![entry(SegmentState::Sealed, 1); 10];
        segments.extend([entry(SegmentState::Free, 90), entry(SegmentState::Bad, 91)]);
        assert_eq!(plan(&segments, 10), Plan::default());
        assert_eq!(plan(&segments, 12), Plan::default());
        assert_eq!(plan(&[], 0), Plan::default());
    }

    #[test]
    fn the_newest_take_the_places_of_the_oldest() {
        let segments: Vec<TableEntry> = (0..12).map(|at| entry(SegmentState::Sealed, 100 + at)).collect();
        let Plan { freed, moves } = plan(&segments, 8);
        assert_eq!(freed, (0..8).collect::<Vec<_>>());
        let moved = [(11, 0), (10, 1), (9, 2), (8, 3)];
        assert_eq!(moves, moved.map(|(from, to)| Move { from, to }));
    }

    #[test]
    fn what_was_moved_already_is_not_moved_again() {
        let mut segments = vec![TableEntry::FREE; 10];
        segments[2] = entry(SegmentState::Sealed, 7);
        segments[9] = entry(SegmentState::Sealed, 7);
        assert_eq!(plan(&segments, 8), Plan::default());
        segments[8] = entry(SegmentState::Open, 8);
        let Plan { freed, moves } = plan(&segments, 8);
        assert_eq!((freed, moves), (vec![], vec![Move { from: 8, to: 0 }]));
    }

    proptest! {
        #[test]
        fn what_stays_is_newer_than_what_goes(
            states in prop::collection::vec((0u8..4, any::<u64>()), 0..60),
            kept in 0u32..70,
        ) {
            let of = [SegmentState::Free, SegmentState::Open, SegmentState::Sealed, SegmentState::Bad];
            let mut segments: Vec<TableEntry> =
                states.iter().map(|(state, sequence)| entry(of[usize::from(*state)], *sequence)).collect();
            let before = segments.clone();
            let Plan { freed, moves } = plan(&segments, kept);
            freed.iter().for_each(|place| segments[*place as usize] = TableEntry::FREE);
            for Move { from, to } in &moves {
                prop_assert!(*from >= kept && *to < kept);
                prop_assert_eq!(segments[*to as usize].state, SegmentState::Free);
                segments[*to as usize] = segments[*from as usize];
            }
            segments.truncate(kept as usize);
            let sequences = |segments: &[TableEntry]| -> BTreeSet<u64> {
                let used = segments.iter().filter(|entry| [SegmentState::Open, SegmentState::Sealed].contains(&entry.state));
                used.map(|entry| entry.sequence).collect()
            };
            let (all, stay) = (sequences(&before), sequences(&segments));
            let oldest = stay.first().copied().unwrap_or(u64::MAX);
            prop_assert!(all.range(oldest..).all(|sequence| stay.contains(sequence)));
            let places = segments.iter().filter(|entry| entry.state != SegmentState::Bad).count();
            prop_assert!(stay.len() == all.len() || stay.len() == places.saturating_sub(SPARE_COUNT));
        }
    }
}
