//! Which invalidations are there, how far are they, and what must the log hold?
//!
//! Kept by the control thread under one lock; no I/O and no clock. `Invalidations` feeds it with batches, with what the log reports and with
//! how far the cores are; it answers with what to write, what to tell the cores, and whom to call. Invariants:
//!
//! - numbers rise, and one is `Completed` only when it is in the log and applied by every core (I-3, I-20);
//! - what a rule may still concern stays in the log: a record leaves only when its number is settled, or when everything up to it is folded;
//! - the list, its bytes and what is in progress are bounded (`limits`).
//!
//! ```text
//! accepted --synced--> logged --applied by all--> Completed --settled, too many remembered--> forgotten
//!     \--log failed--> gone: its caller is told, its rules stay in force in this process
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::batch::{Batch, is_same_set};
use super::limits::{
    IN_PROGRESS_COUNT_MAX, IN_PROGRESS_LEN_MAX, REMEMBERED_COUNT_MAX, REMEMBERED_LEN_MAX, REWRITE_LEN_MIN,
    UNSETTLED_LEN_MAX,
};
use super::record::{Entry, Front, Header, Invalidation};

/// An invalidation as those see it who ask.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Its number.
    pub(crate) number: u64,
    /// Every core has applied it and the log holds it.
    pub(crate) is_completed: bool,
    /// Its record, which has everything else.
    pub(crate) record: Arc<[u8]>,
}

impl View {
    /// Reads the record.
    pub(crate) fn front(&self) -> Front<'_> {
        Front::of(&self.record)
            .expect("the registry keeps records of invalidations that it wrote or verified")
    }
}

/// Why a batch is not accepted. Nothing of it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The caller reference belongs to other items: this one has it (I-5).
    OtherItems(Box<str>),
    /// Too many are in progress.
    TooMany,
    /// The log cannot be written, for this cause.
    Log(Arc<str>),
}

/// Until when somebody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Until {
    /// It cannot be lost any more.
    Logged,
    /// Every core has applied it.
    Completed,
}

/// What those hear who wait: the invalidation, or why the log does not have it.
pub(crate) type Outcome = Result<View, Arc<str>>;

/// Somebody who waits; called once, outside of the lock.
pub(crate) type Waiter = Box<dyn FnOnce(Outcome) + Send>;

/// Calls that are due.
#[derive(Default)]
pub(crate) struct Due(Vec<(Waiter, Outcome)>);

impl Due {
    /// Makes the calls.
    pub(crate) fn call(self) {
        for (waiter, outcome) in self.0 {
            waiter(outcome);
        }
    }

    fn extend(&mut self, waiters: impl IntoIterator<Item = Waiter>, outcome: &Outcome) {
        self.0.extend(waiters.into_iter().map(|waiter| (waiter, outcome.clone())));
    }
}

/// How far one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Accepted,
    Logged,
    Completed,
}

struct Kept {
    id: Box<str>,
    reference: Option<Box<str>>,
    rule_count: usize,
    stage: Stage,
    record: Arc<[u8]>,
    waiters: Vec<(Until, Waiter)>,
}

impl Kept {
    fn view(&self, number: u64) -> View {
        View { number, is_completed: self.stage == Stage::Completed, record: Arc::clone(&self.record) }
    }
}

/// The header and the records of a log.
pub(crate) type Replacement = (Header, Vec<Arc<[u8]>>);

/// What was accepted anew.
pub(crate) struct Accepted {
    /// What the log must hold before anybody is told.
    pub(crate) record: Arc<[u8]>,
}

/// Everything that is known of invalidations.
pub(crate) struct Registry {
    kept: BTreeMap<u64, Kept>,
    by_id: HashMap<Box<str>, u64>,
    by_reference: HashMap<Box<str>, u64>,
    /// Accepted or logged, not completed.
    open: BTreeSet<u64>,
    open_len: usize,
    /// Those of them for whose completion somebody waits.
    awaited: BTreeSet<u64>,
    /// The bytes of all records, and of those whose rules still matter.
    kept_len: usize,
    unsettled_len: usize,
    /// The last number that was given.
    last: u64,
    applied: u64,
    header: Header,
    /// Why the log cannot be written.
    broken: Option<Arc<str>>,
    /// The log is being rewritten.
    is_rewriting: bool,
    log_len: u64,
}

