//! The digests of components that have numbers in `outbox.handlers`, as far as this process knows.
//!
//! A digest is numbered in a transaction of its own, before the transaction of the settlements that refer to it: two of
//! those that number digests at different moments could wait for each other. This file does not know what refers to a
//! digest.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::error::PgError;
use crate::tx::Query;

/// Digests that have numbers.
#[derive(Default)]
pub(crate) struct KnownDigests {
    known: Mutex<HashSet<String>>,
}

impl KnownDigests {
    /// Numbers those of the digests that are not known yet. The connection has no open transaction.
    pub(crate) async fn number(
        &self,
        client: &impl Query,
        digests: impl Iterator<Item = &str> + Send,
    ) -> Result<(), PgError> {
        let unknown = self.unknown(digests);
        if unknown.is_empty() {
            return Ok(());
        }
        client.rows("SELECT outbox.know_handlers($1)", &[&unknown]).await?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).extend(unknown);
        Ok(())
    }

    /// Forgets all: the database may be another one, or an earlier state of it.
    pub(crate) fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn unknown<'a>(&self, digests: impl Iterator<Item = &'a str>) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown: HashSet<_> = digests.filter(|digest| !known.contains(*digest)).collect();
        unknown.into_iter().map(str::to_owned).collect()
    }
}
