//! Streaks: items that follow the front of their ordering key at once, and share its lease.
//!
//! A streak consists of items of one key, one type and one fairness key that are due and are claimed for the first time:
//! what has failed or was given back before is claimed alone. Where each fairness key has limits, its items have none. It ends before the first item of the key that does not fit, and before
//! one that blocks the key dead. How the items of a streak are settled is in `ordering`.

use std::collections::{BTreeMap, HashSet};

use rusqlite::{Row, params};

use outbox_item::{Item, ItemId};
use outbox_store::{Claim, ClaimRequest, ClaimTerms};

use crate::claim_items::{TakenItem, lease_items};
use crate::id_list::id_list;
use crate::ordering::set_line;
use crate::rows::time;
use crate::settle::give_back;
use crate::write_tx::WriteTx;

/// A claimed item by which a streak can begin.
pub(crate) struct Front<'a> {
    id: ItemId,
    fairness_key: Option<&'a str>,
}

/// The claims by whose items a streak can begin, by their ordering keys.
pub(crate) fn fronts<'a>(claims: &'a [Claim], terms: &ClaimTerms) -> BTreeMap<String, Front<'a>> {
    let of_type = claims.iter().map(|claim| &claim.item).filter(|item| item.item_type == terms.item_type);
    let first = of_type.filter(|item| terms.streak > 1 && item.deliveries == 1);
    let first = first.filter(|item| item.fairness_key.is_none() || !terms.per_key.is_any());
    let front = |item: &'a Item| Front { id: item.id, fairness_key: item.fairness_key.as_deref() };
    first.filter_map(|item| Some((item.ordering_key.clone()?, front(item)))).collect()
}

/// Claims what follows the fronts, up to `most` items in all. Returns the claims of each key in the order of its line.
pub(crate) fn claim_behind(
    tx: &mut WriteTx<'_>,
    request: &ClaimRequest,
    terms: &ClaimTerms,
    fronts: &BTreeMap<String, Front<'_>>,
    most: u32,
) -> rusqlite::Result<Vec<Claim>> {
    let mut streaks = behind(tx, terms, fronts)?;
    share_out(&mut streaks, most as usize);
    let ids: Vec<_> = streaks.values().flatten().copied().collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let taken = take(tx, &ids)?;
    let mut claims = lease_items(tx, request, terms, terms.token, &taken)?;
    let mut claimed: HashSet<_> = claims.iter().map(|claim| claim.item.id).collect();
    for (key, streak) in &streaks {
        // An item that could not be read is dead now, and may block those behind it.
        let (follows, refused) = streak.split_at(streak.iter().take_while(|id| claimed.contains(id)).count());
        set_line(tx, key, &[&[fronts[key].id], follows].concat())?;
        let rest: Vec<_> = refused.iter().filter(|id| claimed.remove(id)).copied().collect();
        give_back(tx, terms.token, &rest)?;
    }
    claims.retain(|claim| claimed.contains(&claim.item.id));
    Ok(claims)
}

/// The items that can follow each front, in the order of their line.
fn behind(
    tx: &WriteTx<'_>,
    terms: &ClaimTerms,
    fronts: &BTreeMap<String, Front<'_>>,
) -> rusqlite::Result<BTreeMap<String, Vec<ItemId>>> {
    let keys = fronts.iter().map(|(key, front)| (key.clone(), front.fairness_key.into()));
    let keys = serde_json::Value::Object(keys.collect()).to_string();
    let mut select = tx.connection.prepare_cached(BEHIND)?;
    let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, ItemId::new(row.get(1)?), row.get::<_, bool>(2)?));
    let rows = select.query_map(params![keys, terms.item_type, tx.now.get(), terms.streak - 1], read)?;
    let mut lines: BTreeMap<String, Vec<(ItemId, bool)>> = BTreeMap::new();
    for row in rows {
        let (key, id, fits) = row?;
        lines.entry(key).or_default().push((id, fits));
    }
    let fitting =
        |line: Vec<(ItemId, bool)>| line.into_iter().take_while(|(_, fits)| *fits).map(|(id, _)| id).collect();
    Ok(lines.into_iter().map(|(key, line)| (key, fitting(line))).collect())
}

/// SQL: the items behind the fronts, whose fairness keys are given by their ordering keys, and whether each can follow the one before it.
const BEHIND: &str = "SELECT line.ordering_key, line.id,
       line.type = ?2 AND line.available_at <= ?3 AND line.again = 0
       AND line.fairness_key IS front.value
       AND NOT EXISTS (SELECT 1 FROM outbox_dead AS dead
                       WHERE dead.ordering_key = front.key AND dead.blocks_key = 1 AND dead.id < line.id)
    FROM json_each(?1) AS front CROSS JOIN outbox_queue AS line
    WHERE line.id IN (SELECT id FROM outbox_queue
                      WHERE ordering_key = front.key AND ordering_key IS NOT NULL ORDER BY id LIMIT ?4)
    ORDER BY line.ordering_key, line.id";

/// Leaves each key an equal share of `most`.
fn share_out(streaks: &mut BTreeMap<String, Vec<ItemId>>, most: usize) {
    let (mut left, mut keys) = (most, streaks.len());
    for streak in streaks.values_mut() {
        streak.truncate(left.div_ceil(keys));
        left -= streak.len();
        keys -= 1;
    }
}

/// Takes the items out of the queue, in the order of their ids.
fn take(tx: &WriteTx<'_>, ids: &[ItemId]) -> rusqlite::Result<Vec<TakenItem>> {
    let sql =
        "DELETE FROM outbox_queue WHERE id IN (SELECT value FROM json_each(?1)) RETURNING id, available_at, again";
    let mut delete = tx.connection.prepare_cached(sql)?;
    let read = |row: &Row<'_>| {
        Ok(TakenItem { id: ItemId::new(row.get(0)?), available_at: time(row, 1)?, has_past: row.get(2)? })
    };
    let mut taken: Vec<_> = delete.query_map([id_list(ids)], read)?.collect::<rusqlite::Result<_>>()?;
    taken.sort_by_key(|item| item.id);
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::plan;

    #[test]
    fn what_follows_a_front_is_read_in_the_order_of_its_line() {
        let steps = plan(BEHIND, params!["{\"k\":null}", "t", 1, 15]);
        assert!(steps.iter().any(|line| line.contains("outbox_queue_line (ordering_key=?)")), "{steps:?}");
        assert!(steps.iter().any(|line| line.contains("SEARCH line USING INTEGER PRIMARY KEY")), "{steps:?}");
    }

    #[test]
    fn each_key_gets_an_equal_share_of_what_is_left() {
        let line = |length: i64| (0..length).map(ItemId::new).collect::<Vec<_>>();
        let mut streaks = BTreeMap::from([("a".to_owned(), line(1)), ("b".into(), line(9)), ("c".into(), line(9))]);
        share_out(&mut streaks, 8);
        assert_eq!(streaks.values().map(Vec::len).collect::<Vec<_>>(), [1, 4, 3]);
        share_out(&mut streaks, 0);
        assert_eq!(streaks.values().flatten().count(), 0);
    }
}
