//! Responses that are sent from the page cache.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;

use super::*;

/// How long and how many: they fill several segments, so that most lie in some that are not written to any more.
const MANY: (usize, usize) = (200_000, 100);

/// More than memory has room for.
const TOO_MANY: (usize, usize) = (900_000, 100);

fn targets(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("/{number}"))
}

/// Content that names what it belongs to everywhere.
fn filled(of: &str, len: usize) -> String {
    of.repeat(len.div_ceil(of.len()))[..len].to_owned()
}

/// Everything is stored; then it is served anew with the volumes mapped. `None` where the kernel cannot tell what is in the page cache, as before Linux 6.5.
fn mapped_stage(store: &Store, (len, count): (usize, usize), mapped_len_max: u64) -> Option<Stage> {
    let script = move |reply: &mut Reply<'_>| {
        let body = filled(&format!("{}v{} ", reply.target, reply.before + 1), len);
        reply.answer("200 OK", "Cache-Control: max-age=3600\r\nETag: \"a\"\r\n", &body);
    };
    // What is written past the page cache is not in it.
    let mut stage = Stage::with_disk(&[], Invalidations::default(), Some(store.open()), script);
    let mut viewer = stage.viewer();
    for (number, target) in targets(count).enumerate() {
        viewer.get(&target);
        if number % 4 == 3 {
            store.settle(&stage);
        }
    }
    let boot = store.open_mapped(mapped_len_max);
    let mapped = boot.volumes[0].mapped.as_ref()?;
    aspis_runtime::page_cache::is_resident(mapped.as_fd(), &(0..1)).ok()?;
    stage.restart(Invalidations::default(), Some(boot));
    store.wait_recovered(&stage);
    Some(stage)
}

/// Brings the volumes into the page cache.
fn warm(store: &Store) {
    for shard in 0..2 {
        let mut file = File::open(store.volume_path(shard)).unwrap();
        std::io::copy(&mut file, &mut std::io::sink()).unwrap();
    }
}

/// Sets the length of the volumes' files.
fn cut(store: &Store, len: u64) {
    for shard in 0..2 {
        OpenOptions::new().write(true).open(store.volume_path(shard)).unwrap().set_len(len).unwrap();
    }
}

#[track_caller]
fn expect_all(stage: &Stage, (len, count): (usize, usize)) {
    let mut viewer = stage.viewer();
    for target in targets(count) {
        let answer = viewer.get(&target);
        assert!(answer.body == filled(&format!("{target}v1 "), len), "{target}: {}", answer.head);
        assert_eq!(answer.result(), "hit", "{target}");
    }
}

/// What came on a connection of its own, if it came whole.
fn whole_answer(stage: &Stage, target: &str) -> Option<String> {
    let mut stream = TcpStream::connect(stage.address()).ok()?;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").ok()?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got).ok()?;
    let got = String::from_utf8(got).ok()?;
    let (head, body) = got.split_once("\r\n\r\n")?;
    let len = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())?;
    (body.len() == len).then(|| body.to_owned())
}

#[test]
fn what_is_in_the_page_cache_is_sent_from_there() {
    let store = Store::new();
    let Some(stage) = mapped_stage(&store, MANY, 1 << 30) else { return };
    warm(&store);
    for _ in 0..2 {
        expect_all(&stage, MANY);
    }
    let (taken, sent) = (stage.sum(Counter::DiskMappedTaken), stage.sum(Counter::DiskMappedSent));
    // What lies in the segments that are still written is copied.
    assert!(taken > MANY.1 as u64 / 2 && sent >= 2 * taken, "{taken} {sent}");
    assert_eq!(stage.sum(Counter::DiskHit), MANY.1 as u64);
    let is_mapped = |target: &String| stage.explain(target).stored.unwrap().mapped;
    let target = targets(MANY.1).find(is_mapped).unwrap();
    // Other answers than the whole.
    let whole = filled(&format!("{target}v1 "), MANY.0);
    let mut viewer = stage.viewer();
    let part = viewer.send("GET", &target, "Range: bytes=1000-1099\r\n");
    assert_eq!((part.status, part.body.as_str()), (206, &whole[1000..1100]));
    let parts = viewer.send("GET", &target, "Range: bytes=0-9,150000-199999\r\n");
    assert!(parts.status == 206 && parts.body.contains(&whole[150_000..]));
    // From the core that does not own it too.
    for mut viewer in stage.viewers() {
        assert!((0..2).all(|_| viewer.get(&target).body == whole));
    }
}

