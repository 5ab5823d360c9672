//! The cases of a handler, run and compared: what `outbox plugin test` and a handler's own tests call.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::case::Case;
use crate::case_diff::differences;
use crate::case_run::run_case;
use crate::case_update::update_case;
use outbox_runtime::simulation::Simulator;

/// What came of one case.
#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    /// The case.
    pub case: String,
    /// Its file.
    pub file: PathBuf,
    /// How what the handler did differs from what is expected.
    pub differences: Vec<String>,
    /// Whether what it did is expected from now on.
    pub accepted: bool,
    /// How long it took.
    #[serde(skip)]
    pub elapsed: Duration,
}

impl CaseReport {
    /// Whether all was as expected, or is now.
    pub fn is_passed(&self) -> bool {
        self.differences.is_empty() || self.accepted
    }
}

/// What is done with a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDifference {
    /// It is reported.
    Report,
    /// It is written into the case as what is expected from now on.
    Update,
}

/// A component and the folder of its cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseProject {
    /// The component.
    pub component: PathBuf,
    /// Its cases.
    pub cases: PathBuf,
}

impl CaseProject {
    /// What lies at a path: a component, with `cases/` beside it, or a folder with one component in it.
    pub fn find(path: &Path) -> anyhow::Result<Self> {
        let component = if path.is_dir() { only_component(path)? } else { path.to_owned() };
        let cases = component.parent().unwrap_or(Path::new("")).join("cases");
        Ok(Self { component, cases })
    }
}

fn only_component(folder: &Path) -> anyhow::Result<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("looking for a component in {}", folder.display()))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "wasm"));
    files.sort();
    match &files[..] {
        [file] => Ok(file.clone()),
        [] => bail!("there is no .wasm in {}: build it with `outbox plugin build`", folder.display()),
        [first, second, ..] => {
            bail!("which one is meant, {} or {}? Name the file", first.display(), second.display())
        }
    }
}

/// Runs every case of a project in the sandbox, with no network and with a clock and random numbers that do not change.
pub async fn test(project: &CaseProject, on_difference: OnDifference) -> anyhow::Result<Vec<CaseReport>> {
    let cases = Case::read_all(&project.cases)?;
    let simulator = Simulator::open(&project.component).await?;
    let mut reports = Vec::new();
    for case in &cases {
        reports.push(test_case(&simulator, case, on_difference).await.with_context(|| format!("case {}", case.name))?);
    }
    Ok(reports)
}

async fn test_case(simulator: &Simulator, case: &Case, on_difference: OnDifference) -> anyhow::Result<CaseReport> {
    let begun = Instant::now();
    let plugin = simulator.plugin(&case.environment(), case.configuration()).await?;
    let item_type = &case.item.r#type;
    if !plugin.types().contains(item_type) {
        bail!("its item is of the type {item_type:?}, and the handler handles {}", plugin.types().join(", "));
    }
    let outcome = run_case(&plugin, case).await;
    let differences = differences(case, &outcome);
    let accepted = on_difference == OnDifference::Update && !differences.is_empty() && outcome.unanswered.is_empty();
    if accepted {
        update_case(case, &outcome)?;
    }
    Ok(CaseReport { case: case.name.clone(), file: case.file.clone(), differences, accepted, elapsed: begun.elapsed() })
}

/// Runs the cases that lie in `cases/` beside a component or in its folder, for a handler's own
/// `cargo test`.
///
/// # Panics
/// With the differences, when a case is not as expected.
pub fn assert_cases(path: impl AsRef<Path>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let reports = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let project = CaseProject::find(path.as_ref())?;
        runtime.block_on(test(&project, OnDifference::Report))
    });
    let reports = reports.unwrap_or_else(|err| panic!("{err:#}"));
    let failed = reports.iter().filter(|report| !report.is_passed());
    let failures: Vec<_> =
        failed.map(|failed| format!("{}:\n{}", failed.case, failed.differences.join("\n"))).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// The outcome in the XML that build servers read.
pub fn junit(reports: &[CaseReport]) -> String {
    let failures = reports.iter().filter(|report| !report.is_passed()).count();
    let cases: String = reports.iter().map(junit_case).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"outbox plugin test\" tests=\"{}\" failures=\"{failures}\">\n{cases}</testsuite>\n",
        reports.len()
    )
}

fn junit_case(report: &CaseReport) -> String {
    let (name, seconds) = (escaped(&report.case), report.elapsed.as_secs_f64());
    let failure = if report.is_passed() {
        String::new()
    } else {
        let text = escaped(&report.differences.join("\n"));
        format!("    <failure message=\"not as expected\">{text}</failure>\n")
    };
    format!("  <testcase name=\"{name}\" time=\"{seconds:.3}\">\n{failure}  </testcase>\n")
}

fn escaped(text: &str) -> String {
    let is_allowed = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    let text: String = text.chars().filter(is_allowed).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
