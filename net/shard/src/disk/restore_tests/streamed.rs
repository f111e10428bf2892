//! The same for objects that memory does not take: they go to disk as they come.

use std::sync::LazyLock;

use super::*;
use crate::rules::stage::Gate;

/// More than a core's arena.
const HUGE_LEN: usize = 40 << 20;

const FIELDS: &str = "Cache-Control: max-age=3600\r\nETag: \"a\"\r\n";

static CONTENT: LazyLock<String> = LazyLock::new(|| pattern(HUGE_LEN));

/// Sends the content, up to a place from where on it waits for the gate.
fn halted(reply: &mut Reply<'_>, fields: &str, at: usize, gate: &Gate) {
    reply.begin("200 OK", fields, HUGE_LEN);
    reply.write(&CONTENT[..at]);
    gate.wait();
    reply.write(&CONTENT[at..]);
}

fn whole(reply: &mut Reply<'_>) {
    reply.answer("200 OK", FIELDS, &CONTENT);
}

#[track_caller]
fn wait_kept(stage: &Stage, target: &str) {
    let _viewers = stage.viewers();
    stage.wait(|| matches!(stage.explain(target).why, Why::OnDisk));
}

/// what is too large for memory is a hit afterwards, whole and in ranges, from disk alone; after a restart too.
#[test]
fn what_memory_does_not_take_is_stored_on_disk() {
    let store = Store::new();
    let mut stage = stage(&store, whole);
    let answer = stage.viewer().get("/a");
    assert!(answer.body == *CONTENT && answer.result() == "miss", "{}", answer.head);
    for _ in 0..2 {
        wait_kept(&stage, "/a");
        let mut viewer = stage.viewer();
        expect_hit(&mut viewer, "/a", "", &CONTENT);
        for (first, last) in [(0, 9), (20_000_000, 20_000_999), (HUGE_LEN - 8, HUGE_LEN - 1)] {
            expect_hit(
                &mut viewer,
                "/a",
                &format!("Range: bytes={first}-{last}\r\n"),
                &CONTENT[first..=last],
            );
        }
        restart(&mut stage, &store, Invalidations::default());
    }
    assert_eq!(stage.count("/a"), 1);
}

/// C-1, R-32: who comes while it comes gets it from the slices that are there and from those that follow; one origin request for all.
#[test]
fn who_comes_while_it_comes_shares_the_fetch() {
    let store = Store::new();
    let gate = Gate::default();
    let held = gate.clone();
    let stage = stage(&store, move |reply| halted(reply, FIELDS, HUGE_LEN / 2, &held));
    let first = stage.ask("/a");
    stage.wait(|| stage.sum(Counter::DiskRecordsWritten) >= 15);
    // From what is there at once, though the origin says nothing.
    let mut viewers = stage.viewers();
    for (number, (first, last)) in [(0, 999_999), (9_000_000, 9_000_099)].into_iter().enumerate() {
        let fields = format!("Range: bytes={first}-{last}\r\n");
        expect_hit(&mut viewers[number], "/a", &fields, &CONTENT[first..=last]);
    }
    let late: Vec<_> = (0..4).map(|_| stage.ask("/a")).collect();
    let [mut here, mut there] = stage.viewers();
    // Of what is not there yet.
    let (from, to) = (HUGE_LEN - 1000, HUGE_LEN - 1);
    for viewer in [&mut here, &mut there] {
        viewer.ask("GET", "/a", &format!("Range: bytes={from}-{to}\r\n"));
    }
    gate.open();
    for viewer in [&mut here, &mut there] {
        let answer = viewer.answer();
        assert!(answer.body == CONTENT[from..=to] && answer.status == 206, "{}", answer.head);
    }
    for answer in late.into_iter().chain([first]) {
        assert!(answer.recv().unwrap().body == *CONTENT);
    }
    assert_eq!(stage.count("/a"), 1);
}

/// the slowest slow nobody; what they missed they read from disk, and the origin is asked once.
#[test]
fn slow_readers_read_on_from_disk() {
    let store = Store::new();
    let stage = stage(&store, whole);
    let mut slow: Vec<_> = (0..4).map(|_| stage.viewer()).collect();
    slow.iter_mut().for_each(|viewer| viewer.ask("GET", "/a", ""));
    // Nobody has read a byte, and all of it is there.
    wait_kept(&stage, "/a");
    for viewer in &mut slow {
        assert!(viewer.answer().body == *CONTENT);
    }
    assert!(stage.sum(Counter::DiskReadOn) >= 4);
    // The same with what comes from disk for several.
    slow.iter_mut().for_each(|viewer| viewer.ask("GET", "/a", ""));
    let fast = stage.ask("/a");
    assert!(fast.recv().unwrap().body == *CONTENT);
    for viewer in &mut slow {
        assert!(viewer.answer().body == *CONTENT);
    }
    assert_eq!(stage.count("/a"), 1);
}

