//! The files that ARCHITECTURE.md names exist, and docs/errors.md lists exactly the words that the host uses.

use std::collections::BTreeSet;

use outbox::item::Status;
use outbox::store::{Action, EffectKeys, LeasePolicy, Refusal};

use crate::layering::sources::sources;
use crate::support::guests::root;

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|err| panic!("reading {path}: {err}"))
}

/// The words in backticks that begin the rows of the tables below a heading, up to the next heading.
pub(crate) fn rows(document: &str, heading: &str) -> BTreeSet<String> {
    let after = document.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}")).1;
    let section = after.split("\n#").next().unwrap();
    let words = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    words.map(|(word, _)| word.to_owned()).collect()
}

/// Every string literal of the host's sources outside tests that has the form of a failure code: `PART.PART`.
fn literal_codes() -> BTreeSet<String> {
    const OWNERS: [&str; 10] =
        ["breaker", "crashes", "followups", "handler", "host", "lease", "operator", "plugin", "retries", "row"];
    let is_code = |word: &&str| {
        word.split_once('.').is_some_and(|(owner, rest)| {
            (OWNERS.contains(&owner) || owner == "state")
                && !rest.is_empty()
                && rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        })
    };
    let is_file = |word: &str| [".js", ".py", ".wit"].iter().any(|ending| word.ends_with(ending));
    let literals = sources()
        .into_values()
        .flat_map(|code| code.split('"').skip(1).step_by(2).filter(is_code).map(str::to_owned).collect::<Vec<_>>());
    literals.filter(|word| !is_file(word)).collect()
}

/// The files and folders that a document names in backticks.
fn named_paths(document: &str) -> BTreeSet<String> {
    let tops = ["host/", "tests/", "plugins/", "wit/", "docs/", "bench/", "fuzz/"];
    let quoted = document.split('`').skip(1).step_by(2);
    let paths = quoted.filter(|word| {
        tops.iter().any(|top| word.starts_with(top)) && !word.contains([' ', '*', '<']) && !word.contains("VERSION")
    });
    paths.map(str::to_owned).collect()
}

#[test]
fn the_path_of_an_item_is_25_files_that_exist() {
    let architecture = read("ARCHITECTURE.md");
    let path = architecture.split_once("<!-- path -->").unwrap().1.split_once("<!-- /path -->").unwrap().0;
    let steps: Vec<_> = path.trim().lines().collect();
    for (index, step) in steps.iter().enumerate() {
        let numbered = format!("{}. `", index + 1);
        let file = step.strip_prefix(&numbered).unwrap_or_else(|| panic!("{step:?} must begin with {numbered:?}"));
        let (file, purpose) = file.split_once("`: ").expect("a file and its purpose");
        assert!(root().join(file).is_file(), "{file} does not exist");
        assert!(!purpose.is_empty(), "{file} has no purpose");
    }
    assert_eq!(steps.len(), 25);
}

#[test]
fn every_file_that_a_document_names_exists() {
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "SECURITY.md"] {
        for path in named_paths(&read(document)) {
            assert!(root().join(&path).exists(), "{document} names {path}, which does not exist");
        }
    }
}

#[test]
fn every_failure_code_of_the_host_is_explained() {
    let documented = rows(&read("docs/errors.md"), "### Codes of the host");
    assert_eq!(literal_codes(), documented);
}

#[test]
fn every_code_of_the_sdks_is_explained() {
    let documented = rows(&read("docs/errors.md"), "### Codes of the SDKs");
    let mut text = String::new();
    for folder in ["plugins/sdk/src", "plugins/sdk/src/http", "plugins/sdk-js/outbox", "plugins/sdk-py/outbox"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap().map(Result::unwrap) {
            text +=
                &if entry.path().is_file() { std::fs::read_to_string(entry.path()).unwrap() } else { String::new() };
        }
    }
    for code in documented {
        let (owner, rest) = code.split_once('.').unwrap();
        let is_there = text.contains(&format!("{code}\"")) || text.contains(&format!("{code}'"));
        // The host composes some codes at run time: upstream.<status>, and the errors of an interface.
        let is_composed = ["config", "followups", "state", "upstream"].contains(&owner)
            && (text.contains(&format!("\"{rest}\"")) || text.contains(&format!("{owner}.")));
        assert!(is_there || is_composed, "no SDK makes the code {code}");
    }
}

#[test]
fn every_failure_class_is_explained() {
    let documented = rows(&read("docs/errors.md"), "## Failure classes");
    let known: BTreeSet<_> = outbox::core::FailureClass::ALL.iter().map(|class| class.as_str().to_owned()).collect();
    assert_eq!(known, documented);
}

#[test]
fn every_problem_type_is_explained() {
    let documented = rows(&read("docs/errors.md"), "## Problem types");
    let source = read("host/http/src/problem.rs");
    let function = source.split_once("fn problem_type(").unwrap().1.split_once("\n    }\n").unwrap().0;
    let known: BTreeSet<_> = function.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(known, documented);
}

#[test]
fn every_refusal_of_an_action_is_explained() {
    let documented = rows(&read("docs/errors.md"), "## Refusals of operator actions");
    let lease = LeasePolicy::Respect;
    let actions = [
        Action::Replay { keys: EffectKeys::Same },
        Action::Dead { on_dead: outbox::core::OnDead::Block, lease },
        Action::Restore,
        Action::Reschedule { at: 0.into() },
        Action::Release { lease },
        Action::Purge,
    ];
    let from = Status::Pending;
    let wrong = actions.iter().map(|action| Refusal::WrongStatus { from, action: action.kind() });
    let others = [Refusal::NoSuchItem, Refusal::LeaseHeld, Refusal::NotByOperator, Refusal::SagaOpen];
    let texts = wrong.chain(others).map(|refusal| refusal.to_string().replace("it is PENDING", "it is <status>"));
    assert_eq!(texts.collect::<BTreeSet<_>>(), documented);
}
