//! The Rust form of `wit/handler.wit`, generated at compile time.

wit_bindgen::generate!({
    path: "../../wit",
    world: "plugin",
    generate_all,
    pub_export_macro: true,
    export_macro_name: "export_component",
    default_bindings_module: "outbox_handler::bindings",
});
