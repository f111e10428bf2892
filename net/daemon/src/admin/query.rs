//! The parameters behind the `?` of an admin request.

use super::reply::Problem;

/// Parameters by name, decoded. Each is one that the route knows, and there once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads them from what stands behind the `?`; a parameter that is not `known`, or there twice, is refused by its name.
    pub(crate) fn of(text: &str, known: &[&str]) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let refuse = |what: &str| Problem::bad("query", format!("the parameter '{name}' {what}"));
            let (Some(name), Some(value)) = (decoded(name), decoded(value)) else {
                return Err(refuse("is not percent-encoded text"));
            };
            if !known.contains(&name.as_str()) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(refuse(&format!(
                    "is not known here; known: {known} (write & within a value as %26)"
                )));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(refuse("is there twice"));
            }
            pairs.push((name, value));
        }
        Ok(Query(pairs))
    }

    /// Returns a parameter's value.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Decodes percent-encoding; a plus is a plus, since URLs have no blanks.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let text = "url=http%3A%2F%2Fa%2Fb%3Fx%3D1%26y%3D2+3&wait";
        let query = Query::of(text, &["url", "wait"]).expect("sound");
        assert_eq!(query.value("url"), Some("http://a/b?x=1&y=2+3"));
        assert_eq!((query.value("wait"), query.value("marker")), (Some(""), None));
        assert_eq!(Query::of("", &[]), Ok(Query::default()));
    }

    #[test]
    fn what_is_unknown_or_garbled_is_named() {
        for (text, part) in [
            ("a=1&a=2", "'a' is there twice"),
            ("b=1", "'b' is not known here; known: a"),
            ("a=%zz", "percent-encoded"),
            ("a=%e", "percent-encoded"),
            ("a=%ff", "percent-encoded"),
        ] {
            let problem = Query::of(text, &["a"]).expect_err(text);
            assert!(problem.detail.contains(part), "{text}: {problem:?}");
        }
    }
}
