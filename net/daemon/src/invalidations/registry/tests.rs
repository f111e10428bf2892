use std::sync::Mutex;

use super::*;
use crate::invalidations::batch::parse;
use aspis_cache::invalidation::Wildcards;

fn batch(body: &str) -> Batch {
    parse(body.as_bytes(), Wildcards::Trailing).expect("a sound body").batch
}

fn whole(view: &View) -> Invalidation {
    match Entry::decode(&view.record) {
        Some(Entry::Invalidation(invalidation)) => *invalidation,
        other => panic!("{other:?}"),
    }
}

/// A registry whose numbers count up.
struct Rig {
    registry: Registry,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Rig {
    fn new() -> Self {
        Self::of(Registry::new(Header { file: 1, ..Header::default() }, Vec::new(), 0))
    }

    fn of(registry: Registry) -> Self {
        Rig { registry, heard: Arc::default() }
    }

    fn try_accept(&mut self, body: &str) -> Result<(u64, bool), Refusal> {
        let next = self.registry.last + 1;
        let (number, accepted) = self.registry.accept(batch(body), 1000, || next)?;
        Ok((number, accepted.is_some()))
    }

    fn accept(&mut self, body: &str) -> u64 {
        let (number, is_new) = self.try_accept(body).expect("accepted");
        assert!(is_new, "{body}");
        number
    }

    /// Notes who is called, and with what.
    fn wait(&mut self, number: u64, until: Until) {
        let heard = Arc::clone(&self.heard);
        let waiter: Waiter = Box::new(move |outcome| {
            let line = match outcome {
                Ok(view) => format!("{until:?} {number} {}", view.is_completed),
                Err(cause) => format!("{until:?} {number} {cause}"),
            };
            heard.lock().expect("no panic").push(line);
        });
        match self.registry.wait(number, until, waiter) {
            Ok(due) => due.call(),
            Err(_) => self.heard.lock().expect("no panic").push(format!("nobody {number}")),
        }
    }

    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.lock().expect("no panic"))
    }

    fn finish(&mut self, up_to: u64) {
        self.registry.logged(up_to, 0).call();
        self.registry.applied(up_to).call();
    }

    fn numbers(&self) -> Vec<u64> {
        let (page, _) = self.registry.list(None, 100_000).expect("no marker");
        page.iter().map(|view| view.number).collect()
    }
}

