//! Claims of a type that fairness keys share: which keys have items that are due, and which items of each are taken.
//!
//! How many items each key gets, and who comes next, is decided by `outbox_store::engine::fair_keys`. How a taken item gets
//! into its lease is in `claim_items`. Keys are handled as bytes, because a row that no host wrote may hold no text.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rusqlite::{OptionalExtension, Row, params};

use outbox_item::Millis;
use outbox_store::engine::fair_keys::{
    DUE_MAX, KeyRooms, LOOKED_AT_MAX, NO_KEY, Shares, deal, full_since, keys_wanted,
};
use outbox_store::{Claim, ClaimBatch, ClaimTerms};

use crate::claim_items::{FIRST_IN_LINE, TakenItem};
use crate::claim_progress::{ClaimProgress, count, until_next, wait_at_most};
use crate::id_list::id_list;
use crate::rows::{bytes, cell, time};
use crate::write_tx::WriteTx;

/// How often what some keys leave is dealt out to the others. Each time, all keys that have less than their share drop
/// out.
const DEALS: usize = 8;

/// Whether the queue has items with a fairness key. It is the one look of a claim when there are none.
pub(crate) fn any(tx: &WriteTx<'_>) -> rusqlite::Result<bool> {
    tx.connection.prepare_cached(ANY)?.exists([])
}

const ANY: &str = "SELECT 1 FROM outbox_queue WHERE held = 0 AND losses = 0 AND fairness_key IS NOT NULL LIMIT 1";

/// Whether items of the type with a fairness key are due.
pub(crate) fn any_due(tx: &WriteTx<'_>, terms: &ClaimTerms) -> rusqlite::Result<bool> {
    tx.connection.prepare_cached(ANY_DUE)?.exists(params![terms.item_type, tx.now.get()])
}

const ANY_DUE: &str = "SELECT 1 FROM outbox_queue
    WHERE type = ?1 AND held = 0 AND losses = 0 AND fairness_key IS NOT NULL AND available_at <= ?2 LIMIT 1";

/// Takes up to `limit` items of the type out of the queue, from its keys in turn.
pub(crate) fn take(
    tx: &WriteTx<'_>,
    terms: &ClaimTerms,
    limit: u32,
    progress: &mut ClaimProgress,
) -> rusqlite::Result<Vec<TakenItem>> {
    let Selected { items, last, cut_at, until_next_token } = select(tx, terms, limit)?;
    let wait = match (&last, &cut_at) {
        (_, Some(cut_at)) if items.is_empty() => {
            Some(tx.last_served.found_nothing(&terms.item_type, &String::from_utf8_lossy(cut_at)))
        }
        (Some(last), _) => {
            tx.last_served.record(&terms.item_type, &String::from_utf8_lossy(last));
            (cut_at.is_some() && count(items.len()) < limit).then_some(Duration::ZERO)
        }
        (None, _) => None,
    };
    wait_at_most(&mut progress.batch, [wait, until_next_token]);
    let ids: Vec<_> = items.iter().map(|item| item.id).collect();
    let sql = "DELETE FROM outbox_queue WHERE id IN (SELECT value FROM json_each(?1))";
    tx.connection.prepare_cached(sql)?.execute([id_list(&ids)])?;
    Ok(items)
}

/// Up to `most` items of the type in the order of their claims, which stay in the queue. Suspects are not among them.
pub(crate) fn first(tx: &WriteTx<'_>, terms: &ClaimTerms, most: u32) -> rusqlite::Result<Vec<TakenItem>> {
    if any_due(tx, terms)? {
        Ok(select(tx, terms, most)?.items)
    } else {
        TakenItem::take(tx, FIRST_IN_LINE, terms, most)
    }
}

/// Items that a claim would take.
#[derive(Default)]
struct Selected {
    items: Vec<TakenItem>,
    /// The key after which the next claim begins; `None` where it begins as this one did.
    last: Option<Vec<u8>>,
    /// The last key that was looked at, where others were not.
    cut_at: Option<Vec<u8>>,
    /// How long until a key with due items that has used up its rate has a token again.
    until_next_token: Option<Duration>,
}

