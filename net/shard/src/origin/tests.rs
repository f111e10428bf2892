//! The origin side against real origins on loopback, driven on real cores.

mod answers;
mod capped;
mod connections;
mod requests;
mod rig;
mod secure;