impl Registry {
    /// Goes on from what the log had: its header and its records, whose rules the cores are told before they serve.
    pub(crate) fn new(header: Header, records: Vec<(Invalidation, Arc<[u8]>)>, log_len: u64) -> Self {
        let mut registry = Registry {
            kept: BTreeMap::new(),
            by_id: HashMap::new(),
            by_reference: HashMap::new(),
            open: BTreeSet::new(),
            open_len: 0,
            awaited: BTreeSet::new(),
            kept_len: 0,
            unsettled_len: 0,
            last: header.numbers,
            applied: 0,
            header,
            broken: None,
            is_rewriting: false,
            log_len,
        };
        for (invalidation, record) in records {
            registry.keep(&invalidation, record, Stage::Completed);
        }
        registry
    }

    /// Accepts a batch under the number that `next` gives, or finds the earlier one of the same caller reference (I-5).
    ///
    /// The flag of the result tells whether it is new: then its record goes to the log and its rules to the cores.
    pub(crate) fn accept(
        &mut self,
        batch: Batch,
        now_ms: u64,
        next: impl FnOnce() -> u64,
    ) -> Result<(u64, Option<Accepted>), Refusal> {
        if let Some(earlier) = self.earlier(&batch)? {
            return Ok((earlier, None));
        }
        if let Some(cause) = &self.broken {
            return Err(Refusal::Log(Arc::clone(cause)));
        }
        if self.open.len() >= IN_PROGRESS_COUNT_MAX || self.open_len >= IN_PROGRESS_LEN_MAX {
            return Err(Refusal::TooMany);
        }
        let number = next();
        debug_assert!(number > self.last, "numbers rise");
        self.last = number;
        let invalidation =
            Invalidation { number, created_ms: now_ms, id: self.free_id(number, now_ms), batch };
        let entry = Entry::Invalidation(Box::new(invalidation));
        let record: Arc<[u8]> = entry.encode(self.header.file).into();
        let Entry::Invalidation(invalidation) = entry else { unreachable!("it was made a line above") };
        self.keep(&invalidation, Arc::clone(&record), Stage::Accepted);
        self.open.insert(number);
        self.open_len += record.len();
        Ok((number, Some(Accepted { record })))
    }

    fn earlier(&self, batch: &Batch) -> Result<Option<u64>, Refusal> {
        let Some(number) = batch.reference.as_ref().and_then(|name| self.by_reference.get(name)) else {
            return Ok(None);
        };
        let kept = &self.kept[number];
        let view = kept.view(*number);
        let earlier = view.front();
        if earlier.soft == batch.soft && is_same_set(&earlier.items, &batch.written()) {
            return Ok(Some(*number));
        }
        Err(Refusal::OtherItems(kept.id.clone()))
    }

    /// Makes an id that nobody has: upper-case letters and digits behind an `I` (I-4).
    fn free_id(&self, number: u64, now_ms: u64) -> Box<str> {
        const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let seed = [self.header.file.to_le_bytes(), number.to_le_bytes(), now_ms.to_le_bytes()].concat();
        let mut mixed = xxh3_64(&seed);
        loop {
            let digits = (0..13).map(|at| char::from(DIGITS[(mixed >> (5 * at) & 31) as usize]));
            let id: Box<str> = std::iter::once('I').chain(digits).collect::<String>().into();
            if !self.by_id.contains_key(&id) {
                return id;
            }
            mixed = mixed.wrapping_add(1);
        }
    }

    fn keep(&mut self, invalidation: &Invalidation, record: Arc<[u8]>, stage: Stage) {
        let Invalidation { number, id, batch, .. } = invalidation;
        self.last = self.last.max(*number);
        self.kept_len += record.len();
        if *number > self.header.settled {
            self.unsettled_len += record.len();
        }
        self.by_id.insert(id.clone(), *number);
        if let Some(reference) = &batch.reference {
            self.by_reference.insert(reference.clone(), *number);
        }
        self.kept.insert(
            *number,
            Kept {
                id: id.clone(),
                reference: batch.reference.clone(),
                rule_count: batch.rules.len(),
                stage,
                record,
                waiters: Vec::new(),
            },
        );
    }

