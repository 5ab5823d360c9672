//! Finds what is stuck: a bounded number of entries of each kind. Nothing here writes.
//!
//! The reason and the command that helps are worded in `outbox_store`.

use tokio_postgres::Row;

use outbox_item::{ItemId, Millis};
use outbox_store::engine::{StuckItem, WaitingType};
use outbox_store::{StuckEntry, StuckQuery};

use crate::error::PgError;
use crate::rows::{count, time, unsigned};
use crate::tx::{Query, Values};

/// SQL: `head` is the head of its ordering key, or has none. The column `held` tells this only of items that a claim
/// has read.
const IS_HEAD: &str = "(head.ordering_key IS NULL OR NOT EXISTS (
    SELECT 1 FROM outbox.items AS before
    WHERE before.ordering_key = head.ordering_key AND before.id <> head.id
      AND (before.status IN ('PENDING', 'CLAIMED') OR before.blocks_key)
      AND (before.id < head.id OR before.status = 'CLAIMED')))";

/// SQL: the number of items queued behind `head`.
const QUEUED: &str = "(SELECT count(*) FROM outbox.items AS behind
    WHERE behind.ordering_key = head.ordering_key AND behind.status = 'PENDING' AND behind.id > head.id)";

/// The stuck items and types at `now`, kind by kind.
pub(crate) async fn stuck(tx: &impl Query, query: &StuckQuery, now: Millis) -> Result<Vec<StuckEntry>, PgError> {
    let reader = StuckReader { tx, query, now };
    let mut found = reader.expired().await?;
    found.extend(reader.failing().await?);
    found.extend(reader.blocked().await?);
    found.extend(reader.held().await?);
    found.extend(reader.waiting().await?);
    Ok(found)
}

struct StuckReader<'a, S> {
    tx: &'a S,
    query: &'a StuckQuery,
    now: Millis,
}

impl<S: Query> StuckReader<'_, S> {
    async fn rows(&self, statement: &str, values: Values<'_>) -> Result<Vec<Row>, PgError> {
        self.tx.rows(&format!("{statement} LIMIT {}", self.query.limit), values).await
    }

    async fn expired(&self) -> Result<Vec<StuckEntry>, PgError> {
        let statement = "SELECT id, type, ordering_key, lease_until, claimed_by FROM outbox.items
                         WHERE status = 'CLAIMED' AND lease_until <= $1 ORDER BY lease_until";
        let expired = |row: &Row| Ok(head(row)?.expired(time(row, 3)?, row.try_get(4)?));
        self.rows(statement, &[&self.now.get()]).await?.iter().map(expired).collect()
    }

    async fn failing(&self) -> Result<Vec<StuckEntry>, PgError> {
        let statement = "SELECT id, type, ordering_key, created_at, attempts, last_error FROM outbox.items
                         WHERE attempts >= $1::bigint
                           AND (status = 'CLAIMED' OR (status = 'PENDING' AND attempts > 2))
                         ORDER BY attempts DESC, id";
        let failing = |row: &Row| Ok(head(row)?.failing(time(row, 3)?, count(row, 4)?, row.try_get(5)?));
        self.rows(statement, &[&i64::from(self.query.attempts)]).await?.iter().map(failing).collect()
    }

    async fn blocked(&self) -> Result<Vec<StuckEntry>, PgError> {
        let statement = format!(
            "SELECT id, type, ordering_key, dead_at, last_error, {QUEUED}
             FROM outbox.items AS head WHERE blocks_key ORDER BY dead_at"
        );
        let blocking = |row: &Row| Ok(head(row)?.blocking(time(row, 3)?, row.try_get(4)?, unsigned(row, 5)?));
        self.rows(&statement, &[]).await?.iter().map(blocking).collect()
    }

    /// Heads of their ordering keys that are not available yet, with other items queued behind them.
    async fn held(&self) -> Result<Vec<StuckEntry>, PgError> {
        let statement = format!(
            "SELECT id, type, ordering_key, created_at, available_at - $1, waiting FROM (
                 SELECT *, {QUEUED} AS waiting FROM outbox.items AS head
                 WHERE ordering_key IS NOT NULL AND NOT held AND status = 'PENDING' AND available_at > $1
                   AND {IS_HEAD}) AS front
             WHERE waiting > 0 ORDER BY available_at DESC"
        );
        let holding = |row: &Row| Ok(head(row)?.holding(time(row, 3)?, row.try_get(4)?, unsigned(row, 5)?));
        self.rows(&statement, &[&self.now.get()]).await?.iter().map(holding).collect()
    }

    /// Types that have items which could be claimed.
    async fn waiting(&self) -> Result<Vec<StuckEntry>, PgError> {
        let statement = format!(
            "SELECT oldest.*, pause.reason, pause.type IS NOT NULL FROM (
                 SELECT min(id), type, NULL::text, min(available_at) AS since, count(*)
                 FROM outbox.items AS head
                 WHERE status = 'PENDING' AND NOT held AND available_at <= $1 AND {IS_HEAD} GROUP BY type
             ) AS oldest LEFT JOIN outbox.pauses AS pause ON pause.type = oldest.type ORDER BY since"
        );
        let found: Vec<WaitingType> =
            self.rows(&statement, &[&self.now.get()]).await?.iter().map(waiting).collect::<Result<_, _>>()?;
        Ok(found.into_iter().filter_map(|waiting| waiting.diagnose(self.query, self.now)).collect())
    }
}

fn waiting(row: &Row) -> Result<WaitingType, PgError> {
    Ok(WaitingType {
        oldest: head(row)?,
        since: time(row, 3)?,
        count: unsigned(row, 4)?,
        pause_reason: row.try_get(5)?,
        is_paused: row.try_get(6)?,
    })
}

/// The first three columns of every row: id, type and ordering key.
fn head(row: &Row) -> Result<StuckItem, PgError> {
    Ok(StuckItem { id: ItemId::new(row.try_get(0)?), item_type: row.try_get(1)?, ordering_key: row.try_get(2)? })
}
