//! The control thread of the simulated daemon: gives batches their numbers, keeps the log, tells the cores, and says when one is done; and the
//! cores' side of it: rules come in, sweeps go through what is stored, old rules are forgotten. And restarts, which lose all but the log.
//!
//! Told by the world when the operator asks; its messages take their time like those between cores. Invariants: a batch is done when every core has its
//! rules and the log is safe; a core's rules come in the order of their numbers; rules are forgotten when no core has anything older.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use aspis_cache::invalidation::{Rule, RuleTable, Subject, Verdict};
use aspis_exchange::collapse::Asked;
use aspis_storage::response::StoredResponse;
use aspis_storage::rules::hold;

use super::counts::Count;
use super::viewer::{Primary, State};
use super::world::{Consumer, Core, Happening, World, note};

/// Entries that one step of a sweep looks at.
const SWEEP_COUNT: usize = 5;

/// What the control thread knows.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// The number of the newest batch: what origin requests carry that are sent now.
    pub(crate) number: u64,
    /// What is told is told before the log is safe.
    tells_early: bool,
    /// Accepted, and not safe in the log yet.
    unsafe_: VecDeque<Rc<Batch>>,
    /// Safe, and not forgotten.
    log: Vec<Rc<Batch>>,
    safe: u64,
    applied: Vec<u64>,
    settled: Vec<u64>,
    forgotten: u64,
    /// When the last message to a core arrives.
    last: Vec<u64>,
    /// How often everything began anew.
    pub(crate) life: u64,
}

/// Rules with one number.
#[derive(Debug)]
pub(crate) struct Batch {
    number: u64,
    /// The judge's name for it.
    name: usize,
    rules: Vec<Rule>,
}

/// What a core is told.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Rules(Rc<Batch>),
    Forget(u64),
}

/// That a core looked at a response with new rules, for the judge.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) key: Box<[u8]>,
    pub(crate) from: u64,
    pub(crate) verdict: Verdict,
    /// It was about to be stored.
    pub(crate) is_late: bool,
}

/// How far a core's sweep is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sweep {
    /// The number that the running round began at.
    round: Option<u64>,
    settled: u64,
}

impl Control {
    pub(crate) fn new(cores: usize, tells_early: bool) -> Control {
        let each = || vec![0; cores];
        Control { tells_early, applied: each(), settled: each(), last: each(), ..Control::default() }
    }
}

impl Core {
    /// Tells whether a response may be used, and notes for the judge what the rules made of it.
    pub(crate) fn holds(&self, stored: &StoredResponse, wall: u64) -> bool {
        held(stored, &self.rules, wall, &self.judged)
    }

    /// The same for what is about to be stored.
    pub(crate) fn admits(&self, stored: &StoredResponse, wall: u64) -> bool {
        let before = self.judged.borrow().len();
        let admits = self.holds(stored, wall);
        self.judged.borrow_mut()[before..].iter_mut().for_each(|judged| judged.is_late = true);
        admits
    }
}

fn held(stored: &StoredResponse, rules: &RuleTable, wall: u64, judged: &RefCell<Vec<Judged>>) -> bool {
    let (from, until, was_live) = (stored.invalidation(), stored.fresh_until(), stored.is_live());
    let holds = hold(stored, rules, wall);
    let verdict = match holds {
        false if was_live => Verdict::Gone,
        true if stored.fresh_until() < until => Verdict::Stale,
        _ => return holds,
    };
    judged.borrow_mut().push(Judged { key: stored.key.clone(), from, verdict, is_late: false });
    holds
}

impl World {
    /// The operator asks for something to be invalidated.
    pub(crate) fn accepts(&mut self, purge: usize) {
        let purge = self.scenario.purges[purge].clone();
        let rules: Result<Vec<Rule>, _> = purge.items.iter().map(|item| item.rule()).collect();
        let rules = match rules {
            Ok(rules) => rules,
            Err(error) => return self.oracle.fault(format!("{:?} is no rule: {error}", purge.items)),
        };
        // At the moment of acceptance: what is sent to the origin from now on is newer than the rules.
        self.control.number += 1;
        let number = self.control.number;
        note!(self, "batch {number}: {:?}", purge.items);
        let name = self.oracle.accepts(number, purge.items);
        self.counts.add(Count::Purges, 1);
        let batch = Rc::new(Batch { number, name, rules });
        self.control.unsafe_.push_back(Rc::clone(&batch));
        if self.control.tells_early {
            self.tell_all(&Told::Rules(batch));
        }
        let life = self.control.life;
        self.schedule_after(purge.sync_millis, Happening::Safe { number, life });
    }