    /// Calls back when it is so far, at once if it is; `Err` gives the waiter back if there is no such invalidation.
    pub(crate) fn wait(&mut self, number: u64, until: Until, waiter: Waiter) -> Result<Due, Waiter> {
        let Some(kept) = self.kept.get_mut(&number) else { return Err(waiter) };
        let mut due = Due::default();
        let is_so_far = kept.stage >= if until == Until::Logged { Stage::Logged } else { Stage::Completed };
        match is_so_far {
            true => due.0.push((waiter, Ok(kept.view(number)))),
            false => {
                if until == Until::Completed {
                    self.awaited.insert(number);
                }
                kept.waiters.push((until, waiter));
            }
        }
        Ok(due)
    }

    /// The log holds everything up to this number.
    pub(crate) fn logged(&mut self, up_to: u64, log_len: u64) -> Due {
        self.log_len = log_len;
        for number in self.open.range(..=up_to) {
            let kept = self.kept.get_mut(number).expect("what is open is kept");
            kept.stage = kept.stage.max(Stage::Logged);
        }
        self.complete()
    }

    /// The log could not take these, and takes nothing until it was rewritten.
    pub(crate) fn failed(&mut self, numbers: &[u64], cause: &Arc<str>) -> Due {
        self.broken = Some(Arc::clone(cause));
        let mut due = Due::default();
        for number in numbers {
            let Some(kept) = self.drop_kept(*number) else { continue };
            due.extend(kept.waiters.into_iter().map(|(_, waiter)| waiter), &Err(Arc::clone(cause)));
        }
        due
    }

    /// Returns the next number that the cores have to apply because somebody waits for it; `u64::MAX` if nobody does.
    pub(crate) fn awaited(&self) -> u64 {
        let further = (Bound::Excluded(self.applied), Bound::Unbounded);
        self.awaited.range(further).next().copied().unwrap_or(u64::MAX)
    }

    /// Every core has applied everything up to this number.
    pub(crate) fn applied(&mut self, up_to: u64) -> Due {
        self.applied = self.applied.max(up_to);
        self.complete()
    }

    /// Calls those who waited, and completes what is in the log and applied. What is logged is logged in order, and so is what is applied.
    fn complete(&mut self) -> Due {
        let mut due = Due::default();
        let mut completed = Vec::new();
        for number in &self.open {
            let kept = self.kept.get_mut(number).expect("what is open is kept");
            if kept.stage < Stage::Logged {
                break;
            }
            if *number <= self.applied {
                kept.stage = Stage::Completed;
                completed.push(*number);
            }
            let view = Ok(kept.view(*number));
            let is_completed = kept.stage == Stage::Completed;
            due.extend(
                kept.waiters
                    .extract_if(.., |(until, _)| is_completed || *until == Until::Logged)
                    .map(|(_, waiter)| waiter),
                &view,
            );
        }
        for number in completed {
            self.open.remove(&number);
            self.awaited.remove(&number);
            self.open_len -= self.kept[&number].record.len();
        }
        self.forget_old();
        due
    }

    /// Nothing older than this number is stored any more. Returns whether that is news, which the cores' tables want to hear.
    pub(crate) fn settled(&mut self, up_to: u64) -> bool {
        if up_to <= self.header.settled {
            return false;
        }
        let newly = self.kept.range(self.header.settled + 1..=up_to);
        self.unsettled_len -= newly.map(|(_, kept)| kept.record.len()).sum::<usize>();
        self.header.settled = up_to;
        self.forget_old();
        true
    }

    /// Drops the oldest completed ones above the limits; first those whose rules no longer matter.
    fn forget_old(&mut self) {
        while self.kept.len() - self.open.len() > REMEMBERED_COUNT_MAX || self.kept_len > REMEMBERED_LEN_MAX {
            let Some((&number, kept)) = self.kept.first_key_value() else { break };
            if kept.stage != Stage::Completed || number > self.header.settled {
                break;
            }
            self.drop_kept(number);
        }
        if self.unsettled_len > UNSETTLED_LEN_MAX {
            self.fold();
        }
    }

    /// Replaces the older half of what still matters by "everything up to there": after a restart too much is invalidated, never too little.
    fn fold(&mut self) {
        let unsettled = self.kept.range(self.header.settled + 1..);
        let completed = unsettled.filter(|(_, kept)| kept.stage == Stage::Completed);
        let numbers: Vec<u64> = completed.map(|(number, _)| *number).collect();
        let Some(last) = numbers.get(numbers.len() / 2) else { return };
        tracing::warn!(
            "too many invalidations still matter: the log will count everything before number {last} as invalidated"
        );
        self.header.folded = *last;
        for number in &numbers[..=numbers.len() / 2] {
            self.drop_kept(*number);
        }
    }

