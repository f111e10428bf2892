//! The return stack: blocks dropped on other threads come back to the owner once each, with all that was done to them before.

use super::*;
use aspis_storage::budget::Purpose;
use aspis_storage::mapping::body::{Body, BodyState};

/// Takes what can be taken, and writes to it, while the others drop.
fn reuse(arena: &Arena) {
    let mut block = arena.allocate(UNIT).expect("the arena is larger than what is out");
    block.as_mut()[0] = 9;
}

fn all_came_back(arena: &Arena, budget: &Budget) {
    while arena.drain(1) > 0 {}
    assert_eq!((arena.limbo_len(), budget.used(Purpose::Limbo), budget.used(Purpose::Payload)), (0, 0, 0));
    assert_eq!(arena.free_len(), arena.capacity());
}

#[test]
fn blocks_dropped_by_two_threads_all_come_back() {
    check(3, || {
        let (arena, budget) = arena();
        let threads: Vec<_> = (0..2)
            .map(|number| {
                let mut block = arena.allocate(UNIT).unwrap();
                loom::thread::spawn(move || {
                    block.as_mut().fill(number);
                    assert_eq!(block.as_ref(), [number; UNIT]);
                })
            })
            .collect();
        reuse(&arena);
        reuse(&arena);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        all_came_back(&arena, &budget);
    });
}

#[test]
fn a_body_of_two_blocks_comes_back_beside_a_block() {
    check(3, || {
        let (arena, budget) = arena();
        let mut writer = Body::writer(&arena, None);
        for _ in 0..2 {
            assert!(writer.reserve(UNIT as u64));
            assert_eq!(writer.append(&[1; UNIT]), UNIT);
        }
        let body = Arc::clone(writer.body());
        assert_eq!(writer.complete(), BodyState::Complete);
        assert_eq!(body.block_count(), 2);
        let block = arena.allocate(UNIT).unwrap();
        let threads = [
            loom::thread::spawn(move || {
                assert_eq!(body.piece(UNIT as u64), [1; UNIT]);
                drop(body);
            }),
            loom::thread::spawn(move || drop(block)),
        ];
        arena.drain(1);
        reuse(&arena);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        all_came_back(&arena, &budget);
    });
}
