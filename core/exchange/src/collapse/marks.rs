//! Which URIs gave responses that were for one viewer only, lately (C-13)?
//!
//! Set and asked by the flights. Invariants: there are no more marks than the bound, nor more places in the queue, and each mark has a place;
//! a mark tells the number of the newest invalidation rule that its answer can know of.

use std::collections::{HashMap, VecDeque};

#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Until which millisecond it holds.
    until: u64,
    /// The rule number that was current when the request was sent whose answer set it.
    number: u64,
}

/// Hit-for-miss marks.
#[derive(Debug)]
pub(super) struct Marks {
    count_max: usize,
    holds_millis: u64,
    set: HashMap<u128, Mark>,
    /// In the order in which they end. One whose time is not that of its mark stands for none: it was lifted, or set again.
    queue: VecDeque<(u128, u64)>,
}

impl Marks {
    pub(super) fn new(count_max: usize, holds_millis: u64) -> Marks {
        Marks { count_max, holds_millis, set: HashMap::new(), queue: VecDeque::new() }
    }

    /// Sets a mark; the oldest go where there are too many.
    ///
    /// One that has more than half of its time left stays as it is but for its number, so that a URI that is asked for often does not take
    /// all places.
    pub(super) fn set(&mut self, primary: u128, number: u64, now: u64) {
        let until = now.saturating_add(self.holds_millis);
        let mut number = number;
        let mut renews = true;
        if let Some(mark) = self.set.get_mut(&primary) {
            mark.number = mark.number.max(number);
            number = mark.number;
            renews = mark.until <= now.saturating_add(self.holds_millis / 2);
        }
        if self.holds_millis == 0 || self.count_max == 0 || !renews {
            return;
        }
        while let Some(&(oldest, ends)) = self.queue.front()
            && (ends <= now || self.queue.len() >= self.count_max)
        {
            self.queue.pop_front();
            if self.set.get(&oldest).is_some_and(|mark| mark.until == ends) {
                self.set.remove(&oldest);
            }
        }
        self.set.insert(primary, Mark { until, number });
        self.queue.push_back((primary, until));
    }

    pub(super) fn lift(&mut self, primary: u128) {
        self.set.remove(&primary);
    }

    pub(super) fn holds(&self, primary: u128, now: u64) -> bool {
        self.until(primary, now).is_some()
    }

    /// Until when a mark holds, if it does.
    pub(super) fn until(&self, primary: u128, now: u64) -> Option<u64> {
        self.get(primary, now).map(|mark| mark.until)
    }

    /// The number of a mark, if it holds.
    pub(super) fn number(&self, primary: u128, now: u64) -> Option<u64> {
        self.get(primary, now).map(|mark| mark.number)
    }

    /// A mark that holds.
    fn get(&self, primary: u128, now: u64) -> Option<&Mark> {
        self.set.get(&primary).filter(|mark| now < mark.until)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert!(self.queue.len() >= self.set.len());
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_holds_its_time() {
        let mut marks = Marks::new(4, 100);
        marks.set(1, 0, 50);
        assert!(marks.holds(1, 149) && !marks.holds(1, 150) && !marks.holds(2, 60));
        marks.lift(1);
        assert!(!marks.holds(1, 60));
    }

    #[test]
    fn the_oldest_mark_goes_where_there_are_too_many() {
        let mut marks = Marks::new(2, 100);
        for primary in 1..=3 {
            marks.set(primary, 0, 0);
        }
        assert!(!marks.holds(1, 1) && marks.holds(2, 1) && marks.holds(3, 1));
    }

    #[test]
    fn one_uri_does_not_take_all_places() {
        let mut marks = Marks::new(3, 100);
        marks.set(1, 0, 0);
        for now in 0..=50 {
            marks.set(2, 0, now);
        }
        assert!(marks.holds(1, 60) && marks.holds(2, 140));
        assert_eq!(marks.len(), 3, "set again once, when half of its time was over");
    }

    #[test]
    fn lifting_and_setting_leaves_no_more_places_than_marks() {
        let mut marks = Marks::new(3, 100);
        for now in 0..50 {
            marks.set(7, 0, now);
            marks.lift(7);
        }
        assert!(marks.len() <= 3 && !marks.holds(7, 50));
        marks.set(7, 0, 50);
        assert!(marks.holds(7, 149), "places of lifted marks do not end it");
    }

    /// I-22.
    #[test]
    fn a_mark_has_the_number_of_the_newest_answer_that_set_it() {
        let mut marks = Marks::new(4, 100);
        for (number, now) in [(3, 0), (5, 10), (4, 20)] {
            marks.set(1, number, now);
        }
        assert_eq!((marks.number(1, 99), marks.until(1, 99)), (Some(5), Some(100)));
        assert_eq!((marks.number(1, 100), marks.number(2, 50)), (None, None));
    }

    #[test]
    fn no_time_or_no_places_means_no_marks() {
        for mut marks in [Marks::new(4, 0), Marks::new(0, 100)] {
            marks.set(1, 0, 0);
            assert!(!marks.holds(1, 0));
            assert_eq!(marks.len(), 0);
        }
    }
}
