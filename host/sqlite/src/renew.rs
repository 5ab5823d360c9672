//! Extends leases that a worker has in hand.
//!
//! It does not know which leases those are, nor how often they are renewed.

use rusqlite::{OptionalExtension, params};

use outbox_store::{LeaseState, Renewal, RenewedLease, StoreError};

use crate::error::unavailable;
use crate::id_list::read_ids;
use crate::write_tx::WriteTx;

/// Extends each lease that exists to its length from now, whether or not it has run out.
pub(crate) fn renew(tx: &WriteTx<'_>, renewals: &[Renewal]) -> Result<Vec<RenewedLease>, StoreError> {
    let renewed = renewals.iter().map(|renewal| extend(tx, renewal)).collect::<rusqlite::Result<_>>();
    renewed.map_err(unavailable("renewing leases"))
}

fn extend(tx: &WriteTx<'_>, Renewal { token, lease }: &Renewal) -> rusqlite::Result<RenewedLease> {
    let mut update =
        tx.connection.prepare_cached("UPDATE outbox_leases SET lease_until = ?2 WHERE token = ?1 RETURNING ids")?;
    let values = params![token.get(), tx.now.saturating_add(*lease).get()];
    let held = update.query_row(values, |row| read_ids(row, 0)).optional()?;
    let state = held.map_or(LeaseState::Gone, |ids| LeaseState::Held { ids });
    Ok(RenewedLease { token: *token, state })
}
