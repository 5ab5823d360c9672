//! Ends leases that ran out.
//!
//! It knows the lease and the history of its items. Who calls it, and how often, is the caller's. A lease that cannot
//! be ended stops no other.

use outbox_item::Millis;
use outbox_store::engine::store_failures::lease_expired;
use outbox_store::{ClaimToken, StoreError};

use crate::claim::LEASE_MAX;
use crate::claim_end::{ClaimEnd, write_claim_ends};
use crate::context::{PgContext, Purpose};
use crate::error::PgError;
use crate::leases::{LeasedItem, drop_missing, find_ended, lock_ended};
use crate::tx::WriteTx;

/// Expired leases that one transaction looks at. It ends one of them, or several small ones.
const LEASES_MAX: i64 = 4;
/// Items of several leases that one transaction makes PENDING, so that it stays short; the rest follow in the next. A
/// lease alone may have as many.
const ITEMS_MAX: u32 = LEASE_MAX;
/// Expired leases that are ended one by one after the end of some of them together failed.
const SINGLE_LEASES_MAX: i64 = 100;

/// Ends leases that have run out by now and by `latest`, of any type, except the `spared` ones: their items are PENDING
/// again at once, and the history says that the attempts were lost. Leases that another transaction is ending are left
/// out. Returns how many claims it ended.
pub(crate) async fn expire_leases(pg: &PgContext, latest: Millis, spared: &[ClaimToken]) -> Result<u32, StoreError> {
    let together = transact!(pg, Purpose::Work, "ending expired leases", |tx| expire_some(tx, latest, spared));
    match together {
        Err(_) if !pg.is_unavailable() => expire_one_by_one(pg, latest, spared).await,
        ended => ended,
    }
}

async fn expire_some(tx: &mut WriteTx<'_>, latest: Millis, spared: &[ClaimToken]) -> Result<u32, PgError> {
    let leases = find_ended(tx, tx.now.min(latest), spared, LEASES_MAX).await?;
    expire(tx, latest, &leases).await
}

/// Ends each lease in a transaction of its own. Errors when none could be ended.
async fn expire_one_by_one(pg: &PgContext, latest: Millis, spared: &[ClaimToken]) -> Result<u32, StoreError> {
    let by = pg.now().await?.min(latest);
    let leases = read!(pg, "looking for expired leases", |tx| find_ended(tx, by, spared, SINGLE_LEASES_MAX))?;
    let (mut count, mut failure) = (0, None);
    for token in leases {
        match transact!(pg, Purpose::Work, "ending an expired lease", |tx| expire(tx, latest, &[token])) {
            Ok(ended) => count += ended,
            Err(err) => {
                tracing::error!(token = token.get(), error = %err, "a lease that ran out could not be ended");
                failure = Some(err);
            }
        }
    }
    failure.filter(|_| count == 0).map_or(Ok(count), Err)
}

/// Ends those of the leases that have run out and that no other transaction is ending. Returns how many claims it
/// ended.
async fn expire(tx: &mut WriteTx<'_>, latest: Millis, leases: &[ClaimToken]) -> Result<u32, PgError> {
    if leases.is_empty() {
        return Ok(0);
    }
    let ended = lock_ended(tx, tx.now.min(latest), leases, ITEMS_MAX).await?;
    drop_missing(tx, &ended.missing).await?;
    let count = u32::try_from(ended.items.len()).unwrap_or(u32::MAX);
    let end = |leased: LeasedItem| {
        let failure = lease_expired(&leased.attempt.pod);
        ClaimEnd::lease_ended(leased.into(), failure, tx.now)
    };
    let claim_ends: Vec<_> = ended.items.into_iter().map(end).collect();
    write_claim_ends(tx, &claim_ends).await?;
    tx.wakes_other_processes |= count > 0;
    Ok(count)
}
