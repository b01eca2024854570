//! The cache itself, for one thread: dense slots, an index over them, a policy that orders them, and the sum of bytes.
//!
//! ```text
//!   index: hash -> slot      slots: [key value hash expires | ..dense.. ]      policy: who goes next
//!                            weights, touched: one word a slot, only where they are needed
//! ```
//!
//! Time is handed in and bounds are asked of the caller; nothing here reads a clock, locks or charges. Of the user's
//! code only `Eq` runs here, in [`Store::find`], which changes nothing. What leaves is handed out in [`Gone`], to be
//! dropped where its `Drop` may do as it likes.

use std::borrow::Borrow;

use crate::budget::Reservation;
use crate::clock::RESOLUTION;

use super::builder::Eviction;
use super::index::Index;
use super::policy::{Order, resize};

/// An entry, or one to be.
pub(super) struct Slot<K, V> {
    pub(super) key: K,
    pub(super) value: V,
    pub(super) hash: u32,
    /// The tick at which it has expired.
    pub(super) expires: u32,
}

/// The tick that never comes.
pub(super) const NEVER: u32 = u32::MAX;

/// How many slots there may be; slot numbers are words of 32 bits.
pub(super) const MOST: usize = u32::MAX as usize - 1;

/// What left the store, to be dropped outside of the lock: first the entries, then what was reserved for them.
pub(super) struct Gone<K, V> {
    first: Option<Slot<K, V>>,
    more: Vec<Slot<K, V>>,
    pub(super) released: Option<Reservation>,
}

impl<K, V> Default for Gone<K, V> {
    fn default() -> Self {
        Self { first: None, more: Vec::new(), released: None }
    }
}

impl<K, V> Gone<K, V> {
    /// One alone costs no allocation.
    pub(super) fn push(&mut self, slot: Slot<K, V>) {
        if self.first.is_none() {
            self.first = Some(slot);
        } else {
            self.more.push(slot);
        }
    }

    /// Takes all of a store that was cleared.
    pub(super) fn take(&mut self, slots: Vec<Slot<K, V>>) {
        self.more = slots;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.is_empty()
    }
}

/// What a store answers.
pub(super) enum Asked<'a, V> {
    Live(&'a V),
    /// It lies there still, in this slot.
    Expired(u32),
    Absent,
}

/// The core.
pub(super) struct Store<K, V> {
    slots: Vec<Slot<K, V>>,
    /// Room for so many, in each of the vectors here and in the policy.
    room: usize,
    /// What each entry weighs beyond its slot; `None` where all weigh nothing.
    weights: Option<Vec<u32>>,
    /// The tick at which each was last asked for; `None` where nothing expires by idleness.
    touched: Option<Vec<u32>>,
    /// Expired after so many ticks without being asked for.
    idle: u32,
    index: Index,
    eviction: Eviction,
    order: Order,
    /// The sum of the weights.
    weighed: u64,
    /// Bytes of all that has a place for each slot, with the room there is; and the least there is with an entry.
    tables: u64,
    least: u64,
    max_entries: usize,
    /// The time of tick zero.
    epoch: u64,
    /// Where the next sweep begins.
    cursor: usize,
}

