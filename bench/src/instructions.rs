//! How many instructions a hot hit takes in user mode, held against stored numbers that may only fall.
//!
//! The real binary serves under callgrind, ring, driver and all, one run per workload. Callgrind writes down what it has counted whenever the
//! server enters a function that reads targets in absolute form, so a request with such a target before the hits and one after them keep out
//! what comes before and after. Counts of instructions hardly depend on the machine and not on its neighbours, so that two percent show. They
//! say nothing of caches and of the kernel: that is `compare`'s.
//!
//! Some workloads are played once more while ten thousand invalidations that concern nothing are pending, because a fetch from before them
//! does not end: after the first look at a response they may cost its hits next to nothing.
//!
//! Valgrind lets one thread run at a time and does not let go of that right while the core sleeps in its ring. So whatever needs another
//! thread, which is the start of the server and its admin address, is helped along by connections that wake the core.

use crate::admin::Admin;
use crate::aspis::{Aspis, sum};
use crate::http::{Fault, Flow, Reader};
use crate::origin::Origin;
use crate::plan::{Kind, Plan};
use crate::process::{Scratch, Server, find_aspis, find_program, free_port};
use crate::wait;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Hits of each workload that every run begins with.
const WARM_COUNT: usize = 64;
/// Hits that are counted.
const HIT_COUNT: usize = 8192;
/// A count may be above the stored one by this share, of which turns by the clock take half on a slow machine, and should be stored anew when it is
/// below by as much.
const TOLERANCE: f64 = 0.02;
/// Invalidations that are pending in some workloads: as many batches, and in each as many paths.
const PENDING: (usize, usize) = (4, 2500);
/// Most that they may add to a hit.
const PENDING_TOLERANCE: f64 = 0.05;
/// So often a server is started for one count. One may hang under valgrind, and what it does by the clock comes on top of the hits, more of it on
/// a busy machine.
const ATTEMPTS: usize = 3;
/// The function before which callgrind writes down its counts, in its pattern.
const MARK: &str = "--dump-before=aspis_wire::request::target::absolute*";
/// How often a sleeping core is woken so that other threads run.
const PULSE: Duration = Duration::from_millis(100);

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) aspis: Option<String>,
    /// The file of the stored numbers.
    pub(crate) stored: PathBuf,
    /// Stores what was counted where it is lower.
    pub(crate) lower: bool,
    /// Keeps callgrind's files there.
    pub(crate) profiles: Option<PathBuf>,
}

/// Requests of one kind, so many in one piece.
struct Workload {
    name: &'static str,
    size: u64,
    /// Scheme and host, for a target in absolute form.
    before_path: &'static str,
    fields: &'static str,
    /// Each request has a field that no other has, as those have that proxies number.
    numbered: bool,
    pipelined: usize,
    /// Each hit has its line in the access log.
    logged: bool,
    /// The workload whose hits these are, but for the invalidations that are pending.
    pending_over: Option<&'static str>,
}

/// As long as what a browser sends.
const BROWSER: &str = "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36\r\n\
    Accept: image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\nReferer: http://bench/index.html\r\nConnection: keep-alive\r\nSec-Fetch-Dest: image\r\n\
    Sec-Fetch-Mode: no-cors\r\nSec-Fetch-Site: same-origin\r\nCookie: session=0123456789abcdef; theme=dark\r\n";

const WORKLOADS: [Workload; 8] = [
    Workload { name: "one-in-a-turn", ..PLAIN },
    Workload { name: "sixteen-in-a-turn", pipelined: 16, ..PLAIN },
    Workload { name: "from-a-browser", fields: BROWSER, ..PLAIN },
    Workload { name: "from-a-browser-numbered", fields: BROWSER, numbered: true, ..PLAIN },
    Workload { name: "from-a-browser-logged", fields: BROWSER, logged: true, ..PLAIN },
    Workload { name: "of-64-KiB", size: 64 * 1024, ..PLAIN },
    Workload { name: "rules-pending", pending_over: Some("one-in-a-turn"), ..PLAIN },
    Workload {
        name: "rules-pending-sixteen-in-a-turn",
        pipelined: 16,
        pending_over: Some("sixteen-in-a-turn"),
        ..PLAIN
    },
];

