//! Settles claims, several in one transaction. A settlement that is refused changes nothing and does not affect the
//! others.
//!
//! It knows the host writes of a settlement; `claim_end` knows what the end of a claim changes.

use std::collections::{BTreeSet, HashMap};

use outbox_core::{HostWrites, Settlement};
use outbox_item::{Item, ItemId, validate_items};
use outbox_store::engine::attempt_record::ClaimedItem;
use outbox_store::{ClaimRef, SettleRequest, StoreError};

use crate::claim_end::{ClaimEnd, write_claim_ends};
use crate::error::PgError;
use crate::tx::{Query as _, WriteTx};
use crate::{enqueue, ordering, plugin_state, rows};

/// Settles the claims. Returns the result of each, in the order given.
pub(crate) async fn settle(
    tx: &mut WriteTx<'_>,
    group: &[(&ClaimRef, &SettleRequest)],
) -> Result<Vec<Result<(), StoreError>>, PgError> {
    let ids: Vec<_> = group.iter().map(|(claim, _)| claim.id).collect();
    ordering::lock_keys(tx, &ids).await?;
    let mut held = lock(tx, group).await?;
    lock_states(tx, group).await?;
    let mut claim_ends = Vec::new();
    let mut results = Vec::new();
    for (claim, settled) in group {
        let item = held.remove(&(claim.id, claim.token.as_str()));
        let ended = match item {
            Some(item) => end_claim(tx, &item, settled).await,
            None => Err(StoreError::ClaimLost.into()),
        };
        results.push(match ended {
            Ok(claim_end) => {
                claim_ends.push(claim_end);
                Ok(())
            }
            Err(PgError::Rejected(refused)) => Err(refused),
            Err(err) => return Err(err),
        });
    }
    write_claim_ends(tx, &claim_ends).await?;
    Ok(results)
}

/// Locks the items whose claims still hold. Returns them by claim, without their payloads.
async fn lock<'a>(
    tx: &WriteTx<'_>,
    group: &[(&'a ClaimRef, &SettleRequest)],
) -> Result<HashMap<(ItemId, &'a str), Item>, PgError> {
    let (ids, tokens): (Vec<_>, Vec<_>) = group.iter().map(|(claim, _)| (claim.id.get(), claim.token.as_str())).unzip();
    let sql = format!(
        "SELECT {}, claim_token FROM outbox.items, unnest($1::bigint[], $2::text[]) AS claim (item, token)
         WHERE id = claim.item AND claim_token = claim.token AND status = 'CLAIMED'
         ORDER BY id FOR UPDATE OF items",
        rows::without_payload()
    );
    let mut found = HashMap::new();
    for row in tx.rows(&sql, &[&ids, &tokens]).await? {
        let item = rows::item(&row)?.item;
        let token: &str = row.try_get("claim_token")?;
        let claim = group.iter().find(|(claim, _)| claim.id == item.id && claim.token.as_str() == token);
        if let Some((claim, _)) = claim {
            found.insert((claim.id, claim.token.as_str()), item);
        }
    }
    Ok(found)
}

/// Locks the state of every plugin that a settlement of the group writes.
async fn lock_states(tx: &WriteTx<'_>, group: &[(&ClaimRef, &SettleRequest)]) -> Result<(), PgError> {
    let plugins: BTreeSet<_> = group
        .iter()
        .filter_map(|(_, settled)| writes(settled))
        .filter(|writes| !writes.state.is_empty())
        .map(|writes| writes.plugin.as_str())
        .collect();
    if plugins.is_empty() {
        return Ok(());
    }
    plugin_state::lock(tx, &plugins.into_iter().collect::<Vec<_>>()).await
}

/// Writes the host writes of one settlement and returns the end of its claim, which is not written yet.
async fn end_claim(tx: &mut WriteTx<'_>, item: &Item, settled: &SettleRequest) -> Result<ClaimEnd, PgError> {
    let claim_end = ClaimEnd::from_settlement(&ClaimedItem::of_row(item)?, settled, tx.now);
    if let Some(writes) = writes(settled) {
        // First, so that a refused settlement has written nothing.
        validate_items(&writes.followups).map_err(StoreError::from)?;
        if !writes.state.is_empty() {
            plugin_state::commit(tx, writes).await?;
        }
        enqueue::followups(tx, &writes.followups).await?;
    }
    Ok(claim_end)
}

fn writes(settled: &SettleRequest) -> Option<&HostWrites> {
    match &settled.settlement {
        Settlement::Done { writes, .. } => Some(writes),
        _ => None,
    }
}
