//! Claims ready items: suspects first, then shares the limit out, takes items that no other transaction holds out of the
//! queue into leases, and reads them.
//!
//! It does not decide what may be claimed of a type (`claim_limits`), which fairness keys are served (`fair_keys`,
//! `claim_lines`), in which company a suspect is claimed (`CrashBudget`), nor which item is the front of its ordering key:
//! the function `outbox.claim` of the schema does.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row;

use outbox_core::{CrashBudget, Past, SuspectRun, has_attempt_left};
use outbox_item::{Item, ItemId};
use outbox_store::engine::attempt_record::{AttemptRecord, ClaimedItem};
use outbox_store::engine::fair_keys::{LastServed, interleave};
use outbox_store::engine::store_failures::{crashes_exhausted, retries_exhausted, row_undecodable};
use outbox_store::{ClaimBatch, ClaimRequest, ClaimTerms, ClaimToken, SuspectTerms};

use crate::claim_end::{ClaimEnd, write_claim_ends};
use crate::claim_limits::{Budgets, budgets, take_tokens};
use crate::claim_lines::{Line, Lines, count};
use crate::error::PgError;
use crate::fair_keys;
use crate::fair_share::fair_share;
use crate::leased_rows::{self, LeasedRow};
use crate::leases::{drop_missing, missing_in};
use crate::looks::{Look, Looks};
use crate::past::stored_count;
use crate::saga_signals::begin_runs_if_none;
use crate::tx::{Query as _, Values, WriteTx};

pub(crate) use crate::claim_limits::{TypeLimits, read_limits};

/// The most rounds of one call. A further round follows while some types left a part of their shares and others have
/// more, or while items were refused. After the last one the transaction commits, and the caller claims again at once:
/// so no transaction holds its locks for long.
const ROUNDS: usize = 8;
/// The most items in one lease, whose row must fit into a page of its table.
pub(crate) const LEASE_MAX: u32 = 250;
/// The most items that one transaction claims, of all types, so that it stays short. The next claim goes on.
const CLAIM_MAX: u32 = 400;
/// Items that one transaction dead-letters because they have no attempt left or cannot be read, so that it stays short.
/// The next claim goes on.
const REFUSED_MAX: u32 = 250;
/// Wait before the next claim when another transaction was claiming a type under its limits, or was working on an
/// ordering key.
const BUSY_DELAY: Duration = Duration::from_millis(10);

/// Claims what the request and the limits of its types allow.
pub(crate) async fn claim(
    tx: &mut WriteTx<'_>,
    request: &ClaimRequest,
    limits: TypeLimits,
    looks: &Looks,
    last_served: &LastServed,
) -> Result<ClaimBatch, PgError> {
    let mut run = ClaimRun::new(request, budgets(request, limits, tx.now)?, looks, last_served);
    if run.lease_suspects(tx).await? == SuspectRun::Alone {
        return run.finish(tx).await;
    }
    run.divide_shared_types(tx).await?;
    let start = fastrand::usize(..request.types.len().max(1));
    for _ in 0..ROUNDS {
        let shares = run.shares(start);
        if run.is_last_round(&shares) {
            run.lease_and_read(tx, &shares, &QueuePart::Fresh).await?;
        } else if shares.iter().any(|share| *share > 0) {
            run.lease(tx, &shares).await?;
        } else if run.unread() == 0 {
            return run.finish(tx).await;
        } else {
            run.read(tx).await?;
        }
    }
    run.read(tx).await?;
    run.is_more = true;
    run.finish(tx).await
}

/// The progress of one call.
struct ClaimRun<'a> {
    request: &'a ClaimRequest,
    budgets: Budgets<'a>,
    looks: &'a Looks,
    look: Look,
    last_served: &'a LastServed,
    lines: Lines,
    /// How long until a fairness key of suspects that has used up its rate has a token again.
    suspects_in: Option<Duration>,
    /// Whether a further call may find items that this one was kept from.
    is_more: bool,
    /// Whether another transaction was working on limits or ordering keys of items that this call was kept from.
    is_busy: bool,
    /// See [`ClaimBatch::lone_suspect_waits`].
    lone_suspect_waits: bool,
    /// Items that are handled, in the order of [`leased_rows::sort`].
    handled: Vec<LeasedRow<'a>>,
    /// Items that are dead-lettered instead of being handled.
    refused: Vec<UnhandledItem>,
}

struct UnhandledItem {
    item: Item,
    end: ClaimEnd,
}

