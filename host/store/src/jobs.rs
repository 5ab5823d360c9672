//! Bulk jobs: an action on all items that match a filter, in batches, and the arithmetic of their progress.
//!
//! The job's row and its items are the engine's; when a batch runs is decided by its callers.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use outbox_item::{ItemId, Millis, Status};

use crate::action::{Action, Refusal, RefusedItem};
use crate::error::StoreError;
use crate::filter::Filter;
use crate::ids::JobId;

/// Items that one transaction changes at most. Small, to keep write transactions short.
pub const BATCH_SIZE: u32 = 100;

/// Wait of a caller before the next batch of a job that another process is working on.
pub const OTHER_PROCESS_PAUSE: Duration = Duration::from_millis(20);
/// Items of one batch of a job that watches its results: few, because no result is known before the first batch.
const WATCHED_BATCH: u32 = 20;
/// The part of all its items that such a batch has at most, so that a small group can be stopped too.
const WATCHED_PART: u64 = 3;
/// Ids that a report or a job shows as a sample, and refusals that it explains.
pub(crate) const SAMPLE_SIZE: usize = 20;

/// The items that an action was tried on, in order; `None` for an item that was changed.
pub type ActionOutcomes = Vec<(ItemId, Option<Refusal>)>;

/// An action on all items that matched when it began.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Job {
    /// Given by the store.
    pub id: JobId,
    /// What is done.
    #[serde(flatten)]
    pub action: Action,
    /// To which items.
    pub filter: Filter,
    /// Who asked.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
    /// The largest number of items each second; `None` sets no limit.
    pub per_second: Option<u32>,
    /// The job stops when more than this share of its settled items, in percent, is dead again; `None` lets it go on.
    pub stop_after: Option<u8>,
    /// Whether it goes on.
    pub state: JobState,
    /// When it began.
    pub began_at: Millis,
    /// When it had nothing left to do, or was cancelled.
    pub ended_at: Option<Millis>,
    /// The next batch is made at this time at the earliest.
    pub next_at: Millis,
    /// Items up to this id have been looked at.
    #[serde(rename = "position")]
    pub scanned_up_to: ItemId,
    /// Items after this id were enqueued too late.
    pub last_id: ItemId,
    /// How many matched shortly before it began.
    pub matched: u64,
    /// How many have been changed.
    pub changed: u64,
    /// How many could not take the action.
    pub refused: u64,
    /// The first that were changed.
    pub sample: Vec<ItemId>,
    /// The first that could not take the action, with the reason.
    pub refusals: Vec<RefusedItem>,
}

/// How a job goes on from one batch to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobPace {
    /// The most items each second; `None` sets no limit.
    pub per_second: Option<u32>,
    /// The job stops when more than this share of its settled items, in percent, is dead again.
    pub stop_after: Option<u8>,
}

impl JobPace {
    /// At most so many items each second.
    pub fn per_second(items: u32) -> Self {
        Self { per_second: Some(items), ..Self::default() }
    }
}

/// What became of the items that a job changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobOutcome {
    /// How many are DONE.
    pub done: u64,
    /// How many are PENDING or CLAIMED.
    pub waiting: u64,
    /// How many are in the DLQ.
    pub dead: u64,
    /// How many were deleted.
    pub gone: u64,
    /// How many an operator has replayed since. They are counted as they had ended before that.
    pub replayed_since: u64,
    /// The dead ones by the group of their failure, the largest group first.
    pub causes: Vec<DeadCause>,
}

/// Items of a job that are in the DLQ for like failures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadCause {
    /// What [`Filter::fingerprint`] takes.
    pub fingerprint: String,
    /// How many.
    pub count: u64,
    /// The newest of them.
    pub sample: ItemId,
    /// The sample's message.
    pub message: Option<String>,
}

impl JobOutcome {
    /// Counts items by the place that an engine found them in: `done`, `waiting`, `dead` or `gone`; or by the status that
    /// they had when an operator replayed them.
    pub fn count(&mut self, place: &str, items: u64) {
        match place {
            "done" => self.done += items,
            "dead" => self.dead += items,
            "gone" => self.gone += items,
            "waiting" => self.waiting += items,
            ended => {
                self.replayed_since += items;
                let count = if ended == Status::Done.as_str() { &mut self.done } else { &mut self.dead };
                *count += items;
            }
        }
    }
}

/// Whether a job goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobState {
    /// Any process that has the store open goes on with it.
    Running,
    /// Every item that it was about has been looked at.
    Done,
    /// An operator stopped it; what it had changed stays changed.
    Cancelled,
    /// It stopped by itself, because too many of its items were dead again; what it had changed stays changed.
    Stopped,
}

impl JobState {
    /// The word that is stored and printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Done => "DONE",
            Self::Cancelled => "CANCELLED",
            Self::Stopped => "STOPPED",
        }
    }
}

impl FromStr for JobState {
    type Err = StoreError;

