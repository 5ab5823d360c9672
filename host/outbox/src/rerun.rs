//! Makes a failed attempt of an item again in a simulation, against the answers that were recorded.
//!
//! `plugin replay-item` and the trials of the cockpit use it. Nothing is sent or stored. Where the component comes from
//! is not known here.

use std::sync::Arc;

use serde_json::{Value, json};

use outbox_core::{FailedAttempt, StateChange, StateKeyChange, StateReader};
use outbox_item::{Item, NewItem, Status, payload_value};
use outbox_runtime::simulation::{
    AttemptEnd, Divergence, RecordedWorld, ReplayedRequest, SimulatedAttempt, SimulatedPlugin,
};
use outbox_store::ItemDetails;

/// How the attempt ended this time, and where it left the recording.
pub(crate) struct Rerun {
    pub(crate) ending: AttemptEnd,
    pub(crate) requests: Vec<ReplayedRequest>,
    pub(crate) divergences: Vec<Divergence>,
}

/// Makes the attempt again. Requests that were not recorded are answered with the status `otherwise`; without one the
/// attempt ends there.
pub(crate) async fn rerun(
    plugin: &SimulatedPlugin,
    details: &ItemDetails,
    attempt: &FailedAttempt,
    otherwise: Option<u16>,
    state: Arc<dyn StateReader>,
) -> Rerun {
    let world = Arc::new(RecordedWorld::new(attempt.recording.clone(), otherwise));
    let simulated = SimulatedAttempt {
        item: as_claimed(details, attempt),
        world: world.clone(),
        state,
        now: attempt.started_at,
        seed: attempt.delivery.into(),
    };
    let ending = plugin.run(simulated).await;
    let (requests, divergences) = world.finish();
    Rerun { ending, requests, divergences }
}

/// The item as it was after the claim of the attempt.
fn as_claimed(details: &ItemDetails, attempt: &FailedAttempt) -> Item {
    let mut before = details.failed_attempts.iter().filter(|other| other.delivery < attempt.delivery);
    Item {
        status: Status::Claimed,
        attempts: attempt.attempt,
        deliveries: attempt.delivery,
        claimed_at: Some(attempt.started_at),
        maybe_executed: before.any(|other| other.maybe_executed),
        ..details.item.clone()
    }
}

/// What would be written to a key of the plugin's state; `None` where it would only be read.
pub(crate) fn state_change(StateKeyChange { key, change, .. }: &StateKeyChange) -> Option<Value> {
    match change {
        StateChange::None => None,
        StateChange::Put(value) => Some(json!({ "key": key, "put": payload_value(value) })),
        StateChange::Delete => Some(json!({ "key": key, "delete": true })),
    }
}

/// An item that would be enqueued.
pub(crate) fn followup(item: &NewItem) -> Value {
    json!({ "type": item.item_type, "idem_key": item.idem_key, "payload": payload_value(&item.payload) })
}

/// Where the attempt left the recording, as a person reads it.
pub(crate) fn in_words(divergence: &Divergence) -> String {
    match divergence {
        Divergence::NotRecorded { method, url, difference } => format!("{method} {url} was not recorded: {difference}"),
        Divergence::NotSent { method, url } => format!("{method} {url} was recorded and is not sent"),
        Divergence::Shortened { method, url, kept: 1 } => {
            format!("{method} {url} is answered with the one byte that was kept")
        }
        Divergence::Shortened { method, url, kept } => {
            format!("{method} {url} is answered with the {kept} bytes that were kept")
        }
    }
}
