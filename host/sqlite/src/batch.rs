//! One statement for many rows: a third of a small statement's cost does not depend on the number of its rows.
//!
//! Owns how rows are divided among statements of a few fixed sizes, so that SQLite prepares each size once. It knows no
//! table.

/// The numbers of rows for which there are statements, the largest first. The last one is 1, so that every number of
/// rows can be divided.
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

/// One statement, written for each of [`SIZES`].
pub(crate) struct Statements([String; SIZES.len()]);

impl Statements {
    /// Calls `write` for each size with its rows as they follow `VALUES`: `(?, ?), (?, ?)` is two rows of two columns.
    pub(crate) fn new(columns: usize, write: impl Fn(&str) -> String) -> Self {
        let row = format!("({})", vec!["?"; columns].join(", "));
        Self(SIZES.map(|size| write(&vec![row.as_str(); size].join(", "))))
    }

    /// The statement for the number of rows of a slice that [`slices`] returned. Other numbers panic.
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
