//! What the tier's tables take for each stored response, counted by the allocator: index, policy, ghost, small caches and expiries.

mod counting;

use std::sync::Arc;

use aspis_cache::stored::StoredMeta;
use aspis_storage::budget::{Budget, Purpose};
use aspis_storage::mapping::arena::Arena;
use aspis_storage::mapping::body::Body;
use aspis_storage::response::{Parts, StoredResponse};
use aspis_storage::tier::RamTier;

/// The most bytes that an entry may take in all tables.
const ENTRY_LEN_MAX: u64 = 96;
/// The most bytes that one insert may take, but for the first, which brings the ghost: a page of each table of the tier and of three small caches,
/// and the lists of pages when they double. Some tens of microseconds' work.
const INSERT_LEN_MAX: i64 = 256 * 1024;
const COUNT: u128 = 250_000;

fn hash(number: u128) -> u128 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

/// A response that is listed in every table, since it has no validator and so expires.
fn response(number: u128, body: &Arc<Body>, budget: &Arc<Budget>) -> Arc<StoredResponse> {
    let parts = Parts {
        hash: hash(number),
        key: number.to_ne_bytes().into(),
        head: b"HTTP/1.1 200 OK\r\n".as_slice().into(),
        meta: StoredMeta { lifetime: 60 + number as u32 % 1000, ..StoredMeta::PLAIN },
        body: Arc::clone(body),
        invalidation: 0,
        tags: Box::default(),
        variant: None,
    };
    StoredResponse::new(parts, budget).expect("the budget has room for all")
}

#[test]
fn an_entry_takes_96_bytes_at_most_and_nothing_is_allocated_once_tables_have_grown() {
    let budget = Budget::new(1 << 30);
    let arena = Arena::new(8 << 20, Arc::clone(&budget)).expect("the machine has memory for a test");
    let mut writer = Body::writer(&arena, Some(1));
    assert_eq!(writer.append(b"x"), 1);
    let body = Arc::clone(writer.body());
    writer.complete();
    let mut tier: RamTier = RamTier::new(arena, Arc::clone(&budget));

    let (mut taken, mut most) = (0, 0);
    for number in 0..COUNT {
        let response = response(number, &body, &budget);
        let before = counting::bytes_here();
        assert!(tier.insert(response).is_ok());
        let grown = counting::bytes_here() - before;
        taken += grown;
        most = most.max(if number == 0 { 0 } else { grown });
    }
    assert_eq!(tier.len() as u128, COUNT);
    let (each, charged) = (taken as f64 / COUNT as f64, budget.used(Purpose::Index));
    println!(
        "{each:.1} bytes for each entry, {charged} charged for {taken} taken, {most} by one insert at most"
    );
    assert!(taken as u64 <= ENTRY_LEN_MAX * COUNT as u64, "{each} bytes for each");
    assert!(most <= INSERT_LEN_MAX, "{most} bytes by one insert");
    // The lists of pages double by themselves, at eight bytes a page.
    assert!(charged >= taken as u64 * 99 / 100 && charged <= taken as u64 * 101 / 100, "{charged}, {taken}");

    // A fifth leaves and others come: what was grown is used again.
    for number in 0..COUNT / 5 {
        assert!(tier.remove(hash(number), &number.to_ne_bytes()).is_some());
    }
    let mut allocations = 0;
    for number in COUNT..COUNT + COUNT / 5 {
        let response = response(number, &body, &budget);
        let before = counting::here();
        assert!(tier.insert(response).is_ok());
        allocations += counting::here() - before;
    }
    // The small caches are still growing towards their bound, a page at a time.
    assert!(allocations <= 8, "{allocations} allocations");
}
