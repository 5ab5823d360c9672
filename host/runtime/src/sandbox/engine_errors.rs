//! Errors of the engine that have no type. They are recognised by their text, and only in this file.
//!
//! Each phrase has a test that provokes the error, so an engine that changes its words fails a test. What the limit of
//! a store means for an item is decided in `limiter`.

use std::fmt;

use wasmtime::Error;

use crate::load::manifest::limits::{INSTANCES_MAX, MEMORY_MAX, TABLE_ELEMENTS_MAX};
use crate::load::manifest::value::show_size;
use crate::sandbox::fixed_limits::{INSTANCE_SIZE_MAX, MEMORIES_MAX, TABLES_MAX};

/// A limit of the instance pool. The engine compares a component with the pool when it compiles the component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolLimit {
    /// The engine's own data about an instance.
    InstanceSize,
    /// Core instances.
    Instances,
    /// Memories.
    Memories,
    /// Tables.
    Tables,
    /// Bytes of one memory.
    MemorySize,
    /// Elements of one table.
    TableElements,
}

/// The phrases of each limit. The first entry comes first because its message also lists what the others limit.
const POOL_PHRASES: [([&str; 2], PoolLimit); 8] = [
    (["instance allocation for this", "configured maximum"], PoolLimit::InstanceSize),
    (["core module instances", "configured maximum"], PoolLimit::Instances),
    (["Wasm linear memories", "configured maximum"], PoolLimit::Memories),
    (["defined memories count", "limit of"], PoolLimit::Memories),
    (["tables", "configured maximum"], PoolLimit::Tables),
    (["defined tables count", "limit of"], PoolLimit::Tables),
    (["memory has a minimum byte size", "limit of"], PoolLimit::MemorySize),
    (["minimum element size", "limit of"], PoolLimit::TableElements),
];

impl PoolLimit {
    /// The limit that an error of compiling is about, if it is one of these.
    pub(crate) fn recognise(err: &Error) -> Option<Self> {
        let message = err.root_cause().to_string();
        let is_in_message = |phrases: &[&str; 2]| phrases.iter().all(|phrase| message.contains(phrase));
        POOL_PHRASES.iter().find_map(|(phrases, limit)| is_in_message(phrases).then_some(*limit))
    }
}

impl fmt::Display for PoolLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it needs more than any component may have: ")?;
        match self {
            Self::InstanceSize => {
                let size = show_size(INSTANCE_SIZE_MAX as u64);
                write!(f, "functions, globals and tables than fit into the {size} that the host keeps of an instance")
            }
            Self::Instances => {
                write!(f, "core instances, of which `limits.instances` can allow {INSTANCES_MAX}")
            }
            Self::Memories => write!(f, "memories, of which there may be {MEMORIES_MAX}"),
            Self::Tables => write!(f, "tables, of which there may be {TABLES_MAX}"),
            Self::MemorySize => {
                write!(f, "memory, of which `limits.memory` can allow {}", show_size(MEMORY_MAX))
            }
            Self::TableElements => {
                write!(f, "elements in a table, of which `limits.table_elements` can allow {TABLE_ELEMENTS_MAX}")
            }
        }
    }
}

/// A limit of one store that a guest ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreLimit {
    /// Core instances.
    Instances,
    /// Memories.
    Memories,
    /// Tables.
    Tables,
    /// Bytes that one host call copies.
    HostCallBytes,
    /// Handles in the component's own tables.
    ComponentHandles,
    /// Random bytes of one call.
    RandomBytes,
}

/// The phrase of each limit. The last one ends in `RANDOM_MAX`.
const STORE_PHRASES: [(&str, StoreLimit); 6] = [
    ("instance count too high", StoreLimit::Instances),
    ("memory count too high", StoreLimit::Memories),
    ("table count too high", StoreLimit::Tables),
    ("hostcalls has been exhausted", StoreLimit::HostCallBytes),
    ("store handle limit exceeded", StoreLimit::ComponentHandles),
    ("exceeds limit 65536", StoreLimit::RandomBytes),
];

