//! What a monitor does when the process is frozen into a snapshot and restored from it.

use crate::budget::ReclaimPriority;
use crate::heap;
use crate::os;
use crate::size::ByteSize;

use super::Monitor;

impl Monitor {
    /// Has memory given back before a snapshot of the process is taken, and tells how much less is held of the budget.
    ///
    /// Asked are those of the monitor's [budget](super::MonitorBuilder::budget) and
    /// [resources](super::MonitorBuilder::resource) that are ranked up to `up_to`, for all they can do without; then
    /// pages are given back with [`os::trim`], which takes milliseconds. What has no account, and what is in use, stays.
    ///
    /// On `lambda_runtime`, `integration::lambda::snap_start` calls this and [`after_restore`](Self::after_restore).
    /// Elsewhere call them where the snapshot is taken, with nothing in flight.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// let given_back = monitor.before_snapshot(plimsoll::budget::ReclaimPriority::CACHE); // models stay
    /// println!("{given_back} less in the snapshot");
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub fn before_snapshot(&self, up_to: ReclaimPriority) -> ByteSize {
        let budget = self.shared.budget.as_ref();
        let reclaimed = budget.map_or(ByteSize::ZERO, |budget| budget.reclaim(up_to, ByteSize::MAX));
        // Those of other budgets; what was asked above has nothing left to give.
        let unloaded = self.shared.resources.unload(up_to);
        let _nothing_to_do = os::trim();
        reclaimed.saturating_add(unloaded)
    }

    /// Sets right what a restore from a snapshot has left wrong.
    ///
    /// The clock is compared with the wall clock, so that what expired meanwhile is not served; peaks begin anew; and
    /// what was seen of memory and said of it before is forgotten, since it is now said in another log.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # let monitor = plimsoll::Monitor::install_from_env();
    /// monitor.after_restore(); // before the first request
    /// # Ok::<(), plimsoll::monitor::BuildError>(())
    /// ```
    pub fn after_restore(&self) {
        self.shared.clock.refresh();
        heap::reset_peak();
        // Without it the peak rss is that of before the snapshot, which is no worse than not knowing.
        let _unknown = os::reset_peak_rss();
        let _rss = heap::check_now();
        self.shared.state().forget();
        self.shared.beyond.forget();
        self.shared.cgroup_peak.reset();
    }
}
