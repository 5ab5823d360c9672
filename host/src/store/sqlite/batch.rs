//! Statements for many rows: a third of a small statement's cost is its own, which it then shares.
//!
//! Owns how rows are divided among statements of a few fixed sizes, so that each size is prepared once.

/// Rows that come together share statements of so many,
const MANY: usize = 16;
/// and where they are not as many, of so many.
const FEW: usize = 4;

/// Divides rows into slices for which there is a statement.
pub(super) fn slices<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = match rows.len() {
            0 => return None,
            MANY.. => MANY,
            FEW.. => FEW,
            _ => 1,
        };
        let (slice, rest) = rows.split_at(size);
        rows = rest;
        Some(slice)
    })
}

/// One statement, written for each of the sizes.
pub(super) struct Statements {
    many: String,
    few: String,
    one: String,
}

impl Statements {
    /// `write` is given the rows of so many columns, as they stand behind `VALUES`.
    pub(super) fn new(columns: usize, write: impl Fn(&str) -> String) -> Self {
        let row = format!("({})", vec!["?"; columns].join(", "));
        let rows = |count: usize| write(&vec![row.as_str(); count].join(", "));
        Self { many: rows(MANY), few: rows(FEW), one: rows(1) }
    }

    /// The statement for as many rows as [`slices`] has put together.
    pub(super) fn of(&self, rows: usize) -> &str {
        match rows {
            MANY => &self.many,
            FEW => &self.few,
            _ => &self.one,
        }
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
