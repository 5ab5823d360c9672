//! What no component may have, whatever its manifest says: the room that the pool keeps for each one.
//!
//! The engine compares a component with the pool when it compiles it and refuses in its own words; an
//! operator is told which of our limits it is.

use crate::load::manifest::limits::{INSTANCES_MAX, MEMORY_MAX, TABLE_ELEMENTS_MAX};
use crate::load::manifest::value::show_size;
use crate::sandbox::limiter::{MEMORIES_MAX, TABLES_MAX};

/// Bytes of what the engine itself keeps of an instance: a few dozen for each function, global and table.
pub(crate) const INSTANCE_SIZE_MAX: usize = 1 << 20;

/// The ceiling behind an error of the engine, if one is, in words for the operator.
pub(crate) fn explain(err: &wasmtime::Error) -> Option<String> {
    // The engine has no types for these. Each is provoked by a test, which fails when it changes its words.
    let message = err.root_cause().to_string();
    let (_, what) =
        pool_limits().into_iter().find(|(phrases, _)| phrases.iter().all(|phrase| message.contains(phrase)))?;
    Some(format!("it needs more than any component may have: {what}"))
}

/// What the engine says, and what it means here.
fn pool_limits() -> [(&'static [&'static str], String); 8] {
    let [memory, size] = [MEMORY_MAX, INSTANCE_SIZE_MAX as u64].map(show_size);
    let instances = format!("core instances, of which `limits.instances` can allow {INSTANCES_MAX}");
    let memories = format!("memories, of which there may be {MEMORIES_MAX}");
    let tables = format!("tables, of which there may be {TABLES_MAX}");
    let record = format!("functions, globals and tables than fit into the {size} that the host keeps of an instance");
    [
        // The engine tells what such a record is made of, in words that the others are known by.
        (&["instance allocation for this", "configured maximum"], record),
        (&["core module instances", "configured maximum"], instances),
        (&["Wasm linear memories", "configured maximum"], memories.clone()),
        (&["defined memories count", "limit of"], memories),
        (&["tables", "configured maximum"], tables.clone()),
        (&["defined tables count", "limit of"], tables),
        (
            &["memory has a minimum byte size", "limit of"],
            format!("memory, of which `limits.memory` can allow {memory}"),
        ),
        (
            &["minimum element size", "limit of"],
            format!("elements in a table, of which `limits.table_elements` can allow {TABLE_ELEMENTS_MAX}"),
        ),
    ]
}
