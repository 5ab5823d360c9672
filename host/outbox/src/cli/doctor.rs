//! `doctor`: checks an installation and says what to do about each problem.
//!
//! It writes nothing: it creates and migrates no database, and keeps no component and no compiled code.

mod alerts;
mod checks;
mod images;
mod places;
mod result;
mod server;

use std::process::ExitCode;

use crate::cli::doctor::result::{CheckResult, Severity};
use crate::cli::output::{Output, table};
use crate::config::{Config, ConfigError};

/// Runs every check, or only that of the configuration when it cannot be used. Fails when a check fails.
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
    results.extend(images::check(config).await);
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