impl<K, V> Store<K, V> {
    /// `weighs` says whether entries have weights, and `idle` after how many milliseconds unused they expire.
    pub(super) fn new(eviction: Eviction, max_entries: usize, weighs: bool, idle: Option<u64>, now: u64) -> Self {
        let mut store = Self {
            slots: Vec::new(),
            room: 0,
            weights: weighs.then(Vec::new),
            touched: idle.map(|_| Vec::new()),
            idle: idle.map_or(NEVER, |idle| ticks(idle).clamp(1, HALF / 2)),
            index: Index::default(),
            eviction,
            order: Order::new(eviction),
            weighed: 0,
            tables: 0,
            least: 0,
            max_entries: 0,
            epoch: now,
            cursor: 0,
        };
        store.set_max_entries(max_entries);
        store
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn max_entries(&self) -> usize {
        self.max_entries
    }

    pub(super) fn set_max_entries(&mut self, most: usize) {
        self.max_entries = most.min(MOST);
        let others = self.order.entry_bytes() + Index::default().growth();
        self.least = self.tables_of(self.first_room()) + others as u64;
    }

    /// Bytes of the entries and of all tables.
    pub(super) fn bytes(&self) -> u64 {
        self.weighed + self.tables + (self.slots.len() * self.order.entry_bytes() + self.index.bytes()) as u64
    }

    /// Bytes there will be with one entry of this weight more.
    pub(super) fn bytes_with(&self, weight: u32) -> u64 {
        let others = (self.slots.len() + 1) * self.order.entry_bytes() + self.index.bytes() + self.index.growth();
        let tables = if self.slots.len() < self.room { self.tables } else { self.tables_of(self.grown_room()) };
        self.weighed + u64::from(weight) + tables + others as u64
    }

    /// Bytes there will be, at most, with an entry of this weight in the place of that in slot `at`.
    pub(super) fn bytes_in_place(&self, at: u32, weight: u32) -> u64 {
        self.bytes() - u64::from(self.weight(at)) + u64::from(weight) + self.index.growth() as u64
    }

    /// The least that an entry of this weight takes, alone in the store.
    pub(super) fn least_bytes(&self, weight: u32) -> u64 {
        u64::from(weight) + self.least
    }

    /// Bytes of all that has a place for each of so many slots.
    fn tables_of(&self, room: usize) -> u64 {
        let words = usize::from(self.weights.is_some()) + usize::from(self.touched.is_some());
        let slot = size_of::<Slot<K, V>>() + words * size_of::<u32>();
        (room * slot + self.order.bytes(room)) as u64
    }

    fn first_room(&self) -> usize {
        self.max_entries.clamp(1, 8)
    }

    /// The room after one more insertion: an eighth more where it is used up.
    fn grown_room(&self) -> usize {
        if self.slots.len() < self.room {
            return self.room;
        }
        (self.room + self.room / 8 + 4).min(self.max_entries).max(self.first_room())
    }

    fn set_room(&mut self, room: usize) {
        resize(&mut self.slots, room);
        self.weights.iter_mut().for_each(|weights| resize(weights, room));
        self.touched.iter_mut().for_each(|touched| resize(touched, room));
        self.order.resize(room);
        self.room = room;
        self.tables = self.tables_of(room);
    }

    /// The tick of a moment. Ticks last [`RESOLUTION`]; before they run out, after 248 days, all are counted anew.
    #[inline]
    pub(super) fn tick(&mut self, now: u64) -> u32 {
        let tick = now.saturating_sub(self.epoch) / TICK;
        match u32::try_from(tick) {
            Ok(tick) if tick <= HALF => tick,
            _ => self.count_anew(now),
        }
    }

    #[cold]
    fn count_anew(&mut self, now: u64) -> u32 {
        // So much of the past stays as tells what lay unused for how long; beyond it, it has expired in any case.
        let kept = if self.touched.is_some() { u64::from(self.idle) } else { 0 };
        let passed = (now.saturating_sub(self.epoch) / TICK).saturating_sub(kept);
        self.epoch += passed * TICK;
        let earlier = |tick: u32| u32::try_from(u64::from(tick).saturating_sub(passed)).unwrap_or(0);
        for slot in self.slots.iter_mut().filter(|slot| slot.expires != NEVER) {
            slot.expires = earlier(slot.expires);
        }
        for touched in self.touched.iter_mut().flatten() {
            *touched = earlier(*touched);
        }
        ticks(now.saturating_sub(self.epoch))
    }

    /// The tick at which something has expired that lives for `ttl` milliseconds from `now` on.
    pub(super) fn expiry(&mut self, now: u64, ttl: u64) -> u32 {
        self.tick(now);
        // Up to a tick early, never late.
        ticks(now.saturating_add(ttl.min(u64::from(HALF) * TICK)).saturating_sub(self.epoch))
    }

    /// The slot of a key.
    #[inline]
    pub(super) fn find<Q>(&self, hash: u32, key: &Q) -> Option<u32>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let is =
            |at: u32| self.slots.get(at as usize).is_some_and(|slot| slot.hash == hash && slot.key.borrow() == key);
        self.index.find(hash, is)
    }

