//! S3-FIFO: three queues, of which a hit moves nothing (Yang et al., "FIFO queues are all you need for cache eviction",
//! SOSP 23).
//!
//! ```text
//!   new ---> small (a tenth) ---- asked for again ----> main ---> asked for since? to its end : out
//!              |                                          ^
//!              +--- not asked for again: out, ghost ------+ comes back while the ghost remembers it
//! ```
//!
//! Most of what is asked for once is never asked for again, and passes through the small queue without touching what is
//! in the main one. A hit counts to three in a byte of its own. A ghost is four bytes of the key's hash; two keys with
//! one hash share it, which costs nothing but a place in the main queue.

use super::policy::{Policy, resize};

/// No slot.
const NONE: u32 = u32::MAX;

/// How often a slot was asked for, at most; the rest of the byte says which queue it is in.
const HITS: u8 = 3;
const MAIN: u8 = 4;

#[derive(Clone, Copy)]
struct Link {
    /// The one that came earlier.
    before: u32,
    /// The one that came later.
    after: u32,
}

/// A queue within the links.
#[derive(Clone, Copy)]
struct Queue {
    oldest: u32,
    newest: u32,
    len: usize,
}

impl Queue {
    const EMPTY: Self = Self { oldest: NONE, newest: NONE, len: 0 };
}

/// The policy. Each slot has a link and a byte in it.
pub(super) struct S3Fifo {
    links: Vec<Link>,
    marks: Vec<u8>,
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
}

impl Default for S3Fifo {
    fn default() -> Self {
        Self {
            links: Vec::new(),
            marks: Vec::new(),
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            ghosts: Ghosts::default(),
        }
    }
}

impl S3Fifo {
    /// The small queue gives first while it is larger than one in so many of all.
    const SMALL: usize = 10;

    fn mark(&self, at: u32) -> u8 {
        self.marks.get(at as usize).copied().unwrap_or(0)
    }

    fn set_mark(&mut self, at: u32, mark: u8) {
        if let Some(place) = self.marks.get_mut(at as usize) {
            *place = mark;
        }
    }

    fn queue(&mut self, mark: u8) -> &mut Queue {
        if mark & MAIN == 0 { &mut self.small } else { &mut self.main }
    }

    fn link(&self, at: u32) -> Link {
        self.links.get(at as usize).copied().unwrap_or(Link { before: NONE, after: NONE })
    }

    /// Says that the neighbours of `at`, in the queue of `mark`, are these.
    fn join(&mut self, before: u32, after: u32, mark: u8) {
        match self.links.get_mut(before as usize) {
            Some(link) => link.after = after,
            None => self.queue(mark).oldest = after,
        }
        match self.links.get_mut(after as usize) {
            Some(link) => link.before = before,
            None => self.queue(mark).newest = before,
        }
    }

    fn push(&mut self, at: u32, mark: u8) {
        let newest = self.queue(mark).newest;
        if let Some(link) = self.links.get_mut(at as usize) {
            *link = Link { before: newest, after: NONE };
        }
        self.set_mark(at, mark);
        self.join(newest, at, mark);
        // `join` has taken the slot before `at` for the newest.
        let queue = self.queue(mark);
        queue.newest = at;
        queue.len += 1;
    }

    fn unlink(&mut self, at: u32) {
        let (link, mark) = (self.link(at), self.mark(at));
        self.join(link.before, link.after, mark);
        self.queue(mark).len -= 1;
    }
}

impl Policy for S3Fifo {
    fn insert(&mut self, at: u32, hash: u32) {
        self.links.push(Link { before: NONE, after: NONE });
        self.marks.push(0);
        let known = self.ghosts.take(hash);
        self.push(at, if known { MAIN } else { 0 });
    }

    #[inline]
    fn hit(&mut self, at: u32) {
        if let Some(mark) = self.marks.get_mut(at as usize)
            && *mark & HITS < HITS
        {
            *mark += 1;
        }
    }

    fn remove(&mut self, at: u32) {
        self.unlink(at);
        self.links.swap_remove(at as usize);
        self.marks.swap_remove(at as usize);
    }

