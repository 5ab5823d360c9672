//! The contract in `wit/` as Rust types and traits, generated. Nothing else belongs here.

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "outbox:handler/plugin",
    imports: {
        "outbox:handler/state.get": async | trappable,
        "outbox:handler/state.put": async | trappable,
        "outbox:handler/state.delete": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    // An item is copied once: into the guest's memory.
    ownership: Borrowing { duplicate_if_necessary: false },
    with: {
        "wasi:io": wasmtime_wasi::p2::bindings::io,
        "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
        "wasi:http": wasmtime_wasi_http::p2::bindings::http,
    },
});