impl StoreLimit {
    /// The limit that an error of a call is about, if it is one of these.
    pub(crate) fn recognise(err: &Error) -> Option<Self> {
        let message = err.root_cause().to_string();
        STORE_PHRASES.iter().find_map(|(phrase, limit)| message.contains(phrase).then_some(*limit))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wasmtime::component::{Component, Linker};
    use wasmtime::{Engine, Store, StoreLimits, StoreLimitsBuilder};
    use wasmtime_wasi::WasiCtx;
    use wasmtime_wasi::p2::bindings::random::random::Host as _;

    use super::*;
    use crate::outgoing::authorities::TlsConfig;
    use crate::outgoing::resolve::SystemResolver;
    use crate::sandbox::engine::SharedEngine;
    use crate::sandbox::fixed_limits::RANDOM_MAX;

    /// A component of core modules with these items, each instantiated once.
    fn component(modules: &[String]) -> Vec<u8> {
        let named = |(number, items): (usize, &String)| {
            format!("(core module $m{number} {items}) (core instance (instantiate $m{number}))")
        };
        wat::parse_str(format!("(component {})", modules.iter().enumerate().map(named).collect::<String>())).unwrap()
    }

    #[test]
    fn every_limit_of_the_pool_is_recognised_when_a_component_is_compiled() {
        let engine = SharedEngine::new(1, Arc::new(SystemResolver), TlsConfig::public()).unwrap().wasmtime;
        for (modules, limit) in [
            (vec!["(global i32 (i32.const 0))".repeat(70_000)], PoolLimit::InstanceSize),
            (vec![String::new(); 200], PoolLimit::Instances),
            (vec!["(memory 1)".to_owned(); 5], PoolLimit::Memories),
            (vec!["(memory 1)".repeat(5)], PoolLimit::Memories),
            (vec!["(table 1 funcref)".repeat(17); 2], PoolLimit::Tables),
            (vec!["(table 1 funcref)".repeat(33)], PoolLimit::Tables),
            (vec!["(memory 8193)".to_owned()], PoolLimit::MemorySize),
            (vec!["(table 100001 funcref)".to_owned()], PoolLimit::TableElements),
        ] {
            let err = Component::from_binary(&engine, &component(&modules)).err().unwrap();
            assert_eq!(PoolLimit::recognise(&err), Some(limit), "{err:#}");
        }
        let err = Component::from_binary(&engine, b"no component").err().unwrap();
        assert_eq!(PoolLimit::recognise(&err), None, "{err:#}");
    }

    /// The error of instantiating a component that may have one of everything, and ten bytes in a host call.
    fn instantiate(bytes: &[u8], limits: StoreLimitsBuilder) -> Error {
        let engine = Engine::default();
        let mut store = Store::new(&engine, limits.build());
        store.limiter(|limits: &mut StoreLimits| limits);
        store.set_hostcall_fuel(10);
        store.set_max_component_handles(1);
        let mut linker = Linker::new(&engine);
        linker.root().func_wrap("f", |_, (_,): (String,)| Ok(())).unwrap();
        linker.instantiate(&mut store, &Component::from_binary(&engine, bytes).unwrap()).err().unwrap()
    }

    /// A component whose module calls `$f`, which `definition` makes, when it is instantiated.
    fn calling(definition: &str, signature: &str, call: &str) -> Vec<u8> {
        let module = format!("(import \"host\" \"f\" (func $f {signature})) (func $start {call}) (start $start)");
        let instance = "(core instance (instantiate $m (with \"host\" (instance (export \"f\" (func $f))))))";
        wat::parse_str(format!("(component {definition} (core module $m {module}) {instance})")).unwrap()
    }

    #[test]
    fn every_limit_of_a_store_is_recognised_when_a_component_runs_into_it() {
        let limits = StoreLimitsBuilder::new;
        let lower = r#"(import "f" (func $f (param "text" string)))
            (core module $memory (memory (export "memory") 1)) (core instance $memory (instantiate $memory))
            (core func $f (canon lower (func $f) (memory (core memory $memory "memory"))))"#;
        let copy = calling(lower, "(param i32 i32)", "(call $f (i32.const 0) (i32.const 100))");
        let resource = "(type $r (resource (rep i32))) (core func $f (canon resource.new $r))";
        let twice = "(drop (call $f (i32.const 1))) (drop (call $f (i32.const 1)))";
        let hoard = calling(resource, "(param i32) (result i32)", twice);
        let (memories, tables) = (vec!["(memory 1)".to_owned(); 2], vec!["(table 1 funcref)".to_owned(); 2]);
        for (bytes, limits, limit) in [
            (component(&[String::new(), String::new()]), limits().instances(1), StoreLimit::Instances),
            (component(&memories), limits().memories(1), StoreLimit::Memories),
            (component(&tables), limits().tables(1), StoreLimit::Tables),
            (copy, limits(), StoreLimit::HostCallBytes),
            (hoard, limits(), StoreLimit::ComponentHandles),
        ] {
            let err = instantiate(&bytes, limits);
            assert_eq!(StoreLimit::recognise(&err), Some(limit), "{err:#}");
        }
    }

    #[test]
    fn a_large_draw_of_random_bytes_is_recognised() {
        let mut wasi = WasiCtx::builder().max_random_size(RANDOM_MAX).build();
        let err = wasi.random().get_random_bytes(RANDOM_MAX + 1).unwrap_err();
        assert_eq!(StoreLimit::recognise(&err), Some(StoreLimit::RandomBytes), "{err:#}");
    }
}
