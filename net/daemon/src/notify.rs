//! What the service manager is told, if there is one.

use std::time::Duration;

use sd_notify::NotifyState;

/// Says that viewers are served.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that the end has begun, and how long it may take: longer than the unit's own timeout, if the flags say so.
pub(crate) fn stopping(wait: Duration) {
    let micros = u32::try_from(wait.as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("finishing what runs"),
        NotifyState::ExtendTimeoutUsec(micros),
    ]);
}

/// Without a service manager this does nothing; with one that does not listen it is only worth a line.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("the service manager could not be told: {error}");
    }
}
