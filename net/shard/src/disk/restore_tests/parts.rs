//! The same for parts of representations: what ranges brought.

use super::*;

const FILM_LEN: usize = 12 << 20;

/// Which bytes a request asks for of content of so many.
fn wanted(reply: &Reply<'_>, len: usize) -> Option<std::ops::Range<usize>> {
    let range = reply.head.lines().find_map(|line| line.strip_prefix("range: bytes="))?;
    let (start, last) = range.split_once('-')?;
    let last = last.trim().parse().map_or(len - 1, |last: usize| last.min(len - 1));
    Some(start.parse().ok()?..last + 1)
}

/// Answers with a range of `content` under these fields, or with all of it.
fn ranged(reply: &mut Reply<'_>, content: &str, fields: &str) {
    match wanted(reply, content.len()) {
        Some(range) => {
            let stated = format!(
                "{fields}Content-Range: bytes {}-{}/{}\r\n",
                range.start,
                range.end - 1,
                content.len()
            );
            reply.answer("206 Partial Content", &stated, &content[range]);
        }
        None => reply.answer("200 OK", fields, content),
    }
}

const FRESH: &str = "Cache-Control: max-age=3600\r\nETag: \"a\"\r\nCache-Tag: t\r\n";

/// A stage before an origin of one film.
fn film(store: &Store, len: usize) -> (Stage, String) {
    let content = pattern(len);
    let told = content.clone();
    (stage(store, move |reply| ranged(reply, &content, FRESH)), told)
}

fn asking(range: &std::ops::Range<usize>) -> String {
    format!("Range: bytes={}-{}\r\n", range.start, range.end - 1)
}

#[track_caller]
fn expect_part(viewer: &mut Viewer, content: &str, range: std::ops::Range<usize>, result: &str) {
    let answer = viewer.send("GET", "/a", &asking(&range));
    let stated = format!("content-range: bytes {}-{}/{}", range.start, range.end - 1, content.len());
    assert_eq!((answer.status, answer.result()), (206, result), "{range:?}: {}", answer.head);
    assert!(answer.body == content[range] && answer.head.contains(&stated), "{}", answer.head);
}

/// parts that were fetched before a restart answer the ranges that lie in them, small ones and large ones, and new ones stand beside them.
#[test]
fn parts_are_there_after_a_restart() {
    let store = Store::new();
    let (mut stage, content) = film(&store, FILM_LEN);
    let mut viewer = stage.viewer();
    let fetched = [0..100, 100..70_000, 1_000_000..1_500_000, 3_000_000..9_000_000];
    fetched.iter().for_each(|range| expect_part(&mut viewer, &content, range.clone(), "miss"));
    restart(&mut stage, &store, Invalidations::default());
    assert_eq!(stage.explain("/a").why, Why::OnDisk);
    let mut viewer = stage.viewer();
    for range in
        [0..100, 10..20, 100..70_000, 1_400_000..1_500_000, 4_200_000..4_200_010, 3_000_000..9_000_000]
    {
        expect_part(&mut viewer, &content, range, "hit");
    }
    assert_eq!((stage.count("/a"), stage.explain("/a").why), (fetched.len(), Why::OnlyParts));
    expect_part(&mut viewer, &content, 9_000_000..9_000_100, "miss");
    restart(&mut stage, &store, Invalidations::default());
    for mut viewer in stage.viewers() {
        for range in [9_000_000..9_000_100, 50..100, 8_999_000..9_000_000] {
            expect_part(&mut viewer, &content, range, "hit");
        }
    }
    assert_eq!(stage.count("/a"), fetched.len() + 1);
}

/// of a large part nothing is read but the blocks that a range touches.
#[test]
fn a_range_of_a_large_part_reads_the_blocks_that_it_touches() {
    const BLOCK: u64 = 64 << 10;
    let store = Store::new();
    let (mut stage, content) = film(&store, FILM_LEN);
    expect_part(&mut stage.viewer(), &content, 1_000_001..7_000_001, "miss");
    restart(&mut stage, &store, Invalidations::default());
    let (mut viewer, before) = (stage.viewer(), store.read_len(&stage));
    expect_part(&mut viewer, &content, 1_000_001..1_000_011, "hit");
    // The list, the head of the part, and a slice's front with its first block.
    let read = store.read_len(&stage) - before;
    assert!((BLOCK..=BLOCK + (24 << 10)).contains(&read), "{read}");
    let before = store.read_len(&stage);
    expect_part(&mut viewer, &content, 1_000_100..1_000_200, "hit");
    assert_eq!(store.read_len(&stage), before, "it is in memory");
}

