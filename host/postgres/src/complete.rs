//! Makes items DONE: those that are settled together share one statement.
//!
//! It ends only claims whose end changes nothing but the item's place and the totals. Of every other claim it says that
//! it holds, and `settle` ends it. It does not know host writes.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::Row;

use outbox_core::Settlement;
use outbox_item::{ItemId, Millis};
use outbox_store::engine::counters::Counter;
use outbox_store::{ClaimRef, ClaimToken, SettleRequest};

use crate::error::PgError;
use crate::leases::LeasedId;
use crate::tx::{Query, WriteTx};

/// A claim whose item becomes DONE, without host writes.
pub(crate) struct Completion<'a> {
    claim: &'a ClaimRef,
    result: Option<&'a [u8]>,
    handler_digest: Option<&'a str>,
}

impl<'a> Completion<'a> {
    /// The completion that a settlement asks for; `None` when it asks for something else or for more.
    pub(crate) fn of(claim: &'a ClaimRef, settled: &'a SettleRequest) -> Option<Self> {
        match &settled.settlement {
            Settlement::Done { result, writes } if writes.is_empty() => {
                Some(Self { claim, result: result.as_deref(), handler_digest: settled.handler_digest.as_deref() })
            }
            _ => None,
        }
    }
}

/// What became of completions.
#[derive(Default)]
pub(crate) struct CompletionReport {
    /// Those that are made.
    pub(crate) made: BTreeSet<LeasedId>,
    /// Those that hold and are not made, because more changes than the place of their item.
    pub(crate) unmade: Vec<LeasedId>,
    of_leases: Vec<CompletedLease>,
}

/// Items of one lease that became DONE.
struct CompletedLease {
    item_type: String,
    is_ordered: bool,
    count: i64,
}

impl CompletionReport {
    /// Adds the completions that are made to the totals, and notes that they may let items of their keys go on.
    pub(crate) fn count(&self, tx: &mut WriteTx<'_>) {
        for CompletedLease { item_type, is_ordered, count } in &self.of_leases {
            tx.count(Counter::Done { item_type }, *count);
            tx.count(Counter::Attempt { item_type, outcome: "done" }, *count);
            tx.wakes_workers |= *is_ordered;
        }
    }

    fn add(&mut self, row: &Row) -> Result<(), PgError> {
        let token = ClaimToken::new(row.try_get("lease")?);
        let leased = |ids: Vec<i64>| ids.into_iter().map(move |id| (token, ItemId::new(id)));
        let settled: Vec<i64> = row.try_get("settled")?;
        let count = i64::try_from(settled.len()).unwrap_or(i64::MAX);
        self.made.extend(leased(settled));
        self.unmade.extend(leased(row.try_get("unsettled")?));
        if count > 0 {
            let (item_type, is_ordered) = (row.try_get("kind")?, row.try_get("is_ordered")?);
            self.of_leases.push(CompletedLease { item_type, is_ordered, count });
        }
        Ok(())
    }
}

/// Completes claims, each of which occurs once, at the time `at` or at the database's. A claim that is in neither part of
/// the result does not hold.
pub(crate) async fn complete(
    tx: &impl Query,
    completions: &[Completion<'_>],
    at: Option<Millis>,
) -> Result<CompletionReport, PgError> {
    let mut completed = CompletionReport::default();
    if completions.is_empty() {
        return Ok(completed);
    }
    let tokens: Vec<_> = completions.iter().map(|one| one.claim.token.get()).collect();
    let ids: Vec<_> = completions.iter().map(|one| one.claim.id.get()).collect();
    let plain: Vec<_> = completions.iter().map(|one| one.claim.is_plain).collect();
    let results: Vec<_> = completions.iter().map(|one| one.result).collect();
    let Digests { places, digests } = Digests::of(completions);
    let sql = "SELECT * FROM outbox.complete($1, $2, $3, $4, $5, $6, $7)";
    let at = at.map(Millis::get);
    for row in tx.rows(sql, &[&tokens, &ids, &plain, &results, &places, &digests, &at]).await? {
        completed.add(&row)?;
    }
    Ok(completed)
}

/// The components of completions: as a rule there is one for many.
struct Digests<'a> {
    /// The place of each completion's digest, from 1 on.
    places: Vec<Option<i32>>,
    digests: Vec<&'a str>,
}

impl<'a> Digests<'a> {
    fn of(completions: &[Completion<'a>]) -> Self {
        let (mut known, mut digests) = (HashMap::new(), Vec::new());
        let mut place = |digest: &'a str| {
            *known.entry(digest).or_insert_with(|| {
                digests.push(digest);
                i32::try_from(digests.len()).unwrap_or(i32::MAX)
            })
        };
        let places = completions.iter().map(|one| one.handler_digest.map(&mut place)).collect();
        Self { places, digests }
    }
}