const PLAIN: Workload = Workload {
    name: "",
    size: 1024,
    before_path: "",
    fields: "",
    numbered: false,
    pipelined: 1,
    logged: false,
    pending_over: None,
};

/// Counts all workloads; false when one takes more than its stored number allows.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let valgrind = find_program("valgrind")
        .ok_or_else(|| io::Error::other("valgrind is not installed; it counts the instructions"))?;
    let aspis = find_aspis(options.aspis.as_deref())?;
    let scratch = Scratch::new()?;
    let folder = options.profiles.as_deref().unwrap_or(scratch.path());
    fs::create_dir_all(folder)?;
    let origin = Origin::start()?;
    let mut stored = read(&options.stored)?;
    let (mut held, mut counts) = (true, BTreeMap::new());
    println!("| hit | instructions | stored | change |\n|---|---|---|---|");
    for workload in &WORKLOADS {
        let file = folder.join(format!("{}.callgrind", workload.name));
        let before = stored.get(workload.name).copied();
        let most = before.map_or(f64::INFINITY, |before| before * (1.0 + TOLERANCE));
        let each = least(most, || count(&valgrind, &aspis, origin.address(), &file, workload))?;
        counts.insert(workload.name, each);
        let change = before.map_or(0.0, |before| each / before - 1.0);
        let shown = before.map_or("none".to_owned(), |before| format!("{before:.0}"));
        println!("| {} | {each:.0} | {shown} | {:+.2} % |", workload.name, change * 100.0);
        held &= before.is_some() && each <= most;
        if before.is_none_or(|before| each < before) {
            stored.insert(workload.name.to_owned(), each);
        }
    }
    println!();
    for workload in &WORKLOADS {
        let Some(plain) = workload.pending_over else { continue };
        let added = counts[workload.name] / counts[plain] - 1.0;
        let most = PENDING_TOLERANCE * 100.0;
        held &= added <= PENDING_TOLERANCE;
        println!(
            "{} rules pending add {:+.2} % to {plain} (at most {most} %).",
            PENDING.0 * PENDING.1,
            added * 100.0
        );
    }
    let file = options.stored.display();
    if options.lower {
        write(&options.stored, &stored)?;
        println!("\nWhat is lower is stored in {file}.");
    } else {
        println!("\nA change may add {} % to a number of {file}.", TOLERANCE * 100.0);
        println!(
            "Store lower ones: `aspis-bench instructions --lower`, with the release binary of the plain profile."
        );
        println!(
            "A higher one is written there by hand, and the change that does it says what the instructions buy."
        );
    }
    Ok(held)
}

/// Returns the first of what `once` returns that is at most `most`, or else the least of all attempts.
fn least(most: f64, mut once: impl FnMut() -> io::Result<f64>) -> io::Result<f64> {
    let (mut least, mut fault) = (f64::INFINITY, None);
    for _ in 0..ATTEMPTS {
        match once() {
            Ok(each) => least = least.min(each),
            Err(error) => {
                eprintln!("once more: {error}");
                fault = Some(error);
            }
        }
        if least <= most {
            break;
        }
    }
    fault.filter(|_| least == f64::INFINITY).map_or(Ok(least), Err)
}

