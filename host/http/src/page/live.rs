//! The stream that tells a page to read itself again: one for each page that is open.
//!
//! It carries no data, so what a caller may see is decided where views are made.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::page::visit::Visit;
use crate::problem::ApiError;
use crate::server_state::ServerState;
use crate::signals::{STREAM_MAX, changed};
use crate::state::HttpSettings;

/// The shortest time between two notices: a person reads no faster.
const PAUSE: Duration = Duration::from_secs(2);

/// The longest time between two notices: ages grow also while nothing changes.
const QUIET: Duration = Duration::from_secs(10);

/// A page that wants to know when to read itself again.
struct Reader {
    state: Arc<ServerState>,
    changes: watch::Receiver<u64>,
    settings: watch::Receiver<Arc<HttpSettings>>,
    ends_at: Instant,
    _place: OwnedSemaphorePermit,
}

/// The stream.
pub(super) async fn live(visit: Visit) -> Result<Response, ApiError> {
    let state = visit.state;
    let Ok(place) = Arc::clone(&state.stream_places).try_acquire_owned() else {
        return Err(ApiError::TooManyStreams);
    };
    let mut settings = state.settings.clone();
    settings.mark_unchanged();
    let (changes, ends_at) = (state.inspect.subscribe(), Instant::now() + STREAM_MAX);
    let reader = Reader { state, changes, settings, ends_at, _place: place };
    let notices = stream::unfold(reader, |mut reader| async move {
        // Browsers drop an event without data.
        let notice = Event::default().event("change").data("now");
        reader.is_due().await.then_some((Ok::<_, Infallible>(notice), reader))
    });
    Ok(Sse::new(notices).keep_alive(KeepAlive::default()).into_response())
}

impl Reader {
    /// Waits until the page is to read itself again. False when the stream ends: the process shuts down, its settings
    /// change, or the stream has lasted for its time.
    async fn is_due(&mut self) -> bool {
        let due = async {
            sleep(PAUSE).await;
            tokio::select! {
                _ = self.changes.changed() => {}
                () = sleep(QUIET) => {}
            }
        };
        tokio::select! {
            () = self.state.stop.cancelled() => false,
            () = changed(&mut self.settings) => false,
            () = sleep_until(self.ends_at) => false,
            () = due => true,
        }
    }
}
