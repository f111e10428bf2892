use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aspis_cache::invalidation::What;
use serde_json::Value;

use super::*;
use crate::admin::{Alarm, Query, Reply};

/// Cores that apply what they are told when the test says so.
#[derive(Default)]
pub(crate) struct FakeCores {
    last: AtomicU64,
    applied: AtomicU64,
    settled: AtomicU64,
    forgotten: AtomicU64,
    rung: AtomicU64,
    told: Mutex<Vec<RuleBatch>>,
    applies_when_rung: bool,
}

impl Cores for FakeCores {
    fn next_number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn tell(&self, batch: RuleBatch) {
        let mut told = self.told.lock().expect("no panic");
        assert!(told.last().is_none_or(|last| last.number < batch.number), "numbers rise");
        told.push(batch);
    }

    fn ring(&self) {
        let told = self.told.lock().expect("no panic").len() as u64;
        self.rung.fetch_add(1, Ordering::SeqCst);
        self.applied.fetch_max(told * u64::from(self.applies_when_rung), Ordering::SeqCst);
    }

    fn await_applied(&self, _: u64) {}

    fn applied(&self) -> u64 {
        self.applied.load(Ordering::SeqCst)
    }

    fn applied_each(&self) -> Vec<u64> {
        vec![self.applied(), self.applied() + 1]
    }

    fn settled(&self) -> u64 {
        self.settled.load(Ordering::SeqCst)
    }

    fn forget(&self, up_to: u64) {
        self.forgotten.store(up_to, Ordering::SeqCst);
    }
}

struct Rig {
    runtime: tokio::runtime::Runtime,
    invalidations: Arc<Invalidations>,
    cores: Arc<FakeCores>,
}

impl Rig {
    fn new(state: Option<&Path>) -> Self {
        Self::with(state, FakeCores::default())
    }

    fn with(state: Option<&Path>, cores: FakeCores) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (invalidations, incoming, beginning) =
            open(state, Bound::default(), Wildcards::Trailing).expect("it opens");
        let cores = Arc::new(cores);
        cores.last.store(beginning.last_number, Ordering::SeqCst);
        invalidations.attach(Arc::clone(&cores) as Arc<dyn Cores>);
        runtime.spawn(Arc::clone(&invalidations).run(incoming, Arc::default()));
        Rig { runtime, invalidations, cores }
    }

    fn apply(&self, up_to: u64) {
        self.cores.applied.store(up_to, Ordering::SeqCst);
        (self.invalidations.rules_changed())();
    }

    fn read(reply: &Reply) -> (u16, Value) {
        (reply.status, serde_json::from_slice(&reply.body).expect("JSON"))
    }

    /// Posts to `/?QUERY`.
    fn post(&self, query: &str, body: &str) -> (u16, Value) {
        let wait = Query::of(query, &["wait"]).and_then(|query| api::wait_of(&query));
        let accepted = wait.and_then(|wait| api::accept(&self.invalidations, body.as_bytes(), wait));
        let reply = match accepted {
            Ok(accepted) => self
                .runtime
                .block_on(async { api::kept(&self.invalidations, accepted, &mut Alarm::new()).await }),
            Err(problem) => problem.reply(),
        };
        Self::read(&reply)
    }

    fn get(&self, id: &str, query: &str) -> (u16, Value) {
        let query = Query::of(query, &["wait"]).expect("sound");
        Self::read(&self.runtime.block_on(api::read(&self.invalidations, id, &query)))
    }

    fn list(&self, query: &str) -> (u16, Value) {
        let query = Query::of(query, &["marker", "max_items"]).expect("sound");
        Self::read(&api::list(&self.invalidations, &query))
    }
}

