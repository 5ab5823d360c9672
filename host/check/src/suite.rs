//! Runs all cases of a project and reports the differences, for `outbox plugin test` and a handler's own tests.
//!
//! It finds the files and opens the component; `case_run.rs` runs a case and `case_diff.rs` compares.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;

use outbox_runtime::simulation::Simulator;

use crate::case::Case;
use crate::case_diff::differences;
use crate::case_run::run_case;
use crate::case_update::update_case;

/// The result of one case.
#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    /// The name of the case.
    pub case: String,
    /// The path of its file.
    pub file: PathBuf,
    /// How the attempt differs from what the case expects, one line or block for each difference.
    pub differences: Vec<String>,
    /// Whether the differences were written into the case.
    #[serde(rename = "accepted")]
    pub is_accepted: bool,
    /// The duration of the case.
    #[serde(skip)]
    pub elapsed: Duration,
}

impl CaseReport {
    /// Whether the attempt was as expected, or the case was updated.
    pub fn is_passed(&self) -> bool {
        self.differences.is_empty() || self.is_accepted
    }
}

/// What to do with differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDifference {
    /// Report them.
    Report,
    /// Report them and write them into the case, as what it expects from then on.
    Update,
}

/// A component and the folder of its cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseProject {
    /// The file of the component.
    pub component: PathBuf,
    /// The folder of the case files.
    pub cases: PathBuf,
    /// The folder of compiled code, which a host of the same user shares; `None` compiles the component each time.
    pub cache: Option<PathBuf>,
}

impl CaseProject {
    /// The project at a path: a component with `cases/` beside it, or a folder with one component. Errors when the
    /// path does not exist, or when the folder has no component or several. Nothing is cached.
    pub fn find(path: &Path) -> anyhow::Result<Self> {
        if !path.exists() {
            bail!("there is no {}: name a component, or the folder of one", path.display());
        }
        let component = if path.is_dir() { only_component(path)? } else { path.to_owned() };
        let cases = component.parent().unwrap_or(Path::new("")).join("cases");
        Ok(Self { component, cases, cache: None })
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

/// Runs every case of a project in the sandbox, without a network and with a fixed clock and seed. Errors when the
/// component or a case file is unusable; differences are in the reports.
pub async fn test(project: &CaseProject, on_difference: OnDifference) -> anyhow::Result<Vec<CaseReport>> {
    let cases = Case::read_all(&project.cases)?;
    let simulator = Simulator::open(&project.component, project.cache.as_deref()).await?;
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
    let is_accepted = on_difference == OnDifference::Update && !differences.is_empty() && outcome.unanswered.is_empty();
    if is_accepted {
        update_case(case, &outcome)?;
    }
    Ok(CaseReport {
        case: case.name.clone(),
        file: case.file.clone(),
        differences,
        is_accepted,
        elapsed: begun.elapsed(),
    })
}

/// Runs the cases of the project at `path`, for a handler's own `cargo test`. See [`CaseProject::find`] for the path.
///
/// # Panics
/// When the project is unusable or a case is not as expected. The message lists the differences.
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