/// What is asked for again is read ahead, and found in the page cache when it is asked for next.
#[test]
fn what_is_used_again_is_read_ahead() {
    let store = Store::new();
    let Some(stage) = mapped_stage(&store, TOO_MANY, 1 << 30) else { return };
    let mut rounds = 0;
    while stage.sum(Counter::DiskMappedSent) < 20 {
        for target in targets(TOO_MANY.1) {
            // Not all of it was written at first.
            let body = stage.viewer().get(&target).body;
            let of = body.split_inclusive(' ').next().unwrap();
            assert!(of.starts_with(&format!("{target}v")) && body == filled(of, TOO_MANY.0), "{target}");
        }
        rounds += 1;
        assert!(rounds < 50, "it is never mapped");
    }
    assert!(rounds > 2 && stage.sum(Counter::DiskReadAheadBytes) > 0, "{rounds}");
}

/// No more is mapped than is allowed.
#[test]
fn mapped_responses_are_bounded() {
    let store = Store::new();
    let Some(stage) = mapped_stage(&store, MANY, 4 << 20) else { return };
    warm(&store);
    for _ in 0..3 {
        expect_all(&stage, MANY);
        let _viewers = stage.viewers();
        stage.wait(|| stage.sum(Counter::DiskMappedBytes) <= (4 << 20) + 4 * MANY.0 as u64);
    }
    assert!(stage.sum(Counter::DiskMappedTaken) > 20);
}

/// A byte that is not what was written is found before it is sent, in the page cache too.
#[test]
fn what_is_damaged_in_the_page_cache_is_not_mapped() {
    let store = Store::new();
    let Some(stage) = mapped_stage(&store, MANY, 1 << 30) else { return };
    store.damage(filled("/7v1 ", MANY.0).as_bytes());
    warm(&store);
    let answer = stage.viewer().get("/7");
    assert!(answer.body == filled("/7v2 ", MANY.0), "{}", answer.head);
    assert_eq!(stage.sum(Counter::DiskCheckFailures), 1);
}

/// What a rule takes while it is mapped is not served (I-22).
#[test]
fn what_is_purged_while_it_is_mapped_is_fetched() {
    let store = Store::new();
    let Some(stage) = mapped_stage(&store, MANY, 1 << 30) else { return };
    warm(&store);
    expect_all(&stage, MANY);
    stage.invalidate(vec![rule("/*")]);
    for target in targets(MANY.1) {
        let answer = stage.viewer().get(&target);
        assert!(answer.body == filled(&format!("{target}v2 "), MANY.0) && answer.result() == "miss");
    }
}

/// Files that are cut short while they are served from: nobody gets a wrong byte, nothing is signalled, and it is noticed.
#[test]
fn files_that_are_cut_short_are_noticed() {
    let store = Store::new();
    let Some(stage) = mapped_stage(&store, MANY, 1 << 30) else { return };
    warm(&store);
    expect_all(&stage, MANY);
    let mapped = stage.sum(Counter::DiskMappedTaken);
    cut(&store, 1 << 20);
    let mut whole = 0;
    for target in targets(MANY.1) {
        // A connection may be cut. What comes whole is right.
        let Some(body) = whole_answer(&stage, &target) else { continue };
        let of = |version| filled(&format!("{target}v{version} "), MANY.0);
        assert!(body == of(1) || body == of(2), "{target}");
        whole += 1;
    }
    assert!(whole > MANY.1 / 2, "{whole}");
    let failed = stage.sum(Counter::DiskMappedGone) + stage.sum(Counter::DiskMappedFault);
    assert!(failed > 0 && failed <= mapped, "{failed} of {mapped}");
    assert!(store.directory.is_off_line(), "{} errors", store.directory.errors());
    // What is off line is not looked at, and what its files had is not believed when they have their length again.
    cut(&store, store.geometry.file_len());
    expect_all_of(&stage, 2);
}

#[track_caller]
fn expect_all_of(stage: &Stage, newest: usize) {
    for target in targets(MANY.1) {
        let body = stage.viewer().get(&target).body;
        assert!(
            (1..=newest).any(|version| body == filled(&format!("{target}v{version} "), MANY.0)),
            "{target}"
        );
    }
}
