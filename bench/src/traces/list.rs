//! A queue of objects, of which any may leave: what the reference policies are made of.

/// No object.
pub(super) const NONE: u32 = u32::MAX;

/// Objects in order, by their dense numbers.
#[derive(Debug)]
pub(super) struct List {
    newer: Vec<u32>,
    older: Vec<u32>,
    pub(super) newest: u32,
    pub(super) oldest: u32,
    /// Bytes of all of them.
    pub(super) len: u64,
}

impl List {
    /// Makes an empty list for objects of numbers below `count`.
    pub(super) fn new(count: usize) -> List {
        List { newer: vec![NONE; count], older: vec![NONE; count], newest: NONE, oldest: NONE, len: 0 }
    }

    /// Puts an object at the newest end.
    pub(super) fn push(&mut self, object: u32, len: u64) {
        let at = object as usize;
        (self.newer[at], self.older[at]) = (NONE, self.newest);
        match self.newest {
            NONE => self.oldest = object,
            older => self.newer[older as usize] = object,
        }
        self.newest = object;
        self.len += len;
    }

    /// Takes an object out, wherever it is.
    pub(super) fn remove(&mut self, object: u32, len: u64) {
        let (newer, older) = (self.newer[object as usize], self.older[object as usize]);
        match newer {
            NONE => self.newest = older,
            newer => self.older[newer as usize] = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.newer[older as usize] = newer,
        }
        self.len -= len;
    }

    /// Returns the object that came next.
    pub(super) fn newer_than(&self, object: u32) -> u32 {
        self.newer[object as usize]
    }
}
