//! Reads which rates hold due items back, in as many look-ups as there are rates, however long the queue is.
//!
//! Nothing here writes. `outbox_store` judges the buckets.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, params};

use outbox_item::Millis;
use outbox_store::engine::{DueKey, RateBucket};
use outbox_store::{DUE_KEYS_LOOKED_AT, RatedType, ReachedRates};

use crate::rows::{cell, optional_time, time};

/// The rates of these types that hold due items back at `now`.
pub(crate) fn reached(
    tx: &Connection,
    types: &[RatedType],
    now: Millis,
) -> rusqlite::Result<BTreeMap<String, ReachedRates>> {
    let mut found = BTreeMap::new();
    for rated in types {
        let bucket = if rated.rate.is_some() { bucket(tx, &rated.item_type, now)? } else { None };
        let due = if rated.rate_per_key.is_some() { due_keys(tx, &rated.item_type, now)? } else { Vec::new() };
        if let Some(reached) = ReachedRates::judge(rated, bucket, &due, now) {
            found.insert(rated.item_type.clone(), reached);
        }
    }
    Ok(found)
}

/// The bucket of the type, if an item of it is due. Suspects are few, and are not looked at.
fn bucket(tx: &Connection, item_type: &str, now: Millis) -> rusqlite::Result<Option<RateBucket>> {
    let mut select = tx.prepare_cached(BUCKET)?;
    let bucket = select.query_row(params![item_type, now.get()], |row| {
        Ok(RateBucket { tokens: cell(row, 0)?, filled_at: time(row, 1)?, per_second: cell(row, 2)? })
    });
    bucket.optional()
}

const BUCKET: &str = "SELECT tokens, filled_at, per_second FROM outbox_rates
    WHERE type = ?1
      AND (EXISTS (SELECT 1 FROM outbox_queue WHERE type = ?1 AND held = 0 AND losses = 0
                     AND fairness_key IS NULL AND available_at <= ?2)
        OR EXISTS (SELECT 1 FROM outbox_queue WHERE type = ?1 AND held = 0 AND losses = 0
                     AND fairness_key IS NOT NULL AND available_at <= ?2))";

/// The keys of the first due items of the type, each once, without paused ones.
fn due_keys(tx: &Connection, item_type: &str, now: Millis) -> rusqlite::Result<Vec<DueKey>> {
    let mut select = tx.prepare_cached(DUE_KEYS)?;
    let rows = select.query_map(params![item_type, now.get(), DUE_KEYS_LOOKED_AT], |row| {
        let tokens: Option<f64> = cell(row, 1)?;
        Ok(DueKey { key: cell(row, 0)?, left: tokens.zip(optional_time(row, 2)?) })
    })?;
    rows.collect()
}

const DUE_KEYS: &str = "SELECT DISTINCT due.fairness_key, rate.tokens, rate.filled_at
    FROM (SELECT fairness_key FROM outbox_queue
          WHERE type = ?1 AND held = 0 AND losses = 0 AND fairness_key IS NOT NULL AND available_at <= ?2
          ORDER BY available_at, id LIMIT ?3) AS due
         LEFT JOIN outbox_key_rates AS rate ON rate.type = ?1 AND rate.fairness_key = due.fairness_key
    WHERE NOT EXISTS (SELECT 1 FROM outbox_key_pauses AS pause
                      WHERE pause.fairness_key = due.fairness_key AND pause.type IN ('', ?1))
    UNION ALL
    SELECT NULL, NULL, NULL
    WHERE EXISTS (SELECT 1 FROM outbox_queue WHERE type = ?1 AND held = 0 AND losses = 0
                    AND fairness_key IS NULL AND available_at <= ?2)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::plan;

    #[test]
    fn due_items_and_the_buckets_of_their_keys_are_found_in_their_indexes() {
        for (steps, index) in [
            (plan(BUCKET, params!["t", 1]), "outbox_queue_ready (type=? AND available_at<?)"),
            (plan(BUCKET, params!["t", 1]), "outbox_queue_fair_due (type=? AND available_at<?)"),
            (plan(DUE_KEYS, params!["t", 1, 9]), "outbox_queue_fair_due (type=? AND available_at<?)"),
            (plan(DUE_KEYS, params!["t", 1, 9]), "PRIMARY KEY (type=? AND fairness_key=?)"),
        ] {
            assert!(steps.iter().any(|line| line.contains(index)), "{index}: {steps:?}");
            assert!(!steps.iter().any(|line| line.contains("SCAN outbox_")), "{steps:?}");
        }
    }
}
