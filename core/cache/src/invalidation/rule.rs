//! What an operator may ask to be invalidated, checked once and in one form (I-8 to I-12, I-18).
//!
//! Made by the control thread from paths, tags and hosts, kept by it in its log, read by the table. Invariant: a rule that exists can
//! match: its host is written as keys write it, its path has only bytes that a request's target may have.

use std::fmt;

use aspis_wire::parse_authority;

use super::tags;
use super::without_port;

/// The most characters of a path, wildcards included (I-8).
pub const PATH_LEN_MAX: usize = 4000;

/// One thing to invalidate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Only what was stored for this authority, which is in lower case and without the default port; `None` is every host (I-8).
    pub host: Option<Box<str>>,
    /// What of it.
    pub what: What,
    /// It becomes stale instead of gone.
    pub soft: bool,
}

/// What a rule names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// This path with this query, as the key has it (I-10), with all that is stored under it (I-11).
    Exact(Box<str>),
    /// Every path that begins so, its query included (I-9).
    Prefix(Box<str>),
    /// Every path that fits; `*` stands for any number of characters, none too.
    Pattern(Box<str>),
    /// Everything with the tag of this hash (I-18).
    Tag(u64),
    /// Everything.
    All,
}

/// Where a `*` in a path is a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wildcards {
    /// As the last character; elsewhere it is literal (I-9).
    Trailing,
    /// Anywhere: what `rfc9111` offers beyond that.
    Anywhere,
}

/// Why something cannot be invalidated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// The path does not begin with a slash.
    NoSlash,
    /// The path has more than [`PATH_LEN_MAX`] characters.
    PathTooLong,
    /// The path has a byte that no request's target has.
    PathByte,
    /// The host is not one host, with or without a port.
    Host,
    /// The tag is empty.
    NoTag,
    /// The tag has more than [`tags::TAG_LEN_MAX`] characters.
    TagTooLong,
    /// The tag has a byte that no tag has.
    TagByte,
}

impl Rule {
    /// Reads a path, with its query if the key has one (I-8, I-9, I-10).
    pub fn path(text: &str, host: Option<&str>, soft: bool, wildcards: Wildcards) -> Result<Rule, RuleError> {
        check_path(text)?;
        let what = match (text.strip_suffix('*'), wildcards) {
            (Some(prefix), Wildcards::Trailing) => What::Prefix(prefix.into()),
            (None, Wildcards::Trailing) => What::Exact(text.into()),
            (_, Wildcards::Anywhere) => match text.trim_end_matches('*') {
                front if front.contains('*') => What::Pattern(text.into()),
                front if front.len() < text.len() => What::Prefix(front.into()),
                front => What::Exact(front.into()),
            },
        };
        Ok(Rule { host: normal_host(host)?, what, soft })
    }

    /// Reads a tag; letter case does not matter and there are no wildcards (I-17, I-18).
    pub fn tag(text: &str, host: Option<&str>, soft: bool) -> Result<Rule, RuleError> {
        match text.len() {
            0 => Err(RuleError::NoTag),
            len if len > tags::TAG_LEN_MAX => Err(RuleError::TagTooLong),
            _ => {
                let hash = tags::hash(text.as_bytes()).ok_or(RuleError::TagByte)?;
                Ok(Rule { host: normal_host(host)?, what: What::Tag(hash), soft })
            }
        }
    }

    /// Everything, of one host or of all.
    pub fn all(host: Option<&str>, soft: bool) -> Result<Rule, RuleError> {
        Ok(Rule { host: normal_host(host)?, what: What::All, soft })
    }

