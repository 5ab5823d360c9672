//! A downstream pod: a real HTTP service that honours idempotency keys, and that tests can kill.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{AppendHeaders, IntoResponse, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// One request as the pod received it.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedRequest {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl ReceivedRequest {
    /// A header's value, or the empty text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A status, and the value of `Retry-After` in seconds.
type CannedAnswer = (u16, Option<u32>);

/// The received requests and the settings of a pod. It survives the death of the pod, as a database would.
#[derive(Default)]
pub(crate) struct Ledger {
    received: Mutex<Vec<ReceivedRequest>>,
    answer: Mutex<Option<CannedAnswer>>,
    body: Mutex<Option<Bytes>>,
    takes: Mutex<Duration>,
}

impl Ledger {
    /// Every request, in the order of arrival.
    pub(crate) fn received(&self) -> Vec<ReceivedRequest> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often the pod received each idempotency key. A receiver that honours keys performs one effect per key.
    pub(crate) fn effects(&self) -> BTreeMap<String, usize> {
        let mut effects = BTreeMap::new();
        for request in self.received() {
            *effects.entry(request.header("idempotency-key").to_owned()).or_default() += 1;
        }
        effects
    }

    /// From now on the pod takes `time` for each request.
    pub(crate) fn take(&self, time: Duration) {
        *self.takes.lock().unwrap_or_else(PoisonError::into_inner) = time;
    }

    /// From now on the pod's answers have this body.
    pub(crate) fn answer_with_body(&self, body: &str) {
        *self.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(Bytes::copy_from_slice(body.as_bytes()));
    }

    /// From now on the pod answers every request with this status, and with this `Retry-After` in seconds if given.
    pub(crate) fn answer_with(&self, status: u16, retry_after: Option<u32>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some((status, retry_after));
    }
}

/// A running pod.
pub(crate) struct Downstream {
    /// The address on which it listens.
    pub(crate) address: SocketAddr,
    /// The requests that it has received, and its settings.
    pub(crate) ledger: Arc<Ledger>,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Downstream {
    /// Starts a pod on a free port.
    pub(crate) async fn start() -> Self {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::default()).await
    }

    /// Its base URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes the port and every connection. From now on the system refuses connections.
    pub(crate) async fn kill(self) -> StoppedDownstream {
        self.stop.cancel();
        if let Err(err) = self.serving.await {
            assert!(err.is_cancelled(), "the pod panicked: {err}");
        }
        StoppedDownstream { address: self.address, ledger: self.ledger }
    }

    async fn listen(address: SocketAddr, ledger: Arc<Ledger>) -> Self {
        let listener = TcpListener::bind(address).await.expect("binding the pod's port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let app = Router::new().fallback(receive).with_state(Arc::clone(&ledger));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let serving = tokio::spawn(async move {
            let served = stopped.run_until_cancelled(axum::serve(listener, app).into_future()).await;
            assert!(served.is_none(), "the pod stopped by itself");
        });
        Self { address, ledger, stop, serving }
    }
}

/// A pod that was killed.
pub(crate) struct StoppedDownstream {
    address: SocketAddr,
    ledger: Arc<Ledger>,
}

impl StoppedDownstream {
    /// Starts the pod again on the same port, with its stored data.
    pub(crate) async fn revive(self) -> Downstream {
        Downstream::listen(self.address, self.ledger).await
    }
}

async fn receive(
    State(ledger): State<Arc<Ledger>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    // Chosen before the request becomes visible: a test that waits for the request can then change the next answer.
    let answer = *ledger.answer.lock().unwrap_or_else(PoisonError::into_inner);
    let path = uri.path().to_owned();
    ledger.received.lock().unwrap_or_else(PoisonError::into_inner).push(ReceivedRequest {
        method,
        path,
        headers,
        body,
    });
    let takes = *ledger.takes.lock().unwrap_or_else(PoisonError::into_inner);
    tokio::time::sleep(takes).await;
    let (status, retry_after) = answer.unwrap_or((200, None));
    let retry_after = retry_after.map(|seconds| (RETRY_AFTER, seconds.to_string()));
    let status = StatusCode::from_u16(status).expect("a status that HTTP knows");
    let body = ledger.body.lock().unwrap_or_else(PoisonError::into_inner).clone();
    (status, AppendHeaders(retry_after), body.unwrap_or_else(|| r#"{"ok":true}"#.into())).into_response()
}
