//! What the disk tier's index takes for each record, counted by the allocator and by what the budget was charged.

mod counting;

use aspis_storage::budget::{Budget, Purpose};
use aspis_storage::disk::index::{Index, Slot, SlotKind};

/// The most bytes that a record may take at 85 % load.
const RECORD_LEN_MAX: f64 = 9.5;
const COUNT: u64 = 300_000;

fn hash(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn slot(number: u64) -> Slot {
    let unit = 64 + (number % 200_000) as u32;
    Slot { segment: (number / 200_000) as u32, unit, class: 7, hits: 0, kind: SlotKind::Plain }
}

#[test]
fn the_index_allocates_nothing_after_it_was_made_and_a_record_takes_at_most_9_and_a_half_bytes() {
    let budget = Budget::new(1 << 30);
    let heap = counting::bytes_here();
    let mut index = Index::new(Index::slots_for(COUNT), 7, &budget).unwrap();
    let made = counting::here();
    for number in 0..COUNT {
        index.insert(hash(number), slot(number));
        index.mark_used(hash(number / 2));
    }
    let found = (0..COUNT).filter(|number| index.find(hash(*number)).is_some()).count();
    for number in (0..COUNT).step_by(3) {
        let removed = index.remove(hash(number));
        index.insert_older(hash(number), removed.unwrap_or(slot(number)));
    }
    assert_eq!(counting::here(), made, "something was allocated");
    let taken = budget.used(Purpose::Disk) as f64 + (counting::bytes_here() - heap) as f64;
    let each = taken / COUNT as f64;
    println!("{each:.2} B a record, {found} of {COUNT} found");
    assert!(each <= RECORD_LEN_MAX && found as f64 >= 0.994 * COUNT as f64);
}
