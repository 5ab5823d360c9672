//! The way to a collector: HTTP, with TLS where its URL asks for it, and one log line for each cause that it cannot be
//! reached.
//!
//! It knows nothing of what is sent.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::ensure;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use outbox_runtime::TlsConfig;

use crate::config::Collector;

/// Sends to one collector.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    client: HyperClient<HttpsConnector<HttpConnector>>,
    /// What the log calls the collector: the rest of its URL may be secret.
    origin: String,
    /// Why the last request failed; `None` when it did not.
    failing: Arc<Mutex<Option<String>>>,
}

impl Reach {
    pub(super) fn new(collector: &Collector, ca_files: &[PathBuf]) -> anyhow::Result<Self> {
        // The exporter would show the whole URL.
        let is_valid = Request::get(collector.url.expose()).body(()).is_ok();
        ensure!(is_valid, "the URL of the collector at {} is not valid", collector.origin());
        let tls = TlsConfig::new(ca_files)?.client();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = HyperClient::new(connector, collector.timeout, None);
        Ok(Self { client, origin: collector.origin(), failing: Arc::default() })
    }

    /// Logs when requests begin to fail for another reason, and when they succeed again.
    fn note(&self, failure: Option<String>) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if *failing == failure {
            return;
        }
        if let Some(why) = &failure {
            tracing::warn!(
                target: "outbox::telemetry", collector = self.origin, error = why,
                "the collector takes no telemetry: what it should have got meanwhile is dropped"
            );
        } else {
            tracing::info!(target: "outbox::telemetry", collector = self.origin, "the collector takes telemetry again");
        }
        *failing = failure;
    }
}

#[async_trait::async_trait]
impl HttpClient for Reach {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.client.send_bytes(request).await;
        self.note(match &sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("the collector answered {}", answer.status())),
            Err(err) => Some(with_causes(&**err)),
        });
        sent
    }
}

/// An error with its causes, on one line.
fn with_causes(err: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(err), |err| err.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The headers of each request.
pub(super) fn headers(collector: &Collector) -> HashMap<String, String> {
    collector.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect()
}