    /// Appends the rule in the form that [`decode`](Self::decode) reads.
    ///
    /// A byte for kind and flags; the host, if there is one, and the path as a length of two bytes with that many bytes; a tag as eight.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, text) = match &self.what {
            What::Exact(text) => (EXACT, &**text),
            What::Prefix(text) => (PREFIX, &**text),
            What::Pattern(text) => (PATTERN, &**text),
            What::Tag(_) => (TAG, ""),
            What::All => (ALL, ""),
        };
        let host = if self.host.is_some() { HOST } else { 0 };
        out.push(kind | host | if self.soft { SOFT } else { 0 });
        let mut put = |text: &str| {
            let len = u16::try_from(text.len()).expect("hosts and paths are shorter than 64 KiB");
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        };
        if let Some(host) = &self.host {
            put(host);
        }
        match self.what {
            What::Tag(hash) => out.extend_from_slice(&hash.to_le_bytes()),
            What::All => {}
            _ => put(text),
        }
    }

    /// Reads a rule from the front of `bytes` and tells how many of them it is; `None` for what [`encode`](Self::encode) never wrote.
    pub fn decode(bytes: &[u8]) -> Option<(Rule, usize)> {
        let (&first, mut rest) = bytes.split_first()?;
        let host = match first & HOST {
            0 => None,
            _ => Some(take_text(&mut rest)?),
        };
        let host = match host {
            // A host in another form than keys have would match nothing.
            Some(text) => Some(normal_host(Some(text)).ok()?.filter(|normal| **normal == *text)?),
            None => None,
        };
        let what = match first & !(HOST | SOFT) {
            EXACT => What::Exact(checked_path(take_text(&mut rest)?)?.into()),
            PREFIX => What::Prefix(checked_path(take_text(&mut rest)?)?.into()),
            PATTERN => match Rule::path(take_text(&mut rest)?, None, false, Wildcards::Anywhere).ok()?.what {
                what @ What::Pattern(_) => what,
                _ => return None,
            },
            TAG => {
                let (hash, after) = rest.split_first_chunk()?;
                rest = after;
                What::Tag(u64::from_le_bytes(*hash))
            }
            ALL => What::All,
            _ => return None,
        };
        Some((Rule { host, what, soft: first & SOFT != 0 }, bytes.len() - rest.len()))
    }
}

/// The kinds of an encoded rule, and the flags beside them.
const EXACT: u8 = 0;
const PREFIX: u8 = 1;
const PATTERN: u8 = 2;
const TAG: u8 = 3;
const ALL: u8 = 4;
const HOST: u8 = 0x40;
const SOFT: u8 = 0x80;

// The length of a path is written in two bytes.
const _: () = assert!(PATH_LEN_MAX <= u16::MAX as usize);

fn take_text<'b>(rest: &mut &'b [u8]) -> Option<&'b str> {
    let (len, after) = rest.split_first_chunk()?;
    let (text, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    *rest = after;
    std::str::from_utf8(text).ok()
}

fn check_path(text: &str) -> Result<(), RuleError> {
    if !text.starts_with('/') {
        return Err(RuleError::NoSlash);
    }
    if text.len() > PATH_LEN_MAX {
        return Err(RuleError::PathTooLong);
    }
    // Keys have the spelling of the request, which is visible ASCII and no fragment (I-12).
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(RuleError::PathByte);
    }
    Ok(())
}

fn checked_path(text: &str) -> Option<&str> {
    check_path(text).ok().map(|()| text)
}

/// Writes a host as keys do.
fn normal_host(host: Option<&str>) -> Result<Option<Box<str>>, RuleError> {
    let Some(host) = host else { return Ok(None) };
    parse_authority(host.as_bytes()).ok_or(RuleError::Host)?;
    let plain = std::str::from_utf8(without_port(host.as_bytes())).map_err(|_| RuleError::Host)?;
    Ok(Some(plain.to_ascii_lowercase().into()))
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSlash => f.write_str("a path begins with '/'"),
            Self::PathTooLong => write!(f, "a path has at most {PATH_LEN_MAX} characters"),
            Self::PathByte => f.write_str(
                "a path has visible ASCII characters only and no '#'; write others percent-encoded, as requests do",
            ),
            Self::Host => f.write_str("a host is a name or an address, with or without a port"),
            Self::NoTag => f.write_str("a tag has at least one character"),
            Self::TagTooLong => write!(f, "a tag has at most {} characters", tags::TAG_LEN_MAX),
            Self::TagByte => f.write_str("a tag has visible ASCII characters only"),
        }
    }
}

impl std::error::Error for RuleError {}
