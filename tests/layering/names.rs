//! One name means one type over the whole host.

use std::collections::{BTreeMap, BTreeSet};

use super::sources::sources;

/// The names that both engines define, with the reason. Each name means the same thing, implemented on its own driver.
const PAIRS: [(&str, &str); 8] = [
    ("BareTable", "the table of items that a benchmark writes without a store, by the driver of each engine"),
    ("DirectStore", "the store without its threads or tasks, for benchmarks of each engine"),
    ("FinishedPlace", "the table of finished items that retention reads, by the names of each engine"),
    ("Group", "the requests of one transaction, by what each engine's statements share"),
    ("LeasedItem", "an item in a lease, as read from a row of each driver"),
    ("QueuedRequest", "a request that waits for the next group of each engine"),
    ("StuckReader", "the statements that find stuck items, over the connection of each driver"),
    ("WriteTx", "one write transaction with its counters, over the transaction of each driver"),
];

#[test]
fn no_two_types_have_one_name() {
    let found: BTreeMap<_, _> = definitions().into_iter().filter(|(_, files)| files.len() > 1).collect();
    let unexpected: Vec<_> = found.iter().filter(|(name, _)| !PAIRS.iter().any(|(pair, _)| pair == name)).collect();
    assert!(unexpected.is_empty(), "give each of these types a name of its own: {unexpected:#?}");
    for (pair, reason) in PAIRS {
        assert!(found.contains_key(pair), "{pair} is defined once and is no exception any more ({reason})");
    }
}

/// The files that define each type, with repetitions.
fn definitions() -> BTreeMap<String, Vec<String>> {
    let mut definitions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, code) in sources().into_iter().filter(|(file, _)| !file.ends_with("/tests.rs")) {
        for name in code.lines().filter_map(defined_type) {
            definitions.entry(name.to_owned()).or_default().push(file.clone());
        }
    }
    definitions
}

/// The type that a line defines. A `type` that is indented belongs to a trait.
fn defined_type(line: &str) -> Option<&str> {
    let words: Vec<_> = line.split_whitespace().filter(|word| !word.starts_with("pub")).collect();
    let is_indented = line.starts_with(' ');
    let name = match words[..] {
        ["struct" | "enum" | "trait" | "union", name, ..] => name,
        ["type", name, ..] if !is_indented => name,
        _ => return None,
    };
    name.split(|char: char| !char.is_alphanumeric() && char != '_').next()
}

#[test]
fn a_definition_is_found_whatever_follows_its_name() {
    for line in
        ["struct A;", "pub struct A<T> {", "pub(crate) enum A {", "pub trait A: B {", "type A = B;", "struct A(B);"]
    {
        assert_eq!(defined_type(line), Some("A"), "{line}");
    }
    let others: BTreeSet<_> = ["    type A = B;", "fn a() -> A {", "impl A {"].map(defined_type).into();
    assert_eq!(others, BTreeSet::from([None]));
}