#[test]
fn a_batch_is_told_to_the_cores_and_completes_when_they_have_it() {
    let rig = Rig::new(None);
    let (status, created) = rig.post("", r#"{"paths":["/a","/b/*"],"hosts":["h"],"caller_reference":"r"}"#);
    assert_eq!(
        (status, created["status"].as_str(), created["number"].as_u64()),
        (201, Some("InProgress"), Some(1))
    );
    assert_eq!(created["paths"], serde_json::json!(["/a", "/b/*"]));
    assert_eq!((created["hosts"][0].as_str(), created["caller_reference"].as_str()), (Some("h"), Some("r")));
    let told = rig.cores.told.lock().expect("no panic").clone();
    assert_eq!((told.len(), told[0].number, told[0].rules.len()), (1, 1, 2));
    let id = created["id"].as_str().expect("an id");
    assert_eq!(rig.get(id, "").1["status"], "InProgress");
    rig.apply(1);
    let (status, waited) = rig.get(id, "wait=true");
    assert_eq!((status, waited["status"].as_str()), (200, Some("Completed")));
    let (status, list) = rig.list("");
    assert_eq!(
        (status, list["quantity"].as_u64(), list["items"][0]["id"].as_str()),
        (200, Some(1), Some(id))
    );
    assert_eq!(rig.get("INOBODY", "").0, 404);
}

#[test]
fn a_wait_ends_with_the_state_as_it_is() {
    let rig = Rig::new(None);
    let (status, created) = rig.post("wait=0.05", r#"{"all":true}"#);
    assert_eq!(
        (status, created["status"].as_str(), created["all"].as_bool()),
        (201, Some("InProgress"), Some(true))
    );
    rig.apply(2);
    let (_, created) = rig.post("", r#"{"all":true,"wait":5}"#);
    assert_eq!(created["status"], "Completed");
    assert_eq!(
        rig.invalidations.waiting.available_permits(),
        limits::WAITING_COUNT_MAX,
        "places are given back"
    );
    assert_eq!(rig.post("wait=61", r#"{"all":true}"#).0, 400);
}

/// I-5.
#[test]
fn references_are_idempotent_and_conflicts_are_said() {
    let rig = Rig::new(None);
    let (_, first) = rig.post("", r#"{"paths":["/a"],"caller_reference":"r"}"#);
    let (status, second) = rig.post("", r#"{"paths":["/a"],"caller_reference":"r"}"#);
    assert_eq!((status, &second["id"]), (201, &first["id"]));
    let (status, problem) = rig.post("", r#"{"paths":["/b"],"caller_reference":"r"}"#);
    assert_eq!((status, problem["applied"].as_bool()), (409, Some(false)));
    assert!(
        problem["detail"].as_str().is_some_and(|text| text.contains(first["id"].as_str().unwrap_or("?")))
    );
    assert_eq!(rig.cores.told.lock().expect("no panic").len(), 1);
}

#[test]
fn nothing_of_a_bad_batch_is_applied() {
    let rig = Rig::new(None);
    let (status, problem) = rig.post("", r#"{"paths":["/good","bad"]}"#);
    assert_eq!(
        (status, problem["pointer"].as_str(), problem["item"].as_str()),
        (400, Some("/paths/1"), Some("bad"))
    );
    assert_eq!(problem["type"], "urn:aspis:problem:path");
    assert!(rig.cores.told.lock().expect("no panic").is_empty());
    assert_eq!(rig.list("max_items=0").0, 400);
    assert_eq!(rig.list("marker=INOBODY").0, 400);
}

#[test]
fn what_is_settled_is_forgotten_by_the_cores() {
    let rig = Rig::new(None);
    rig.post("", r#"{"all":true}"#);
    rig.cores.settled.store(1, Ordering::SeqCst);
    rig.apply(1);
    rig.runtime.block_on(tokio::task::yield_now());
    assert_eq!(rig.cores.forgotten.load(Ordering::SeqCst), 1);
    let levels = rig.invalidations.levels();
    let of = |name: &str| {
        levels.iter().filter(|level| level.name == name).map(|level| level.value).collect::<Vec<_>>()
    };
    assert_eq!((of("invalidation_rules_pending"), of("invalidation_number")), (vec![0], vec![1]));
    assert_eq!(of("invalidation_number_applied"), [1, 2]);
}

#[test]
fn a_purge_is_told_when_it_is_completed() {
    let rig = Rig::new(None);
    let (tell, told) = std::sync::mpsc::channel();
    let rule = Rule { host: Some("h".into()), what: What::Exact("/x".into()), soft: true };
    Purges::purge(&*rig.invalidations, vec![rule], Box::new(move |outcome| drop(tell.send(outcome))));
    rig.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
    assert!(told.try_recv().is_err(), "the cores have not applied it");
    rig.apply(1);
    rig.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
    assert_eq!(told.recv_timeout(Duration::from_secs(1)), Ok(Ok(1)));
    let id = rig.list("").1["items"][0]["id"].as_str().expect("listed").to_owned();
    let (_, document) = rig.get(&id, "");
    assert_eq!((document["paths"][0].as_str(), document["soft"].as_bool()), (Some("/x"), Some(true)));
}

/// I-20: the last of a stream is rung for as well, and one bell does for many.
#[test]
fn cores_that_sleep_are_rung_at_a_pace() {
    const COUNT: u64 = 500;
    let rig = Rig::with(None, FakeCores { applies_when_rung: true, ..FakeCores::default() });
    let (status, first) = rig.post("", r#"{"all":true}"#);
    assert_eq!((status, rig.cores.rung.load(Ordering::SeqCst)), (201, 1), "nobody waits for the first");
    let began = Instant::now();
    for _ in 0..COUNT {
        rig.post("", r#"{"all":true}"#);
    }
    // Each look completes what the cores have applied, whether they told or not.
    assert_eq!(rig.get(first["id"].as_str().expect("an id"), "").1["status"], "Completed");
    while rig.cores.applied() <= COUNT {
        rig.runtime.block_on(async { tokio::time::sleep(limits::PACE).await });
        assert!(began.elapsed() < Duration::from_secs(30), "the last ones are never rung for");
    }
    let at_pace = began.elapsed().as_micros() / limits::PACE.as_micros();
    let rung = u128::from(rig.cores.rung.load(Ordering::SeqCst));
    assert!(rung <= at_pace + u128::from(limits::PACE_BURST) + 2, "{rung} in {at_pace}");
}

/// Whoever asks while the process ends must not be told that it is kept.
#[test]
fn nothing_is_accepted_at_the_end() {
    let rig = Rig::new(None);
    rig.invalidations.close();
    let (status, problem) = rig.post("", r#"{"all":true}"#);
    assert_eq!((status, problem["applied"].as_bool()), (503, Some(false)));
    assert!(
        problem["detail"].as_str().is_some_and(|text| text.starts_with("the server is ending")),
        "{problem}"
    );
    assert!(rig.cores.told.lock().expect("no panic").is_empty());
}

#[test]
fn a_log_makes_them_survive() {
    let path = std::env::temp_dir().join(format!("aspis-invalidations-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&path));
    let rig = Rig::new(Some(&path));
    rig.apply(u64::MAX);
    let (status, created) = rig.post("wait=5", r#"{"paths":["/a"],"caller_reference":"r"}"#);
    assert_eq!((status, created["status"].as_str()), (201, Some("Completed")));
    rig.invalidations.close();
    drop(rig);
    let (invalidations, _incoming, beginning) =
        open(Some(&path), Bound::default(), Wildcards::Trailing).expect("it opens again");
    assert_eq!((beginning.rules.len(), beginning.rules[0].number), (1, 1));
    assert!(beginning.last_number > 1);
    assert!(invalidations.registry().by_id(created["id"].as_str().expect("an id")).is_some());
    invalidations.close();
    std::fs::remove_dir_all(path).expect("our own folder");
}
