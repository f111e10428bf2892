//! Does an acknowledged invalidation survive kill -9? Rounds of a real server with `--state`, killed at a random moment while it accepts.
//!
//! Each round starts the server on the folder that the one before left, checks everything that any round was told, lets several callers post
//! batches, some of which wait for completion, and kills the server between the first batch and the last. What was answered 201 must be there
//! with its number, content and reference, in the list and by its id; its numbers must never be given again; and what a viewer was served before
//! an acknowledged invalidation must not be served after it. What got no answer may be there or not, but once only.

pub(crate) mod versions;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::Admin;
use crate::aspis::Aspis;
use crate::process;
use crate::random::Random;
use crate::wait;
use versions::Versions;

/// Callers that post at the same time.
const CALLERS: u64 = 6;
/// The longest time between the first batch and the kill.
const KILL_AFTER_MAX_MS: u64 = 150;
/// Invalidations that are read one by one in each round, besides the list of all.
const READ_EACH: usize = 40;
/// As many completed invalidations the server remembers at least; of more than that it forgets the oldest.
const REMEMBERED: usize = 10_000;
/// Faults that are shown.
const SHOWN: usize = 20;
/// What a server of this driver takes.
const FLAGS: [&str; 4] = ["--cores", "2", "--memory", "64MiB"];

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) rounds: u64,
    pub(crate) seed: u64,
    /// Where the server keeps its state: a disk, for syncs that take time; `None` for the temporary files.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) aspis: Option<String>,
}

/// One batch that was sent.
#[derive(Clone, Debug)]
struct Sent {
    document: Value,
    /// Id and number, if it was answered.
    acknowledged: Option<(String, u64)>,
    completed: bool,
}

/// What is known over all rounds.
#[derive(Debug, Default)]
struct Known {
    /// By caller reference.
    sent: BTreeMap<String, Sent>,
    /// Held in earlier rounds, and too old by now to be listed.
    forgotten: usize,
    newest: u64,
}

impl Known {
    /// Drops what the server may have forgotten: older than all that it lists, which is as much as it must remember.
    fn leave_to_oblivion(&mut self, listed: &BTreeMap<String, Value>) {
        let oldest = listed.values().filter_map(|found| found["number"].as_u64()).min();
        let Some(oldest) = oldest else { return };
        let before = self.sent.len();
        // What was never acknowledged is as old as what was sent beside it; it cannot be told from what is forgotten.
        let newest_forgotten =
            self.sent.iter().filter(|(_, sent)| sent.number().is_some_and(|number| number < oldest));
        let round = newest_forgotten.map(|(reference, _)| reference[..6].to_owned()).max();
        self.sent.retain(|reference, sent| match sent.number() {
            Some(number) => number >= oldest,
            None => round.as_deref().is_none_or(|round| reference[..6] > *round),
        });
        self.forgotten += before - self.sent.len();
    }
}

impl Sent {
    fn number(&self) -> Option<u64> {
        self.acknowledged.as_ref().map(|(_, number)| *number)
    }
}

/// Plays the rounds; false when something was lost.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let program = process::find_aspis(options.aspis.as_deref())?;
    let folder = process::state_path("killing", options.folder.as_deref());
    let state = folder.to_string_lossy().into_owned();
    let flags: Vec<&str> = FLAGS.iter().copied().chain(["--state", &state]).collect();
    let origin = Versions::start()?;
    let mut random = Random::new(options.seed);
    let mut known = Known::default();
    let mut faults = Vec::new();
    println!("killing: seed {}, {} round(s), state in {state}", options.seed, options.rounds);
    for round in 0..=options.rounds {
        let mut server = Aspis::start(&program, origin.address(), None, &flags)?;
        check(&server, &origin, round, &mut known, &mut faults)?;
        if !faults.is_empty() || round == options.rounds {
            break;
        }
        let kill_after = Duration::from_millis(random.between(1, KILL_AFTER_MAX_MS));
        play(&mut server, &origin, round, random.next(), kill_after, &mut known, &mut faults)?;
    }
    let acknowledged = known.sent.values().filter(|sent| sent.acknowledged.is_some()).count();
    let completed = known.sent.values().filter(|sent| sent.completed).count();
    println!("| what | count |\n|---|---|");
    println!("| batches sent | {} |", known.sent.len() + known.forgotten);
    println!("| of these held over kills and forgotten since, above {REMEMBERED} | {} |", known.forgotten);
    println!("| acknowledged and held to the end | {acknowledged} |");
    println!("| of these told to be completed | {completed} |");
    println!("| newest number | {} |", known.newest);
    println!("| faults | {} |", faults.len());
    for fault in faults.iter().take(SHOWN) {
        println!("FAULT {fault} (seed {})", options.seed);
    }
    if faults.is_empty() {
        std::fs::remove_dir_all(&folder)?;
    }
    // A run in which nothing was acknowledged, or nothing cut off, shows nothing.
    let is_telling = acknowledged > 0 && (options.rounds < 20 || acknowledged < known.sent.len());
    Ok(faults.is_empty() && is_telling)
}

