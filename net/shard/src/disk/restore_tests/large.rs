//! The same for objects that lie on disk as a head and slices.

use super::*;

const LARGE_LEN: usize = 5 << 20;

/// Of a large object all of it comes back, in slices, and who reads it early has its beginning early.
#[test]
fn a_large_object_comes_back_whole() {
    let store = Store::new();
    let content = pattern(LARGE_LEN);
    let mut stage = stage(&store, move |reply| {
        reply.answer("200 OK", "Cache-Control: max-age=3600\r\nETag: \"a\"\r\n", &content);
    });
    let expected = pattern(LARGE_LEN);
    assert_eq!(stage.viewer().get("/a").body, expected);
    restart(&mut stage, &store, Invalidations::default());
    let answers: Vec<_> = (0..10).map(|_| stage.ask("/a")).collect();
    for answer in answers {
        let answer = answer.recv().unwrap();
        assert!(answer.body == expected && answer.result() == "hit", "{}", answer.head);
    }
    assert_eq!(stage.count("/a"), 1);
    // It is in memory now.
    stage.wait(|| matches!(stage.explain("/a").why, Why::Fresh { .. }));
    let read = store.read_len(&stage);
    assert!(stage.viewer().get("/a").body == expected && store.read_len(&stage) == read);
}

/// of a large object nothing is read but the blocks that a range touches, and what was read answers the next ranges from memory.
#[test]
fn a_range_of_a_large_object_reads_the_blocks_that_it_touches() {
    const BLOCK: u64 = 64 << 10;
    // The block of the head, and that of a slice's front before what is wanted of it.
    const FRONTS: u64 = 12 << 10;
    let store = Store::new();
    let content = pattern(LARGE_LEN);
    let mut stage = stage(&store, move |reply| {
        reply.answer("200 OK", "Cache-Control: max-age=3600\r\nETag: \"a\"\r\n", &content);
    });
    let expected = pattern(LARGE_LEN);
    stage.viewer().get("/a");
    restart(&mut stage, &store, Invalidations::default());
    let mut viewer = stage.viewer();
    let mut expect_read = |first: usize, last: usize, blocks: u64| {
        let before = store.read_len(&stage);
        expect_hit(&mut viewer, "/a", &format!("Range: bytes={first}-{last}\r\n"), &expected[first..=last]);
        let read = store.read_len(&stage) - before;
        let bounds = if blocks == 0 { 0..=0 } else { blocks * BLOCK..=blocks * BLOCK + FRONTS };
        assert!(bounds.contains(&read), "{first}-{last}: {read} bytes");
    };
    expect_read(3_000_000, 3_000_099, 1);
    expect_read(3_000_100, 3_000_199, 0);
    expect_read(0, 9, 1);
    expect_read(131_072, 131_081, 1);
    // Who reads on where a range ended has what comes next with it.
    expect_read(196_608, 196_707, 3);
    expect_read(262_144, 393_215, 0);
    // All but the short block of a slice is most of it; bytes on both sides of its end are in two blocks, one of them short.
    expect_read(1_040_384, 2_023_423, 16);
    let before = store.read_len(&stage);
    let (first, last) = (4_161_530, 4_161_541);
    expect_hit(&mut viewer, "/a", &format!("Range: bytes={first}-{last}\r\n"), &expected[first..=last]);
    let read = store.read_len(&stage) - before;
    assert!((BLOCK + 57_344..=2 * BLOCK + FRONTS).contains(&read), "{read}");
    expect_hit(&mut viewer, "/a", "Range: bytes=-10\r\n", &expected[LARGE_LEN - 10..]);
    // Across slices, and the rest of it.
    expect_hit(&mut viewer, "/a", "Range: bytes=1000000-3100000\r\n", &expected[1_000_000..=3_100_000]);
    assert_eq!(viewer.send("GET", "/a", &format!("Range: bytes={LARGE_LEN}-\r\n")).status, 416);
    assert!(viewer.get("/a").body == expected);
    assert_eq!(stage.count("/a"), 1);
}

/// where the disk breaks off the origin is asked for the rest, under the same strong ETag; of a part, too.
#[test]
fn what_the_disk_does_not_have_any_more_comes_from_the_origin() {
    let expected = pattern(LARGE_LEN);
    // All of it, and bytes of the block that is damaged.
    for (fields, bytes) in [("", 0..LARGE_LEN), ("Range: bytes=3160000-3160099\r\n", 3_160_000..3_160_100)] {
        let store = Store::new();
        let content = expected.clone();
        let seen = Arc::new(AtomicUsize::new(0));
        let resumed = Arc::clone(&seen);
        let mut stage = stage(&store, move |reply| {
            let range = reply.head.lines().find_map(|line| line.strip_prefix("range: bytes="));
            let start: Option<usize> = range.map(|range| range.trim_end_matches('-').parse().unwrap());
            let fields = "Cache-Control: max-age=3600\r\nETag: \"a\"\r\n";
            match start {
                None => reply.answer("200 OK", fields, &content),
                Some(start) => {
                    resumed.store(start, Ordering::Relaxed);
                    let range = format!("Content-Range: bytes {start}-{}/{LARGE_LEN}\r\n", LARGE_LEN - 1);
                    reply.answer("206 Partial Content", &format!("{fields}{range}"), &content[start..]);
                }
            }
        });
        stage.viewer().get("/a");
        store.settle(&stage);
        store.damage(b"00395577");
        stage.restart(Invalidations::default(), Some(store.boot()));
        store.wait_recovered(&stage);
        let answer = stage.viewer().send("GET", "/a", fields);
        assert!(answer.body == expected[bytes], "{}", answer.head);
        assert_eq!((stage.count("/a"), stage.sum(Counter::DiskCheckFailures)), (2, 1));
        assert_eq!(seen.load(Ordering::Relaxed), 3_121_152, "the slices before it were of use");
    }
}

