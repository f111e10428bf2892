//! The disk tier from outside: what was stored is served after an end, an orderly one or not, from a store that grows, shrinks, fails or is changed.

mod mapped;
mod parts;

use crate::support::{
    Aspis, Directory, HOST, KIB, Launch, Origin, Reply, Response, Viewer, eventually, pattern,
};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: usize = 1 << 20;

/// The body under a target, which ends with its length; first and last bytes are found in no other.
fn body(target: &str) -> Vec<u8> {
    let len: usize = target.rsplit('/').next().and_then(|len| len.parse().ok()).expect("a length");
    let mut body = format!("{target}|").into_bytes();
    let end = format!("|{target}#");
    body.extend_from_slice(&pattern(len as u64, len.saturating_sub(body.len() + end.len())));
    body.extend_from_slice(end.as_bytes());
    body
}

fn answer(reply: &mut Reply<'_>) {
    let target = reply.request.target().to_owned();
    reply.answer(200, &[("Cache-Control", "max-age=600"), ("ETag", "\"one\"")], &body(&target));
}

/// A store in a folder of its own, and servers that use it one after the other.
struct Rig {
    folder: Directory,
    size: &'static str,
    cores: &'static str,
}

impl Rig {
    fn new() -> Self {
        Rig { folder: Directory::new(), size: "256MiB", cores: "2" }
    }

    fn launch(&self, url: &str) -> Launch {
        let launch =
            Launch::before(url).with("--cores", self.cores).with("--disk", &self.folder.file("store"));
        launch.with("--disk-size", self.size)
    }

    fn start(&self, url: &str) -> Aspis {
        self.launch(url).start()
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn volume(&self, shard: u16) -> PathBuf {
        self.store().join(format!("shard-{shard:04}.aspis"))
    }

    fn volumes(&self) -> Vec<PathBuf> {
        (0..64).map(|shard| self.volume(shard)).filter(|path| path.exists()).collect()
    }

    /// Where this text is in a volume.
    fn find(&self, text: &str) -> Option<(PathBuf, u64)> {
        self.volumes().into_iter().find_map(|path| {
            let at = Written::of(&path).position(text)?;
            Some((path, at))
        })
    }

    /// Waits until first and last byte of what is under these targets were written; what is only in a buffer may be lost by a crash.
    #[track_caller]
    fn wait_until_written(&self, targets: &[String]) {
        let mut waited: Vec<String> =
            targets.iter().flat_map(|target| [format!("{target}|"), format!("|{target}#")]).collect();
        eventually("all of it is written to the store", || {
            let volumes: Vec<Written> = self.volumes().iter().map(|path| Written::of(path)).collect();
            waited.retain(|part| volumes.iter().all(|volume| volume.position(part).is_none()));
            waited.is_empty().then_some(())
        });
    }
}

/// What was written into a volume since it was made: the blocks that are not zero, as text.
struct Written {
    text: String,
    blocks: Vec<u64>,
}

const BLOCK: usize = 4096;

impl Written {
    fn of(path: &Path) -> Self {
        let mut file = File::open(path).expect("a volume");
        let mut written = Written { text: String::new(), blocks: Vec::new() };
        let (mut piece, mut at) = (vec![0; 4 * MIB], 0);
        loop {
            let len = file.read(&mut piece).expect("a volume");
            if len == 0 {
                return written;
            }
            for block in piece[..len].chunks(BLOCK) {
                if block != &[0; BLOCK][..block.len()] {
                    let letter = |byte: &u8| if byte.is_ascii() { char::from(*byte) } else { '?' };
                    written.text.extend(block.iter().map(letter));
                    written.blocks.push(at);
                }
                at += block.len() as u64;
            }
        }
    }

