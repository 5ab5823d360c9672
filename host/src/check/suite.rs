//! The cases of a handler, run and compared: what `outbox plugin test` and a handler's own tests call.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::accept::accept;
use super::case::Case;
use super::differences::differences;
use super::rehearse::rehearse;
use crate::plugin::lab::Lab;

/// What came of one case.
#[derive(Clone, Debug, Serialize)]
pub struct Tested {
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
    pub took: Duration,
}

impl Tested {
    /// Whether all was as expected, or is now.
    pub fn is_passed(&self) -> bool {
        self.differences.is_empty() || self.accepted
    }
}

/// What is done with a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differing {
    /// It is told.
    Told,
    /// It is written into the case as what is expected from now on.
    Accepted,
}

/// A component and the folder of its cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// The component.
    pub component: PathBuf,
    /// Its cases.
    pub cases: PathBuf,
}

impl Project {
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

/// Runs every case of a project in the sandbox, with no network and with clocks and dice that stand still.
pub async fn test(project: &Project, differing: Differing) -> anyhow::Result<Vec<Tested>> {
    let cases = Case::read_all(&project.cases)?;
    let lab = Lab::open(&project.component).await?;
    let mut tested = Vec::new();
    for case in &cases {
        tested.push(test_case(&lab, case, differing).await.with_context(|| format!("case {}", case.name))?);
    }
    Ok(tested)
}

async fn test_case(lab: &Lab, case: &Case, differing: Differing) -> anyhow::Result<Tested> {
    let begun = Instant::now();
    let subject = lab.subject(&case.environment(), case.configuration()).await?;
    let item_type = &case.item.r#type;
    if !subject.types().contains(item_type) {
        bail!("its item is of the type {item_type:?}, and the handler handles {}", subject.types().join(", "));
    }
    let found = rehearse(&subject, case).await;
    let differences = differences(case, &found);
    let accepted = differing == Differing::Accepted && !differences.is_empty() && found.unanswered.is_empty();
    if accepted {
        accept(case, &found)?;
    }
    Ok(Tested { case: case.name.clone(), file: case.file.clone(), differences, accepted, took: begun.elapsed() })
}

/// Runs the cases that lie in `cases/` beside a component or in its folder, for a handler's own
/// `cargo test`.
///
/// # Panics
/// With the differences, when a case is not as expected.
pub fn assert_cases(path: impl AsRef<Path>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let tested = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let project = Project::find(path.as_ref())?;
        runtime.block_on(test(&project, Differing::Told))
    });
    let tested = tested.unwrap_or_else(|err| panic!("{err:#}"));
    let failed = tested.iter().filter(|tested| !tested.is_passed());
    let told: Vec<_> = failed.map(|failed| format!("{}:\n{}", failed.case, failed.differences.join("\n"))).collect();
    assert!(told.is_empty(), "{}", told.join("\n\n"));
}

/// The outcome in the XML that build servers read.
pub fn junit(tested: &[Tested]) -> String {
    let failures = tested.iter().filter(|tested| !tested.is_passed()).count();
    let cases: String = tested.iter().map(junit_case).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"outbox plugin test\" tests=\"{}\" failures=\"{failures}\">\n{cases}</testsuite>\n",
        tested.len()
    )
}

fn junit_case(tested: &Tested) -> String {
    let (name, seconds) = (escaped(&tested.case), tested.took.as_secs_f64());
    let failure = if tested.is_passed() {
        String::new()
    } else {
        let text = escaped(&tested.differences.join("\n"));
        format!("    <failure message=\"not as expected\">{text}</failure>\n")
    };
    format!("  <testcase name=\"{name}\" time=\"{seconds:.3}\">\n{failure}  </testcase>\n")
}

fn escaped(text: &str) -> String {
    let is_allowed = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    let text: String = text.chars().filter(is_allowed).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
