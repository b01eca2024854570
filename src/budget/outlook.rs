//! Where the pages will stand once all that large reservations promised is touched: plain numbers, told from outside.
//!
//! A reservation is granted before its memory is touched. Of several at a time each would see pages that the others are
//! only about to take, and all would be granted. So what was promised is added to the pages, until it can be seen in
//! them, is released, or is of an age at which it would long have been touched.

/// A promise counts for this long at least, in milliseconds; for up to three times as long, as one looks now and then.
const PATIENCE: u64 = 500;

/// The pages there are, and when that was, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) pages: u64,
    pub(super) now: u64,
}

/// A large reservation that is counted, until it is known whether it is granted.
#[derive(Debug)]
#[must_use]
pub(super) struct Claim {
    n: u64,
    reused: u64,
}

#[derive(Debug, Default)]
pub(super) struct Outlook {
    /// What large reservations have left since the last trim, for other large ones.
    vacant: u64,
    /// What large reservations hold.
    held: u64,
    /// Where the pages will stand.
    level: u64,
    /// What was promised since `turned`, and in the turn before.
    young: [u64; 2],
    turned: u64,
}

impl Outlook {
    /// By how much `n` more bytes would pass `most`, where so many bytes of heap are live.
    pub(super) fn over(&mut self, n: u64, live: u64, most: u64, seen: Seen) -> u64 {
        self.soon(seen).saturating_add(n - self.reused(n, live, seen)).saturating_sub(most)
    }

    /// Where the pages will stand: not below what is seen, nor above it by more than can still be untouched.
    pub(super) fn soon(&mut self, seen: Seen) -> u64 {
        let turns = seen.now.saturating_sub(self.turned) / PATIENCE;
        if turns > 0 {
            self.young = [0, if turns == 1 { self.young[0] } else { 0 }];
            self.turned = seen.now;
        }
        let untouched = self.young[0].saturating_add(self.young[1]).min(self.held);
        self.level = self.level.clamp(seen.pages, seen.pages.saturating_add(untouched));
        self.level
    }

    /// A large reservation is granted, and its pages will be.
    pub(super) fn take(&mut self, n: u64, live: u64, seen: Seen) -> Claim {
        let reused = self.reused(n, live, seen);
        self.level = self.soon(seen).saturating_add(n - reused);
        self.vacant -= reused;
        self.held = self.held.saturating_add(n);
        self.young[0] = self.young[0].saturating_add(n);
        Claim { n, reused }
    }

    /// It came to nothing: all is as it was.
    pub(super) fn give_up(&mut self, Claim { n, reused }: Claim) {
        self.young[0] = self.young[0].saturating_sub(n);
        self.vacant = self.vacant.saturating_add(reused);
        self.release(n, reused);
    }

    /// A large reservation was released. Of its pages so many are vacant as nobody else can have; what went back at once,
    /// as mappings do, is not.
    pub(super) fn leave(&mut self, n: u64, pages: u64) {
        let others = self.level.saturating_sub(n);
        let kept = pages.saturating_sub(others).min(n);
        self.vacant = self.vacant.saturating_add(kept);
        self.release(n, kept);
    }

    /// Free pages went back; no vacant ones are left.
    pub(super) fn trimmed(&mut self, before: u64, after: Seen) {
        let promised = self.soon(Seen { pages: before, ..after }) - before;
        self.level = after.pages.saturating_add(promised);
        self.vacant = 0;
    }

    fn release(&mut self, n: u64, kept: u64) {
        self.held = self.held.saturating_sub(n);
        // Whoever holds nothing has promised nothing.
        self.level = if self.held == 0 { 0 } else { self.level.saturating_sub(n - kept) };
    }

