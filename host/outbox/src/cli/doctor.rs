//! `doctor`: checks everything that the outbox needs, and says what to do about what is missing.
//!
//! Looks only: it creates and migrates no database. Loading the plugins may fill the cache of compiled code.

mod checks;
mod server;

use std::process::ExitCode;

use serde::Serialize;

use crate::cli::output::{Output, table};
use crate::config::{Config, ConfigError};

/// What one check came to.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct CheckResult {
    check: &'static str,
    #[serde(rename = "result")]
    severity: Severity,
    message: String,
    /// What to do; nothing where all is well.
    advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Ok,
    Warn,
    Fail,
}

impl CheckResult {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, severity: Severity::Ok, message: message.into(), advice: None }
    }

    fn warn(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, severity: Severity::Warn, message: message.into(), advice: Some(advice.into()) }
    }

    /// A failure whose message says what to do.
    fn error(check: &'static str, err: &impl std::fmt::Display) -> Self {
        Self { check, severity: Severity::Fail, message: format!("{err:#}"), advice: None }
    }

    fn fail(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, severity: Severity::Fail, message: message.into(), advice: Some(advice.into()) }
    }
}

/// Runs every check, or none but the configuration's when it cannot be used; fails when one of them does.
pub(crate) async fn run(config: Result<Config, ConfigError>, output: Output) -> anyhow::Result<ExitCode> {
    let results = match config {
        Ok(config) => run_checks(&config).await,
        Err(err) => vec![CheckResult::error("configuration", &err)],
    };
    output.emit(&results, || rows(&results))?;
    let failed = results.iter().any(|result| result.severity == Severity::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn run_checks(config: &Config) -> Vec<CheckResult> {
    let mut results = checks::configuration(config);
    results.extend(checks::location(config));
    results.extend(checks::database(config).await);
    results.extend(checks::plugins(config).await);
    results
}

fn rows(results: &[CheckResult]) -> String {
    let row = |result: &CheckResult| {
        let severity = match result.severity {
            Severity::Ok => "ok",
            Severity::Warn => "WARN",
            Severity::Fail => "FAIL",
        };
        let advice = result.advice.as_ref().map(|advice| format!(" → {advice}")).unwrap_or_default();
        [severity.to_owned(), result.check.to_owned(), format!("{}{advice}", result.message)]
    };
    table(["RESULT", "CHECK", "FINDING"], results.iter().map(row))
}
