//! Points in time as the store keeps them, and the only arithmetic on them.
//!
//! This file reads no clock: the store supplies the present time. It knows no database.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since 1970-01-01 00:00 UTC (Unix time). The default is that moment itself.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(i64);

impl Millis {
    /// The last point in time that the store can keep.
    pub const MAX: Self = Self(i64::MAX);

    /// The point in time this many milliseconds after 1970-01-01 00:00 UTC.
    pub const fn new(millis: i64) -> Self {
        Self(millis)
    }

    /// The milliseconds since 1970-01-01 00:00 UTC, as they are stored.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The point in time `span` later, in whole milliseconds rounded down; at most [`Millis::MAX`].
    #[must_use]
    pub fn saturating_add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// The point in time `span` earlier, in whole milliseconds rounded down; not before the first that fits.
    #[must_use]
    pub fn saturating_sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis(span)))
    }

    /// How long after `earlier` this point in time is; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<i64> for Millis {
    fn from(millis: i64) -> Self {
        Self(millis)
    }
}

impl From<SystemTime> for Millis {
    /// The time in whole milliseconds, rounded down. A time before 1970 becomes the default.
    fn from(time: SystemTime) -> Self {
        Self::default().saturating_add(time.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

impl PartialEq<i64> for Millis {
    fn eq(&self, millis: &i64) -> bool {
        self.0 == *millis
    }
}

impl fmt::Debug for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Millis {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Converts a duration to whole milliseconds, rounded down. A duration that does not fit becomes [`i64::MAX`].
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_rounded_down_and_bounded() {
        assert_eq!(millis(Duration::from_micros(1_999)), 1);
        assert_eq!(millis(Duration::MAX), i64::MAX);
    }

    #[test]
    fn the_time_of_a_clock_is_rounded_down_and_not_before_1970() {
        let span = Duration::from_micros(1_999);
        assert_eq!(Millis::from(UNIX_EPOCH + span), 1);
        assert_eq!(Millis::from(UNIX_EPOCH - span), Millis::default());
    }

    #[test]
    fn a_point_in_time_is_written_and_read_as_a_bare_number() {
        let time = Millis::new(7);
        assert_eq!((serde_json::to_string(&time).unwrap().as_str(), serde_json::from_str("7").ok()), ("7", Some(time)));
        assert_eq!((format!("{time}"), format!("{:?}", Some(time))), ("7".to_owned(), "Some(7)".to_owned()));
        assert_eq!("7".parse(), Ok(time));
        assert_eq!("x".parse::<Millis>(), Err("x".parse::<i64>().unwrap_err()));
    }

    #[test]
    fn arithmetic_on_points_in_time_saturates() {
        let (now, second) = (Millis::new(5_000), Duration::from_secs(1));
        assert_eq!(now.saturating_add(second), 6_000);
        assert_eq!(now.saturating_sub(second), 4_000);
        assert_eq!(Millis::MAX.saturating_add(second), Millis::MAX);
        assert_eq!(Millis::new(i64::MIN).saturating_sub(second), i64::MIN);
    }

    #[test]
    fn the_time_since_a_later_point_is_zero() {
        let (early, late) = (Millis::new(-1_000), Millis::new(5_000));
        assert_eq!(late.since(early), Duration::from_secs(6));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(Millis::MAX.since(Millis::new(i64::MIN)), Duration::from_millis(i64::MAX.unsigned_abs()));
    }
}
