//! Bodies: every byte read back for every way of writing, from other threads, with tails abandoned and memory short.

use super::*;
use crate::budget::Budget;
use proptest::prelude::*;
use std::sync::atomic::AtomicUsize;

const MIB: usize = 1024 * 1024;

fn arena(capacity: usize) -> (Arena, Arc<Budget>) {
    let budget = Budget::new(64 * MIB as u64);
    (Arena::new(capacity, Arc::clone(&budget)).unwrap(), budget)
}

/// The byte that belongs at a position: no period that blocks have.
fn byte_at(position: u64) -> u8 {
    (position % 251) as u8 ^ (position / 65_537) as u8
}

fn bytes(from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64).map(byte_at).collect()
}

/// Reads from `at` to the end of what is published, checks each byte, and returns the end.
fn check_from(body: &Body, mut at: u64) -> u64 {
    loop {
        let piece = body.piece(at);
        if piece.is_empty() {
            return at;
        }
        for (offset, byte) in piece.iter().enumerate() {
            assert_eq!(*byte, byte_at(at + offset as u64), "at {at} + {offset}");
        }
        at += piece.len() as u64;
    }
}

/// Bodies, tails and blocks cross threads; a writer and its arena do not, which `Rc` sees to.
const _: () = {
    const fn crosses_threads<T: Send + Sync>() {}
    const fn moves_between_threads<T: Send>() {}
    crosses_threads::<Body>();
    crosses_threads::<Block>();
    moves_between_threads::<Tail>();
};

#[test]
fn a_known_length_takes_exactly_its_units() {
    let (arena, budget) = arena(16 * MIB);
    let heads = budget.used(Purpose::Heads);
    for (len, blocks) in [(1u64, 1), (512, 1), (513, 1), (100_000, 1), (2 * MIB as u64, 1), (5_000_000, 3)] {
        let mut writer = Body::writer(&arena, Some(len));
        assert_eq!(writer.append(&bytes(0, len as usize)), len as usize);
        let body = Arc::clone(writer.body());
        assert_eq!(body.charged_len(), len.next_multiple_of(512), "charged for {len}");
        assert_eq!(writer.complete(), BodyState::Complete);
        assert_eq!((body.block_count(), check_from(&body, 0)), (blocks, len));
        assert_eq!(budget.used(Purpose::Payload), len.next_multiple_of(512));
        drop(body);
        arena.drain(usize::MAX);
    }
    assert_eq!((budget.used(Purpose::Payload), budget.used(Purpose::Heads)), (0, heads));
}

#[test]
fn an_unknown_length_grows_by_doubling_and_is_trimmed_at_completion() {
    let (arena, budget) = arena(16 * MIB);
    let mut writer = Body::writer(&arena, None);
    assert_eq!(writer.append(b"x"), 1);
    assert_eq!(writer.body().charged_len(), FILL_BLOCK_LEN_FIRST as u64);
    let mut at = 0u64;
    drop(writer);
    let mut writer = Body::writer(&arena, None);
    while at < 3_000_000 {
        assert_eq!(writer.append(&bytes(at, 1000)), 1000);
        at += 1000;
        assert!(
            writer.body().charged_len() <= (2 * at).max(FILL_BLOCK_LEN_FIRST as u64),
            "no more than doubled"
        );
    }
    let body = Arc::clone(writer.body());
    assert_eq!(writer.complete(), BodyState::Complete);
    assert_eq!(body.charged_len(), at.next_multiple_of(512));
    assert_eq!(check_from(&body, 0), at);
    arena.drain(usize::MAX);
    assert_eq!(budget.used(Purpose::Payload), at.next_multiple_of(512));
    assert_eq!(arena.free_len(), arena.capacity() - at.next_multiple_of(512));
}

#[test]
fn a_tail_is_as_long_as_asked_or_as_the_block_has() {
    let (arena, _budget) = arena(4 * MIB);
    let mut writer = Body::writer(&arena, Some(1000));
    assert!(writer.tail(0).is_none());
    let mut tail = writer.tail(600).unwrap();
    assert_eq!(tail.as_ref().len(), 600);
    tail.as_mut().copy_from_slice(&bytes(0, 600));
    writer.publish(tail, 600);
    let mut tail = writer.tail(usize::MAX).unwrap();
    assert_eq!(tail.as_ref().len(), 424);
    tail.as_mut()[..400].copy_from_slice(&bytes(600, 400));
    writer.publish(tail, 400);
    let body = Arc::clone(writer.body());
    assert_eq!(writer.complete(), BodyState::Complete);
    assert_eq!(check_from(&body, 0), 1000);
}

