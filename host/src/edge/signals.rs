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

use super::Edge;
use super::error::ApiError;
use super::items::{self, Parameters, number};
use crate::saga::Signal;
use crate::store::StoreError;

/// How many signals are read at a time.
const BATCH: u32 = 256;

/// The store announces new work, which not every signal comes with; so it is also asked this often. An
/// idle stream costs one indexed read each time.
const POLL: Duration = Duration::from_millis(250);

/// `GET /signals?after=SEQ`: the stream, or a page when JSON is asked for.
pub(super) async fn signals(
    State(edge): State<Arc<Edge>>,
    query: Result<Parameters, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(parameters) = query?;
    let (after, limit) = position(&parameters, &headers)?;
    // The first read comes before the answer, so that a store that fails is seen as such.
    let first = edge.store.signals(after, limit).await?;
    if wants_json(&headers) {
        return Ok(Json(first).into_response());
    }
    let changes = edge.store.changes();
    let follower = Follower { edge, after, batch: first.into(), changes };
    Ok(Sse::new(follow(follower)).keep_alive(KeepAlive::default()).into_response())
}

/// From where, and how much at first. A reconnecting client sends where it was as a header, beside the query of its first request.
fn position(parameters: &[(String, String)], headers: &HeaderMap) -> Result<(i64, u32), ApiError> {
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
struct Follower {
    edge: Arc<Edge>,
    after: i64,
    batch: VecDeque<Signal>,
    changes: watch::Receiver<u64>,
}

/// Ends when the process shuts down or the store fails; the client reconnects with its place.
fn follow(follower: Follower) -> impl Stream<Item = Result<Event, axum::Error>> {
    stream::unfold(follower, |mut follower| async move {
        let signal = follower.next().await?;
        let event = Event::default().id(signal.seq.to_string()).json_data(&signal);
        Some((event, follower))
    })
}

impl Follower {
    async fn next(&mut self) -> Option<Signal> {
        while self.batch.is_empty() && self.wait().await {
            match self.edge.store.signals(self.after, BATCH).await {
                Ok(signals) => self.batch = signals.into(),
                Err(err) => return give_up(&err),
            }
        }
        let signal = self.batch.pop_front()?;
        self.after = signal.seq;
        Some(signal)
    }

    /// Waits until a look may be worth it. Says no when the process shuts down.
    async fn wait(&mut self) -> bool {
        tokio::select! {
            () = self.edge.stop.cancelled() => false,
            Ok(()) = self.changes.changed() => true,
            () = tokio::time::sleep(POLL) => true,
        }
    }
}

fn give_up(err: &StoreError) -> Option<Signal> {
    tracing::warn!(error = %err, "a stream of signals ended: the store did not answer");
    None
}