/// I-22, RFC 9111 §4.4: what a rule or an unsafe request concerns that came meanwhile is not kept, though who reads it gets it whole.
#[test]
fn what_is_ended_while_it_comes_is_not_kept() {
    for by_rule in [false, true] {
        let store = Store::new();
        let gate = Gate::default();
        let held = gate.clone();
        let mut stage = stage(&store, move |reply| match reply.before {
            0 => halted(reply, FIELDS, HUGE_LEN / 2, &held),
            _ => version(reply),
        });
        let first = stage.ask("/a");
        stage.wait(|| stage.sum(Counter::DiskRecordsWritten) >= 15);
        let mut viewer = stage.viewer();
        let invalidations = if by_rule {
            stage.purge("/a");
            rules(1, vec![rule("/a")])
        } else {
            assert_eq!(viewer.send("POST", "/a", "Content-Length: 0\r\n").status, 200);
            Invalidations::default()
        };
        let body = viewer.get("/a").body;
        assert!(body.starts_with('v'), "{}", body.len());
        gate.open();
        assert!(first.recv().unwrap().body == *CONTENT);
        assert_eq!(viewer.get("/a").body, body);
        restart(&mut stage, &store, invalidations);
        expect_hit(&mut stage.viewer(), "/a", "", &body);
    }
}

/// what breaks off is cut for all, and nothing of it is found afterwards.
#[test]
fn what_breaks_off_is_not_kept() {
    let store = Store::new();
    let mut stage = stage(&store, |reply| match reply.before {
        0 => {
            reply.begin("200 OK", "Cache-Control: max-age=3600\r\n", HUGE_LEN);
            reply.write(&CONTENT[..HUGE_LEN / 2]);
            reply.hang_up();
        }
        _ => whole(reply),
    });
    assert!(stage.ask("/a").recv().is_err(), "it is cut");
    assert!(stage.sum(Counter::DiskRecordsWritten) >= 10);
    let _viewers = stage.viewers();
    stage.wait(|| !stage.explain("/a").in_flight && stage.sum(Counter::CacheNotStoredSize) > 0);
    restart(&mut stage, &store, Invalidations::default());
    assert!(!stage.explain("/a").on_disk);
    assert!(stage.viewer().get("/a").body == *CONTENT);
    assert_eq!(stage.count("/a"), 2);
}

/// a break is mended under the same strong ETag, on disk as for who reads.
#[test]
fn a_mended_break_is_kept_whole() {
    let store = Store::new();
    let mut stage = stage(&store, |reply| match reply.before {
        0 => {
            reply.begin("200 OK", FIELDS, HUGE_LEN);
            reply.write(&CONTENT[..HUGE_LEN / 2 + 777]);
            reply.hang_up();
        }
        _ => {
            let start = reply.head.lines().find_map(|line| line.strip_prefix("range: bytes="));
            let start: usize = start.expect("a range").trim_end_matches('-').parse().expect("a number");
            let range = format!("{FIELDS}Content-Range: bytes {start}-{}/{HUGE_LEN}\r\n", HUGE_LEN - 1);
            reply.answer("206 Partial Content", &range, &CONTENT[start..]);
        }
    });
    assert!(stage.viewer().get("/a").body == *CONTENT);
    wait_kept(&stage, "/a");
    restart(&mut stage, &store, Invalidations::default());
    expect_hit(&mut stage.viewer(), "/a", "", &CONTENT);
    assert_eq!(stage.count("/a"), 2);
}

/// RFC 9111 §4.1: so is a variant, and who selects another does not get it, nor while it comes.
#[test]
fn a_variant_that_memory_does_not_take_is_stored_on_disk() {
    let store = Store::new();
    let gate = Gate::default();
    let held = gate.clone();
    let mut stage = stage(&store, move |reply| {
        let fields = format!("{FIELDS}Vary: Accept-Language\r\n");
        if reply.head.contains("accept-language: de") {
            halted(reply, &fields, HUGE_LEN / 2, &held);
        } else {
            reply.answer("200 OK", &fields, "en");
        }
    });
    let [mut german, mut late] = stage.viewers();
    let mut english = stage.viewer();
    german.ask("GET", "/a", "Accept-Language: de\r\n");
    stage.wait(|| stage.sum(Counter::DiskRecordsWritten) >= 15);
    assert_eq!(english.send("GET", "/a", "Accept-Language: en\r\n").body, "en");
    late.ask("GET", "/a", "Accept-Language: de\r\n");
    gate.open();
    assert!(german.answer().body == *CONTENT && late.answer().body == *CONTENT);
    assert_eq!(stage.count("/a"), 2);
    stage.wait(|| stage.sum(Counter::CacheStored) >= 2);
    restart(&mut stage, &store, Invalidations::default());
    let mut viewer = stage.viewer();
    expect_hit(&mut viewer, "/a", "Accept-Language: de\r\n", &CONTENT);
    expect_hit(&mut viewer, "/a", "Accept-Language: en\r\n", "en");
    assert_eq!(stage.count("/a"), 2);
}