/// What memory let go of comes back from disk, more parts than memory keeps beside each other among it.
#[test]
fn parts_that_left_memory_come_back() {
    const PARTS: usize = 40;
    let store = Store::new();
    let (stage, content) = film(&store, PARTS * 1000);
    let mut viewer = stage.viewer();
    let part = |number: usize| number * 1000..number * 1000 + 900;
    (0..PARTS).for_each(|number| expect_part(&mut viewer, &content, part(number), "miss"));
    store.settle(&stage);
    (0..PARTS).for_each(|number| expect_part(&mut viewer, &content, part(number), "hit"));
    assert_eq!(stage.count("/a"), PARTS);
    assert!(stage.sum(Counter::DiskHit) as usize >= PARTS - 16, "{}", stage.sum(Counter::DiskHit));
}

/// Rule 14 of the RFC 9111 profile: a beginning that is on disk is joined by the rest of it.
#[test]
fn a_beginning_on_disk_is_completed() {
    let store = Store::new();
    let (mut stage, content) = film(&store, 200_000);
    expect_part(&mut stage.viewer(), &content, 0..150_000, "miss");
    restart(&mut stage, &store, Invalidations::default());
    assert!(stage.viewer().get("/a").body == content);
    assert_eq!(stage.count("/a"), 2);
    // All of it is stored now, and no part any more.
    restart(&mut stage, &store, Invalidations::default());
    expect_part(&mut stage.viewer(), &content, 150..160, "hit");
    expect_hit(&mut stage.viewer(), "/a", "", &content);
    assert_eq!(stage.count("/a"), 2);
}

/// I-22, I-25: rules by path, prefix and tag hold for parts on disk, whether they come before they are read or while nothing runs.
#[test]
fn rules_hold_for_parts_on_disk() {
    let tag = Rule::tag("T", None, false).unwrap();
    for (purge, concerned) in
        [(rule("/a"), true), (rule("/*"), true), (tag, true), (soft("/a"), true), (rule("/b"), false)]
    {
        for restarts in [true, false] {
            let store = Store::new();
            let (mut stage, content) = film(&store, FILM_LEN);
            expect_part(&mut stage.viewer(), &content, 0..1000, "miss");
            expect_part(&mut stage.viewer(), &content, 2_000_000..5_000_000, "miss");
            restart(&mut stage, &store, Invalidations::default());
            invalidate(&mut stage, &store, purge.clone(), restarts);
            let result = if concerned { "miss" } else { "hit" };
            for range in [100..200, 2_000_100..2_000_200] {
                expect_part(&mut stage.viewer(), &content, range, result);
            }
        }
    }
}

/// RFC 9111 §4.4: what an unsafe request made out of date does not come back, parts neither, with an orderly end or without.
#[test]
fn an_unsafe_request_ends_parts_on_disk() {
    for settles in [true, false] {
        let store = Store::new();
        let (mut stage, content) = film(&store, 10_000);
        let mut viewer = stage.viewer();
        expect_part(&mut viewer, &content, 0..1000, "miss");
        expect_part(&mut viewer, &content, 5000..6000, "miss");
        store.settle(&stage);
        assert_eq!(viewer.send("POST", "/a", "Content-Length: 0\r\n").status, 200);
        if settles {
            store.settle(&stage);
        }
        stage.restart(Invalidations::default(), Some(store.boot()));
        store.wait_recovered(&stage);
        expect_part(&mut stage.viewer(), &content, 0..1000, "miss");
        // The old ones do not come back with the new list.
        restart(&mut stage, &store, Invalidations::default());
        expect_part(&mut stage.viewer(), &content, 0..1000, "hit");
        expect_part(&mut stage.viewer(), &content, 5000..6000, "miss");
    }
}

