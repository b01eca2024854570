//! What a budget, its accounts and their reservations share at work: finding room, asking for it, refusing.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use crate::board::{self, Clean};
use crate::log::warn_once;
use crate::size::ByteSize;

use super::baseline::Reckoning;
use super::books::Slot;
use super::error::Refusal;
use super::outlook::Claim;
use super::reclaim::{self, Reclaiming};
use super::{ACCOUNTS, BudgetExceeded, Core, Entry, OTHER, Pressure, Rank, pages};

impl Core {
    /// The place of an account; those beyond the last share one.
    #[inline]
    pub(super) fn entry(&self, index: usize) -> &Entry {
        self.entries.get(index).unwrap_or(&self.other).get_or_init(|| Entry::new(OTHER))
    }

    /// The index of the account of that name, which is put there unless all places are taken.
    pub(super) fn index_of(&self, name: &'static str) -> usize {
        let own = |entry: &OnceLock<Entry>| entry.get_or_init(|| Entry::new(name)).name == name;
        if name == OTHER {
            return ACCOUNTS;
        }
        self.entries.iter().position(own).unwrap_or_else(|| {
            warn_full(name);
            ACCOUNTS
        })
    }

    pub(super) fn opened(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map_while(OnceLock::get).chain(self.other.get())
    }

    pub(super) fn pressure(&self) -> Pressure {
        self.thresholds.pressure(self.line.used(), self.line.room())
    }

    pub(super) fn available(&self) -> u64 {
        self.line.room().saturating_sub(self.line.used())
    }

    pub(super) fn reckon(&self, correct: impl FnOnce(&mut Reckoning, u64)) {
        let mut reckoning = self.reckoning.lock();
        correct(&mut reckoning, self.line.used());
        self.line.set_room(reckoning.room());
    }

    /// Looks at the pages and corrects the overhead in the middle of an invocation that reserves much; `used` stands for
    /// the heap that is live.
    #[cold]
    pub(super) fn look_at_pages(&self, used: u64) {
        // Another thread looks, or tells what it saw: no need to wait, and perhaps a lock is held.
        let Some(mut reckoning) = self.reckoning.try_lock() else { return };
        let live = used.saturating_add(reckoning.unreserved);
        self.pages.look(live);
        if !reckoning.is_new_height(used) {
            return;
        }
        let Some(rss) = pages::rss() else { return };
        reckoning.observe_rss(rss, live);
        self.line.set_room(reckoning.room());
        self.pages.note(rss);
    }

    /// Sees to it that a large reservation fits beside the pages, and has it counted there; `None` where it is not.
    #[cold]
    pub(super) fn fit_pages(&self, asker: usize, n: u64) -> Result<Option<Claim>, BudgetExceeded> {
        // What is beyond the room is refused for that, when it is taken.
        if n > self.line.room() {
            return Ok(None);
        }
        let claim = || self.pages.claim(n, self.live());
        if let Ok(claimed) = claim() {
            return Ok(claimed);
        }
        // Whatever seems free: what was promised long ago and lies untouched hides it.
        if !self.pages.are_resting() {
            self.trim(true);
        }
        let over = match claim() {
            Ok(claimed) => return Ok(claimed),
            Err(_) if !self.pages.are_trimmed() => return Ok(self.pages.claim_anyway(n, self.live())),
            Err(over) => over,
        };
        // Who holds less than that is not asked in vain.
        let (mut used, mut claimed) = (self.line.used(), None);
        let granted = used.saturating_sub(self.kept_from(asker)) >= over
            && self.reclaim(Some(asker), Rank::HIGHEST, || {
                let now = self.line.used();
                if now < used {
                    self.trim(true);
                }
                used = now;
                // Not again once it is granted.
                match claim() {
                    Ok(new) => {
                        claimed = new;
                        None
                    }
                    Err(over) => Some(ByteSize::bytes(over)),
                }
            });
        if granted {
            return Ok(claimed);
        }
        let beside = ByteSize::bytes(n.saturating_sub(self.pages.missing(n, self.live())));
        let refusal = self.refusal(asker, n);
        Err(Refusal { available: refusal.available.min(beside), ..refusal }.into())
    }

    /// A large reservation was granted at the cost of others, whose pages are in its way, or it was refused.
    #[cold]
    pub(super) fn settle(&self, claim: Claim, granted: bool) {
        if !granted {
            self.pages.give_up(claim);
        } else if self.pages.are_trimmable(self.live()) {
            self.trim(false);
        }
    }