/// The items of a type among which a round takes the first.
#[derive(PartialEq, Eq)]
enum QueuePart {
    /// Those with losses in this range, which go into the lease of the suspects.
    Suspects {
        /// The losses of each of them.
        losses: RangeInclusive<u32>,
        /// Their fairness key, the empty text for none; `None` for those of every key.
        of_key: Option<String>,
    },
    /// Those without.
    Fresh,
}

impl QueuePart {
    /// The fairness key of its items in this line; `None` for those of every key.
    fn key<'a>(&'a self, line: &'a Line) -> Option<&'a str> {
        match self {
            Self::Suspects { of_key, .. } => of_key.as_deref(),
            Self::Fresh => Some(&line.key),
        }
    }

    /// The least and the largest number of losses of its items.
    fn losses(&self) -> [i32; 2] {
        match self {
            Self::Fresh => [0, 0],
            Self::Suspects { losses, .. } => [losses.start(), losses.end()].map(|count| stored_count(*count)),
        }
    }
}

/// Whether a look at the leased items has changed how many may be claimed.
#[derive(PartialEq, Eq)]
enum ReadResult {
    /// Everything that was leased since the last look is handled.
    Settled,
    /// Items were refused, so that others may take their places.
    Refused,
}

impl<'a> ClaimRun<'a> {
    fn new(request: &'a ClaimRequest, budgets: Budgets<'a>, looks: &'a Looks, last_served: &'a LastServed) -> Self {
        let (lines, is_busy) = (Lines::new(&looks.quiet(request)), budgets.is_busy);
        let (handled, refused, look) = (Vec::new(), Vec::new(), looks.begin(Instant::now()));
        let (is_more, lone_suspect_waits) = (false, false);
        Self {
            request,
            budgets,
            looks,
            look,
            last_served,
            lines,
            suspects_in: None,
            is_more,
            is_busy,
            lone_suspect_waits,
            handled,
            refused,
        }
    }

    /// Claims the suspects of one type that may run together, and returns how. Those that have no attempt left are
    /// dead-lettered, and the next call takes their places.
    async fn lease_suspects(&mut self, tx: &WriteTx<'_>) -> Result<SuspectRun, PgError> {
        let limited = fair_keys::limited_suspects(tx, self.request, &mut self.budgets.of_types).await?;
        self.suspects_in = limited.values().filter_map(|found| found.rooms.until_next_token()).min();
        let Some((place, most_losses)) = self.most_suspect() else { return Ok(SuspectRun::None) };
        let SuspectTerms { room, budget, .. } = self.request.suspects;
        let run = budget.run(room, most_losses, self.request.types[place].max_retries);
        self.lone_suspect_waits = run == SuspectRun::AwaitIdle;
        let most = match run {
            SuspectRun::None | SuspectRun::AwaitIdle => 0,
            SuspectRun::Beside(most) => most,
            SuspectRun::Alone => 1,
        };
        let limited = limited.get(&place);
        let of_key = limited.and_then(|found| found.first.as_ref()).map(|(key, _)| key.clone());
        // Where keys have limits, it is one at a time: so no key gets more than it may.
        let most = if of_key.is_some() { most.min(1) } else { most };
        let mut shares = vec![0; self.lines.all.len()];
        shares[place] = most.min(self.request.limit).min(self.wanted(place));
        if shares[place] == 0 {
            return Ok(SuspectRun::None);
        }
        // Others may have become due since, or may have been claimed.
        let losses = budget.losses_in_run(most_losses, self.request.types[place].max_retries);
        let read = self.lease_and_read(tx, &shares, &QueuePart::Suspects { losses, of_key }).await?;
        self.is_more |= read == ReadResult::Refused;
        if let Some(limited) = limited {
            let refilled = limited.take_tokens(tx, &self.request.types[place], &self.handled).await?;
            self.suspects_in = self.suspects_in.into_iter().chain(refilled).min();
        }
        Ok(if self.handled.is_empty() { SuspectRun::None } else { run })
    }

    /// Divides each type that fairness keys share into those that are served next.
    async fn divide_shared_types(&mut self, tx: &WriteTx<'_>) -> Result<(), PgError> {
        let budgets = self.budgets.of_types.iter().enumerate();
        let shared: Vec<_> = budgets
            .filter(|(_, budget)| budget.are_shared && budget.free > 0)
            .map(|(place, budget)| (place, budget.free.min(self.request.limit)))
            .collect();
        if shared.is_empty() {
            return Ok(());
        }
        let due = fair_keys::due_keys(tx, self.request, &shared, self.last_served).await?;
        shared.into_iter().zip(due).for_each(|((place, _), due)| self.lines.divide(place, due));
        Ok(())
    }

