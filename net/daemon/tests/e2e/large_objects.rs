//! Objects that are larger than memory takes: stored on disk while they come, shared by all who read them, whole or in part.

use crate::support::{Aspis, Directory, KIB, Launch, Origin, PATIENCE, Reply, Viewer, eventually, pattern};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const MIB: usize = 1 << 20;

/// More than all of the memory.
const LEN: usize = 96 * MIB;

const VIDEO: &str = "/video";

/// Counts those who got their first byte, for who waits for all of them.
#[derive(Clone, Default)]
struct Begun(Arc<(Mutex<usize>, Condvar)>);

impl Begun {
    fn count(&self) {
        *self.0.0.lock().expect("nobody panics with it") += 1;
        self.0.1.notify_all();
    }

    /// Whether so many got it in time.
    fn wait(&self, count: usize) -> bool {
        let begun = self.0.0.lock().expect("nobody panics with it");
        let waited = self.0.1.wait_timeout_while(begun, PATIENCE, |begun| *begun < count);
        !waited.expect("nobody panics with it").1.timed_out()
    }
}

/// Sends the first chunk, and the rest when all readers have their first byte, at some 100 MiB a second.
fn send_video(reply: &mut Reply<'_>, begun: &Begun, readers: usize) {
    let length = LEN.to_string();
    reply.head(200, &[("Cache-Control", "max-age=600"), ("ETag", "\"one\""), ("Content-Length", &length)]);
    let first = 64 * KIB;
    reply.send(&pattern(0, first));
    assert!(begun.wait(readers), "readers wait for more than the origin's first chunk");
    let mut at = first;
    while at < LEN && !reply.is_closing() {
        let len = MIB.min(LEN - at);
        reply.send(&pattern(at as u64, len));
        at += len;
        // A disk that is slower than the origin would not get it.
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Reads what a request for these bytes gets, and compares each of them; `begun` is told of the first.
fn read(aspis: &Aspis, range: Option<(usize, usize)>, begun: &Begun) -> String {
    let mut viewer = Viewer::connect(aspis);
    let fields = range.map_or_else(String::new, |(from, to)| format!("Range: bytes={from}-{}\r\n", to - 1));
    viewer.ask("GET", VIDEO, &fields);
    let head = viewer.head();
    let (from, to) = range.unwrap_or((0, LEN));
    assert_eq!(head.status(), if range.is_some() { 206 } else { 200 }, "{head:?}");
    let mut at = from;
    let whole = viewer.body_into("GET", &head, &mut |piece| {
        if at == from && !piece.is_empty() {
            begun.count();
        }
        assert!(pattern(at as u64, piece.len()) == piece, "other bytes than expected at {at}");
        at += piece.len();
    });
    assert!(whole.is_ok() && at == to, "{whole:?} after {} of {} bytes: {head:?}", at - from, to - from);
    head.field("x-cache").unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
}

/// 50 who read the first MiB and 5 who read all of it, at the same time; `wait` runs once the first of them has asked. Returns their results.
fn read_all(aspis: &Aspis, begun: &Begun, wait: impl FnOnce()) -> Vec<String> {
    std::thread::scope(|scope| {
        let mut reading = vec![scope.spawn(|| read(aspis, None, begun))];
        wait();
        reading.extend((0..4).map(|_| scope.spawn(|| read(aspis, None, begun))));
        reading.extend((0..50).map(|_| scope.spawn(|| read(aspis, Some((0, MIB)), begun))));
        reading.into_iter().map(|each| each.join().expect("it reads what it should")).collect()
    })
}

/// Reads all of it until it is stored; a disk that falls behind the origin for a moment, on a busy machine, makes it pass by. Returns how often it was
/// fetched.
fn read_until_stored(aspis: &Aspis) -> usize {
    for asked in 1..=5 {
        let given_up = aspis.metric("aspis_disk_not_written_total");
        assert_eq!(read(aspis, None, &Begun::default()), "Miss");
        let is_stored = eventually("it is stored or given up", || {
            let is_stored = aspis.metric("aspis_cache_stored_total") > 0;
            let is_over = is_stored || aspis.metric("aspis_disk_not_written_total") > given_up;
            is_over.then_some(is_stored)
        });
        if is_stored {
            return asked;
        }
    }
    panic!("the disk did not take it in five attempts");
}

/// what does not say its length is stored as well, and has one afterwards.
#[test]
fn what_turns_out_to_be_larger_than_memory_is_stored_on_disk() {
    let folder = Directory::new();
    let origin = Origin::start(|reply| {
        let fields =
            [("Cache-Control", "max-age=600"), ("ETag", "\"one\""), ("Transfer-Encoding", "chunked")];
        reply.head(200, &fields);
        for at in (0..LEN).step_by(MIB) {
            reply.chunk(&pattern(at as u64, MIB));
            std::thread::park_timeout(Duration::from_millis(5));
        }
        reply.chunk(b"");
    });
    let launch = Launch::before(&origin.url()).with("--disk", &folder.file("store"));
    let aspis = launch.with("--disk-size", "256MiB").start();
    let asked = read_until_stored(&aspis);
    for range in [None, Some((LEN - 100, LEN)), Some((0, 100))] {
        assert_eq!(read(&aspis, range, &Begun::default()), "Hit");
    }
    let length = Viewer::connect(&aspis).get_with(VIDEO, "Range: bytes=0-0\r\n");
    assert_eq!(length.field("content-range"), Some(&*format!("bytes 0-0/{LEN}")));
    assert_eq!(origin.total(), asked);
}

/// one origin request for all who read it while it comes, each from the first chunk on; and none for those who read it
/// afterwards, a restart in between.
#[test]
fn what_is_larger_than_memory_is_fetched_once_and_served_from_disk() {
    let folder = Directory::new();
    let begun = Begun::default();
    let origin = Origin::start({
        let begun = begun.clone();
        move |reply| send_video(reply, &begun, 55)
    });
    let launch = || {
        let launch = Launch::before(&origin.url()).with("--cores", "2").with("--memory", "64MiB");
        launch.with("--disk", &folder.file("store")).with("--disk-size", "512MiB")
    };
    let mut aspis = launch().start();
    let results = read_all(&aspis, &begun, || origin.wait_for(VIDEO, 1));
    assert_eq!(results.iter().filter(|result| *result == "Miss").count(), 1, "{results:?}");
    eventually("it is stored", || (aspis.metric("aspis_cache_stored_total") > 0).then_some(()));
    let results = read_all(&aspis, &begun, || ());
    assert!(results.iter().all(|result| result == "Hit"), "{results:?}");
    aspis.signal("TERM");
    assert_eq!(aspis.wait_for_exit().code(), Some(0));
    let aspis = launch().start();
    aspis.wait_for_metric("aspis_disk_volumes_recovering", 0);
    let results = read_all(&aspis, &begun, || ());
    assert!(results.iter().all(|result| result == "Hit"), "{results:?}");
    // Of a range no more than what it touches is read.
    let before = aspis.metric("aspis_disk_read_bytes_total");
    assert_eq!(read(&aspis, Some((LEN - MIB - 100, LEN - MIB)), &begun), "Hit");
    let len = aspis.metric("aspis_disk_read_bytes_total") - before;
    assert!(len <= 3 * 64 * KIB as u64, "{len}");
    assert_eq!(origin.total(), 1);
}
