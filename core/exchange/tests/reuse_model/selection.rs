//! What a request gets of a stored response: all, 304, 412, or ranges (RFC 9110 §13.2.2, §14), read over plain text.

use crate::entry::Answer;
use crate::text::{Request, date};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Selected {
    Whole,
    NotModified,
    Failed,
    /// First and last byte of each.
    Ranges(Vec<(usize, usize)>),
    Unsatisfiable,
}

pub(crate) fn select(stored: &Answer, request: &Request) -> Selected {
    if !(200..300).contains(&stored.status) {
        return Selected::Whole;
    }
    let etag = stored.fields.get("etag");
    let generated_at = stored.fields.get("date").and_then(date).unwrap_or(stored.received_at);
    let modified = stored.fields.get("last-modified").and_then(date);
    let asked = |name| request.fields.get(name);
    let weakly =
        |tag: &str| etag.is_some_and(|etag| etag.trim_start_matches("W/") == tag.trim_start_matches("W/"));
    let tags = |text: &str| text.split(", ").map(str::to_string).collect::<Vec<_>>();
    if let Some(text) = asked("if-match") {
        let strongly = |tag: &String| etag == Some(tag) && tag.starts_with('"');
        if text != "*" && !tags(text).iter().any(strongly) {
            return Selected::Failed;
        }
    } else if asked("if-unmodified-since")
        .and_then(date)
        // RFC 9110 §13.1.4: ignored without Last-Modified.
        .is_some_and(|since| modified.is_some_and(|modified| modified > since))
    {
        return Selected::Failed;
    }
    if let Some(text) = asked("if-none-match") {
        if text == "*" || tags(text).iter().any(|tag| weakly(tag)) {
            return Selected::NotModified;
        }
    } else if asked("if-modified-since")
        .and_then(date)
        .is_some_and(|since| modified.unwrap_or(generated_at) <= since)
    {
        return Selected::NotModified;
    }
    let holds = asked("if-range").is_none_or(|validator| {
        let strong = validator.starts_with('"') && etag == Some(validator);
        let at = date(validator);
        strong || (at.is_some() && at == modified && modified.is_some_and(|at| at < generated_at))
    });
    match asked("range") {
        Some(text) if holds && stored.status == 200 && request.method == "GET" => {
            ranges(text, stored.content_len)
        }
        _ => Selected::Whole,
    }
}

/// Only ranges in ascending order are generated, but for those that are to be ignored.
fn ranges(text: &str, len: usize) -> Selected {
    let Some(specs) = text.strip_prefix("bytes=") else { return Selected::Whole };
    let mut all = Vec::new();
    for spec in specs.split(',') {
        let (first, last) = spec.split_once('-').unwrap();
        let (first, last) = match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) if first > last => return Selected::Whole,
            (Ok(first), last) => (first, last.unwrap_or(usize::MAX)),
            (Err(_), last) => (len.saturating_sub(last.unwrap()), usize::MAX),
        };
        if first < len {
            all.push((first, last.min(len - 1)));
        }
    }
    if all.is_empty() { Selected::Unsatisfiable } else { Selected::Ranges(all) }
}

/// Reads a `multipart/byteranges` body: for each part first and last byte, complete length and bytes.
pub(crate) fn parts(content_type: &str, body: &[u8]) -> Vec<(usize, usize, usize, Vec<u8>)> {
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let text = std::str::from_utf8(body).unwrap();
    let text = text.strip_prefix(&format!("--{boundary}\r\n")).unwrap();
    let text = text.strip_suffix(&format!("\r\n--{boundary}--\r\n")).unwrap();
    let between = format!("\r\n--{boundary}\r\n");
    let parts = text.split(&between).map(|part| {
        let (head, content) = part.split_once("\r\n\r\n").unwrap();
        let range = head.lines().find_map(|line| line.strip_prefix("Content-Range: ")).unwrap();
        let (first, last, len) = content_range(range);
        (first, last, len, content.as_bytes().to_vec())
    });
    parts.collect()
}

pub(crate) fn content_range(text: &str) -> (usize, usize, usize) {
    let (range, len) = text.strip_prefix("bytes ").unwrap().split_once('/').unwrap();
    let (first, last) = range.split_once('-').unwrap();
    (first.parse().unwrap(), last.parse().unwrap(), len.parse().unwrap())
}