    fn drop_kept(&mut self, number: u64) -> Option<Kept> {
        let kept = self.kept.remove(&number)?;
        self.by_id.remove(&kept.id);
        // A reference may have been given to a later one meanwhile.
        if let Some(reference) = &kept.reference
            && self.by_reference.get(reference) == Some(&number)
        {
            self.by_reference.remove(reference);
        }
        self.kept_len -= kept.record.len();
        if number > self.header.settled {
            self.unsettled_len -= kept.record.len();
        }
        self.awaited.remove(&number);
        if self.open.remove(&number) {
            self.open_len -= kept.record.len();
        }
        Some(kept)
    }

    /// Returns the invalidation with this id.
    pub(crate) fn by_id(&self, id: &str) -> Option<View> {
        let number = self.by_id.get(id)?;
        self.by_number(*number)
    }

    /// Returns the invalidation with this number.
    pub(crate) fn by_number(&self, number: u64) -> Option<View> {
        self.kept.get(&number).map(|kept| kept.view(number))
    }

    /// Returns at most `count` of them, newest first, those after the one with the id `marker`, and whether there are more (I-2).
    ///
    /// What is not in the log yet is not listed: it may still fail. `None` if nobody has that id.
    pub(crate) fn list(&self, marker: Option<&str>, count: usize) -> Option<(Vec<View>, bool)> {
        let before = match marker {
            Some(id) => *self.by_id.get(id)?,
            None => u64::MAX,
        };
        let older = self.kept.range(..before).rev();
        let mut listed = older.filter(|(_, kept)| kept.stage >= Stage::Logged);
        let page: Vec<View> = listed.by_ref().take(count).map(|(number, kept)| kept.view(*number)).collect();
        Some((page, listed.next().is_some()))
    }

    /// Returns what a shorter log holds, if most of the one that is there is of no more use.
    pub(crate) fn shorten(&mut self) -> Option<Replacement> {
        let is_due = self.broken.is_none() && self.log_len > REWRITE_LEN_MIN.max(2 * self.kept_len as u64);
        if is_due { self.replacement() } else { None }
    }

    /// Returns what a new log holds that takes the place of one that cannot be written.
    pub(crate) fn mend(&mut self) -> Option<Replacement> {
        if self.broken.is_some() { self.replacement() } else { None }
    }

    fn replacement(&mut self) -> Option<Replacement> {
        if std::mem::replace(&mut self.is_rewriting, true) {
            return None;
        }
        self.header.numbers = self.last;
        Some((self.header, self.kept.values().map(|kept| Arc::clone(&kept.record)).collect()))
    }

    /// The log was rewritten, or could not be.
    pub(crate) fn rewritten(&mut self, outcome: Result<u64, Arc<str>>) {
        self.is_rewriting = false;
        match outcome {
            Ok(log_len) => {
                self.log_len = log_len;
                self.broken = None;
            }
            Err(cause) => self.broken = Some(cause),
        }
    }

    /// Why the log cannot be written, if so.
    pub(crate) fn broken(&self) -> Option<&Arc<str>> {
        self.broken.as_ref()
    }

    /// What `/metrics` tells.
    pub(crate) fn figures(&self) -> Figures {
        let pending = self.kept.range(self.header.settled + 1..);
        Figures {
            in_progress: self.open.len() as u64,
            listed: self.kept.len() as u64,
            rules_pending: pending.map(|(_, kept)| kept.rule_count as u64).sum(),
            log_len: self.log_len,
            last: self.last,
            is_broken: self.broken.is_some(),
        }
    }
}

/// Levels of the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Accepted and not completed.
    pub(crate) in_progress: u64,
    /// In the list.
    pub(crate) listed: u64,
    /// Rules that may still concern something.
    pub(crate) rules_pending: u64,
    /// Bytes of the log; 0 without one.
    pub(crate) log_len: u64,
    /// The last number given.
    pub(crate) last: u64,
    /// The log cannot be written.
    pub(crate) is_broken: bool,
}

#[cfg(test)]
mod tests;
