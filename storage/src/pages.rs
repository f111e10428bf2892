//! A vector that grows by one page at a time and never moves what it holds.
//!
//! Tables of millions of entries lie in these, so that no single insert pays for copying them and memory never doubles in one step.
//! Invariant: every element of every page has a value; who uses the pages says which of them mean something.

/// Elements of a page: few enough that making one is some microseconds' work.
pub(crate) const PAGE_LEN: usize = 512;

/// Elements by number, all of them initialised.
#[derive(Debug)]
pub(crate) struct Pages<T> {
    pages: Vec<Box<[T; PAGE_LEN]>>,
}

impl<T: Default> Pages<T> {
    /// Bytes that one more page takes, its place in the list of pages (which doubles) included.
    pub(crate) const PAGE_COST: u64 = (size_of::<[T; PAGE_LEN]>() + 3 * size_of::<usize>()) as u64;

    /// Makes an empty vector, which takes no memory.
    pub(crate) fn new() -> Self {
        Pages { pages: Vec::new() }
    }

    /// Adds a page of default elements.
    pub(crate) fn grow(&mut self) {
        let page: Box<[T]> = (0..PAGE_LEN).map(|_| T::default()).collect();
        let Ok(page) = page.try_into() else { unreachable!("as many were collected as a page has") };
        self.pages.push(page);
    }

    /// Returns how many elements there are.
    pub(crate) fn len(&self) -> usize {
        self.pages.len() * PAGE_LEN
    }

    /// Returns the bytes that this takes.
    pub(crate) fn memory(&self) -> u64 {
        self.pages.len() as u64 * Self::PAGE_COST
    }

    /// Returns an element.
    ///
    /// # Panics
    /// If there is none of that number: numbers come from this crate's own tables.
    pub(crate) fn at(&self, number: u32) -> &T {
        let number = number as usize;
        &self.pages[number / PAGE_LEN][number % PAGE_LEN]
    }

    /// Returns an element to change; panics as [`Pages::at`] does.
    pub(crate) fn at_mut(&mut self, number: u32) -> &mut T {
        let number = number as usize;
        &mut self.pages[number / PAGE_LEN][number % PAGE_LEN]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_stay_where_they_are_while_pages_are_added() {
        let mut pages = Pages::<u64>::new();
        assert_eq!((pages.len(), pages.memory()), (0, 0));
        pages.grow();
        *pages.at_mut(511) = 7;
        let before: *const u64 = pages.at(511);
        (0..40).for_each(|_| pages.grow());
        assert!(std::ptr::eq(before, pages.at(511)));
        assert_eq!((pages.len(), *pages.at(511), *pages.at(512)), (41 * 512, 7, 0));
        assert_eq!(pages.memory(), 41 * Pages::<u64>::PAGE_COST);
    }
}
