//! Reads which rates hold due items back, in as many look-ups as there are rates, however long the queue is.
//!
//! Nothing here writes. `outbox_store` judges the buckets.

use std::collections::{BTreeMap, HashMap};

use outbox_item::Millis;
use outbox_store::engine::{DueKey, RateBucket};
use outbox_store::{DUE_KEYS_LOOKED_AT, RatedType, ReachedRates};

use crate::error::PgError;
use crate::rows::time;
use crate::tx::Query;

/// The rates of these types that hold due items back at `now`.
pub(crate) async fn reached(
    tx: &impl Query,
    types: &[RatedType],
    now: Millis,
) -> Result<BTreeMap<String, ReachedRates>, PgError> {
    let mut found = BTreeMap::new();
    let buckets = buckets(tx, types, now).await?;
    for rated in types {
        let due = if rated.rate_per_key.is_some() { due_keys(tx, &rated.item_type, now).await? } else { Vec::new() };
        if let Some(reached) = ReachedRates::judge(rated, buckets.get(&rated.item_type).copied(), &due, now) {
            found.insert(rated.item_type.clone(), reached);
        }
    }
    Ok(found)
}

/// The buckets of the types with a rate of which an item is due, by type. Suspects are few, and are not looked at.
async fn buckets(tx: &impl Query, types: &[RatedType], now: Millis) -> Result<HashMap<String, RateBucket>, PgError> {
    let with_rate = types.iter().filter(|rated| rated.rate.is_some());
    let names: Vec<&str> = with_rate.map(|rated| rated.item_type.as_str()).collect();
    let mut buckets = HashMap::new();
    if names.is_empty() {
        return Ok(buckets);
    }
    for row in tx.rows(BUCKETS, &[&names, &now.get()]).await? {
        let bucket = RateBucket { tokens: row.try_get(1)?, filled_at: time(&row, 2)?, per_second: row.try_get(3)? };
        buckets.insert(row.try_get(0)?, bucket);
    }
    Ok(buckets)
}

/// Takes the first item of an index: the planner reads the whole queue to find out whether any item is due.
const BUCKETS: &str = "SELECT type, tokens, filled_at, per_second FROM outbox.rates AS rate
    WHERE type = ANY($1)
      AND ((SELECT available_at FROM outbox.queue
            WHERE type = rate.type AND NOT held AND losses = 0 AND fairness_key IS NULL
            ORDER BY type, available_at, id LIMIT 1) <= $2
        OR (SELECT available_at FROM outbox.queue
            WHERE type = rate.type AND NOT held AND losses = 0 AND fairness_key IS NOT NULL
            ORDER BY type, available_at, id LIMIT 1) <= $2)";

/// The keys of the first due items of the type, each once, without paused ones.
async fn due_keys(tx: &impl Query, item_type: &str, now: Millis) -> Result<Vec<DueKey>, PgError> {
    let mut keys = Vec::new();
    for row in tx.rows(DUE_KEYS, &[&item_type, &now.get(), &i64::from(DUE_KEYS_LOOKED_AT)]).await? {
        let (tokens, filled_at): (Option<f64>, Option<i64>) = (row.try_get(1)?, row.try_get(2)?);
        keys.push(DueKey { key: row.try_get(0)?, left: tokens.zip(filled_at.map(Millis::new)) });
    }
    Ok(keys)
}

/// As in [`BUCKETS`], whether an item without a key is due is asked of the first one.
const DUE_KEYS: &str = "SELECT DISTINCT due.fairness_key, rate.tokens, rate.filled_at
    FROM (SELECT fairness_key FROM outbox.queue
          WHERE type = $1 AND NOT held AND losses = 0 AND fairness_key IS NOT NULL AND available_at <= $2
          ORDER BY type, available_at, id LIMIT $3) AS due
         LEFT JOIN outbox.key_rates AS rate ON rate.type = $1 AND rate.fairness_key = due.fairness_key
    WHERE NOT EXISTS (SELECT FROM outbox.key_pauses AS pause
                      WHERE pause.fairness_key = due.fairness_key AND pause.type IN ('', $1))
    UNION ALL
    SELECT NULL, NULL, NULL
    WHERE (SELECT available_at FROM outbox.queue
           WHERE type = $1 AND NOT held AND losses = 0 AND fairness_key IS NULL
           ORDER BY type, available_at, id LIMIT 1) <= $2";
