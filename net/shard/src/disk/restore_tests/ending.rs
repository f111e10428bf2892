//! The orderly end: what only memory has goes to disk, in time, and nothing else does.

use std::fs::OpenOptions;
use std::time::{Duration, Instant};

use super::*;
use crate::Extent;

const PATIENCE: Duration = Duration::from_secs(30);

const LEN: usize = 400_000;

/// A stage whose store takes no more of what is stored, and the targets that were not written.
fn full(store: &Store, len: usize) -> (Stage, Vec<String>) {
    let content = pattern(len);
    let script = move |reply: &mut Reply<'_>| {
        let version = reply.before + 1;
        let fields = "Cache-Control: max-age=3600\r\nETag: \"1\"\r\nVary: Accept\r\n";
        reply.answer("200 OK", fields, &format!("{version}{content}"));
    };
    let stage = Stage::with_disk(&[], Invalidations::default(), Some(store.boot_frugal()), script);
    let mut viewer = stage.viewer();
    let mut refused = Vec::new();
    for number in 0.. {
        if refused.len() == 12 {
            break;
        }
        let (target, before) = (format!("/{number}"), stage.sum(Counter::DiskRefusedBudget));
        viewer.get(&target);
        if stage.sum(Counter::DiskRefusedBudget) > before {
            refused.push(target);
        }
    }
    (stage, refused)
}

#[test]
fn what_only_memory_has_is_written_whatever_the_write_budget_says() {
    for (len, at_least) in [(LEN, 10), (3 << 20, 4)] {
        let store = Store::new();
        let (mut stage, refused) = full(&store, len);
        // What an invalidation took is not for the disk.
        stage.purge(&refused[11]);
        let kept: Vec<&String> = refused[..11]
            .iter()
            .filter(|target| matches!(stage.explain(target).why, Why::Fresh { .. }))
            .collect();
        assert!(kept.len() >= at_least, "{}", kept.len());
        let flushed = stage.shards().flush_disk(Extent::Memory, PATIENCE).expect("the disk answers");
        assert!(flushed.left == 0 && flushed.written >= kept.len() as u64, "{flushed:?}");
        // All of it is there: there is nothing left to do.
        let again = stage.shards().flush_disk(Extent::Memory, PATIENCE).expect("the disk answers");
        assert_eq!((again.written, again.left), (0, 0));
        stage.restart(rules(1, vec![rule(&refused[11])]), Some(store.boot()));
        store.wait_recovered(&stage);
        let mut viewer = stage.viewer();
        for target in kept {
            expect_hit(&mut viewer, target, "", &format!("1{}", pattern(len)));
            assert_eq!(stage.count(target), 1);
        }
        assert!(viewer.get(&refused[11]).body.starts_with('2'));
    }
}

#[test]
fn the_end_comes_in_time_and_tells_what_was_not_written() {
    let store = Store::new();
    let (stage, refused) = full(&store, LEN);
    let began = Instant::now();
    let flushed = stage.shards().flush_disk(Extent::Memory, Duration::ZERO).expect("the disk answers");
    assert!(flushed.left + flushed.written >= refused.len() as u64 && flushed.left > 0, "{flushed:?}");
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn nobody_waits_for_a_directory_that_is_off_line() {
    let store = Store::new();
    let (mut stage, refused) = full(&store, LEN);
    store.settle(&stage);
    stage.restart(Invalidations::default(), Some(store.open_as(OpenOptions::new().read(true))));
    store.wait_recovered(&stage);
    let mut viewer = stage.viewer();
    for target in refused.iter().cycle() {
        viewer.get(target);
        if store.directory.is_off_line() {
            break;
        }
    }
    let began = Instant::now();
    let flushed = stage.shards().flush_disk(Extent::Memory, PATIENCE).expect("nobody waits for it");
    assert!(flushed.left > 0 && began.elapsed() < PATIENCE, "{flushed:?}");
}
