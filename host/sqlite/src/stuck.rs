//! Finds what is stuck: a bounded number of entries of each kind. Nothing here writes.
//!
//! The reason and the command that helps are worded in `outbox_store`.

use std::time::Duration;

use rusqlite::{Connection, Params, Row, params};

use outbox_core::DESCENDANTS_CODE;
use outbox_item::{ItemId, Millis};
use outbox_store::engine::{
    FailingItem, RateBucket, SilentClaims, StuckItem, WaitingKey, WaitingType, failing_groups, last_sign_of_silent,
    open_breakers,
};
use outbox_store::{LONGEST_LEASE_SECONDS, StuckEntry, StuckQuery};

use crate::rows::{cell, optional_time, time};
use crate::{backlog, pods};

/// The items that fail often which are grouped, the newest items among which lost ones are looked for, and the newest
/// dead ones among which those with too many
/// relatives are; `doctor` looks for lost ones among all.
const LOOK_BACK: u32 = 10_000;

/// The stuck items and types at `now`, kind by kind.
pub(crate) fn stuck(tx: &Connection, query: &StuckQuery, now: Millis) -> rusqlite::Result<Vec<StuckEntry>> {
    let reader = StuckReader { tx, query, now };
    let kinds = [
        open_breakers(&pods::recent(tx, now)?, &backlog::read(tx, now)?, now),
        reader.expired()?,
        reader.silent()?,
        reader.held_long()?,
        reader.failing()?,
        reader.blocked()?,
        reader.held()?,
        reader.waiting()?,
        reader.paused_keys()?,
        reader.descendants()?,
        reader.lost()?,
    ];
    Ok(kinds.into_iter().flatten().collect())
}

struct StuckReader<'a> {
    tx: &'a Connection,
    query: &'a StuckQuery,
    now: Millis,
}