fn select(tx: &WriteTx<'_>, terms: &ClaimTerms, limit: u32) -> rusqlite::Result<Selected> {
    let mut look = KeyLook { tx, terms, paused: paused(tx, terms)?, rooms: rooms(tx, terms)? };
    let ring = look.due_keys(keys_wanted(limit))?;
    let rooms = look.rooms;
    let mut most: Vec<_> = ring.keys.iter().map(|key| rooms.room(&String::from_utf8_lossy(key))).collect();
    let (mut shares, mut found) = (Shares::default(), Vec::new());
    found.resize_with(ring.keys.len(), Vec::new);
    for _ in 0..DEALS {
        let dealt = deal(limit, &most);
        if dealt == shares {
            break;
        }
        shares = dealt;
        for (place, key) in ring.keys.iter().enumerate() {
            let share = shares.of_keys[place];
            if count(found[place].len()) < share {
                found[place] = first_of_key(tx, terms, key, share)?;
                most[place] = if count(found[place].len()) < share { count(found[place].len()) } else { most[place] };
            }
        }
    }
    let items: Vec<_> = found.into_iter().flatten().collect();
    let served = shares.last.map(|place| ring.keys[place].clone());
    // A key that was found and got nothing, because there was no room, is the next.
    let looked_at = ring.cut_at.clone().filter(|_| count(items.len()) < limit);
    let until_next_token = rooms.until_next_token();
    Ok(Selected { items, last: looked_at.or(served), cut_at: ring.cut_at, until_next_token })
}

fn first_of_key(tx: &WriteTx<'_>, terms: &ClaimTerms, key: &[u8], most: u32) -> rusqlite::Result<Vec<TakenItem>> {
    if key.is_empty() {
        return TakenItem::take(tx, FIRST_IN_LINE, terms, most);
    }
    let mut select = tx.connection.prepare_cached(FIRST_OF_KEY)?;
    select.query_map(params![terms.item_type, tx.now.get(), most, key], TakenItem::read)?.collect()
}

const FIRST_OF_KEY: &str = "SELECT id, available_at, again FROM outbox_queue
    WHERE type = ?1 AND held = 0 AND losses = 0 AND fairness_key IS NOT NULL AND fairness_key = CAST(?4 AS TEXT)
      AND available_at <= ?2
    ORDER BY available_at, id LIMIT ?3";

/// Keys with items that are due and may be claimed, in the order in which they are served. Items without a key are one of them.
#[derive(Default)]
struct FoundKeys {
    keys: Vec<Vec<u8>>,
    /// The last key that was looked at, where others were not.
    cut_at: Option<Vec<u8>>,
}

/// A look for the keys of a type that are served next.
struct KeyLook<'a, 'tx> {
    tx: &'a WriteTx<'tx>,
    terms: &'a ClaimTerms,
    paused: HashSet<Vec<u8>>,
    /// What may be claimed of each key. It knows the buckets of the keys that were due.
    rooms: KeyRooms,
}

impl KeyLook<'_, '_> {
    /// Up to `most` keys: those after the one that was served last, the items without a key, then those up to that one.
    fn due_keys(&mut self, most: u32) -> rusqlite::Result<FoundKeys> {
        let (tx, terms) = (self.tx, self.terms);
        let last = tx.last_served.last(&terms.item_type).into_bytes();
        let mut select = tx.connection.prepare_cached(NEXT_KEY)?;
        let (mut ring, mut place, mut is_second_lap) = (FoundKeys::default(), last.clone(), false);
        for _ in 0..LOOKED_AT_MAX {
            if count(ring.keys.len()) >= most {
                return Ok(ring);
            }
            let read = |row: &Row<'_>| Ok((bytes(row, 0)?.to_vec(), time(row, 1)?));
            let next: Option<(_, Millis)> = select.query_row(params![terms.item_type, place], read).optional()?;
            match next.filter(|(key, _)| !is_second_lap || *key <= last) {
                Some((key, due)) => {
                    if due <= tx.now && self.may_be_claimed(&key)? {
                        ring.keys.push(key.clone());
                    }
                    place = key;
                }
                None if is_second_lap => return Ok(ring),
                None => {
                    is_second_lap = true;
                    place = NO_KEY.into();
                    if !TakenItem::take(tx, FIRST_IN_LINE, terms, 1)?.is_empty() {
                        ring.keys.push(NO_KEY.into());
                    }
                }
            }
        }
        ring.cut_at = Some(place);
        self.add_longest_due(&mut ring)?;
        Ok(ring)
    }

    /// Adds the keys of the items that are due for the longest time, and items without a key, where they are not there
    /// yet.
    fn add_longest_due(&mut self, ring: &mut FoundKeys) -> rusqlite::Result<()> {
        let (tx, terms) = (self.tx, self.terms);
        let mut known: HashSet<_> = ring.keys.iter().cloned().collect();
        let mut select = tx.connection.prepare_cached(LONGEST_DUE)?;
        let values = params![terms.item_type, tx.now.get(), DUE_MAX];
        let due = select.query_map(values, |row| Ok(bytes(row, 0)?.to_vec()))?.collect::<rusqlite::Result<Vec<_>>>()?;
        if !TakenItem::take(tx, FIRST_IN_LINE, terms, 1)?.is_empty() && known.insert(NO_KEY.into()) {
            ring.keys.push(NO_KEY.into());
        }
        for key in due {
            if known.insert(key.clone()) && self.may_be_claimed(&key)? {
                ring.keys.push(key);
            }
        }
        Ok(())
    }

