//! Enqueues items inside the store's own transactions: one by one, many in one statement, and follow-ups.
//!
//! `outbox_client::sqlite` owns the text of the INSERT and the binding of its parameters, because applications run the
//! same statement. This file does not know claims or attempts.

use std::sync::LazyLock;

use rusqlite::{Connection, ErrorCode};

use outbox_client::sqlite::{INSERT, KeyOwner, ROW, VALUES, bind, find_by_key};
use outbox_core::HostWrites;
use outbox_item::{ItemId, Millis, NewItem, validate_items};
use outbox_store::engine::NewAuditEntry;
use outbox_store::engine::counters::{Counter, FollowupOutcome};
use outbox_store::engine::descent::Descent;
use outbox_store::{AnewRequest, BatchMode, EnqueueReport, StoreError};

use crate::audit;
use crate::batch::{Statements, slices};
use crate::descendants;
use crate::error::unavailable;
use crate::write_tx::WriteTx;

const TRIED: &str = "enqueueing an item";
const FOLLOWUP: &str = "enqueueing a follow-up";

/// Enqueues several items. `AllOrNothing` creates none when one exists; `PerItem` creates those that do not exist.
pub(crate) fn enqueue(tx: &mut WriteTx<'_>, items: &[NewItem], mode: BatchMode) -> Result<EnqueueReport, StoreError> {
    validate_items(items)?;
    if mode == BatchMode::AllOrNothing && items.len() > 1 {
        let ids = find_all(tx.connection, items)?;
        if ids.iter().any(Option::is_some) {
            return Ok(EnqueueReport { ids, created: 0 });
        }
    }
    let rows: Vec<_> = items.iter().collect();
    let mut enqueued = EnqueueReport { ids: Vec::with_capacity(items.len()), created: 0 };
    for (index, created) in create(tx, &rows).into_iter().enumerate() {
        let Created { id, is_new } = created.map_err(|err| err.at_index(index))?;
        enqueued.ids.push(Some(id));
        enqueued.created += usize::from(is_new);
    }
    Ok(enqueued)
}

/// Enqueues an item that an operator made from another, with its audit entry.
pub(crate) fn enqueue_anew(tx: &mut WriteTx<'_>, request: &AnewRequest) -> Result<EnqueueReport, StoreError> {
    let report = enqueue(tx, std::slice::from_ref(&request.item), BatchMode::AllOrNothing)?;
    if let (1, [Some(new)]) = (report.created, &report.ids[..]) {
        let entry = NewAuditEntry::of_anew(request.old, *new, &request.actor, request.reason.as_deref());
        audit::append(tx, &entry).map_err(unavailable(TRIED))?;
    }
    Ok(report)
}

/// The item that has the key of an enqueued one.
pub(crate) struct Created {
    pub(crate) id: ItemId,
    /// Whether this transaction created it.
    pub(crate) is_new: bool,
}

/// Creates valid items. An item that the schema refuses changes nothing and does not affect the others. Returns one
/// result for each item, in their order.
pub(crate) fn create(tx: &mut WriteTx<'_>, items: &[&NewItem]) -> Vec<Result<Created, StoreError>> {
    let all: Vec<_> = slices(items).flat_map(|items| create_rows(tx, items)).collect();
    tx.wakes_workers |= all.iter().flatten().any(|created| created.is_new);
    all
}

/// Creates the items in one statement. When the schema refuses the statement, the items are created one by one, so that
/// each has a result of its own.
fn create_rows(tx: &WriteTx<'_>, rows: &[&NewItem]) -> Vec<Result<Created, StoreError>> {
    match create_in_one_statement(tx.connection, rows, tx.now) {
        Ok(created) => created.into_iter().map(Ok).collect(),
        Err(refused) if refused.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            rows.iter().map(|item| create_one(tx.connection, item, tx.now)).collect()
        }
        Err(broken) => {
            let message = broken.to_string();
            let failed = || StoreError::Unavailable { tried: TRIED, source: message.clone().into() };
            rows.iter().map(|_| Err(failed())).collect()
        }
    }
}