#[test]
fn one_tail_is_out_at_most() {
    let (arena, _budget) = arena(4 * MIB);
    let mut writer = Body::writer(&arena, None);
    let tail = writer.tail(100).unwrap();
    assert!(writer.tail(100).is_none());
    assert_eq!(writer.append(b"abc"), 0);
    drop(tail);
    assert_eq!(writer.append(b"abc"), 3);
    assert!(writer.tail(100).is_some());
}

#[test]
#[should_panic(expected = "a tail is published by the writer that lent it")]
fn a_tail_of_another_body_is_not_published() {
    let (arena, _budget) = arena(4 * MIB);
    let mut one = Body::writer(&arena, None);
    let mut other = Body::writer(&arena, None);
    let tail = one.tail(10).unwrap();
    other.publish(tail, 5);
}

#[test]
#[should_panic(expected = "a tail is published by the writer that lent it")]
fn more_than_a_tail_holds_is_not_published() {
    let (arena, _budget) = arena(4 * MIB);
    let mut writer = Body::writer(&arena, None);
    let tail = writer.tail(10).unwrap();
    writer.publish(tail, 11);
}

#[test]
fn an_abandoned_tail_keeps_its_memory() {
    let (arena, budget) = arena(2 * MIB);
    let mut writer = Body::writer(&arena, None);
    assert_eq!(writer.append(&bytes(0, 100)), 100);
    let mut tail = writer.tail(10_000).unwrap();
    writer.fail();
    // The rest of the arena is taken by others while the "kernel" still writes.
    let mut others: Vec<_> = std::iter::from_fn(|| arena.allocate(512)).collect();
    others.iter_mut().for_each(|block| block.as_mut().fill(1));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            tail.as_mut().fill(2);
            assert!(tail.as_ref().iter().all(|byte| *byte == 2));
        });
    });
    assert!(others.iter().all(|block| block.as_ref().iter().all(|byte| *byte == 1)));
    drop(others);
    while arena.drain(1000) > 0 {}
    assert_eq!((budget.used(Purpose::Payload), arena.free_len()), (0, arena.capacity()));
}

#[test]
fn completion_with_a_tail_out_gives_nothing_back_before_the_drop() {
    let (arena, budget) = arena(2 * MIB);
    let mut writer = Body::writer(&arena, None);
    assert_eq!(writer.append(b"abc"), 3);
    let mut tail = writer.tail(usize::MAX).unwrap();
    let body = Arc::clone(writer.body());
    assert_eq!(writer.complete(), BodyState::Complete);
    assert_eq!(body.charged_len(), FILL_BLOCK_LEN_FIRST as u64);
    tail.as_mut().fill(9);
    assert_eq!(body.piece(0), b"abc");
    drop(tail);
    drop(body);
    arena.drain(10);
    assert_eq!(budget.used(Purpose::Payload), 0);
}

#[test]
fn a_body_that_is_not_what_was_declared_fails() {
    let (arena, _budget) = arena(2 * MIB);
    for len in [0, 9, 11] {
        let mut writer = Body::writer(&arena, Some(10));
        assert_eq!(writer.append(&bytes(0, len)), len);
        let body = Arc::clone(writer.body());
        assert_eq!(writer.complete(), BodyState::Failed);
        assert_eq!(body.progress(), Progress { state: BodyState::Failed, len: len as u64 });
        assert_eq!(check_from(&body, 0), len as u64);
    }
}

#[test]
fn a_dropped_writer_fails_its_body() {
    let (arena, _budget) = arena(2 * MIB);
    let mut writer = Body::writer(&arena, None);
    assert_eq!(writer.append(b"abc"), 3);
    let body = Arc::clone(writer.body());
    assert_eq!(body.progress().state, BodyState::Filling);
    drop(writer);
    assert_eq!(body.progress(), Progress { state: BodyState::Failed, len: 3 });
    assert_eq!(body.piece(1), b"bc");
}

#[test]
fn a_body_that_is_handed_over_keeps_what_is_there_and_no_more() {
    let (arena, budget) = arena(2 * MIB);
    for declared in [None, Some(100_000)] {
        let mut writer = Body::writer(&arena, declared);
        assert_eq!(writer.append(&bytes(0, 3000)), 3000);
        let body = Arc::clone(writer.body());
        assert!(body.charged_len() > 3072 && arena.filling_len() == body.charged_len());
        writer.hand_over();
        assert_eq!(body.progress(), Progress { state: BodyState::Continued, len: 3000 });
        assert_eq!((check_from(&body, 0), body.charged_len(), arena.filling_len()), (3000, 3072, 0));
        assert_eq!((body.length(), budget.used(Purpose::Payload)), (declared, 3072));
        drop(body);
        arena.drain(10);
    }
}

