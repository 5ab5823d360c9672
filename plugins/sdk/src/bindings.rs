//! What `wit/handler.wit` says, as Rust. Generated at compile time; nothing here is written by hand.

wit_bindgen::generate!({
    path: "../../wit",
    world: "plugin",
    generate_all,
    pub_export_macro: true,
    export_macro_name: "export_component",
    default_bindings_module: "outbox_handler::bindings",
});
