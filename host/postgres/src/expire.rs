//! Ends leases that ran out.
//!
//! It knows the claim's row. Who calls it, and how often, is the caller's.

use outbox_core::{Failure, FailureClass};
use outbox_item::ItemId;
use outbox_store::engine::attempt_record::ClaimedItem;

use crate::claim_end::{ClaimEnd, write_claim_ends};
use crate::error::PgError;
use crate::tx::{Query as _, WriteTx};
use crate::{ordering, rows};

/// Expired leases that one transaction ends, so that it stays short; the rest follow in the next.
const EXPIRE_MAX: i64 = 100;

/// Ends a batch of leases that have run out, of any type: the item is PENDING again at once, and its history says that
/// the attempt was lost. Leases that another transaction is ending are left out. Returns how many leases it ended.
pub(crate) async fn expire_leases(tx: &mut WriteTx<'_>) -> Result<u32, PgError> {
    let overdue = "SELECT id FROM outbox.items WHERE status = 'CLAIMED' AND lease_until <= $1
                ORDER BY lease_until LIMIT $2";
    let rows = tx.rows(overdue, &[&tx.now.get(), &EXPIRE_MAX]).await?;
    let ids: Vec<ItemId> = rows.iter().map(|row| row.try_get(0).map(ItemId::new)).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        return Ok(0);
    }
    ordering::lock_keys(tx, &ids).await?;
    let lock = format!(
        "SELECT {} FROM outbox.items WHERE id = ANY($1::bigint[]) AND status = 'CLAIMED' AND lease_until <= $2
         ORDER BY id FOR UPDATE SKIP LOCKED",
        rows::without_payload()
    );
    let mut lost = Vec::new();
    for row in tx.rows(&lock, &[&rows::numbers(&ids), &tx.now.get()]).await? {
        let item = rows::item(&row)?.item;
        let claim = ClaimedItem::of_row(&item)?;
        let message =
            format!("the lease ended before {} settled the attempt: it died or was suspended", claim.claimed_by);
        lost.push(ClaimEnd::lease_ended(&claim, Failure::new(FailureClass::Lost, "lease.expired", message), tx.now));
    }
    write_claim_ends(tx, &lost).await?;
    tx.wakes_other_processes |= !lost.is_empty();
    Ok(u32::try_from(lost.len()).unwrap_or(u32::MAX))
}
