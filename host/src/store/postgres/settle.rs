//! Settling claims, several in one transaction: each is judged by itself, and a refused one changes nothing.

use std::collections::{BTreeSet, HashMap};

use super::decode;
use super::ending::{Ending, finish};
use super::fault::Fault;
use super::step::{Sql as _, Step};
use super::{enqueue, front, state};
use crate::item::{HostWrites, Item, ItemId};
use crate::store::{ClaimRef, Settled, Settlement, StoreError};

/// What became of each settlement, in the order given.
pub(super) async fn settle(
    step: &mut Step<'_>,
    group: &[(&ClaimRef, &Settled)],
) -> Result<Vec<Result<(), StoreError>>, Fault> {
    let ids: Vec<_> = group.iter().map(|(claim, _)| claim.id).collect();
    front::wait(step, &ids).await?;
    let mut held = lock(step, group).await?;
    lock_states(step, group).await?;
    let mut endings = Vec::new();
    let mut results = Vec::new();
    for (claim, settled) in group {
        let item = held.remove(&(claim.id, claim.token.as_str()));
        let ended = match item {
            Some(item) => end(step, &item, settled).await,
            None => Err(StoreError::ClaimLost.into()),
        };
        results.push(match ended {
            Ok(ending) => {
                endings.push(ending);
                Ok(())
            }
            Err(Fault::Refused(refused)) => Err(refused),
            Err(fault) => return Err(fault),
        });
    }
    finish(step, &endings).await?;
    Ok(results)
}

/// The items whose claims still hold, each by its claim, without their payloads.
async fn lock<'a>(
    step: &Step<'_>,
    group: &[(&'a ClaimRef, &Settled)],
) -> Result<HashMap<(ItemId, &'a str), Item>, Fault> {
    let (ids, tokens): (Vec<_>, Vec<_>) = group.iter().map(|(claim, _)| (claim.id, claim.token.as_str())).unzip();
    let sql = format!(
        "SELECT {}, claim_token FROM outbox.items, unnest($1::bigint[], $2::text[]) AS claim (item, token)
         WHERE id = claim.item AND claim_token = claim.token AND status = 'CLAIMED'
         ORDER BY id FOR UPDATE OF items",
        decode::without_payload()
    );
    let mut found = HashMap::new();
    for row in step.rows(&sql, &[&ids, &tokens]).await? {
        let item = decode::item(&row)?.item;
        let token: &str = row.try_get("claim_token")?;
        let claim = group.iter().find(|(claim, _)| claim.id == item.id && claim.token == token);
        if let Some((claim, _)) = claim {
            found.insert((claim.id, claim.token.as_str()), item);
        }
    }
    Ok(found)
}

async fn lock_states(step: &Step<'_>, group: &[(&ClaimRef, &Settled)]) -> Result<(), Fault> {
    let plugins: BTreeSet<_> = group
        .iter()
        .filter_map(|(_, settled)| writes(settled))
        .filter(|writes| !writes.state.is_empty())
        .map(|writes| writes.plugin.as_str())
        .collect();
    if plugins.is_empty() {
        return Ok(());
    }
    state::lock(step, &plugins.into_iter().collect::<Vec<_>>()).await
}

/// Commits the host writes of one settlement and says what becomes of its item.
async fn end(step: &mut Step<'_>, item: &Item, settled: &Settled) -> Result<Ending, Fault> {
    let ending = Ending::settled(item, settled, step.now)?;
    if let Some(writes) = writes(settled) {
        // Before anything is written, so that a refusal leaves nothing behind.
        crate::store::validate(&writes.followups)?;
        if !writes.state.is_empty() {
            state::commit(step, writes).await?;
        }
        enqueue::followups(step, &writes.followups).await?;
    }
    Ok(ending)
}

fn writes(settled: &Settled) -> Option<&HostWrites> {
    match &settled.settlement {
        Settlement::Done { writes, .. } => Some(writes),
        _ => None,
    }
}
