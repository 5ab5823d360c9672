//! Which rates hold due items back, for readers.
//!
//! Nothing here writes. What a bucket says is decided in `outbox_store`.

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
    if types.is_empty() {
        return Ok(found);
    }
    let buckets = buckets(tx, now).await?;
    for rated in types {
        let due = if rated.rate_per_key.is_some() { due_keys(tx, &rated.item_type, now).await? } else { Vec::new() };
        if let Some(reached) = ReachedRates::judge(rated, buckets.get(&rated.item_type).copied(), &due, now) {
            found.insert(rated.item_type.clone(), reached);
        }
    }
    Ok(found)
}

/// The buckets of types with items that are due, by type. Each part of the queue is read in its own index.
async fn buckets(tx: &impl Query, now: Millis) -> Result<HashMap<String, RateBucket>, PgError> {
    let sql = "SELECT type, tokens, filled_at, per_second FROM outbox.rates AS rate
               WHERE EXISTS (SELECT FROM outbox.queue WHERE type = rate.type AND NOT held AND losses = 0
                               AND fairness_key IS NULL AND available_at <= $1)
                  OR EXISTS (SELECT FROM outbox.queue WHERE type = rate.type AND NOT held AND losses = 0
                               AND fairness_key IS NOT NULL AND available_at <= $1)";
    let mut buckets = HashMap::new();
    for row in tx.rows(sql, &[&now.get()]).await? {
        let bucket = RateBucket { tokens: row.try_get(1)?, filled_at: time(&row, 2)?, per_second: row.try_get(3)? };
        buckets.insert(row.try_get(0)?, bucket);
    }
    Ok(buckets)
}

/// The keys of the first due items of the type, each once, without paused ones. Suspects are few, and are not looked at.
async fn due_keys(tx: &impl Query, item_type: &str, now: Millis) -> Result<Vec<DueKey>, PgError> {
    let sql = "SELECT DISTINCT due.fairness_key, rate.tokens, rate.filled_at
               FROM (SELECT fairness_key FROM outbox.queue
                     WHERE type = $1 AND NOT held AND losses = 0 AND fairness_key IS NOT NULL AND available_at <= $2
                     ORDER BY available_at, id LIMIT $3) AS due
                    LEFT JOIN outbox.key_rates AS rate ON rate.type = $1 AND rate.fairness_key = due.fairness_key
               WHERE NOT EXISTS (SELECT FROM outbox.key_pauses AS pause
                                 WHERE pause.fairness_key = due.fairness_key AND pause.type IN ('', $1))
               UNION ALL
               SELECT NULL, NULL, NULL
               WHERE EXISTS (SELECT FROM outbox.queue WHERE type = $1 AND NOT held AND losses = 0
                               AND fairness_key IS NULL AND available_at <= $2)";
    let mut keys = Vec::new();
    for row in tx.rows(sql, &[&item_type, &now.get(), &i64::from(DUE_KEYS_LOOKED_AT)]).await? {
        let (tokens, filled_at): (Option<f64>, Option<i64>) = (row.try_get(1)?, row.try_get(2)?);
        keys.push(DueKey { key: row.try_get(0)?, left: tokens.zip(filled_at.map(Millis::new)) });
    }
    Ok(keys)
}
