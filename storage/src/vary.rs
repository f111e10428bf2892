//! Which URIs vary, by which request fields, and under which hashes their variants are stored (RFC 9111 §4.1).
//!
//! The tier asks on a lookup that found no response under the primary key, and tells what it takes in and what leaves. Invariants: a rule
//! is there exactly while one of its variants is; a URI has at most `VARIANT_COUNT_MAX` of them; every byte is charged as index.

use std::sync::Arc;

use crate::budget::{Budget, Charge, Purpose};
use crate::limits::VARIANT_COUNT_MAX;
use crate::response::VariantOf;
use crate::table::{Placed, Table};

/// The rules of one tier.
#[derive(Debug)]
pub struct VaryTable {
    rules: Table<Box<Rule>>,
    charge: Charge,
}

#[derive(Debug)]
struct Rule {
    /// The hash of the primary key.
    primary: u128,
    /// The primary key.
    key: Box<[u8]>,
    names: Box<str>,
    /// Oldest first.
    variants: Vec<u128>,
}

impl Placed for Box<Rule> {
    fn place(&self) -> u128 {
        self.primary
    }
}

impl Rule {
    /// What is charged beside its place in the table: the record, and all the variants it may have.
    fn cost(key_len: usize, names_len: usize) -> u64 {
        (size_of::<Rule>() + VARIANT_COUNT_MAX * size_of::<u128>() + key_len + names_len) as u64
    }

    fn charged(&self) -> u64 {
        Self::cost(self.key.len(), self.names.len())
    }
}

impl VaryTable {
    /// Makes an empty table.
    pub fn new(budget: &Arc<Budget>) -> Self {
        let charge = budget.reserve(Purpose::Index, 0).expect("nothing always fits into a budget");
        VaryTable { rules: Table::new(), charge }
    }

    /// Returns the names for exactly this primary key.
    pub fn names(&self, primary: u128, key: &[u8]) -> Option<&str> {
        let rule = self.rules.get(primary)?;
        (*rule.key == *key).then_some(&*rule.names)
    }

    /// Returns the hashes of the variants of exactly this primary key, oldest first.
    pub fn variants(&self, primary: u128, key: &[u8]) -> &[u128] {
        match self.rules.get(primary) {
            Some(rule) if *rule.key == *key => &rule.variants,
            _ => &[],
        }
    }

    /// Returns the bytes by which the table grows with a new rule for these names, or one that takes another's place.
    pub(crate) fn growth(&self, key: &[u8], variant: &VariantOf) -> u64 {
        Rule::cost(key.len(), variant.names.len()) + self.rules.growth()
    }

    /// Notes a variant and returns those that have to leave for it: all of another rule, or the oldest of too many.
    ///
    /// `None` when the budget has no room for the rule.
    pub fn admit(&mut self, key: &[u8], variant: &VariantOf, hash: u128) -> Option<Vec<u128>> {
        let same = self
            .rules
            .get(variant.primary)
            .is_some_and(|rule| *rule.key == *key && rule.names == variant.names);
        let mut outdated = Vec::new();
        if !same {
            outdated = self.remove(variant.primary);
            if !self.charge.grow(self.growth(key, variant)) {
                return None;
            }
            let names = variant.names.clone();
            let rule = Rule { primary: variant.primary, key: key.into(), names, variants: Vec::new() };
            self.rules.insert(Box::new(rule));
        }
        let rule = self.rules.get_mut(variant.primary).expect("it was there or was put there");
        rule.variants.retain(|other| *other != hash);
        if rule.variants.len() >= VARIANT_COUNT_MAX {
            outdated.push(rule.variants.remove(0));
        }
        rule.variants.push(hash);
        Some(outdated)
    }

    /// Forgets one variant, and the rule with the last.
    pub fn forget(&mut self, primary: u128, hash: u128) {
        let Some(rule) = self.rules.get_mut(primary) else { return };
        rule.variants.retain(|other| *other != hash);
        if rule.variants.is_empty() {
            self.remove(primary);
        }
    }

    /// Forgets a rule and returns the hashes of its variants.
    pub fn remove(&mut self, primary: u128) -> Vec<u128> {
        let found = self.rules.take(primary);
        let Some(rule) = found else { return Vec::new() };
        self.charge.shrink(rule.charged());
        if self.rules.len() == 0 {
            self.clear();
        }
        rule.variants
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.rules.clear();
        self.charge.shrink(self.charge.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &str) -> VariantOf {
        VariantOf { primary: 1, primary_len: 3, names: names.into() }
    }

    #[test]
    fn a_rule_lives_as_long_as_its_variants_and_is_charged() {
        let budget = Budget::new(1 << 20);
        let mut table = VaryTable::new(&budget);
        assert_eq!(table.admit(b"key", &of("a"), 10), Some(vec![]));
        assert_eq!(table.admit(b"key", &of("a"), 11), Some(vec![]));
        assert_eq!((table.names(1, b"key"), table.names(1, b"other")), (Some("a"), None));
        assert!(budget.used(Purpose::Index) > 0);
        table.forget(1, 10);
        assert_eq!(table.names(1, b"key"), Some("a"));
        table.forget(1, 11);
        assert_eq!((table.names(1, b"key"), budget.used_total()), (None, 0));
    }

    #[test]
    fn another_rule_or_one_variant_too_many_turns_the_old_out() {
        let mut table = VaryTable::new(&Budget::new(1 << 20));
        for hash in 0..VARIANT_COUNT_MAX as u128 {
            assert_eq!(table.admit(b"key", &of("a"), hash), Some(vec![]));
        }
        assert_eq!(table.admit(b"key", &of("a"), 1000), Some(vec![0]));
        let all = table.admit(b"key", &of("a,b"), 2000).unwrap();
        assert_eq!(all.len(), VARIANT_COUNT_MAX);
        assert_eq!(table.names(1, b"key"), Some("a,b"));
        assert_eq!(table.remove(1), vec![2000]);
    }

    #[test]
    fn a_budget_without_room_refuses_the_rule() {
        let mut table = VaryTable::new(&Budget::new(10));
        assert_eq!(table.admit(b"key", &of("a"), 10), None);
        assert_eq!(table.names(1, b"key"), None);
    }
}
