//! `doctor`: checks everything that the outbox needs, and says what to do about what is missing.
//!
//! Looks only: it creates and migrates no database. Loading the plugins may fill the cache of compiled code.

mod checks;
mod server;

use std::process::ExitCode;

use serde::Serialize;

use super::output::{Output, table};
use crate::config::{Config, ConfigError};

/// What one check came to.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    result: Verdict,
    message: String,
    /// What to do; nothing where all is well.
    advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, result: Verdict::Ok, message: message.into(), advice: None }
    }

    fn warn(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, result: Verdict::Warn, message: message.into(), advice: Some(advice.into()) }
    }

    /// A failure whose message says what to do.
    fn error(check: &'static str, err: &impl std::fmt::Display) -> Self {
        Self { check, result: Verdict::Fail, message: format!("{err:#}"), advice: None }
    }

    fn fail(check: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, result: Verdict::Fail, message: message.into(), advice: Some(advice.into()) }
    }
}

/// Runs every check, or none but the configuration's when it cannot be used; fails when one of them does.
pub(super) async fn run(config: Result<Config, ConfigError>, output: Output) -> anyhow::Result<ExitCode> {
    let findings = match config {
        Ok(config) => examine(&config).await,
        Err(err) => vec![Finding::error("configuration", &err)],
    };
    output.emit(&findings, || rows(&findings))?;
    let failed = findings.iter().any(|finding| finding.result == Verdict::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = checks::configuration(config);
    findings.extend(checks::location(config));
    findings.extend(checks::database(config).await);
    findings.extend(checks::plugins(config).await);
    findings
}

fn rows(findings: &[Finding]) -> String {
    let row = |finding: &Finding| {
        let result = match finding.result {
            Verdict::Ok => "ok",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        let advice = finding.advice.as_ref().map(|advice| format!(" → {advice}")).unwrap_or_default();
        [result.to_owned(), finding.check.to_owned(), format!("{}{advice}", finding.message)]
    };
    table(["RESULT", "CHECK", "FINDING"], findings.iter().map(row))
}
