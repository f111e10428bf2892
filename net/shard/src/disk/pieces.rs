//! Pieces of large bodies for viewers that are slower than the disk: what several of them want is read once, and stays a while for those behind.
//!
//! `slices.rs` comes here for what goes through a passage. Each reader that fell out of a passage's window has a stream of its own, and without this each
//! would read all of the body for itself. Who finds a piece here is faster than who waits for the disk, so that those who are close to each other stay close.
//! Invariants: a piece was verified when it was read, and is the same bytes for whoever asks, since a slice's hash is that of one write; what is kept is
//! bounded and charged, and given back when nobody asked for any of it for a while; one read at a time for a piece, and none if nobody waits for it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use aspis_runtime::sync::oneshot;
use aspis_storage::budget::{Budget, Charge};

use crate::limits::{SLOW_PIECE_LEN, passage_window};

/// Which piece of which slice. The whole key belongs to it: a hash alone may be another key's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// The slice's.
    pub(super) hash: u128,
    /// Where in the slice it begins.
    pub(super) start: usize,
    pub(super) key: Box<[u8]>,
}

/// Verified bytes in memory of their own: no buffer that others wait for.
pub(super) struct Piece {
    pub(super) bytes: Box<[u8]>,
    pub(super) _charge: Charge,
}

/// What is kept or on its way.
pub(super) struct Pieces {
    by_place: RefCell<HashMap<Place, State>>,
    /// What is kept, the oldest first.
    kept: RefCell<VecDeque<Place>>,
    kept_max: usize,
    /// Somebody asked since it was looked last.
    is_used: Cell<bool>,
}

enum State {
    /// Who else waits looks again when these are dropped.
    Coming(Vec<oneshot::Sender<()>>),
    There(Rc<Piece>),
}

/// What somebody reads just now, until that is done or given up.
struct Coming<'p> {
    pieces: &'p Pieces,
    place: &'p Place,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let coming = self.pieces.by_place.borrow_mut().remove(self.place);
        // Wakes those who wait, with nothing borrowed.
        drop(coming);
    }
}

impl Pieces {
    /// Keeps as much of all bodies as a passage keeps of one.
    pub(super) fn new(budget: &Budget, cores: usize) -> Self {
        let len = passage_window(budget.limit() / cores as u64);
        Pieces {
            by_place: RefCell::default(),
            kept: RefCell::default(),
            kept_max: (len / SLOW_PIECE_LEN) as usize,
            is_used: Cell::new(false),
        }
    }

    /// The piece at a place: as it is here, as somebody brings it, or as `read` does; `None` if that cannot.
    pub(super) async fn get(
        &self,
        place: Place,
        read: impl Future<Output = Option<Piece>>,
    ) -> Option<Rc<Piece>> {
        self.is_used.set(true);
        loop {
            let coming = match self.by_place.borrow_mut().get_mut(&place) {
                Some(State::There(piece)) => return Some(Rc::clone(piece)),
                Some(State::Coming(waiting)) => {
                    let (sender, receiver) = oneshot::channel();
                    waiting.push(sender);
                    receiver
                }
                None => break,
            };
            // It is dropped, not sent.
            let _ = coming.await;
        }
        self.by_place.borrow_mut().insert(place.clone(), State::Coming(Vec::new()));
        let coming = Coming { pieces: self, place: &place };
        let piece = read.await.map(Rc::new);
        drop(coming);
        let piece = piece?;
        self.keep(place, &piece);
        Some(piece)
    }

    fn keep(&self, place: Place, piece: &Rc<Piece>) {
        let (mut by_place, mut kept) = (self.by_place.borrow_mut(), self.kept.borrow_mut());
        while kept.len() >= self.kept_max
            && let Some(oldest) = kept.pop_front()
        {
            by_place.remove(&oldest);
        }
        by_place.insert(place.clone(), State::There(Rc::clone(piece)));
        kept.push_back(place);
    }

