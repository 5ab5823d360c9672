//! Which fairness keys of a type have items that are due, and how many of each may be claimed.
//!
//! How a claim is dealt out among them, and who comes next, is decided by `outbox_store::engine::fair_keys`; which items of a
//! key are taken, by the function `outbox.claim` of the schema.

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::Row;

use outbox_item::Millis;
use outbox_store::engine::fair_keys::{DUE_MAX, KeyRooms, LOOKED_AT_MAX, LastServed, full_since, keys_wanted};
use outbox_store::{Claim, ClaimRequest, ClaimTerms};

use crate::claim_limits::TypeBudget;
use crate::error::PgError;
use crate::leased_rows::LeasedRow;
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
    let rates: Vec<_> = terms.iter().map(|terms| terms.per_key.rate).collect();
    let last: Vec<_> = kinds.iter().map(|kind| last_served.last(kind)).collect();
    let most: Vec<_> = wanted.iter().map(|(_, limit)| keys_wanted(*limit).cast_signed()).collect();
    let full = kinds.iter().zip(&rooms).flat_map(|(kind, rooms)| rooms.full().into_iter().map(move |key| (*kind, key)));
    let (full_kinds, full_keys): (Vec<_>, Vec<_>) = full.unzip();
    let (looked_at, due_most) = (LOOKED_AT_MAX.cast_signed(), DUE_MAX.cast_signed());
    let what: Values<'_> = &[&kinds, &last, &most, &rates, &full_kinds, &full_keys];
    let rows = tx.rows(DUE_KEYS, &[what, &[&tx.now.get(), &looked_at, &due_most]].concat()).await?;
    let mut found: Vec<_> = rooms.into_iter().map(DueKeys::none).collect();
    for row in rows {
        let place = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or_default().wrapping_sub(1);
        found[place].add(&row)?;
    }
    for (found, most) in found.iter_mut().zip(most) {
        found.has_more = found.cut_at.is_some() || found.keys.len() >= usize::try_from(most).unwrap_or_default();
    }
    Ok(found)
}

/// SQL: the keys, each with the tokens of its bucket and when it had them, if it has one.
const DUE_KEYS: &str = "SELECT wanted.place, due.key, due.state, bucket.tokens, bucket.filled_at
    FROM unnest($1::text[], $2::text[], $3::integer[], $4::double precision[])
             WITH ORDINALITY AS wanted (kind, last, most, rate, place)
         CROSS JOIN LATERAL outbox.due_keys(
             wanted.kind, wanted.last,
             (SELECT coalesce(jsonb_object_agg(busy.key, true), '{}')
              FROM unnest($5::text[], $6::text[]) AS busy (kind, key) WHERE busy.kind = wanted.kind),
             wanted.rate, $7, wanted.most, $8, $9) WITH ORDINALITY AS due (key, state, nth)
         LEFT JOIN outbox.key_rates AS bucket
             ON wanted.rate IS NOT NULL AND bucket.type = wanted.kind AND bucket.fairness_key = due.key
    ORDER BY wanted.place, due.nth";

impl DueKeys {
    fn none(rooms: KeyRooms) -> Self {
        Self { keys: Vec::new(), cut_at: None, has_more: false, rooms }
    }

    fn add(&mut self, row: &Row) -> Result<(), PgError> {
        let (key, state): (String, &str) = (row.try_get(1)?, row.try_get(2)?);
        let bucket = row.try_get::<_, Option<f64>>(3)?.zip(row.try_get::<_, Option<i64>>(4)?);
        if state == "cut" {
            self.cut_at = Some(key);
            return Ok(());
        }
        if let Some((tokens, filled_at)) = bucket {
            self.rooms.look_up(key.clone(), (tokens, Millis::new(filled_at)));
        }
        if state == "due" {
            self.keys.push(key);
        }
        Ok(())
    }
}

/// What may be claimed of each key of these types at `tx.now`, as far as its claims say. Reads nothing where no limit
/// asks for it.
async fn rooms(tx: &WriteTx<'_>, terms: &[&ClaimTerms]) -> Result<Vec<KeyRooms>, PgError> {
    let counted = terms.iter().filter(|terms| terms.per_key.concurrency.is_some());
    let counted: Vec<_> = counted.map(|terms| terms.item_type.as_str()).collect();
    let mut claimed: HashMap<String, HashMap<String, u32>> = HashMap::new();
    if !counted.is_empty() {
        for row in tx.rows("SELECT kind, key, claimed FROM outbox.claimed_of_keys($1)", &[&counted]).await? {
            let items = u32::try_from(unsigned(&row, 2)?).unwrap_or(u32::MAX);
            claimed.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?, items);
        }
    }
    let mut rooms = |terms: &&ClaimTerms| {
        KeyRooms::new(terms.per_key, tx.now, claimed.remove(&terms.item_type).unwrap_or_default())
    };
    Ok(terms.iter().map(&mut rooms).collect())
}

/// What may be claimed of the suspects of a type whose fairness keys have limits.
pub(crate) struct LimitedSuspects {
    /// The fairness key of the one that was lost most often, of those whose keys have room, the empty text for none, and
    /// its losses; `None` when none has room.
    pub(crate) first: Option<(String, u32)>,
    /// What may be claimed of each key.
    pub(crate) rooms: KeyRooms,
}

