//! Extends leases that a worker has in hand.
//!
//! It does not know which leases those are, nor how often they are renewed.

use tokio_postgres::Row;

use outbox_item::ItemId;
use outbox_store::{ClaimToken, LeaseState, Renewal, RenewedLease};

use crate::error::PgError;
use crate::tx::{Query as _, WriteTx};

/// The parameters: tokens, and the end of each lease. Never waits, so that renewals and settlements cannot block each
/// other: a lease that another transaction has locked stays as it is. A lease that was deleted since the statement
/// began is still `known`; the next renewal finds it gone.
const RENEW: &str = "\
    WITH wanted AS (SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS wanted (token, lease_until)),
         free AS (SELECT token FROM outbox.leases WHERE token = ANY($1) FOR NO KEY UPDATE SKIP LOCKED),
         renewed AS (UPDATE outbox.leases AS lease SET lease_until = wanted.lease_until
                     FROM wanted JOIN free USING (token) WHERE lease.token = wanted.token
                     RETURNING lease.token, lease.ids)
    SELECT wanted.token, renewed.ids,
           EXISTS (SELECT 1 FROM outbox.leases AS lease WHERE lease.token = wanted.token) AS known
    FROM wanted LEFT JOIN renewed ON renewed.token = wanted.token";

/// Extends each lease that exists to its length from now, whether or not it has run out.
pub(crate) async fn renew(tx: &WriteTx<'_>, renewals: &[Renewal]) -> Result<Vec<RenewedLease>, PgError> {
    let tokens: Vec<_> = renewals.iter().map(|renewal| renewal.token.get()).collect();
    let ends: Vec<_> = renewals.iter().map(|renewal| tx.now.saturating_add(renewal.lease).get()).collect();
    tx.rows(RENEW, &[&tokens, &ends]).await?.iter().map(renewed).collect()
}

fn renewed(row: &Row) -> Result<RenewedLease, PgError> {
    let state = match row.try_get::<_, Option<Vec<i64>>>("ids")? {
        Some(ids) => LeaseState::Held { ids: ids.into_iter().map(ItemId::new).collect() },
        None if row.try_get("known")? => LeaseState::Busy,
        None => LeaseState::Gone,
    };
    Ok(RenewedLease { token: ClaimToken::new(row.try_get("token")?), state })
}
