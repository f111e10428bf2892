//! The policies on the recorded traces, where their folder is named in `ASPIS_TRACES`; and on small ones whose hits are known by hand.

use super::*;

/// Objects of these lengths, asked for in this order.
fn trace(sizes: &[u64], requests: &[u32]) -> Trace {
    Trace::new("by hand", requests.to_vec(), sizes.to_vec(), 1)
}

fn hits(trace: &Trace, cache: &mut dyn Cache) -> Vec<usize> {
    (0..trace.requests.len()).filter(|at| cache.request(*at, trace.requests[*at])).collect()
}

#[test]
fn policies_differ_as_they_must() {
    // Two fit. LRU keeps 0, FIFO does not, and Belady never takes what does not come back.
    let trace = trace(&[1; 5], &[0, 1, 0, 2, 0, 3, 0, 4, 1]);
    assert_eq!(hits(&trace, &mut Queue::new(&trace, 2, OnHit::Renew)), [2, 4, 6]);
    assert_eq!(hits(&trace, &mut Queue::new(&trace, 2, OnHit::Nothing)), [2, 6]);
    assert_eq!(hits(&trace, &mut Sieve::new(&trace, 2)), [2, 4, 6]);
    assert_eq!(hits(&trace, &mut Belady::new(&trace, 2)), [2, 4, 6, 8]);
}

#[test]
fn what_is_larger_than_the_cache_is_not_kept_by_any() {
    let trace = trace(&[3, 11], &[1, 0, 1, 0]);
    let caches: [&mut dyn Cache; 7] = [
        &mut Queue::new(&trace, 10, OnHit::Renew),
        &mut Sieve::new(&trace, 10),
        &mut reference::S3Fifo::new(&trace, 10),
        &mut Belady::new(&trace, 10),
        &mut Exact::new(&trace, 10, 10),
        &mut Shipped::new(&trace, 10, SizeAware::new),
        &mut Shipped::new(&trace, 10, S3Fifo::new),
    ];
    for cache in caches {
        assert_eq!(hits(&trace, cache), [3]);
    }
}

/// The product's tier makes room before it asks for a newcomer's place, so that the ghost may have forgotten one more key by then; nothing
/// else differs.
#[test]
fn the_lazy_form_of_s3_fifo_gives_the_hits_of_the_exact_one_but_for_few() {
    let mut random = crate::random::Random::new(7);
    let requests: Vec<u32> =
        (0..20_000).map(|_| (random.next() % 40 * (random.next() % 25)) as u32).collect();
    let trace = trace(&[4; 1000], &requests);
    let exact = play(&trace, &mut reference::S3Fifo::new(&trace, 400));
    let lazy = play(&trace, &mut Shipped::new(&trace, 400, S3Fifo::new));
    assert!(exact.hits > 5000 && exact.hits.abs_diff(lazy.hits) < exact.hits / 200, "{exact:?}, {lazy:?}");
}

#[test]
fn recorded_traces_give_the_published_counts_and_bounds() {
    #[allow(clippy::disallowed_methods, reason = "where the traces are is known to who runs the test")]
    let Some(folder) = std::env::var_os("ASPIS_TRACES").map(PathBuf::from) else {
        println!("skipped: ASPIS_TRACES does not name the folder of the traces");
        return;
    };
    for trace in [source::adaptsize(&folder), source::web07(&folder)] {
        let trace = trace.unwrap();
        for percent in PERCENTS {
            assert_eq!(report::faults(&play_all(&trace, percent)), Vec::<String>::new());
        }
    }
    // All of the published ones are there: nothing was left out because of a name.
    let trace = source::web07(&folder).unwrap();
    let names: Vec<String> = play_all(&trace, 1).results.into_iter().map(|(name, _)| name).collect();
    assert!(oracle::POLICIES.iter().all(|policy| names.iter().any(|name| name == policy)), "{names:?}");
}
