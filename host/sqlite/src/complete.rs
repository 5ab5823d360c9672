//! Makes items DONE: those that are settled together share statements.
//!
//! It knows the item's place, its totals and its signals. Its caller writes what a handler asked the host to write.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use rusqlite::Row;

use outbox_core::saga::StepOutcome;
use outbox_core::{AttemptTrace, ClaimedPast, HostWrites, ItemMove, Past, Settlement};
use outbox_item::{ItemId, Status};
use outbox_store::engine::attempt_record::SagaStep;
use outbox_store::engine::counters::Counter;
use outbox_store::{ClaimRef, ClaimToken, StoreError};

use crate::id_list::id_list;
use crate::leases::{leased_item, leave_lease};
use crate::ordering::{read_line, set_line};
use crate::past::{read_pasts, write_past};
use crate::places::{DoneItem, to_done};
use crate::saga_signals::{self, SagaItem};
use crate::write_tx::WriteTx;

/// A claim whose item becomes DONE.
pub(crate) struct CompletionRow {
    claim: ClaimRef,
    result: Option<Vec<u8>>,
    handler_digest: Option<String>,
}

impl CompletionRow {
    pub(crate) fn new(claim: ClaimRef, result: Option<Vec<u8>>, handler_digest: Option<String>) -> Self {
        Self { claim, result, handler_digest }
    }
}

/// Settles each claim that still holds and is in turn; the others get [`StoreError::ClaimLost`] or
/// [`StoreError::OutOfTurn`]. When SQLite fails, every claim gets the error, and the transaction may contain a part of
/// the work.
pub(crate) fn complete(tx: &mut WriteTx<'_>, completions: &[&CompletionRow]) -> Vec<Result<(), StoreError>> {
    let settled = complete_held(tx, completions).map_err(|err| err.to_string());
    let settled = |index: usize| match &settled {
        Ok(settled) if settled.held.contains(&index) => Ok(()),
        Ok(settled) if settled.early.contains(&index) => Err(StoreError::OutOfTurn),
        Ok(_) => Err(StoreError::ClaimLost),
        Err(why) => Err(StoreError::Unavailable { tried: "settling a claim", source: why.clone().into() }),
    };
    (0..completions.len()).map(settled).collect()
}

/// What became of completions, by their positions.
#[derive(Default)]
struct Completed {
    /// The claim held, and the item is DONE.
    held: BTreeSet<usize>,
    /// The claim holds, and an earlier item of the streak is not settled.
    early: BTreeSet<usize>,
}

fn complete_held(tx: &mut WriteTx<'_>, completions: &[&CompletionRow]) -> rusqlite::Result<Completed> {
    let mut by_token: BTreeMap<ClaimToken, Vec<usize>> = BTreeMap::new();
    for (index, completion) in completions.iter().enumerate() {
        by_token.entry(completion.claim.token).or_default().push(index);
    }
    let mut all = Completed::default();
    for (token, mut indexes) in by_token {
        let ids: Vec<_> = indexes.iter().map(|index| completions[*index].claim.id).collect();
        let mut linked = linked(tx, &ids)?;
        let early = out_of_turn(&linked);
        for index in indexes.extract_if(.., |index| early.contains(&completions[*index].claim.id)) {
            if leased_item(tx, &completions[index].claim)?.is_some() {
                all.early.insert(index);
            }
        }
        let ids: Vec<_> = indexes.iter().map(|index| completions[*index].claim.id).collect();
        let Some(left) = leave_lease(tx, token, ids)? else { continue };
        // Of two settlements of one claim only the first holds.
        let mut unsettled: BTreeSet<_> = left.ids.into_iter().collect();
        let held: Vec<_> =
            indexes.into_iter().filter(|index| unsettled.remove(&completions[*index].claim.id)).collect();
        let done: Vec<_> = held.iter().map(|index| completions[*index]).collect();
        linked.retain(|item| done.iter().any(|completion| completion.claim.id == item.id));
        arrive_done(tx, &left.item_type, &done, &linked)?;
        all.held.extend(held);
    }
    Ok(all)
}

/// Makes items DONE that have left one lease. `linked` are those that others may wait for.
fn arrive_done(
    tx: &mut WriteTx<'_>,
    item_type: &str,
    done: &[&CompletionRow],
    linked: &[LinkedItem],
) -> rusqlite::Result<()> {
    let rows: Vec<_> = done.iter().map(|completion| completion.place()).collect();
    to_done(tx, &rows)?;
    let count = i64::try_from(done.len()).unwrap_or(i64::MAX);
    tx.count(Counter::Done { item_type }, count);
    tx.count(Counter::Attempt { item_type, outcome: "done" }, count);
    let ids: Vec<_> = done.iter().filter(|done| !done.claim.is_plain).map(|done| done.claim.id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let pasts = read_pasts(tx, &ids)?;
    for completion in done {
        if let Some(past) = pasts.get(&completion.claim.id) {
            completion.write_past(tx, item_type, past)?;
        }
    }
    advance(tx, item_type, linked, &pasts)
}

impl CompletionRow {
    fn place(&self) -> DoneItem<'_> {
        DoneItem { id: self.claim.id, handler_digest: self.handler_digest.as_deref(), result: self.result.as_deref() }
    }

    fn write_past(&self, tx: &WriteTx<'_>, item_type: &str, past: &Past) -> rusqlite::Result<()> {
        let claimed = ClaimedPast { item_type, is_ordered: false, past };
        let attempt = AttemptTrace { handler_digest: self.handler_digest.as_deref(), ..AttemptTrace::default() };
        let done = Settlement::Done { result: None, writes: HostWrites::default() };
        write_past(tx, self.claim.id, &ItemMove::settled(claimed, &done, attempt, tx.now).past)
    }
}