    /// The log is safe up to a number.
    pub(crate) fn safe(&mut self, number: u64, life: u64) {
        if life != self.control.life {
            return;
        }
        while self.control.unsafe_.front().is_some_and(|batch| batch.number <= number) {
            let Some(batch) = self.control.unsafe_.pop_front() else { break };
            self.control.log.push(Rc::clone(&batch));
            if !self.control.tells_early {
                self.tell_all(&Told::Rules(batch));
            }
        }
        self.control.safe = self.control.safe.max(number);
        self.completes();
    }

    fn tell_all(&mut self, told: &Told) {
        let life = self.control.life;
        for core in 0..self.cores.len() {
            let at = (self.now + self.delay()).max(self.control.last[core]);
            self.control.last[core] = at;
            self.schedule(at, Happening::Told { core, told: told.clone(), life });
        }
    }

    /// A core is told of rules, or to forget some.
    pub(crate) fn told(&mut self, core: usize, told: Told, life: u64) {
        if life != self.control.life {
            return;
        }
        let it = &mut self.cores[core];
        match told {
            Told::Rules(batch) => {
                note!(self, "core {core} has the rules of batch {}", batch.number);
                it.rules.add(batch.number, &batch.rules);
                self.control.applied[core] = it.rules.latest();
                self.completes();
            }
            Told::Forget(number) => {
                note!(self, "core {core} forgets the rules up to {number}");
                it.rules.forget_up_to(number);
                self.counts.add(Count::Forgotten, 1);
            }
        }
    }

    /// What is on every core and safe is done.
    fn completes(&mut self) {
        let control = &self.control;
        let done = control.applied.iter().copied().chain([control.safe]).min().unwrap_or(0);
        for batch in control.log.iter().filter(|batch| batch.number <= done) {
            if self.oracle.completes(batch.name) {
                note!(self, "batch {} is done", batch.number);
                self.counts.add(Count::Completed, 1);
            }
        }
    }

    /// A core's sweep goes on; when a round is through and nothing older is under way here, rules can be forgotten.
    pub(crate) fn sweeps_rules(&mut self, core: usize) {
        let wall = self.clock().wall;
        let oldest = self.oldest_flight(core);
        let it = &mut self.cores[core];
        let latest = it.rules.latest();
        if latest > it.sweep.settled {
            let round = *it.sweep.round.get_or_insert(latest);
            let (rules, judged) = (&it.rules, &it.judged);
            let through = it.tier.sweep(SWEEP_COUNT, &mut |stored| held(stored, rules, wall, judged));
            if through && oldest.is_some_and(|oldest| oldest < round) {
                // The next round looks at what those bring.
                it.sweep.round = None;
            } else if through {
                it.sweep = Sweep { round: None, settled: round };
                self.control.settled[core] = round;
                self.counts.add(Count::RuleSweeps, 1);
                self.forgets();
            }
        }
        self.justify(core);
        let life = self.control.life;
        if self.now < self.scenario.ends_at {
            self.schedule_after(self.scenario.rule_sweep_millis, Happening::SweepsRules { core, life });
        }
    }

    fn forgets(&mut self) {
        let control = &mut self.control;
        let settled = control.settled.iter().copied().min().unwrap_or(0).min(control.safe);
        if settled > control.forgotten {
            control.forgotten = settled;
            control.log.retain(|batch| batch.number > settled);
            self.tell_all(&Told::Forget(settled));
        }
    }

    /// The least number of the flights of a core that may still store something.
    fn oldest_flight(&self, core: usize) -> Option<u64> {
        self.cores[core].flights.values().map(|flight| self.flights[*flight].number).min()
    }

    /// The judge hears what the rules did on a core, which has to have a reason.
    pub(crate) fn justify(&mut self, core: usize) {
        let it = &self.cores[core];
        let (latest, floor) = (it.rules.latest(), it.rules.floor());
        for judged in it.judged.take() {
            let count = if judged.verdict == Verdict::Gone { Count::Purged } else { Count::Softened };
            self.counts.add(count, 1);
            note!(
                self,
                "core {core}: {:?} from {}, {}",
                judged.verdict,
                judged.from,
                String::from_utf8_lossy(&judged.key).replace('\n', " ")
            );
            self.oracle.lets_go(&self.scenario, &judged, latest, floor);
        }
    }

