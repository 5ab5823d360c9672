//! Hostile components that need no order, written in WAT.

use outbox::core::FailureClass::{Cpu, Memory, Trap};

use super::Ending::{self, Done, Fails, Refused};
use crate::support::plugins::Wat;

/// One component, its manifest, and its expected end.
pub(crate) struct Hostile {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) manifest: &'static str,
    pub(crate) ending: Ending,
}

const LIMITS: &str = "limits.cpu = '200ms'\nlimits.memory = '16MiB'\nlimits.table_elements = 1000";
const DONE: &str = "(i32.const 1024)";
const FOR_EVER: &str = "(loop $again (br $again)) unreachable";

fn hostile(name: &'static str, wat: &Wat<'_>, ending: Ending) -> Hostile {
    let bytes = Wat { types: &[name], ..*wat }.bytes();
    Hostile { name, bytes, manifest: LIMITS, ending }
}

/// A component whose core module contains `core` in addition to its own items.
fn core(name: &'static str, core: &str, handle: &str, ending: Ending) -> Hostile {
    hostile(name, &Wat { handle, core, ..Wat::default() }, ending)
}

/// A component with this body of `describe`.
fn describing(name: &'static str, describe: &str, ending: Ending) -> Hostile {
    hostile(name, &Wat { describe, ..Wat::default() }, ending)
}

/// A host function that a component calls as `$f`. Its arguments can point into a memory of 10 MiB.
pub(crate) struct Import {
    declaration: &'static str,
    function: &'static str,
    signature: &'static str,
}

