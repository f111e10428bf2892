//! What the operator gave, as given: flag names and texts.
//!
//! Filled by the daemon from the command line; read by [`check`](crate::check()). Invariant: order within one flag is kept, and
//! nothing is judged here.

/// Flags and their texts, in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw {
    given: Vec<(String, String)>,
}

impl Raw {
    /// Returns an empty set: every setting at its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one value of a flag; `flag` is without dashes, a switch is given as `true`.
    pub fn push(&mut self, flag: impl Into<String>, value: impl Into<String>) {
        self.given.push((flag.into(), value.into()));
    }

    /// Returns a flag's values in the order given.
    pub fn values<'r>(&'r self, flag: &'r str) -> impl Iterator<Item = &'r str> {
        self.given.iter().filter(move |(name, _)| name == flag).map(|(_, value)| value.as_str())
    }

    /// Tells whether a flag was given at all.
    pub fn contains(&self, flag: &str) -> bool {
        self.values(flag).next().is_some()
    }

    /// Returns all flags and values in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.given.iter().map(|(flag, value)| (flag.as_str(), value.as_str()))
    }
}

impl<F: Into<String>, V: Into<String>> FromIterator<(F, V)> for Raw {
    fn from_iter<I: IntoIterator<Item = (F, V)>>(pairs: I) -> Self {
        let mut raw = Self::new();
        for (flag, value) in pairs {
            raw.push(flag, value);
        }
        raw
    }
}