#[test]
fn the_length_is_known_when_it_was_declared_or_all_is_there() {
    let (arena, _budget) = arena(2 * MIB);
    let mut declared = Body::writer(&arena, Some(10));
    let mut chunked = Body::writer(&arena, None);
    let bodies = [Arc::clone(declared.body()), Arc::clone(chunked.body())];
    assert_eq!((declared.append(b"0123"), chunked.append(b"0123")), (4, 4));
    assert_eq!(bodies.each_ref().map(|body| body.length()), [Some(10), None]);
    assert_eq!((declared.complete(), chunked.complete()), (BodyState::Failed, BodyState::Complete));
    assert_eq!(bodies.map(|body| body.length()), [Some(10), Some(4)]);
}

#[test]
fn an_empty_body_takes_no_block() {
    let (arena, budget) = arena(2 * MIB);
    let writer = Body::writer(&arena, Some(0));
    let body = Arc::clone(writer.body());
    assert_eq!(writer.complete(), BodyState::Complete);
    assert_eq!((body.charged_len(), body.piece(0), body.piece(u64::MAX)), (0, &[][..], &[][..]));
    assert_eq!(budget.used(Purpose::Payload), 0);
}

/// A block whose byte `at + n` is the one that belongs at position `from + n`.
fn block_of(arena: &Arena, len: usize, at: usize, from: u64) -> Block {
    let mut block = arena.allocate(len).unwrap();
    block.as_mut().fill(0xee);
    let count = block.as_ref().len() - at;
    block.as_mut()[at..].copy_from_slice(&bytes(from, count));
    block
}

#[test]
fn a_body_of_a_block_begins_anywhere_in_it_and_keeps_its_units_only() {
    for range in [0..1, 511..513, 0..8192, 700..5000, 4096..8192, 1023..1024] {
        let (arena, budget) = arena(4 * MIB);
        let rest = arena.free_len();
        let block = block_of(&arena, 8192, range.start, 0);
        let body = Body::of_block(&arena, block, range.clone());
        let len = range.len() as u64;
        let units = (range.end.div_ceil(BLOCK_LEN_MIN) - range.start / BLOCK_LEN_MIN) as u64;
        assert_eq!(body.progress(), Progress { state: BodyState::Complete, len }, "{range:?}");
        assert_eq!((body.length(), body.block_count()), (Some(len), 1));
        assert_eq!(body.charged_len(), units * BLOCK_LEN_MIN as u64);
        assert_eq!(budget.used(Purpose::Payload), body.charged_len());
        for at in 0..len {
            assert_eq!(body.piece(at), bytes(at, (len - at) as usize), "{range:?} from {at}");
        }
        assert!(body.piece(len).is_empty());
        assert_eq!((arena.filling_len(), arena.held_len()), (0, body.charged_len()));
        drop(body);
        arena.drain(10);
        assert_eq!((arena.free_len(), budget.used(Purpose::Payload)), (rest, 0));
        assert!(arena.allocate(BLOCK_LEN_MAX).is_some(), "all merged back");
    }
}

#[test]
fn a_writer_goes_on_behind_a_block_that_it_adopted() {
    let (arena, budget) = arena(4 * MIB);
    let mut writer = Body::writer(&arena, Some(20_000));
    let body = Arc::clone(writer.body());
    // A block, bytes that are appended, a tail, another block: each where the one before ends.
    writer.adopt(block_of(&arena, 8192, 512, 0), 512..4608).unwrap();
    assert_eq!((body.published(), body.charged_len(), arena.filling_len()), (4096, 4096, 4096));
    writer.adopt(block_of(&arena, 8192, 4096, 4096), 4096..8192).unwrap();
    assert_eq!(writer.append(&bytes(8192, 100)), 100);
    let block = writer.adopt(block_of(&arena, 512, 0, 8292), 0..512).unwrap_err();
    assert_eq!(block.as_ref(), bytes(8292, 512), "there is room before it");
    let mut tail = writer.tail(10_000).unwrap();
    tail.as_mut().copy_from_slice(&bytes(8292, 10_000));
    let block = writer.adopt(block, 0..512).unwrap_err();
    writer.publish(tail, 10_000);
    assert!(writer.adopt(block, 0..512).is_err());
    let rest = writer.missing_room(2000);
    assert_eq!(rest, 0);
    assert_eq!(writer.append(&bytes(18_292, 1708)), 1708);
    assert_eq!(writer.complete(), BodyState::Complete);
    assert_eq!(check_from(&body, 0), 20_000);
    drop(body);
    arena.drain(100);
    assert_eq!((budget.used(Purpose::Payload), arena.filling_len()), (0, 0));
}

