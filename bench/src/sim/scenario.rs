//! What one seed plays: how many cores, how much memory, which URLs with which manners, who asks for what and when.
//!
//! Drawn before anything runs, so that a run's choices do not depend on what the product does. Invariant: the same seed gives the same
//! scenario; what an object is in one of its versions follows from seed, URL and version alone.

use crate::random::Random;

use super::purge::{self, Purge, TAGS};

/// All that is played.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) cores: usize,
    /// Bytes for content, heads and index of all cores together.
    pub(crate) memory_len: u64,
    pub(crate) object_len_max: u64,
    /// How far behind the fastest a reader of what is passed on may fall.
    pub(crate) window_len: u64,
    pub(crate) waiters_max: usize,
    pub(crate) mark_millis: u64,
    pub(crate) replica_slots: usize,
    /// The longest time of a message from core to core.
    pub(crate) message_millis_max: u64,
    /// Nothing stale on error but where the origin says so.
    pub(crate) stale_as_stated: bool,
    pub(crate) sites: Vec<Site>,
    pub(crate) plans: Vec<Plan>,
    /// When the origin has a new version of which site.
    pub(crate) changes: Vec<(u64, usize)>,
    /// What the operator invalidates, and when.
    pub(crate) purges: Vec<Purge>,
    /// The cores hear of it before the log is safe.
    pub(crate) tells_early: bool,
    /// The time between two steps of a sweep for rules.
    pub(crate) rule_sweep_millis: u64,
    /// When everything is killed and starts again.
    pub(crate) restart_at: Option<u64>,
    /// When nobody comes any more.
    pub(crate) ends_at: u64,
}

/// One URL and the manners of the origin there.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) path: String,
    pub(crate) host: &'static str,
    /// The cache tags that all its answers carry.
    pub(crate) tags: Vec<&'static str>,
    seed: u64,
    base: Policy,
    len_max: u64,
    /// All versions are equally long.
    is_rigid: bool,
    varies: Varies,
    pub(crate) tag: Tag,
    pub(crate) dated: bool,
    pub(crate) framing: Framing,
    pub(crate) ranges: bool,
    pub(crate) faults: Faults,
    pub(crate) head_millis: (u64, u64),
    pub(crate) chunk_millis: (u64, u64),
    pub(crate) chunks_max: u64,
    /// Asked for by many at once before its first head is there, and sound: one fetch is enough for all.
    pub(crate) is_storm: bool,
}

/// Of 100 requests, how many go wrong in which way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// 503, with or without a lifetime.
    pub(crate) errors: u64,
    /// 404, with or without a lifetime.
    pub(crate) missing: u64,
    /// No answer at all.
    pub(crate) failures: u64,
    /// The content breaks off.
    pub(crate) breaks: u64,
    /// A condition is not understood: If-Range counts as met, and If-None-Match as matching where tags are strong.
    pub(crate) misreadings: u64,
}

/// Which entity tags a site has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    Strong,
    Weak,
    None,
}

/// How content is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length,
    Chunked,
    UntilClose,
}

/// Whether a site's content depends on the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Varies {
    Never,
    Always,
    /// Every other version.
    Sometimes,
}

/// What an origin says about reuse, and what that means, in our own words: the reference that answers are held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// The value of Cache-Control; empty for none.
    pub(crate) text: &'static str,
    /// It may be stored, and be the answer to others than who asked.
    pub(crate) shared: bool,
    /// Each reuse needs a validation of its own.
    pub(crate) validates: bool,
    /// Seconds of freshness.
    pub(crate) lifetime: u64,
    /// Seconds after it in which it may be served while it is validated.
    pub(crate) while_revalidating: u64,
    pub(crate) on_error: OnError,
}

/// Whether it may be served stale when the origin fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnError {
    Forbidden,
    Unstated,
    Within(u64),
}

/// One viewer's one request.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) at: u64,
    pub(crate) core: usize,
    pub(crate) site: usize,
    pub(crate) verb: Verb,
    pub(crate) language: &'static str,
    pub(crate) range: Option<(u64, Option<u64>)>,
    pub(crate) condition: Condition,
    pub(crate) leaves_after: Option<u64>,
    /// So many bytes each so many milliseconds; `None` reads all at once.
    pub(crate) pace: Option<(u64, u64)>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Head,
    Post,
}

/// A precondition that names the tag of some version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    None,
    NoneMatch(u64),
    Match(u64),
    Range(u64),
}