/// Holds the server that has just started against everything that is known.
fn check(
    server: &Aspis,
    origin: &Versions,
    round: u64,
    known: &mut Known,
    faults: &mut Vec<String>,
) -> io::Result<()> {
    let mut admin = Admin::connect(server.admin)?;
    let (listed, listed_count) = listed(&mut admin)?;
    if listed_count >= REMEMBERED {
        known.leave_to_oblivion(&listed);
    }
    for (reference, sent) in &known.sent {
        match (listed.get(reference), &sent.acknowledged) {
            (Some(found), Some((id, number))) => {
                if found["id"] != **id || found["number"] != *number || found["status"] != "Completed" {
                    faults.push(format!("round {round}: {reference} was {id} with {number}, and is {found}"));
                }
            }
            (None, Some((id, number))) => {
                faults
                    .push(format!("round {round}: {reference}, acknowledged as {id} with {number}, is gone"));
            }
            (_, None) => {}
        }
    }
    let mut numbers: Vec<u64> = listed.values().filter_map(|found| found["number"].as_u64()).collect();
    numbers.sort_unstable();
    if numbers.windows(2).any(|pair| pair[0] == pair[1]) {
        faults.push(format!("round {round}: a number was given twice"));
    }
    let acknowledged: Vec<&Sent> = known.sent.values().filter(|sent| sent.acknowledged.is_some()).collect();
    // The newest of them, which the last kill was about, and some of all rounds.
    let step = (acknowledged.len() / READ_EACH).max(1);
    for sent in acknowledged.iter().rev().take(READ_EACH).chain(acknowledged.iter().step_by(step)) {
        let Some((id, _)) = &sent.acknowledged else { continue };
        let (status, found) = admin.ask("GET", &format!("/v1/invalidations/{id}"), None)?;
        for name in ["paths", "tags", "caller_reference"] {
            if status != 200 || found[name] != sent.document[name] {
                faults.push(format!("round {round}: {id} was sent with {}, and is {found}", sent.document));
                break;
            }
        }
    }
    // Whoever tries again is told the same, once: a repeated batch is the earlier one, also if its answer was lost.
    let again: Vec<(String, Sent)> =
        known.sent.iter().rev().take(8).map(|(name, sent)| (name.clone(), sent.clone())).collect();
    for (reference, mut sent) in again {
        let (status, found) = admin.ask("POST", "/v1/invalidations?wait=30", Some(&sent.document))?;
        let told =
            (found["id"].as_str().unwrap_or_default().to_owned(), found["number"].as_u64().unwrap_or(0));
        let is_same = sent.acknowledged.as_ref().is_none_or(|before| *before == told);
        let is_listed_one = listed.get(&reference).is_none_or(|before| before["id"] == *told.0);
        if status != 201 || !is_same || !is_listed_one {
            faults.push(format!("round {round}: {reference} repeated gives {status} {found}"));
            continue;
        }
        if !listed.contains_key(&reference) && told.1 <= known.newest {
            faults.push(format!("round {round}: {} was given again", told.1));
        }
        known.newest = known.newest.max(told.1);
        sent.acknowledged = Some(told);
        sent.completed |= found["status"] == "Completed";
        known.sent.insert(reference, sent);
    }
    let applied =
        admin.ask("GET", "/v1/explain?url=http%3A%2F%2Fkilling.example%2Fa", None)?.1["number_applied"]
            .as_u64();
    if applied < known.sent.values().filter_map(|sent| Some(sent.acknowledged.as_ref()?.1)).max() && round > 0
    {
        faults.push(format!("round {round}: the cores have applied {applied:?} only"));
    }
    // The page that every round invalidates was served by the process before: what comes now must be newer than the last that was purged.
    origin.expect_newer(server.address, faults)
}

