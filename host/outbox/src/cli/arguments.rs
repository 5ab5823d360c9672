//! Arguments that several verbs share, and their conversion into requests to the store.

use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;

use outbox_item::{Millis, Status, millis};
use outbox_registry::{ImageReference, ReferenceError};
use outbox_store::{Execution, Filter, MemberIs, UnknownName};

use crate::cli::context::Context;

/// Arguments that cannot be used together, found after clap has accepted each of them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// The error about an unknown name, for a command with the flag `--force`.
pub(crate) fn not_forced(unknown: &UnknownName) -> anyhow::Error {
    anyhow::anyhow!("{unknown}: correct it, or add --force")
}

/// The image that an argument names. It is read here and not by clap, which would repeat a password in it.
pub(crate) fn image(text: &str) -> Result<ImageReference, UsageError> {
    text.parse().map_err(|err: ReferenceError| UsageError(err.to_string()))
}

/// Which items, besides their status.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FilterArgs {
    /// Only items of this type
    #[arg(long = "type", value_name = "TYPE")]
    item_type: Option<String>,
    /// Only the item with this idempotency key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only items whose idempotency key begins so
    #[arg(long, value_name = "PREFIX")]
    key_prefix: Option<String>,
    /// Only items of this saga
    #[arg(long)]
    saga: Option<String>,
    /// Only items with this correlation id
    #[arg(long)]
    cid: Option<String>,
    /// Only items with this ordering key
    #[arg(long, value_name = "KEY")]
    ordering_key: Option<String>,
    /// Only items with this fairness key
    #[arg(long, value_name = "KEY")]
    fairness_key: Option<String>,
    /// Only items that this process has claimed: see `outbox stats`
    #[arg(long)]
    pod: Option<String>,
    /// Only items enqueued since: 2h (ago), 2026-01-31, 2026-01-31T12:00:00+02:00, or Unix milliseconds
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
    /// Only items whose last attempt the component with this whole SHA-256 made
    #[arg(long, value_name = "SHA-256")]
    handler_digest: Option<String>,
    /// Only items whose last failure has this text in its message, in capital or small letters
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Only items whose payload is JSON with this member, such as order.id=17 or lines.0.sku=A1
    #[arg(long, value_name = "PATH=VALUE")]
    payload: Vec<MemberIs>,
    /// Only items with this header
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<MemberIs>,
    /// Only items with this member of their metadata
    #[arg(long, value_name = "PATH=VALUE")]
    metadata: Vec<MemberIs>,
    /// Only items with this text in their payload, headers, metadata or the message of their last failure, in capital or
    /// small letters
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
}

impl FilterArgs {
    /// The filter that the arguments describe; `now` is the present time of the store.
    pub(crate) fn filter(self, status: Option<Status>, now: Millis) -> Filter {
        Filter {
            status: status.into_iter().collect(),
            r#type: self.item_type,
            idem_key: self.key,
            key_prefix: self.key_prefix,
            saga: self.saga,
            cid: self.cid,
            ordering_key: self.ordering_key,
            fairness_key: self.fairness_key,
            pod: self.pod,
            created_from: self.since.map(|since| since.at(now)),
            created_to: self.until.map(|until| until.at(now)),
            finished_from: self.finished_since.map(|since| since.at(now)),
            finished_to: self.finished_until.map(|until| until.at(now)),
            available_from: self.available_since.map(|since| since.at(now)),
            available_to: self.available_until.map(|until| until.at(now)),
            fingerprint: self.fingerprint,
            handler_digest: self.handler_digest,
            error: self.error,
            payload: self.payload,
            headers: self.header,
            metadata: self.metadata,
            text: self.text,
            ..Filter::default()
        }
    }
}

/// A share in percent, from `0%` to `99%`.
pub(crate) fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|percent| *percent < 100);
    number.ok_or_else(|| "use a share from 0% to 99%, such as 20%".to_owned())
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
        if let Ok(millis) = text.parse::<Millis>() {
            let is_plausible = millis >= MILLISECONDS_FROM;
            return is_plausible
                .then_some(Self::At(millis))
                .ok_or_else(|| format!("{text} milliseconds are before 2001: use {TIMES}. Are these seconds?"));
        }
        if let Ok(ago) = humantime::parse_duration(text) {
            return Ok(Self::Ago(ago));
        }
        date_and_time(text)
            .ok_or_else(|| format!("use {TIMES}, in a year from 1970"))
            .map(|time| Self::At(Millis::new(time)))
    }
}

