//! The totals that the stores keep, and the words under which they keep them.
//!
//! It knows names only. The stores add to the totals in the transaction that causes the change, and
//! [`Overview::add_counter`](crate::Overview::add_counter) puts them where readers find them.

use outbox_core::saga::{SagaOutcome, StepOutcome};

/// One total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter<'a> {
    /// DONE items of a type that still exist.
    Done {
        /// The type.
        item_type: &'a str,
    },
    /// Ended attempts of a type.
    Attempt {
        /// The type.
        item_type: &'a str,
        /// `done`, or the failure's class.
        outcome: &'a str,
    },
    /// Items of a type that handlers emitted.
    Followup {
        /// The type.
        item_type: &'a str,
        /// Whether the item was new.
        outcome: FollowupOutcome,
    },
    /// Runs of a saga that began.
    SagaBegin {
        /// The saga.
        saga: &'a str,
    },
    /// Ended attempts of a saga's items.
    SagaStep {
        /// The saga.
        saga: &'a str,
        /// The type of the item.
        item_type: &'a str,
        /// How the attempt ended.
        outcome: StepOutcome,
    },
    /// Runs of a saga that ended.
    SagaEnd {
        /// The saga.
        saga: &'a str,
        /// How the run ended.
        outcome: SagaOutcome,
    },
    /// Requests that lacked something that the contract asks for.
    Violation(Violation),
}

/// What a request lacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// `X-Correlation-ID`.
    MissingCorrelationId,
    /// `Idempotency-Key`.
    MissingIdempotencyKey,
}

impl Violation {
    /// The word that is stored, and shown in the cockpit and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingCorrelationId => "missing_correlation_id",
            Self::MissingIdempotencyKey => "missing_idempotency_key",
        }
    }
}

/// What the store did with an item that a handler emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowupOutcome {
    /// The store created the item.
    Created,
    /// An item with its key existed, and stays as it is.
    Kept,
}

impl FollowupOutcome {
    /// The word that is stored and printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Kept => "kept",
        }
    }
}

/// The stored form of a [`Counter`]: the key columns of the counters table. A column that does not apply is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterKey<'a> {
    /// The column `name`.
    pub name: &'static str,
    /// The column `saga`.
    pub saga: &'a str,
    /// The column `type`.
    pub item_type: &'a str,
    /// The column `outcome`.
    pub outcome: &'a str,
}

impl<'a> Counter<'a> {
    /// The stored form.
    pub fn key(self) -> CounterKey<'a> {
        let key = |name, saga, item_type, outcome| CounterKey { name, saga, item_type, outcome };
        match self {
            Self::Done { item_type } => key("done", "", item_type, ""),
            Self::Attempt { item_type, outcome } => key("attempt", "", item_type, outcome),
            Self::Followup { item_type, outcome } => key("followup", "", item_type, outcome.as_str()),
            Self::SagaBegin { saga } => key("saga_begin", saga, "", ""),
            Self::SagaStep { saga, item_type, outcome } => key("saga_step", saga, item_type, outcome.as_str()),
            Self::SagaEnd { saga, outcome } => key("saga_end", saga, "", outcome.as_str()),
            Self::Violation(violation) => key("violation", "", "", violation.as_str()),
        }
    }

    /// Reads the stored form. `None` for a total that this program does not know, such as one of a newer program that
    /// shares the database.
    pub fn parse(name: &str, saga: &'a str, item_type: &'a str, outcome: &'a str) -> Option<Self> {
        Some(match name {
            "done" => Self::Done { item_type },
            "attempt" => Self::Attempt { item_type, outcome },
            "followup" => {
                let known = [FollowupOutcome::Created, FollowupOutcome::Kept];
                Self::Followup { item_type, outcome: find(known, FollowupOutcome::as_str, outcome)? }
            }
            "saga_begin" => Self::SagaBegin { saga },
            "saga_step" => {
                let known = [StepOutcome::Ok, StepOutcome::Retried, StepOutcome::Dead];
                Self::SagaStep { saga, item_type, outcome: find(known, StepOutcome::as_str, outcome)? }
            }
            "saga_end" => {
                let known = [SagaOutcome::Ok, SagaOutcome::Error];
                Self::SagaEnd { saga, outcome: find(known, SagaOutcome::as_str, outcome)? }
            }
            "violation" => {
                let known = [Violation::MissingCorrelationId, Violation::MissingIdempotencyKey];
                Self::Violation(find(known, Violation::as_str, outcome)?)
            }
            _ => return None,
        })
    }
}

fn find<T: Copy, const N: usize>(known: [T; N], word: impl Fn(T) -> &'static str, stored: &str) -> Option<T> {
    known.into_iter().find(|one| word(*one) == stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_read_back_from_its_words_which_never_change() {
        let (saga, item_type) = ("S", "t");
        for (counter, words) in [
            (Counter::Done { item_type }, ["done", "", "t", ""]),
            (Counter::Attempt { item_type, outcome: "trap" }, ["attempt", "", "t", "trap"]),
            (Counter::Followup { item_type, outcome: FollowupOutcome::Created }, ["followup", "", "t", "created"]),
            (Counter::Followup { item_type, outcome: FollowupOutcome::Kept }, ["followup", "", "t", "kept"]),
            (Counter::SagaBegin { saga }, ["saga_begin", "S", "", ""]),
            (Counter::SagaStep { saga, item_type, outcome: StepOutcome::Ok }, ["saga_step", "S", "t", "ok"]),
            (Counter::SagaStep { saga, item_type, outcome: StepOutcome::Retried }, ["saga_step", "S", "t", "retried"]),
            (Counter::SagaStep { saga, item_type, outcome: StepOutcome::Dead }, ["saga_step", "S", "t", "dead"]),
            (Counter::SagaEnd { saga, outcome: SagaOutcome::Ok }, ["saga_end", "S", "", "ok"]),
            (Counter::SagaEnd { saga, outcome: SagaOutcome::Error }, ["saga_end", "S", "", "error"]),
            (Counter::Violation(Violation::MissingCorrelationId), ["violation", "", "", "missing_correlation_id"]),
            (Counter::Violation(Violation::MissingIdempotencyKey), ["violation", "", "", "missing_idempotency_key"]),
        ] {
            let CounterKey { name, saga, item_type, outcome } = counter.key();
            assert_eq!([name, saga, item_type, outcome], words);
            assert_eq!(Counter::parse(name, saga, item_type, outcome), Some(counter));
        }
        assert_eq!(Counter::parse("saga_end", "S", "", "cancelled"), None);
        assert_eq!(Counter::parse("slept", "", "t", ""), None);
    }
}
