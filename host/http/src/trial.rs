//! A trial: a failed attempt of an item, made again by the handler of today in a simulation, against recorded answers.
//!
//! This file owns the request for a trial and its result. The server cannot run handlers by itself: the host gives it
//! [`HttpState::trials`](crate::HttpState::trials).

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::Value;

use outbox_core::{FailedAttempt, FailureClass};
use outbox_store::ItemDetails;

/// Makes a trial. Nothing is sent or stored. The error says, in words, why the attempt cannot be tried in this process.
pub type Trials = Arc<dyn Fn(TrialOrder) -> BoxFuture<'static, Result<TrialReport, String>> + Send + Sync>;

/// What is to be tried.
#[derive(Clone, Debug)]
pub struct TrialOrder {
    /// The item with its history.
    pub details: ItemDetails,
    /// The attempt of it that is made again.
    pub attempt: FailedAttempt,
    /// The status that answers requests which were not recorded; without one the attempt ends there.
    pub otherwise: Option<u16>,
}

/// What became of a trial.
#[derive(Clone, Debug)]
pub struct TrialReport {
    /// The plugin.
    pub plugin: String,
    /// The SHA-256 of its component, in hex.
    pub digest: String,
    /// How the attempt ended.
    pub ending: TrialEnd,
    /// The requests that the handler made, and their answers. None of them was sent.
    pub requests: Vec<TrialRequest>,
    /// Where the attempt left the recording, in words.
    pub differences: Vec<String>,
    /// What would be written to the state of the plugin: objects with `key`, and `put` or `delete`.
    pub state: Vec<Value>,
    /// The items that would be enqueued: objects with `type`, `idem_key` and `payload`.
    pub followups: Vec<Value>,
    /// The end of what the handler wrote.
    pub stderr: Option<String>,
}

/// How the attempt of a trial ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrialEnd {
    /// With success.
    Done {
        /// The result of the handler.
        result: Option<Vec<u8>>,
    },
    /// With a failure.
    Failed {
        /// Its class.
        class: FailureClass,
        /// Its code.
        code: String,
        /// Its message.
        message: String,
    },
    /// At a request that was not recorded.
    Stopped,
}

/// A request of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialRequest {
    /// Its method.
    pub method: String,
    /// Its URL.
    pub url: String,
    /// The answer: a status, or in words why there was none.
    pub answer: String,
    /// Whether this is the recorded answer.
    pub is_recorded: bool,
}