/// An item that others may wait for: those of its ordering key, or its saga.
struct LinkedItem {
    id: ItemId,
    saga: Option<String>,
    cid: String,
    ordering_key: Option<String>,
    /// The front of the key, and what follows it in its lease.
    line: Vec<ItemId>,
}

impl LinkedItem {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let (id, line) = (ItemId::new(row.get(0)?), read_line(row, 4)?);
        Ok(Self { id, saga: row.get(1)?, cid: row.get(2)?, ordering_key: row.get(3)?, line })
    }

    /// Whether everything in front of the item in its streak is settled with it.
    fn is_in_turn(&self, settled: &HashSet<ItemId>) -> bool {
        let place = self.line.iter().position(|id| *id == self.id);
        self.ordering_key.is_none()
            || place.is_some_and(|place| self.line[..place].iter().all(|id| settled.contains(id)))
    }

    fn saga_item(&self) -> Option<SagaItem<'_>> {
        self.saga.as_deref().map(|saga| SagaItem { saga, cid: &self.cid, id: self.id })
    }
}

/// SQL: those of the items that others may wait for. Reads no item, only the index of such items.
const LINKED: &str = "SELECT item.id, item.saga, item.cid, item.ordering_key, lane.id, lane.streak
    FROM outbox_items AS item INDEXED BY outbox_items_linked
         LEFT JOIN outbox_lanes AS lane ON lane.ordering_key = item.ordering_key
    WHERE item.id IN (SELECT value FROM json_each(?1))
      AND (item.saga IS NOT NULL OR item.ordering_key IS NOT NULL)";

fn linked(tx: &WriteTx<'_>, ids: &[ItemId]) -> rusqlite::Result<Vec<LinkedItem>> {
    let mut select = tx.connection.prepare_cached(LINKED)?;
    select.query_map([id_list(ids)], LinkedItem::read)?.collect()
}

/// Those of the items that are settled without an item in front of them in their streaks.
fn out_of_turn(linked: &[LinkedItem]) -> HashSet<ItemId> {
    let settled: HashSet<_> = linked.iter().map(|item| item.id).collect();
    linked.iter().filter(|item| !item.is_in_turn(&settled)).map(|item| item.id).collect()
}

/// Moves the lane of each key on to what follows the settled items in its lease, or to the key's new front. Returns
/// whether a key has a new front, which can be claimed.
fn advance_lines(tx: &WriteTx<'_>, linked: &[LinkedItem]) -> rusqlite::Result<bool> {
    let mut rests: BTreeMap<&str, Vec<ItemId>> = BTreeMap::new();
    for item in linked {
        let Some(key) = item.ordering_key.as_deref() else { continue };
        rests.entry(key).or_insert_with(|| item.line.clone()).retain(|id| *id != item.id);
    }
    rests.iter().try_for_each(|(key, rest)| set_line(tx, key, rest))?;
    Ok(rests.values().any(Vec::is_empty))
}

/// Lets those go on that waited for the items.
fn advance(
    tx: &mut WriteTx<'_>,
    item_type: &str,
    linked: &[LinkedItem],
    pasts: &HashMap<ItemId, Past>,
) -> rusqlite::Result<()> {
    tx.wakes_workers |= advance_lines(tx, linked)?;
    // Steps first: the signal of a run's last step precedes the signal of its end.
    let steps: Vec<_> = linked.iter().filter_map(LinkedItem::saga_item).collect();
    for item in &steps {
        saga_signals::note_move(tx, item, Status::Done)?;
        let SagaItem { saga, cid, id: item_id } = *item;
        let attempt = pasts.get(&item_id).map_or(1, |past| past.attempts);
        let step = SagaStep { saga, cid, item_type, item_id, attempt };
        saga_signals::write_step_signal(tx, &step, StepOutcome::Ok, "done")?;
    }
    let runs: BTreeSet<_> = steps.iter().map(|item| (item.saga, item.cid)).collect();
    runs.into_iter().try_for_each(|(saga, cid)| saga_signals::end_if_finished(tx, saga, cid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::plan;

    #[test]
    fn a_settlement_learns_who_waits_for_an_item_without_reading_past_its_payload() {
        let steps = plan(LINKED, ["[1]"]);
        let look = "SEARCH item USING COVERING INDEX outbox_items_linked";
        assert!(steps.iter().any(|line| line.contains(look)), "{steps:?}");
    }
}
