//! Gives back what claims took whose answers were lost.
//!
//! It does not know how the worker notices that.

use tokio_postgres::Row;

use outbox_item::ItemId;
use outbox_store::{ClaimRef, ClaimToken};

use crate::claim_end::{ClaimEnd, write_claim_ends};
use crate::error::PgError;
use crate::leases::lock_claims;
use crate::tx::{Query, WriteTx};

/// Those of the tokens that have a lease: mostly none.
pub(crate) async fn leased(tx: &impl Query, tokens: &[ClaimToken]) -> Result<Vec<ClaimToken>, PgError> {
    let numbers: Vec<_> = tokens.iter().map(|token| token.get()).collect();
    let sql = "SELECT token FROM outbox.leases WHERE token = ANY($1::bigint[])";
    let token = |row: &Row| Ok(ClaimToken::new(row.try_get(0)?));
    tx.rows(sql, &[&numbers]).await?.iter().map(token).collect()
}

/// Ends the lease with this token, if there is one. Its items are PENDING again at once, uncounted and without a trace,
/// because no attempt has begun. Returns the number of items.
pub(crate) async fn abandon(tx: &mut WriteTx<'_>, token: ClaimToken) -> Result<u32, PgError> {
    let claims = claims(tx, token).await?;
    if claims.is_empty() {
        return Ok(0);
    }
    let leased = lock_claims(tx, &claims.iter().collect::<Vec<_>>()).await?;
    let ends: Vec<_> = leased.into_iter().map(|leased| ClaimEnd::released(leased.into(), tx.now)).collect();
    write_claim_ends(tx, &ends).await?;
    Ok(u32::try_from(ends.len()).unwrap_or(u32::MAX))
}

/// The claims on what is in the lease.
async fn claims(tx: &WriteTx<'_>, token: ClaimToken) -> Result<Vec<ClaimRef>, PgError> {
    let sql = "SELECT unnest(ids) FROM outbox.leases WHERE token = $1";
    let claim = |row: &Row| Ok(ClaimRef { id: ItemId::new(row.try_get(0)?), token, is_plain: false });
    tx.rows(sql, &[&token.get()]).await?.iter().map(claim).collect()
}
