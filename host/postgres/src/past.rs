//! What happened to items before: the table `outbox.past`, and the digests of components in `outbox.handlers`.
//!
//! An item without a row was never claimed while it is in the queue, and was claimed once elsewhere. This file does not
//! know when a past changes.

use std::collections::BTreeSet;

use tokio_postgres::Row;

use outbox_core::Past;
use outbox_item::{ItemId, Millis};

use crate::error::PgError;
use crate::rows::numbers;
use crate::tx::{Query as _, Values, WriteTx, without_nul};

/// Decodes the columns of a row that have the names of those of `outbox.past`, and `handler_digest`.
pub(crate) fn read(row: &Row) -> Result<Past, PgError> {
    let count = |name| Ok::<_, PgError>(u32::try_from(row.try_get::<_, i32>(name)?).unwrap_or_default());
    Ok(Past {
        attempts: count("attempts")?,
        deliveries: count("deliveries")?,
        replays: count("replays")?,
        effect_generation: count("effects")?,
        losses: count("losses")?,
        give_backs: count("give_backs")?,
        maybe_executed: row.try_get("maybe_executed")?,
        given_back_since: row.try_get::<_, Option<i64>>("given_back_since")?.map(Millis::new),
        handler_digest: row.try_get("handler_digest")?,
        last_error: row.try_get("last_error")?,
    })
}

/// The parameters are the columns of `outbox.past` in the order of the list; `$10` has digests. A due time that is NULL
/// leaves the one that is known.
const WRITE: &str = "\
    INSERT INTO outbox.past (id, attempts, deliveries, losses, replays, effects, give_backs, maybe_executed,
                             given_back_since, handler, last_error, available_at)
    SELECT new.id, new.attempts, new.deliveries, new.losses, new.replays, new.effects, new.give_backs, new.executed,
           new.given_back, handler.id, new.error, new.due
    FROM unnest($1::bigint[], $2::integer[], $3::integer[], $4::integer[], $5::integer[], $6::integer[],
                $7::integer[], $8::boolean[], $9::bigint[], $10::text[], $11::text[],
                $12::bigint[])
             AS new (id, attempts, deliveries, losses, replays, effects, give_backs, executed, given_back, digest,
                     error, due)
         LEFT JOIN outbox.handlers AS handler ON handler.digest = new.digest
    ON CONFLICT (id) DO UPDATE
    SET attempts = excluded.attempts, deliveries = excluded.deliveries, losses = excluded.losses,
        replays = excluded.replays, effects = excluded.effects, give_backs = excluded.give_backs,
        maybe_executed = excluded.maybe_executed, given_back_since = excluded.given_back_since,
        handler = excluded.handler, last_error = excluded.last_error,
        available_at = coalesce(excluded.available_at, past.available_at)";

/// The past of an item that changes its place.
pub(crate) struct PastRow<'a> {
    pub(crate) id: ItemId,
    pub(crate) past: &'a Past,
    /// When the item was due, if it leaves the queue.
    pub(crate) available_at: Option<Millis>,
}

/// Writes the rows of the items, whether there are any or not.
pub(crate) async fn write(tx: &WriteTx<'_>, rows: &[PastRow<'_>]) -> Result<(), PgError> {
    if rows.is_empty() {
        return Ok(());
    }
    know_handlers(tx, rows.iter().filter_map(|row| row.past.handler_digest.as_deref())).await?;
    upsert(tx, rows).await
}

async fn upsert(tx: &WriteTx<'_>, rows: &[PastRow<'_>]) -> Result<(), PgError> {
    let pasts = || rows.iter().map(|row| row.past);
    let ids: Vec<_> = rows.iter().map(|row| row.id.get()).collect();
    let due: Vec<_> = rows.iter().map(|row| row.available_at.map(Millis::get)).collect();
    let counts = |of: fn(&Past) -> u32| pasts().map(|past| stored_count(of(past))).collect::<Vec<_>>();
    let (attempts, deliveries) = (counts(|past| past.attempts), counts(|past| past.deliveries));
    let (losses, replays) = (counts(|past| past.losses), counts(|past| past.replays));
    let (effects, give_backs) = (counts(|past| past.effect_generation), counts(|past| past.give_backs));
    let executed: Vec<_> = pasts().map(|past| past.maybe_executed).collect();
    let given_back: Vec<_> = pasts().map(|past| past.given_back_since.map(Millis::get)).collect();
    let digests: Vec<_> = pasts().map(|past| past.handler_digest.as_deref()).collect();
    let errors: Vec<_> = pasts().map(|past| past.last_error.as_deref().map(without_nul)).collect();
    let values: Values<'_> = &[
        &ids,
        &attempts,
        &deliveries,
        &losses,
        &replays,
        &effects,
        &give_backs,
        &executed,
        &given_back,
        &digests,
        &errors,
        &due,
    ];
    tx.rows(WRITE, values).await.map(drop)
}

/// Keeps a row for items in the queue that have none, and whose due time changes: the row has it once they are claimed.
pub(crate) async fn keep_rows(tx: &WriteTx<'_>, ids: &[ItemId]) -> Result<(), PgError> {
    let sql = "INSERT INTO outbox.past (id, attempts, deliveries)
               SELECT id, 0, 0 FROM outbox.queue WHERE id = ANY($1) AND NOT again ON CONFLICT (id) DO NOTHING";
    tx.rows(sql, &[&numbers(ids)]).await.map(drop)
}

/// A count as the schema stores it: at the end of the range it does not grow further.
pub(crate) fn stored_count(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Numbers the digests that have no number yet.
async fn know_handlers<'a>(tx: &WriteTx<'_>, digests: impl Iterator<Item = &'a str>) -> Result<(), PgError> {
    let digests: BTreeSet<_> = digests.collect();
    if digests.is_empty() {
        return Ok(());
    }
    tx.rows("SELECT outbox.know_handlers($1)", &[&Vec::from_iter(digests)]).await.map(drop)
}