    fn renumber(&mut self, _from: u32, to: u32) {
        // Its link and mark have taken the place already, as the last of their vectors.
        let (link, mark) = (self.link(to), self.mark(to));
        self.join(link.before, to, mark);
        match self.links.get_mut(link.after as usize) {
            Some(after) => after.before = to,
            None => self.queue(mark).newest = to,
        }
    }

    fn victim(&mut self) -> Option<u32> {
        loop {
            let all = self.small.len + self.main.len;
            if self.small.len > all / Self::SMALL || self.main.len == 0 {
                let at = self.small.oldest;
                if at == NONE {
                    return None;
                }
                if self.mark(at) & HITS == 0 {
                    return Some(at);
                }
                self.unlink(at);
                self.push(at, MAIN);
            } else {
                let at = self.main.oldest;
                let mark = self.mark(at);
                if mark & HITS == 0 {
                    return Some(at);
                }
                self.unlink(at);
                self.push(at, mark - 1);
            }
        }
    }

    fn evict(&mut self, at: u32, hash: u32) {
        if self.mark(at) & MAIN == 0 {
            self.ghosts.remember(hash);
        }
        self.remove(at);
    }

    fn supersede(&mut self, at: u32, before: u32, hash: u32) {
        if self.mark(at) & MAIN == 0 {
            self.ghosts.remember(before);
        }
        self.unlink(at);
        let known = self.ghosts.take(hash);
        self.push(at, if known { MAIN } else { 0 });
    }

    fn resize(&mut self, slots: usize) {
        resize(&mut self.links, slots);
        resize(&mut self.marks, slots);
        self.ghosts.resize(slots);
    }

    fn bytes(slots: usize) -> usize {
        slots * (size_of::<Link>() + size_of::<u8>()) + Ghosts::sets(slots) * size_of::<Set>()
    }
}

/// Hashes of one neighbourhood, the latest first; zero is none.
type Set = [u32; WIDTH];

const WIDTH: usize = 8;

/// Hashes of what was put out lately, in sets that each forget their oldest.
#[derive(Default)]
struct Ghosts {
    sets: Vec<Set>,
}

impl Ghosts {
    /// Half as many again as there are slots: with fewer, real traces of requests lose hits.
    const fn sets(slots: usize) -> usize {
        (slots + slots / 2).div_ceil(WIDTH)
    }

    /// The set of a hash; the number of sets is any.
    fn set(&mut self, hash: u32) -> Option<&mut Set> {
        let at = (u64::from(hash) * self.sets.len() as u64) >> 32;
        self.sets.get_mut(usize::try_from(at).unwrap_or(usize::MAX))
    }

    fn remember(&mut self, hash: u32) {
        if let Some(set) = self.set(hash) {
            set.copy_within(..WIDTH - 1, 1);
            if let Some(first) = set.first_mut() {
                *first = hash.max(1);
            }
        }
    }

    /// Whether it is remembered; forgets it.
    fn take(&mut self, hash: u32) -> bool {
        let Some(set) = self.set(hash) else { return false };
        // Most are not, which one comparison of the whole set tells.
        if !set.iter().fold(false, |any, &ghost| any | (ghost == hash.max(1))) {
            return false;
        }
        let Some(place) = set.iter().position(|&ghost| ghost == hash.max(1)) else { return false };
        let Some(rest) = set.get_mut(place..) else { return false };
        rest.rotate_left(1);
        if let Some(last) = rest.last_mut() {
            *last = 0;
        }
        true
    }

    fn resize(&mut self, slots: usize) {
        let wanted = Self::sets(slots);
        if wanted == self.sets.len() {
            return;
        }
        let before = std::mem::replace(&mut self.sets, vec![[0; WIDTH]; wanted]);
        // From the oldest to the latest, so that the latest stay.
        for hash in before.iter().flat_map(|set| set.iter().rev()).filter(|&&hash| hash != 0) {
            self.remember(*hash);
        }
    }
}
