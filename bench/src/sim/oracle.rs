//! The judge: what viewers got is held against what the origin said, and what flights do against what may not be.
//!
//! Told by the world what happens; it asks the product nothing. Its rules are in the words of the RFCs and of the product specification:
//! bytes of one representation only, nothing staler than allowed (RFC 9111 §4.2.4, RFC 5861), nothing from before an invalidation (§4.4),
//! nobody else's answer, one fetch for a key at a time (C-1), and everybody is answered once.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use aspis_cache::invalidation::Verdict;

use super::control::Judged;
use super::origin::Record;
use super::purge::Item;
use super::scenario::{OnError, Plan, Scenario, Site, Verb};
use super::text::Head;

/// What a viewer got.
#[derive(Clone, Debug, Default)]
pub(crate) struct Got {
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
    /// When it was decided that this is the answer.
    pub(crate) at: u64,
    /// Where it comes from memory: how many batches of rules had been accepted when the first byte there was asked for.
    pub(crate) began: Option<usize>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Whole,
    /// The viewer saw that something is missing.
    Broken,
}

/// A flight as the judge sees it.
#[derive(Clone, Debug)]
struct Flown {
    flight: usize,
    primary: Vec<u8>,
    /// Its head is there.
    settled: bool,
}

/// What was done to an object.
#[derive(Clone, Copy, Debug)]
struct Invalidated {
    site: usize,
    done_at: u64,
    /// The first version that may be seen afterwards.
    version: u64,
}

/// A batch of rules that the operator was told was accepted.
#[derive(Debug)]
struct Accepted {
    number: u64,
    items: Vec<Item>,
    /// The operator was told so.
    is_done: bool,
    /// It was not safe when everything restarted.
    is_lost: bool,
}

/// The judge's memory.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// The first fault that was found.
    pub(crate) fault: Option<String>,
    /// By owner and selected key, the flight that others may join.
    joinable: HashMap<(usize, Vec<u8>), Flown>,
    /// All flights so far: for which primary key, and whether that was invalidated since.
    flying: Vec<(Vec<u8>, bool)>,
    /// By primary key, until when each goes alone.
    marked: HashMap<Vec<u8>, u64>,
    /// When requests for a site failed, as the product learnt it.
    failures: Vec<(usize, u64)>,
    /// Versions of sites whose content broke off.
    breaks: Vec<(usize, u64)>,
    invalidations: Vec<Invalidated>,
    /// Viewers that were refused since too many waited.
    refused: Vec<usize>,
    /// Viewers whose answer may break for want of memory, or of speed.
    excused: Vec<usize>,
    /// Viewers for whose request the origin was asked.
    fetched: HashSet<usize>,
    /// Versions that unsafe requests made, by viewer.
    posted: HashMap<usize, u64>,
    accepted: Vec<Accepted>,
    /// How many of them count for a viewer: all up to the last that was done when it came.
    counting: HashMap<usize, usize>,
    /// For viewers that are answered since the origin failed: the newest number that their core has.
    knowing: HashMap<usize, u64>,
    /// Answers that were stale by a soft rule alone.
    pub(crate) soft_served: Cell<u64>,
}

impl Oracle {
    /// Notes a fault; the first one counts.
    pub(crate) fn fault(&mut self, text: impl Into<String>) {
        self.fault.get_or_insert_with(|| text.into());
    }

    /// A flight begins that others may join.
    pub(crate) fn begins(&mut self, owner: usize, key: &[u8], primary: &[u8], flight: usize) {
        self.flying.push((primary.to_vec(), false));
        let flown = Flown { flight, primary: primary.to_vec(), settled: false };
        if let Some(other) = self.joinable.insert((owner, key.to_vec()), flown) {
            self.fault(format!(
                "flights {} and {flight} run for the key {:?}",
                other.flight,
                String::from_utf8_lossy(key)
            ));
        }
    }

    /// A flight has another key from now on, unless one runs for that.
    pub(crate) fn rekeys(&mut self, owner: usize, key: &[u8], flight: usize) {
        let at = self.joinable.iter().find(|(_, flown)| flown.flight == flight).map(|(at, _)| at.clone());
        let Some(flown) = at.and_then(|at| self.joinable.remove(&at)) else { return };
        self.joinable.entry((owner, key.to_vec())).or_insert(flown);
    }

