//! How many items of each type a worker may have in hand, and attempts running, although other types have taken all
//! permits: so a slow receiver does not hold up the others.
//!
//! Pure numbers. It does not know what a permit is for.

/// One divided by this number is the part of the permits that a worker has in addition, for types that would get none.
const EXTRA_PART: usize = 4;

/// The most attempts of a worker at a time that makes up to `concurrency` of them: a quarter more, which only types use
/// that have few running while others have all. A handler needs room for all of them.
pub const fn most_attempts(concurrency: usize) -> usize {
    concurrency + concurrency / EXTRA_PART
}

/// The floor of a worker that serves some types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Floor {
    of_each: usize,
}

impl Floor {
    /// The floor when `concurrency` attempts are shared out among `types`. A single type needs no floor, and fewer
    /// than four attempts are too few to add one.
    pub(crate) fn new(concurrency: usize, types: usize) -> Self {
        let extra = most_attempts(concurrency) - concurrency;
        if types < 2 || extra == 0 {
            return Self::default();
        }
        Self { of_each: (extra / types).max(1) }
    }

    /// How many more a type that has so many may take whatever others have.
    pub(crate) fn missing(self, held: usize) -> usize {
        self.of_each.saturating_sub(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_more_is_shared_out_among_the_types_and_each_gets_one_at_least() {
        assert_eq!([1, 2, 4, 8, 16, 99].map(|types| Floor::new(64, types).missing(0)), [0, 8, 4, 2, 1, 1]);
        assert_eq!(
            [(8, 2), (4, 2), (3, 2), (1, 9)].map(|(most, types)| Floor::new(most, types).missing(0)),
            [1, 1, 0, 0]
        );
        assert_eq!([0, 1, 2].map(|held| Floor::new(64, 8).missing(held)), [2, 1, 0]);
        assert_eq!([1, 4, 64].map(most_attempts), [1, 5, 80]);
    }
}