/// Returns how many instructions each hit of a workload takes. Callgrind's profiles of them and of what was before go to `file` with a number at
/// its end.
fn count(
    valgrind: &Path,
    aspis: &Path,
    origin: SocketAddr,
    file: &Path,
    workload: &Workload,
) -> io::Result<f64> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let profile = format!("--callgrind-out-file={}", file.display());
    let (program, origin) = (aspis.display().to_string(), format!("http://{origin}"));
    let listen = address.to_string();
    let log = file.with_extension("log").display().to_string();
    profiles(file).try_for_each(fs::remove_file)?;
    let mut arguments = vec![
        "--tool=callgrind",
        "--fair-sched=yes",
        &profile,
        MARK,
        &program,
        "serve",
        "--origin",
        &origin,
        "--listen",
        &listen,
        "--admin",
        "127.0.0.1:0",
        "--cores",
        "1",
        "--memory",
        "64MiB",
        // Under valgrind every turn is late.
        "--shed-after",
        "0",
    ];
    if workload.logged {
        arguments.extend(["--access-log", &log]);
    }
    let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    let mut server = Server::start("aspis", valgrind, &arguments, None)?;
    let admin = pulsing(address, || server.announced("admin listening on "))?;
    let mut aspis = Aspis { server, address, admin };
    let fetch = match workload.pending_over {
        Some(_) => Some(pulsing(address, || begin_pending(&aspis))?),
        None => None,
    };
    let mut reader = Reader::connect(address, Duration::from_secs(20)).map_err(|_| Fault::Reset)?;
    warm(&mut reader)?;
    mark(&mut reader)?;
    let before = profiles(file).count();
    play(&mut reader, workload)?;
    mark(&mut reader)?;
    if let Some(fetch) = fetch {
        let metrics = pulsing(address, || aspis.metrics())?;
        if sum(&metrics, "aspis_invalidation_rules_pending") != Some((PENDING.0 * PENDING.1) as f64) {
            return Err(io::Error::other("the rules are not pending any more"));
        }
        drop(fetch);
    }
    // Everything is counted, and an end in order takes long here.
    aspis.server.kill()?;
    let counted = profiles(file).nth(before).map(fs::read_to_string).transpose()?;
    let total = counted.as_deref().and_then(collected);
    let total = total.ok_or_else(|| io::Error::other(format!("nothing counted by {MARK}")))?;
    Ok(total as f64 / HIT_COUNT as f64)
}

/// Returns the files that callgrind has written, the oldest first.
fn profiles(file: &Path) -> impl Iterator<Item = PathBuf> {
    (1..).map(|number| PathBuf::from(format!("{}.{number}", file.display()))).take_while(|path| path.exists())
}

/// Wakes the core now and then while `wait` waits for another thread of the server.
fn pulsing<T>(address: SocketAddr, wait: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                drop(TcpStream::connect(address));
                wait::pause(PULSE);
            }
        });
        let waited = wait();
        done.store(true, Ordering::Release);
        waited
    })
}

/// Begins a fetch that does not end, returned as the connection that waits for it, and invalidates thereafter what nobody stored.
fn begin_pending(aspis: &Aspis) -> io::Result<TcpStream> {
    let mut fetch = TcpStream::connect(aspis.address)?;
    let plan = Plan { kind: Kind::StallHead, size: 1, seed: 1, id: 1 };
    fetch.write_all(format!("GET {plan} HTTP/1.1\r\nHost: bench\r\n\r\n").as_bytes())?;
    // The core takes requests in their order: what comes later is answered later.
    let mut reader = Reader::new(TcpStream::connect(aspis.address)?);
    ask(&mut reader, &WORKLOADS[0], 1, 0)?;
    let mut admin = Admin::connect(aspis.admin)?;
    for batch in 0..PENDING.0 {
        // Half of them name all that begins so, as long as what is stored and not.
        let paths = (0..PENDING.1).map(|at| format!("/fresh/none-{batch}/{at}{}", ["", "/*"][at % 2]));
        admin.invalidate(&json!({ "paths": paths.collect::<Vec<_>>() }), true)?;
    }
    Ok(fetch)
}

/// Asks for what every workload asks for.
fn warm(reader: &mut Reader) -> Result<(), Fault> {
    for workload in &WORKLOADS {
        ask(reader, workload, 1, 0)?;
        // What was just stored is a hit from the next request on.
        (0..WARM_COUNT / workload.pipelined)
            .try_for_each(|number| ask(reader, workload, workload.pipelined, number))?;
    }
    Ok(())
}

