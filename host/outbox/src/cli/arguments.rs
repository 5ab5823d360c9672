//! Arguments that several verbs share, and their conversion into requests to the store.

use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;

use outbox_item::{Millis, Status};
use outbox_store::{Execution, Filter, UnknownName};

use crate::cli::context::Context;

/// Arguments that cannot be used together, found after clap has accepted each of them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// The error about a name that nobody knows, for a command with the flag `--force`.
pub(crate) fn not_forced(unknown: &UnknownName) -> anyhow::Error {
    anyhow::anyhow!("{unknown}: correct it, or add --force")
}

/// Which items, besides their status.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FilterArgs {
    /// Only items of this type
    #[arg(long = "type", value_name = "TYPE")]
    item_type: Option<String>,
    /// Only items of this saga
    #[arg(long)]
    saga: Option<String>,
    /// Only items with this correlation id
    #[arg(long)]
    cid: Option<String>,
    /// Only items with this ordering key
    #[arg(long, value_name = "KEY")]
    ordering_key: Option<String>,
    /// Only items enqueued since: 2h (ago), 2026-01-31T12:00:00Z, or Unix milliseconds
    #[arg(long, value_name = "WHEN")]
    since: Option<TimeArg>,
    /// Only items enqueued before: written like --since
    #[arg(long, value_name = "WHEN")]
    until: Option<TimeArg>,
    /// Only items that became DONE or DLQ since: written like --since
    #[arg(long, value_name = "WHEN")]
    finished_since: Option<TimeArg>,
    /// Only items that became DONE or DLQ before: written like --since
    #[arg(long, value_name = "WHEN")]
    finished_until: Option<TimeArg>,
    /// Only items that are available since: written like --since
    #[arg(long, value_name = "WHEN")]
    available_since: Option<TimeArg>,
    /// Only items that were available before: written like --since
    #[arg(long, value_name = "WHEN")]
    available_until: Option<TimeArg>,
    /// Only items that died of the same thing: see `outbox failures`
    #[arg(long)]
    fingerprint: Option<String>,
}

impl FilterArgs {
    /// The filter that the arguments describe; `now` is the present time of the store.
    pub(crate) fn filter(self, status: Option<Status>, now: Millis) -> Filter {
        Filter {
            status: status.into_iter().collect(),
            r#type: self.item_type,
            saga: self.saga,
            cid: self.cid,
            ordering_key: self.ordering_key,
            created_from: self.since.map(|since| since.at(now)),
            created_to: self.until.map(|until| until.at(now)),
            finished_from: self.finished_since.map(|since| since.at(now)),
            finished_to: self.finished_until.map(|until| until.at(now)),
            available_from: self.available_since.map(|since| since.at(now)),
            available_to: self.available_until.map(|until| until.at(now)),
            fingerprint: self.fingerprint,
            as_of: None,
        }
    }
}

/// A point in time as an operator writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeArg {
    Ago(Duration),
    At(Millis),
}

impl TimeArg {
    /// The point in time; `now` is the present time of the store.
    pub(crate) fn at(self, now: Millis) -> Millis {
        match self {
            Self::Ago(ago) => before(now, ago),
            Self::At(at) => at,
        }
    }
}

impl FromStr for TimeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(millis) = text.parse() {
            return Ok(Self::At(millis));
        }
        if let Ok(ago) = humantime::parse_duration(text) {
            return Ok(Self::Ago(ago));
        }
        let time = humantime::parse_rfc3339_weak(text)
            .map_err(|_| "use 2h (ago), 2026-01-31T12:00:00Z, or Unix milliseconds".to_owned())?;
        let since_epoch = time.duration_since(UNIX_EPOCH).map_err(|_| "use a time after 1970".to_owned())?;
        Ok(Self::At(Millis::default().saturating_add(since_epoch)))
    }
}

/// The time that is `ago` before `now`.
pub(crate) fn before(now: Millis, ago: Duration) -> Millis {
    now.saturating_sub(ago)
}

/// The time that is `wait` after `now`.
pub(crate) fn after(now: Millis, wait: Duration) -> Millis {
    now.saturating_add(wait)
}

/// A status in which items have ended: DONE or DLQ.
pub(crate) fn parse_finished_status(word: &str) -> Result<Status, String> {
    match word.parse::<Status>().map_err(|err| err.to_string())? {
        status @ (Status::Done | Status::Dlq) => Ok(status),
        status => Err(format!("{status} items are not finished: use DONE or DLQ")),
    }
}

/// The meaning of `--dry-run`.
pub(crate) fn execution(dry_run: bool) -> Execution {
    if dry_run { Execution::DryRun } else { Execution::Apply }
}

/// Who asks for an action, and why: for the audit trail.
#[derive(Clone, Debug, Args)]
pub(crate) struct AuditArgs {
    /// Why, for the audit trail
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// Who, for the audit trail; user@host unless given
    #[arg(long)]
    pub(crate) actor: Option<String>,
}

impl AuditArgs {
    /// The actor and the reason for the audit trail. Without `--actor`, the actor is the user of this process.
    pub(crate) fn actor_and_reason(self, context: &Context) -> (String, Option<String>) {
        (self.actor.unwrap_or_else(|| context.config.identity.to_string()), self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_duration_ago_a_date_or_milliseconds() {
        assert_eq!("2h".parse::<TimeArg>().unwrap().at(Millis::new(7_200_500)), 500);
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(TimeArg::At(Millis::new(1_000))));
        assert_eq!("1234".parse(), Ok(TimeArg::At(Millis::new(1_234))));
        assert!("yesterday".parse::<TimeArg>().is_err());
        assert!("1969-01-01T00:00:01Z".parse::<TimeArg>().is_err());
    }

    #[test]
    fn only_finished_items_are_operated_on_in_bulk() {
        assert_eq!(parse_finished_status("dead"), Ok(Status::Dlq));
        assert_eq!(parse_finished_status("PUBLISHED"), Ok(Status::Done));
        assert!(parse_finished_status("PENDING").is_err());
        assert!(parse_finished_status("x").is_err());
    }
}
