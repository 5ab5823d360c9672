//! Settles claims, several in one transaction. A settlement that is refused changes nothing and does not affect the
//! others.
//!
//! It knows the host writes of a settlement; `claim_end` knows what the end of a claim changes.

use std::collections::{BTreeSet, HashMap};

use outbox_core::{HostWrites, Settlement};
use outbox_item::validate_items;
use outbox_store::{ClaimRef, SettleRequest, StoreError};

use crate::claim_end::{ClaimEnd, EndingClaim, write_claim_ends};
use crate::error::PgError;
use crate::leases::lock_claims;
use crate::tx::WriteTx;
use crate::{enqueue, plugin_state};

/// Settles the claims. Returns the result of each, in the order given.
pub(crate) async fn settle(
    tx: &mut WriteTx<'_>,
    group: &[(&ClaimRef, &SettleRequest)],
) -> Result<Vec<Result<(), StoreError>>, PgError> {
    let claims: Vec<_> = group.iter().map(|(claim, _)| *claim).collect();
    let held = lock_claims(tx, &claims).await?.into_iter();
    let mut held: HashMap<_, _> = held.map(|leased| ((leased.attempt.id, leased.token), leased)).collect();
    lock_states(tx, group).await?;
    let mut claim_ends = Vec::new();
    let mut results = Vec::new();
    for (claim, settled) in group {
        let leased = held.remove(&(claim.id, claim.token));
        let ended = match leased {
            Some(leased) => end_claim(tx, leased.into(), settled).await,
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
async fn end_claim(tx: &mut WriteTx<'_>, claim: EndingClaim, settled: &SettleRequest) -> Result<ClaimEnd, PgError> {
    if let Some(writes) = writes(settled) {
        // First, so that a refused settlement has written nothing.
        validate_items(&writes.followups).map_err(StoreError::from)?;
        if !writes.state.is_empty() {
            plugin_state::commit(tx, writes).await?;
        }
        enqueue::followups(tx, &writes.followups).await?;
    }
    Ok(ClaimEnd::from_settlement(claim, settled, tx.now))
}

fn writes(settled: &SettleRequest) -> Option<&HostWrites> {
    match &settled.settlement {
        Settlement::Done { writes, .. } => Some(writes),
        _ => None,
    }
}
