//! Saga signals: a stream of server-sent events, or one page as JSON.
//!
//! A stream sends every committed signal once and in order. The `seq` of a signal is the id of its event, so a client
//! that reconnects continues after the last event it received. The server buffers only the batch that it sends.

use std::collections::VecDeque;
use std::future;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::QueryRejection;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};

use outbox_store::{Signal, SignalSeq, StoreError};

use crate::answers::SignalView;
use crate::description::SignalParameters;
use crate::newest_signal::Follower;
use crate::problem::ApiError;
use crate::query::{QueryParameters, SignalQuery, number};
use crate::server_state::ServerState;
use crate::state::HttpSettings;

/// Signals per read: enough to catch up quickly, few enough to keep in memory for every client.
const BATCH: u32 = 256;

/// How long a stream lasts: its caller then proves again that it may read.
pub(crate) const STREAM_MAX: Duration = Duration::from_hours(1);

/// Signals of sagas
///
/// A stream of server-sent events, each with the `seq` of its signal as its id; or one page when the request accepts JSON
/// only.
#[utoipa::path(get, path = "/signals", operation_id = "signals", tag = "host",
    params(SignalParameters, ("Last-Event-ID" = Option<i64>, Header, description = "The last event that the client has")),
    responses((status = 200, description = "The signals after `after`, oldest first",
        content((Vec<SignalView> = "application/json"), (String = "text/event-stream")))))]
pub(crate) async fn signals(
    State(state): State<Arc<ServerState>>,
    query: Result<QueryParameters, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let mut settings = state.settings.clone();
    settings.mark_unchanged();
    let SignalQuery { after, limit } = start_position(query?.0, &headers)?;
    // The first read happens before the response, so that a store that fails is a problem and not an empty stream.
    let first = state.inspect.signals(after, limit).await?;
    if wants_json(&headers) {
        let page: Vec<SignalView> = first.into_iter().map(SignalView::from).collect();
        return Ok(Json(page).into_response());
    }
    let Ok(place) = Arc::clone(&state.stream_places).try_acquire_owned() else {
        return Err(ApiError::TooManyStreams);
    };
    let newest = state.newest_signal.follow(&state.inspect);
    let ends_at = Instant::now() + STREAM_MAX;
    let signals = SignalStream { state, after, batch: first.into(), newest, settings, ends_at, _place: place };
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
    settings: watch::Receiver<Arc<HttpSettings>>,
    ends_at: Instant,
    _place: OwnedSemaphorePermit,
}

/// The stream ends when the process shuts down, its settings change, or the store fails. The client then reconnects with its position.
fn into_events(signals: SignalStream) -> impl Stream<Item = Result<Event, axum::Error>> {
    stream::unfold(signals, |mut signals| async move {
        let signal = signals.next().await?;
        let event = Event::default().id(signal.seq.to_string()).json_data(SignalView::from(signal));
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
        if self.ends_at <= Instant::now() {
            return None;
        }
        let signal = self.batch.pop_front()?;
        self.after = signal.seq;
        Some(signal)
    }

    /// Waits until the store has signals that were not sent. Returns false when the process shuts down, its settings
    /// change, or the stream has lasted for its time.
    async fn wait_for_signal(&mut self) -> bool {
        tokio::select! {
            () = self.state.stop.cancelled() => false,
            () = changed(&mut self.settings) => false,
            () = sleep_until(self.ends_at) => false,
            is_newer = self.newest.newer_than(self.after) => is_newer,
        }
    }
}

/// Waits until the settings change, perhaps for ever. A caller may have lost its rights, and proves them when it
/// reconnects.
pub(crate) async fn changed(settings: &mut watch::Receiver<Arc<HttpSettings>>) {
    if settings.changed().await.is_err() {
        future::pending::<()>().await;
    }
}

fn end_after_error(err: &StoreError) -> Option<Signal> {
    tracing::warn!(error = %err, "a stream of signals ended: the store did not answer");
    None
}