    /// What is in a slot.
    #[inline]
    pub(super) fn get(&self, at: u32) -> Option<&Slot<K, V>> {
        self.slots.get(at as usize)
    }

    /// The value of a key, which notes that it was asked for unless it has expired.
    #[expect(clippy::inline_always, reason = "a tenth of a hit: called, it hands its answer over in memory")]
    #[inline(always)]
    pub(super) fn ask<Q>(&mut self, hash: u32, key: &Q, now: u64) -> Asked<'_, V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let Some(at) = self.find(hash, key) else { return Asked::Absent };
        let tick = self.tick(now);
        // Each place is looked up once: this is what a hit costs.
        let Some(slot) = self.slots.get(at as usize) else { return Asked::Absent };
        if slot.expires <= tick {
            return Asked::Expired(at);
        }
        if let Some(touched) = &mut self.touched
            && let Some(touched) = touched.get_mut(at as usize)
        {
            if tick.saturating_sub(*touched) >= self.idle {
                return Asked::Expired(at);
            }
            *touched = tick.max(*touched);
        }
        self.order.hit(at);
        Asked::Live(&slot.value)
    }

    /// The value of a key, unless it has expired; notes nothing.
    pub(super) fn peek<Q>(&mut self, hash: u32, key: &Q, now: u64) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let at = self.find(hash, key)?;
        let tick = self.tick(now);
        if self.is_expired(at, tick) { None } else { self.get(at).map(|slot| &slot.value) }
    }

    /// Notes that the entry was asked for.
    #[inline]
    pub(super) fn touch(&mut self, at: u32, tick: u32) {
        self.order.hit(at);
        if let Some(touched) = &mut self.touched
            && let Some(touched) = touched.get_mut(at as usize)
        {
            *touched = tick.max(*touched);
        }
    }

    /// Whether the entry has expired.
    #[inline]
    pub(super) fn is_expired(&self, at: u32, tick: u32) -> bool {
        let expires = self.slots.get(at as usize).map_or(NEVER, |slot| slot.expires);
        if expires <= tick {
            return true;
        }
        match &self.touched {
            None => false,
            Some(touched) => touched.get(at as usize).is_some_and(|&touched| tick.saturating_sub(touched) >= self.idle),
        }
    }

    pub(super) fn weight(&self, at: u32) -> u32 {
        self.weights.as_ref().and_then(|weights| weights.get(at as usize)).copied().unwrap_or(0)
    }

    /// Puts an entry in that is not there yet. The caller has seen to it that it fits.
    pub(super) fn insert(&mut self, slot: Slot<K, V>, weight: u32, tick: u32) {
        let grown = self.grown_room();
        if grown != self.room {
            self.set_room(grown);
        }
        let (at, hash) = (number(self.slots.len()), slot.hash);
        self.slots.push(slot);
        if let Some(weights) = &mut self.weights {
            weights.push(weight);
            self.weighed += u64::from(weight);
        }
        self.touched.iter_mut().for_each(|touched| touched.push(tick));
        self.order.insert(at, hash);
        let slots = &self.slots;
        self.index.insert(hash, at, |at| slots.get(at as usize).map_or(0, |slot| slot.hash));
    }

    /// Puts the entry in the place of that in slot `at`, which has the same key, and gives that out.
    pub(super) fn replace(&mut self, at: u32, new: Slot<K, V>, weight: u32, tick: u32) -> Option<Slot<K, V>> {
        let before = std::mem::replace(self.slots.get_mut(at as usize)?, new);
        if let Some(weights) = &mut self.weights
            && let Some(place) = weights.get_mut(at as usize)
        {
            self.weighed = self.weighed - u64::from(*place) + u64::from(weight);
            *place = weight;
        }
        self.touch(at, tick);
        Some(before)
    }

    /// Takes the entry in slot `at` out.
    pub(super) fn remove(&mut self, at: u32) -> Option<Slot<K, V>> {
        self.take_out(at, false)
    }

    /// The slot whose entry the policy can do without. `None` only if there is none.
    pub(super) fn victim(&mut self) -> Option<u32> {
        self.order.victim()
    }

    /// Takes the victim out.
    pub(super) fn evict(&mut self, victim: u32) -> Option<Slot<K, V>> {
        self.take_out(victim, true)
    }

    /// Puts an entry that is not there yet in the place of the victim, and gives that out. Nothing else moves.
    pub(super) fn supersede(&mut self, victim: u32, new: Slot<K, V>, weight: u32, tick: u32) -> Option<Slot<K, V>> {
        let place = victim as usize;
        let hash = new.hash;
        let before = std::mem::replace(self.slots.get_mut(place)?, new);
        if let Some(weights) = &mut self.weights
            && let Some(place) = weights.get_mut(place)
        {
            self.weighed = self.weighed - u64::from(*place) + u64::from(weight);
            *place = weight;
        }
        if let Some(touched) = &mut self.touched
            && let Some(touched) = touched.get_mut(place)
        {
            *touched = tick;
        }
        self.order.supersede(victim, before.hash, hash);
        let slots = &self.slots;
        self.index.supersede(victim, before.hash, hash, |at| slots.get(at as usize).map_or(0, |slot| slot.hash));
        Some(before)
    }

    fn take_out(&mut self, at: u32, evicted: bool) -> Option<Slot<K, V>> {
        let place = at as usize;
        let hash = self.slots.get(place)?.hash;
        let last = number(self.slots.len() - 1);
        self.index.remove(hash, at);
        if evicted {
            self.order.evict(at, hash);
        } else {
            self.order.remove(at);
        }
        let slot = self.slots.swap_remove(place);
        if let Some(weights) = &mut self.weights {
            self.weighed -= u64::from(weights.swap_remove(place));
        }
        if let Some(touched) = &mut self.touched {
            touched.swap_remove(place);
        }
        if let Some(moved) = self.slots.get(place) {
            self.index.renumber(moved.hash, last, at);
            self.order.renumber(last, at);
        }
        self.give_back();
        Some(slot)
    }

    /// Takes everything out, and gives up all tables.
    pub(super) fn clear(&mut self) -> Vec<Slot<K, V>> {
        let slots = std::mem::take(&mut self.slots);
        self.weighed = 0;
        self.weights = self.weights.take().map(|_| Vec::new());
        self.touched = self.touched.take().map(|_| Vec::new());
        self.order = Order::new(self.eviction);
        self.index = Index::default();
        self.room = 0;
        self.tables = 0;
        slots
    }

    /// Shrinks the tables where less than a quarter of them is used.
    fn give_back(&mut self) {
        let len = self.slots.len();
        if len == 0 || (len < self.room / 4 && self.room > self.first_room()) {
            let room = if len == 0 { 0 } else { (2 * len).max(self.first_room()) };
            self.set_room(room);
            let slots = &self.slots;
            self.index.shrink(room, |at| slots.get(at as usize).map_or(0, |slot| slot.hash));
        }
    }

    /// Looks at up to `most` entries, goes on next time where it stopped, and takes out what has expired.
    pub(super) fn sweep(&mut self, most: usize, tick: u32, mut out: impl FnMut(Slot<K, V>)) {
        if most >= self.slots.len() {
            self.cursor = 0; // all of them, from the top
        }
        for _ in 0..most.min(self.slots.len()) {
            if self.cursor == 0 || self.cursor > self.slots.len() {
                self.cursor = self.slots.len();
            }
            // Downward: the last one takes the place of what is taken out, and was looked at before.
            self.cursor -= 1;
            let at = number(self.cursor);
            if self.is_expired(at, tick) {
                self.remove(at).into_iter().for_each(&mut out);
            }
        }
    }

    /// All entries, in the order of their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot<K, V>> {
        self.slots.iter()
    }
}

/// Milliseconds in a tick.
const TICK: u64 = RESOLUTION.subsec_millis() as u64;

/// Half of the ticks there are: times to live are no longer, and the count begins anew there.
const HALF: u32 = u32::MAX / 2;

/// Whole ticks in so many milliseconds.
#[inline]
fn ticks(millis: u64) -> u32 {
    u32::try_from(millis / TICK).unwrap_or(NEVER).min(NEVER - 1)
}

/// A slot's number; there are never more than [`MOST`].
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "there are never more than MOST slots")]
const fn number(at: usize) -> u32 {
    at as u32
}
