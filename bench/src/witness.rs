//! Mixed load whose every answer can be vouched for: what [`crash`](crate::crash) and [`faults`](crate::faults) put before a server with a disk.
//!
//! A [`site`] says which objects there are and what each byte of each version of them is; an [`origin`] serves it; [`viewers`](viewer) ask for it in
//! every way and change it with POST; a [`purger`] invalidates it. The [`ledger`] knows which version of an object an answer may have at the
//! least, given everything that was acknowledged before it was asked for, and judges each answer. It outlives the server: what one process
//! acknowledged, the next one must hold.

pub(crate) mod ledger;
pub(crate) mod origin;
pub(crate) mod purger;
pub(crate) mod site;
#[cfg(test)]
mod tests;
pub(crate) mod viewer;

use ledger::Ledger;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Faults that are kept.
const FAULTS_MAX: usize = 200;

/// What all who ask a server share while it runs.
#[derive(Debug)]
pub(crate) struct Meeting<'l> {
    pub(crate) ledger: &'l Ledger,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Everybody ends after the exchange that it is in.
    over: AtomicBool,
    /// From here on a connection may break: the server is killed in this moment.
    killed: AtomicBool,
    tally: Mutex<Tally>,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Answers that were judged.
    pub(crate) answers: u64,
    /// Of these hits by `X-Cache`.
    pub(crate) hits: u64,
    /// Of these refreshed hits.
    pub(crate) refreshed: u64,
    /// Parts of objects among the answers.
    pub(crate) parts: u64,
    /// Of these hits, of objects that are mostly asked for in ranges.
    pub(crate) part_hits: u64,
    /// Answers 304.
    pub(crate) unchanged: u64,
    /// Answers from which the viewer went away.
    pub(crate) left: u64,
    /// Answers that broke off within a version that the origin has no more: whoever sent it could not go on.
    pub(crate) broken: u64,
    pub(crate) posts: u64,
    /// Batches of invalidations that were completed, and those that were accepted only.
    pub(crate) purges: (u64, u64),
    pub(crate) bytes: u64,
    pub(crate) faults: Vec<String>,
}

impl<'l> Meeting<'l> {
    /// Opens a meeting before a server that serves viewers and operators at these addresses.
    pub(crate) fn new(ledger: &'l Ledger, address: SocketAddr, admin: SocketAddr) -> Self {
        Self {
            ledger,
            address,
            admin,
            over: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            tally: Mutex::default(),
        }
    }

    /// Sends everybody home.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// The server is killed after this: what breaks from here on is no fault.
    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        self.end();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Notes something in the tally.
    pub(crate) fn note(&self, note: impl FnOnce(&mut Tally)) {
        note(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes a fault, wherever it comes from.
    pub(crate) fn fault(&self, what: String) {
        self.note(|tally| tally.fault(what));
    }

    /// Notes that a connection broke, which is a fault unless the server was killed.
    pub(crate) fn broke(&self, what: String) {
        if !self.killed.load(Ordering::SeqCst) {
            self.fault(what);
        }
    }

    /// Notes that an answer broke off for which there was a reason, unless the server was killed.
    pub(crate) fn broke_off(&self) {
        if !self.killed.load(Ordering::SeqCst) {
            self.note(|tally| tally.broken += 1);
        }
    }

    /// Returns what was seen so far.
    pub(crate) fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Tally {
    /// Notes a fault; of very many only the first are kept.
    pub(crate) fn fault(&mut self, what: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(what);
        }
    }

    /// Adds what another meeting saw.
    pub(crate) fn add(&mut self, other: &Tally) {
        self.answers += other.answers;
        self.hits += other.hits;
        self.refreshed += other.refreshed;
        self.parts += other.parts;
        self.part_hits += other.part_hits;
        self.unchanged += other.unchanged;
        self.left += other.left;
        self.broken += other.broken;
        self.posts += other.posts;
        self.purges.0 += other.purges.0;
        self.purges.1 += other.purges.1;
        self.bytes += other.bytes;
        other.faults.iter().for_each(|fault| self.fault(fault.clone()));
    }
}