const PLAIN: Policy = Policy {
    text: "",
    shared: true,
    validates: false,
    lifetime: 0,
    while_revalidating: 0,
    on_error: OnError::Unstated,
};

/// What sites say, with the weight of each.
const POLICIES: [(Policy, u64); 16] = [
    (Policy { text: "max-age=1", lifetime: 1, ..PLAIN }, 3),
    (Policy { text: "max-age=3", lifetime: 3, ..PLAIN }, 3),
    (Policy { text: "public, max-age=60", lifetime: 60, ..PLAIN }, 5),
    (Policy { text: "max-age=0", ..PLAIN }, 2),
    (Policy { text: "max-age=9, s-maxage=2", lifetime: 2, on_error: OnError::Forbidden, ..PLAIN }, 1),
    (Policy { text: "max-age=2, must-revalidate", lifetime: 2, on_error: OnError::Forbidden, ..PLAIN }, 2),
    (Policy { text: "max-age=1, stale-while-revalidate=3", lifetime: 1, while_revalidating: 3, ..PLAIN }, 3),
    (
        Policy { text: "max-age=2, stale-while-revalidate=30", lifetime: 2, while_revalidating: 30, ..PLAIN },
        1,
    ),
    (Policy { text: "max-age=1, stale-if-error=2", lifetime: 1, on_error: OnError::Within(2), ..PLAIN }, 2),
    (Policy { text: "stale-if-error=0, max-age=1", lifetime: 1, on_error: OnError::Within(0), ..PLAIN }, 1),
    (Policy { text: "no-store", shared: false, ..PLAIN }, 3),
    (Policy { text: "private, max-age=9", shared: false, ..PLAIN }, 1),
    (Policy { text: "no-cache", validates: true, on_error: OnError::Forbidden, ..PLAIN }, 2),
    (Policy { text: "max-age=9, no-cache", validates: true, on_error: OnError::Forbidden, ..PLAIN }, 1),
    (Policy { text: "max-age=4, no-cache=\"x-other\"", lifetime: 4, ..PLAIN }, 1),
    (Policy { text: "s-maxage=0, max-age=4", on_error: OnError::Forbidden, ..PLAIN }, 1),
];

impl Policy {
    /// What an error without a word about reuse means: it answers who asked.
    pub(crate) const BARE: Policy = Policy { shared: false, ..PLAIN };
    /// An error that says how long it holds. A stale one is worth nothing.
    pub(crate) const BRIEF: Policy = Policy { text: "max-age=1", lifetime: 1, ..PLAIN };

    fn drawn(random: &mut Random) -> Policy {
        random.weighted(&POLICIES)
    }
}

impl Site {
    /// What the origin says about this version: mostly as always, now and then otherwise.
    pub(crate) fn policy(&self, version: u64) -> Policy {
        let mut random = self.random(version, 1);
        if !self.is_storm && random.chance(12) { Policy::drawn(&mut random) } else { self.base }
    }

    /// How long this version is.
    pub(crate) fn len(&self, version: u64) -> u64 {
        let mut random = self.random(if self.is_rigid { 0 } else { version }, 2);
        if random.chance(3) { 0 } else { random.length(self.len_max) }
    }

    /// Tells whether this version differs by language.
    pub(crate) fn varies(&self, version: u64) -> bool {
        match self.varies {
            Varies::Never => false,
            Varies::Always => true,
            Varies::Sometimes => version % 2 == 1,
        }
    }

    /// The entity tag of a version in a language.
    pub(crate) fn tag_of(&self, version: u64, language: &str) -> Option<String> {
        let language = if self.varies(version) { language } else { "all" };
        match self.tag {
            Tag::None => None,
            Tag::Strong => Some(format!("\"{version}-{language}\"")),
            Tag::Weak => Some(format!("W/\"{version}-{language}\"")),
        }
    }

    fn random(&self, version: u64, question: u64) -> Random {
        Random::new(self.seed ^ version.wrapping_mul(0x9e37_79b9) ^ (question << 56))
    }

