//! Settles claims, several in one transaction. A settlement that is refused changes nothing and does not affect the
//! others.
//!
//! It knows the host writes of a settlement; `complete` makes items DONE without any, and `claim_end` knows what the
//! other ends of a claim change.

use std::collections::{BTreeSet, HashMap, HashSet};

use outbox_core::{HostWrites, Settlement};
use outbox_item::Millis;
use outbox_store::{ClaimRef, SettleRequest, StoreError};

use crate::claim_end::{ClaimEnd, EndingClaim, write_claim_ends};
use crate::complete::{Completion, CompletionReport, complete};
use crate::enqueue::FollowupBatch;
use crate::error::PgError;
use crate::leases::{LeasedId, LeasedItem, lock_claims, lock_leases, read_leased};
use crate::plugin_state;
use crate::streaks::{StreakTurn, Streaks};
use crate::tx::{Query, WriteTx};

/// Settlements of one transaction.
pub(crate) type Settlements<'a> = [(&'a ClaimRef, &'a SettleRequest)];

/// What the first statements of a transaction found out about its settlements, and the completions that they made.
pub(crate) struct HeldClaims {
    completed: CompletionReport,
    /// The items of the other claims that hold.
    others: Vec<LeasedItem>,
}

/// Locks the claims, and completes those whose completion changes nothing but the item's place. All statements are sent
/// at once. `at` is the time, or `None` for that of the database.
pub(crate) async fn hold_claims<'a>(
    tx: &impl Query,
    group: &Settlements<'a>,
    at: Option<Millis>,
) -> Result<HeldClaims, PgError> {
    let repeated = repeated_claims(group);
    let completion = |(claim, settled): &(&'a ClaimRef, &'a SettleRequest)| {
        Completion::of(claim, settled).filter(|_| !repeated.contains(&(claim.token, claim.id)))
    };
    let completions: Vec<_> = group.iter().filter_map(completion).collect();
    if completions.len() == group.len() {
        return Ok(HeldClaims { completed: complete(tx, &completions, at).await?, others: Vec::new() });
    }
    let all: Vec<_> = group.iter().map(|(claim, _)| *claim).collect();
    let others = group.iter().filter(|settlement| completion(settlement).is_none());
    let others: Vec<_> = others.map(|(claim, _)| *claim).collect();
    // All locks first: every transaction waits for lines and leases in one order.
    let (locked, completed, others) =
        tokio::join!(biased; lock_leases(tx, &all), complete(tx, &completions, at), lock_claims(tx, &others));
    locked?;
    Ok(HeldClaims { completed: completed?, others: others? })
}

/// Claims that several settlements end. The first one holds, so they are made one after the other.
fn repeated_claims(group: &Settlements<'_>) -> HashSet<LeasedId> {
    let mut seen = HashSet::new();
    let claims = group.iter().map(|(claim, _)| (claim.token, claim.id));
    claims.filter(|claim| !seen.insert(*claim)).collect()
}

/// What became of settlements.
#[derive(Default)]
pub(crate) struct Settled {
    /// The result of each, in the order given.
    pub(crate) results: Vec<Result<(), StoreError>>,
    /// Whether the transaction holds locks that come after those for which a claim can wait.
    pub(crate) holds_late_locks: bool,
    /// Whether some claims ended after the first statements of the transaction.
    pub(crate) ended_after_completions: bool,
}

/// Settles the claims, of which [`hold_claims`] has locked those that hold.
pub(crate) async fn settle(
    tx: &mut WriteTx<'_>,
    group: &Settlements<'_>,
    held: HeldClaims,
) -> Result<Settled, PgError> {
    let HeldClaims { mut completed, mut others } = held;
    completed.count(tx);
    others.extend(read_leased(tx, &completed.unmade).await?);
    let mut others: HashMap<_, _> =
        others.into_iter().map(|leased| ((leased.token, leased.attempt.id), leased)).collect();
    lock_states(tx, group).await?;
    let mut claim_ends = Vec::new();
    let mut results: Vec<_> = group.iter().map(|_| Err(StoreError::ClaimLost)).collect();
    let mut streaks = Streaks::default();
    for index in in_order(group, &others) {
        let (claim, settled) = group[index];
        let key = (claim.token, claim.id);
        if completed.made.remove(&key) {
            results[index] = Ok(());
            continue;
        }
        let Some(turn) = others.get(&key).map(StreakTurn::of) else { continue };
        if let Err(refused) = streaks.check(&turn, settled) {
            results[index] = Err(refused);
            continue;
        }
        let Some(leased) = others.remove(&key) else { continue };
        results[index] = match end_claim(tx, leased.into(), settled).await {
            Ok(claim_end) => {
                streaks.settled(turn, settled);
                claim_ends.push(claim_end);
                Ok(())
            }
            Err(PgError::Rejected(refused)) => Err(refused),
            Err(err) => return Err(err),
        };
    }
    write_claim_ends(tx, &claim_ends).await?;
    let holds_late_locks = claim_ends.iter().any(ClaimEnd::takes_late_locks);
    Ok(Settled { results, holds_late_locks, ended_after_completions: !claim_ends.is_empty() })
}

/// The positions of the group, with the items of each streak in the order of their line.
fn in_order(group: &Settlements<'_>, held: &HashMap<LeasedId, LeasedItem>) -> Vec<usize> {
    let ahead = |index: usize| {
        let claim = group[index].0;
        held.get(&(claim.token, claim.id)).and_then(|leased| leased.ahead)
    };
    let mut order: Vec<_> = (0..group.len()).collect();
    order.sort_by_key(|index| ahead(*index));
    order
}

/// Locks the state of every plugin that a settlement of the group writes.
async fn lock_states(tx: &WriteTx<'_>, group: &Settlements<'_>) -> Result<(), PgError> {
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
        let followups = FollowupBatch::check(tx, claim.attempt.id, writes).await?;
        if !writes.state.is_empty() {
            plugin_state::commit(tx, writes).await?;
        }
        if let Some(followups) = followups {
            followups.enqueue(tx).await?;
        }
    }
    Ok(ClaimEnd::from_settlement(claim, settled, tx.now))
}

fn writes(settled: &SettleRequest) -> Option<&HostWrites> {
    match &settled.settlement {
        Settlement::Done { writes, .. } => Some(writes),
        _ => None,
    }
}