    /// Nobody may join a flight any more.
    pub(crate) fn parts(&mut self, flight: usize) {
        self.joinable.retain(|_, flown| flown.flight != flight);
    }

    /// A flight's head is there: for all, or for its leader alone.
    pub(crate) fn settles(&mut self, flight: usize, for_all: bool) {
        for flown in self.joinable.values_mut().filter(|flown| flown.flight == flight) {
            flown.settled = true;
        }
        if !for_all {
            self.parts(flight);
        }
    }

    /// What came for a flight was for one viewer only, so that until then each goes alone, or it was not. A doomed one says nothing.
    pub(crate) fn marks(&mut self, flight: usize, until: Option<u64>) {
        let (primary, doomed) = &self.flying[flight];
        match until {
            _ if *doomed => None,
            Some(until) => self.marked.insert(primary.clone(), until),
            None => self.marked.remove(primary),
        };
    }

    /// A viewer joins a flight, to wait for its head or for what is there. `mark_millis` is how long a mark holds at least.
    pub(crate) fn joins(&mut self, viewer: usize, flight: usize, now: u64, mark_millis: u64) {
        // A mark that is set again may keep its time while half of it is left.
        let marked =
            self.marked.get(&self.flying[flight].0).is_some_and(|until| now + mark_millis / 2 < *until);
        let waits = self.joinable.values().any(|flown| flown.flight == flight && !flown.settled);
        if marked && waits {
            self.fault(format!("viewer {viewer} queues for flight {flight}, whose key is marked"));
        }
        if !self.joinable.values().any(|flown| flown.flight == flight) {
            self.fault(format!("viewer {viewer} joins flight {flight}, which nobody may join"));
        }
    }

    /// A viewer goes to the origin by itself, although it could have shared a fetch.
    pub(crate) fn goes_alone(&mut self, viewer: usize, owner: usize, key: &[u8], primary: &[u8], now: u64) {
        let marked = self.marked.get(primary).is_some_and(|until| now < *until);
        let flies = self.joinable.contains_key(&(owner, key.to_vec()));
        if !marked || self.joinable.get(&(owner, key.to_vec())).is_some_and(|flown| flown.settled) {
            self.fault(format!("viewer {viewer} goes alone without a mark (a flight runs: {flies})"));
        }
    }

    /// A HEAD finds no flight to follow.
    pub(crate) fn finds_none(&mut self, viewer: usize, owner: usize, key: &[u8], primary: &[u8], now: u64) {
        let marked = self.marked.get(primary).is_some_and(|until| now < *until);
        if !marked && self.joinable.contains_key(&(owner, key.to_vec())) {
            self.fault(format!("viewer {viewer} does not follow the flight for its key"));
        }
    }

    /// A batch of rules is accepted; returns the judge's name for it.
    pub(crate) fn accepts(&mut self, number: u64, items: Vec<Item>) -> usize {
        self.accepted.push(Accepted { number, items, is_done: false, is_lost: false });
        self.accepted.len() - 1
    }

    /// How many batches were accepted.
    pub(crate) fn rules(&self) -> usize {
        self.accepted.len()
    }

    /// The operator is told that a batch is done; false if it was before.
    pub(crate) fn completes(&mut self, name: usize) -> bool {
        !std::mem::replace(&mut self.accepted[name].is_done, true)
    }

    /// A batch was not safe when everything restarted.
    pub(crate) fn loses(&mut self, name: usize) {
        if self.accepted[name].is_done {
            self.fault(format!("batch {name} was done and is lost"));
        }
        self.accepted[name].is_lost = true;
    }

    /// Everything restarts: nobody flies, nothing is marked.
    pub(crate) fn restarts(&mut self) {
        self.joinable.clear();
        self.marked.clear();
    }

    /// A viewer comes: what is done now holds for it (I-21).
    pub(crate) fn arrives(&mut self, viewer: usize) {
        let count = self.accepted.iter().rposition(|accepted| accepted.is_done).map_or(0, |last| last + 1);
        self.counting.insert(viewer, count);
    }

    /// A viewer gets something stale, since the origin failed, from a core that has the rules up to `latest`: what they took is not used (I-25).
    pub(crate) fn stale_on_error(&mut self, viewer: usize, latest: u64) {
        self.knowing.insert(viewer, latest);
    }