    /// Reads the word that is stored. Errors with [`StoreError::Unusable`] for a word that this program does not know.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let known = [Self::Running, Self::Done, Self::Cancelled, Self::Stopped];
        let unknown = || StoreError::Unusable(format!("unknown job state {word:?}"));
        known.into_iter().find(|state| state.as_str() == word).ok_or_else(unknown)
    }
}

impl Job {
    /// How long until the next batch may be made, at the store's time `now`.
    pub fn delay_until_next_batch(&self, now: Millis) -> Duration {
        self.next_at.since(now)
    }

    /// The largest number of items in its next batch.
    pub fn batch_size(&self) -> u32 {
        let most = if self.stop_after.is_some() { self.watched_batch() } else { BATCH_SIZE };
        self.per_second.map_or(most, |per_second| per_second.min(most))
    }

    fn watched_batch(&self) -> u32 {
        let part = u32::try_from(self.matched.div_ceil(WATCHED_PART)).unwrap_or(u32::MAX);
        part.clamp(1, WATCHED_BATCH)
    }

    /// Whether the job makes its next batch, by what became of its items until now. It judges from half of a batch:
    /// fewer say little about a share. It waits while as many are not settled.
    pub fn verdict(&self, outcome: &JobOutcome) -> JobVerdict {
        let Some(percent) = self.stop_after.map(u64::from) else { return JobVerdict::GoOn };
        let half = u64::from(self.watched_batch().div_ceil(2));
        let settled = outcome.done + outcome.dead;
        if settled >= half && outcome.dead * 100 > percent * settled {
            return JobVerdict::Stop;
        }
        if outcome.waiting >= half { JobVerdict::Wait } else { JobVerdict::GoOn }
    }

    /// The statuses of the items that it takes.
    pub fn statuses(&self) -> &[Status] {
        if self.filter.status.is_empty() { &Status::ALL } else { &self.filter.status }
    }

    /// How many more items it tries at most.
    pub fn untried(&self) -> usize {
        let tried = self.changed + self.refused;
        let rest = self.filter.first.map_or(u64::MAX, |first| u64::from(first).saturating_sub(tried));
        usize::try_from(rest).unwrap_or(usize::MAX)
    }

    /// The batch of what a look found: these items, ascending, of which the action is for the `matching` ones. The look
    /// ended at `end`, or where it had found enough; `None` when it read up to the last item of the job.
    pub fn batch_of(&self, looked_at: &[ItemId], matching: Vec<ItemId>, end: Option<ItemId>) -> JobBatch {
        let is_full = looked_at.len() >= self.batch_size() as usize;
        let end = if is_full { looked_at.last().copied() } else { end };
        JobBatch { up_to: end.unwrap_or(self.last_id), is_last: end.is_none(), matching }
    }

    /// The progress after a batch. An item that is in no outcome was passed over.
    pub fn progress_after(&self, batch: &JobBatch, outcomes: ActionOutcomes) -> JobProgress {
        let items = i64::try_from(outcomes.len()).unwrap_or(i64::MAX);
        let delay = self.per_second.map_or(0, |per_second| items * 1000 / i64::from(per_second));
        let mut job = self.clone();
        for (id, refusal) in outcomes {
            job.count_outcome(id, refusal);
        }
        let is_last = batch.is_last || job.untried() == 0;
        JobProgress { job, delay, is_last }
    }

    fn count_outcome(&mut self, id: ItemId, refusal: Option<Refusal>) {
        match refusal {
            None => {
                self.changed += 1;
                push_bounded(&mut self.sample, id);
            }
            Some(reason) => {
                self.refused += 1;
                push_bounded(&mut self.refusals, RefusedItem { id, reason });
            }
        }
    }
}

/// What a job that watches its results does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobVerdict {
    /// It makes its next batch.
    GoOn,
    /// It waits until more of its items have ended.
    Wait,
    /// It ends: too many of its items are dead again.
    Stop,
}

/// How long a job that waits for its items does not look again.
pub const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// What a job does next.
#[derive(Clone, Debug, PartialEq)]
pub enum JobStep {
    /// Nothing now: it has ended, or its time has not come.
    None,
    /// It waits for [`WATCH_PAUSE`].
    Wait,
    /// It stops by itself.
    Stop,
    /// It makes this batch.
    Batch(JobBatch),
}

/// The items of a job's next batch.
#[derive(Clone, Debug, PartialEq)]
pub struct JobBatch {
    /// Up to which id the job has looked.
    pub up_to: ItemId,
    /// Whether the job has looked at all of its items.
    pub is_last: bool,
    /// The items that the action is for.
    pub matching: Vec<ItemId>,
}

/// What a batch makes of a job's row.
#[derive(Clone, Debug, PartialEq)]
pub struct JobProgress {
    /// The job with the batch counted in.
    pub job: Job,
    /// How long the job's rate makes it wait now, in milliseconds.
    pub delay: i64,
    /// Whether no batch follows.
    pub is_last: bool,
}

fn push_bounded<T>(list: &mut Vec<T>, one: T) {
    if list.len() < SAMPLE_SIZE {
        list.push(one);
    }
}