/// I-3, I-20: `Completed` needs the log and every core, in whatever order they come.
#[test]
fn completed_needs_the_log_and_every_core() {
    for log_first in [true, false] {
        let mut rig = Rig::new();
        let number = rig.accept(r#"{"paths":["/a"]}"#);
        rig.wait(number, Until::Logged);
        rig.wait(number, Until::Completed);
        assert!(rig.numbers().is_empty(), "what the log does not have is not listed");
        if log_first {
            rig.registry.logged(number, 10).call();
            assert_eq!(rig.heard(), ["Logged 1 false"]);
            rig.registry.applied(number).call();
            assert_eq!(rig.heard(), ["Completed 1 true"]);
        } else {
            rig.registry.applied(number).call();
            assert_eq!(rig.heard(), Vec::<String>::new());
            rig.registry.logged(number, 10).call();
            assert_eq!(rig.heard(), ["Logged 1 true", "Completed 1 true"]);
        }
        assert!(rig.registry.by_number(number).expect("kept").is_completed);
        // Who comes late is told at once; who asks for nothing that exists gets the waiter back.
        rig.wait(number, Until::Completed);
        rig.wait(99, Until::Completed);
        assert_eq!(rig.heard(), ["Completed 1 true", "nobody 99"]);
    }
}

/// The cores tell of nothing else, so a number that is missing here would never be told.
#[test]
fn what_the_cores_must_tell_is_the_next_number_that_somebody_waits_for() {
    let mut rig = Rig::new();
    for _ in 0..5 {
        rig.accept(r#"{"all":true}"#);
    }
    assert_eq!(rig.registry.awaited(), u64::MAX);
    for (number, until) in [(1, Until::Logged), (4, Until::Completed), (2, Until::Completed)] {
        rig.wait(number, until);
    }
    assert_eq!(rig.registry.awaited(), 2);
    rig.registry.applied(3).call();
    assert_eq!(rig.registry.awaited(), 4, "the log is missing for 2, which no core can tell");
    rig.registry.failed(&[4], &"full".into()).call();
    assert_eq!(rig.registry.awaited(), u64::MAX);
    rig.registry.logged(3, 0).call();
    assert!(rig.registry.awaited.is_empty());
}

/// I-5: the same reference with the same set is the earlier one, with other items a conflict.
#[test]
fn a_caller_reference_is_one_invalidation() {
    let mut rig = Rig::new();
    let first = rig.accept(r#"{"paths":["/a","/b"],"caller_reference":"r"}"#);
    assert_eq!(rig.try_accept(r#"{"paths":["/b","/a"],"caller_reference":"r"}"#), Ok((first, false)));
    let id: Box<str> = rig.registry.by_number(first).expect("kept").front().id.into();
    for other in [
        r#"{"paths":["/a"],"caller_reference":"r"}"#,
        r#"{"paths":["/a","/b"],"soft":true,"caller_reference":"r"}"#,
    ] {
        assert_eq!(rig.try_accept(other), Err(Refusal::OtherItems(id.clone())), "{other}");
    }
    // Without a reference each is new (I-29).
    assert_ne!(rig.accept(r#"{"paths":["/a"]}"#), rig.accept(r#"{"paths":["/a"]}"#));
}

/// I-4.
#[test]
fn ids_begin_with_i_and_are_upper_case() {
    let mut rig = Rig::new();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..200 {
        let number = rig.accept(r#"{"all":true}"#);
        let id = rig.registry.by_number(number).expect("kept").front().id.to_owned();
        assert!(id.starts_with('I') && id.len() == 14, "{id}");
        assert!(id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()), "{id}");
        assert_eq!(rig.registry.by_id(&id).expect("kept").number, number);
        assert!(seen.insert(id));
    }
}

#[test]
fn a_log_that_fails_refuses_what_follows_and_frees_the_reference() {
    let mut rig = Rig::new();
    let kept = rig.accept(r#"{"paths":["/kept"]}"#);
    rig.finish(kept);
    let lost = rig.accept(r#"{"paths":["/lost"],"caller_reference":"r"}"#);
    rig.wait(lost, Until::Completed);
    let cause: Arc<str> = "disk full".into();
    rig.registry.failed(&[lost], &cause).call();
    assert_eq!(rig.heard(), ["Completed 2 disk full"]);
    assert_eq!(rig.numbers(), [kept]);
    let last = rig.registry.last;
    assert_eq!(rig.try_accept(r#"{"paths":["/b"]}"#), Err(Refusal::Log(cause)));
    assert_eq!(rig.registry.last, last, "no number is given for what is refused");
    // One attempt to mend at a time; a failed one may be repeated.
    assert!(rig.registry.shorten().is_none());
    let (header, records) = rig.registry.mend().expect("due");
    assert_eq!((header.numbers, records.len()), (lost, 1));
    assert!(rig.registry.mend().is_none());
    rig.registry.rewritten(Err("still full".into()));
    assert!(rig.registry.mend().is_some() && rig.registry.broken().is_some());
    rig.registry.rewritten(Ok(100));
    assert!(rig.registry.broken().is_none() && rig.registry.figures().log_len == 100);
    rig.accept(r#"{"paths":["/other"],"caller_reference":"r"}"#);
}

/// The limit is reached, and the next one is refused until one completes.
#[test]
fn what_is_in_progress_is_bounded() {
    let mut rig = Rig::new();
    for _ in 0..IN_PROGRESS_COUNT_MAX {
        rig.accept(r#"{"all":true}"#);
    }
    assert_eq!(rig.try_accept(r#"{"all":true}"#), Err(Refusal::TooMany));
    rig.finish(1);
    rig.accept(r#"{"all":true}"#);
    assert_eq!(rig.registry.figures().in_progress, IN_PROGRESS_COUNT_MAX as u64);
}

/// The oldest completed ones leave first, and only when their rules no longer matter.
#[test]
fn what_is_remembered_is_bounded() {
    let mut rig = Rig::new();
    for _ in 0..REMEMBERED_COUNT_MAX + 5 {
        let number = rig.accept(r#"{"paths":["/a"],"caller_reference":"x"}"#.replace('x', &rig.registry.last.to_string()).as_str());
        rig.finish(number);
    }
    assert_eq!(rig.numbers().len(), REMEMBERED_COUNT_MAX + 5, "nothing is settled yet");
    assert!(rig.registry.settled(3));
    assert_eq!(rig.numbers().last(), Some(&4));
    assert!(!rig.registry.settled(3), "no news");
    assert!(rig.registry.settled(1000));
    assert_eq!(rig.numbers().len(), REMEMBERED_COUNT_MAX);
    assert_eq!(rig.registry.by_reference.len(), REMEMBERED_COUNT_MAX);
    let kept: usize = rig.registry.kept.values().map(|kept| kept.record.len()).sum();
    assert_eq!(rig.registry.kept_len, kept);
    assert_eq!(rig.registry.figures().rules_pending, (REMEMBERED_COUNT_MAX + 5 - 1000) as u64);
}

#[test]
fn too_much_that_still_matters_is_folded() {
    let mut rig = Rig::new();
    let paths: Vec<String> = (0..1000).map(|at| format!("\"/{}{at}\"", "x".repeat(3000))).collect();
    let body = format!(r#"{{"paths":[{}]}}"#, paths.join(","));
    let mut last = 0;
    while rig.registry.header.folded == 0 {
        last = rig.accept(&body);
        rig.finish(last);
        assert!(last < 100, "it is folded at some point");
    }
    assert!(rig.registry.unsettled_len <= UNSETTLED_LEN_MAX);
    let folded = rig.registry.header.folded;
    assert_eq!(rig.numbers().last(), Some(&(folded + 1)));
    // All that left was older than the fold, and what stays is in the log.
    let beginning = crate::invalidations::still_counting(
        &rig.registry.header,
        &rig.registry
            .kept
            .values()
            .map(|kept| (whole(&kept.view(0)), Arc::clone(&kept.record)))
            .collect::<Vec<_>>(),
    );
    assert_eq!(beginning[0].number, folded);
    assert_eq!(beginning[0].rules[0].what, aspis_cache::invalidation::What::All);
    assert_eq!(beginning.last().expect("more").number, last);
}

/// I-2.
#[test]
fn lists_are_newest_first_and_in_pages() {
    let mut rig = Rig::new();
    for _ in 0..5 {
        rig.accept(r#"{"all":true}"#);
    }
    rig.finish(5);
    let page = |marker: Option<&str>| rig.registry.list(marker, 2).expect("a marker that exists");
    let (first, more) = page(None);
    assert_eq!((first.iter().map(|view| view.number).collect::<Vec<_>>(), more), (vec![5, 4], true));
    let (second, more) = page(Some(first[1].front().id));
    assert_eq!((second[0].number, second[1].number, more), (3, 2, true));
    let (third, more) = page(Some(second[1].front().id));
    assert_eq!((third.len(), third[0].number, more), (1, 1, false));
    assert!(rig.registry.list(Some("INOBODY"), 2).is_none());
}

#[test]
fn a_long_log_is_shortened_to_what_is_kept() {
    let mut rig = Rig::new();
    let number = rig.accept(r#"{"all":true}"#);
    rig.registry.logged(number, REWRITE_LEN_MIN).call();
    assert!(rig.registry.shorten().is_none());
    rig.registry.logged(number, REWRITE_LEN_MIN + 1).call();
    let (header, records) = rig.registry.shorten().expect("due");
    assert_eq!((header.numbers, records.len()), (number, 1));
    assert!(rig.registry.shorten().is_none(), "one at a time");
    rig.registry.rewritten(Ok(200));
    assert!(rig.registry.shorten().is_none());
}

#[test]
fn what_the_log_had_is_listed_and_its_references_are_known() {
    let mut before = Rig::new();
    let number = before.accept(r#"{"paths":["/a"],"caller_reference":"r"}"#);
    before.finish(number);
    let view = before.registry.by_number(number).expect("kept");
    let records = vec![(whole(&view), view.record)];
    let header = Header { file: 1, numbers: 1024, ..Header::default() };
    let mut rig = Rig::of(Registry::new(header, records, 500));
    assert_eq!(rig.numbers(), [number]);
    assert_eq!(rig.try_accept(r#"{"paths":["/a"],"caller_reference":"r"}"#), Ok((number, false)));
    assert!(rig.registry.by_number(number).expect("kept").is_completed);
    assert_eq!(rig.accept(r#"{"paths":["/b"]}"#), 1025, "numbers go on above those that may have been given");
}
