//! The rules of ARCHITECTURE.md that the compiler cannot check; these tests compare them with manifests and sources.

mod docs;
mod imports;
mod names;
pub(crate) mod sources;

use std::collections::BTreeSet;

use crate::support::guests::root;

use sources::sources;

/// Each host crate with the host crates that it may depend on.
const ARROWS: [(&str, &[&str]); 12] = [
    ("item", &[]),
    ("client", &["item"]),
    ("core", &["item"]),
    ("store", &["core", "item"]),
    ("sqlite", &["client", "core", "item", "store"]),
    ("postgres", &["client", "core", "item", "store"]),
    ("worker", &["core", "item", "store"]),
    ("runtime", &["core", "item"]),
    ("http", &["core", "item", "store"]),
    ("registry", &[]),
    ("check", &["core", "item", "runtime"]),
    (
        "outbox",
        &["check", "client", "core", "http", "item", "postgres", "registry", "runtime", "sqlite", "store", "worker"],
    ),
];

/// Each heavy library with the crates that may depend on it.
const HOMES: [(&str, &[&str]); 18] = [
    ("axum", &["http"]),
    ("clap", &["outbox"]),
    ("deadpool-postgres", &["postgres"]),
    ("hyper", &["http", "runtime"]),
    ("minisign", &["registry"]),
    ("notify", &["runtime"]),
    ("oci-spec", &["registry"]),
    ("opentelemetry", &["outbox"]),
    ("opentelemetry-otlp", &["outbox"]),
    ("prometheus-client", &["http"]),
    ("ratatui", &["outbox"]),
    ("reqwest", &["registry"]),
    ("rusqlite", &["client", "sqlite"]),
    ("sqlx-core", &["client"]),
    ("tokio-postgres", &["client", "postgres"]),
    ("utoipa", &["http"]),
    ("utoipa-axum", &["http"]),
    ("wasmtime", &["runtime"]),
];

/// The names in the table `[dependencies]` of a host crate.
fn dependencies(krate: &str) -> BTreeSet<String> {
    let manifest = std::fs::read_to_string(root().join("host").join(krate).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().cloned().collect()
}

/// Asserts that a word occurs only in files that `allowed` accepts.
fn only_in(word: &str, allowed: impl Fn(&str) -> bool) {
    for (file, code) in sources() {
        assert!(!code.contains(word) || allowed(&file), "`{word}` must not be in {file}");
    }
}

#[test]
fn every_crate_of_the_host_is_known_to_these_rules() {
    let folders = std::fs::read_dir(root().join("host")).unwrap();
    let found: BTreeSet<_> = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let known: BTreeSet<_> = ARROWS.iter().map(|(krate, _)| (*krate).to_owned()).collect();
    assert_eq!(found, known);
}

#[test]
fn crates_depend_only_on_what_lies_below_them() {
    for (krate, allowed) in ARROWS {
        for name in dependencies(krate) {
            let Some(other) = name.strip_prefix("outbox-") else { continue };
            assert!(allowed.contains(&other), "host/{krate} must not depend on host/{other}");
        }
    }
}

#[test]
fn each_heavy_library_has_its_homes() {
    for (krate, _) in ARROWS {
        for name in dependencies(krate) {
            let homes = HOMES.iter().find(|(library, _)| name == *library).map(|(_, homes)| homes);
            assert!(homes.is_none_or(|homes| homes.contains(&krate)), "host/{krate} must not depend on {name}");
        }
    }
}

#[test]
fn sql_is_written_where_a_database_is_driven() {
    for sql in ["FROM outbox_", "INTO outbox_", "UPDATE outbox_", "FROM outbox.", "INTO outbox.", "UPDATE outbox."] {
        only_in(sql, |file| ["client/", "sqlite/", "postgres/"].iter().any(|home| file.starts_with(home)));
    }
}

#[test]
fn only_the_configuration_reads_the_environment_and_only_the_command_line_prints() {
    only_in("std::env", |file| file.starts_with("outbox/src/config"));
    only_in("println!", |file| file.starts_with("outbox/src/cli"));
}

#[test]
fn only_stores_the_command_line_and_the_plugin_folder_read_the_clock() {
    // On PostgreSQL the database provides the time, because the clocks of hosts differ. The age of a file of the plugin
    // folder is that on this machine.
    let homes = ["client/src/sqlite.rs", "sqlite/", "outbox/src/cli", "runtime/src/reload/reloader.rs"];
    only_in("SystemTime::now", |file| homes.iter().any(|home| file.starts_with(home)));
    only_in("SystemTime", |file| !file.starts_with("postgres/"));
}

#[test]
fn the_crates_without_io_have_none() {
    let pure = |file: &str| file.starts_with("item/") || file == "core/src/retry.rs" || file == "core/src/saga.rs";
    for (file, code) in sources().into_iter().filter(|(file, _)| pure(file)) {
        for word in ["tokio", "rusqlite", "async fn", "std::fs", "std::net", "SystemTime::now", "Instant::now"] {
            assert!(!code.contains(word), "`{word}` must not be in {file}");
        }
    }
}

#[test]
fn no_file_is_longer_than_can_be_read_at_once() {
    for (file, code) in sources() {
        let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= 400, "{file} has {lines} lines of code: divide it");
    }
}