    /// A rule took something stored out of use, or made it stale: one has to concern it.
    pub(crate) fn lets_go(&mut self, scenario: &Scenario, judged: &Judged, latest: u64, floor: u64) {
        let is_hard = judged.verdict == Verdict::Gone;
        let concerns = |item: &Item, site: &Site| item.soft != is_hard && item.concerns(site);
        // What comes from before all that is remembered is refused, which may be too much; what is stored already never is that old.
        if !(judged.is_late && judged.from < floor) {
            self.has_reason(scenario, judged, latest, concerns);
        }
    }

    /// A flight without a head, or a mark, is not for those who come now: a rule has to concern its key, or it may by its tags.
    pub(crate) fn closes(&mut self, scenario: &Scenario, judged: &Judged, latest: u64, floor: u64) {
        if judged.from >= floor {
            self.has_reason(scenario, judged, latest, |item, site| item.is_tag() || item.concerns(site));
        }
    }

    /// A flight whose head is there is not for those who come now: a rule has to concern it.
    pub(crate) fn outdates(&mut self, scenario: &Scenario, judged: &Judged, latest: u64) {
        self.has_reason(scenario, judged, latest, Item::concerns);
    }

    fn has_reason(
        &mut self,
        scenario: &Scenario,
        judged: &Judged,
        latest: u64,
        concerns: impl Fn(&Item, &Site) -> bool,
    ) {
        let path = judged.key.split(|byte| *byte == b'\n').nth(2).unwrap_or_default();
        let Some(site) = scenario.sites.iter().find(|site| site.path.as_bytes() == path) else {
            return self.fault(format!("a rule was held against {:?}", judged.key));
        };
        let newer = |accepted: &&Accepted| {
            !accepted.is_lost && accepted.number > judged.from && accepted.number <= latest
        };
        let mut items = self.accepted.iter().filter(newer).flat_map(|accepted| &accepted.items);
        if !items.any(|item| concerns(item, site)) {
            self.fault(format!(
                "{} is {:?} from {} to {latest} without a rule",
                site.path, judged.verdict, judged.from
            ));
        }
    }

    /// A mark was taken away.
    pub(crate) fn lifts(&mut self, primary: &[u8]) {
        self.marked.remove(primary);
    }

    /// Too many wait.
    pub(crate) fn refuses(&mut self, viewer: usize) {
        self.refused.push(viewer);
    }

    /// The origin is asked for a viewer's request.
    pub(crate) fn fetches(&mut self, viewer: usize) {
        self.fetched.insert(viewer);
    }

    /// A viewer's answer may break: it is passed on, and memory is short or the viewer slow.
    pub(crate) fn excuses(&mut self, viewer: usize) {
        self.excused.push(viewer);
    }

    /// A request to a site failed, or was answered by an error of the server.
    pub(crate) fn fails(&mut self, site: usize, now: u64) {
        self.failures.push((site, now));
    }

    /// Content of a site broke off.
    pub(crate) fn breaks(&mut self, site: usize, version: u64) {
        self.breaks.push((site, version));
    }

    /// The owner took away what it had of a primary key.
    pub(crate) fn invalidates(&mut self, primary: &[u8]) {
        self.joinable.retain(|_, flown| flown.primary != primary);
        self.flying.iter_mut().filter(|(of, _)| of == primary).for_each(|(_, doomed)| *doomed = true);
        self.marked.remove(primary);
    }

    /// An unsafe request was successful; this is the version that it made.
    pub(crate) fn posted(&mut self, viewer: usize, version: u64) {
        self.posted.insert(viewer, version);
    }

    /// Judges what a viewer got when nothing more comes.
    pub(crate) fn judge(
        &mut self,
        scenario: &Scenario,
        records: &[Record],
        viewer: usize,
        got: &Got,
        end: End,
        now: u64,
    ) {
        let plan = &scenario.plans[viewer];
        let head = Head::of(&got.head);
        let answer = Answer { viewer, plan, site: &scenario.sites[plan.site], got, head: &head, end };
        let verdict = match head.number("x-serial").map(|serial| &records[serial as usize]) {
            None => self.own_answer(&answer, now),
            Some(record) if plan.verb == Verb::Post => {
                if let Some(version) = self.posted.remove(&viewer).filter(|_| end == End::Whole) {
                    self.invalidations.push(Invalidated { site: plan.site, done_at: now, version });
                }
                check(record.leader == Some(viewer), "another's answer to a POST")
            }
            Some(record) => self.origins_answer(&answer, record, scenario.stale_as_stated),
        };
        if let Err(fault) = verdict {
            let first = String::from_utf8_lossy(&got.head);
            self.fault(format!(
                "viewer {viewer} ({plan:?}) got {fault}; {end:?}, {} bytes:\n{first}",
                got.body.len()
            ));
        }
    }