/// The year 2001. A smaller number is most likely a time in seconds.
const MILLISECONDS_FROM: Millis = Millis::new(978_307_200_000);

/// The times that are understood.
const TIMES: &str = "2h (ago), 2026-01-31, 2026-01-31T12:00:00Z, 2026-01-31T12:00:00+02:00, or Unix milliseconds";

/// The Unix milliseconds of a time of RFC 3339. Without a time it is midnight, and without a zone it is UTC.
fn date_and_time(text: &str) -> Option<i64> {
    let text = text.to_ascii_uppercase();
    let (date, time) = text.split_at_checked("2026-01-31".len())?;
    let (time, offset) = match time.rfind(['+', '-']) {
        Some(sign) => (&time[..sign], offset_minutes(&time[sign..])?),
        None => (time.strip_suffix('Z').unwrap_or(time), 0),
    };
    let is_time = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'T' | b' ' | b':' | b'.');
    if !time.bytes().all(is_time) {
        return None;
    }
    let seconds = match time.len() {
        0 => "T00:00:00",
        6 => ":00",
        _ => "",
    };
    let utc = humantime::parse_rfc3339_weak(&format!("{date}{time}{seconds}")).ok()?;
    let since_epoch = millis(utc.duration_since(UNIX_EPOCH).ok()?);
    since_epoch.checked_sub(offset * 60_000).filter(|time| *time >= 0)
}

/// The minutes of an offset such as `+02:00`, `+0200` or `+02`.
fn offset_minutes(offset: &str) -> Option<i64> {
    let (sign, digits) = offset.split_at_checked(1)?;
    let digits = digits.replacen(':', "", 1);
    if !matches!(digits.len(), 2 | 4) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = digits.split_at(2);
    let (hours, minutes) = (hours.parse::<i64>().ok()?, minutes.parse::<i64>().unwrap_or(0));
    let total = (hours <= 23 && minutes <= 59).then_some(hours * 60 + minutes)?;
    Some(if sign == "-" { -total } else { total })
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
    fn a_password_in_the_name_of_an_image_is_not_repeated() {
        let refused = image("ada:hunter2@r.example/p:1").unwrap_err().to_string();
        assert!(refused.contains("OUTBOX_REGISTRY_AUTH_FILE") && !refused.contains("hunter2"), "{refused}");
    }

    #[test]
    fn a_moment_is_a_duration_ago_a_date_or_milliseconds() {
        assert_eq!("2h".parse::<TimeArg>().unwrap().at(Millis::new(7_200_500)), 500);
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(TimeArg::At(Millis::new(1_000))));
        let noon = TimeArg::At(Millis::new(1_769_860_800_000));
        for text in [
            "1769860800000",
            "2026-01-31T12:00:00Z",
            "2026-01-31t12:00:00z",
            "2026-01-31 12:00:00",
            "2026-01-31T12:00:00.000Z",
            "2026-01-31T14:00:00+02:00",
            "2026-01-31T07:00:00-05:00",
            "2026-01-31T17:30:00.000+0530",
            "2026-01-31T13:00+01",
            "2026-02-01T00:00:00+12:00",
        ] {
            assert_eq!(text.parse(), Ok(noon), "{text}");
        }
        assert_eq!("2026-01-31".parse(), Ok(TimeArg::At(Millis::new(1_769_817_600_000))));
        for text in [
            "1769860800",
            "-1",
            "yesterday",
            "1969-01-01T00:00:01Z",
            "1970-01-01T00:00:01+01:00",
            "2026-02-30",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00+1",
            "2026-01-31T12:00:00+ab:cd",
            "2026-01-31T",
            "2026-01-31T12:00:00Zulu",
            "é026-01-31",
        ] {
            let err = text.parse::<TimeArg>().unwrap_err();
            assert!(err.contains("2026-01-31T12:00:00+02:00"), "{text}: {err}");
        }
    }

    #[test]
    fn a_share_is_a_whole_number_of_percent_below_a_hundred() {
        assert_eq!((percent("20%"), percent("0")), (Ok(20), Ok(0)));
        for text in ["100%", "-1", "0.2", "%", ""] {
            assert!(percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_finished_items_are_operated_on_in_bulk() {
        assert_eq!(parse_finished_status("dead"), Ok(Status::Dlq));
        assert_eq!(parse_finished_status("PUBLISHED"), Ok(Status::Done));
        assert!(parse_finished_status("PENDING").is_err());
        assert!(parse_finished_status("x").is_err());
    }
}
