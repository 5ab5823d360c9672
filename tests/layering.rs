//! The layering rules of ARCHITECTURE.md, checked against the text of the sources.

use std::collections::BTreeMap;
use std::path::Path;

const MODULES: [&str; 13] = [
    "check",
    "cli",
    "config",
    "edge",
    "handler",
    "item",
    "main",
    "plugin",
    "retry",
    "saga",
    "store",
    "telemetry",
    "worker",
];

/// Every source file below host/src, by its path from there, without its test module and comments.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                sources.insert(relative(&path, &root), code(&path));
            }
        }
    }
    sources
}

fn relative(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap().to_str().unwrap().to_owned()
}

fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The top-level module that a file belongs to.
fn module(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap()
}

/// Asserts that a word stands only in files that `allowed` accepts.
fn only_in(word: &str, allowed: impl Fn(&str) -> bool) {
    for (file, code) in sources() {
        assert!(!code.contains(word) || allowed(&file), "`{word}` must not stand in {file}");
    }
}

/// Asserts that a module imports no other modules of ours than these.
fn imports_only(of: &str, allowed: &[&str]) {
    for (file, code) in sources().into_iter().filter(|(file, _)| module(file) == of) {
        for other in MODULES.iter().filter(|other| **other != of && !allowed.contains(other)) {
            for path in [format!("crate::{other}::"), format!("crate::{other};"), format!("outbox::{other}")] {
                assert!(!code.contains(&path), "{file} must not import {other}");
            }
        }
    }
}

#[test]
fn every_module_of_the_library_is_known_to_these_rules() {
    for file in sources().keys().filter(|file| *file != "lib.rs") {
        assert!(MODULES.contains(&module(file)), "{file} belongs to a module without a rule");
    }
}

#[test]
fn modules_import_only_what_lies_below_them() {
    imports_only("item", &[]);
    imports_only("retry", &["item"]);
    imports_only("saga", &["item"]);
    imports_only("handler", &["item", "retry"]);
    imports_only("store", &["item", "saga"]);
    imports_only("worker", &["item", "retry", "saga", "handler", "store"]);
    imports_only("plugin", &["item", "retry", "handler"]);
    imports_only("check", &["item", "retry", "handler", "store", "worker", "plugin"]);
    imports_only("edge", &["item", "saga", "handler", "store", "retry"]);
    imports_only("config", &["item", "retry", "saga"]);
    imports_only("telemetry", &["config"]);
    imports_only("main", &["cli"]);
}

#[test]
fn the_pure_modules_do_no_io_and_are_not_async() {
    for (file, code) in sources().into_iter().filter(|(file, _)| matches!(module(file), "item" | "retry" | "saga")) {
        for word in ["tokio", "rusqlite", "async fn", "std::fs", "std::net", "SystemTime", "Instant::now"] {
            assert!(!code.contains(word), "`{word}` must not stand in {file}");
        }
    }
}

#[test]
fn each_library_has_one_home() {
    for driver in ["rusqlite", "tokio_postgres", "deadpool_postgres"] {
        only_in(driver, |file| file.starts_with("store/"));
    }
    for sql in ["FROM outbox_", "INTO outbox_", "UPDATE outbox_", "FROM outbox.", "INTO outbox.", "UPDATE outbox."] {
        only_in(sql, |file| file.starts_with("store/"));
    }
    only_in("wasmtime", |file| module(file) == "plugin");
    only_in("axum", |file| module(file) == "edge");
    only_in("clap", |file| matches!(module(file), "cli" | "main"));
    only_in("std::env", |file| module(file) == "config");
    only_in("println!", |file| module(file) == "cli");
}

#[test]
fn only_the_store_tells_the_time() {
    only_in("SystemTime::now", |file| matches!(module(file), "store" | "cli"));
    // On PostgreSQL it is the database, because hosts disagree.
    only_in("SystemTime", |file| !file.starts_with("store/postgres"));
}

#[test]
fn no_file_has_grown_past_what_can_be_read_at_once() {
    for (file, code) in sources() {
        let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= 500, "{file} has {lines} lines of code: what is it really two of?");
    }
}
