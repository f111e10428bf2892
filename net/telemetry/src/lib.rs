//! What every core writes about its work: counters, duration histograms and the access log.
//!
//! One core writes its own [`CoreCounters`], [`CoreHistograms`] and [`LogBuffer`]; the control thread sums the
//! first two at each scrape and the log writer thread drains the third. Nothing here locks, and nothing here
//! allocates once a core has started: telling what happened must never slow what happens.
//!
//! Counters and histograms are each declared once, in a table of which the metrics page is made; the log line is
//! documented where it is written.

pub mod access_log;
pub mod counters;
pub mod histogram;
pub mod log_buffer;

pub use access_log::Record;
pub use counters::{CoreCounters, Counter, Kind, Snapshot};
pub use histogram::{CoreHistograms, Timing, TimingSnapshot};
pub use log_buffer::{LogBuffer, LogReceiver, LogSender, log_channel};