#[test]
fn what_does_not_begin_a_unit_or_is_of_another_arena_is_not_adopted() {
    let (arena, budget) = arena(4 * MIB);
    let (other, _other_budget) = self::arena(4 * MIB);
    let mut writer = Body::writer(&arena, None);
    for range in [1..512, 0..0] {
        assert!(writer.adopt(block_of(&arena, 1024, 0, 0), range).is_err());
    }
    assert!(writer.adopt(block_of(&other, 1024, 0, 0), 0..1024).is_err());
    // Its last unit is not full: what follows begins in it.
    writer.adopt(block_of(&arena, 1024, 0, 0), 0..700).unwrap();
    assert!(writer.adopt(block_of(&arena, 1024, 0, 700), 0..1024).is_err());
    assert_eq!(writer.append(&bytes(700, 2000)), 2000);
    assert_eq!(check_from(writer.body(), 0), 2700);
    drop(writer);
    arena.drain(100);
    assert_eq!(budget.used(Purpose::Payload), 0);
}

#[test]
fn a_full_arena_stops_an_append_where_it_is() {
    let (arena, _budget) = arena(2 * MIB);
    let held = arena.allocate(2 * MIB - 4096).unwrap();
    let mut writer = Body::writer(&arena, Some(10_000));
    assert!(!writer.reserve(10_000));
    assert_eq!(writer.append(&bytes(0, 10_000)), 4096);
    assert_eq!(writer.append(b"x"), 0);
    assert!(writer.tail(1).is_none());
    drop(held);
    assert!(writer.reserve(10_000 - 4096));
    assert_eq!(writer.append(&bytes(4096, 10_000 - 4096)), 10_000 - 4096);
    assert_eq!(check_from(writer.body(), 0), 10_000);
}

#[test]
fn a_dropped_body_gives_every_block_back() {
    let (arena, budget) = arena(4 * MIB);
    // Splinter the arena so that the body needs a directory of several chunks.
    let mut held: Vec<_> = (0..8192).map(|_| arena.allocate(512).unwrap()).collect();
    let mut position = 0;
    held.retain(|_| {
        position += 1;
        position % 2 == 0
    });
    let mut writer = Body::writer(&arena, Some(2 * MIB as u64));
    assert!(writer.reserve(2 * MIB as u64));
    assert_eq!(writer.body().block_count(), 4096);
    assert!(budget.used(Purpose::Heads) >= 4096 * size_of::<Slot>() as u64);
    assert_eq!(writer.append(&bytes(0, 2 * MIB)), 2 * MIB);
    let body = Arc::clone(writer.body());
    assert_eq!(writer.complete(), BodyState::Complete);
    assert_eq!(check_from(&body, 0), 2 * MIB as u64);
    drop((body, held));
    while arena.drain(1000) > 0 {}
    assert_eq!((budget.used(Purpose::Payload), budget.used(Purpose::Heads)), (0, 0));
    assert_eq!(arena.free_len(), arena.capacity());
}

#[test]
fn a_budget_with_little_left_gives_a_smaller_block() {
    let (arena, budget) = arena(4 * MIB);
    let rest = budget.reserve(Purpose::Connections, budget.available() - 5_000).unwrap();
    let mut writer = Body::writer(&arena, Some(MIB as u64));
    // What 5,000 B hold in pages.
    assert_eq!(writer.append(&bytes(0, 10_000)), 4_096);
    assert_eq!(writer.body().block_count(), 1);
    drop(rest);
}

#[test]
fn a_directory_that_the_budget_refuses_stops_the_body() {
    let arena_tables = crate::buddy::Buddy::table_len(1) as u64;
    let budget = Budget::new(arena_tables + 2 * MIB as u64);
    let arena = Arena::new(2 * MIB, Arc::clone(&budget)).unwrap();
    let mut held: Vec<_> = (0..4096).map(|_| arena.allocate(512).unwrap()).collect();
    let mut position = 0;
    held.retain(|_| {
        position += 1;
        position % 2 == 0
    });
    // Free blocks are plenty, but their memory is all that there is.
    arena.drain(usize::MAX);
    assert_eq!((budget.available(), arena.free_len()), (0, MIB as u64));
    let mut writer = Body::writer(&arena, Some(6 * 512));
    assert!(size_of::<Directory>() > 512);
    let appended = writer.append(&bytes(0, 6 * 512));
    assert_eq!(appended, BODY_BLOCKS_INLINE * 512);
    assert_eq!(check_from(writer.body(), 0), appended as u64);
}

