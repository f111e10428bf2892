//! Does a path fit a pattern in which `*` stands for any number of characters?
//!
//! Asked by the table for each pattern that is newer than what it judges. Invariant: the cost is linear in both lengths, since the pieces
//! between the wildcards are looked for one after the other and never again.

/// Tells whether all of `path` fits.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == path };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    let between = path.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail));
    // The leftmost place of a piece leaves the most room for those after it.
    let place = |rest: &str, piece: &str| rest.find(piece).map(|at| at + piece.len());
    let mut rest = between;
    for piece in middle.split('*') {
        rest = rest.and_then(|rest| rest.get(place(rest, piece)?..));
    }
    rest.is_some()
}

/// Returns what every path that fits begins with.
pub(super) fn literal_head(pattern: &str) -> &str {
    pattern.split('*').next().unwrap_or_default()
}
