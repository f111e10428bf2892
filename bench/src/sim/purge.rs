//! What the operator invalidates in a run, and what that names, in our own words: the reference that the product is held against.
//!
//! Drawn beside the scenario from the same seed. Invariant: nothing here asks the product; a rule is handed to it as text.

use aspis_cache::invalidation::{Rule, RuleError, Wildcards};

use crate::random::Random;

use super::scenario::{Plan, Site};

/// One request to invalidate.
#[derive(Clone, Debug)]
pub(crate) struct Purge {
    pub(crate) at: u64,
    pub(crate) items: Vec<Item>,
    /// How long the log takes until it is safe.
    pub(crate) sync_millis: u64,
}

/// One thing to invalidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) host: Option<&'static str>,
    pub(crate) names: Names,
    pub(crate) soft: bool,
}

/// What an item names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    Path(String),
    Beginning(String),
    /// Beginning and end.
    Between(String, String),
    Tag(&'static str),
    Everything,
}

impl Item {
    /// Tells whether what a site serves is named.
    pub(crate) fn concerns(&self, site: &Site) -> bool {
        let path = &site.path;
        let of_host = self.host.is_none_or(|host| host == site.host);
        of_host
            && match &self.names {
                Names::Path(own) => path == own,
                Names::Beginning(front) => path.starts_with(front),
                Names::Between(front, back) => {
                    path.len() >= front.len() + back.len() && path.starts_with(front) && path.ends_with(back)
                }
                Names::Tag(tag) => site.tags.contains(tag),
                Names::Everything => true,
            }
    }

    /// Tells whether it could name anything by its tags.
    pub(crate) fn is_tag(&self) -> bool {
        matches!(self.names, Names::Tag(_))
    }

    /// The same for the product.
    pub(crate) fn rule(&self) -> Result<Rule, RuleError> {
        let (host, soft) = (self.host, self.soft);
        let path = |text: &str| Rule::path(text, host, soft, Wildcards::Anywhere);
        match &self.names {
            Names::Path(own) => path(own),
            Names::Beginning(front) => path(&format!("{front}*")),
            Names::Between(front, back) => path(&format!("{front}*{back}")),
            Names::Tag(tag) => Rule::tag(&tag.to_uppercase(), host, soft),
            Names::Everything => Rule::all(host, soft),
        }
    }

    fn drawn(sites: &[Site], random: &mut Random) -> Item {
        let site = &sites[random.length(sites.len() as u64) as usize - 1];
        let path = site.path.clone();
        let (front, last) = path.split_at(path.len() - 1);
        let names = [
            (Names::Path(path.clone()), 8),
            (Names::Path(format!("{path}x")), 1),
            (Names::Path(path.to_uppercase()), 1),
            (Names::Beginning(path.clone()), 3),
            (Names::Beginning("/".into()), 2),
            (Names::Beginning(format!("{path}/")), 1),
            (Names::Between(front.into(), last.into()), 3),
            (Names::Between("/".into(), "x".into()), 1),
            (Names::Tag(random.weighted(&TAGS.map(|tag| (tag, 1)))), 7),
            (Names::Everything, 2),
        ];
        let weights: Vec<(usize, u64)> =
            names.iter().enumerate().map(|(at, (_, weight))| (at, *weight)).collect();
        let names = names[random.weighted(&weights)].0.clone();
        let host = random.weighted(&[(None, 6), (Some("a"), 2), (Some("b"), 1)]);
        Item { host, names, soft: random.chance(40) }
    }
}

/// The tags that sites may carry, and one that none does.
pub(crate) const TAGS: [&str; 4] = ["red", "green", "blue", "none"];

/// Draws what is invalidated, and which sites get a new version just before.
pub(crate) fn drawn(
    seed: u64,
    sites: &[Site],
    plans: &[Plan],
    ends_at: u64,
) -> (Vec<Purge>, Vec<(u64, usize)>) {
    let mut random = Random::new(seed ^ 0x9106_e5ad);
    let random = &mut random;
    let count = if random.chance(60) { random.between(1, 9) } else { 0 };
    let (mut purges, mut changes): (Vec<Purge>, Vec<(u64, usize)>) = (Vec::new(), Vec::new());
    for _ in 0..count {
        // Mostly while somebody is served.
        let plan = &plans[random.between(0, plans.len() as u64 - 1) as usize];
        let at = if random.chance(80) { plan.at + random.length(1_500) } else { random.between(0, ends_at) };
        let items: Vec<Item> = (0..random.length(3)).map(|_| Item::drawn(sites, random)).collect();
        for (number, site) in sites.iter().enumerate() {
            // What storms ask for stays as it is, so that one fetch is enough.
            if !site.is_storm && items.iter().any(|item| item.concerns(site)) && random.chance(75) {
                changes.push((at - random.between(0, at.min(4)), number));
            }
        }
        purges.push(Purge { at, items, sync_millis: random.weighted(&[(0, 2), (4, 3), (60, 2), (900, 1)]) });
    }
    (purges, changes)
}

#[cfg(test)]
mod tests {
    use super::super::scenario::Scenario;
    use super::*;

    #[test]
    fn every_item_is_a_rule_and_hosts_and_tags_are_told_apart() {
        for seed in 0..200 {
            let scenario = Scenario::of(seed);
            for item in scenario.purges.iter().flat_map(|purge| &purge.items) {
                assert!(item.rule().is_ok(), "{item:?}");
            }
        }
        let scenario = Scenario::of(3);
        let site = &scenario.sites[0];
        let item = |host, names| Item { host, names, soft: false };
        assert!(item(Some(site.host), Names::Everything).concerns(site));
        assert!(!item(Some("c"), Names::Everything).concerns(site));
        assert!(!item(None, Names::Tag("none")).concerns(site));
        assert!(item(None, Names::Between("/".into(), "0".into())).concerns(site));
        assert!(!item(None, Names::Between("/s".into(), "s0".into())).concerns(site));
    }
}
