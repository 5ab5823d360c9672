//! What operators are told of breakers: log lines and alerts.
//!
//! Does not decide when a breaker opens.

use outbox_core::{BreakerNews, BreakerPolicy, BreakerStatus, Settlement};
use outbox_store::{Alert, AlertKind, Queue};

/// Logs what has happened to breakers of origins, and alerts operators of those that opened.
pub(crate) async fn tell(queue: &dyn Queue, news: Vec<BreakerNews>) {
    for event in news {
        match event {
            BreakerNews::Opened(status) => opened(queue, &status).await,
            BreakerNews::Closed(BreakerStatus { origin, open_for_ms, .. }) => tracing::info!(
                origin = origin.unwrap_or_default(),
                open_for_ms,
                "the breaker is closed: the receiver answers again, and attempts return slowly"
            ),
        }
    }
}

async fn opened(queue: &dyn Queue, status: &BreakerStatus) {
    let BreakerStatus { cause, items, types, .. } = status;
    let origin = status.subject();
    tracing::error!(
        origin, items, types = types.join(", "), %cause,
        "the breaker is open: the receiver fails, so items for it wait and use up no attempts"
    );
    let message = format!("{items} items failed at {origin}, the last: {cause}; items for it wait until it is back");
    alert(queue, Alert { kind: AlertKind::BreakerOpen, subject: types.join(", "), message }).await;
}

/// Logs that the process claims no items of the type for a while, and alerts operators.
pub(crate) async fn type_breaker_opened(
    queue: &dyn Queue,
    item_type: &str,
    policy: BreakerPolicy,
    settlement: &Settlement,
) {
    tracing::error!(
        item.type = item_type, failures = policy.failures, pause = ?policy.pause,
        "the breaker is open: this process claims no items of the type for a while"
    );
    let last = settlement.failure().map(|failure| failure.message.as_str()).unwrap_or_default();
    let message = format!("{} failures in a row, the last: {last}", policy.failures);
    alert(queue, Alert { kind: AlertKind::BreakerOpen, subject: item_type.to_owned(), message }).await;
}

async fn alert(queue: &dyn Queue, alert: Alert) {
    if let Err(err) = queue.send_alert(&alert).await {
        tracing::error!(error = %err, "the open breaker could not be announced");
    }
}
