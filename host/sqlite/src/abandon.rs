//! Gives back what claims took whose answers were lost.
//!
//! It does not know how the worker notices that.

use outbox_item::ItemId;
use outbox_store::{ClaimToken, StoreError};

use crate::error::unavailable;
use crate::id_list::read_ids;
use crate::leases::token_list;
use crate::settle::give_back;
use crate::write_tx::WriteTx;

/// Ends the leases with these tokens. Their items are PENDING again at once, uncounted and without a trace, because no
/// attempt has begun. Returns the number of items.
pub(crate) fn abandon(tx: &mut WriteTx<'_>, tokens: &[ClaimToken]) -> Result<u32, StoreError> {
    let items = give_back_all(tx, tokens).map_err(unavailable("giving back what was claimed without an answer"))?;
    Ok(u32::try_from(items).unwrap_or(u32::MAX))
}

fn give_back_all(tx: &mut WriteTx<'_>, tokens: &[ClaimToken]) -> rusqlite::Result<usize> {
    existing(tx, tokens)?.into_iter().map(|(token, ids)| give_back(tx, token, &ids)).sum()
}

/// The leases with these tokens, with the ids in them: mostly none, which one statement finds out.
fn existing(tx: &WriteTx<'_>, tokens: &[ClaimToken]) -> rusqlite::Result<Vec<(ClaimToken, Vec<ItemId>)>> {
    let sql = "SELECT token, ids FROM outbox_leases WHERE token IN (SELECT value FROM json_each(?1))";
    let mut select = tx.connection.prepare_cached(sql)?;
    let rows = select.query_map([token_list(tokens)], |row| Ok((ClaimToken::new(row.get(0)?), read_ids(row, 1)?)))?;
    rows.collect()
}
