//! Which fairness keys of a type have items that are due, and how many of each may be claimed.
//!
//! How a claim is dealt out among them, and who comes next, is decided by `outbox_store::engine::fair_keys`; which items of a
//! key are taken, by the function `outbox.claim` of the schema.

use std::collections::HashMap;

use tokio_postgres::Row;

use outbox_item::Millis;
use outbox_store::engine::fair_keys::{DUE_MAX, KeyRooms, LOOKED_AT_MAX, LastServed, full_since, keys_wanted};
use outbox_store::{Claim, ClaimRequest, ClaimTerms};

use crate::claim_limits::TypeBudget;
use crate::error::PgError;
use crate::rows::unsigned;
use crate::tx::{Query as _, Values, WriteTx};

/// The keys of a type that are served next.
pub(crate) struct DueKeys {
    /// In the order in which they are served. Items without a key have the empty one.
    pub(crate) keys: Vec<String>,
    /// The last key that was looked at, where others were not.
    pub(crate) cut_at: Option<String>,
    /// Whether there may be more keys.
    pub(crate) has_more: bool,
    /// What may be claimed of each key.
    pub(crate) rooms: KeyRooms,
}

/// The due keys of the types at these places of the request, for claims of up to so many items of each.
pub(crate) async fn due_keys(
    tx: &WriteTx<'_>,
    request: &ClaimRequest,
    wanted: &[(usize, u32)],
    last_served: &LastServed,
) -> Result<Vec<DueKeys>, PgError> {
    let terms: Vec<_> = wanted.iter().map(|(place, _)| &request.types[*place]).collect();
    let rooms = rooms(tx, &terms).await?;
    let kinds: Vec<_> = terms.iter().map(|terms| terms.item_type.as_str()).collect();
    let last: Vec<_> = kinds.iter().map(|kind| last_served.last(kind)).collect();
    let most: Vec<_> = wanted.iter().map(|(_, limit)| keys_wanted(*limit).cast_signed()).collect();
    let full = kinds.iter().zip(&rooms).flat_map(|(kind, rooms)| rooms.full().into_iter().map(move |key| (*kind, key)));
    let (full_kinds, full_keys): (Vec<_>, Vec<_>) = full.unzip();
    let (looked_at, due_most) = (LOOKED_AT_MAX.cast_signed(), DUE_MAX.cast_signed());
    let values: Values<'_> = &[&kinds, &last, &most, &full_kinds, &full_keys, &tx.now.get(), &looked_at, &due_most];
    let rows = tx.rows(DUE_KEYS, values).await?;
    let mut found: Vec<_> = rooms.into_iter().map(DueKeys::none).collect();
    for row in rows {
        let place = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or_default().wrapping_sub(1);
        found[place].add(row.try_get(1)?, row.try_get(2)?);
    }
    for (found, most) in found.iter_mut().zip(most) {
        found.has_more = found.cut_at.is_some() || found.keys.len() >= usize::try_from(most).unwrap_or_default();
    }
    Ok(found)
}

const DUE_KEYS: &str = "SELECT wanted.place, due.key, due.is_due
    FROM unnest($1::text[], $2::text[], $3::integer[]) WITH ORDINALITY AS wanted (kind, last, most, place)
         CROSS JOIN LATERAL outbox.due_keys(
             wanted.kind, wanted.last,
             (SELECT coalesce(jsonb_object_agg(busy.key, true), '{}')
              FROM unnest($4::text[], $5::text[]) AS busy (kind, key) WHERE busy.kind = wanted.kind),
             $6, wanted.most, $7, $8) WITH ORDINALITY AS due (key, is_due, nth)
    ORDER BY wanted.place, due.nth";

impl DueKeys {
    fn none(rooms: KeyRooms) -> Self {
        Self { keys: Vec::new(), cut_at: None, has_more: false, rooms }
    }

    fn add(&mut self, key: String, is_due: bool) {
        if is_due { self.keys.push(key) } else { self.cut_at = Some(key) }
    }
}

/// What may be claimed of each key of these types at `tx.now`. Reads nothing where no limit asks for it.
async fn rooms(tx: &WriteTx<'_>, terms: &[&ClaimTerms]) -> Result<Vec<KeyRooms>, PgError> {
    let with = |is_limited: fn(&ClaimTerms) -> bool| {
        let limited = terms.iter().filter(move |terms| is_limited(terms));
        limited.map(|terms| terms.item_type.as_str()).collect::<Vec<_>>()
    };
    let mut claimed: HashMap<String, HashMap<String, u32>> = HashMap::new();
    let counted = with(|terms| terms.per_key.concurrency.is_some());
    if !counted.is_empty() {
        for row in tx.rows("SELECT kind, key, claimed FROM outbox.claimed_of_keys($1)", &[&counted]).await? {
            let items = u32::try_from(unsigned(&row, 2)?).unwrap_or(u32::MAX);
            claimed.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?, items);
        }
    }
    let mut buckets: HashMap<String, HashMap<String, (f64, Millis)>> = HashMap::new();
    let rated = with(|terms| terms.per_key.rate.is_some());
    if !rated.is_empty() {
        let sql = "SELECT type, fairness_key, tokens, filled_at FROM outbox.key_rates WHERE type = ANY ($1)";
        for row in tx.rows(sql, &[&rated]).await? {
            buckets.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?, bucket(&row)?);
        }
    }
    let mut rooms = |terms: &&ClaimTerms| {
        let claimed = claimed.remove(&terms.item_type).unwrap_or_default();
        KeyRooms::new(terms.per_key, tx.now, claimed, buckets.remove(&terms.item_type).unwrap_or_default())
    };
    Ok(terms.iter().map(&mut rooms).collect())
}

