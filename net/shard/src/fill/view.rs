//! A fill as its readers see it: the view of one core, the right to read, and the wake-ups between the cores.
//!
//! `fill.rs` makes a view and tells of progress; `viewer/relay.rs` reads through a [`Reader`]. Invariants: each core with readers has one view of a
//! fill; a core is told once until it has looked; who stops reading is noted, wherever its task was cut short.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use aspis_runtime::sync::Notify;
use aspis_storage::mapping::body::Body;
use aspis_storage::passage::Passage;
use aspis_storage::response::StoredResponse;

use crate::disk::SlicesOf;
use crate::limits::{FILL_WITHOUT_VIEWER_MISSING_MAX, FILL_WITHOUT_VIEWER_TIME};
use crate::messages::Message;
use crate::shard::Shard;

/// What all cores know of a fill.
pub(crate) struct SharedFill {
    /// The core that fills.
    core: usize,
    number: u64,
    pub(crate) body: Arc<Body>,
    /// Where the bytes are that come behind the body's, once it is continued.
    passage: OnceLock<Arc<Passage>>,
    /// Where on disk its bytes are, or will be.
    on_disk: OnceLock<OnDisk>,
    readers: AtomicUsize,
    /// For each core: it was told of progress and has not looked yet.
    told: Box<[AtomicBool]>,
}

/// Where on disk the bytes of a fill are.
pub(crate) struct OnDisk {
    pub(crate) slices: SlicesOf,
    /// Where in these bytes the fill begins.
    pub(crate) start: u64,
    /// With the fields that tell which representation it is.
    pub(crate) stored: Arc<StoredResponse>,
}

