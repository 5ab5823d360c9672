//! What may be claimed of each type: pauses, concurrency and rates, which hold across all processes.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use outbox_item::Millis;
use outbox_store::engine::token_bucket::{self, available_tokens};
use outbox_store::{ClaimRequest, ClaimTerms};

use crate::rows::{cell, time};
use crate::write_tx::WriteTx;

/// The terms of the types that no operator has paused.
pub(crate) fn unpaused<'a>(tx: &WriteTx<'_>, request: &'a ClaimRequest) -> rusqlite::Result<Vec<&'a ClaimTerms>> {
    let mut select = tx.connection.prepare_cached("SELECT type FROM outbox_pauses")?;
    let paused: Vec<String> = select.query_map([], |row| cell(row, 0))?.collect::<rusqlite::Result<_>>()?;
    Ok(request.types.iter().filter(|terms| !paused.contains(&terms.item_type)).collect())
}

/// How many more items of the type its concurrency and its rate allow at `tx.now`.
pub(crate) fn free(tx: &WriteTx<'_>, terms: &ClaimTerms) -> rusqlite::Result<u32> {
    Ok(free_concurrency(tx, terms)?.min(whole_tokens(tx, terms)?))
}

fn free_concurrency(tx: &WriteTx<'_>, terms: &ClaimTerms) -> rusqlite::Result<u32> {
    let Some(concurrency) = terms.concurrency else { return Ok(u32::MAX) };
    let mut count = tx.connection.prepare_cached("SELECT total(count) FROM outbox_leases WHERE type = ?1")?;
    let claimed: u32 = count.query_row([&terms.item_type], |row| cell(row, 0))?;
    Ok(concurrency.saturating_sub(claimed))
}

fn whole_tokens(tx: &WriteTx<'_>, terms: &ClaimTerms) -> rusqlite::Result<u32> {
    let Some(rate) = terms.rate else { return Ok(u32::MAX) };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; never negative")]
    let whole = tokens(tx, terms, rate)? as u32;
    Ok(whole)
}

/// The level of the type's token bucket at `tx.now`.
fn tokens(tx: &WriteTx<'_>, terms: &ClaimTerms, rate: f64) -> rusqlite::Result<f64> {
    let mut select = tx.connection.prepare_cached("SELECT tokens, filled_at FROM outbox_rates WHERE type = ?1")?;
    let stored: Option<(f64, Millis)> =
        select.query_row([&terms.item_type], |row| Ok((cell(row, 0)?, time(row, 1)?))).optional()?;
    Ok(available_tokens(rate, stored, tx.now))
}

/// Takes one token per claimed item out of the type's bucket.
pub(crate) fn take_tokens(tx: &WriteTx<'_>, terms: &ClaimTerms, taken: u32) -> rusqlite::Result<()> {
    let Some(rate) = terms.rate else { return Ok(()) };
    if taken == 0 {
        return Ok(());
    }
    let left = tokens(tx, terms, rate)? - f64::from(taken);
    let mut write = tx.connection.prepare_cached(
        "INSERT INTO outbox_rates (type, tokens, filled_at, per_second) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE
         SET tokens = excluded.tokens, filled_at = excluded.filled_at, per_second = excluded.per_second",
    )?;
    write.execute(params![terms.item_type, left, tx.now.get(), rate])?;
    Ok(())
}

/// How long until a type that has used up its rate has a token again; `None` while it has one or no rate.
pub(crate) fn until_next_token(tx: &WriteTx<'_>, terms: &ClaimTerms) -> rusqlite::Result<Option<Duration>> {
    let Some(rate) = terms.rate else { return Ok(None) };
    let tokens = tokens(tx, terms, rate)?;
    Ok((tokens < 1.0).then(|| token_bucket::until_next_token(rate, tokens)))
}
