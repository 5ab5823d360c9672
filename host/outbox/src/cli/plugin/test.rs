//! `plugin test`: runs the cases of a handler and compares the results with the expectations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Args;

use outbox_check::{CaseProject, CaseReport, OnDifference, junit, test};

use crate::cli::context::Context;
use crate::cli::output::{count, to_stderr, whole_error};

/// The pause between two looks at the files with `--watch`.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Run a handler's cases in the sandbox, with no network and with clocks that stand still
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// A component with cases/ beside it, or the folder of both
    path: PathBuf,
    /// Take what the handler does now as what its cases expect
    #[arg(long)]
    update: bool,
    /// Run again whenever the component, its manifest or a case is saved
    #[arg(long)]
    watch: bool,
    /// Also write the outcome as `JUnit` XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

pub(crate) async fn run(args: TestArgs, context: &Context) -> anyhow::Result<ExitCode> {
    if !args.watch {
        return once(&args, context).await;
    }
    loop {
        let seen = modification_times(&args.path);
        if let Err(err) = once(&args, context).await {
            to_stderr(&format!("error: {}", whole_error(&err)));
        }
        while modification_times(&args.path) == seen {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

async fn once(args: &TestArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let cache = Some(context.config.cache_dir.clone());
    let project = CaseProject { cache, ..CaseProject::find(&args.path)? };
    let on_difference = if args.update { OnDifference::Update } else { OnDifference::Report };
    let reports = test(&project, on_difference).await?;
    if let Some(file) = &args.junit {
        std::fs::write(file, junit(&reports)).with_context(|| format!("writing {}", file.display()))?;
    }
    context.output.emit(&reports, || summary(&reports))?;
    let is_passed = reports.iter().all(CaseReport::is_passed);
    Ok(if is_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(reports: &[CaseReport]) -> String {
    let failed = reports.iter().filter(|report| !report.is_passed()).count();
    let mut lines: Vec<_> = reports.iter().map(case_summary).collect();
    lines.push(match failed {
        0 => format!("{} as expected", count(reports.len() as u64, "case")),
        failed => format!("{failed} of {} not as expected", count(reports.len() as u64, "case")),
    });
    lines.join("\n")
}

fn case_summary(report: &CaseReport) -> String {
    let word = match (report.is_passed(), report.is_accepted) {
        (true, false) => "ok",
        (true, true) => "updated",
        (false, _) => "FAILED",
    };
    let differences =
        report.differences.iter().map(|difference| format!("\n    {}", difference.replace('\n', "\n    ")));
    format!("{word:8} {}{}", report.case, differences.collect::<String>())
}

/// The components, manifests and cases of a project, with the time of the last write to each.
fn modification_times(path: &Path) -> BTreeMap<PathBuf, Option<SystemTime>> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    let entries = [folder.to_owned(), folder.join("cases")].into_iter().filter_map(|dir| std::fs::read_dir(dir).ok());
    let files = entries.flatten().filter_map(Result::ok).map(|entry| entry.path());
    let matters = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "wasm" || extension == "toml");
    let written = |file: &Path| file.metadata().and_then(|meta| meta.modified()).ok();
    files.filter(matters).map(|file| (file.clone(), written(&file))).collect()
}