/// Returns everything that is listed, by caller reference, and how many there are, those without one included.
fn listed(admin: &mut Admin) -> io::Result<(BTreeMap<String, Value>, usize)> {
    let (mut listed, mut count) = (BTreeMap::new(), 0);
    let mut marker = String::new();
    loop {
        let (_, page) = admin.ask("GET", &format!("/v1/invalidations?max_items=1000{marker}"), None)?;
        for item in page["items"].as_array().into_iter().flatten() {
            count += 1;
            listed.insert(item["caller_reference"].as_str().unwrap_or_default().to_owned(), item.clone());
        }
        match page["next_marker"].as_str() {
            Some(next) => marker = format!("&marker={next}"),
            None => return Ok((listed, count)),
        }
    }
}

/// Lets the callers post until the server is killed under them.
fn play(
    server: &mut Aspis,
    origin: &Versions,
    round: u64,
    seed: u64,
    kill_after: Duration,
    known: &mut Known,
    faults: &mut Vec<String>,
) -> io::Result<()> {
    let (sent, killed, first) = (Mutex::new(Vec::new()), AtomicBool::new(false), AtomicU64::new(0));
    let address = server.admin;
    let newest = known.newest;
    thread::scope(|scope| -> io::Result<()> {
        for caller in 0..CALLERS {
            let (sent, killed, first) = (&sent, &killed, &first);
            scope.spawn(move || {
                let Ok(mut admin) = Admin::connect(address) else { return };
                let mut random = Random::new(seed ^ caller);
                for at in 0.. {
                    let document = batch(round, caller, at, &mut random);
                    let target =
                        if random.chance(30) { "/v1/invalidations?wait=30" } else { "/v1/invalidations" };
                    first.fetch_add(1, Ordering::Relaxed);
                    let answer = admin.ask("POST", target, Some(&document));
                    let acknowledged = match &answer {
                        Ok((201, found)) => Some((
                            found["id"].as_str().unwrap_or_default().to_owned(),
                            found["number"].as_u64().unwrap_or(0),
                        )),
                        _ => None,
                    };
                    let completed = answer.as_ref().is_ok_and(|(_, found)| found["status"] == "Completed");
                    let is_over = answer.is_err() || killed.load(Ordering::Relaxed);
                    sent.lock().expect("no panic while held").push((
                        answer.ok().map(|(status, _)| status),
                        Sent { document, acknowledged, completed },
                    ));
                    if is_over {
                        return;
                    }
                }
            });
        }
        wait::until(Duration::from_secs(10), || first.load(Ordering::Relaxed) > 0);
        origin.invalidate(server.address, address)?;
        wait::pause(kill_after);
        server.server.kill()?;
        killed.store(true, Ordering::Relaxed);
        Ok(())
    })?;
    for (status, sent) in sent.into_inner().expect("no panic while held") {
        if status.is_some_and(|status| status != 201) {
            faults.push(format!("round {round}: {} was answered {status:?}", sent.document));
        }
        if let Some((_, number)) = &sent.acknowledged {
            if *number <= newest {
                faults.push(format!("round {round}: number {number} was given, but {newest} before"));
            }
            known.newest = known.newest.max(*number);
        }
        let reference = sent.document["caller_reference"].as_str().unwrap_or_default().to_owned();
        known.sent.insert(reference, sent);
    }
    Ok(())
}

/// Makes a batch that nobody else sends.
fn batch(round: u64, caller: u64, at: u64, random: &mut Random) -> Value {
    let paths: Vec<String> =
        (0..random.between(1, 20)).map(|path| format!("/{round}/{caller}/{at}/{path}")).collect();
    json!({
        "paths": paths,
        "tags": [format!("tag-{}", random.between(0, 99))],
        "caller_reference": format!("{round:06}-{caller}-{at:06}"),
    })
}