    /// How much of `n` goes where others have been.
    fn reused(&self, n: u64, live: u64, seen: Seen) -> u64 {
        self.vacant.min(seen.pages.saturating_sub(live)).min(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 100;

    fn at(pages: u64) -> Seen {
        Seen { pages, now: 0 }
    }

    #[test]
    fn what_is_promised_and_not_yet_touched_is_in_the_way_of_others() {
        let mut outlook = Outlook::default();
        assert_eq!(outlook.over(30, 40, MOST, at(40)), 0);
        let _claim = outlook.take(30, 40, at(40));
        assert_eq!(outlook.over(30, 70, MOST, at(40)), 0, "just so");
        assert_eq!(outlook.over(31, 70, MOST, at(40)), 1);
        assert_eq!(outlook.over(31, 70, MOST, at(55)), 1, "half of it is touched: it does not count twice");
        let second = outlook.take(30, 70, at(40));
        assert_eq!(outlook.over(5, 100, MOST, at(70)), 5, "one of two is touched");
        outlook.give_up(second);
        assert_eq!(outlook.over(5, 70, MOST, at(70)), 0);
    }

    #[test]
    fn what_one_leaves_is_room_for_the_next_unless_its_pages_went_back() {
        let mut outlook = Outlook::default();
        let _claim = outlook.take(50, 50, at(50));
        outlook.leave(50, 100);
        assert_eq!(outlook.over(50, 50, MOST, at(100)), 0, "its pages are vacant");
        let _claim = outlook.take(50, 50, at(100));
        assert_eq!(outlook.over(5, 100, MOST, at(100)), 5, "and taken again");
        outlook.leave(50, 50);
        assert_eq!(outlook.over(50, 50, MOST, at(50)), 0, "they went back");
    }

    #[test]
    fn a_promise_is_in_nobody_s_way_after_a_second_nor_after_the_last_that_is_held() {
        let mut outlook = Outlook::default();
        let _claim = outlook.take(60, 30, at(30));
        for (now, over) in [(0, 20), (PATIENCE - 1, 20), (2 * PATIENCE - 2, 20), (3 * PATIENCE - 2, 0), (u64::MAX, 0)] {
            assert_eq!(outlook.over(30, 90, MOST, Seen { pages: 30, now }), over, "at {now}");
        }
        outlook.leave(60, 30);
        assert_eq!(outlook.over(70, 30, MOST, at(30)), 0);
    }

    #[test]
    fn no_figures_are_too_large() {
        let mut outlook = Outlook::default();
        for now in [0, PATIENCE, 2 * PATIENCE, u64::MAX] {
            let seen = Seen { pages: u64::MAX - now, now };
            let claim = outlook.take(u64::MAX, now, seen);
            assert!(outlook.over(u64::MAX, 0, MOST, seen) > MOST);
            outlook.trimmed(u64::MAX, seen);
            outlook.leave(u64::MAX, now);
            outlook.give_up(claim);
        }
        assert_eq!(outlook.over(60, 40, MOST, Seen { pages: 40, now: u64::MAX }), 0);
    }

    #[test]
    fn a_trim_takes_what_is_vacant_and_leaves_what_is_promised() {
        let mut outlook = Outlook::default();
        let _claim = outlook.take(20, 40, at(40));
        let _claim = outlook.take(20, 60, at(60));
        outlook.leave(20, 90);
        assert_eq!(outlook.over(20, 60, MOST, at(90)), 0);
        outlook.trimmed(90, at(50));
        assert_eq!(outlook.over(40, 60, MOST, at(60)), 0);
        assert_eq!(outlook.over(41, 60, MOST, at(60)), 1);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Beside a list of what each large reservation promised and has touched. The outlook is exact as long as all
        /// pages go back at once; what stays behind is never counted for less than is seen, nor for more than it was.
        #[test]
        fn the_outlook_is_what_the_pages_become(
            ops in proptest::collection::vec((0..7_u8, 1..40_u64, 0..8_usize), 1..60),
            stay in proptest::bool::ANY,
        ) {
            let (mut outlook, mut free, mut large) = (Outlook::default(), 0, Vec::<(u64, u64)>::new());
            let touched = |large: &[(u64, u64)]| large.iter().map(|(_, touched)| touched).sum::<u64>();
            let held = |large: &[(u64, u64)]| large.iter().map(|(n, _)| n).sum::<u64>();
            for (op, n, which) in ops {
                let which = which % large.len().max(1);
                let pages = touched(&large) + free;
                match (op, large.get_mut(which)) {
                    (0 | 1, _) => {
                        let _claim = outlook.take(n, held(&large), at(pages));
                        large.push((n, 0));
                    }
                    (2, _) => {
                        let claim = outlook.take(n, held(&large), at(pages));
                        outlook.give_up(claim);
                    }
                    (3 | 4, Some((promised, touched))) => *touched = (*touched + n).min(*promised),
                    (5 | 6, Some(&mut (n, pages))) => {
                        large.swap_remove(which);
                        free += if stay { pages } else { 0 };
                        outlook.leave(n, touched(&large) + free);
                    }
                    _ => (),
                }
                let (pages, held) = (touched(&large) + free, held(&large));
                let over = outlook.over(n, held, 0, at(pages));
                let vacant = outlook.vacant.min(free).min(n);
                if stay {
                    assert!(outlook.vacant <= free + held, "{} vacant of {free}", outlook.vacant);
                    assert!((pages + n - vacant..=held + free + n).contains(&over), "{over} for {large:?} and {free}");
                } else {
                    assert_eq!(over, held + n, "{large:?}");
                }
            }
        }
    }
}