    /// Whether the key of a due item is neither paused nor at one of its limits.
    fn may_be_claimed(&mut self, key: &[u8]) -> rusqlite::Result<bool> {
        if self.paused.contains(key) {
            return Ok(false);
        }
        let key = String::from_utf8_lossy(key);
        look_up(self.tx, self.terms, &mut self.rooms, &key)?;
        Ok(self.rooms.room(&key) > 0)
    }
}

const LONGEST_DUE: &str = "SELECT fairness_key FROM outbox_queue
    WHERE type = ?1 AND held = 0 AND losses = 0 AND fairness_key IS NOT NULL AND available_at <= ?2
    ORDER BY available_at, id LIMIT ?3";

/// The next key of the type, and when its first item is due.
const NEXT_KEY: &str = "SELECT fairness_key, available_at FROM outbox_queue
    WHERE type = ?1 AND held = 0 AND losses = 0 AND fairness_key IS NOT NULL AND fairness_key > CAST(?2 AS TEXT)
    ORDER BY fairness_key, available_at LIMIT 1";

fn paused(tx: &WriteTx<'_>, terms: &ClaimTerms) -> rusqlite::Result<HashSet<Vec<u8>>> {
    let mut select =
        tx.connection.prepare_cached("SELECT fairness_key FROM outbox_key_pauses WHERE type IN ('', ?1)")?;
    select.query_map([&terms.item_type], |row| Ok(bytes(row, 0)?.to_vec()))?.collect()
}

/// What may be claimed of each key at `tx.now`, as far as its claims say. Reads nothing where no limit asks for it.
fn rooms(tx: &WriteTx<'_>, terms: &ClaimTerms) -> rusqlite::Result<KeyRooms> {
    let limits = terms.per_key;
    let claimed = if limits.concurrency.is_some() { claimed(tx, terms)? } else { HashMap::new() };
    Ok(KeyRooms::new(limits, tx.now, claimed))
}

/// What may be claimed of each key of the suspects that are due, as far as its claims and its rate say.
pub(crate) fn rooms_of_suspects(tx: &WriteTx<'_>, terms: &ClaimTerms) -> rusqlite::Result<KeyRooms> {
    let mut rooms = rooms(tx, terms)?;
    if terms.per_key.rate.is_some() {
        let mut select = tx.connection.prepare_cached(BUCKETS_OF_SUSPECTS)?;
        let mut rows = select.query(params![terms.item_type, tx.now.get()])?;
        while let Some(row) = rows.next()? {
            rooms.look_up(cell(row, 0)?, (cell(row, 1)?, time(row, 2)?));
        }
    }
    Ok(rooms)
}

const BUCKETS_OF_SUSPECTS: &str = "SELECT fairness_key, tokens, filled_at FROM outbox_key_rates
    WHERE type = ?1 AND fairness_key IN (
        SELECT fairness_key FROM outbox_queue WHERE type = ?1 AND held = 0 AND losses > 0 AND available_at <= ?2)";

fn claimed(tx: &WriteTx<'_>, terms: &ClaimTerms) -> rusqlite::Result<HashMap<String, u32>> {
    let mut select = tx.connection.prepare_cached(CLAIMED)?;
    select.query_map([&terms.item_type], |row| Ok((cell(row, 0)?, cell(row, 1)?)))?.collect()
}

/// SQL: the number of claimed items of each key.
const CLAIMED: &str = "SELECT item.fairness_key, count(*)
    FROM outbox_leases AS lease CROSS JOIN json_each(lease.ids) AS leased
    CROSS JOIN outbox_items AS item INDEXED BY outbox_items_fair ON item.id = leased.value
    WHERE lease.type = ?1 AND item.fairness_key IS NOT NULL GROUP BY item.fairness_key";

/// Looks the bucket of the key up, where the type has a rate for each key.
fn look_up(tx: &WriteTx<'_>, terms: &ClaimTerms, rooms: &mut KeyRooms, key: &str) -> rusqlite::Result<()> {
    if terms.per_key.rate.is_some() {
        let mut select = tx.connection.prepare_cached(BUCKET)?;
        let read = |row: &Row<'_>| Ok((cell(row, 0)?, time(row, 1)?));
        let bucket = select.query_row(params![terms.item_type, key], read).optional()?;
        if let Some(bucket) = bucket {
            rooms.look_up(key.to_owned(), bucket);
        }
    }
    Ok(())
}

