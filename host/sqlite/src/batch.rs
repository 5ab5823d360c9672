//! Statements for many rows: a third of a small statement's cost is its own, which it then shares.
//!
//! Owns how rows are divided among statements of a few fixed sizes, so that each size is prepared once.

/// A statement has so many rows: the most for which there are enough.
const SIZES: [usize; 3] = [16, 4, 1];

/// Divides rows into slices for which there is a statement.
pub(crate) fn slices<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = SIZES.into_iter().find(|size| *size <= rows.len())?;
        let (slice, rest) = rows.split_at(size);
        rows = rest;
        Some(slice)
    })
}

/// One statement, written for each of the sizes.
pub(crate) struct Statements([String; SIZES.len()]);

impl Statements {
    /// `write` is given the rows of so many columns, as they stand behind `VALUES`.
    pub(crate) fn new(columns: usize, write: impl Fn(&str) -> String) -> Self {
        let row = format!("({})", vec!["?"; columns].join(", "));
        Self(SIZES.map(|size| write(&vec![row.as_str(); size].join(", "))))
    }

    /// The statement for as many rows as [`slices`] has put together.
    pub(crate) fn of(&self, rows: usize) -> &str {
        let fits = |(size, _): &(usize, &String)| *size == rows;
        let found = SIZES.into_iter().zip(&self.0).find(fits);
        found.map_or_else(|| unreachable!("{rows} rows are none of the sizes"), |(_, statement)| statement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_divided_in_their_order_and_each_slice_has_a_statement() {
        let statements = Statements::new(2, |rows| format!("VALUES {rows}"));
        for count in 0..50 {
            let rows: Vec<_> = (0..count).collect();
            let divided: Vec<_> = slices(&rows).collect();
            assert_eq!(divided.concat(), rows);
            for slice in divided {
                assert_eq!(statements.of(slice.len()).matches("(?, ?)").count(), slice.len());
            }
        }
    }
}
