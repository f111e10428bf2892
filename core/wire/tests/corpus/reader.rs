//! Reads the corpus files beside it: messages as two recipients could read them differently, and what must become of each.
//!
//! Used by this package's tests against the parser; other packages include the file by path to send the same bytes to
//! the whole server. It uses the standard library only. The format is described at the top of each corpus file.

/// One case of the corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    /// Unique within its file.
    pub(crate) name: String,
    /// The method of the request that is answered; `GET` in requests.
    pub(crate) method: String,
    /// What the connection carries, in order.
    pub(crate) steps: Vec<Step>,
}

/// A stretch of bytes and what must become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// The bytes as they are sent.
    pub(crate) bytes: Vec<u8>,
    /// What must become of them.
    pub(crate) expected: Expected,
}

/// What must become of the bytes of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// They are exactly one message.
    Message {
        /// Its decoded content, where the case tells it.
        content: Option<Vec<u8>>,
    },
    /// They are one response whose content ends with the connection.
    UntilClose {
        /// Its decoded content, where the case tells it.
        content: Option<Vec<u8>>,
    },
    /// They are refused with this status: 502 stands for a response that must not be used.
    Refused(u16),
    /// They are waited on.
    Incomplete,
}

impl Case {
    /// All bytes of the case together.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.steps.iter().flat_map(|step| step.bytes.iter().copied()).collect()
    }
}

/// The cases of `requests.txt`.
pub(crate) fn requests() -> Vec<Case> {
    read(include_str!("requests.txt"))
}

/// The cases of `responses.txt`.
pub(crate) fn responses() -> Vec<Case> {
    read(include_str!("responses.txt"))
}

/// Reads a corpus file. A line that it does not understand is a panic: the corpus must not shrink unseen.
pub(crate) fn read(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once(':').unwrap_or_else(|| panic!("no colon: {line}"));
        let value = value.strip_prefix(' ').unwrap_or(value);
        if key == "case" {
            assert!(cases.iter().all(|case| case.name != value), "named twice: {value}");
            cases.push(Case { name: value.to_owned(), method: "GET".to_owned(), steps: Vec::new() });
            continue;
        }
        let case = cases.last_mut().unwrap_or_else(|| panic!("before the first case: {line}"));
        let expected = match key {
            "method" => {
                case.method = value.to_owned();
                continue;
            }
            "content" => {
                let step = case.steps.last_mut().unwrap_or_else(|| panic!("content of nothing: {line}"));
                match &mut step.expected {
                    Expected::Message { content } | Expected::UntilClose { content } => {
                        *content = Some(unescape(value))
                    }
                    _ => panic!("content of what is no message: {line}"),
                }
                continue;
            }
            "message" => Expected::Message { content: None },
            "until-close" => Expected::UntilClose { content: None },
            "incomplete" => Expected::Incomplete,
            _ => match key.strip_prefix("refused ").map(str::parse) {
                Some(Ok(status)) => Expected::Refused(status),
                _ => panic!("unknown line: {line}"),
            },
        };
        case.steps.push(Step { bytes: unescape(value), expected });
    }
    assert!(cases.iter().all(|case| !case.steps.is_empty()), "a case without bytes");
    cases
}

/// Undoes the escapes of the corpus.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let bytes = unescape_until(&mut rest, None);
    assert!(rest.is_empty(), "a bracket too many: {text}");
    bytes
}

fn unescape_until(rest: &mut &[u8], end: Option<u8>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((&byte, after)) = rest.split_first() {
        *rest = after;
        match byte {
            _ if Some(byte) == end => return bytes,
            b'\\' => unescape_one(rest, &mut bytes),
            _ => bytes.push(byte),
        }
    }
    assert!(end.is_none(), "a bracket is not closed");
    bytes
}

fn unescape_one(rest: &mut &[u8], bytes: &mut Vec<u8>) {
    let (&kind, after) = rest.split_first().expect("something follows a backslash");
    *rest = after;
    match kind {
        b'r' => bytes.push(b'\r'),
        b'n' => bytes.push(b'\n'),
        b't' => bytes.push(b'\t'),
        b'\\' => bytes.push(b'\\'),
        b'x' => {
            let digits = std::str::from_utf8(&rest[..2]).expect("two hexadecimal digits");
            bytes.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits"));
            *rest = &rest[2..];
        }
        b'(' => {
            let space = rest.iter().position(|&byte| byte == b' ').expect("a space after the count");
            let count: usize =
                std::str::from_utf8(&rest[..space]).expect("a count").parse().expect("a count");
            *rest = &rest[space + 1..];
            bytes.extend(unescape_until(rest, Some(b')')).repeat(count));
        }
        _ => panic!("unknown escape: \\{}", char::from(kind)),
    }
}