const BUCKET: &str = "SELECT tokens, filled_at FROM outbox_key_rates WHERE type = ?1 AND fairness_key = ?2";

/// Takes one token per claim out of the buckets of the keys, and deletes those that are full by now. Returns how long
/// until a key that has used up its rate, and of which more is due, has a token again.
pub(crate) fn take_tokens(
    tx: &WriteTx<'_>,
    terms: &ClaimTerms,
    claims: &[Claim],
) -> rusqlite::Result<Option<Duration>> {
    let Some(rate) = terms.per_key.rate else { return Ok(None) };
    let mut taken: HashMap<&str, u32> = HashMap::new();
    for key in claims.iter().filter_map(|claim| claim.item.fairness_key.as_deref()) {
        *taken.entry(key).or_default() += 1;
    }
    if taken.is_empty() {
        return Ok(None);
    }
    let (mut rooms, mut wait) = (KeyRooms::new(terms.per_key, tx.now, HashMap::new()), None);
    for (key, claimed) in taken {
        look_up(tx, terms, &mut rooms, key)?;
        let left = rooms.tokens_left(key, claimed);
        tx.connection.prepare_cached(SET_BUCKET)?.execute(params![terms.item_type, key, left, tx.now.get()])?;
        if let Some(until) = rooms.until_token_of(key, claimed)
            && !first_of_key(tx, terms, key.as_bytes(), 1)?.is_empty()
        {
            wait = wait.into_iter().chain([until]).min();
        }
    }
    let full_since = full_since(rate, tx.now).get();
    tx.connection.prepare_cached(DELETE_FULL)?.execute(params![terms.item_type, full_since])?;
    Ok(wait)
}

const SET_BUCKET: &str = "INSERT INTO outbox_key_rates (type, fairness_key, tokens, filled_at) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT DO UPDATE SET tokens = excluded.tokens, filled_at = excluded.filled_at";

const DELETE_FULL: &str = "DELETE FROM outbox_key_rates WHERE type = ?1 AND filled_at < ?2";

/// Lowers `next_available_in` to the time until an item with a fairness key becomes available.
pub(crate) fn record_next_available(
    tx: &WriteTx<'_>,
    terms: &ClaimTerms,
    claimed: &mut ClaimBatch,
) -> rusqlite::Result<()> {
    wait_at_most(claimed, [until_next(tx, NEXT_AVAILABLE, terms)?]);
    Ok(())
}

const NEXT_AVAILABLE: &str = "SELECT min(available_at) FROM outbox_queue
    WHERE type = ?1 AND held = 0 AND losses = 0 AND fairness_key IS NOT NULL AND available_at > ?2";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::plan;

    #[test]
    fn keys_are_found_in_their_indexes_without_a_sort() {
        let plans = [
            (plan(ANY, []), "INDEX outbox_queue_"),
            (plan(ANY_DUE, params!["t", 1]), "outbox_queue_fair_due (type=? AND available_at<?)"),
            (plan(NEXT_KEY, params!["t", b"k"]), "outbox_queue_fair (type=? AND fairness_key>?)"),
            (
                plan(FIRST_OF_KEY, params!["t", 1, 9, b"k"]),
                "outbox_queue_fair (type=? AND fairness_key=? AND available_at<?)",
            ),
            (plan(LONGEST_DUE, params!["t", 1, 9]), "outbox_queue_fair_due (type=? AND available_at<?)"),
            (plan(NEXT_AVAILABLE, params!["t", 1]), "outbox_queue_fair_due (type=? AND available_at>?)"),
        ];
        for (steps, index) in plans {
            assert!(steps.iter().any(|line| line.contains(index)), "{index}: {steps:?}");
            assert!(!steps.iter().any(|line| line.contains("TEMP B-TREE")), "{steps:?}");
        }
    }

    #[test]
    fn the_bucket_of_a_key_is_found_without_those_of_other_keys() {
        for (steps, index) in [
            (plan(BUCKET, params!["t", "k"]), "PRIMARY KEY (type=? AND fairness_key=?)"),
            (plan(BUCKETS_OF_SUSPECTS, params!["t", 1]), "PRIMARY KEY (type=? AND fairness_key=?)"),
            (plan(DELETE_FULL, params!["t", 1]), "outbox_key_rates_filled (type=? AND filled_at<?)"),
        ] {
            assert!(steps.iter().any(|line| line.contains(index)), "{index}: {steps:?}");
        }
    }

    #[test]
    fn the_claimed_items_of_a_key_are_counted_without_reading_payloads() {
        let steps = plan(CLAIMED, params!["t"]);
        assert!(steps.iter().any(|line| line.contains("COVERING INDEX outbox_items_fair (id=?")), "{steps:?}");
    }
}
