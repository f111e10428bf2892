//! The runtime against the real kernel: loopback sockets, temporary files, real threads, no fixed ports, no sleeps but the ring's.
#![allow(unsafe_code)]
// The harness: the standard library cannot shrink a socket's receive buffer or backlog.
// Clippy's allow-unwrap-in-tests knows test functions only, not their helpers.
#![allow(clippy::unwrap_used)]

mod fairness;
mod files;
mod harness;
mod lifetime;
mod receiving;
mod sending;
mod tasks;
mod waking;