    /// The place of the type with the item that was lost most often, among those of which an item may be claimed, and
    /// its losses.
    fn most_suspect(&self) -> Option<(usize, u32)> {
        let budgets = self.budgets.of_types.iter().enumerate();
        let suspects = budgets.filter(|(_, budget)| budget.most_losses > 0 && budget.free > 0);
        suspects.map(|(place, budget)| (place, budget.most_losses)).max_by_key(|(_, losses)| *losses)
    }

    /// The items that this call has read, whether they are handled or refused.
    fn read_before(&self) -> impl Iterator<Item = ItemId> {
        let refused = self.refused.iter().map(|refused| refused.item.id);
        self.handled.iter().map(|row| row.claim.item.id).chain(refused)
    }

    /// The items that are leased and not read yet.
    fn unread(&self) -> u32 {
        count(self.lines.leased()).saturating_sub(count(self.read_before()))
    }

    /// How many more items of each line the next round takes at most. Each may turn out to be none that can be claimed.
    fn shares(&mut self, start: usize) -> Vec<u32> {
        let claimed = count(self.lines.leased()).saturating_sub(count(&self.refused));
        let refusable = REFUSED_MAX.saturating_sub(count(&self.refused)).saturating_sub(self.unread());
        let limit = self.request.limit.min(CLAIM_MAX);
        let left = limit.saturating_sub(claimed).saturating_sub(self.lines.kept_for_quiet());
        let left = left.min(refusable);
        let wanted: Vec<_> = (0..self.request.types.len()).map(|place| self.wanted(place)).collect();
        self.lines.deal(&fair_share(left, &wanted, start))
    }

    fn wanted(&self, place: usize) -> u32 {
        let item_type = &self.request.types[place].item_type;
        let refused = count(self.refused.iter().filter(|refused| refused.item.item_type == *item_type));
        let leased = self.lines.leased_of(place);
        let room = LEASE_MAX.saturating_sub(leased).min(self.lines.wanted(place));
        self.budgets.of_types[place].free.saturating_sub(leased.saturating_sub(refused)).min(room)
    }

    /// Whether no further round follows unless items are refused: no line gets what another leaves.
    fn is_last_round(&self, shares: &[u32]) -> bool {
        let served = self.lines.busy(shares);
        let place = |line: usize| self.lines.all[line].place;
        if served.iter().any(|line| self.lines.is_shared(place(*line))) {
            return false;
        }
        match served[..] {
            [] => false,
            [_] => true,
            _ => served.iter().all(|line| shares[*line] == self.wanted(place(*line))),
        }
    }

    /// Moves items into leases, and reads them in the same round trip.
    async fn lease_and_read(
        &mut self,
        tx: &WriteTx<'_>,
        shares: &[u32],
        part: &QueuePart,
    ) -> Result<ReadResult, PgError> {
        let (claimed, leased) = tokio::join!(biased; self.claim_rows(tx, shares, part), self.read_leased(tx));
        self.add_leased(shares, &claimed?, part)?;
        self.sort_out(tx, leased?).await
    }

    /// Moves up to `shares` items of each line from the queue into the type's lease.
    async fn lease(&mut self, tx: &WriteTx<'_>, shares: &[u32]) -> Result<(), PgError> {
        let claimed = self.claim_rows(tx, shares, &QueuePart::Fresh).await?;
        self.add_leased(shares, &claimed, &QueuePart::Fresh)
    }

    /// A row for each line with a share, in their order.
    async fn claim_rows(&self, tx: &WriteTx<'_>, shares: &[u32], part: &QueuePart) -> Result<Vec<Row>, PgError> {
        let asked: Vec<_> = asked(shares).map(|line| (&self.lines.all[line], shares[line])).collect();
        let terms: Vec<_> = asked.iter().map(|(line, _)| &self.request.types[line.place]).collect();
        let kinds: Vec<_> = terms.iter().map(|terms| terms.item_type.as_str()).collect();
        let keys: Vec<_> = asked.iter().map(|(line, _)| part.key(line)).collect();
        let most: Vec<_> = asked.iter().map(|(_, share)| i32::try_from(*share).unwrap_or(i32::MAX)).collect();
        let ends: Vec<_> = terms.iter().map(|terms| tx.now.saturating_add(terms.lease).get()).collect();
        let look_at = |is_followed: bool| if is_followed { Look::Full } else { self.look };
        let lowest = kinds.iter().zip(&asked);
        let lowest = lowest.map(|(kind, (line, _))| self.looks.lowest(look_at(line.is_followed), kind).get());
        let lowest: Vec<_> = lowest.collect();
        let streaks: Vec<_> = terms.iter().map(|terms| i32::try_from(terms.streak).unwrap_or(i32::MAX)).collect();
        let sql = "SELECT * FROM outbox.claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        let (tokens, [least_losses, most_losses]) = (self.tokens(&terms, part), part.losses());
        let what: Values<'_> = &[&kinds, &keys, &most, &lowest, &streaks, &tokens, &ends];
        let who: Values<'_> = &[&self.request.claimed_by, &tx.now.get(), &least_losses, &most_losses];
        tx.rows(sql, &[what, who].concat()).await
    }

