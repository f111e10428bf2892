//! A hot hit makes no system call of its own: the turn's one call sends all of its answers and waits for the next requests.
//!
//! Twice: by the ring's own count of its calls, and by what `strace` sees of the core's thread, which would also show a clock that became a
//! system call, a lock that was waited for, or memory that was asked of the kernel.

mod counting;
mod served;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aspis_shard::Shards;
use aspis_telemetry::{Counter, Snapshot};
use served::{PATIENCE, Viewer, origin, start, warm};

const REQUEST: &str = "GET /hit HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: x\r\n\r\n";
/// Requests that arrive together.
const BATCH_LEN: usize = 16;
const BATCH_COUNT: usize = 200;
/// Calls of the ring that a batch may take: one, and once more where its bytes come in two pieces or a timer is due.
const ENTERS_PER_BATCH: u64 = 3;

/// Waits until the shard has shown how often it called the kernel, and returns it. It shows its levels twice a second.
#[expect(
    clippy::disallowed_methods,
    reason = "the test's own thread waits for the shard's next look at its levels"
)]
fn enters(shards: &Shards) -> u64 {
    let read =
        || Snapshot::of(shards.counters().iter().map(|counters| &**counters)).value(Counter::CoreEnters);
    let before = read();
    let deadline = Instant::now() + PATIENCE;
    while read() == before {
        assert!(Instant::now() < deadline, "the levels are shown while a connection is open");
        std::thread::sleep(Duration::from_millis(5));
    }
    read()
}

fn play(viewer: &mut Viewer) {
    let requests = REQUEST.repeat(BATCH_LEN);
    for _ in 0..BATCH_COUNT {
        assert!(viewer.ask(requests.as_bytes(), BATCH_LEN), "what is fresh stays a hit");
    }
}

/// The thread that runs the core: of those with its name it is the one that sleeps in a ring, or runs.
fn core_thread() -> String {
    let tasks = fs::read_dir("/proc/self/task").expect("this process has threads").flatten();
    let named = tasks.filter(|task| {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        name.starts_with("aspis-core")
    });
    // The executor's helper thread bears the same name and was started by the core's thread, so it is the later one.
    let ids = named.filter_map(|task| task.file_name().to_str()?.parse::<u32>().ok());
    ids.min().expect("a shard runs").to_string()
}

/// Counts the system calls of one thread while `work` runs; nothing where tracing is not to be had.
fn traced(thread: &str, work: impl FnOnce()) -> Option<BTreeMap<String, u64>> {
    let file = std::env::temp_dir().join(format!("aspis-system-calls-{}", std::process::id()));
    let mut strace = match Command::new("strace")
        .args(["-q", "-o"])
        .arg(&file)
        .args(["-p", thread])
        .stderr(Stdio::piped())
        .spawn()
    {
        Ok(strace) => strace,
        Err(error) => {
            eprintln!("skipped: strace: {error}");
            return None;
        }
    };
    // It is attached once a call of the thread stands in its file: the one in which the core sleeps.
    let deadline = Instant::now() + PATIENCE;
    loop {
        if fs::read_to_string(&file).is_ok_and(|text| !text.is_empty()) {
            break;
        }
        if strace.try_wait().expect("a child can be asked").is_some() || Instant::now() > deadline {
            let mut said = String::new();
            if let Some(errors) = strace.stderr.take() {
                let _ = BufReader::new(errors).read_line(&mut said);
            }
            let _ = strace.kill();
            eprintln!("skipped: tracing is refused here: {said}");
            return None;
        }
        std::thread::yield_now();
    }
    work();
    // Asked to end it lets go of the thread; killed it would take the thread along.
    Command::new("kill").args(["-TERM", &strace.id().to_string()]).status().expect("kill is everywhere");
    strace.wait().expect("it was started here");
    let text = fs::read_to_string(&file).expect("strace wrote it");
    let _ = fs::remove_file(&file);
    let mut calls = BTreeMap::new();
    for line in text.lines() {
        // What was interrupted by the tracer's coming is shown as resumed.
        let name = line.trim_start_matches("<... ").split(['(', ' ']).next().unwrap_or_default();
        if name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') && !name.is_empty() {
            *calls.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    Some(calls)
}

#[test]
fn a_hit_makes_no_system_call_of_its_own() {
    let (shards, address) = start(origin(), 1);
    let mut viewer = warm(address, REQUEST);
    play(&mut viewer);

    let before = enters(&shards);
    play(&mut viewer);
    let count = enters(&shards) - before;
    assert!(count >= 1, "the ring counts its calls");
    assert!(
        count <= BATCH_COUNT as u64 * ENTERS_PER_BATCH,
        "{count} calls for {BATCH_COUNT} batches of {BATCH_LEN}"
    );

    if let Some(mut calls) = traced(&core_thread(), || play(&mut viewer)) {
        let enters = calls.remove("io_uring_enter").unwrap_or_default();
        assert!(enters >= 1, "the core's thread is the one that was traced: {calls:?}");
        assert!(enters <= BATCH_COUNT as u64 * ENTERS_PER_BATCH, "{enters} calls for {BATCH_COUNT} batches");
        // What else a core does now and then, such as giving memory back, is far rarer than hits.
        let others: u64 = calls.values().sum();
        assert!(others <= BATCH_COUNT as u64 / 20, "beside the ring: {calls:?}");
    }
    drop(viewer);
    shards.stop();
}
