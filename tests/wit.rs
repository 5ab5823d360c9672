//! The contract in `wit/`: released versions do not change and keep working, and the reference document agrees with
//! the contract.

mod compare;
mod fixtures;
mod reference;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::support::guests::root;
use compare::{Contract, problems};

/// The released versions, each in a folder of its own.
fn released() -> PathBuf {
    root().join("tests/fixtures/released")
}

/// The numbers of the released versions, the oldest first.
fn versions() -> Vec<String> {
    let folders =
        std::fs::read_dir(released()).unwrap().map(|entry| entry.unwrap()).filter(|entry| entry.path().is_dir());
    let mut versions: Vec<_> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    versions.sort_by_key(|version| version.split('.').map(|part| part.parse::<u64>().unwrap()).collect::<Vec<_>>());
    versions
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

fn present() -> String {
    text(&root().join("wit/handler.wit"))
}

#[test]
fn the_contract_has_only_grown_since_its_last_release() {
    let last = versions().pop().expect("a version was released");
    let frozen = Contract::parse(&text(&released().join(&last).join("handler.wit")));
    let problems = problems(&frozen, &Contract::parse(&present()));
    assert!(problems.is_empty(), "wit/handler.wit breaks components of {last}:\n{}", problems.join("\n"));
}

#[test]
fn what_was_released_is_frozen_byte_for_byte() {
    let sums = text(&released().join("SHA256SUMS"));
    let lines = sums.lines().map(|line| line.split_once("  ").unwrap());
    let listed: BTreeMap<_, _> = lines.map(|(sum, file)| (file.to_owned(), sum.to_owned())).collect();
    let files = versions().into_iter().flat_map(|version| std::fs::read_dir(released().join(version)).unwrap());
    let digest = |file: PathBuf| {
        let name = file.strip_prefix(released()).unwrap().to_str().unwrap().to_owned();
        (name, hex(&Sha256::digest(std::fs::read(file).unwrap())))
    };
    let found: BTreeMap<_, _> = files.map(|file| digest(file.unwrap().path())).collect();
    assert_eq!(found, listed, "tests/fixtures/released is not what was released");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

/// The problems that the comparison reports when the present contract is changed in this way.
fn changed(changes: &[(&str, &str)]) -> Vec<String> {
    let frozen = present();
    let change = |text: String, (from, to): &(&str, &str)| {
        assert!(text.contains(from), "{from:?} does not stand in wit/handler.wit");
        text.replace(from, to)
    };
    problems(&Contract::parse(&frozen), &Contract::parse(&changes.iter().fold(frozen.clone(), change)))
}

/// A version that may follow the present one, and a function that it adds.
const NEXT: (&str, &str) = ("package outbox:handler@0.1.0", "package outbox:handler@0.1.1");
const WHOLE_GET: &str = "    /// The value of a key, or none.
    @since(version = 0.1.0)
    get: func(key: string) -> result<option<list<u8>>, error>;
";
const GET: &str = "    get: func(key: string) -> result<option<list<u8>>, error>;";

#[test]
fn every_way_to_break_a_compiled_component_is_found() {
    for (from, to, found) in [
        (WHOLE_GET, "", "`state.get` was removed"),
        (GET, "    get: func(key: string) -> result<list<u8>, error>;", "`state.get` was"),
        (GET, "    get: func(name: string) -> result<option<list<u8>>, error>;", "`state.get` was"),
        ("        quota,\n", "", "`state.error` was"),
        ("        quota,\n", "        quota,\n        full,\n", "`state.error` was"),
        (
            "        /// Not now: try again later, without counting this attempt.\n        defer,\n",
            "",
            "`types.failure-class` was",
        ),
        ("        message: string,", "        words: string,", "`types.failure` was"),
        ("        attempt: u32,", "        attempt: u64,", "`types.item` was"),
        ("        attempt: u32,", "        attempt: u32,\n        life: u32,", "`types.item` was"),
        ("type outcome = option<list<u8>>;", "type outcome = list<u8>;", "`types.outcome` was"),
        (
            "    describe: func() -> description;",
            "    describe: func() -> description;\n    @since(version = 0.1.1)\n    stop: func();",
            "`handler.stop` is new",
        ),
        (
            "    @since(version = 0.1.0)\n    import wasi:http/outgoing-handler@0.2.12;\n",
            "",
            "`world plugin: import wasi:http/outgoing-handler@0.2.12` was removed",
        ),
        (
            "    export handler;",
            "    export handler;\n    @since(version = 0.1.1)\n    import wasi:random/random@0.2.12;",
            "`world plugin: import wasi:random/random@0.2.12` is new",
        ),
    ] {
        let problems = changed(&[NEXT, (from, to)]);
        assert!(problems.iter().any(|problem| problem.starts_with(found)), "{from:?} → {to:?}: {problems:?}");
    }
}

#[test]
fn an_imported_interface_may_grow_by_functions_and_their_types_in_a_version_that_follows() {
    let typed = format!("{GET}\n\n    @since(version = 0.1.1)\n    record entry {{ key: string }}\n");
    let grown = format!("{typed}\n    @since(version = 0.1.1)\n    entries: func() -> result<list<entry>, error>;");
    assert_eq!(changed(&[NEXT, (GET, &grown)]), Vec::<String>::new());
    assert_eq!(changed(&[("/// Sets the value of a key.", "/// Sets what a key holds.")]), Vec::<String>::new());
    let unmarked = grown.replace("@since(version = 0.1.1)", "@since(version = 0.1.0)");
    let problems = changed(&[(GET, &unmarked)]);
    assert!(problems.iter().any(|problem| problem.contains("raise the version")), "{problems:?}");
    let problems = changed(&[NEXT, (GET, &unmarked)]);
    assert!(problems.iter().any(|problem| problem.contains("`@since(version = 0.1.1)`")), "{problems:?}");
    let problems = changed(&[("handler@0.1.0", "handler@0.2.0")]);
    assert!(problems.iter().any(|problem| problem.contains("does not follow")), "{problems:?}");
}
