//! The handler: three reasons why memory grows or wavers, of which one is a leak.

use plimsoll::ByteSize;
use plimsoll::board::{self, Holder};

use crate::arguments::Arguments;

/// How many invocations the cache takes to fill, and with how much each.
const WARM_UP: usize = 120;
const ENTRY: usize = 64 << 10;

pub(crate) struct Handler {
    leak: usize,
    noise: usize,
    handled: usize,
    /// The leak: entered by every request, and forgotten by none.
    sessions: Vec<Vec<u8>>,
    /// Bounded, and on the board: no leak.
    cache: Vec<Vec<u8>>,
    holder: Holder,
    /// Left for the next request to take up, now more and now less: no leak either.
    pending: Vec<u8>,
    random: u64,
}

/// The planted leak. It has a frame of its own, so that a profile names it.
#[inline(never)]
fn remember_session(sessions: &mut Vec<Vec<u8>>, bytes: usize) {
    sessions.push(vec![1; bytes]);
}

impl Handler {
    pub(crate) fn new(arguments: &Arguments) -> Self {
        Self {
            leak: arguments.leak.as_usize(),
            noise: arguments.noise.as_usize(),
            handled: 0,
            sessions: Vec::new(),
            cache: Vec::new(),
            holder: board::holder("cache"),
            pending: Vec::new(),
            random: arguments.seed.wrapping_mul(2) + 1,
        }
    }

    pub(crate) fn handle(&mut self) {
        self.handled += 1;
        if self.leak > 0 {
            remember_session(&mut self.sessions, self.leak);
        }
        if self.handled <= WARM_UP {
            self.cache.push(vec![2; ENTRY]);
            self.holder.add(ByteSize::bytes(ENTRY as u64));
        }
        let size = self.below(self.noise);
        self.pending = vec![3; size];
    }

    /// A number from 0 to `most`, by xorshift.
    fn below(&mut self, most: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let share = (u128::from(self.random) * (most as u128 + 1)) >> 64;
        usize::try_from(share).unwrap_or(most)
    }
}
