//! The values of a label that applications choose, of which there may be any number: a bounded number of them, and one
//! value for all others.

use std::collections::BTreeSet;

/// How many values have samples of their own besides those that running processes know.
pub(super) const OTHERS_MAX: usize = 100;

/// The value for all others. No type or saga has such a name.
pub(super) const OTHER: &str = "_other";

/// Those values of a label that have samples of their own.
pub(super) struct LabelValues(BTreeSet<String>);

impl LabelValues {
    /// All `known` values, and the first of the others by name.
    pub(super) fn new<'a>(
        known: impl IntoIterator<Item = String>,
        found: impl IntoIterator<Item = &'a String>,
    ) -> Self {
        let mut values: BTreeSet<String> = known.into_iter().collect();
        let others: BTreeSet<&String> = found.into_iter().filter(|value| !values.contains(*value)).collect();
        values.extend(others.into_iter().take(OTHERS_MAX).cloned());
        Self(values)
    }

    /// The value under which a figure is counted.
    pub(super) fn of<'a>(&self, value: &'a str) -> &'a str {
        if self.0.contains(value) { value } else { OTHER }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_and_a_hundred_others_are_shown_and_the_rest_is_one() {
        let found: Vec<_> = (0..1_000).map(|number| format!("t{number:04}")).collect();
        let values = LabelValues::new(["t0999".to_owned(), "unused".to_owned()], &found);
        let shown: BTreeSet<_> = found.iter().map(|value| values.of(value)).collect();
        assert_eq!(shown.len(), OTHERS_MAX + 2);
        assert_eq!([values.of("t0999"), values.of("t0099"), values.of("t0100")], ["t0999", "t0099", OTHER]);
    }
}
