//! Finds what is stuck: a bounded number of entries of each kind. Nothing here writes.
//!
//! The reason and the command that helps are worded in `outbox_store`.

use std::time::Duration;

use tokio_postgres::Row;

use outbox_core::DESCENDANTS_CODE;
use outbox_item::{ItemId, Millis};
use outbox_store::engine::{
    FailingItem, RateBucket, SilentClaims, StuckItem, WaitingKey, WaitingType, failing_groups, last_sign_of_silent,
    open_breakers,
};
use outbox_store::{LONGEST_LEASE_SECONDS, StuckEntry, StuckQuery};

use crate::error::PgError;
use crate::rows::{count, optional_time, time, unsigned};
use crate::tx::{Query, Values};
use crate::{backlog, pods};

/// The items that fail often which are grouped, and the newest items among which lost ones are looked for; `doctor` looks at all.
const LOOK_BACK: i64 = 10_000;

/// SQL: the waiting item `head` is the one that its ordering key waits for, or has no key. Only a key of which an item
/// has been claimed or is dead has a lane; of any other key it is the first in the queue.
const IS_HEAD: &str = "(head.ordering_key IS NULL OR head.id = coalesce(
    (SELECT lane.id FROM outbox.lanes AS lane WHERE lane.ordering_key = head.ordering_key),
    (SELECT front.id FROM outbox.queue AS front WHERE front.ordering_key = head.ordering_key
     ORDER BY front.ordering_key, front.turn, front.id LIMIT 1)))";

/// SQL: the number of items queued behind `head`.
const QUEUED: &str = "(SELECT count(*) FROM outbox.queue AS behind
    WHERE behind.ordering_key = head.ordering_key AND (behind.turn, behind.id) > (head.turn, head.id))";

