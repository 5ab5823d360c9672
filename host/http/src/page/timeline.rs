//! What happened to an item, in order: its enqueueing, its attempts, what operators did, and where it is now.

use outbox_core::FailedAttempt;
use outbox_item::{Item, Millis, Status};
use outbox_store::{AuditEntry, ItemDetails};

use crate::answers::{Sight, Visible};
use crate::page::content::{ShownExchange, exchange, plain};
use crate::page::why::HIDDEN;
use crate::page::words::{Moment, NO_REASON, short_digest, span};

/// Something that happened.
pub(super) struct Event {
    at: Millis,
    pub(super) when: Moment,
    /// How long after the event before it.
    pub(super) after: Option<String>,
    /// The class of its mark.
    pub(super) class: &'static str,
    pub(super) what: String,
    pub(super) about: String,
    /// The job that did it.
    pub(super) job: Option<String>,
    pub(super) message: Option<String>,
    pub(super) stderr: Option<String>,
    pub(super) exchanges: Vec<ShownExchange>,
    pub(super) exchanges_left_out: u32,
}

impl Event {
    fn new(at: Millis, class: &'static str, what: String, about: String) -> Self {
        Self {
            at,
            when: Moment::at(at),
            after: None,
            class,
            what,
            about,
            job: None,
            message: None,
            stderr: None,
            exchanges: Vec::new(),
            exchanges_left_out: 0,
        }
    }
}

/// The events, oldest first.
pub(super) fn timeline(details: &ItemDetails, sight: &Sight) -> Vec<Event> {
    let enqueued = Event::new(details.item.created_at, "off", "Enqueued".to_owned(), String::new());
    let attempts = details.failed_attempts.iter().map(|failed| attempt(failed, sight));
    let actions = details.audit.iter().map(action);
    let mut events: Vec<_> = std::iter::once(enqueued).chain(attempts).chain(actions).collect();
    events.extend(present(&details.item));
    events.sort_by_key(|event| event.at);
    let times: Vec<_> = events.iter().map(|event| event.at).collect();
    for (event, before) in events.iter_mut().skip(1).zip(times) {
        event.after = Some(format!("+{}", span(event.at.since(before))));
    }
    events
}

fn attempt(failed: &FailedAttempt, sight: &Sight) -> Event {
    let took = span(failed.ended_at.since(failed.started_at));
    let by = failed.handler_digest.as_deref().map(|digest| format!(", handler {}", short_digest(digest)));
    let maybe = if failed.maybe_executed { "; it may have had its effect" } else { "" };
    let about = format!("on {}{}, took {took}{maybe}", failed.pod, by.unwrap_or_default());
    let what = format!("Attempt {}: {} ({})", failed.attempt, failed.code, failed.class.as_str());
    let (message, stderr, exchanges) = match sight.content(()) {
        Visible::Hidden => (Some(format!("The message is {HIDDEN}.")), None, Vec::new()),
        Visible::Shown(()) => {
            let exchanges = failed.recording.exchanges.iter().map(exchange).collect();
            (Some(plain(&failed.message)), failed.stderr.as_deref().map(plain), exchanges)
        }
    };
    let exchanges_left_out = failed.recording.omitted;
    Event { message, stderr, exchanges, exchanges_left_out, ..Event::new(failed.ended_at, "bad", what, about) }
}

fn action(entry: &AuditEntry) -> Event {
    let what = format!("{} by {}", capital(&entry.action), entry.actor);
    let reason = entry.reason.as_deref().unwrap_or(NO_REASON).to_owned();
    Event { job: entry.job.map(|job| job.to_string()), ..Event::new(entry.at, "run", what, reason) }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// What is not in the history, because it is where the item is now.
fn present(item: &Item) -> Option<Event> {
    let by = item.handler_digest.as_deref().map(|digest| format!("by handler {}", short_digest(digest)));
    match item.status {
        Status::Pending => None,
        Status::Claimed => {
            let by = item.claimed_by.as_deref().map(|pod| format!("by {pod}")).unwrap_or_default();
            Some(Event::new(item.claimed_at?, "run", format!("Claimed for attempt {}", item.attempts), by))
        }
        Status::Done => Some(Event::new(item.done_at?, "done", "Done".to_owned(), by.unwrap_or_default())),
        Status::Dlq => Some(Event::new(item.dead_at?, "bad", "Dead-lettered".to_owned(), String::new())),
    }
}