    /// An answer of the product's own has to have a reason.
    fn own_answer(&self, answer: &Answer<'_>, now: u64) -> Result<(), String> {
        let plan = answer.plan;
        let failed =
            self.failures.iter().any(|(site, at)| *site == plan.site && (plan.at..=now).contains(at));
        match answer.head.word(1) {
            "416" => check(plan.range.is_some(), "a 416 without a range"),
            "412" => check(plan.condition != super::scenario::Condition::None, "a 412 without a condition"),
            "500" | "502" | "503" | "504" => {
                check(failed || self.refused.contains(&answer.viewer), "an error although nothing failed")
            }
            status => Err(format!("{status} of the product's own")),
        }
    }

    fn origins_answer(
        &self,
        answer: &Answer<'_>,
        record: &Record,
        stale_as_stated: bool,
    ) -> Result<(), String> {
        check(record.site == answer.plan.site, "another URL's answer")?;
        check(
            record.language.as_deref().is_none_or(|language| language == answer.plan.language),
            "another variant's answer",
        )?;
        answer.bytes(record)?;
        if answer.end == End::Broken {
            let broke =
                self.breaks.contains(&(record.site, record.version)) || self.excused.contains(&answer.viewer);
            check(broke, "a broken answer although nothing broke")?;
        }
        let forgotten = self
            .invalidations
            .iter()
            .any(|it| it.site == record.site && it.done_at < answer.plan.at && record.version < it.version);
        check(!forgotten, "a version from before an invalidation that was done when it came")?;
        self.purged(answer, record, stale_as_stated)?;
        // C-4: only who asked the origin says that it missed.
        let missed = answer.head.field("x-cache").is_some_and(|cache| cache.starts_with("Miss"));
        check(
            !missed || self.fetched.contains(&answer.viewer),
            "a miss although nothing was fetched for it",
        )?;
        self.freshness(answer, record, stale_as_stated)
    }

    /// Nothing that was asked for before a rule that concerns it and was done when the viewer came (I-21); after a soft rule at most stale, where
    /// that is allowed.
    fn purged(&self, answer: &Answer<'_>, record: &Record, stale_as_stated: bool) -> Result<(), String> {
        let counting = self.counting.get(&answer.viewer).copied().unwrap_or(0);
        let began = answer.got.began.unwrap_or(record.rules);
        let mut is_stale = false;
        let known = self.knowing.get(&answer.viewer).copied().unwrap_or(0);
        let holds = |(name, it): &(usize, &Accepted)| {
            (*name < counting && it.is_done) || (!it.is_lost && it.number <= known)
        };
        for (name, accepted) in self.accepted.iter().enumerate().filter(holds) {
            for item in accepted.items.iter().filter(|item| item.concerns(answer.site)) {
                check(
                    item.soft || began > name,
                    &format!("what batch {} took away, asked for after {began} batches", accepted.number),
                )?;
                is_stale |= item.soft && record.rules <= name;
            }
        }
        if !is_stale {
            return Ok(());
        }
        self.soft_served.set(self.soft_served.get() + 1);
        let while_revalidating = answer.plan.verb == Verb::Get && record.policy.while_revalidating > 0;
        let on_error = match record.policy.on_error {
            OnError::Forbidden => false,
            OnError::Unstated => !stale_as_stated,
            OnError::Within(_) => true,
        };
        let failed = on_error && record.status < 500 && self.failed(answer, record);
        check(while_revalidating || failed, "what a soft rule made stale, as if it were fresh")
    }

    /// Not to be asked at all, for lack of room, is a failure too.
    fn failed(&self, answer: &Answer<'_>, record: &Record) -> bool {
        let times = answer.plan.at..=answer.got.at;
        self.refused.contains(&answer.viewer)
            || self.failures.iter().any(|(site, at)| *site == record.site && times.contains(at))
    }

