//! Values of columns that may hold what no host wrote: text that is no UTF-8, numbers out of range.
//!
//! It knows no column.

use rusqlite::types::ValueRef;

/// A type of which every value of a column can be read, at least nearly.
pub(crate) trait Nearest {
    fn nearest(value: ValueRef<'_>) -> Self;
}

impl Nearest for i64 {
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    fn nearest(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Integer(number) => number,
            ValueRef::Real(number) => number as Self,
            ValueRef::Null | ValueRef::Text(_) | ValueRef::Blob(_) => 0,
        }
    }
}

impl Nearest for u64 {
    fn nearest(value: ValueRef<'_>) -> Self {
        Self::try_from(i64::nearest(value)).unwrap_or_default()
    }
}

impl Nearest for u32 {
    fn nearest(value: ValueRef<'_>) -> Self {
        Self::try_from(u64::nearest(value)).unwrap_or(Self::MAX)
    }
}

impl Nearest for bool {
    fn nearest(value: ValueRef<'_>) -> Self {
        i64::nearest(value) != 0
    }
}

impl Nearest for f64 {
    #[expect(clippy::cast_precision_loss, reason = "nearly")]
    fn nearest(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Real(number) => number,
            other => i64::nearest(other) as Self,
        }
    }
}

impl Nearest for String {
    fn nearest(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Self::from_utf8_lossy(bytes).into_owned(),
            ValueRef::Integer(number) => number.to_string(),
            ValueRef::Real(number) => number.to_string(),
            ValueRef::Null => Self::new(),
        }
    }
}

impl Nearest for Vec<u8> {
    fn nearest(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.to_vec(),
            other => String::nearest(other).into_bytes(),
        }
    }
}

impl<T: Nearest> Nearest for Option<T> {
    fn nearest(value: ValueRef<'_>) -> Self {
        (value != ValueRef::Null).then(|| T::nearest(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_out_of_range_is_the_nearest_one_and_a_text_is_read_as_far_as_it_can() {
        assert_eq!(u32::nearest(ValueRef::Integer(i64::MAX)), u32::MAX);
        assert_eq!(u64::nearest(ValueRef::Integer(-1)), 0);
        assert_eq!(i64::nearest(ValueRef::Real(1e300)), i64::MAX);
        assert_eq!(String::nearest(ValueRef::Text(b"a\xff")), "a\u{FFFD}");
        assert_eq!(Option::<u32>::nearest(ValueRef::Null), None);
    }
}
