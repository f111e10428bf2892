//! What Cache-Control says, in a response or a request, read over plain text for the reference model.

use crate::text::{Fields, members};

/// Names in lower case, with what stands behind `=`.
pub(crate) struct Directives {
    pub(crate) members: Vec<(String, Option<String>)>,
    /// They stand in CDN-Cache-Control.
    pub(crate) targeted: bool,
}

impl Directives {
    /// RFC 9213 §2.2: a valid targeted field takes the place of Cache-Control and Expires.
    pub(crate) fn of(fields: &Fields) -> Directives {
        let targeted = members(&fields.all("cdn-cache-control").join(","));
        let number = |text: &Option<String>| text.as_ref().is_none_or(|text| text.parse::<u64>().is_ok());
        if !targeted.is_empty() && targeted.iter().all(|(_, argument)| number(argument)) {
            return Directives { members: targeted, targeted: true };
        }
        Directives { members: members(&fields.all("cache-control").join(",")), targeted: false }
    }

    /// The directive without field names (RFC 9111 §5.2.2.4, §5.2.2.7).
    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(given, argument)| given == name && argument.is_none())
    }

    /// RFC 9111 §4.2.4.
    pub(crate) fn forbid_stale(&self) -> bool {
        ["must-revalidate", "proxy-revalidate", "no-cache"].iter().any(|name| self.has(name))
            || self.seconds("s-maxage").is_some()
    }

    /// RFC 9111 §4.2.1: invalid is stale; of several the smallest (rule 4).
    pub(crate) fn seconds(&self, name: &str) -> Option<i64> {
        let given = self.members.iter().filter(|(given, _)| given == name);
        given.map(|(_, text)| text.as_ref().and_then(|text| seconds(text)).unwrap_or(0)).min()
    }
}

pub(crate) fn seconds(text: &str) -> Option<i64> {
    let text = text.trim_matches('"');
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().unwrap())
}