/// What may be claimed of the suspects of a type whose fairness keys have limits.
pub(crate) struct LimitedSuspects {
    /// The key of the one that was lost most often, of those whose keys have room; empty if it has none.
    pub(crate) key: String,
    /// Its losses.
    pub(crate) most_losses: u32,
    /// What may be claimed of each key.
    pub(crate) rooms: KeyRooms,
}

/// The suspects that may be claimed of types whose fairness keys have limits, by the place of the type. The budgets of
/// these types know of no others afterwards.
pub(crate) async fn limited_suspects(
    tx: &WriteTx<'_>,
    request: &ClaimRequest,
    budgets: &mut [TypeBudget<'_>],
) -> Result<HashMap<usize, LimitedSuspects>, PgError> {
    let mut limited = HashMap::new();
    for (place, (terms, budget)) in request.types.iter().zip(budgets).enumerate() {
        if budget.most_losses == 0 || budget.free == 0 || !terms.per_key.is_any() {
            continue;
        }
        let found = suspects_with_room(tx, terms).await?;
        budget.most_losses = found.as_ref().map_or(0, |found| found.most_losses);
        limited.extend(found.map(|found| (place, found)));
    }
    Ok(limited)
}

/// The suspects of the type that are due, without those of full and of paused keys; `None` when there are none.
async fn suspects_with_room(tx: &WriteTx<'_>, terms: &ClaimTerms) -> Result<Option<LimitedSuspects>, PgError> {
    let Some(rooms) = rooms(tx, &[terms]).await?.pop() else { return Ok(None) };
    let sql = "SELECT coalesce(fairness_key, ''), losses FROM outbox.queue
               WHERE type = $1 AND NOT held AND losses > 0 AND available_at <= $2
                 AND (fairness_key IS NULL OR fairness_key <> ALL ($3) AND NOT EXISTS (
                     SELECT FROM outbox.key_pauses AS pause
                     WHERE pause.fairness_key = queue.fairness_key AND pause.type IN ('', $1)))
               ORDER BY type, losses DESC, available_at, id LIMIT 1";
    let found = tx.rows(sql, &[&terms.item_type, &tx.now.get(), &rooms.full()]).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let (key, losses): (String, i32) = (row.try_get(0)?, row.try_get(1)?);
    Ok(Some(LimitedSuspects { key, most_losses: losses.cast_unsigned(), rooms }))
}

fn bucket(row: &Row) -> Result<(f64, Millis), PgError> {
    Ok((row.try_get(2)?, Millis::new(row.try_get(3)?)))
}

/// Takes one token per claim of the type out of the buckets of the keys, and deletes those that are full by now.
pub(crate) async fn take_tokens(
    tx: &WriteTx<'_>,
    terms: &ClaimTerms,
    rooms: &KeyRooms,
    claims: &[Claim],
) -> Result<(), PgError> {
    let Some(rate) = terms.per_key.rate else { return Ok(()) };
    let mut taken: HashMap<&str, u32> = HashMap::new();
    let of_type = claims.iter().filter(|claim| claim.item.item_type == terms.item_type);
    for key in of_type.filter_map(|claim| claim.item.fairness_key.as_deref()) {
        *taken.entry(key).or_default() += 1;
    }
    let (keys, left): (Vec<_>, Vec<_>) =
        taken.into_iter().map(|(key, taken)| (key, rooms.tokens_left(key, taken))).unzip();
    if keys.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO outbox.key_rates (type, fairness_key, tokens, filled_at)
               SELECT $1, new.key, new.tokens, $4
               FROM unnest($2::text[], $3::double precision[]) AS new (key, tokens)
               ON CONFLICT (type, fairness_key) DO UPDATE
               SET tokens = excluded.tokens, filled_at = excluded.filled_at";
    tx.rows(sql, &[&terms.item_type, &keys, &left, &tx.now.get()]).await?;
    let sql = "DELETE FROM outbox.key_rates WHERE type = $1 AND filled_at < $2";
    tx.rows(sql, &[&terms.item_type, &full_since(rate, tx.now).get()]).await.map(drop)
}
