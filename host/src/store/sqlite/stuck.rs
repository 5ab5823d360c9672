//! What does not move, why, and the command that helps. Reads only, and a bounded number of each kind.

use rusqlite::{Connection, Params, Row, params};

use crate::item::{ItemId, Millis};
use crate::store::{Stuck, StuckKind, StuckQuery};

pub(super) fn stuck(tx: &Connection, query: &StuckQuery, now: Millis) -> rusqlite::Result<Vec<Stuck>> {
    let look = Look { tx, query, now };
    let kinds = [look.expired()?, look.failing()?, look.blocked()?, look.held()?, look.waiting()?];
    Ok(kinds.into_iter().flatten().collect())
}

struct Look<'a> {
    tx: &'a Connection,
    query: &'a StuckQuery,
    now: Millis,
}

impl Look<'_> {
    fn rows<T>(
        &self,
        sql: &str,
        values: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.tx.prepare_cached(&format!("{sql} LIMIT {}", self.query.limit))?.query_map(values, read)?.collect()
    }

    fn expired(&self) -> rusqlite::Result<Vec<Stuck>> {
        let sql = "SELECT id, type, ordering_key, lease_until, claimed_by FROM outbox_items
                   WHERE status = 'CLAIMED' AND lease_until <= ?1 ORDER BY lease_until";
        self.rows(sql, [self.now], |row| {
            let (id, by): (ItemId, String) = (row.get(0)?, row.get(4)?);
            let why = format!("the lease of {by} has ended, and no process that has the store open took the item back");
            Ok(Stuck {
                since: row.get(3)?,
                ..about(StuckKind::ExpiredClaim, row, why, format!("outbox release {id}"))?
            })
        })
    }

    fn failing(&self) -> rusqlite::Result<Vec<Stuck>> {
        let columns = "SELECT id, type, ordering_key, created_at, attempts, last_error FROM outbox_items";
        let sql = format!(
            "{columns} WHERE status = 'PENDING' AND attempts > 2 AND attempts >= ?1
             UNION ALL {columns} WHERE status = 'CLAIMED' AND attempts >= ?1 ORDER BY 5 DESC, 1"
        );
        self.rows(&sql, [self.query.attempts], |row| {
            let (id, attempts): (ItemId, u32) = (row.get(0)?, row.get(4)?);
            let error: Option<String> = row.get(5)?;
            let why = format!("{attempts} attempts so far; the last: {}", error.unwrap_or_default());
            Ok(Stuck { since: row.get(3)?, ..about(StuckKind::Failing, row, why, format!("outbox show {id}"))? })
        })
    }

    fn blocked(&self) -> rusqlite::Result<Vec<Stuck>> {
        let sql = "SELECT id, type, ordering_key, dead_at, last_error,
                          (SELECT count(*) FROM outbox_items AS behind
                           WHERE behind.ordering_key = head.ordering_key AND behind.ordering_key IS NOT NULL
                             AND behind.status = 'PENDING' AND behind.id > head.id)
                   FROM outbox_items AS head WHERE blocks_key = 1 ORDER BY dead_at";
        self.rows(sql, [], |row| {
            let (id, key): (ItemId, String) = (row.get(0)?, row.get(2)?);
            let error: Option<String> = row.get(4)?;
            let why = format!("item {id} is dead-lettered and blocks the key: {}", error.unwrap_or_default());
            let command = format!("outbox replay {id}, or outbox unblock '{key}' to go on without it");
            Ok(Stuck { since: row.get(3)?, waiting: row.get(5)?, ..about(StuckKind::BlockedKey, row, why, command)? })
        })
    }

    /// Items in front of their key that wait for their time, with others behind them.
    fn held(&self) -> rusqlite::Result<Vec<Stuck>> {
        let sql = "SELECT id, type, ordering_key, created_at, available_at,
                          (SELECT count(*) FROM outbox_items AS behind
                           WHERE behind.ordering_key = head.ordering_key AND behind.ordering_key IS NOT NULL
                             AND behind.status = 'PENDING' AND behind.held = 1) AS waiting
                   FROM outbox_items AS head
                   WHERE ordering_key IS NOT NULL AND held = 0 AND status = 'PENDING' AND available_at > ?1
                     AND waiting > 0 ORDER BY available_at DESC";
        self.rows(sql, [self.now], |row| {
            let (id, available_at): (ItemId, Millis) = (row.get(0)?, row.get(4)?);
            let wait = (available_at - self.now) / 1000;
            let why = format!("item {id} is in front of the key and is not available for another {wait} s");
            let command = format!("outbox reschedule {id} --in 0s");
            Ok(Stuck { since: row.get(3)?, waiting: row.get(5)?, ..about(StuckKind::HeldKey, row, why, command)? })
        })
    }

    /// Types whose items could be claimed: because nobody may, nobody can, or nobody keeps up.
    fn waiting(&self) -> rusqlite::Result<Vec<Stuck>> {
        let sql = "SELECT min(id), type, NULL, min(available_at), count(*),
                          (SELECT reason FROM outbox_pauses WHERE outbox_pauses.type = outbox_items.type),
                          EXISTS (SELECT 1 FROM outbox_pauses WHERE outbox_pauses.type = outbox_items.type)
                   FROM outbox_items WHERE status = 'PENDING' AND held = 0 AND available_at <= ?1
                   GROUP BY type ORDER BY min(available_at)";
        let found = self.rows(sql, params![self.now], |row| self.explain(row))?;
        Ok(found.into_iter().flatten().collect())
    }

    fn explain(&self, row: &Row<'_>) -> rusqlite::Result<Option<Stuck>> {
        let (item_type, since): (String, Millis) = (row.get(1)?, row.get(3)?);
        let (reason, is_paused): (Option<String>, bool) = (row.get(5)?, row.get(6)?);
        let is_unserved = self.query.served.as_ref().is_some_and(|served| !served.contains(&item_type));
        let is_old = self.now - since > i64::try_from(self.query.older_than.as_millis()).unwrap_or(i64::MAX);
        let (kind, why, command) = if is_paused {
            let reason = reason.unwrap_or_else(|| "no reason given".into());
            (StuckKind::Paused, format!("the type is paused: {reason}"), format!("outbox resume {item_type}"))
        } else if is_unserved {
            let why = "no live process has a handler for the type".to_owned();
            (StuckKind::Unhandled, why, "outbox plugin list".to_owned())
        } else if is_old {
            let why = "the items may be claimed and are not: too few workers, or a limit of the type".to_owned();
            (StuckKind::Old, why, "outbox stats".to_owned())
        } else {
            return Ok(None);
        };
        Ok(Some(Stuck { since, waiting: row.get(4)?, ..about(kind, row, why, command)? }))
    }
}

/// The parts that every kind has; its rows begin with an id, a type and an ordering key.
fn about(kind: StuckKind, row: &Row<'_>, why: String, command: String) -> rusqlite::Result<Stuck> {
    Ok(Stuck {
        kind,
        item: row.get(0)?,
        r#type: row.get(1)?,
        ordering_key: row.get(2)?,
        waiting: 1,
        since: 0,
        why,
        command,
    })
}
