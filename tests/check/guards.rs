//! The guards of the gallery, removed one mark at a time: the checker convicts a fixed handler without one of its guards.
//!
//! `plugins/gallery/src/lib.rs` says how guards are marked. A mark that makes no difference says why, and at most one
//! mark in ten may do so.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use outbox::check::{CheckOptions, CheckReport, check};

use super::gallery::EXHIBITS;
use crate::support::guests::{gallery, root};
use crate::support::{is_soak, report};

/// A guard of an exhibit.
#[derive(Debug)]
struct Mark {
    /// The name of the source file.
    file: String,
    exhibit: String,
    /// The indexes of the lines that are removed.
    lines: Range<usize>,
    /// Why the exhibit is just as good without it, if it is.
    equivalent: Option<String>,
}

/// The sources of the gallery, by the name of the file.
fn sources() -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(root().join("plugins/gallery/src")).unwrap().map(|entry| entry.unwrap().path());
    let source = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    entries.map(source).collect()
}

fn marks(sources: &BTreeMap<String, String>) -> Vec<Mark> {
    sources.iter().filter(|(file, _)| *file != "lib.rs").flat_map(|(file, source)| marks_of(file, source)).collect()
}

fn marks_of(file: &str, source: &str) -> Vec<Mark> {
    let (mut marks, mut exhibit, mut begun) = (Vec::new(), "", None);
    for (index, line) in source.lines().enumerate() {
        if let Some(function) = line.strip_prefix("pub(crate) fn ") {
            exhibit = function.split('(').next().unwrap();
        }
        let Some((code, mark)) = line.split_once("// guard") else { continue };
        let equivalent = mark.split_once("equivalent: ").map(|(_, reason)| reason.to_owned());
        let lines = if mark.starts_with(" end") {
            begun.take().map(|(first, equivalent)| (first..index + 1, equivalent))
        } else if mark.starts_with(" begin") {
            begun = Some((index, equivalent));
            None
        } else {
            assert!(!code.trim().is_empty(), "{file}:{}: a mark is behind the line that it marks", index + 1);
            Some((index..index + 1, equivalent))
        };
        marks.extend(lines.map(|(lines, equivalent)| Mark {
            file: file.to_owned(),
            exhibit: exhibit.to_owned(),
            lines,
            equivalent,
        }));
    }
    assert!(begun.is_none(), "{file}: a guard has no end");
    marks
}

/// The folder in which the gallery is built without a guard. It is a workspace of its own, and keeps what it compiled.
fn workshop() -> PathBuf {
    let folder = root().join("target/guards");
    std::fs::create_dir_all(folder.join("src")).unwrap();
    std::fs::create_dir_all(folder.join("cases")).unwrap();
    std::fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    std::fs::copy(gallery().join("gallery.toml"), folder.join("gallery.toml")).unwrap();
    let manifest = format!(
        "[package]\nname = 'gallery'\nversion = '0.1.0'\nedition = '2024'\n[lib]\ncrate-type = ['cdylib']\n\
         [dependencies]\noutbox-handler = {{ path = '{sdk}' }}\nserde = {{ version = '1', features = ['derive'] }}\n\
         serde_json = '1'\n[workspace]\n[profile.dev]\nopt-level = 1\ndebug = false\nstrip = true\npanic = 'abort'\n",
        sdk = root().join("plugins/sdk").display()
    );
    std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    folder
}

/// Builds the gallery without the lines of a mark. Returns the component.
fn build_without(folder: &Path, sources: &BTreeMap<String, String>, mark: &Mark) -> PathBuf {
    for (file, source) in sources {
        let is_kept = |index: usize| *file != mark.file || !mark.lines.contains(&index);
        let kept: Vec<_> =
            source.lines().enumerate().filter(|(index, _)| is_kept(*index)).map(|(_, line)| line).collect();
        std::fs::write(folder.join("src").join(file), kept.join("\n")).unwrap();
    }
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--offline", "--target", "wasm32-wasip2", "--target-dir", "target"]);
    let output = cargo.current_dir(folder).output().expect("running cargo");
    assert!(output.status.success(), "{mark:?}: {}", String::from_utf8_lossy(&output.stderr));
    let component = folder.join("gallery.wasm");
    std::fs::copy(folder.join("target/wasm32-wasip2/debug/gallery.wasm"), &component).unwrap();
    component
}

/// Checks the fixed handler of a mark without the mark.
async fn check_without(folder: &Path, sources: &BTreeMap<String, String>, mark: &Mark) -> CheckReport {
    let component = build_without(folder, sources, mark);
    let case = std::fs::read_to_string(gallery().join(format!("cases/{}.toml", mark.exhibit))).unwrap();
    let cases = tempfile::tempdir().unwrap();
    let case = format!("{case}\n[config]\ntwin = 'fixed'\n");
    std::fs::write(cases.path().join(format!("{}.toml", mark.exhibit)), case).unwrap();
    let options = CheckOptions { component, cases: cases.path().to_owned(), ..CheckOptions::default() };
    check(&options, Arc::new(|_| {})).await.unwrap().remove(0)
}

async fn assert_decisive(folder: &Path, sources: &BTreeMap<String, String>, mark: &Mark) {
    let checked = check_without(folder, sources, mark).await;
    let Mark { file, exhibit, lines, equivalent } = mark;
    let place = format!("{exhibit} without {file}:{}", lines.start + 1);
    match (checked.findings.first(), equivalent) {
        (Some(finding), None) => report(&format!("{place}: {:?}, {}", finding.kind, finding.schedule)),
        (None, Some(reason)) => report(&format!("{place}: equivalent, {reason}")),
        (None, None) => panic!("{place} is not convicted"),
        (Some(finding), Some(_)) => panic!("{place} is not equivalent: {finding:#?}"),
    }
}

#[test]
fn every_fixed_handler_has_guards_and_at_most_one_in_ten_makes_no_difference() {
    let marks = marks(&sources());
    for (name, ..) in EXHIBITS {
        assert!(marks.iter().any(|mark| mark.exhibit == name), "{name} has no guard");
    }
    let equivalent = marks.iter().filter(|mark| mark.equivalent.is_some()).count();
    assert!(equivalent * 10 <= marks.len(), "{equivalent} of {} marks are equivalent", marks.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_handler_is_convicted_without_any_of_its_guards() {
    let sources = sources();
    let marks = marks(&sources);
    let folder = workshop();
    let tried: Vec<_> = marks.iter().filter(|mark| is_soak() || mark.exhibit == "fails_when_gone").collect();
    assert!(!tried.is_empty());
    for mark in &tried {
        assert_decisive(&folder, &sources, mark).await;
    }
    report(&format!("{} of {} guards removed", tried.len(), marks.len()));
}
