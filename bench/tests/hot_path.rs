//! A hot hit allocates nothing and sends no message on its whole way: a real socket, the ring, the driver, the machine, the tier and back.
//!
//! Shards run in this process before an origin of a few lines; the test is their viewer. All threads but the test's and the origin's are
//! the product's, and what they allocate is counted. One test, so that no other's threads are counted with it.

mod counting;
mod served;

use std::net::SocketAddr;

use aspis_shard::Shards;
use aspis_storage::shards::owner_core;
use aspis_telemetry::{Counter, Snapshot};
use aspis_wire::Scheme;
use served::{Viewer, origin, start, warm};

/// Hits before the count, so that every buffer, slot and table has the size that it needs.
const WARM_COUNT: usize = 2000;
const HIT_COUNT: usize = 200;
const ROUND_COUNT: usize = 25;
/// Requests that are sent in one piece, so that one turn answers several.
const PIPELINE_LEN: usize = 8;

/// What hits cost the product beside time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    allocations: u64,
    /// Messages between cores.
    mails: u64,
}

const NOTHING: Cost = Cost { allocations: 0, mails: 0 };

/// Returns the least that [`HIT_COUNT`] hits cost in a few rounds, after the product had time to warm up.
///
/// Once a second the shard looks for connections that wait too long and allocates for a moment, whatever is asked meanwhile; a round is
/// over sooner, so one of them shows what the hits themselves do.
fn cost(shards: &Shards, address: SocketAddr, request: &str, pipelined: usize) -> Cost {
    let mut viewer = warm(address, request);
    let requests = request.repeat(pipelined);
    for _ in 0..WARM_COUNT / pipelined {
        assert!(viewer.ask(requests.as_bytes(), pipelined));
    }
    let mails =
        || Snapshot::of(shards.counters().iter().map(|counters| &**counters)).value(Counter::CoreMails);
    let mut round = || {
        let (allocations, mails_before) = (counting::elsewhere(), mails());
        for _ in 0..HIT_COUNT / pipelined {
            assert!(viewer.ask(requests.as_bytes(), pipelined), "what is fresh stays a hit");
        }
        let allocations = counting::elsewhere() - allocations;
        Cost { allocations, mails: mails() - mails_before }
    };
    let rounds: Vec<Cost> = (0..ROUND_COUNT).map(|_| round()).collect();
    Cost {
        allocations: rounds.iter().map(|cost| cost.allocations).min().expect("there are rounds"),
        mails: rounds.iter().map(|cost| cost.mails).min().expect("there are rounds"),
    }
}

#[test]
fn no_thread_of_a_shard_allocates_or_sends_a_message_for_a_hit() {
    counting::step_aside();
    let before = counting::elsewhere();
    std::thread::spawn(|| drop(std::hint::black_box(vec![1_u8; 100]))).join().expect("it only allocates");
    assert!(counting::elsewhere() > before, "other threads are counted");
    let origin = origin();
    let (shards, address) = start(origin, 1);
    let before = counting::elsewhere();
    assert!(!Viewer::connect(address).ask(b"GET /miss HTTP/1.1\r\nHost: www.example.com\r\n\r\n", 1));
    assert!(counting::elsewhere() > before, "a miss allocates, and on a thread that is counted");
    let plain = "GET /plain HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: x\r\nCookie: a=b\r\n\r\n";
    let varies = "GET /varies HTTP/1.1\r\nHost: www.example.com\r\nAccept-Encoding: gzip, br\r\n\r\n";
    assert_eq!(cost(&shards, address, plain, 1), NOTHING);
    assert_eq!(cost(&shards, address, varies, 1), NOTHING);
    assert_eq!(cost(&shards, address, plain, PIPELINE_LEN), NOTHING);
    shards.stop();
    // With two cores one of the two keys belongs to the core that does not have the viewer: a replica answers.
    let (shards, address) = start(origin, 2);
    for path in [path_owned_by(0), path_owned_by(1)] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
        assert_eq!(cost(&shards, address, &request, 1), NOTHING, "{path}");
    }
    shards.stop();
}

/// A path whose key belongs to that one of two cores.
fn path_owned_by(core: usize) -> String {
    let owner = |path: &str| {
        let mut key = Vec::new();
        aspis_cache::key::write_key(Scheme::Http, "www.example.com", path, &mut key);
        owner_core(aspis_cache::key::hash(&key), 2)
    };
    let mut paths = (0..).map(|number| format!("/shared/{number}"));
    paths.find(|path| owner(path) == core).expect("hashes are spread")
}
