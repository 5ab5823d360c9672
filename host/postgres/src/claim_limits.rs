//! What may be claimed of each type: pauses, concurrency and rates, which hold across all processes.

use std::collections::HashSet;
use std::time::Duration;

use tokio_postgres::Row;

use outbox_item::Millis;
use outbox_store::engine::token_bucket::{available_tokens, until_next_token};
use outbox_store::{Claim, ClaimRequest, ClaimTerms};

use crate::error::PgError;
use crate::tx::{Query, Values, WriteTx};

/// What may be claimed of one type.
pub(crate) struct TypeBudget<'a> {
    terms: &'a ClaimTerms,
    /// Items that may be claimed now, if there are so many.
    pub(crate) free: u32,
    /// The losses of the item that is due and was lost most often; 0 when there is none.
    pub(crate) most_losses: u32,
    /// Whether items with a fairness key are due.
    pub(crate) are_shared: bool,
    /// When the next item becomes available.
    next_at: Option<Millis>,
    /// The level of the token bucket, of a type with a rate.
    tokens: Option<f64>,
}

/// The budgets of the types of the request, in its order, and whether a type was left out because another transaction
/// is claiming it under its limits.
pub(crate) struct Budgets<'a> {
    pub(crate) of_types: Vec<TypeBudget<'a>>,
    pub(crate) is_busy: bool,
}

/// What the database says of the types of a request, in its order.
pub(crate) struct TypeLimits {
    /// The types with limits that no other transaction is claiming.
    locked: HashSet<String>,
    rows: Vec<Row>,
}

/// Locks the types that have limits, so that only one transaction at a time counts their claims and adds to them, and
/// reads what limits each type. `at` is the time, or `None` for that of the database.
pub(crate) async fn read_limits(
    tx: &impl Query,
    request: &ClaimRequest,
    at: Option<Millis>,
) -> Result<TypeLimits, PgError> {
    let types: Vec<_> = request.types.iter().map(|terms| terms.item_type.as_str()).collect();
    let limited = limited(request).map(|terms| terms.item_type.as_str()).collect::<Vec<_>>();
    // A statement of its own: it sees what the earlier holders of the locks committed.
    let sql = "SELECT * FROM outbox.claim_limits($1, $2, coalesce($3, outbox.now()))";
    let counted: Vec<_> = request.types.iter().map(|terms| terms.concurrency.is_some()).collect();
    let at = at.map(Millis::get);
    let values: Values<'_> = &[&types, &counted, &at];
    let (locked, rows) = tokio::join!(biased; lock(tx, &limited), tx.rows(sql, values));
    Ok(TypeLimits { locked: locked?, rows: rows? })
}

/// What may be claimed of each type at `now`.
pub(crate) fn budgets(request: &ClaimRequest, limits: TypeLimits, now: Millis) -> Result<Budgets<'_>, PgError> {
    let TypeLimits { locked, rows } = limits;
    let mut of_types = Vec::new();
    for (row, terms) in rows.iter().zip(&request.types) {
        let budget = budget(row, terms, now)?;
        let is_left_out = has_limits(terms) && !locked.contains(&terms.item_type);
        of_types.push(if is_left_out { TypeBudget { free: 0, ..budget } } else { budget });
    }
    Ok(Budgets { of_types, is_busy: locked.len() < limited(request).count() })
}

fn limited(request: &ClaimRequest) -> impl Iterator<Item = &ClaimTerms> {
    request.types.iter().filter(|terms| has_limits(terms))
}

const fn has_limits(terms: &ClaimTerms) -> bool {
    terms.concurrency.is_some() || terms.rate.is_some() || terms.per_key.is_any()
}

/// Locks the types. Returns those of which no other transaction has the lock.
async fn lock(tx: &impl Query, types: &[&str]) -> Result<HashSet<String>, PgError> {
    if types.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = tx.rows("SELECT outbox.lock_limits($1)", &[&types]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

fn budget<'a>(row: &Row, terms: &'a ClaimTerms, now: Millis) -> Result<TypeBudget<'a>, PgError> {
    let claimed = row.try_get::<_, Option<i64>>("claimed")?.unwrap_or_default();
    if row.try_get("is_paused")? {
        return Ok(TypeBudget { terms, free: 0, most_losses: 0, are_shared: false, next_at: None, tokens: None });
    }
    let most_losses = row.try_get::<_, Option<i32>>("most_losses")?.unwrap_or_default().cast_unsigned();
    let are_shared = row.try_get("are_shared")?;
    let next_at = row.try_get::<_, Option<i64>>("next_at")?.map(Millis::new);
    let filled_at = row.try_get::<_, Option<i64>>("filled_at")?.map(Millis::new);
    let left = row.try_get::<_, Option<f64>>("tokens")?.zip(filled_at);
    let tokens = terms.rate.map(|rate| available_tokens(rate, left, now));
    let claimed = u32::try_from(claimed).unwrap_or(u32::MAX);
    let slots = terms.concurrency.map_or(u32::MAX, |most| most.saturating_sub(claimed));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; never negative")]
    let free = terms.limit.min(slots).min(tokens.map_or(u32::MAX, |tokens| tokens as u32));
    Ok(TypeBudget { terms, free, most_losses, are_shared, next_at, tokens })
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
        let refilled = refilled.map(|(tokens, rate)| until_next_token(rate, tokens));
        [timed, refilled].into_iter().flatten().min()
    }
}

/// Takes one token per claim out of the buckets of the types with a rate.
pub(crate) async fn take_tokens(tx: &WriteTx<'_>, budgets: &[TypeBudget<'_>], claims: &[Claim]) -> Result<(), PgError> {
    let is_taken = |budget: &&TypeBudget<'_>| claims.iter().any(|claim| claim.item.item_type == budget.terms.item_type);
    let taken: Vec<_> = budgets.iter().filter(is_taken).filter(|budget| budget.tokens.is_some()).collect();
    if taken.is_empty() {
        return Ok(());
    }
    let types: Vec<_> = taken.iter().map(|budget| budget.terms.item_type.as_str()).collect();
    let tokens: Vec<_> = taken.iter().map(|budget| budget.tokens_left(claims)).collect();
    let rates: Vec<_> = taken.iter().map(|budget| budget.terms.rate).collect();
    let sql = "INSERT INTO outbox.rates (type, tokens, filled_at, per_second)
               SELECT new.type, new.tokens, $4, new.rate
               FROM unnest($1::text[], $2::double precision[], $3::double precision[]) AS new (type, tokens, rate)
               ON CONFLICT (type) DO UPDATE
               SET tokens = excluded.tokens, filled_at = excluded.filled_at, per_second = excluded.per_second";
    tx.rows(sql, &[&types, &tokens, &rates, &tx.now.get()]).await.map(drop)
}
