//! Memory becomes short under whole shards: nobody is refused while content or free memory could make way.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use aspis_storage::budget::{Charge, Purpose};
use aspis_telemetry::Counter;

use crate::rules::stage::{Stage, Viewer, rule};

const MIB: u64 = 1 << 20;

/// A limit beside whose headroom the buffers of a turn are small.
const ROOMY: u64 = 1024 * MIB;

/// Targets say how long their content is: `/name/LENGTH/NUMBER`.
fn stage() -> Stage {
    under(64 * MIB)
}

fn under(memory: u64) -> Stage {
    Stage::under(memory, |reply| {
        let len = reply.target.split('/').nth(2).and_then(|len| len.parse().ok()).unwrap_or(2);
        reply.answer("200 OK", "Cache-Control: max-age=60\r\n", &"x".repeat(len));
    })
}

/// Stores until something had to leave.
fn fill(stage: &Stage, len: usize) {
    let mut viewers = stage.viewers();
    let before = stage.sum(Counter::CacheEvicted);
    for number in 0.. {
        let target = format!("/fill/{len}/{number}");
        assert_eq!(viewers[number % viewers.len()].get(&target).status, 200);
        if number % 16 == 0 && stage.sum(Counter::CacheEvicted) > before {
            return;
        }
    }
}

/// Takes all that the limit has left.
fn take_all(stage: &Stage) -> Charge {
    let budget = stage.shards().budget();
    let mut charge = budget.reserve(Purpose::Connections, 0).unwrap();
    charge.set(budget.available());
    charge
}

/// The watch takes half of the limit at once from cores that sleep, full of content.
#[test]
fn a_miss_waits_for_content_to_make_way_however_much_is_withheld() {
    let stage = stage();
    fill(&stage, 20_000);
    let budget = stage.shards().budget();
    let mut viewers = stage.viewers();
    for round in 0..4 {
        budget.withhold(if round % 2 == 0 { budget.limit() / 2 } else { 0 });
        for (core, viewer) in viewers.iter_mut().enumerate() {
            let start = Instant::now();
            let target = format!("/miss/2000/{round}-{core}");
            let answer = viewer.get(&target);
            assert_eq!(answer.status, 200, "round {round}");
            // Content enough is left, so it was stored as well.
            assert_eq!(viewer.get(&target).result(), "hit", "round {round}");
            assert!(start.elapsed() < Duration::from_secs(1), "{:?} in round {round}", start.elapsed());
        }
        // A core that is short goes on until it is not, whether or not anybody asks again.
        stage.wait(|| budget.missing(budget.headroom()) == 0);
        if round % 2 == 1 {
            fill(&stage, 20_000 + round);
        }
    }
    assert_eq!(stage.sum(Counter::RetreatNoRequest), 0);
}

/// A viewer that asks and then reads next to nothing.
fn stalled(stage: &Stage, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(stage.address()).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    stream
}

/// What slow viewers hold of content that left is no reason to keep what is free.
#[test]
fn free_memory_makes_way_though_much_is_in_limbo() {
    let stage = stage();
    let budget = stage.shards().budget();
    let mut viewers = stage.viewers();
    let held: Vec<String> = (0..4).map(|number| format!("/held/{}/{number}", 5 * MIB)).collect();
    for target in &held {
        assert_eq!(viewers[0].get(target).status, 200);
    }
    let _stalled: Vec<TcpStream> = held.iter().map(|target| stalled(&stage, target)).collect();
    for number in 0..20 {
        assert_eq!(viewers[0].get(&format!("/left/1000000/{number}")).status, 200);
    }
    stage.invalidate(vec![rule("/held/*"), rule("/left/*")]);
    stage.wait(|| stage.shards().rules_settled() >= stage.shards().rules_applied());
    stage.wait(|| budget.used(Purpose::ArenaFree) > 15 * MIB);
    let mut taken = Vec::new();
    for number in 0..8 {
        taken.push(take_all(&stage));
        let answer = viewers[number % 2].get(&format!("/miss/2000/{number}"));
        assert_eq!(answer.status, 200, "the {number}th, with {} free", budget.used(Purpose::ArenaFree));
    }
    assert!(budget.used(Purpose::Payload) > 10 * MIB, "the stalled viewers hold it");
    assert_eq!(stage.sum(Counter::RetreatNoRequest), 0);
}

/// With nothing stored and nothing free a miss is refused, and not after a long wait.
#[test]
fn without_anything_to_give_a_miss_is_refused_at_once() {
    let stage = stage();
    let mut viewers = stage.viewers();
    assert_eq!(viewers[0].get("/one/2000/1").status, 200);
    let budget = stage.shards().budget();
    let mut all = take_all(&stage);
    all.set(all.bytes() + budget.content() + MIB);
    let start = Instant::now();
    assert_eq!(viewers[0].get("/miss/2000/1").status, 503);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(stage.sum(Counter::RetreatNoRequest) > 0);
    drop(all);
    assert_eq!(viewers[0].get("/miss/2000/1").status, 200);
}

/// Who comes for what is stored needs the least, so connections are taken when requests are refused already.
#[test]
fn connections_are_refused_after_requests() {
    let stage = under(ROOMY);
    let mut viewers = stage.viewers();
    let budget = stage.shards().budget();
    let mut all = take_all(&stage);
    let leave_little =
        |all: &mut Charge| all.set(all.bytes() + budget.available() - budget.headroom() * 15 / 128);
    leave_little(&mut all);
    assert_eq!(viewers[0].get("/miss/2000/1").status, 503);
    let mut newcomers: [Viewer; 8] = std::array::from_fn(|_| {
        leave_little(&mut all);
        let mut newcomer = stage.viewer_at_once();
        assert_eq!(newcomer.get("/miss/2000/2").status, 503);
        newcomer
    });
    assert_eq!(stage.sum(Counter::RetreatNoConnection), 0);
    assert!(stage.sum(Counter::RetreatNoRequest) > 8);
    // With nothing at all left they are.
    all.set(all.bytes() + budget.headroom());
    stage.wait(|| {
        drop(TcpStream::connect(stage.address()).unwrap());
        stage.sum(Counter::RetreatNoConnection) > 0
    });
    drop(all);
    assert_eq!(newcomers[7].get("/miss/2000/2").status, 200);
}