    fn drawn(number: usize, random: &mut Random) -> Site {
        let seed = random.next();
        let bad = random.chance(45);
        let percent = |random: &mut Random, most| if bad { random.between(0, most) } else { 0 };
        let slow = random.weighted(&[((0, 3), 3), ((5, 80), 3), ((200, 900), 1)]);
        Site {
            path: format!("/s{number}"),
            host: if number % 3 == 2 { "b" } else { "a" },
            tags: TAGS[..3]
                .iter()
                .enumerate()
                .filter(|(at, _)| seed >> at & 1 == 1)
                .map(|(_, tag)| *tag)
                .collect(),
            seed,
            base: Policy::drawn(random),
            len_max: random.weighted(&[(600, 2), (9_000, 4), (60_000, 3), (400_000, 1)]),
            is_rigid: random.chance(30),
            varies: random.weighted(&[(Varies::Never, 6), (Varies::Always, 3), (Varies::Sometimes, 1)]),
            tag: random.weighted(&[(Tag::Strong, 5), (Tag::Weak, 2), (Tag::None, 2)]),
            dated: random.chance(60),
            framing: random.weighted(&[
                (Framing::Length, 6),
                (Framing::Chunked, 2),
                (Framing::UntilClose, 1),
            ]),
            ranges: random.chance(70),
            faults: Faults {
                errors: percent(random, 40),
                missing: percent(random, 15),
                failures: percent(random, 30),
                breaks: percent(random, 40),
                misreadings: if random.chance(15) { 50 } else { 0 },
            },
            head_millis: random.weighted(&[((1, 20), 3), ((50, 400), 3), ((900, 2500), 1)]),
            chunk_millis: slow,
            chunks_max: random.weighted(&[(1, 2), (5, 4), (20, 1)]),
            is_storm: false,
        }
    }

    /// A site that is sound, cold and asked for by many before its head is there.
    fn storm(number: usize, random: &mut Random) -> Site {
        let lifetimes = [POLICIES[2], POLICIES[0], POLICIES[3]];
        Site {
            base: random.weighted(&lifetimes),
            varies: Varies::Never,
            // What is never fresh and has no validator is not worth keeping, so it is not shared.
            tag: Tag::Strong,
            len_max: 9_000,
            faults: Faults::default(),
            head_millis: (800, 1200),
            is_storm: true,
            ..Site::drawn(number, random)
        }
    }
}

impl Site {
    /// A site whose beginning is asked for first and then all of it, so that a stored part is completed, or should not be.
    fn partial(number: usize, random: &mut Random) -> Site {
        let misreadings = if random.chance(40) { 60 } else { 0 };
        Site {
            base: random.weighted(&[POLICIES[2], POLICIES[1]]),
            varies: Varies::Never,
            tag: random.weighted(&[(Tag::Strong, 5), (Tag::Weak, 1)]),
            len_max: 9_000,
            is_rigid: random.chance(60),
            framing: Framing::Length,
            ranges: true,
            head_millis: (1, 30),
            faults: Faults { misreadings, ..Faults::default() },
            ..Site::drawn(number, random)
        }
    }
}

