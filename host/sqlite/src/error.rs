//! How a failure of SQLite becomes an error of the store.
//!
//! It knows the driver's error type only, and nothing of what was tried.

use rusqlite::ErrorCode;
use rusqlite::types::Type;

use outbox_store::StoreError;

/// The error of a caller that was doing `tried`. A [`StoreError`] that a row's decoder put into the driver's error
/// (see [`unusable`]) comes out again unchanged; every other failure may pass and is [`StoreError::Unavailable`].
pub(crate) fn unavailable(tried: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |err| match err {
        rusqlite::Error::FromSqlConversionFailure(column, kind, source) => match source.downcast::<StoreError>() {
            Ok(err) => *err,
            Err(source) => {
                let source = rusqlite::Error::FromSqlConversionFailure(column, kind, source);
                StoreError::Unavailable { tried, source: Box::new(source) }
            }
        },
        source => StoreError::Unavailable { tried, source: Box::new(source) },
    }
}

/// Whether the connection keeps failing so until it is opened again: the file was read-only or out of reach.
pub(crate) fn needs_new_connection(err: &rusqlite::Error) -> bool {
    let code = err.sqlite_error_code();
    code.is_some_and(|code| matches!(code, ErrorCode::ReadOnly | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen))
}

/// The error of SQLite in an error of the store, if the disk was full.
pub(crate) fn full_disk(err: &StoreError) -> Option<&rusqlite::Error> {
    let StoreError::Unavailable { source, .. } = err else { return None };
    source.downcast_ref::<rusqlite::Error>().filter(|err| err.sqlite_error_code() == Some(ErrorCode::DiskFull))
}

/// Carries the store's own error through functions that return the driver's.
pub(crate) fn unusable(err: StoreError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Null, Box::new(err))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_store_passes_through_the_driver_unchanged() {
        let passed = unavailable("reading")(unusable(StoreError::Unusable("audit entry 7".into())));
        assert!(matches!(passed, StoreError::Unusable(message) if message == "audit entry 7"));
        let busy = unavailable("reading")(rusqlite::Error::QueryReturnedNoRows);
        assert!(matches!(busy, StoreError::Unavailable { tried: "reading", .. }));
    }
}
