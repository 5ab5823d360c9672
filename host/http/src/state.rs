//! What the HTTP server works with: capabilities of the store, the handlers, the operator's settings and the status of
//! the process.
//!
//! Holds data only. Does not know the routes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use outbox_core::saga::SagaDefinition;
use outbox_core::{AttemptDurations, BreakerStatus, Handler, PluginStatus};
use outbox_store::{Enqueue, Inspect, Operate, Redaction};

use crate::access::AccessSettings;
use crate::trial::Trials;

/// Everything that the routes use.
#[derive(Clone)]
pub struct HttpState {
    /// Takes durable writes, and counts requests that violate the contract.
    pub enqueue: Arc<dyn Enqueue>,
    /// Serves what clients and operators read.
    pub inspect: Arc<dyn Inspect>,
    /// Performs the actions of operators.
    pub operate: Arc<dyn Operate>,
    /// Runs the steps of inline writes.
    pub handler: Arc<dyn Handler>,
    /// The operator's settings, which can change while the server runs.
    pub settings: watch::Receiver<Arc<HttpSettings>>,
    /// Returns the present status of this process. Called for each probe, scrape and cockpit request.
    pub status: Arc<dyn Fn() -> HostStatus + Send + Sync>,
    /// Tries items with the handlers of this process, for the pages; `None` where there are none.
    pub trials: Option<Trials>,
    /// Ends the streams of signals when it is cancelled. A graceful shutdown would otherwise wait for them.
    pub stop: CancellationToken,
}

impl HttpState {
    /// The present settings.
    pub(crate) fn settings(&self) -> Arc<HttpSettings> {
        Arc::clone(&self.settings.borrow())
    }
}

/// The operator's settings of the HTTP server.
#[derive(Clone)]
pub struct HttpSettings {
    /// `OUTBOX_ENABLED`: whether writes are durable. Otherwise their steps run inline.
    pub is_durable: bool,
    /// `GOVERNOR_STRICT_MODE`: whether a write without both contract headers is refused.
    pub is_strict: bool,
    /// The sagas that a write may start.
    pub sagas: Vec<SagaDefinition>,
    /// Who may do what.
    pub access: AccessSettings,
    /// `OUTBOX_HOSTS`: Host headers that are accepted besides loopback names while nobody has to say who they
    /// are, and for users that a proxy names.
    pub hosts: Vec<String>,
    /// `OUTBOX_MAX_PENDING`: how many items may wait before writes are refused with 429; `None` sets no limit.
    pub max_pending: Option<u64>,
    /// `OUTBOX_METRICS_STORE`: whether `/metrics` has the metrics of the store too.
    pub metrics_store: bool,
    /// `OUTBOX_REDACT`: the members of payloads that are not shown.
    pub redaction: Redaction,
    /// The largest request body, in bytes. It is fixed when the router is made.
    pub max_body: usize,
    /// How long a request body may take to arrive.
    pub body_timeout: Duration,
    /// The timeout of an inline attempt whose type sets none.
    pub timeout_inline: Duration,
    /// The instance id of this process.
    pub pod: String,
    /// `OUTBOX_ENVIRONMENT`: what the pages call the place that this host serves, such as `production`.
    pub environment: Option<String>,
    /// `OUTBOX_ENVIRONMENT_COLOUR`: the colour of this name.
    pub environment_colour: EnvironmentColour,
}

/// The colour by which people tell the pages of one environment from those of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EnvironmentColour {
    /// The accent of the pages.
    #[default]
    Blue,
    /// Green.
    Green,
    /// Amber.
    Amber,
    /// Red.
    Red,
    /// Violet.
    Violet,
    /// Grey.
    Grey,
}

impl EnvironmentColour {
    /// Every colour, in the order of the documents.
    pub const ALL: [Self; 6] = [Self::Blue, Self::Green, Self::Amber, Self::Red, Self::Violet, Self::Grey];

    /// The word in the settings, and in the stylesheet.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
            Self::Amber => "amber",
            Self::Red => "red",
            Self::Violet => "violet",
            Self::Grey => "grey",
        }
    }

    /// The colour of this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|colour| colour.as_str() == word)
    }
}

impl HttpSettings {
    /// These settings, as those of a server that keeps them.
    pub fn fixed(self) -> watch::Receiver<Arc<Self>> {
        watch::Sender::new(Arc::new(self)).subscribe()
    }
}

impl Default for HttpSettings {
    /// Inline mode with the built-in saga, no tokens, bodies up to 1 MiB in 30 seconds, and 30 seconds per inline attempt.
    fn default() -> Self {
        Self {
            is_durable: false,
            is_strict: false,
            sagas: vec![SagaDefinition::write_memory()],
            access: AccessSettings::default(),
            hosts: Vec::new(),
            max_pending: None,
            metrics_store: false,
            redaction: Redaction::default(),
            max_body: 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            timeout_inline: Duration::from_secs(30),
            pod: String::new(),
            environment: None,
            environment_colour: EnvironmentColour::default(),
        }
    }
}

impl fmt::Debug for HttpSettings {
    /// Shows how many tokens there are, and hides them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSettings")
            .field("is_durable", &self.is_durable)
            .field("is_strict", &self.is_strict)
            .field("sagas", &self.sagas)
            .field("tokens", &self.access.tokens.len())
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

/// The status of the process that runs the HTTP server.
#[derive(Clone, Debug, Default)]
pub struct HostStatus {
    /// Whether the first scan of the plugin folders has finished, with any result.
    pub is_scanned: bool,
    /// The images of which no version has been loaded in this process.
    pub images_without_version: Vec<String>,
    /// Whether the store refused the last heartbeat. Such a store may answer reads and still refuse writes.
    pub is_read_only: bool,
    /// The plugins of this process, with old generations that still finish attempts.
    pub plugins: Vec<PluginStatus>,
    /// The types that handlers of this process serve.
    pub served_types: Vec<String>,
    /// How long attempts of this process took.
    pub durations: AttemptDurations,
    /// How many attempts run now.
    pub attempts_running: u64,
    /// `OUTBOX_CONCURRENCY`: how many attempts may run at a time.
    pub attempts_limit: u64,
    /// The breakers of this process that are not closed.
    pub breakers: Vec<BreakerStatus>,
    /// The log lines that this process dropped because its log was not read in time.
    pub dropped_log_lines: u64,
}
