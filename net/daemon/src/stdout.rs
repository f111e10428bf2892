//! The only place that writes to standard output and, for usage errors, to standard error.
//!
//! While serving, standard output has one `listening on ADDR` line per listener in their order, then
//! `admin listening on ADDR`, then the access log if it was sent to `-`. Scripts and supervisors read it, so
//! nothing else may appear there. A reader that has gone away is not an error of ours.

use std::fmt::Display;
use std::io::{self, Write};

/// Announces a listener for viewers. Call it in the order of the listeners.
pub(crate) fn listening(address: impl Display) {
    line(format_args!("listening on {address}"));
}

/// Announces the admin listener. Call it after the last [`listening`].
pub(crate) fn admin_listening(address: impl Display) {
    line(format_args!("admin listening on {address}"));
}

/// Prints the text that was asked for, such as a version or the help.
pub(crate) fn print(text: &str) {
    let mut out = io::stdout().lock();
    // Only a closed pipe can fail here, and its reader has seen what it wanted.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Standard output as a place for the access log.
pub(crate) fn log() -> impl Write {
    io::stdout().lock()
}

/// Writes text for people to standard error as it is, without the form of a log message.
pub(crate) fn complain(text: &str) {
    // Nobody is left to be told when standard error is closed.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn line(text: std::fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        tracing::warn!("standard output: {error}");
    }
}
