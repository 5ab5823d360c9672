//! Every crate requires documentation of its public items, and the first line of every file says what it owns.

use super::sources::texts;

/// The first line of a crate whose documentation page is the README.
const README_PAGE: &str = "include_str!(\"../README.md\")";

/// Whether a text begins with a line of documentation.
fn has_header(text: &str) -> bool {
    text.starts_with("//! ") || text.lines().next().is_some_and(|line| line.contains(README_PAGE))
}

/// The files whose text does not satisfy a condition.
fn without(is_asked: fn(&str) -> bool, holds: fn(&str) -> bool) -> Vec<String> {
    let asked = texts().into_iter().filter(|(file, _)| is_asked(file));
    asked.filter(|(_, text)| !holds(text)).map(|(file, _)| file).collect()
}

#[test]
fn every_crate_refuses_public_items_without_documentation() {
    let files = without(|file| file.ends_with("/src/lib.rs"), |text| text.contains("\n#![deny(missing_docs)]\n"));
    assert!(files.is_empty(), "these crates need #![deny(missing_docs)]: {files:#?}");
}

#[test]
fn every_file_begins_with_what_it_owns() {
    let files = without(|_| true, has_header);
    assert!(files.is_empty(), "these files must begin with a line `//! …` that says what they own: {files:#?}");
}