    fn add_leased(&mut self, shares: &[u32], claimed: &[Row], part: &QueuePart) -> Result<(), PgError> {
        let asked: Vec<_> = asked(shares).collect();
        let is_bounded = matches!(self.look, Look::Bounded { is_followed: true, .. });
        for row in claimed {
            let nth = usize::try_from(row.try_get::<_, i32>("place")?).unwrap_or_default().wrapping_sub(1);
            let claimed: Vec<i64> = row.try_get("claimed")?;
            self.is_more |= row.try_get::<_, bool>("is_more")?;
            self.is_busy |= row.try_get::<_, bool>("is_busy")?;
            let (line, claimed) = (&mut self.lines.all[asked[nth]], claimed.into_iter().map(ItemId::new));
            match part {
                QueuePart::Fresh => line.add(claimed.collect(), shares[asked[nth]], is_bounded),
                QueuePart::Suspects { .. } => line.leased.extend(claimed),
            }
        }
        let took: i64 = claimed.first().map(|row| row.try_get("took")).transpose()?.unwrap_or_default();
        if self.look == Look::Full {
            let took = Duration::from_micros(u64::try_from(took).unwrap_or_default());
            self.looks.record_full(took, count(self.lines.leased()), Instant::now());
        }
        Ok(())
    }

    /// The token of the lease for each of these types.
    fn tokens(&self, terms: &[&ClaimTerms], part: &QueuePart) -> Vec<i64> {
        let token = |terms: &&ClaimTerms| match part {
            QueuePart::Suspects { .. } => self.request.suspects.token,
            QueuePart::Fresh => terms.token,
        };
        terms.iter().map(token).map(ClaimToken::get).collect()
    }

    /// Reads what is leased and has not been read, and sorts out what is not handled.
    async fn read(&mut self, tx: &WriteTx<'_>) -> Result<ReadResult, PgError> {
        if self.unread() == 0 {
            return Ok(ReadResult::Settled);
        }
        let leased = self.read_leased(tx).await?;
        self.sort_out(tx, leased).await
    }

