//! Gives back what claims took whose answers were lost.
//!
//! It does not know how the worker notices that.

use outbox_item::ItemId;
use outbox_store::{ClaimRef, ClaimToken};

use crate::claim_end::{ClaimEnd, write_claim_ends};
use crate::error::PgError;
use crate::leases::lock_claims;
use crate::tx::{Query as _, WriteTx};

/// Ends the leases with these tokens. Their items are PENDING again at once, uncounted and without a trace, because no
/// attempt has begun. Returns the number of items.
pub(crate) async fn abandon(tx: &mut WriteTx<'_>, tokens: &[ClaimToken]) -> Result<u32, PgError> {
    let claims = claims(tx, tokens).await?;
    let leased = lock_claims(tx, &claims.iter().collect::<Vec<_>>()).await?;
    let ends: Vec<_> = leased.into_iter().map(|leased| ClaimEnd::released(leased.into(), tx.now)).collect();
    write_claim_ends(tx, &ends).await?;
    Ok(u32::try_from(ends.len()).unwrap_or(u32::MAX))
}

/// The claims on what is in the leases.
async fn claims(tx: &WriteTx<'_>, tokens: &[ClaimToken]) -> Result<Vec<ClaimRef>, PgError> {
    let numbers: Vec<_> = tokens.iter().map(|token| token.get()).collect();
    let sql = "SELECT token, unnest(ids) AS id FROM outbox.leases WHERE token = ANY($1::bigint[])";
    let mut claims = Vec::new();
    for row in tx.rows(sql, &[&numbers]).await? {
        let (token, id) = (ClaimToken::new(row.try_get("token")?), ItemId::new(row.try_get("id")?));
        claims.push(ClaimRef { id, token, is_plain: false });
    }
    Ok(claims)
}
