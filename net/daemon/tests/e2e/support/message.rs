//! A message head as the two ends of a test see it: the start line and the fields in the order they came.

use std::fmt;

/// One parsed head. Deliberately forgiving: what Aspis sent is judged by the tests, not by this parser.
#[derive(Clone)]
pub(crate) struct Head {
    pub(crate) start_line: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    /// Parses the bytes up to and including the empty line.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let start_line = lines.next().unwrap_or_default().to_owned();
        let fields = lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap_or((line, ""));
                (name.to_owned(), value.trim().to_owned())
            })
            .collect();
        Self { start_line, fields }
    }

    /// The first value of the field, names compared without case.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Every value of the field in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// Whether a field of comma-separated members names `member`.
    pub(crate) fn lists(&self, name: &str, member: &str) -> bool {
        self.all(name)
            .iter()
            .flat_map(|value| value.split(','))
            .any(|one| one.trim().eq_ignore_ascii_case(member))
    }

    /// The words of the start line, split at spaces.
    pub(crate) fn word(&self, index: usize) -> &str {
        self.start_line.splitn(3, ' ').nth(index).unwrap_or_default()
    }

    pub(crate) fn method(&self) -> &str {
        self.word(0)
    }

    pub(crate) fn target(&self) -> &str {
        self.word(1)
    }

    /// The status code of a response head.
    #[track_caller]
    pub(crate) fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or_else(|_| panic!("not a status line: {:?}", self.start_line))
    }

    pub(crate) fn content_length(&self) -> Option<u64> {
        self.field("content-length").and_then(|value| value.parse().ok())
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.lists("transfer-encoding", "chunked")
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", self.start_line)?;
        for (name, value) in &self.fields {
            writeln!(formatter, "{name}: {value}")?;
        }
        Ok(())
    }
}