    async fn read_leased(&self, tx: &WriteTx<'_>) -> Result<Vec<LeasedRow<'a>>, PgError> {
        let read_before: Vec<_> = self.read_before().map(ItemId::get).collect();
        leased_rows::read(tx, self.request, &read_before).await
    }

    /// Sorts out what is not handled of the items that were leased and read last.
    async fn sort_out(&mut self, tx: &WriteTx<'_>, rows: Vec<LeasedRow<'a>>) -> Result<ReadResult, PgError> {
        let read_before: HashSet<_> = self.read_before().collect();
        let mut unread: HashSet<_> = self.lines.leased().copied().filter(|id| !read_before.contains(id)).collect();
        let (handled, refused) = (self.handled.len(), self.refused.len());
        for row in rows {
            let id = row.claim.item.id;
            if !unread.remove(&id) {
                continue;
            }
            match refuse(tx, &row, self.request.suspects.budget)? {
                Some(end) => {
                    self.lines.refuse(id);
                    self.refused.push(UnhandledItem { item: row.claim.item, end });
                }
                None => self.handled.push(row),
            }
        }
        // The rows of one reading are in order.
        if handled > 0 {
            leased_rows::sort(&mut self.handled);
        }
        if !unread.is_empty() {
            self.lines.all.iter_mut().for_each(|line| line.leased.retain(|id| !unread.contains(id)));
            drop_missing(tx, &missing_in(tx, &leased_rows::tokens(self.request)).await?).await?;
        }
        Ok(if self.refused.len() > refused { ReadResult::Refused } else { ReadResult::Settled })
    }

    /// Dead-letters what is not handled. Returns the result of the call.
    async fn finish(self, tx: &mut WriteTx<'_>) -> Result<ClaimBatch, PgError> {
        let Self { request, budgets, look, lines, handled, refused, is_more, is_busy, lone_suspect_waits, .. } = self;
        let mut claims: Vec<_> = handled.into_iter().map(|row| row.claim).collect();
        let is_lease_full = (0..request.types.len()).any(|place| lines.leased_of(place) >= LEASE_MAX);
        let is_full = is_lease_full || count(&claims).saturating_add(lines.kept_for_quiet()) >= CLAIM_MAX;
        let is_more = is_more || is_full || count(&refused) >= REFUSED_MAX;
        take_tokens(tx, &budgets.of_types, &claims).await?;
        self.looks.record_quiet(request, |place| lines.is_quiet(place));
        let mut next_key_in = lines.record_served(request, self.last_served);
        for (place, terms) in request.types.iter().enumerate() {
            if let Some(rooms) = lines.rooms(place) {
                let fresh = claims.iter().filter(|claim| claim.token != request.suspects.token);
                let refilled = fair_keys::take_tokens(tx, terms, rooms, fresh).await?;
                next_key_in = next_key_in.into_iter().chain(refilled).min();
            }
        }
        let (refused, ends): (Vec<_>, Vec<_>) = refused.into_iter().map(|refused| (refused.item, refused.end)).unzip();
        begin_runs_if_none(tx, claims.iter().map(|claim| &claim.item).chain(&refused)).await?;
        let given_back = write_claim_ends(tx, &ends).await?;
        claims.retain(|claim| !given_back.contains(&claim.item.id));
        let timed = budgets.of_types.iter().filter_map(|budget| budget.next_available_in(&claims, tx.now));
        let busy = is_busy.then_some(BUSY_DELAY);
        let more = is_more.then_some(Duration::ZERO);
        let next_available_in = timed.chain(busy).chain(more).chain(look.full_again_in(Instant::now()));
        let next_available_in = next_available_in.chain(next_key_in).chain(self.suspects_in).min();
        interleave(&mut claims);
        Ok(ClaimBatch { claims, next_available_in, lone_suspect_waits })
    }
}

/// The lines with a share.
fn asked(shares: &[u32]) -> impl Iterator<Item = usize> {
    (0..shares.len()).filter(|line| shares[*line] > 0)
}

/// The end of the claim on an item that is dead-lettered instead of being handled: no attempt is left, or its row
/// cannot be read. `None` when it is handled.
fn refuse(tx: &WriteTx<'_>, row: &LeasedRow<'_>, budget: CrashBudget) -> Result<Option<ClaimEnd>, PgError> {
    let item = &row.claim.item;
    if !has_attempt_left(row.terms.max_retries, item.attempts.saturating_sub(1), item.losses) {
        return Ok(Some(dead_letter_exhausted(tx, row)));
    }
    if budget.is_exhausted(item.losses) {
        return Ok(Some(dead_letter_suspect(tx, row)));
    }
    let Some(defect) = &row.defect else { return Ok(None) };
    let failure = row_undecodable(defect.clone());
    let attempt = AttemptRecord::from_claim(&ClaimedItem::of_row(item)?);
    let claim = row.ending(attempt, Past::of(item));
    Ok(Some(ClaimEnd::dead_lettered(claim, row.terms.on_dead, failure).with_history()))
}

/// The end of the claim that found an item without retries left: the item is dead-lettered without an attempt, and the
/// claim does not count. The history has a row for the last failure already.
fn dead_letter_exhausted(tx: &WriteTx<'_>, row: &LeasedRow<'_>) -> ClaimEnd {
    let counted = &row.claim.item;
    let (attempts, deliveries) = (counted.attempts.saturating_sub(1), counted.deliveries.saturating_sub(1));
    let item = Item { attempts, deliveries, payload: Vec::new(), ..counted.clone() };
    let failure = retries_exhausted(item.last_error.as_deref());
    let claim = ClaimedItem { item: &item, claimed_at: tx.now, claimed_by: tx.pod };
    let attempt = AttemptRecord { handler_digest: item.handler_digest.clone(), ..AttemptRecord::from_claim(&claim) };
    ClaimEnd::dead_lettered(row.ending(attempt, Past::of(&item)), row.terms.on_dead, failure)
}

/// The end of the claim that found an item which was in too many leases that ran out. The claim counts as a delivery, so
/// that the history has a row of its own for it, and as no attempt.
fn dead_letter_suspect(tx: &WriteTx<'_>, row: &LeasedRow<'_>) -> ClaimEnd {
    let counted = &row.claim.item;
    let item = Item { attempts: counted.attempts.saturating_sub(1), payload: Vec::new(), ..counted.clone() };
    let attempt = AttemptRecord::from_claim(&ClaimedItem { item: &item, claimed_at: tx.now, claimed_by: tx.pod });
    let claim = row.ending(attempt, Past::of(&item));
    ClaimEnd::dead_lettered(claim, row.terms.on_dead, crashes_exhausted(item.losses)).with_history()
}
