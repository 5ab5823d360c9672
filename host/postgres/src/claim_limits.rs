//! What may be claimed of each type: pauses, concurrency and rates, which hold across all processes.

use std::time::Duration;

use outbox_item::Millis;
use outbox_store::engine::token_bucket::available_tokens;
use outbox_store::{Claim, ClaimRequest, ClaimTerms};

use crate::error::PgError;
use crate::rows::optional_time;
use crate::tx::{Query as _, WriteTx};

/// What may be claimed of one type.
pub(crate) struct TypeBudget<'a> {
    terms: &'a ClaimTerms,
    /// Items that may be claimed now.
    pub(crate) free: u32,
    /// When the next item becomes available.
    next_at: Option<Millis>,
    /// The level of the token bucket, of a type with a rate.
    tokens: Option<f64>,
}

/// Locks the types that have limits, so that only one transaction at a time counts their claims and adds to them.
pub(crate) async fn lock(tx: &WriteTx<'_>, types: &[ClaimTerms]) -> Result<(), PgError> {
    let limited: Vec<_> = types
        .iter()
        .filter(|terms| terms.concurrency.is_some() || terms.rate.is_some())
        .map(|terms| terms.item_type.as_str())
        .collect();
    if limited.is_empty() {
        return Ok(());
    }
    let sql = "SELECT pg_advisory_xact_lock(7206006, hash)
               FROM (SELECT DISTINCT hashtext(kind) AS hash FROM unnest($1::text[]) AS kind ORDER BY hash) AS types";
    tx.rows(sql, &[&limited]).await.map(drop)
}

/// The budget of each type of the request; `claims` are the claims that this call has made already.
pub(crate) async fn read_budgets<'a>(
    tx: &WriteTx<'_>,
    request: &'a ClaimRequest,
    claims: &[Claim],
) -> Result<Vec<TypeBudget<'a>>, PgError> {
    let types: Vec<_> = request.types.iter().map(|terms| terms.item_type.as_str()).collect();
    let most: Vec<_> = request.types.iter().map(|terms| i64::from(remaining(terms, request, claims))).collect();
    let capped: Vec<_> = request.types.iter().map(|terms| terms.concurrency.is_some()).collect();
    let sql = "SELECT (SELECT count(*) FROM (SELECT 1 FROM outbox.items WHERE type = kind AND status = 'PENDING'
                                             AND NOT held AND available_at <= $4 LIMIT most) AS ready),
                      (SELECT min(available_at) FROM outbox.items WHERE type = kind AND status = 'PENDING'
                       AND NOT held AND available_at > $4),
                      CASE WHEN capped THEN
                          (SELECT count(*) FROM outbox.items WHERE type = kind AND status = 'CLAIMED') END,
                      EXISTS (SELECT 1 FROM outbox.pauses AS pause WHERE pause.type = kind),
                      rate.tokens, rate.filled_at
               FROM unnest($1::text[], $2::bigint[], $3::boolean[]) WITH ORDINALITY
                        AS wanted (kind, most, capped, position)
                    LEFT JOIN outbox.rates AS rate ON rate.type = kind
               ORDER BY position";
    let rows = tx.rows(sql, &[&types, &most, &capped, &tx.now.get()]).await?;
    rows.iter().zip(&request.types).map(|(row, terms)| budget(row, terms, tx.now)).collect()
}

/// How many more items of the type this call may claim.
fn remaining(terms: &ClaimTerms, request: &ClaimRequest, claims: &[Claim]) -> u32 {
    let of_type = claims.iter().filter(|claim| claim.item.item_type == terms.item_type).count();
    let of_type = terms.limit.saturating_sub(u32::try_from(of_type).unwrap_or(u32::MAX));
    of_type.min(request.limit.saturating_sub(u32::try_from(claims.len()).unwrap_or(u32::MAX)))
}

fn budget<'a>(row: &tokio_postgres::Row, terms: &'a ClaimTerms, now: Millis) -> Result<TypeBudget<'a>, PgError> {
    let whole = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
    let (ready, next_at) = (whole(row.try_get(0)?), optional_time(row, 1)?);
    let (claimed, is_paused): (Option<i64>, bool) = (row.try_get(2)?, row.try_get(3)?);
    let left = row.try_get::<_, Option<f64>>(4)?.zip(optional_time(row, 5)?);
    if is_paused {
        return Ok(TypeBudget { terms, free: 0, next_at: None, tokens: None });
    }
    let tokens = terms.rate.map(|rate| available_tokens(rate, left, now));
    let slots = terms.concurrency.map_or(u32::MAX, |most| most.saturating_sub(claimed.map_or(0, whole)));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; never negative")]
    let free = ready.min(slots).min(tokens.map_or(u32::MAX, |tokens| tokens as u32));
    Ok(TypeBudget { terms, free, next_at, tokens })
}

impl TypeBudget<'_> {
    /// The tokens that are left after the claims.
    fn tokens_left(&self, claims: &[Claim]) -> Option<f64> {
        let taken = claims.iter().filter(|claim| claim.item.item_type == self.terms.item_type).count();
        self.tokens.map(|tokens| tokens - f64::from(u32::try_from(taken).unwrap_or(u32::MAX)))
    }

    /// How long until an item of the type becomes available, or until a type that has used up its rate has a token
    /// again.
    pub(crate) fn next_available_in(&self, claims: &[Claim], now: Millis) -> Option<Duration> {
        let timed = self.next_at.map(|at| at.since(now));
        let refilled = self.tokens_left(claims).zip(self.terms.rate).filter(|(tokens, _)| *tokens < 1.0);
        let refilled = refilled.map(|(tokens, rate)| Duration::from_secs_f64((1.0 - tokens).max(0.0) / rate));
        [timed, refilled].into_iter().flatten().min()
    }
}

/// Takes one token per claim out of the buckets of the types with a rate.
pub(crate) async fn take_tokens(tx: &WriteTx<'_>, budgets: &[TypeBudget<'_>], claims: &[Claim]) -> Result<(), PgError> {
    let is_taken = |budget: &&TypeBudget<'_>| claims.iter().any(|claim| claim.item.item_type == budget.terms.item_type);
    let left = budgets
        .iter()
        .filter(is_taken)
        .filter_map(|budget| Some((budget.terms.item_type.as_str(), budget.tokens_left(claims)?)));
    let (types, tokens): (Vec<_>, Vec<_>) = left.unzip();
    if types.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO outbox.rates (type, tokens, filled_at)
               SELECT new.*, $3::bigint FROM unnest($1::text[], $2::double precision[]) AS new
               ON CONFLICT (type) DO UPDATE SET tokens = excluded.tokens, filled_at = excluded.filled_at";
    tx.rows(sql, &[&types, &tokens, &tx.now.get()]).await.map(drop)
}