impl LimitedSuspects {
    /// Takes the tokens of claimed suspects at once: what is claimed of their keys afterwards is beside them. Returns how
    /// long until a key that has used up its rate has a token again.
    pub(crate) async fn take_tokens(
        &self,
        tx: &WriteTx<'_>,
        terms: &ClaimTerms,
        claimed: &[LeasedRow<'_>],
    ) -> Result<Option<Duration>, PgError> {
        take_tokens(tx, terms, &self.rooms, claimed.iter().map(|row| &row.claim)).await?;
        let keys = claimed.iter().filter_map(|row| row.claim.item.fairness_key.as_deref());
        Ok(keys.filter_map(|key| self.rooms.until_token_of(key, 1)).min())
    }
}

/// The suspects of types whose fairness keys have limits, by the place of the type. The budgets of these types know of no
/// others afterwards.
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
        budget.most_losses = found.first.as_ref().map_or(0, |(_, losses)| *losses);
        limited.insert(place, found);
    }
    Ok(limited)
}

/// The suspects of the type that are due, of which the first is of no full and of no paused key.
async fn suspects_with_room(tx: &WriteTx<'_>, terms: &ClaimTerms) -> Result<LimitedSuspects, PgError> {
    let rooms = rooms(tx, &[terms]).await?.pop();
    let mut rooms = rooms.unwrap_or_else(|| KeyRooms::new(terms.per_key, tx.now, HashMap::new()));
    if terms.per_key.rate.is_some() {
        for row in tx.rows(BUCKETS_OF_SUSPECTS, &[&terms.item_type, &tx.now.get()]).await? {
            rooms.look_up(row.try_get(0)?, (row.try_get(1)?, Millis::new(row.try_get(2)?)));
        }
    }
    let sql = "SELECT coalesce(fairness_key, ''), losses FROM outbox.queue
               WHERE type = $1 AND NOT held AND losses > 0 AND available_at <= $2
                 AND (fairness_key IS NULL OR fairness_key <> ALL ($3) AND NOT EXISTS (
                     SELECT FROM outbox.key_pauses AS pause
                     WHERE pause.fairness_key = queue.fairness_key AND pause.type IN ('', $1)))
               ORDER BY type, losses DESC, available_at, id LIMIT 1";
    let found = tx.rows(sql, &[&terms.item_type, &tx.now.get(), &rooms.full()]).await?;
    let first = match found.first() {
        Some(row) => Some((row.try_get(0)?, row.try_get::<_, i32>(1)?.cast_unsigned())),
        None => None,
    };
    Ok(LimitedSuspects { first, rooms })
}

const BUCKETS_OF_SUSPECTS: &str = "SELECT fairness_key, tokens, filled_at FROM outbox.key_rates
    WHERE type = $1 AND fairness_key IN (
        SELECT fairness_key FROM outbox.queue WHERE type = $1 AND NOT held AND losses > 0 AND available_at <= $2)";

/// Takes one token per claim of the type out of the buckets of the keys, and deletes those that are full by now. Returns
/// how long until a key that has used up its rate, and of which more is due, has a token again.
pub(crate) async fn take_tokens(
    tx: &WriteTx<'_>,
    terms: &ClaimTerms,
    rooms: &KeyRooms,
    claims: impl Iterator<Item = &Claim>,
) -> Result<Option<Duration>, PgError> {
    let Some(rate) = terms.per_key.rate else { return Ok(None) };
    let mut taken: HashMap<&str, u32> = HashMap::new();
    let of_type = claims.filter(|claim| claim.item.item_type == terms.item_type);
    for key in of_type.filter_map(|claim| claim.item.fairness_key.as_deref()) {
        *taken.entry(key).or_default() += 1;
    }
    if taken.is_empty() {
        return Ok(None);
    }
    let (keys, left): (Vec<_>, Vec<_>) =
        taken.iter().map(|(key, taken)| (*key, rooms.tokens_left(key, *taken))).unzip();
    tx.rows(SET_BUCKETS, &[&terms.item_type, &keys, &left, &tx.now.get()]).await?;
    let sql = "DELETE FROM outbox.key_rates WHERE type = $1 AND filled_at < $2";
    tx.rows(sql, &[&terms.item_type, &full_since(rate, tx.now).get()]).await?;
    let spent: HashMap<_, _> =
        taken.iter().filter_map(|(key, taken)| Some((*key, rooms.until_token_of(key, *taken)?))).collect();
    until_token_of_due(tx, terms, &spent).await
}

const SET_BUCKETS: &str = "INSERT INTO outbox.key_rates (type, fairness_key, tokens, filled_at)
    SELECT $1, new.key, new.tokens, $4 FROM unnest($2::text[], $3::double precision[]) AS new (key, tokens)
    ON CONFLICT (type, fairness_key) DO UPDATE SET tokens = excluded.tokens, filled_at = excluded.filled_at";

/// The shortest wait of these keys of which more is due.
async fn until_token_of_due(
    tx: &WriteTx<'_>,
    terms: &ClaimTerms,
    waits: &HashMap<&str, Duration>,
) -> Result<Option<Duration>, PgError> {
    if waits.is_empty() {
        return Ok(None);
    }
    let keys: Vec<_> = waits.keys().copied().collect();
    let mut shortest = None;
    let sql = "SELECT outbox.still_due($1, $2, $3)";
    for row in tx.rows(sql, &[&terms.item_type, &keys, &tx.now.get()]).await? {
        shortest = shortest.into_iter().chain(waits.get(row.try_get::<_, &str>(0)?).copied()).min();
    }
    Ok(shortest)
}