/// A slow reader of a large object has it whole though an unsafe request or a rule ended it meanwhile; nobody after that gets any of it, nor
/// after a restart (I-22).
#[test]
fn what_is_ended_while_it_comes_back_is_not_kept() {
    for by_rule in [false, true] {
        let store = Store::new();
        let content = pattern(4 * LARGE_LEN);
        let mut stage = stage(&store, move |reply| match reply.before {
            0 => reply.answer("200 OK", "Cache-Control: max-age=3600\r\nETag: \"a\"\r\n", &content),
            _ => version(reply),
        });
        stage.viewer().get("/a");
        restart(&mut stage, &store, Invalidations::default());
        let (mut slow, mut other) = (stage.viewer(), stage.viewer());
        slow.ask("GET", "/a", "");
        stage.wait(|| !matches!(stage.explain("/a").why, Why::OnDisk));
        let (invalidations, expected) = if by_rule {
            stage.purge("/a");
            (rules(1, vec![rule("/a")]), "v2")
        } else {
            assert_eq!(other.send("POST", "/a", "Content-Length: 0\r\n").status, 200);
            (Invalidations::default(), "v3")
        };
        assert_eq!(other.get("/a").body, expected);
        assert!(slow.answer().body == pattern(4 * LARGE_LEN));
        stage.wait(|| !stage.explain("/a").in_flight);
        assert_eq!(other.get("/a").result(), "hit");
        restart(&mut stage, &store, invalidations);
        expect_hit(&mut stage.viewer(), "/a", "", expected);
    }
}

/// RFC 9111 §5.2.1.7: what lies on disk is stored, on whatever core it is asked for.
#[test]
fn who_wants_what_is_stored_gets_it_from_disk() {
    let store = Store::new();
    let content = pattern(LARGE_LEN);
    let script = move |reply: &mut Reply<'_>| match &*reply.target {
        "/large" => reply.answer("200 OK", "Cache-Control: max-age=3600\r\nETag: \"a\"\r\n", &content),
        _ => version(reply),
    };
    let flags = [("request-directives", "on")];
    let mut stage = Stage::with_disk(&flags, Invalidations::default(), Some(store.boot()), script);
    for target in ["/a", "/b", "/c", "/large"] {
        stage.viewer().get(target);
    }
    restart(&mut stage, &store, Invalidations::default());
    let mut viewers = stage.viewers();
    let only = "Cache-Control: only-if-cached\r\n";
    for (number, target) in ["/a", "/b", "/c"].into_iter().enumerate() {
        expect_hit(&mut viewers[number % 2], target, only, "v1");
    }
    expect_hit(&mut viewers[0], "/large", only, &pattern(LARGE_LEN));
    assert_eq!(viewers[1].send("GET", "/never", only).status, 504);
    assert_eq!((stage.count("/a"), stage.count("/large"), stage.count("/never")), (1, 1, 0));
}

/// of a large object that is stale on disk nothing but its head is read before the origin confirms it, for a range as for the whole; then
/// it is fresh, and its slices are as they were.
#[test]
fn a_stale_large_object_is_validated() {
    for fields in ["Range: bytes=8-15\r\n", ""] {
        let store = Store::new();
        let content = pattern(LARGE_LEN);
        let mut stage = stage(&store, move |reply| {
            let fields = |age: u32| format!("Cache-Control: max-age={age}\r\nETag: \"a\"\r\n");
            if reply.has("if-none-match") {
                reply.answer("304 Not Modified", &fields(3600), "");
            } else {
                reply.answer("200 OK", &fields(0), &content);
            }
        });
        let expected = pattern(LARGE_LEN);
        stage.viewer().get("/a");
        restart(&mut stage, &store, Invalidations::default());
        let before = store.read_len(&stage);
        let mut viewer = stage.viewer();
        let answer = viewer.send("GET", "/a", fields);
        if fields.is_empty() {
            assert!(answer.body == expected && answer.result() == "refreshhit", "{}", answer.head);
        } else {
            assert!(answer.body == expected[8..16] && answer.result() == "hit", "{}", answer.head);
            assert!(store.read_len(&stage) - before < 1 << 18, "no more is read than is of use");
        }
        assert_eq!(stage.count("/a"), 2);
        // Only the head was written anew.
        restart(&mut stage, &store, Invalidations::default());
        assert!(stage.sum(Counter::DiskWrittenBytes) < 1 << 20);
        expect_hit(&mut stage.viewer(), "/a", "Range: bytes=8-15\r\n", &expected[8..16]);
        assert!(stage.viewer().get("/a").body == expected);
        assert_eq!(stage.count("/a"), 2);
    }
}
