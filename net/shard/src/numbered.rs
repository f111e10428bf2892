//! Requests of one core that wait for a word from another core or thread, each under a number.
//!
//! The number goes with the question and comes back with the word; whoever went away meanwhile is not found any more. `asking.rs`,
//! `viewer/purge.rs` and `disk/removing.rs` each have such a table. Invariants: a number is given once; a place that is left is free.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Who waits, by number.
pub(crate) struct Numbered<T> {
    waiting: RefCell<HashMap<u64, Rc<T>>>,
    next: Cell<u64>,
}

/// One's place among those that wait; leaving it frees it.
pub(crate) struct Place<'n, T> {
    among: &'n Numbered<T>,
    /// The number under which it is told.
    pub(crate) number: u64,
    /// What is told.
    pub(crate) told: Rc<T>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Numbered { waiting: RefCell::default(), next: Cell::new(0) }
    }
}

impl<T> Numbered<T> {
    /// Takes a place under the next number.
    pub(crate) fn place(&self, told: Rc<T>) -> Place<'_, T> {
        let number = self.next.replace(self.next.get() + 1);
        self.waiting.borrow_mut().insert(number, Rc::clone(&told));
        Place { among: self, number, told }
    }

    /// Returns who waits under a number, if he still does.
    pub(crate) fn find(&self, number: u64) -> Option<Rc<T>> {
        self.waiting.borrow().get(&number).cloned()
    }

    /// Returns how many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        self.among.waiting.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_left_is_not_told_and_no_number_comes_again() {
        let numbered = Numbered::default();
        let first = numbered.place(Rc::new("first"));
        let second = numbered.place(Rc::new("second"));
        assert_eq!((first.number, second.number, numbered.len()), (0, 1, 2));
        drop(first);
        assert_eq!((numbered.find(0), numbered.find(1).as_deref()), (None, Some(&"second")));
        assert_eq!(numbered.place(Rc::new("third")).number, 2);
        assert_eq!(numbered.len(), 1);
    }
}
