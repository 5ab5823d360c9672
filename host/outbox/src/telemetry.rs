//! The log: one subscriber for the process, which writes to standard error as text or JSON, and sends lines to a
//! collector where one is named.
//!
//! This file decides the format and the filter of log lines. It knows no code that logs.

mod log_queue;
mod otlp;
mod repetition;
mod text_fields;

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, TelemetrySettings};
use crate::telemetry::log_queue::LogQueue;
use crate::telemetry::repetition::{LeftOut, RepetitionLayer, Repetitions};
use crate::telemetry::text_fields::TextFields;

pub(crate) use crate::telemetry::otlp::{Otlp, Sending};

/// How long the end of a process waits for the reader of its log.
const FLUSH_MAX: Duration = Duration::from_millis(200);

/// A filter that cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error("RUST_LOG is {filter:?}: use a level or directives such as info,outbox=debug ({problem})")]
pub(crate) struct InvalidFilter {
    filter: String,
    problem: String,
}

/// The log of this process. Dropping it waits a moment until the lines so far are written.
pub(crate) struct Log {
    queue: Arc<LogQueue>,
    /// What is to be sent, until that begins.
    otlp: Mutex<Option<Otlp>>,
}

impl Log {
    /// Starts to write log lines to standard error. `filter` is in the language of `RUST_LOG`. A process that has a
    /// subscriber already keeps it. What `telemetry` asks for is gathered.
    pub(crate) fn start(format: LogFormat, filter: &str, telemetry: &TelemetrySettings) -> anyhow::Result<Self> {
        let filter = parse(filter)?;
        let (queue, repetitions) = (Arc::<LogQueue>::default(), Arc::<Repetitions>::default());
        // A copy of the descriptor: a thread that waits in a write holds no lock that others need.
        let out = std::io::stderr().as_fd().try_clone_to_owned().context("opening standard error for the log")?;
        let ending = Arc::clone(&repetitions);
        let mut reported = 0;
        let pause = move |dropped| {
            let (left_out, next) = ending.ended(Instant::now());
            left_out.iter().for_each(LeftOut::log);
            report_dropped(dropped, &mut reported);
            next
        };
        queue.start(File::from(out), pause).context("starting the thread of the log")?;
        let writer = {
            let queue = Arc::clone(&queue);
            move || LineWriter(Arc::clone(&queue))
        };
        let (otlp, lines) = Otlp::new(telemetry);
        let registry = tracing_subscriber::registry()
            .with(filter)
            .with(RepetitionLayer { repetitions, queue: Arc::clone(&queue) })
            .with(lines);
        let started = match format {
            LogFormat::Text => {
                let lines = tracing_subscriber::fmt::layer().with_writer(writer).fmt_fields(TextFields);
                registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init()
            }
            LogFormat::Json => {
                let lines = tracing_subscriber::fmt::layer().with_writer(writer).json();
                registry.with(lines.flatten_event(true).with_current_span(false)).try_init()
            }
        };
        if let Err(err) = started {
            tracing::debug!(error = %err, "keeping the subscriber that is there");
        }
        Ok(Self { queue, otlp: Mutex::new(Some(otlp)) })
    }

    /// Begins to send what is gathered; once in a process. `ca_files` have authorities that vouch for collectors.
    pub(crate) fn send_telemetry(&self, ca_files: &[PathBuf]) -> Sending {
        let otlp = self.otlp.lock().unwrap_or_else(PoisonError::into_inner).take();
        otlp.unwrap_or_else(|| Otlp::new(&TelemetrySettings::default()).0).send(ca_files)
    }

    /// Writes a line that is no event, after the lines so far.
    pub(crate) fn print(&self, line: &str) {
        self.queue.push(format!("{line}\n").as_bytes());
    }

    /// Has panics logged as events. The usual way writes them to standard error and waits for its reader.
    pub(crate) fn log_panics() {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let words = panic.payload_as_str().unwrap_or("without words");
            tracing::error!(place, thread = std::thread::current().name(), "a part of the host panicked: {words}");
        }));
    }

    /// The number of lines that were dropped so far, at each call.
    pub(crate) fn dropped_lines(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let queue = Arc::clone(&self.queue);
        move || queue.dropped()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.flush(FLUSH_MAX);
    }
}

fn parse(filter: &str) -> Result<EnvFilter, InvalidFilter> {
    let invalid = |problem: ParseError| InvalidFilter { filter: filter.to_owned(), problem: problem.to_string() };
    EnvFilter::builder().parse(filter).map_err(invalid)
}

fn report_dropped(dropped: u64, reported: &mut u64) {
    let count = dropped - std::mem::replace(reported, dropped);
    if count > 0 {
        tracing::warn!(target: "outbox::log", count, "log lines were dropped: standard error was not read in time");
    }
}

/// Adds what is written to the queue, one line at a time.
struct LineWriter(Arc<LogQueue>);

impl io::Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_not_understood_is_named() {
        let err = parse("outbox=loud").unwrap_err().to_string();
        assert!(err.starts_with("RUST_LOG is \"outbox=loud\""), "{err}");
    }
}
