//! Gates: nobody sends from a segment that is being written anew, whatever the order of those who come, leave and retire it.

use std::sync::Arc;

use aspis_storage::budget::Budget;
use aspis_storage::mapping::gates::Gates;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use super::check;

#[test]
fn a_segment_is_written_anew_with_nobody_inside() {
    check(3, || {
        let gates = Arc::new(Gates::new(1, &Budget::new(1 << 20)).unwrap());
        // Whether the bytes of the segment are others; relaxed, so that nothing but the gate orders what is seen of it.
        let is_anew = Arc::new(AtomicBool::new(false));
        let life = gates.life(0).unwrap();
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let (gates, is_anew) = (Arc::clone(&gates), Arc::clone(&is_anew));
                thread::spawn(move || {
                    if gates.is_open(0, life) && gates.enter(0, life) {
                        assert!(!is_anew.load(Ordering::Relaxed), "they are sent while they are written");
                        gates.leave(0);
                    }
                })
            })
            .collect();
        gates.close(0);
        if gates.retire(0) {
            is_anew.store(true, Ordering::Relaxed);
            assert!(!gates.is_open(0, life) && !gates.enter(0, life));
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert!(gates.retire(0), "nobody is left");
    });
}