/// The stuck items and types at `now`, kind by kind.
pub(crate) async fn stuck(tx: &impl Query, query: &StuckQuery, now: Millis) -> Result<Vec<StuckEntry>, PgError> {
    let reader = StuckReader { tx, query, now };
    let mut found = open_breakers(&pods::recent(tx, now).await?, &backlog::read(tx, now).await?, now);
    found.extend(reader.expired().await?);
    found.extend(reader.silent().await?);
    found.extend(reader.held_long().await?);
    found.extend(reader.failing().await?);
    found.extend(reader.blocked().await?);
    found.extend(reader.held().await?);
    found.extend(reader.waiting().await?);
    found.extend(reader.paused_keys().await?);
    found.extend(reader.descendants().await?);
    found.extend(reader.lost().await?);
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
        let statement = "SELECT id, type, ordering_key, lease_until, claimed_by FROM outbox.status_claimed
                         WHERE lease_until <= $1 ORDER BY lease_until, id";
        let expired = |row: &Row| Ok(head(row)?.expired(time(row, 3)?, row.try_get(4)?));
        self.rows(statement, &[&self.now.get()]).await?.iter().map(expired).collect()
    }

    /// A lease that is renewed does not run out, so the time of the claim tells. A lease that ends later than the
    /// longest one allows was claimed while a clock was ahead.
    async fn held_long(&self) -> Result<Vec<StuckEntry>, PgError> {
        let statement = "SELECT id, type, ordering_key, claimed_at, claimed_by FROM outbox.status_claimed
                         WHERE lease_until > $1 AND (claimed_at < $2 OR lease_until > $3)
                           AND claimed_by NOT IN (SELECT instance FROM outbox.pods WHERE heartbeat_at <= $4)
                         ORDER BY claimed_at, id";
        let oldest = self.now.saturating_sub(self.query.older_than);
        let held_long = |row: &Row| Ok(head(row)?.held_long(time(row, 3)?, row.try_get(4)?, self.now));
        let latest = self.now.saturating_add(Duration::from_secs(LONGEST_LEASE_SECONDS.into()));
        let last_sign = last_sign_of_silent(self.now);
        let values: Values<'_> = &[&self.now.get(), &oldest.get(), &latest.get(), &last_sign.get()];
        self.rows(statement, values).await?.iter().map(held_long).collect()
    }

    /// The claims of silent processes, by process and type.
    async fn silent(&self) -> Result<Vec<StuckEntry>, PgError> {
        let statement = "SELECT min(ids[1]), type, NULL::text, sum(count)::bigint, pod, heartbeat_at, max(lease_until)
                         FROM outbox.leases JOIN outbox.pods ON instance = pod
                         WHERE lease_until > $1 AND heartbeat_at <= $2
                         GROUP BY pod, type, heartbeat_at ORDER BY heartbeat_at, pod, type";
        let entry = |row: &Row| {
            let claims = SilentClaims {
                item: head(row)?,
                count: unsigned(row, 3)?,
                pod: row.try_get(4)?,
                last_sign: time(row, 5)?,
                lease_until: time(row, 6)?,
            };
            Ok(claims.entry(self.now))
        };
        let last_sign = last_sign_of_silent(self.now);
        self.rows(statement, &[&self.now.get(), &last_sign.get()]).await?.iter().map(entry).collect()
    }

    async fn failing(&self) -> Result<Vec<StuckEntry>, PgError> {
        let statement = "SELECT failing.id, type, ordering_key, attempts, last_error, coalesce(
                                    (SELECT ended_at FROM outbox.attempts WHERE item_id = failing.id AND attempt = 1
                                     ORDER BY delivery DESC LIMIT 1),
                                    (SELECT created_at FROM outbox.items AS item WHERE item.id = failing.id))
                         FROM (SELECT queue.id, queue.type, queue.ordering_key, past.attempts, past.last_error
                               FROM outbox.queue JOIN outbox.past ON past.id = queue.id
                               WHERE queue.again AND past.attempts > 2 AND past.attempts >= $1::bigint
                               UNION ALL
                               SELECT id, type, ordering_key, attempts, last_error FROM outbox.status_claimed
                               WHERE attempts >= $1::bigint
                               ORDER BY attempts DESC, id LIMIT $2) AS failing
                         ORDER BY attempts DESC, failing.id";
        let failing = |row: &Row| {
            let (attempts, error, since) = (count(row, 3)?, row.try_get(4)?, time(row, 5)?);
            Ok(FailingItem { item: head(row)?, attempts, error, since })
        };
        let rows = self.tx.rows(statement, &[&i64::from(self.query.attempts), &LOOK_BACK]).await?;
        let items = rows.iter().map(failing).collect::<Result<_, PgError>>()?;
        Ok(failing_groups(items, self.query.limit))
    }

    async fn blocked(&self) -> Result<Vec<StuckEntry>, PgError> {
        let statement = format!(
            "SELECT id, type, ordering_key, dead_at, last_error, {QUEUED}
             FROM outbox.dead AS head WHERE blocks_key ORDER BY dead_at, id"
        );
        let blocking = |row: &Row| Ok(head(row)?.blocking(time(row, 3)?, row.try_get(4)?, unsigned(row, 5)?));
        self.rows(&statement, &[]).await?.iter().map(blocking).collect()
    }

    /// Heads of their ordering keys that are not available yet, with other items queued behind them.
    async fn held(&self) -> Result<Vec<StuckEntry>, PgError> {
        let statement = format!(
            "SELECT front.id, front.type, front.ordering_key, item.created_at, front.available_at - $1, front.waiting, front.again
             FROM (SELECT *, {QUEUED} AS waiting FROM outbox.queue AS head
                   WHERE ordering_key IS NOT NULL AND NOT held AND available_at > $1 AND {IS_HEAD}) AS front
             JOIN outbox.items AS item ON item.id = front.id
             WHERE front.waiting > 0 ORDER BY front.available_at DESC"
        );
        let holding =
            |row: &Row| Ok(head(row)?.holding(time(row, 3)?, row.try_get(4)?, unsigned(row, 5)?, row.try_get(6)?));
        self.rows(&statement, &[&self.now.get()]).await?.iter().map(holding).collect()
    }

    /// Types that have items which could be claimed.
    async fn waiting(&self) -> Result<Vec<StuckEntry>, PgError> {
        let statement = format!(
            "SELECT oldest.*, pause.reason, pause.paused_at, rate.tokens, rate.filled_at, rate.per_second FROM (
                 SELECT min(id), type, NULL::text, min(available_at) AS since, count(*)
                 FROM outbox.queue AS head
                 WHERE NOT held AND available_at <= $1 AND {IS_HEAD}
                   AND NOT EXISTS (SELECT FROM outbox.key_pauses AS paused
                                   WHERE paused.fairness_key = head.fairness_key AND paused.type IN ('', head.type))
                 GROUP BY type
             ) AS oldest LEFT JOIN outbox.pauses AS pause ON pause.type = oldest.type
                         LEFT JOIN outbox.rates AS rate ON rate.type = oldest.type ORDER BY since"
        );
        let found: Vec<WaitingType> =
            self.rows(&statement, &[&self.now.get()]).await?.iter().map(waiting).collect::<Result<_, _>>()?;
        Ok(found.into_iter().filter_map(|waiting| waiting.diagnose(self.query, self.now)).collect())
    }

    /// Paused fairness keys with items that could be claimed otherwise.
    async fn paused_keys(&self) -> Result<Vec<StuckEntry>, PgError> {
        let statement = format!(
            "SELECT min(head.id), head.type, NULL::text, pause.paused_at, count(*), pause.reason,
                    pause.fairness_key, pause.type = ''
             FROM outbox.key_pauses AS pause
                  JOIN outbox.queue AS head ON head.fairness_key = pause.fairness_key AND pause.type IN ('', head.type)
             WHERE NOT head.held AND head.available_at <= $1 AND {IS_HEAD}
             GROUP BY head.type, pause.fairness_key, pause.type, pause.reason, pause.paused_at ORDER BY pause.paused_at"
        );
        let paused = |row: &Row| {
            let waiting = WaitingKey {
                oldest: head(row)?,
                paused_at: time(row, 3)?,
                count: unsigned(row, 4)?,
                pause_reason: row.try_get(5)?,
                fairness_key: row.try_get(6)?,
                is_of_all_types: row.try_get(7)?,
            };
            Ok(waiting.paused())
        };
        self.rows(&statement, &[&self.now.get()]).await?.iter().map(paused).collect()
    }

    /// Roots of items that were dead-lettered because too many descend from them, among the newest dead items. A root
    /// that is deleted is named by its first dead item.
    async fn descendants(&self) -> Result<Vec<StuckEntry>, PgError> {
        let statement = "
            SELECT coalesce(item.id, root.first), coalesce(item.type, root.type), NULL::text, root.since, root.dead
            FROM (SELECT coalesce(descent.root, dead.id) AS id, min(dead.id) AS first, min(dead.type) AS type,
                         min(dead_at) AS since, count(*) AS dead
                  FROM (SELECT id, type, dead_at FROM outbox.dead ORDER BY dead_at DESC LIMIT $1) AS dead
                       LEFT JOIN outbox.descendants AS descent ON descent.id = dead.id
                  WHERE EXISTS (SELECT FROM outbox.attempts WHERE item_id = dead.id AND code = $2)
                  GROUP BY 1) AS root
                 LEFT JOIN outbox.items AS item ON item.id = root.id
            ORDER BY root.since";
        let descending = |row: &Row| Ok(head(row)?.with_descendants(time(row, 3)?, unsigned(row, 4)?));
        self.rows(statement, &[&LOOK_BACK, &DESCENDANTS_CODE]).await?.iter().map(descending).collect()
    }

    /// Items in no place, among the newest.
    async fn lost(&self) -> Result<Vec<StuckEntry>, PgError> {
        let statement = "SELECT id, type, ordering_key, created_at FROM outbox.items AS item
            WHERE id > (SELECT max(id) FROM outbox.items) - $1
              AND NOT EXISTS (SELECT 1 FROM outbox.queue WHERE queue.id = item.id)
              AND NOT EXISTS (SELECT 1 FROM outbox.done WHERE done.id = item.id)
              AND NOT EXISTS (SELECT 1 FROM outbox.dead WHERE dead.id = item.id)
              AND NOT EXISTS (SELECT 1 FROM outbox.leases WHERE item.id = ANY (leases.ids))
            ORDER BY id";
        let lost = |row: &Row| Ok(head(row)?.lost(time(row, 3)?));
        self.rows(statement, &[&LOOK_BACK]).await?.iter().map(lost).collect()
    }
}

fn waiting(row: &Row) -> Result<WaitingType, PgError> {
    Ok(WaitingType {
        oldest: head(row)?,
        since: time(row, 3)?,
        count: unsigned(row, 4)?,
        pause_reason: row.try_get(5)?,
        paused_at: optional_time(row, 6)?,
        rate: rate(row)?,
    })
}

/// The columns after the first seven: the token bucket of a type.
fn rate(row: &Row) -> Result<Option<RateBucket>, PgError> {
    let Some(tokens) = row.try_get(7)? else { return Ok(None) };
    Ok(Some(RateBucket { tokens, filled_at: time(row, 8)?, per_second: row.try_get(9)? }))
}

/// The first three columns of every row: id, type and ordering key.
fn head(row: &Row) -> Result<StuckItem, PgError> {
    Ok(StuckItem { id: ItemId::new(row.try_get(0)?), item_type: row.try_get(1)?, ordering_key: row.try_get(2)? })
}