pub(crate) const LOG: Import = Import {
    declaration: r#"(import "wasi:logging/logging@0.1.0-draft" (instance $i
        (type $level' (enum "trace" "debug" "info" "warn" "error" "critical"))
        (export "level" (type $level (eq $level')))
        (export "log" (func (param "level" $level) (param "context" string) (param "message" string)))))"#,
    function: "log",
    signature: "(param i32 i32 i32 i32 i32)",
};

const RANDOM: Import = Import {
    declaration: r#"(import "wasi:random/random@0.2.0" (instance $i
        (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))"#,
    function: "get-random-bytes",
    signature: "(param i64 i32)",
};

const TIMER: Import = Import {
    declaration: r#"(import "wasi:io/poll@0.2.0" (instance $poll (export "pollable" (type (sub resource)))))
      (alias export $poll "pollable" (type $pollable))
      (import "wasi:clocks/monotonic-clock@0.2.0" (instance $i
        (export "pollable" (type $p (eq $pollable)))
        (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))"#,
    function: "subscribe-duration",
    signature: "(param i64) (result i32)",
};

const CONFIG: Import = Import {
    declaration: r#"(import "wasi:config/store@0.2.0-rc.1" (instance $i
        (type $error' (variant (case "upstream" string) (case "io" string)))
        (export "error" (type $error (eq $error')))
        (export "get" (func (param "key" string) (result (result (option string) (error $error)))))))"#,
    function: "get",
    signature: "(param i32 i32 i32)",
};

/// A component that calls a host function.
pub(crate) fn calling(name: &'static str, import: &Import, handle: &str, ending: Ending) -> Hostile {
    let Import { declaration, function, signature } = import;
    let imports = format!(
        r#"{declaration}
        (core module $memory (memory (export "memory") 160)
          (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536)))
        (core instance $memory (instantiate $memory))
        (alias export $i "{function}" (func $f))
        (core func $f (canon lower (func $f) (memory (core memory $memory "memory"))
          (realloc (core func $memory "realloc"))))"#
    );
    let core = format!(r#"(import "host" "f" (func $f {signature}))"#);
    let with = r#"(with "host" (instance (export "f" (func $f))))"#;
    hostile(name, &Wat { imports: &imports, core: &core, with, handle, ..Wat::default() }, ending)
}

/// A component that creates resources of its own and never drops them.
fn hoarding(name: &'static str, count: u32, ending: Ending) -> Hostile {
    let imports = "(type $r (resource (rep i32))) (core func $f (canon resource.new $r))";
    let core = r#"(import "host" "f" (func $f (param i32) (result i32)))"#;
    let with = r#"(with "host" (instance (export "f" (func $f))))"#;
    let handle = repeat(count, "(drop (call $f (i32.const 1)))");
    hostile(name, &Wat { imports, core, with, handle: &handle, ..Wat::default() }, ending)
}

pub(crate) fn repeat(count: u32, body: &str) -> String {
    format!(
        "(global.set $free (i32.const {count})) (loop $again {body}
           (global.set $free (i32.sub (global.get $free) (i32.const 1)))
           (br_if $again (global.get $free))) {DONE}"
    )
}

/// A component with a second core module that contains these items.
fn module(name: &'static str, items: &str, ending: Ending) -> Hostile {
    let imports = format!("(core module $more {items}) (core instance (instantiate $more))");
    hostile(name, &Wat { imports: &imports, ..Wat::default() }, ending)
}

/// A component with `count` additional core instances.
fn instances(name: &'static str, count: usize, ending: Ending) -> Hostile {
    let imports = format!("(core module $empty) {}", "(core instance (instantiate $empty))".repeat(count));
    hostile(name, &Wat { imports: &imports, ..Wat::default() }, ending)
}

pub(crate) fn corpus() -> Vec<Hostile> {
    [computing(), growing(), starting(), calls(), foreign()].into_iter().flatten().collect()
}

fn computing() -> Vec<Hostile> {
    let recursive_to_zero = "(func $r (param i32)
        (if (local.get 0) (then (call $r (i32.sub (local.get 0) (i32.const 1))))))";
    let recursive = "(func $r (param i32) (result i32) (i32.add (call $r (local.get 0)) (i32.const 1)))";
    let fill = "(loop $again (memory.fill (i32.const 0) (i32.const 0) (i32.const 65536)) (br $again)) unreachable";
    vec![
        core("endless-loop", "", FOR_EVER, Fails(Cpu, "`limits.cpu`, which is 200ms")),
        core("endless-fill", "", fill, Fails(Cpu, "`limits.cpu`, which is 200ms")),
        core("endless-recursion", recursive, "(call $r (i32.const 0))", Fails(Trap, "the stack limit is 512KiB")),
        core("recursion-within", recursive_to_zero, &format!("(call $r (i32.const 1000)) {DONE}"), Done),
        core("loop-within", "", &repeat(100_000, ""), Done),
        core("unreachable", "", "unreachable", Fails(Trap, "unreachable")),
        core("division-by-zero", "", "(i32.div_u (i32.const 1) (i32.const 0))", Fails(Trap, "divide by zero")),
        core("out-of-bounds", "", "(i32.load (i32.const -8))", Fails(Trap, "out of bounds")),
        core("answer-out-of-bounds", "", "(i32.const -8)", Fails(Trap, "out of bounds")),
        core("answer-of-no-case", "", "(i32.store8 (i32.const 4096) (i32.const 7)) (i32.const 4096)", Fails(Trap, "")),
    ]
}

fn growing() -> Vec<Hostile> {
    let grow = |pages: u32| format!("(drop (memory.grow (i32.const {pages}))) {DONE}");
    let table = |elements: u32| format!("(drop (table.grow $t (ref.null func) (i32.const {elements}))) {DONE}");
    let tables = "(table 1 funcref)".repeat(17);
    let more = format!("(core module $more {tables}) (core instance (instantiate $more))");
    let in_two_modules = Wat { imports: &more, core: &tables, ..Wat::default() };
    let bomb = "(loop $again (drop (memory.grow (i32.const 1))) (br $again)) unreachable";
    vec![
        core("memory-bomb", "", bomb, Fails(Memory, "`limits.memory` is 16MiB")),
        core("memory-leap", "", &grow(256), Fails(Memory, "`limits.memory` is 16MiB")),
        core("memory-within", "", &grow(255), Done),
        module("memories-together", "(memory 128) (memory 128)", Refused("`limits.memory` is 16MiB")),
        module("many-memories", &"(memory 1)".repeat(4), Refused("memories, of which there may be 4")),
        module("many-memories-in-one", &"(memory 1)".repeat(5), Refused("memories, of which there may be 4")),
        module("memory-beyond-any", "(memory 8193)", Refused("`limits.memory` can allow 512MiB")),
        module("memories-within", &"(memory 1)".repeat(3), Done),
        core("table-bomb", "(table $t 1 funcref)", &table(1000), Fails(Memory, "`limits.table_elements` is 1000")),
        core("table-within", "(table $t 1 funcref)", &table(999), Done),
        core(
            "large-table",
            "(table 600 funcref) (table 600 funcref)",
            DONE,
            Refused("`limits.table_elements` is 1000"),
        ),
        module("table-beyond-any", "(table 100001 funcref)", Refused("`limits.table_elements` can allow 100000")),
        hostile("many-tables", &in_two_modules, Refused("tables, of which there may be 32")),
        module("many-tables-in-one", &"(table 1 funcref)".repeat(33), Refused("tables, of which there may be 32")),
        module("tables-within", &"(table 1 funcref)".repeat(32), Done),
        module("large-record", &"(global i32 (i32.const 0))".repeat(70_000), Refused("the 1MiB that the host keeps")),
        module("record-within", &"(global i32 (i32.const 0))".repeat(10_000), Done),
        instances("many-instances", 32, Refused("core instances: `limits.instances` is 32")),
        instances("far-too-many-instances", 200, Refused("`limits.instances` can allow 128")),
        instances("instances-within", 31, Done),
    ]
}

fn starting() -> Vec<Hostile> {
    let start = |body: &str| format!("(func $start {body}) (start $start)");
    vec![
        core("start-trap", &start("unreachable"), DONE, Refused("unreachable")),
        core("start-loop", &start(FOR_EVER), DONE, Refused("1s to describe itself")),
        core("start-bomb", &start("(drop (memory.grow (i32.const 300)))"), DONE, Refused("`limits.memory` is 16MiB")),
        describing("describe-trap", "unreachable", Refused("could not describe itself (trap)")),
        describing("describe-loop", FOR_EVER, Refused("1s to describe itself")),
        describing("describe-nothing", "(i32.const -4)", Refused("could not describe itself (trap)")),
    ]
}

fn calls() -> Vec<Hostile> {
    let log = |bytes: u32| {
        format!("(call $f (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const {bytes})) {DONE}")
    };
    let get = |bytes: u32| format!("(call $f (i32.const 0) (i32.const {bytes}) (i32.const 0)) {DONE}");
    let random = |bytes: u32| format!("(call $f (i64.const {bytes}) (i32.const 0)) {DONE}");
    let flood = "(loop $again (call $f (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 4096)) (br $again)) unreachable";
    let timers = |count: u32| repeat(count, "(drop (call $f (i64.const 1000000000000)))");
    let dice = "(loop $again (call $f (i64.const 65536) (i32.const 0)) (br $again)) unreachable";
    vec![
        calling("huge-string", &LOG, &log(9 << 20), Fails(Memory, "the most is 8MiB")),
        calling("string-within", &LOG, &log(7 << 20), Done),
        calling("huge-key", &CONFIG, &get(9 << 20), Fails(Memory, "the most is 8MiB")),
        calling("string-out-of-bounds", &LOG, &log(11 << 20), Fails(Trap, "out of bounds")),
        calling("flood-of-logs", &LOG, flood, Fails(Cpu, "`limits.cpu`, which is 200ms")),
        calling("too-much-chance", &RANDOM, &random(65537), Fails(Memory, "random bytes at once: the most is 64KiB")),
        calling("chance-within", &RANDOM, &random(65536), Done),
        calling("flood-of-chance", &RANDOM, dice, Fails(Cpu, "`limits.cpu`, which is 200ms")),
        calling("handle-leak", &TIMER, &timers(1025), Fails(Memory, "it may hold 1024 things of the host")),
        calling("handles-within", &TIMER, &timers(500), Done),
        hoarding("hoard", 4097, Fails(Memory, "handles: the most is 4096")),
        hoarding("hoard-within", 4096, Done),
    ]
}

fn foreign() -> Vec<Hostile> {
    let stranger = r#"(import "acme:db/sql" (instance))"#;
    let state = r#"(import "outbox:handler/state@0.1.0" (instance))"#;
    vec![
        hostile(
            "wrong-version",
            &Wat { version: "0.9.0", ..Wat::default() },
            Refused("another version of the contract"),
        ),
        hostile(
            "wrong-import",
            &Wat { imports: stranger, ..Wat::default() },
            Refused("which this host does not offer"),
        ),
        hostile("not-granted", &Wat { imports: state, ..Wat::default() }, Refused("state = true")),
        Hostile {
            name: "large-component",
            bytes: Wat { types: &["large-component"], ..Wat::default() }.bytes(),
            manifest: "limits.component = '1KiB'",
            ending: Refused("`limits.component` is 1KiB"),
        },
        Hostile {
            name: "component-within",
            bytes: Wat { types: &["component-within"], ..Wat::default() }.bytes(),
            manifest: "limits.component = '4KiB'",
            ending: Done,
        },
    ]
}