    /// What is reserved, and heap that nobody reserved.
    fn live(&self) -> u64 {
        self.line.used().saturating_add(self.reckoning.lock().unreserved)
    }

    /// Gives free pages back, and has what is left of the rss beyond the live heap told from pages that carried more.
    pub(super) fn trim(&self, always: bool) {
        if self.pages.trim(self.live(), always)
            && let Some(rss) = pages::rss()
        {
            self.reckon(|reckoning, used| reckoning.trimmed(rss, used));
        }
    }

    /// What those hold who would not be asked.
    pub(super) fn kept_from(&self, asker: usize) -> u64 {
        let askable = self.reclaimers.askable(asker);
        let places = self.entries.iter().chain([&self.other]).enumerate();
        let kept = places.filter(|(index, _)| askable >> index & 1 == 0).filter_map(|(_, entry)| entry.get());
        kept.fold(0, |sum, entry| sum.saturating_add(entry.slot.held()))
    }

    /// Asks reclaimers in turn until nothing is `missing`, and tells whether that is so; `missing` is called again
    /// after each. Nobody is asked who is ranked above `up_to`; for `asker`, an account, only those that it may ask.
    pub(super) fn reclaim(
        &self,
        asker: Option<usize>,
        up_to: Rank,
        mut missing: impl FnMut() -> Option<ByteSize>,
    ) -> bool {
        let Some(_guard) = Reclaiming::begin() else { return missing().is_none() };
        for pressure in [Pressure::High, Pressure::Critical] {
            let (mut last, count) = (None, self.reclaimers.count());
            loop {
                let Some(want) = missing() else { return true };
                let next = self.reclaimers.after(last, count, asker);
                let Some((key, reclaimer)) = next.filter(|(key, _)| key.rank() <= up_to) else { break };
                reclaim::ask(reclaimer, want, pressure);
                last = Some(key);
            }
        }
        false
    }

    pub(super) fn relieve(&self, asker: Option<usize>) -> bool {
        let overdrawn = || {
            let over = self.line.used().saturating_sub(self.line.room());
            Some(ByteSize::bytes(over)).filter(|&over| over > ByteSize::ZERO)
        };
        if self.pages.are_in_the_way(|| self.live()) {
            self.trim(false);
        }
        overdrawn().is_none() || self.reclaim(asker, Rank::HIGHEST, overdrawn)
    }

    /// Takes `n` bytes that were not free, from what others give back.
    #[cold]
    pub(super) fn take_reclaimed(&self, asker: usize, n: u64) -> Result<(), BudgetExceeded> {
        let slot = &self.entry(asker).slot;
        // What the others hold may move meanwhile, and all of it may be had.
        let kept = self.kept_from(asker).saturating_add(n);
        let granted = kept <= self.line.room()
            && self.reclaim(Some(asker), Rank::HIGHEST, || {
                if self.line.take(slot, n) {
                    return None;
                }
                // Where the budget is overdrawn, that comes on top.
                let sum = self.line.used().saturating_add(n);
                Some(ByteSize::bytes(sum.saturating_sub(self.line.room()).max(1)))
            });
        if granted { Ok(()) } else { Err(self.refusal(asker, n).into()) }
    }

    fn refusal(&self, asker: usize, n: u64) -> Refusal {
        let held = self.opened().map(|Entry { name, slot }| (*name, ByteSize::bytes(slot.held())));
        let limit = self.basis.limit();
        Refusal {
            requester: self.entry(asker).name,
            requested: ByteSize::bytes(n),
            available: ByteSize::bytes(self.available()),
            limit,
            withheld: limit.saturating_sub(ByteSize::bytes(self.line.room())),
            holders: board::largest_of(held),
            reentrant: Reclaiming::is_on(),
        }
    }
}

impl Entry {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, slot: Slot::new(board::meter(name)) }
    }
}

/// Warns, once in the life of the process, that the account `name` is the shared account `other`.
fn warn_full(name: &'static str) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    warn_once(
        &WARNED,
        format_args!(
            "all {ACCOUNTS} accounts of the budget are taken: `{}` and later names share the account `{OTHER}`; use few \
             constant names, not one for each tenant",
            Clean(name)
        ),
    );
}