/// A viewer's right to read a fill, on its way to the viewer's core.
pub(crate) struct Reading(Arc<SharedFill>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A fill as the readers of one core see it.
pub(crate) struct FillView {
    shared: Arc<SharedFill>,
    /// Bytes were published, or the fill ended or went on in a passage.
    pub(crate) changed: Notify,
    /// On the core that fills: a passage may have room again.
    pub(super) room: Notify,
    /// On the core that fills: the other cores that have readers.
    cores: RefCell<Vec<usize>>,
    home: Weak<Shard>,
}

/// One reader. Leaving is noted also when the viewer's task is cut short.
pub(crate) struct Reader {
    pub(crate) view: Rc<FillView>,
    reading: Option<Reading>,
}

impl FillView {
    pub(super) fn new(shard: &Shard, body: Arc<Body>) -> Rc<Self> {
        let shared = Arc::new(SharedFill {
            core: shard.core,
            number: shard.fills.next_number(),
            body,
            passage: OnceLock::new(),
            on_disk: OnceLock::new(),
            readers: AtomicUsize::new(0),
            told: (0..shard.cores).map(|_| AtomicBool::new(false)).collect(),
        });
        Self::of(shard, &shared)
    }

    /// This core's view of a fill.
    fn of(shard: &Shard, shared: &Arc<SharedFill>) -> Rc<Self> {
        let key = (shared.core, shared.number);
        let mut views = shard.fills.views.borrow_mut();
        if let Some(view) = views.get(&key).and_then(Weak::upgrade) {
            return view;
        }
        let view = Rc::new(FillView {
            shared: Arc::clone(shared),
            changed: Notify::new(),
            room: Notify::new(),
            cores: RefCell::default(),
            home: Rc::downgrade(&shard.handle()),
        });
        views.insert(key, Rc::downgrade(&view));
        view
    }

    /// The bytes so far.
    pub(crate) fn body(&self) -> &Arc<Body> {
        &self.shared.body
    }

    /// What follows the body, if it is continued.
    pub(crate) fn passage(&self) -> Option<&Arc<Passage>> {
        self.shared.passage.get()
    }

    /// On the core that fills: what comes behind the body goes through a passage.
    pub(super) fn go_on_in(&self, passage: Arc<Passage>) {
        self.shared.passage.set(passage).expect("a fill is continued once");
    }

    /// On the core that fills: its bytes are on disk, or go there.
    pub(super) fn set_on_disk(&self, on_disk: OnDisk) {
        // A body has one place there.
        let _ = self.shared.on_disk.set(on_disk);
    }

    /// What all cores know of it, if who is too slow for its passage reads on from disk.
    pub(crate) fn on_disk(&self) -> Option<&Arc<SharedFill>> {
        self.shared.on_disk.get().map(|_| &self.shared)
    }

    /// On the core that fills: lets a viewer on `core` read.
    pub(crate) fn lend(&self, core: usize) -> Reading {
        let mut cores = self.cores.borrow_mut();
        if core != self.shared.core && !cores.contains(&core) {
            cores.push(core);
        }
        self.shared.readers.fetch_add(1, Ordering::AcqRel);
        Reading(Arc::clone(&self.shared))
    }

    /// On the reader's core: begins to read.
    pub(crate) fn attach(shard: &Rc<Shard>, reading: Reading) -> Reader {
        let view = FillView::of(shard, &reading.0);
        Reader { view, reading: Some(reading) }
    }

    /// Tells the core that fills that a passage may have room.
    pub(crate) fn tell_room(&self) {
        let Some(shard) = self.home.upgrade() else { return };
        if self.shared.core == shard.core {
            self.room.notify_all();
        } else {
            shard.post(self.shared.core, Message::Room(Arc::clone(&self.shared)));
        }
    }

    /// On the core that fills: wakes all readers, those of other cores by one message each that has not been looked at.
    pub(super) fn tell(&self, shard: &Shard) {
        self.changed.notify_all();
        for &core in self.cores.borrow().iter() {
            // AcqRel: pairs with the reader's swap, so that one of the two sees what was published.
            if !self.shared.told[core].swap(true, Ordering::AcqRel) {
                shard.post(core, Message::Progress(Arc::clone(&self.shared)));
            }
        }
    }

    pub(super) fn has_readers(&self) -> bool {
        self.shared.readers.load(Ordering::Acquire) > 0
    }

    /// On the core that fills: waits until nobody reads what goes through a passage.
    pub(super) async fn all_left(&self) {
        loop {
            let room = self.room.notified();
            if !self.has_readers() {
                return;
            }
            room.await;
        }
    }

    /// Idea 4: a fill without viewers goes on if half is there or little is missing. Where the length is not known it has
    /// a little time: an answer that never ends would hold its connection for ever.
    pub(super) fn is_worth_finishing((length, done): (Option<u64>, u64), millis_alone: u64) -> bool {
        let Some(length) = length else {
            return u128::from(millis_alone) < FILL_WITHOUT_VIEWER_TIME.as_millis();
        };
        done >= length / 2 || length - done <= FILL_WITHOUT_VIEWER_MISSING_MAX
    }
}

impl SharedFill {
    /// The core that fills.
    pub(crate) fn core(&self) -> usize {
        self.core
    }

    /// Where on disk its bytes are.
    pub(crate) fn on_disk(&self) -> Option<&OnDisk> {
        self.on_disk.get()
    }
}

impl Drop for FillView {
    fn drop(&mut self) {
        if let Some(shard) = self.home.upgrade() {
            shard.fills.views.borrow_mut().remove(&(self.shared.core, self.shared.number));
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.reading.take());
        if self.view.passage().is_some() {
            self.view.tell_room();
        }
    }
}

/// The fills that this core makes or reads.
#[derive(Default)]
pub(crate) struct Fills {
    views: RefCell<HashMap<(usize, u64), Weak<FillView>>>,
    next: Cell<u64>,
}

impl Fills {
    fn next_number(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        number
    }

    fn view(&self, shared: &SharedFill) -> Option<Rc<FillView>> {
        self.views.borrow().get(&(shared.core, shared.number)).and_then(Weak::upgrade)
    }
}

impl Shard {
    /// A fill that viewers of this core may read has changed.
    pub(crate) fn fill_changed(&self, shared: &SharedFill) {
        shared.told[self.core].swap(false, Ordering::AcqRel);
        if let Some(view) = self.fills.view(shared) {
            view.changed.notify_all();
        }
    }

    /// A passage of this core may have room.
    pub(crate) fn fill_has_room(&self, shared: &SharedFill) {
        if let Some(view) = self.fills.view(shared) {
            view.room.notify_all();
        }
    }
}
