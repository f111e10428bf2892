//! Signals as messages to the control thread.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

/// What the operator asked for by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// TERM or INT: finish what runs and end; the second one means at once.
    End,
    /// HUP: read the origin's authorities again and reopen the log.
    Reload,
    /// USR1: reopen the log.
    ReopenLog,
}

fn meaning(number: i32) -> Option<Signal> {
    match number {
        SIGTERM | SIGINT => Some(Signal::End),
        SIGHUP => Some(Signal::Reload),
        SIGUSR1 => Some(Signal::ReopenLog),
        _ => None,
    }
}

/// Starts the thread that waits for signals. From here on they no longer end the process by themselves.
pub(crate) fn listen() -> std::io::Result<mpsc::UnboundedReceiver<Signal>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    // Unbounded, because it holds a few words for each signal that somebody sent by hand.
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("aspis-signals".to_owned()).spawn(move || {
        for number in signals.forever() {
            if let Some(signal) = meaning(number)
                && sender.send(signal).is_err()
            {
                return;
            }
        }
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_becomes_a_message() {
        let mut receiver = listen().expect("signals can be caught");
        signal_hook::low_level::raise(SIGHUP).expect("we may signal ourselves");
        assert_eq!(receiver.blocking_recv(), Some(Signal::Reload));
        signal_hook::low_level::raise(SIGUSR1).expect("we may signal ourselves");
        assert_eq!(receiver.blocking_recv(), Some(Signal::ReopenLog));
    }

    #[test]
    fn both_ways_to_end_mean_the_same() {
        assert_eq!(meaning(SIGTERM), Some(Signal::End));
        assert_eq!(meaning(SIGINT), Some(Signal::End));
        assert_eq!(meaning(signal_hook::consts::SIGWINCH), None);
    }
}