/// with another version all parts of the one before are gone, from disk too; be it that it is written or that the budget has nothing for it.
#[test]
fn another_version_ends_the_parts_of_the_one_before() {
    for whole in [false, true] {
        let store = Store::new();
        let mut stage = stage(&store, move |reply| {
            let version = if reply.before < 2 { 1 } else { 2 };
            let content = format!("version {version} ").repeat(1000);
            let age = if reply.before == 0 { 0 } else { 3600 };
            ranged(reply, &content, &format!("Cache-Control: max-age={age}\r\nETag: \"{version}\"\r\n"));
        });
        let content = |version: u32| format!("version {version} ").repeat(1000);
        let mut viewer = stage.viewer();
        // The first is stale at once, so that the second is asked for though it lies in it.
        expect_part(&mut viewer, &content(1), 0..100, "miss");
        expect_part(&mut viewer, &content(1), 50..100, "miss");
        expect_part(&mut viewer, &content(1), 60..70, "hit");
        restart(&mut stage, &store, Invalidations::default());
        let mut viewer = stage.viewer();
        if whole {
            assert_eq!(viewer.get("/a").body, content(2));
        } else {
            expect_part(&mut viewer, &content(2), 200..300, "miss");
        }
        for restarts in [false, true] {
            if restarts {
                restart(&mut stage, &store, Invalidations::default());
            }
            let result = if whole || restarts { "hit" } else { "miss" };
            expect_part(&mut stage.viewer(), &content(2), 60..70, result);
        }
    }
}

/// what has no strong validator is not kept beside others, and not on disk; nor is what is stale.
#[test]
fn a_part_without_a_strong_validator_or_freshness_is_not_written() {
    for fields in [
        "Cache-Control: max-age=3600\r\n",
        "Cache-Control: max-age=3600\r\nETag: W/\"a\"\r\n",
        "Cache-Control: max-age=0\r\nETag: \"a\"\r\n",
    ] {
        let store = Store::new();
        let content = pattern(10_000);
        let told = content.clone();
        let mut stage = stage(&store, move |reply| ranged(reply, &content, fields));
        expect_part(&mut stage.viewer(), &told, 0..100, "miss");
        restart(&mut stage, &store, Invalidations::default());
        assert!(!stage.explain("/a").on_disk, "{fields}");
        expect_part(&mut stage.viewer(), &told, 0..100, "miss");
    }
}

/// What stands on disk as a whole stays: parts are read from it.
#[test]
fn a_part_takes_nothing_away_that_is_there_as_a_whole() {
    let store = Store::new();
    let (mut stage, content) = film(&store, 3 << 20);
    assert!(stage.viewer().get("/a").body == content);
    restart(&mut stage, &store, Invalidations::default());
    // A range that the origin was asked for all the same.
    let mut viewer = stage.viewer();
    let answer = viewer.send("GET", "/a", "Range: bytes=0-99\r\nCache-Control: no-cache\r\n");
    assert_eq!(answer.status, 206);
    restart(&mut stage, &store, Invalidations::default());
    let fetches = stage.count("/a");
    expect_part(&mut stage.viewer(), &content, 2_000_000..2_000_100, "hit");
    expect_hit(&mut stage.viewer(), "/a", "", &content);
    assert_eq!(stage.count("/a"), fetches);
}

/// What is damaged is fetched, and nobody sees a wrong byte: the part, a slice of it, or the list.
#[test]
fn a_damaged_part_is_a_miss() {
    for (damaged, range) in [("00000005", 0..1000), ("00395577", 3_000_000..5_000_000), ("\"a\"", 0..1000)] {
        let store = Store::new();
        let (mut stage, content) = film(&store, FILM_LEN);
        expect_part(&mut stage.viewer(), &content, range.clone(), "miss");
        store.settle(&stage);
        store.damage(damaged.as_bytes());
        stage.restart(Invalidations::default(), Some(store.boot()));
        store.wait_recovered(&stage);
        let answer = stage.viewer().send("GET", "/a", &asking(&range));
        assert!(answer.status == 206 && answer.body == content[range], "{}", answer.head);
        assert_eq!(stage.sum(Counter::DiskCheckFailures), 1, "{damaged}");
    }
}
