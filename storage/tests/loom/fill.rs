//! The fill: readers see what was published and nothing else, a final state with the final length, and a lent tail is nobody else's.

use super::*;
use aspis_storage::mapping::body::{Body, BodyState, Progress};

/// Looks at the body from byte `at` on, and returns the end of what it found.
fn look(body: &Body, mut at: usize) -> usize {
    loop {
        let piece = body.piece(at as u64);
        if piece.is_empty() {
            return at;
        }
        for (offset, byte) in piece.iter().enumerate() {
            assert_eq!(usize::from(*byte), 1 + (at + offset) / UNIT, "at {at} + {offset}");
        }
        at += piece.len();
    }
}

fn unit(number: u8) -> [u8; UNIT] {
    [1 + number; UNIT]
}

/// A reader that looks twice, and knows at the end whether it saw the end.
fn read(body: &Body, len: usize) {
    let mut at = 0;
    for _ in 0..2 {
        let progress = body.progress();
        let end = look(body, at);
        assert!(end >= at && end as u64 >= progress.len, "what was published stays");
        at = end;
        if progress.state != BodyState::Filling {
            assert_eq!(progress, Progress { state: BodyState::Complete, len: len as u64 });
            assert_eq!(at, len, "a final state comes with all the bytes");
            break;
        }
    }
}

/// Where the units of a fill lie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocks {
    /// All in one block, of which completion gives the rest back.
    One,
    /// Each in a block of its own.
    Each,
}

/// A writer that lends a tail, appends, and completes.
fn fill(blocks: Blocks, unit_count: u8, readers: usize) {
    let len = usize::from(unit_count) * UNIT;
    let (arena, _budget) = arena();
    let mut writer = Body::writer(&arena, (blocks == Blocks::Each).then_some(len as u64));
    let body = Arc::clone(writer.body());
    let threads: Vec<_> = (0..readers)
        .map(|_| {
            let body = Arc::clone(&body);
            loom::thread::spawn(move || read(&body, len))
        })
        .collect();
    for number in 0..unit_count {
        if blocks == Blocks::Each {
            assert!(writer.reserve(UNIT as u64));
        }
        if number == 0 {
            let mut tail = writer.tail(UNIT).unwrap();
            tail.as_mut().copy_from_slice(&unit(number));
            writer.publish(tail, UNIT);
        } else {
            assert_eq!(writer.append(&unit(number)), UNIT);
        }
    }
    assert_eq!(writer.complete(), BodyState::Complete);
    // What completion gave back is used at once: no reader may look there.
    let mut block = arena.allocate(UNIT).unwrap();
    block.as_mut().fill(99);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(look(&body, 0), len);
}

#[test]
fn a_reader_sees_a_fill_of_unknown_length_and_its_trim() {
    check(3, || fill(Blocks::One, 2, 1));
}

#[test]
fn a_reader_sees_a_fill_that_gets_more_blocks() {
    check(3, || fill(Blocks::Each, 3, 1));
}

#[test]
fn two_readers_see_a_fill() {
    check(1, || fill(Blocks::One, 1, 2));
}

#[test]
fn a_tail_that_was_lent_is_not_written_by_the_writer() {
    check(3, || {
        let (arena, _budget) = arena();
        let mut writer = Body::writer(&arena, Some(UNIT as u64));
        let mut tail = writer.tail(UNIT).unwrap();
        let kernel = loom::thread::spawn(move || {
            tail.as_mut().fill(7);
            drop(tail);
        });
        // Refused while the tail is out; afterwards it comes over what the kernel wrote.
        let appended = writer.append(&unit(0));
        assert!(appended == 0 || appended == UNIT);
        kernel.join().unwrap();
        if appended == 0 {
            assert_eq!(writer.append(&unit(0)), UNIT);
        }
        assert_eq!(look(writer.body(), 0), UNIT);
    });
}

#[test]
fn a_failed_fill_gives_a_lent_tail_to_nobody() {
    check(3, || {
        let (arena, _budget) = arena();
        let mut writer = Body::writer(&arena, Some(UNIT as u64));
        let body = Arc::clone(writer.body());
        let mut tail = writer.tail(UNIT).unwrap();
        let kernel = loom::thread::spawn(move || {
            tail.as_mut().fill(7);
            drop(tail);
        });
        writer.fail();
        let mut block = arena.allocate(UNIT).unwrap();
        block.as_mut().fill(99);
        kernel.join().unwrap();
        assert_eq!(block.as_ref(), [99; UNIT]);
        assert_eq!(body.progress(), Progress { state: BodyState::Failed, len: 0 });
    });
}
