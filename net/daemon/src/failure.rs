//! What keeps a command from doing its work: a text for standard error, and the exit code that says whose fault it is.

use crate::{EXIT_DONE, EXIT_FAILED, EXIT_USAGE, stdout};

/// An exit code and what to say before exiting with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// [`EXIT_FAILED`] or [`EXIT_USAGE`].
    pub(crate) code: u8,
    /// What is wrong, without the `error:` before it.
    pub(crate) text: String,
}

/// Something outside failed.
pub(crate) fn failed(text: impl ToString) -> Failure {
    Failure { code: EXIT_FAILED, text: text.to_string() }
}

/// A flag or a value is wrong.
pub(crate) fn usage(text: impl ToString) -> Failure {
    Failure { code: EXIT_USAGE, text: text.to_string() }
}

impl Failure {
    /// Says it on standard error; returns the exit code.
    pub(crate) fn tell(&self) -> u8 {
        stdout::complain(&format!("error: {}\n", self.text));
        self.code
    }
}

/// Prints what a command found, or says why it did not; returns the exit code.
pub(crate) fn finish(outcome: Result<String, Failure>) -> u8 {
    match outcome {
        Ok(text) => {
            stdout::print(&text);
            EXIT_DONE
        }
        Err(failure) => failure.tell(),
    }
}