impl Scenario {
    /// Draws the scenario of a seed.
    pub(crate) fn of(seed: u64) -> Scenario {
        let mut random = Random::new(seed);
        let random = &mut random;
        let cores = random.between(1, 4) as usize;
        let ends_at = random.between(3_000, 20_000);
        let mut sites: Vec<Site> =
            (0..random.between(1, 6) as usize).map(|at| Site::drawn(at, random)).collect();
        let crowd = random.between(8, 70);
        let mut plans = Vec::new();
        // Viewers come in bursts, so that they meet.
        let mut at = 0;
        for _ in 0..crowd {
            at += if random.chance(65) { random.between(0, 15) } else { random.between(20, ends_at / 6) };
            let plan = Plan::drawn(at % ends_at, cores, &sites, random);
            if plan.range.is_some_and(|(start, _)| start == 0) && random.chance(50) {
                // Who saw the beginning wants all of it.
                let at = plan.at + random.between(20, 1_500);
                plans.push(Plan { at, ..Plan::plain(plan.site, cores, random) });
            }
            plans.push(plan);
        }
        let waiters_max = random.weighted(&[(1000, 9), (3, 1)]);
        if waiters_max == 1000 && random.chance(40) {
            let number = sites.len();
            sites.push(Site::storm(number, random));
            let start = random.between(0, ends_at);
            for _ in 0..random.between(2, 25) {
                let at = start + random.between(0, 300);
                plans.push(Plan { at, ..Plan::plain(number, cores, random) });
            }
        }
        let mut partial_changes = Vec::new();
        if random.chance(30) {
            let number = sites.len();
            sites.push(Site::partial(number, random));
            let start = random.between(0, ends_at);
            let last = random.length(sites[number].len_max) - 1;
            plans.push(Plan {
                at: start,
                range: Some((0, Some(last))),
                ..Plan::plain(number, cores, random)
            });
            for _ in 0..random.between(1, 5) {
                let at = start + random.between(100, 4_000);
                // Some want the beginning again.
                let range = random.chance(35).then_some((0, Some(last)));
                plans.push(Plan { at, range, ..Plan::plain(number, cores, random) });
            }
            if random.chance(50) {
                partial_changes.push((start + random.between(50, 2_000), number));
            }
        }
        let (purges, purge_changes) = purge::drawn(seed, &sites, &plans, ends_at);
        let changes = (0..random.between(0, 12))
            .map(|_| (random.between(0, ends_at), random.between(0, sites.len() as u64 - 1) as usize))
            .filter(|(_, site)| !sites[*site].is_storm)
            .chain(partial_changes)
            .chain(purge_changes)
            .collect();
        let mut later = Random::new(seed ^ 0x0e57_a127);
        Scenario {
            purges,
            tells_early: later.chance(50),
            rule_sweep_millis: later.weighted(&[(40, 1), (400, 1), (3_000, 2)]),
            restart_at: later.chance(12).then(|| later.between(0, ends_at)),
            cores,
            memory_len: random.weighted(&[(24 << 10, 2), (96 << 10, 3), (400 << 10, 3), (4 << 20, 3)]),
            object_len_max: random.weighted(&[(1 << 30, 5), (9_000, 1)]),
            window_len: random.weighted(&[(1 << 20, 2), (1_500, 2)]),
            waiters_max,
            mark_millis: random.weighted(&[(10_000, 3), (700, 2), (0, 1)]),
            replica_slots: random.weighted(&[(64, 4), (4, 1), (0, 1)]),
            message_millis_max: random.weighted(&[(0, 1), (3, 6), (40, 2), (250, 1)]),
            stale_as_stated: random.chance(15),
            sites,
            plans,
            changes,
            ends_at,
        }
    }
}

impl Plan {
    /// A GET of all, by one who stays and reads at once.
    fn plain(site: usize, cores: usize, random: &mut Random) -> Plan {
        Plan {
            at: 0,
            core: random.between(0, cores as u64 - 1) as usize,
            site,
            verb: Verb::Get,
            language: random.weighted(&[("en", 3), ("de", 2), ("", 2)]),
            range: None,
            condition: Condition::None,
            leaves_after: None,
            pace: None,
        }
    }

    fn drawn(at: u64, cores: usize, sites: &[Site], random: &mut Random) -> Plan {
        // The first sites are the popular ones.
        let site = random.length(sites.len() as u64) as usize - 1;
        let mut plan = Plan { at, ..Plan::plain(site, cores, random) };
        plan.verb = random.weighted(&[(Verb::Get, 86), (Verb::Head, 7), (Verb::Post, 6)]);
        if plan.verb == Verb::Get && random.chance(14) {
            // Often the beginning, which can be completed.
            let start = if random.chance(40) { 0 } else { random.length(sites[site].len_max) - 1 };
            let end = random.chance(70).then(|| start + random.length(sites[site].len_max) - 1);
            plan.range = Some((start, end));
        }
        let version = random.between(0, 3);
        let conditions = [
            (Condition::None, 85),
            (Condition::NoneMatch(version), 10),
            (Condition::Match(version), 2),
            (Condition::Range(version), if plan.range.is_some() { 20 } else { 0 }),
        ];
        if plan.verb != Verb::Post {
            plan.condition = random.weighted(&conditions);
        }
        if random.chance(9) {
            plan.leaves_after = Some(random.length(3_000));
        }
        if random.chance(18) {
            // Slow, some so much that a passage loses them, but not for ever.
            let least = sites[site].len_max / 100;
            let millis = random.between(1, 120);
            let (bytes, millis) =
                if millis.is_multiple_of(3) { (1, millis * 4) } else { (random.length(20_000), millis) };
            plan.pace = Some((least + bytes, millis));
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_scenario() {
        for seed in 0..20 {
            assert_eq!(format!("{:?}", Scenario::of(seed)), format!("{:?}", Scenario::of(seed)));
        }
        assert_ne!(format!("{:?}", Scenario::of(1)), format!("{:?}", Scenario::of(2)));
    }
}