    /// Whether what was found earlier may still be used by this viewer's core.
    pub(crate) fn still_held(&mut self, id: usize) -> Option<Arc<StoredResponse>> {
        let (core, wall) = (self.viewers[id].core, self.clock().wall);
        let found = self.viewers[id].found.clone()?;
        let holds = self.cores[core].holds(&found, wall);
        self.justify(core);
        holds.then_some(found)
    }

    /// Before anybody joins a flight or is told of a mark: those that a newer rule concerns are closed and lifted (I-22).
    pub(crate) fn close_outdated(&mut self, core: usize, primary: &Primary, asked: &Asked<'_>) {
        let now = self.clock();
        let it = &self.cores[core];
        let (latest, floor) = (it.rules.latest(), it.rules.floor());
        if let Some(joinable) = it.collapse.joinable(asked)
            && joinable.number < latest
        {
            let flight = it.flights[&joinable.flight];
            let arriving = self.flights[flight].arriving();
            let tags = arriving.map(|stored| &*stored.tags);
            if self.concerns(core, primary, tags, joinable.number) {
                note!(self, "flight {flight} is outdated by {latest}");
                self.counts.add(Count::Outdated, 1);
                let judged = outdated(primary, joinable.number);
                if tags.is_some() {
                    self.oracle.outdates(&self.scenario, &judged, latest);
                } else {
                    self.oracle.closes(&self.scenario, &judged, latest, floor);
                }
                self.cores[core].collapse.close(joinable.flight);
                self.oracle.parts(flight);
            }
        }
        if let Some(from) = self.cores[core].collapse.mark_number(primary.0, now)
            && from < latest
            && self.concerns(core, primary, None, from)
        {
            self.counts.add(Count::MarksLifted, 1);
            let judged = outdated(primary, from);
            self.oracle.closes(&self.scenario, &judged, latest, floor);
            self.cores[core].collapse.lift_mark(primary.0);
            self.oracle.lifts(&primary.1);
        }
    }

    fn concerns(&self, core: usize, primary: &Primary, tags: Option<&[u64]>, from: u64) -> bool {
        let rules = &self.cores[core].rules;
        let subject = Subject { key: &primary.1, tags: tags.unwrap_or_default() };
        rules.judge(&subject, from) > Verdict::Untouched
            || (tags.is_none() && rules.may_concern_unknown_tags(from))
    }

    /// The process is killed and starts again: memory, connections and messages are lost, and so is what the log had not made safe.
    pub(crate) fn restarts(&mut self) {
        note!(self, "everything restarts");
        self.counts.add(Count::Restarts, 1);
        self.control.life += 1;
        for id in 0..self.viewers.len() {
            let viewer = &mut self.viewers[id];
            if !viewer.is_done() && !matches!(viewer.state, State::Coming) {
                viewer.state = State::Left;
                self.counts.add(Count::Left, 1);
            }
            let viewer = &mut self.viewers[id];
            (viewer.found, viewer.deposit) = (None, None);
        }
        self.fetches.iter_mut().for_each(|fetch| fetch.consumer = Consumer::Nobody);
        self.flights.iter_mut().for_each(|flight| flight.is_lost());
        for batch in self.control.unsafe_.drain(..) {
            self.oracle.loses(batch.name);
        }
        self.oracle.restarts();
        let number = self.control.safe;
        let (log, forgotten) = (self.control.log.clone(), self.control.forgotten);
        let count = self.cores.len();
        self.cores.clear();
        for _ in 0..count {
            match Core::new(&self.scenario, &self.budget) {
                Ok(mut core) => {
                    log.iter().for_each(|batch| core.rules.add(batch.number, &batch.rules));
                    core.rules.forget_up_to(forgotten);
                    self.cores.push(core);
                }
                Err(error) => return self.oracle.fault(error),
            }
        }
        self.control.number = number;
        self.control.applied = self.cores.iter().map(|core| core.rules.latest()).collect();
        self.control.settled.fill(forgotten);
        self.completes();
        let life = self.control.life;
        for core in 0..count {
            self.schedule_after(self.scenario.rule_sweep_millis, Happening::SweepsRules { core, life });
        }
    }
}

/// What a flight or a mark would bring is not for those who come now.
fn outdated(primary: &Primary, from: u64) -> Judged {
    Judged { key: primary.1.clone(), from, verdict: Verdict::Gone, is_late: false }
}
