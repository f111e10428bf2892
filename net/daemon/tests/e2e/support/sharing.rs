//! What the tests of stored and shared answers have in common: usual fields, both counts of cores, and origins that wait.

use super::{Gate, Launch, Origin, Reply};

pub(crate) const KIB: usize = 1 << 10;
/// Storable for a minute.
pub(crate) const FRESH: (&str, &str) = ("Cache-Control", "max-age=60");
/// A strong validator.
pub(crate) const ETAG: (&str, &str) = ("ETag", "\"one\"");

/// Runs a test with one core and with two.
pub(crate) fn on_each(test: impl Fn(&dyn Fn(&Origin) -> Launch)) {
    on_each_before(|launch| test(&|origin| launch(&origin.url())));
}

/// The same before origins that are known by their URL only.
pub(crate) fn on_each_before(test: impl Fn(&dyn Fn(&str) -> Launch)) {
    for cores in ["1", "2"] {
        eprintln!("--cores {cores}");
        test(&|url| Launch::before(url).with("--cores", cores));
    }
}

/// An origin that answers when the gate opens.
pub(crate) fn gated(gate: &Gate, answer: impl Fn(&mut Reply<'_>) + Send + Sync + 'static) -> Origin {
    let gate = gate.clone();
    Origin::start(move |reply| {
        gate.wait("the origin may answer");
        answer(reply);
    })
}