/// Plays the hits that are counted.
fn play(reader: &mut Reader, workload: &Workload) -> Result<(), Fault> {
    (WARM_COUNT..WARM_COUNT + HIT_COUNT / workload.pipelined)
        .try_for_each(|number| ask(reader, workload, workload.pipelined, number))
}

/// Has callgrind write down what it has counted.
fn mark(reader: &mut Reader) -> Result<(), Fault> {
    ask(reader, &Workload { before_path: "http://bench", ..PLAIN }, 1, 0)
}

/// Sends `count` requests in one piece and reads the answers.
fn ask(reader: &mut Reader, workload: &Workload, count: usize, number: usize) -> Result<(), Fault> {
    let numbered = if workload.numbered { format!("X-Request-Id: {number:016}\r\n") } else { String::new() };
    let plan = Plan { kind: Kind::Fresh, size: workload.size, seed: 1, id: workload.size };
    let Workload { before_path, fields, .. } = workload;
    let request = format!("GET {before_path}{plan} HTTP/1.1\r\nHost: bench\r\n{fields}{numbered}\r\n");
    let request = request.repeat(count);
    reader.stream().write_all(request.as_bytes()).map_err(|_| Fault::Reset)?;
    for _ in 0..count {
        let head = reader.head()?;
        let length = reader.content(&head, |_, _| Flow::Continue)?;
        if head.status()? != 200 || length != plan.size {
            return Err(Fault::Malformed(format!("{}, {length} bytes", head.start_line)));
        }
    }
    Ok(())
}

/// Reads the total of a callgrind file.
fn collected(text: &str) -> Option<u64> {
    let total =
        text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")))?;
    total.trim().parse().ok()
}

/// Reads the stored numbers: a name and a count in each line; none where there is no such file.
fn read(file: &Path) -> io::Result<BTreeMap<String, f64>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, count) = line.split_once(' ').unwrap_or((line, ""));
            let count = count.trim().parse();
            count
                .map(|count| (name.to_owned(), count))
                .map_err(|_| io::Error::other(format!("no count: {line:?}")))
        })
        .collect()
}

fn write(file: &Path, stored: &BTreeMap<String, f64>) -> io::Result<()> {
    let mut text = String::from(
        "# Instructions in user mode per hot hit, as `aspis-bench instructions` counts them. They may only fall.\n",
    );
    for (name, count) in stored {
        text.push_str(&format!("{name} {count:.0}\n"));
    }
    fs::write(file, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read() {
        assert_eq!(collected("events: Ir\nfn=(1) main\n+3 14\n\ntotals: 899822862\n"), Some(899_822_862));
        assert_eq!(collected("events: Ir\nsummary: 12\n"), Some(12));
        assert_eq!(collected("events: Ir\n"), None);
    }

    #[test]
    fn a_count_that_is_too_high_is_taken_again_and_a_fault_counts_only_without_any() {
        let play = |most: f64, outcomes: [Option<f64>; 3]| {
            let mut outcomes = outcomes.into_iter();
            let each = least(most, || outcomes.next().flatten().ok_or_else(|| io::Error::other("hung")));
            (each.ok(), outcomes.count())
        };
        assert_eq!(play(10.0, [Some(9.0), Some(8.0), None]), (Some(9.0), 2));
        assert_eq!(play(10.0, [Some(12.0), None, Some(11.0)]), (Some(11.0), 0));
        assert_eq!(play(10.0, [None, Some(10.0), None]), (Some(10.0), 1));
        assert_eq!(play(10.0, [None, None, None]), (None, 0));
    }

    #[test]
    fn stored_numbers_survive_a_round_trip_and_nonsense_is_an_error() {
        let scratch = Scratch::new().unwrap();
        let file = scratch.path().join("instructions");
        assert!(read(&file).unwrap().is_empty());
        let numbers = BTreeMap::from([("a".to_owned(), 12.0), ("b".to_owned(), 3456.0)]);
        write(&file, &numbers).unwrap();
        assert_eq!(read(&file).unwrap(), numbers);
        fs::write(&file, "a many\n").unwrap();
        assert!(read(&file).is_err());
    }
}