#[test]
fn chunks_cover_every_slot_once() {
    let mut expected = (0, 0);
    for index in BODY_BLOCKS_INLINE..100_000 {
        assert_eq!(chunk_of(index), expected);
        expected.1 += 1;
        if expected.1 == BODY_BLOCKS_CHUNK_FIRST << expected.0 {
            expected = (expected.0 + 1, 0);
        }
    }
    assert_eq!(chunk_of(BODY_BLOCKS_MAX - 1).0, BODY_CHUNK_COUNT - 1);
}

#[test]
fn readers_see_every_byte_while_the_writer_appends() {
    const LEN: u64 = 6_000_000;
    let (arena, budget) = arena(32 * MIB);
    for length in [Some(LEN), None] {
        let mut writer = Body::writer(&arena, length);
        let finished = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for reader in 0..3 {
                let body = Arc::clone(writer.body());
                let finished = &finished;
                scope.spawn(move || {
                    let mut at = 0;
                    loop {
                        let progress = body.progress();
                        at = check_from(&body, at);
                        assert!(at >= progress.len, "the published length fell");
                        if progress.state != BodyState::Filling {
                            assert_eq!(
                                (progress, at),
                                (Progress { state: BodyState::Complete, len: LEN }, LEN)
                            );
                            break;
                        }
                        // One reader lags, so that it walks finished blocks while others are at the end.
                        if reader == 0 {
                            std::thread::yield_now();
                        }
                    }
                    assert_eq!(check_from(&body, 1), LEN, "a second read, after the trim");
                    finished.fetch_add(1, Ordering::Relaxed);
                });
            }
            let mut at = 0;
            while at < LEN {
                let len = (1 + at as usize * 31 % 9_001).min((LEN - at) as usize);
                if at % 2 == 0 {
                    assert_eq!(writer.append(&bytes(at, len)), len);
                    at += len as u64;
                } else {
                    let mut tail = writer.tail(len).unwrap();
                    let filled = tail.as_mut().len();
                    tail.as_mut().copy_from_slice(&bytes(at, filled));
                    writer.publish(tail, filled);
                    at += filled as u64;
                }
            }
            assert_eq!(writer.complete(), BodyState::Complete);
        });
        assert_eq!(finished.into_inner(), 3);
    }
    while arena.drain(1000) > 0 {}
    assert_eq!(budget.used(Purpose::Payload), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Cuts: how much per step, by append or by tail, how much of the tail is filled, and where an extra reserve comes.
    #[test]
    fn a_body_of_any_cut_reads_back(
        cuts in prop::collection::vec((1usize..60_000, any::<bool>(), 0usize..=100, any::<bool>()), 0..30),
        declared in any::<bool>(),
    ) {
        let (arena, budget) = arena(8 * MIB);
        let total: usize = cuts.iter().map(|cut| cut.0).sum();
        let mut writer = Body::writer(&arena, declared.then_some(total as u64));
        for (len, by_tail, share, reserve) in cuts {
            let goal = writer.published() + len as u64;
            if reserve {
                prop_assert!(writer.reserve(len as u64 * share as u64 / 50));
            }
            while writer.published() < goal {
                let at = writer.published();
                let missing = (goal - at) as usize;
                if by_tail {
                    let mut tail = writer.tail(missing).unwrap();
                    let filled = (tail.as_ref().len() * share / 100).max(1);
                    tail.as_mut()[..filled].copy_from_slice(&bytes(at, filled));
                    writer.publish(tail, filled);
                } else {
                    prop_assert_eq!(writer.append(&bytes(at, missing)), missing);
                }
            }
            prop_assert_eq!(check_from(writer.body(), 0), goal);
        }
        let body = Arc::clone(writer.body());
        prop_assert_eq!(writer.complete(), BodyState::Complete);
        prop_assert_eq!(check_from(&body, 0), total as u64);
        prop_assert_eq!(body.charged_len(), (total as u64).next_multiple_of(512));
        drop(body);
        while arena.drain(1000) > 0 {}
        prop_assert_eq!(budget.used(Purpose::Payload), 0);
        prop_assert_eq!(arena.free_len(), arena.capacity());
    }
}