fn create_in_one_statement(tx: &Connection, rows: &[&NewItem], now: Millis) -> rusqlite::Result<Vec<Created>> {
    let count = insert_rows(tx, rows, now)?;
    let last = tx.last_insert_rowid();
    // This transaction holds the only write lock, so the new ids follow each other in the order of the rows.
    let mut next = last - i64::try_from(count).unwrap_or_default() + 1;
    if count == rows.len() {
        return Ok((next..=last).map(|id| Created { id: ItemId::new(id), is_new: true }).collect());
    }
    let created = |item: &&NewItem| {
        let KeyOwner { id, .. } = find_by_key(tx, item)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let is_new = id == next && next <= last;
        next += i64::from(is_new);
        Ok(Created { id, is_new })
    };
    rows.iter().map(created).collect()
}

/// Inserts the item. Looks for the item that has the key only when the schema refuses the insert.
fn create_one(tx: &Connection, item: &NewItem, now: Millis) -> Result<Created, StoreError> {
    let refused = match insert(tx, item, now) {
        Ok(Some(id)) => return Ok(Created { id, is_new: true }),
        Ok(None) => rusqlite::Error::QueryReturnedNoRows,
        Err(err) => err,
    };
    match find(tx, item, 0)? {
        Some(id) => Ok(Created { id, is_new: false }),
        None => Err(unavailable(TRIED)(refused)),
    }
}

/// Enqueues what the handler of `parent` emitted. A follow-up whose key exists is left out, also with other content: it
/// never fails its parent. Errors with [`StoreError::Descendants`] when there would be too many new ones.
pub(crate) fn enqueue_followups(tx: &mut WriteTx<'_>, parent: ItemId, writes: &HostWrites) -> Result<(), StoreError> {
    if writes.followups.is_empty() {
        return Ok(());
    }
    validate_items(&writes.followups)?;
    let mut descent = descendants::of_followups(tx, parent, writes).map_err(unavailable(FOLLOWUP))?;
    for item in &writes.followups {
        let exists = find_by_key(tx.connection, item).map_err(unavailable(FOLLOWUP))?.is_some();
        if !exists {
            descent.take_room(1)?;
            insert_followup(tx, item, &descent).map_err(unavailable(FOLLOWUP))?;
        }
        let outcome = if exists { FollowupOutcome::Kept } else { FollowupOutcome::Created };
        tx.count(Counter::Followup { item_type: &item.item_type, outcome }, 1);
        tx.wakes_workers |= !exists;
    }
    Ok(())
}

fn insert_followup(tx: &WriteTx<'_>, item: &NewItem, descent: &Descent) -> rusqlite::Result<()> {
    let id = insert(tx.connection, item, tx.now)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    descendants::record(tx, descent, id)
}

fn find_all(tx: &Connection, items: &[NewItem]) -> Result<Vec<Option<ItemId>>, StoreError> {
    items.iter().enumerate().map(|(index, item)| find(tx, item, index)).collect()
}

/// The id of the item that has the key, if its content is the same. With other content it is a conflict.
fn find(tx: &Connection, item: &NewItem, index: usize) -> Result<Option<ItemId>, StoreError> {
    match find_by_key(tx, item).map_err(unavailable(TRIED))? {
        None => Ok(None),
        Some(KeyOwner { id, has_same_content: true }) => Ok(Some(id)),
        Some(KeyOwner { id: first, .. }) => Err(StoreError::Conflict { index, idem_key: item.idem_key.clone(), first }),
    }
}

/// The id of the new item, or `None` when one with its key and content exists.
pub(crate) fn insert(tx: &Connection, item: &NewItem, now: Millis) -> rusqlite::Result<Option<ItemId>> {
    let inserted = insert_rows(tx, &[item], now)?;
    Ok((inserted > 0).then(|| ItemId::new(tx.last_insert_rowid())))
}

/// The client's statement for as many rows as [`slices`] puts together.
static INSERTS: LazyLock<Statements> = LazyLock::new(|| Statements::new(VALUES, |rows| INSERT.replacen(ROW, rows, 1)));

/// Inserts the items in one statement. It leaves out those that exist with the same content; when one exists with other
/// content it inserts nothing. Returns the number of new items.
fn insert_rows(tx: &Connection, items: &[&NewItem], now: Millis) -> rusqlite::Result<usize> {
    let mut insert = tx.prepare_cached(INSERTS.of(items.len()))?;
    for (row, item) in items.iter().enumerate() {
        bind(&mut insert, row * VALUES, item, now)?;
    }
    insert.raw_execute()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_is_the_clients_statement_and_more_rows_only_add_parameters() {
        assert_eq!(INSERTS.of(1), INSERT);
        assert_eq!(INSERTS.of(4), format!("{INSERT}, {ROW}, {ROW}, {ROW}"));
    }
}