impl StuckReader<'_> {
    fn rows<T>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.tx.prepare_cached(&format!("{sql} LIMIT {}", self.query.limit))?.query_map(values, read)?.collect()
    }

    fn expired(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let sql = "SELECT id, type, ordering_key, lease_until, claimed_by FROM outbox_status
                   WHERE status = 'CLAIMED' AND lease_until <= ?1 ORDER BY lease_until";
        self.rows(sql, [self.now.get()], |row| {
            let by: String = cell(row, 4)?;
            Ok(head(row)?.expired(time(row, 3)?, &by))
        })
    }

    /// A lease that is renewed does not run out, so the time of the claim tells. A lease that ends later than the
    /// longest one allows was claimed while a clock was ahead.
    fn held_long(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let sql = "SELECT id, type, ordering_key, claimed_at, claimed_by FROM outbox_status
                   WHERE status = 'CLAIMED' AND lease_until > ?1 AND (claimed_at < ?2 OR lease_until > ?3)
                     AND claimed_by NOT IN (SELECT instance FROM outbox_pods WHERE heartbeat_at <= ?4)
                   ORDER BY claimed_at";
        let oldest = self.now.saturating_sub(self.query.older_than);
        let latest = self.now.saturating_add(Duration::from_secs(LONGEST_LEASE_SECONDS.into()));
        let last_sign = last_sign_of_silent(self.now);
        self.rows(sql, [self.now, oldest, latest, last_sign].map(Millis::get), |row| {
            let by: String = cell(row, 4)?;
            Ok(head(row)?.held_long(time(row, 3)?, &by, self.now))
        })
    }

    /// The claims of silent processes, by process and type.
    fn silent(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let sql = "SELECT min(json_extract(ids, '$[0]')), type, NULL, sum(count), pod, heartbeat_at, max(lease_until)
                   FROM outbox_leases JOIN outbox_pods ON instance = pod
                   WHERE lease_until > ?1 AND heartbeat_at <= ?2 GROUP BY pod, type ORDER BY heartbeat_at, pod, type";
        self.rows(sql, [self.now, last_sign_of_silent(self.now)].map(Millis::get), |row| {
            let claims = SilentClaims {
                item: head(row)?,
                count: cell(row, 3)?,
                pod: cell(row, 4)?,
                last_sign: time(row, 5)?,
                lease_until: time(row, 6)?,
            };
            Ok(claims.entry(self.now))
        })
    }

    /// In the queue, only items that were claimed before have a past.
    fn failing(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let sql = "SELECT failing.id, type, ordering_key, attempts, last_error, coalesce(
                          (SELECT ended_at FROM outbox_attempts WHERE item_id = failing.id AND attempt = 1
                           ORDER BY delivery DESC LIMIT 1),
                          (SELECT created_at FROM outbox_items AS item WHERE item.id = failing.id))
                   FROM (SELECT waiting.id, waiting.type, waiting.ordering_key, past.attempts, past.last_error
                         FROM outbox_queue AS waiting JOIN outbox_past AS past ON past.id = waiting.id
                         WHERE waiting.again = 1 AND past.attempts > 2 AND past.attempts >= ?1
                         UNION ALL
                         SELECT id, type, ordering_key, attempts, last_error FROM outbox_status
                         WHERE status = 'CLAIMED' AND attempts >= ?1 ORDER BY 4 DESC, 1 LIMIT ?2) AS failing
                   ORDER BY attempts DESC, failing.id";
        let mut select = self.tx.prepare_cached(sql)?;
        let items = select.query_map([self.query.attempts, LOOK_BACK], |row| {
            Ok(FailingItem { item: head(row)?, attempts: cell(row, 3)?, error: cell(row, 4)?, since: time(row, 5)? })
        })?;
        Ok(failing_groups(items.collect::<Result<_, _>>()?, self.query.limit))
    }

    fn blocked(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let sql = "SELECT id, type, ordering_key, dead_at, last_error,
                          (SELECT count(*) FROM outbox_queue AS behind
                           WHERE behind.ordering_key = head.ordering_key AND behind.id > head.id)
                   FROM outbox_dead AS head WHERE blocks_key = 1 ORDER BY dead_at";
        self.rows(sql, [], |row| Ok(head(row)?.blocking(time(row, 3)?, cell(row, 4)?, cell(row, 5)?)))
    }

    /// Heads of their ordering keys that are not available yet, with other items queued behind them.
    fn held(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let sql = "SELECT head.id, head.type, head.ordering_key, item.created_at, head.available_at - ?1,
                          (SELECT count(*) FROM outbox_queue AS behind
                           WHERE behind.ordering_key = head.ordering_key AND behind.held = 1) AS waiting, head.again
                   FROM outbox_lanes AS lane JOIN outbox_queue AS head ON head.id = lane.id
                        JOIN outbox_items AS item ON item.id = lane.id
                   WHERE head.available_at > ?1 AND waiting > 0 ORDER BY head.available_at DESC";
        self.rows(sql, [self.now.get()], |row| {
            Ok(head(row)?.holding(time(row, 3)?, cell(row, 4)?, cell(row, 5)?, cell(row, 6)?))
        })
    }

    /// Types that have items which could be claimed. The three parts of the queue are read in one index each.
    fn waiting(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let sql = "SELECT min(id), ready.type, NULL, min(since), sum(items), reason, paused_at,
                          tokens, filled_at, per_second
                   FROM (SELECT min(id) AS id, type, min(available_at) AS since, count(*) AS items FROM outbox_queue
                         WHERE held = 0 AND losses = 0 AND fairness_key IS NULL AND available_at <= ?1 GROUP BY type
                         UNION ALL
                         SELECT min(id), type, min(available_at), count(*) FROM outbox_queue AS shared
                         WHERE held = 0 AND losses = 0 AND fairness_key IS NOT NULL AND available_at <= ?1
                           AND NOT EXISTS (SELECT 1 FROM outbox_key_pauses AS pause
                                           WHERE pause.fairness_key = shared.fairness_key
                                             AND pause.type IN ('', shared.type)) GROUP BY type
                         UNION ALL
                         SELECT min(id), type, min(available_at), count(*) FROM outbox_queue AS suspect
                         WHERE held = 0 AND losses > 0 AND available_at <= ?1
                           AND NOT EXISTS (SELECT 1 FROM outbox_key_pauses AS pause
                                           WHERE pause.fairness_key = suspect.fairness_key
                                             AND pause.type IN ('', suspect.type)) GROUP BY type) AS ready
                        LEFT JOIN outbox_pauses AS pause ON pause.type = ready.type
                        LEFT JOIN outbox_rates AS rate ON rate.type = ready.type
                   GROUP BY ready.type ORDER BY min(since)";
        let found = self.rows(sql, [self.now.get()], |row| {
            Ok(WaitingType {
                oldest: head(row)?,
                since: time(row, 3)?,
                count: cell(row, 4)?,
                pause_reason: cell(row, 5)?,
                paused_at: optional_time(row, 6)?,
                rate: rate(row)?,
            })
        })?;
        Ok(found.into_iter().filter_map(|waiting| waiting.diagnose(self.query, self.now)).collect())
    }

    /// Paused fairness keys with items that could be claimed otherwise.
    fn paused_keys(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let found = self.rows(PAUSED_KEYS, params![self.now.get()], |row| {
            Ok(WaitingKey {
                oldest: head(row)?,
                paused_at: time(row, 3)?,
                count: cell(row, 4)?,
                pause_reason: cell(row, 5)?,
                fairness_key: cell(row, 6)?,
                is_of_all_types: cell(row, 7)?,
            })
        })?;
        Ok(found.into_iter().map(WaitingKey::paused).collect())
    }

    /// Roots of items that were dead-lettered because too many descend from them, among the newest dead items. A root
    /// that is deleted is named by its first dead item.
    fn descendants(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let sql = "SELECT coalesce(item.id, min(dead.id)), coalesce(item.type, dead.type), NULL, min(dead_at), count(*)
                   FROM (SELECT * FROM outbox_dead ORDER BY dead_at DESC LIMIT ?1) AS dead
                        LEFT JOIN outbox_descendants AS descent ON descent.id = dead.id
                        LEFT JOIN outbox_items AS item ON item.id = coalesce(descent.root, dead.id)
                   WHERE EXISTS (SELECT 1 FROM outbox_attempts WHERE item_id = dead.id AND code = ?2)
                   GROUP BY coalesce(descent.root, dead.id) ORDER BY min(dead_at)";
        self.rows(sql, params![LOOK_BACK, DESCENDANTS_CODE], |row| {
            Ok(head(row)?.with_descendants(time(row, 3)?, row.get(4)?))
        })
    }

    /// Items in no place, among the newest.
    fn lost(&self) -> rusqlite::Result<Vec<StuckEntry>> {
        let sql = "SELECT id, type, ordering_key, created_at FROM outbox_items AS item
                   WHERE id > (SELECT max(id) FROM outbox_items) - ?1
                     AND NOT EXISTS (SELECT 1 FROM outbox_queue WHERE id = item.id)
                     AND NOT EXISTS (SELECT 1 FROM outbox_done WHERE id = item.id)
                     AND NOT EXISTS (SELECT 1 FROM outbox_dead WHERE id = item.id)
                     AND id NOT IN (SELECT leased.value FROM outbox_leases, json_each(ids) AS leased)
                   ORDER BY id";
        self.rows(sql, [LOOK_BACK], |row| Ok(head(row)?.lost(time(row, 3)?)))
    }
}

