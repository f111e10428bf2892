//! The product's own policies, driven as its tier drives them: a hit raises a use count that stops at 3 and is taken when the policy looks.

use super::reference::Cache;
use super::source::Trace;
use aspis_storage::limits::USE_COUNT_MAX;
use aspis_storage::policy::{Entries, Handle, Policy};

/// A cache of objects under positions, with a policy of the product's.
pub(crate) struct Shipped<'t, P> {
    pub(crate) policy: P,
    sizes: &'t [u64],
    /// Bytes of an object to the policy, per byte of the trace's: what the ghost may take is a share of the bytes.
    scale: u64,
    places: Vec<Option<u32>>,
    slots: Slots,
    free: Vec<u32>,
    len: u64,
    capacity: u64,
    /// What was evicted since it was last asked, and whether it was ever used; `None` until somebody wants to know.
    left: Option<Vec<(u32, bool)>>,
}

/// Objects and their uses by position: since the policy looked last, and whether there ever was one.
struct Slots(Vec<(u32, u8, bool)>);

impl Entries for Slots {
    fn take_uses(&mut self, entry: Handle) -> u8 {
        std::mem::take(&mut self.0[entry.0 as usize].1)
    }

    fn hash(&self, entry: Handle) -> u128 {
        hash(self.0[entry.0 as usize].0)
    }
}

/// Numbers of objects are as good as hashes once they are spread.
fn hash(object: u32) -> u128 {
    let low = super::source::mix(u64::from(object));
    u128::from(super::source::mix(low)) << 64 | u128::from(low)
}

impl<'t, P: Policy> Shipped<'t, P> {
    /// Makes an empty cache of `capacity` bytes of the trace with the policy that `make` makes for as many.
    pub(crate) fn new(trace: &'t Trace, capacity: u64, make: impl Fn(u64) -> P) -> Self {
        let count = trace.sizes.len();
        let scale = trace.unit;
        Shipped {
            policy: make(capacity * scale),
            sizes: &trace.sizes,
            scale,
            places: vec![None; count],
            slots: Slots(Vec::new()),
            free: Vec::new(),
            len: 0,
            capacity,
            left: None,
        }
    }

    /// Tells whether an object is held.
    pub(crate) fn holds(&self, object: u32) -> bool {
        self.places[object as usize].is_some()
    }

    /// Hands out what was evicted since the last call, each with whether it was used.
    pub(crate) fn take_left(&mut self, left: &mut Vec<(u32, bool)>) {
        left.append(self.left.get_or_insert_default());
    }
}

impl<P: Policy> Cache for Shipped<'_, P> {
    fn request(&mut self, _at: usize, object: u32) -> bool {
        let len = self.sizes[object as usize];
        let hash = hash(object);
        if let Some(place) = self.places[object as usize] {
            let (_, uses, was_used) = &mut self.slots.0[place as usize];
            (*uses, *was_used) = ((*uses + 1).min(USE_COUNT_MAX), true);
            if self.policy.is_sampled(hash) {
                self.policy.note_use(hash, len * self.scale);
            }
            return true;
        }
        if len > self.capacity {
            return false;
        }
        while self.len + len > self.capacity {
            let Some(Handle(place)) = self.policy.evict(&mut self.slots) else { break };
            let (evicted, _, was_used) = self.slots.0[place as usize];
            self.places[evicted as usize] = None;
            if let Some(left) = &mut self.left {
                left.push((evicted, was_used));
            }
            self.len -= self.sizes[evicted as usize];
            self.free.push(place);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.0.push((0, 0, false));
            self.slots.0.len() as u32 - 1
        });
        self.slots.0[place as usize] = (object, 0, false);
        self.policy.insert(Handle(place), hash, len * self.scale, None);
        self.places[object as usize] = Some(place);
        self.len += len;
        false
    }
}
