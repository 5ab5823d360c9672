//! The log: one subscriber for the process, which writes to standard error as text or JSON.
//!
//! This file decides the format and the filter of log lines. It knows no code that logs.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// A filter that cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error("RUST_LOG is {filter:?}: use a level or directives such as info,outbox=debug ({problem})")]
pub(crate) struct InvalidFilter {
    filter: String,
    problem: String,
}

/// Starts to write log lines to standard error. `filter` is in the language of `RUST_LOG`. A process that has a
/// subscriber already keeps it.
pub(crate) fn start(format: LogFormat, filter: &str) -> Result<(), InvalidFilter> {
    let parsed = EnvFilter::builder()
        .parse(filter)
        .map_err(|err| InvalidFilter { filter: filter.to_owned(), problem: err.to_string() })?;
    let lines = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
    if let Err(err) = started {
        tracing::debug!(error = %err, "keeping the subscriber that is there");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_not_understood_is_named() {
        let err = start(LogFormat::Text, "outbox=loud").unwrap_err().to_string();
        assert!(err.starts_with("RUST_LOG is \"outbox=loud\""), "{err}");
    }
}