    /// Lets go of what is kept if nobody asked for any since this was called last.
    pub(super) fn tend(&self) {
        if self.is_used.replace(false) {
            return;
        }
        let mut by_place = self.by_place.borrow_mut();
        self.kept.borrow_mut().drain(..).for_each(|place| drop(by_place.remove(&place)));
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use aspis_storage::budget::Purpose;

    use super::*;
    use crate::limits::PASSAGE_WINDOW_LEN_MIN;

    fn pieces() -> (Arc<Budget>, Pieces) {
        let budget = Budget::new(64 << 20);
        let pieces = Pieces::new(&budget, 1);
        (budget, pieces)
    }

    fn piece(budget: &Arc<Budget>, byte: u8) -> Option<Piece> {
        let _charge = budget.reserve(Purpose::Disk, 100)?;
        Some(Piece { bytes: vec![byte; 100].into(), _charge })
    }

    fn place(start: usize) -> Place {
        Place { hash: 1, start, key: b"key".as_slice().into() }
    }

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[track_caller]
    fn byte(found: Poll<Option<Rc<Piece>>>) -> Option<u8> {
        match found {
            Poll::Ready(piece) => piece.map(|piece| piece.bytes[0]),
            Poll::Pending => panic!("it is there, or it cannot be read"),
        }
    }

    #[test]
    fn what_several_want_is_read_once() {
        let (budget, pieces) = pieces();
        let (go, went) = oneshot::channel();
        let (reads, went) = (Cell::new(0), RefCell::new(Some(went)));
        let read = || async {
            reads.set(reads.get() + 1);
            let went = went.borrow_mut().take().expect("it is read once");
            went.await.ok()?;
            piece(&budget, 7)
        };
        let (mut first, mut second) =
            (pin!(pieces.get(place(0), read())), pin!(pieces.get(place(0), read())));
        assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
        assert!(go.send(()).is_ok());
        assert_eq!((byte(poll(first)), byte(poll(second))), (Some(7), Some(7)));
        assert_eq!(byte(poll(pin!(pieces.get(place(0), read())))), Some(7));
        assert_eq!(reads.get(), 1);
    }

    #[test]
    fn who_waits_for_one_that_went_away_reads_it_himself() {
        let (budget, pieces) = pieces();
        let mut second = pin!(pieces.get(place(0), async { piece(&budget, 8) }));
        {
            let mut first = pin!(pieces.get(place(0), std::future::pending()));
            assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
        }
        assert_eq!(byte(poll(second)), Some(8));
    }

    #[test]
    fn a_piece_of_another_key_with_the_same_hash_is_another() {
        let (budget, pieces) = pieces();
        assert_eq!(byte(poll(pin!(pieces.get(place(0), async { piece(&budget, 1) })))), Some(1));
        let other = Place { key: b"other".as_slice().into(), ..place(0) };
        assert_eq!(byte(poll(pin!(pieces.get(other, async { piece(&budget, 2) })))), Some(2));
    }

    #[test]
    fn what_cannot_be_read_is_asked_for_anew() {
        let (budget, pieces) = pieces();
        assert_eq!(byte(poll(pin!(pieces.get(place(0), async { None })))), None);
        assert_eq!(byte(poll(pin!(pieces.get(place(0), async { piece(&budget, 9) })))), Some(9));
    }

    /// What is kept is bounded, and nothing is when nobody asks.
    #[test]
    fn a_few_are_kept_for_a_while() {
        let (budget, pieces) = pieces();
        let count = PASSAGE_WINDOW_LEN_MIN / SLOW_PIECE_LEN;
        for number in 0..2 * count as usize {
            assert_eq!(byte(poll(pin!(pieces.get(place(number), async { piece(&budget, 1) })))), Some(1));
            assert!(budget.used(Purpose::Disk) <= count * 100);
        }
        let first = pieces.get(place(0), async { piece(&budget, 2) });
        assert_eq!(byte(poll(pin!(first))), Some(2), "it made room for others");
        pieces.tend();
        assert_eq!(budget.used(Purpose::Disk), count * 100, "somebody asked");
        pieces.tend();
        assert_eq!(budget.used(Purpose::Disk), 0);
        assert!(pieces.by_place.borrow().is_empty());
    }
}