    /// Nothing staler than allowed, and nothing that is for another alone.
    fn freshness(&self, answer: &Answer<'_>, record: &Record, stale_as_stated: bool) -> Result<(), String> {
        let (plan, policy) = (answer.plan, record.policy);
        let age = age(record, answer.got.at);
        // RFC 9111 §5.1; an answer that passes through has none.
        check(answer.head.number("age").is_none_or(|told| told >= age), "an Age below the truth")?;
        if record.leader == Some(answer.viewer) {
            return Ok(());
        }
        check(policy.shared, "an answer that is for another alone")?;
        check(!policy.validates, "an answer that each has to validate")?;
        // Collapsed: the head was not there yet when the request came (RFC 9111 §4, C-1).
        if record.received_at.is_some_and(|received| received >= plan.at) {
            return Ok(());
        }
        if age < policy.lifetime {
            // Two ticks of the second are the most that such a clock hides.
            let truth = answer.got.at - record.generated_at;
            return check(
                truth < (policy.lifetime + 2) * 1000,
                "an answer that is seconds older than its Age",
            );
        }
        let stale_for = age - policy.lifetime;
        if plan.verb == Verb::Get && policy.lifetime > 0 && stale_for < policy.while_revalidating {
            return Ok(());
        }
        let failed = self.failed(answer, record);
        let allowed = match policy.on_error {
            OnError::Forbidden => false,
            OnError::Unstated => !stale_as_stated,
            OnError::Within(seconds) => stale_for <= seconds,
        };
        check(
            failed && allowed && record.status < 500,
            &format!("an answer {stale_for} s too old (failed: {failed})"),
        )
    }
}

/// All that is known about one answer.
struct Answer<'a> {
    viewer: usize,
    plan: &'a Plan,
    site: &'a Site,
    got: &'a Got,
    head: &'a Head,
    end: End,
}

impl Answer<'_> {
    /// The status belongs to the record, and every byte to its content, as much as was announced and at its place.
    fn bytes(&self, record: &Record) -> Result<(), String> {
        let status: u16 = self.head.word(1).parse().unwrap_or(0);
        let body = &self.got.body;
        let is_success = |status| matches!(status, 200 | 206 | 304);
        let fits = status == record.status || (is_success(status) && is_success(record.status));
        check(fits, "a status that the origin did not send")?;
        let version = self.head.number("x-version");
        check(version == Some(record.version), "a head that mixes two versions")?;
        if is_success(status) {
            let language = record.language.as_deref().unwrap_or_default();
            let tag = self.head.field("etag").map(str::to_owned);
            check(tag == self.site.tag_of(record.version, language), "the tag of another version")?;
        }
        if self.plan.verb == Verb::Head || status == 304 {
            return check(body.is_empty(), "content where none belongs");
        }
        let (start, end) = match (status, self.head.content_range()) {
            (206, Some((start, end, total))) => {
                check(total == record.len && end <= total, "a range of another content")?;
                let asked = self.plan.range.is_some_and(|(first, last)| {
                    start == first && end <= last.map_or(u64::MAX, |last| last + 1)
                });
                check(asked, "a range that was not asked for")?;
                (start, end)
            }
            (206, None) => return Err("a 206 without Content-Range".into()),
            _ => (0, record.len),
        };
        if let Some(at) = record.content.first_difference(start, body) {
            return Err(format!("a wrong byte at {at}"));
        }
        let len = end - start;
        let announced = self.head.number("content-length");
        check(announced.is_none_or(|announced| announced == len), "a wrong length")?;
        match self.end {
            End::Whole => check(body.len() as u64 == len, "too few or too many bytes as if they were all"),
            End::Broken => check(body.len() as u64 <= len, "too many bytes"),
        }
    }
}

/// The least age that an answer may be counted as (RFC 9111 §4.2.3), as a clock of whole seconds sees it: whole seconds of waiting for it, and the
/// ticks since it came. The origin's own second says nothing more, since it made the answer after it was asked.
fn age(record: &Record, now: u64) -> u64 {
    let received = record.received_at.unwrap_or(now);
    (received - record.sent_at) / 1000 + now / 1000 - received.min(now) / 1000
}

fn check(holds: bool, fault: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(fault.to_owned()) }
}
