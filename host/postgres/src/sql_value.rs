//! The values of statements, with the PostgreSQL type that each one is sent as.
//!
//! A statement that names the types of its parameters is parsed, bound and run in one message, and leaves nothing
//! behind in the session. So connections work through a pooler that gives each transaction another session. This file
//! knows no statement.

use tokio_postgres::types::{ToSql, Type};

/// A value that a statement can have as a parameter.
pub(crate) trait SqlValue: Sync {
    /// The type of the parameter.
    fn sql_type(&self) -> Type;

    /// The value for the driver.
    fn parameter(&self) -> &(dyn ToSql + Sync);
}

/// The values of a statement, `$1` first.
pub(crate) type Values<'a> = &'a [&'a dyn SqlValue];

/// The values as the driver wants them.
pub(crate) fn typed(values: Values<'_>) -> Vec<(&(dyn ToSql + Sync), Type)> {
    values.iter().map(|value| (value.parameter(), value.sql_type())).collect()
}

macro_rules! sql_value {
    ($type:expr => $($value:ty),+) => {$(
        impl SqlValue for $value {
            fn sql_type(&self) -> Type {
                $type
            }

            fn parameter(&self) -> &(dyn ToSql + Sync) {
                self
            }
        }
    )+};
}

/// A Rust type as a value, as a value that can be NULL, and as arrays of both.
macro_rules! sql_values {
    ($type:ident, $array:ident => $($value:ty),+) => {$(
        sql_value!(Type::$type => $value, Option<$value>);
        sql_value!(Type::$array => Vec<$value>, Vec<Option<$value>>, &[$value]);
    )+};
}

sql_values!(BOOL, BOOL_ARRAY => bool);
sql_values!(INT4, INT4_ARRAY => i32);
sql_values!(INT8, INT8_ARRAY => i64);
sql_values!(FLOAT8, FLOAT8_ARRAY => f64);
sql_values!(TEXT, TEXT_ARRAY => &str, String);
sql_values!(BYTEA, BYTEA_ARRAY => &[u8], Vec<u8>);
