//! Saga signals: a stream of server-sent events, or one page as JSON.
//!
//! A stream sends every committed signal once and in order. The `seq` of a signal is the id of its event, so a client
//! that reconnects continues after the last event it received. The server buffers only the batch that it sends.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::QueryRejection;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use tokio::sync::OwnedSemaphorePermit;

use outbox_store::{Signal, SignalSeq, StoreError};

use crate::newest_signal::Follower;
use crate::problem::ApiError;
use crate::query::{QueryParameters, SignalQuery, number};
use crate::server_state::ServerState;

/// Signals per read: enough to catch up quickly, few enough to keep in memory for every client.
const BATCH: u32 = 256;

/// `GET /signals?after=SEQ`: a stream, or a page when the client accepts JSON only.
pub(crate) async fn signals(
    State(state): State<Arc<ServerState>>,
    query: Result<QueryParameters, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let SignalQuery { after, limit } = start_position(query?.0, &headers)?;
    // The first read happens before the response, so that a store that fails is a problem and not an empty stream.
    let first = state.inspect.signals(after, limit).await?;
    if wants_json(&headers) {
        return Ok(Json(first).into_response());
    }
    let Ok(place) = Arc::clone(&state.stream_places).try_acquire_owned() else {
        return Err(ApiError::TooManyStreams);
    };
    let newest = state.newest_signal.follow(&state.inspect);
    let signals = SignalStream { state, after, batch: first.into(), newest, _place: place };
    Ok(Sse::new(into_events(signals)).keep_alive(KeepAlive::default()).into_response())
}

/// A client that reconnects repeats the query of its first request and adds the header `Last-Event-ID`, which wins.
fn start_position(parameters: Vec<(String, String)>, headers: &HeaderMap) -> Result<SignalQuery, ApiError> {
    let mut query = SignalQuery::parse(parameters, BATCH)?;
    if let Some(last) = headers.get("last-event-id").and_then(|value| value.to_str().ok()) {
        query.after = number("Last-Event-ID", last)?;
    }
    Ok(query)
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.contains("application/json") && !accept.contains("text/event-stream")
}

/// The position of one client in the signals.
struct SignalStream {
    state: Arc<ServerState>,
    /// The `seq` of the last signal that was sent.
    after: SignalSeq,
    /// Signals that were read and not sent yet.
    batch: VecDeque<Signal>,
    newest: Arc<Follower>,
    _place: OwnedSemaphorePermit,
}

/// The stream ends when the process shuts down or the store fails. The client then reconnects with its position.
fn into_events(signals: SignalStream) -> impl Stream<Item = Result<Event, axum::Error>> {
    stream::unfold(signals, |mut signals| async move {
        let signal = signals.next().await?;
        let event = Event::default().id(signal.seq.to_string()).json_data(&signal);
        Some((event, signals))
    })
}

impl SignalStream {
    async fn next(&mut self) -> Option<Signal> {
        while self.batch.is_empty() && self.wait_for_signal().await {
            match self.state.inspect.signals(self.after, BATCH).await {
                Ok(signals) => self.batch = signals.into(),
                Err(err) => return end_after_error(&err),
            }
        }
        let signal = self.batch.pop_front()?;
        self.after = signal.seq;
        Some(signal)
    }

    /// Waits until the store has signals that were not sent. Returns false when the process shuts down.
    async fn wait_for_signal(&mut self) -> bool {
        tokio::select! {
            () = self.state.stop.cancelled() => false,
            is_newer = self.newest.newer_than(self.after) => is_newer,
        }
    }
}

fn end_after_error(err: &StoreError) -> Option<Signal> {
    tracing::warn!(error = %err, "a stream of signals ended: the store did not answer");
    None
}