/// What the write budget has no room for goes on to all who read it, as without a disk.
#[test]
fn what_is_not_worth_a_write_passes_through() {
    let store = Store::new();
    let stage = Stage::with_disk(&[], Invalidations::default(), Some(store.boot_frugal()), whole);
    // Each core has a budget of its own, and one such object is more than all of it.
    for target in ["/a", "/b", "/c", "/d"] {
        assert!(stage.viewer().get(target).body == *CONTENT);
    }
    assert!(stage.sum(Counter::DiskRefusedBudget) > 0);
    let written = stage.sum(Counter::DiskWrittenBytes);
    assert!(written < 2 * (HUGE_LEN + HUGE_LEN / 8) as u64, "{written}");
}

/// what memory does not take is validated like everything else, and fetched anew if the origin has another.
#[test]
fn what_is_stale_on_disk_alone_is_validated() {
    for is_changed in [false, true] {
        let store = Store::new();
        let mut stage = stage(&store, move |reply| {
            let fields = |age: u32, tag: &str| format!("Cache-Control: max-age={age}\r\nETag: \"{tag}\"\r\n");
            match reply.before {
                0 => reply.answer("200 OK", &fields(0, "a"), &CONTENT),
                1 if is_changed => reply.answer("200 OK", &fields(3600, "b"), &CONTENT[8..]),
                1 => reply.answer("304 Not Modified", &fields(3600, "a"), ""),
                _ => version(reply),
            }
        });
        assert!(stage.viewer().get("/a").body == *CONTENT);
        wait_kept(&stage, "/a");
        let expected = if is_changed { &CONTENT[8..] } else { &CONTENT[..] };
        let mut viewer = stage.viewer();
        for _ in 0..3 {
            assert!(viewer.get("/a").body == expected);
            assert_eq!(stage.count("/a"), 2);
            wait_kept(&stage, "/a");
            expect_hit(&mut viewer, "/a", "Range: bytes=100-199\r\n", &expected[100..200]);
            restart(&mut stage, &store, Invalidations::default());
            viewer = stage.viewer();
        }
        assert_eq!(stage.count("/a"), 2);
    }
}

/// I-24, RFC 9111 §4.4: what a rule or an unsafe request ends while the origin is asked is not confirmed by its answer.
#[test]
fn what_is_ended_while_it_is_validated_stays_ended() {
    for by_rule in [false, true] {
        let store = Store::new();
        let gate = Gate::default();
        let held = gate.clone();
        let mut stage = stage(&store, move |reply| match reply.before {
            0 => reply.answer("200 OK", "Cache-Control: max-age=0\r\nETag: \"a\"\r\n", &CONTENT),
            1 => {
                held.wait();
                reply.answer("304 Not Modified", FIELDS, "");
            }
            _ => version(reply),
        });
        assert!(stage.viewer().get("/a").body == *CONTENT);
        wait_kept(&stage, "/a");
        let waits = stage.ask("/a");
        stage.wait_count("/a", 2);
        let invalidations = if by_rule {
            stage.purge("/a");
            rules(1, vec![rule("/a")])
        } else {
            assert_eq!(stage.viewer().send("POST", "/a", "Content-Length: 0\r\n").status, 200);
            Invalidations::default()
        };
        gate.open();
        assert!(waits.recv().unwrap().body.starts_with('v'));
        restart(&mut stage, &store, invalidations);
        assert!(stage.viewer().get("/a").body.starts_with('v'));
    }
}

/// What does not say its length is written before it is known whether memory takes it; if it does, only once, and it is there from both.
#[test]
fn what_memory_takes_after_all_is_written_once() {
    const LEN: usize = 10 << 20;
    let store = Store::new();
    let mut stage = stage(&store, |reply| {
        reply.write(&format!("HTTP/1.1 200 OK\r\n{FIELDS}Transfer-Encoding: chunked\r\n\r\n"));
        reply.write(&format!("{LEN:x}\r\n{}\r\n0\r\n\r\n", &CONTENT[..LEN]));
    });
    // It comes in chunks, which this viewer does not read.
    stage.viewer().ask("GET", "/a", "");
    stage.wait(|| matches!(stage.explain("/a").why, Why::Fresh { .. }));
    store.settle(&stage);
    let written = stage.sum(Counter::DiskWrittenBytes);
    assert!((LEN..LEN + LEN / 8).contains(&(written as usize)), "{written}");
    assert_eq!(stage.sum(Counter::DiskRecordsWritten), LEN.div_ceil(1_040_384) as u64 + 1);
    restart(&mut stage, &store, Invalidations::default());
    expect_hit(&mut stage.viewer(), "/a", "", &CONTENT[..LEN]);
    assert_eq!(stage.count("/a"), 1);
}