    fn position(&self, text: &str) -> Option<u64> {
        let at = self.text.find(text)?;
        Some(self.blocks[at / BLOCK] + (at % BLOCK) as u64)
    }
}

fn targets(name: &str, count: usize, len: usize) -> Vec<String> {
    (0..count).map(|at| format!("/{name}/{at}/{len}")).collect()
}

#[track_caller]
fn fill(aspis: &Aspis, targets: &[String]) {
    let mut viewer = Viewer::connect(aspis);
    for target in targets {
        until_appended(aspis, || {
            viewer.get(target).expect_cached("Miss", &body(target));
        });
    }
}

/// Does what makes something to be written, and waits until all of it is appended to its volume: what finds the line full would not be written.
#[track_caller]
fn until_appended(aspis: &Aspis, offer: impl FnOnce()) {
    let before = aspis.metric("aspis_disk_records_written_total");
    offer();
    eventually("some of it is appended", || {
        (aspis.metric("aspis_disk_records_written_total") > before).then_some(())
    });
    aspis.wait_for_metric("aspis_disk_queue_bytes", 0);
}

/// Waits until the index is complete: before, what is on disk may still be a miss.
#[track_caller]
fn wait_until_recovered(aspis: &Aspis) {
    aspis.wait_for_metric("aspis_disk_volumes_recovering", 0);
}

#[track_caller]
fn expect_hits(aspis: &Aspis, targets: &[String]) {
    let mut viewer = Viewer::connect(aspis);
    for target in targets {
        let hit = viewer.get(target).expect_cached("Hit", &body(target));
        assert!(hit.field("age").is_some() && hit.field("etag") == Some("\"one\""), "{hit:?}");
    }
}

#[track_caller]
fn end(mut aspis: Aspis) {
    aspis.signal("TERM");
    assert_eq!(aspis.wait_for_exit().code(), Some(0));
}

/// Stores what the tests of restarts ask for afterwards; returns the URL of an origin that is down by then.
fn stored_then_ended(rig: &Rig, targets: &[String], end: impl FnOnce(Aspis)) -> String {
    let origin = Origin::start(answer);
    let url = origin.url();
    let aspis = rig.start(&url);
    fill(&aspis, targets);
    rig.wait_until_written(targets);
    end(aspis);
    drop(origin);
    url
}

fn small_and_large() -> Vec<String> {
    let mut all = targets("tiny", 20, 100);
    all.extend(targets("page", 10, 40 * KIB));
    all.extend(targets("image", 3, 900 * KIB));
    all.extend(targets("video", 2, 5 * MIB));
    all
}

#[test]
fn what_was_stored_is_served_after_a_restart_without_the_origin() {
    let rig = Rig::new();
    let targets = small_and_large();
    let url = stored_then_ended(&rig, &targets, end);
    let aspis = rig.start(&url);
    wait_until_recovered(&aspis);
    // A part of a large object first: nothing of it is in memory.
    let video = &targets[targets.len() - 1];
    let part = Viewer::connect(&aspis).get_with(video, "Range: bytes=3000000-3099999\r\n");
    assert_eq!((part.status(), part.x_cache()), (206, "Hit"), "{part:?}");
    assert!(part.body == body(video)[3_000_000..3_100_000], "another part than expected");
    expect_hits(&aspis, &targets);
    assert_eq!(aspis.metric("aspis_disk_check_failures_total"), 0);
    // What came from disk is in memory now.
    let reads = aspis.metric("aspis_disk_reads_total");
    expect_hits(&aspis, &targets[..20]);
    assert_eq!(aspis.metric("aspis_disk_reads_total"), reads);
}

/// The write budget keeps most of it in memory only, until SIGTERM: then everything is written, and the next start needs no origin.
#[test]
fn what_only_memory_has_is_written_at_sigterm() {
    let rig = Rig::new();
    let mut targets = small_and_large();
    targets.extend(targets_of_much());
    let origin = Origin::start(answer);
    let url = origin.url();
    let launch = || rig.launch(&url).with("--memory", "256MiB").with("--disk-write-budget", "64KiB");
    let mut aspis = launch().start();
    let mut viewer = Viewer::connect(&aspis);
    for target in &targets {
        viewer.get(target).expect_cached("Miss", &body(target));
    }
    assert!(aspis.metric("aspis_disk_not_written_total{cause=\"budget\"}") >= 10);
    drop((viewer, origin));
    aspis.signal("TERM");
    aspis.wait_for_error("only memory had were written to disk");
    assert_eq!(aspis.wait_for_exit().code(), Some(0));
    let aspis = launch().start();
    wait_until_recovered(&aspis);
    expect_hits(&aspis, &targets);
}

/// More than a store with a small write budget takes at once.
fn targets_of_much() -> Vec<String> {
    targets("much", 60, 900 * KIB)
}

#[test]
fn what_was_written_is_served_after_kill_9() {
    let rig = Rig::new();
    let targets: Vec<String> =
        small_and_large().into_iter().filter(|target| !target.contains("video")).collect();
    // Dropping it is kill -9.
    let url = stored_then_ended(&rig, &targets, drop);
    for _ in 0..2 {
        let aspis = rig.start(&url);
        wait_until_recovered(&aspis);
        expect_hits(&aspis, &targets);
    }
}

#[test]
fn variants_come_back_each_for_its_own_request() {
    let rig = Rig::new();
    let origin = Origin::start(|reply| {
        let language = reply.request.field("accept-language").unwrap_or("none").to_owned();
        let fields = [("Cache-Control", "max-age=600"), ("Vary", "Accept-Language")];
        reply.answer(200, &fields, format!("page in {language}").as_bytes());
    });
    let url = origin.url();
    let ask = |aspis: &Aspis, language: &str| {
        Viewer::connect(aspis).get_with("/page", &format!("Accept-Language: {language}\r\n"))
    };
    let aspis = rig.start(&url);
    for language in ["de", "en"] {
        ask(&aspis, language).expect_cached("Miss", format!("page in {language}").as_bytes());
    }
    // Both, and by what the page varies. What a start has not looked at yet takes nothing, be it the last it does.
    eventually("all of it is appended to its volume", || {
        (aspis.metric("aspis_disk_records_written_total") >= 2).then_some(())
    });
    end(aspis);
    drop(origin);
    let aspis = rig.start(&url);
    wait_until_recovered(&aspis);
    for language in ["en", "de"] {
        ask(&aspis, language).expect_cached("Hit", format!("page in {language}").as_bytes());
    }
    assert_eq!(ask(&aspis, "fr").status(), 502, "nobody asked for it before");
}

#[test]
fn another_number_of_cores_finds_the_same() {
    let rig = Rig::new();
    let targets = targets("page", 30, 10 * KIB);
    let url = stored_then_ended(&rig, &targets, end);
    for cores in ["1", "2", "1"] {
        let aspis = rig.launch(&url).with("--cores", cores).start();
        wait_until_recovered(&aspis);
        expect_hits(&aspis, &targets);
        end(aspis);
    }
}

#[test]
fn a_store_of_fewer_volumes_than_cores_is_served_from_with_a_warning() {
    let rig = Rig { cores: "1", size: "128MiB", ..Rig::new() };
    let targets = targets("page", 10, 10 * KIB);
    let url = stored_then_ended(&rig, &targets, end);
    let aspis = rig.launch(&url).with("--cores", "2").start();
    aspis.wait_for_error("has 1 volume(s) for 2 cores");
    wait_until_recovered(&aspis);
    expect_hits(&aspis, &targets);
}

#[test]
fn a_store_that_grows_or_shrinks_keeps_its_content() {
    let mut rig = Rig::new();
    let targets = targets("page", 30, 10 * KIB);
    let url = stored_then_ended(&rig, &targets, end);
    for (size, segments) in [("600MiB", 300), ("64MiB", 32), ("256MiB", 128)] {
        rig.size = size;
        let aspis = rig.start(&url);
        wait_until_recovered(&aspis);
        expect_hits(&aspis, &targets);
        let stat = aspis.ask_admin_json("GET", "/v1/store", "").1;
        assert_eq!(stat["size_bytes"], segments * 2 * MIB, "{stat}");
        end(aspis);
    }
}

/// The newest of what did not fit into the smaller store is what stays.
#[test]
fn a_store_that_shrinks_keeps_what_was_stored_last() {
    let mut rig = Rig { size: "256MiB", cores: "1", ..Rig::new() };
    let origin = Origin::start(answer);
    let (old, new) = (targets("old", 60, 900 * KIB), targets("new", 8, 900 * KIB));
    let aspis = rig.start(&origin.url());
    fill(&aspis, &old);
    fill(&aspis, &new);
    end(aspis);
    let url = origin.url();
    drop(origin);
    rig.size = "64MiB";
    let aspis = rig.start(&url);
    wait_until_recovered(&aspis);
    expect_hits(&aspis, &new);
    let gone = old.iter().filter(|target| Viewer::connect(&aspis).get(target).status() == 502).count();
    assert!(gone > 0 && gone < old.len(), "{gone} of {} are gone", old.len());
}

/// What a rule concerns that was accepted before a crash is fetched anew after it (I-25, I-26), whether it was in memory when the rule came or only
/// on disk.
#[test]
fn an_invalidation_holds_after_kill_9() {
    let rig = Rig::new();
    let targets = targets("page", 3, 10 * KIB);
    let invalidate = |aspis: &Aspis, target: &str| aspis.invalidate(&format!(r#"{{"paths":["{target}"]}}"#));
    // Dropping it is kill -9.
    let url = stored_then_ended(&rig, &targets, |aspis| drop(invalidate(&aspis, &targets[0])));
    drop(invalidate(&rig.start(&url), &targets[1]));
    for _ in 0..2 {
        let aspis = rig.start(&url);
        wait_until_recovered(&aspis);
        for target in &targets[..2] {
            assert_eq!(Viewer::connect(&aspis).get(target).status(), 502, "the origin is down");
        }
        expect_hits(&aspis, &targets[2..]);
    }
}

/// RFC 9111 §4.4: what a successful unsafe request removed does not come back with a crash.
#[test]
fn what_an_unsafe_request_removed_stays_away_after_kill_9() {
    let rig = Rig::new();
    let targets = targets("page", 2, 10 * KIB);
    let origin = Origin::start(answer);
    let url = origin.url();
    let aspis = rig.start(&url);
    fill(&aspis, &targets);
    rig.wait_until_written(&targets);
    let mut viewer = Viewer::connect(&aspis);
    viewer.send(format!("POST {} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n", targets[0]));
    assert_eq!(viewer.response().status(), 200);
    // The answer came when the disk knew. Dropping it is kill -9.
    drop(aspis);
    drop(origin);
    let aspis = rig.start(&url);
    wait_until_recovered(&aspis);
    assert_eq!(Viewer::connect(&aspis).get(&targets[0]).status(), 502);
    expect_hits(&aspis, &targets[1..]);
}

/// Without its log nobody knows what was invalidated: too much is, never too little.
#[test]
fn a_store_whose_log_was_deleted_counts_as_invalidated() {
    let rig = Rig::new();
    let targets = targets("page", 5, 10 * KIB);
    let url = stored_then_ended(&rig, &targets, end);
    std::fs::remove_file(rig.store().join("rules.log")).expect("the log is in the first folder");
    let origin = Origin::start(answer);
    let aspis = rig.start(&origin.url());
    aspis.wait_for_error("rules.log is missing");
    wait_until_recovered(&aspis);
    // Everything is asked for again, with the validator that is still there or without.
    let mut viewer = Viewer::connect(&aspis);
    for target in &targets {
        let answer = viewer.get(target);
        assert_ne!(answer.x_cache(), "Hit", "{answer:?}");
        answer.expect(200, &body(target));
        assert_eq!(origin.count(target), 1);
    }
    end(aspis);
    drop(origin);
    // What was stored since is newer than the loss.
    let aspis = rig.start(&url);
    wait_until_recovered(&aspis);
    expect_hits(&aspis, &targets);
    assert!(!aspis.errors().iter().any(|line| line.contains("missing")), "said once");
}

/// Bytes that a disk changed are not served: the origin is asked instead.
#[test]
fn changed_bytes_are_found_and_never_served() {
    let rig = Rig::new();
    let targets = targets("page", 4, 10 * KIB);
    drop(stored_then_ended(&rig, &targets, end));
    let (path, at) = rig.find(&format!("|{}#", targets[2])).expect("it was written");
    let volume = File::options().read(true).write(true).open(path).expect("a volume");
    volume.write_all_at(b"X", at - 100).expect("our own file");
    volume.sync_all().expect("our own file");
    let store = rig.folder.file("store");
    let output = crate::support::run(&["store", "check", &store]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("the body of a record does not verify") && text.contains("1 record(s) are lost"),
        "{text}"
    );
    let origin = Origin::start(answer);
    let aspis = rig.start(&origin.url());
    wait_until_recovered(&aspis);
    let mut viewer = Viewer::connect(&aspis);
    for (at, target) in targets.iter().enumerate() {
        viewer.get(target).expect_cached(if at == 2 { "Miss" } else { "Hit" }, &body(target));
    }
    assert_eq!((origin.total(), aspis.metric("aspis_disk_check_failures_total")), (1, 1));
}

#[track_caller]
fn warnings(aspis: &Aspis) -> String {
    let ready: Response = aspis.ask_admin("/readyz");
    assert_eq!(ready.status(), 200, "viewers may come: {ready:?}");
    String::from_utf8_lossy(&ready.body).into_owned()
}

#[test]
fn a_folder_that_is_removed_is_said_and_served_from() {
    let rig = Rig::new();
    let targets = targets("page", 5, 10 * KIB);
    let url = stored_then_ended(&rig, &targets, end);
    let aspis = rig.start(&url);
    wait_until_recovered(&aspis);
    std::fs::rename(rig.store(), rig.folder.path().join("aside")).expect("our own folder");
    aspis.wait_for_error("was removed or replaced");
    assert!(warnings(&aspis).contains("was removed or replaced"));
    expect_hits(&aspis, &targets);
    let stat = aspis.ask_admin_json("GET", "/v1/store", "").1;
    assert!(stat["folders"][0]["warning"].as_str().is_some_and(|text| text.contains("removed")), "{stat}");
    std::fs::rename(rig.folder.path().join("aside"), rig.store()).expect("our own folder");
    aspis.wait_for_error("under their names again");
    assert!(!warnings(&aspis).contains("warnings"));
}

/// Nobody has to read what is not there any more before it is known.
#[test]
fn a_volume_that_is_cut_short_is_off_line_until_it_has_its_length_again() {
    let rig = Rig::new();
    let targets = targets("page", 5, 10 * KIB);
    let url = stored_then_ended(&rig, &targets, end);
    let aspis = rig.start(&url);
    wait_until_recovered(&aspis);
    let _viewer = Viewer::connect(&aspis);
    let volumes = rig.volumes();
    let volume = File::options().write(true).open(&volumes[1]).expect("a volume");
    let len = volume.metadata().expect("its length").len();
    volume.set_len(len - 1).expect("our own file");
    eventually("the folder is off line", || warnings(&aspis).contains("is off line").then_some(()));
    aspis.wait_for_error("is off line after");
    assert_eq!(aspis.metric("aspis_disk_errors_total{operation=\"read\"}"), 0);
    volume.set_len(len).expect("our own file");
    aspis.wait_for_error("works again");
    eventually("nothing warns any more", || (!warnings(&aspis).contains("warnings")).then_some(()));
    expect_hits(&aspis, &targets);
}

/// Root writes wherever it likes, so that a limit on the length of files stands for a disk that takes nothing more.
#[test]
fn a_disk_that_takes_no_writes_goes_off_line_and_comes_back_by_itself() {
    let rig = Rig::new();
    let origin = Origin::start(answer);
    let command = rig.launch(&origin.url()).command();
    let mut without_signal = Command::new("sh");
    without_signal
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args());
    let aspis = Aspis::start(without_signal);
    wait_until_recovered(&aspis);
    let limit = |bytes: &str| {
        let status = Command::new("prlimit")
            .args(["--pid", &aspis.id().to_string(), &format!("--fsize={bytes}:")])
            .status();
        assert!(status.expect("prlimit is there").success());
    };
    limit("64");
    let mut viewer = Viewer::connect(&aspis);
    let mut asked = 0;
    eventually("the folder goes off line", || {
        let target = format!("/lost/{asked}/20000");
        asked += 1;
        viewer.get(&target).expect_cached("Miss", &body(&target));
        viewer.get(&target).expect_cached("Hit", &body(&target));
        warnings(&aspis).contains("is off line").then_some(())
    });
    let stat = aspis.ask_admin_json("GET", "/v1/store", "").1;
    assert_eq!(stat["folders"][0]["status"], "off-line", "{stat}");
    aspis.wait_for_error("is off line");
    limit("unlimited");
    aspis.wait_for_error("works again");
    eventually("nothing warns any more", || (!warnings(&aspis).contains("warnings")).then_some(()));
    let kept = targets("kept", 3, 20_000);
    fill(&aspis, &kept);
    rig.wait_until_written(&kept);
}
