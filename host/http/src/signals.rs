//! Saga signals: a stream of them as they are committed (server-sent events), or a page of them as JSON.
//!
//! Every signal is sent once per stream and in order, with its `seq` as the event's id, so that a client
//! that reconnects goes on where it was. Nothing is buffered here but the batch that is being sent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use tokio::sync::watch;

use crate::items::{QueryParameters, number};
use crate::problem::ApiError;
use crate::{HttpState, items};
use outbox_core::saga::Signal;
use outbox_store::StoreError;

/// How many signals are read at a time.
const BATCH: u32 = 256;

/// The store announces new work, which not every signal comes with; so it is also asked this often. An
/// idle stream costs one indexed read each time.
const POLL: Duration = Duration::from_millis(250);

/// `GET /signals?after=SEQ`: the stream, or a page when JSON is asked for.
pub(crate) async fn signals(
    State(state): State<Arc<HttpState>>,
    query: Result<QueryParameters, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(parameters) = query?;
    let (after, limit) = start_position(&parameters, &headers)?;
    // The first read comes before the answer, so that a store that fails is seen as such.
    let first = state.store.signals(after, limit).await?;
    if wants_json(&headers) {
        return Ok(Json(first).into_response());
    }
    let changes = state.store.subscribe();
    let signals = SignalStream { state, after, batch: first.into(), changes };
    Ok(Sse::new(into_events(signals)).keep_alive(KeepAlive::default()).into_response())
}

/// From where, and how much at first. A reconnecting client sends where it was as a header, beside the query of its first request.
fn start_position(parameters: &[(String, String)], headers: &HeaderMap) -> Result<(i64, u32), ApiError> {
    let (mut after, mut limit) = (0, BATCH);
    for (name, text) in parameters {
        match name.as_str() {
            "after" => after = number("after", text)?,
            "limit" => limit = items::limit(text, BATCH)?,
            _ => {
                return Err(ApiError::Invalid(format!("in the query: {name:?} is unknown; known are after and limit")));
            }
        }
    }
    if let Some(last) = headers.get("last-event-id").and_then(|value| value.to_str().ok()) {
        after = number("Last-Event-ID", last)?;
    }
    Ok((after, limit))
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.contains("application/json") && !accept.contains("text/event-stream")
}

/// One client's place in the signals.
struct SignalStream {
    state: Arc<HttpState>,
    after: i64,
    batch: VecDeque<Signal>,
    changes: watch::Receiver<u64>,
}

/// Ends when the process shuts down or the store fails; the client reconnects with its place.
fn into_events(signals: SignalStream) -> impl Stream<Item = Result<Event, axum::Error>> {
    stream::unfold(signals, |mut signals| async move {
        let signal = signals.next().await?;
        let event = Event::default().id(signal.seq.to_string()).json_data(&signal);
        Some((event, signals))
    })
}

impl SignalStream {
    async fn next(&mut self) -> Option<Signal> {
        while self.batch.is_empty() && self.wait_for_change().await {
            match self.state.store.signals(self.after, BATCH).await {
                Ok(signals) => self.batch = signals.into(),
                Err(err) => return end_after_error(&err),
            }
        }
        let signal = self.batch.pop_front()?;
        self.after = signal.seq;
        Some(signal)
    }

    /// Waits until a look may be worth it. Says no when the process shuts down.
    async fn wait_for_change(&mut self) -> bool {
        tokio::select! {
            () = self.state.stop.cancelled() => false,
            Ok(()) = self.changes.changed() => true,
            () = tokio::time::sleep(POLL) => true,
        }
    }
}

fn end_after_error(err: &StoreError) -> Option<Signal> {
    tracing::warn!(error = %err, "a stream of signals ended: the store did not answer");
    None
}