/// SQL: paused fairness keys with the items that are due at `?1`. Suspects are in an index of their own, and few.
const PAUSED_KEYS: &str = "WITH RECURSIVE kinds (type) AS (
        SELECT min(type) FROM outbox_queue WHERE held = 0 AND losses = 0 AND fairness_key IS NOT NULL
        UNION ALL
        SELECT (SELECT min(type) FROM outbox_queue
                WHERE held = 0 AND losses = 0 AND fairness_key IS NOT NULL AND type > kinds.type)
        FROM kinds WHERE type IS NOT NULL),
    found AS (
        SELECT waiting.id, waiting.type, pause.paused_at, pause.reason, pause.fairness_key, pause.type AS of_type
        FROM outbox_key_pauses AS pause CROSS JOIN kinds ON pause.type IN ('', kinds.type)
             CROSS JOIN outbox_queue AS waiting INDEXED BY outbox_queue_fair
             ON waiting.type = kinds.type AND waiting.fairness_key = pause.fairness_key
        WHERE waiting.held = 0 AND waiting.losses = 0 AND waiting.fairness_key IS NOT NULL
          AND waiting.available_at <= ?1
        UNION ALL
        SELECT waiting.id, waiting.type, pause.paused_at, pause.reason, pause.fairness_key, pause.type
        FROM outbox_queue AS waiting CROSS JOIN outbox_key_pauses AS pause
             ON pause.fairness_key = waiting.fairness_key AND pause.type IN ('', waiting.type)
        WHERE waiting.held = 0 AND waiting.losses > 0 AND waiting.available_at <= ?1)
    SELECT min(id), type, NULL, paused_at, count(*), reason, fairness_key, of_type = '' FROM found
    GROUP BY type, fairness_key, of_type ORDER BY paused_at";

/// The columns after the first seven: the token bucket of a type.
fn rate(row: &Row<'_>) -> rusqlite::Result<Option<RateBucket>> {
    let Some(tokens) = cell(row, 7)? else { return Ok(None) };
    Ok(Some(RateBucket { tokens, filled_at: time(row, 8)?, per_second: cell(row, 9)? }))
}

/// The first three columns of every row: id, type and ordering key.
fn head(row: &Row<'_>) -> rusqlite::Result<StuckItem> {
    Ok(StuckItem { id: ItemId::new(cell(row, 0)?), item_type: cell(row, 1)?, ordering_key: cell(row, 2)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::plan;

    #[test]
    fn paused_keys_are_looked_up_in_the_index_of_keys() {
        let steps = plan(PAUSED_KEYS, params![1]);
        let reads = |index: &str| steps.iter().any(|line| line.contains(index));
        assert!(reads("outbox_queue_fair (type=? AND fairness_key=? AND available_at<?)"), "{steps:?}");
        assert!(reads("outbox_queue_suspects"), "{steps:?}");
        assert!(!steps.iter().any(|line| line.contains("AUTOMATIC")), "{steps:?}");
    }
}
