//! Notices when somebody moves the clock of the store.
//!
//! Pure: it compares readings of that clock with the monotonic clock, and reads neither.

use std::time::Duration;

use tokio::time::Instant;

use outbox_item::Millis;

/// The largest difference between two clocks over the time between two readings that is not a jump. Clocks that are
/// adjusted gradually stay far below it.
const DRIFT_MAX: i64 = 1_000;

/// One reading of the store's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockReading {
    /// A moment before the clock was read.
    pub(crate) before: Instant,
    /// What it said.
    pub(crate) store_time: Millis,
    /// A moment after the clock was read.
    pub(crate) after: Instant,
}

/// Whether the store's clock can be trusted to say that a lease has run out.
#[derive(Debug)]
pub(crate) struct ClockWatch {
    lease: Duration,
    last: Option<ClockReading>,
    distrusted_until: Instant,
}

impl ClockWatch {
    /// A watch that begins at `now`. After a jump, processes have this `lease` to renew what they hold by the new time.
    ///
    /// The clock may have jumped just before `now`, which nobody here saw. So it is distrusted at first, for half a
    /// lease: processes renew at each third of a lease, so whoever is alive has renewed what it holds by then, with
    /// time for some failed tries. A longer time would help little and delay items. What a process held that died a
    /// moment ago runs out after two thirds of a lease or later, so its restart loses no time here; what ended long ago
    /// waits for this half.
    pub(crate) fn new(lease: Duration, now: Instant) -> Self {
        Self { lease, last: None, distrusted_until: now + lease / 2 }
    }

    /// Records a reading. Returns by how many milliseconds the clock has jumped since the last one, if it has.
    pub(crate) fn observe(&mut self, reading: ClockReading) -> Option<i64> {
        let jump = self.last.replace(reading).and_then(|last| reading.jump_since(last));
        if jump.is_some() {
            self.distrusted_until = self.distrusted_until.max(reading.after + self.lease);
        }
        jump
    }

    /// Records that the store could not be asked at `now`. Other processes may have been cut off too: whoever is alive
    /// renews what it holds within half a lease after the store is back.
    pub(crate) fn missed(&mut self, now: Instant) {
        self.distrusted_until = self.distrusted_until.max(now + self.lease / 2);
    }

    /// Whether a lease that has run out by the store's clock may be ended.
    pub(crate) fn is_trusted(&self, now: Instant) -> bool {
        now >= self.distrusted_until
    }
}

impl ClockReading {
    /// How far the clock moved beyond the time that has passed. A reading that took long leaves open when the clock was
    /// read; only what no moment within it explains is a jump.
    fn jump_since(self, last: Self) -> Option<i64> {
        let moved = self.store_time.get().saturating_sub(last.store_time.get());
        let [shortest, longest] = [(last.after, self.before), (last.before, self.after)]
            .map(|(from, to)| i64::try_from(to.saturating_duration_since(from).as_millis()).unwrap_or(i64::MAX));
        let jump = if moved > longest { moved - longest } else { moved.saturating_sub(shortest).min(0) };
        (jump.abs() > DRIFT_MAX).then_some(jump)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_mins(1);

    /// The jumps that a watch sees in readings at these moments, each in milliseconds: monotonic time before and after
    /// the reading, and the store's time.
    fn jumps(readings: &[(u64, u64, i64)]) -> Vec<Option<i64>> {
        let start = Instant::now();
        let mut watch = ClockWatch::new(LEASE, start);
        let at = |millis| start + Duration::from_millis(millis);
        let reading = |(before, after, store_time): &(u64, u64, i64)| ClockReading {
            before: at(*before),
            store_time: Millis::new(*store_time),
            after: at(*after),
        };
        readings.iter().map(reading).map(|reading| watch.observe(reading)).collect()
    }

    #[test]
    fn a_clock_that_goes_like_the_monotonic_one_or_a_little_wrong_does_not_jump() {
        assert_eq!(
            jumps(&[(0, 1, 500), (1_000, 1_001, 1_500), (2_000, 2_001, 3_400), (3_000, 3_001, 3_500)]),
            [None; 4]
        );
    }

    #[test]
    fn a_clock_that_was_moved_jumps_in_the_direction_in_which_it_was_moved() {
        let forward_and_back = [(0, 0, 0), (1_000, 1_000, 601_000), (2_000, 2_000, 602_000), (3_000, 3_000, 3_000)];
        assert_eq!(jumps(&forward_and_back), [None, Some(600_000), None, Some(-600_000)]);
    }

    #[test]
    fn an_answer_that_took_long_is_no_jump() {
        assert_eq!(jumps(&[(0, 1, 0), (1_000, 9_000, 1_000), (10_000, 10_001, 10_000)]), [None; 3]);
        assert_eq!(jumps(&[(0, 1, 0), (1_000, 9_000, 9_000), (10_000, 10_001, 10_000)]), [None; 3]);
        assert_eq!(jumps(&[(0, 1, 0), (1_000, 9_000, 11_000)]), [None, Some(2_000)]);
    }

    #[test]
    fn the_clock_is_trusted_only_after_every_live_process_has_renewed_its_leases() {
        let start = Instant::now();
        let watch = ClockWatch::new(LEASE, start);
        assert!(!watch.is_trusted(start + LEASE / 3));
        assert!(watch.is_trusted(start + LEASE / 2));
    }

    #[test]
    fn after_an_outage_of_the_store_every_live_process_can_renew_its_leases() {
        let start = Instant::now();
        let mut watch = ClockWatch::new(LEASE, start);
        let (back, renewed) = (start + 9 * LEASE, start + 9 * LEASE + LEASE / 2);
        watch.missed(back);
        assert!(!watch.is_trusted(back) && !watch.is_trusted(renewed - Duration::from_millis(1)));
        assert!(watch.is_trusted(renewed));
    }

    #[test]
    fn the_clock_is_trusted_again_a_lease_after_its_last_jump() {
        let start = Instant::now();
        let mut watch = ClockWatch::new(LEASE, start);
        for (seconds, store_time) in [(0, 0), (1, 100_000), (2, 200_000)] {
            let moment = start + Duration::from_secs(seconds);
            watch.observe(ClockReading { before: moment, store_time: Millis::new(store_time), after: moment });
        }
        assert!(!watch.is_trusted(start + Duration::from_secs(61)));
        assert!(watch.is_trusted(start + Duration::from_secs(62)));
    }
}
