//! Write a handler for the outbox: implement [`Handler`], name it in [`export!`], and build the crate,
//! a `cdylib`, with `cargo build --target wasm32-wasip2`. This is a whole handler:
//!
//! ```
#![doc = include_str!("../examples/notify.rs")]
//! ```
//!
//! It owns the guest's side of the contract in `wit/handler.wit` and promises that a component imports
//! only what its handler calls, so that an operator grants no more than is used. It knows nothing of
//! stores, retries or roles: those are the host's.
//!
//! # Effects and their keys
//! An item may be attempted again after a crash, even when the last attempt succeeded. The host gives
//! each request a key that stays the same over attempts, made of the item's key and of method and URL.
//! A handler that sends *different* things to one URL names each: see [`http::Request::effect`].
//!
//! # Memory
//! A component that starts with all the memory it needs is several times cheaper to run than one that
//! grows it. Inside this repository `.cargo/config.toml` sees to that; elsewhere, put there
//!
//! ```toml
//! [target.wasm32-wasip2]
//! rustflags = ["-Clink-arg=--initial-memory=4194304"]
//! ```

#[doc(hidden)]
#[expect(clippy::pedantic, reason = "generated")]
pub mod bindings;
pub mod config;
mod failure;
pub mod followups;
pub mod http;
mod item;
pub mod log;
pub mod state;

pub use bindings::outbox::handler::types::{Failure, FailureClass, Item};
pub use item::Outcome;

/// Performs the effects of some types of item.
pub trait Handler {
    /// The types of item that it handles.
    const TYPES: &'static [&'static str];

    /// Performs the effect of one item, in a fresh instance: nothing of an earlier item is left.
    ///
    /// It is stopped at `item.deadline`.
    fn handle(item: Item) -> Result<Outcome, Failure>;
}

/// Makes a [`Handler`] the component that this crate builds to.
///
/// It goes by the crate's own name and version; `export!(T, version: "…")` gives another version.
#[macro_export]
macro_rules! export {
    ($handler:ty) => {
        $crate::export!($handler, version: env!("CARGO_PKG_VERSION"));
    };
    ($handler:ty, version: $version:expr) => {
        const _: () = {
            use $crate::bindings::exports::outbox::handler::handler;

            struct __Exported;

            impl handler::Guest for __Exported {
                fn describe() -> handler::Description {
                    handler::Description {
                        name: env!("CARGO_PKG_NAME").to_owned(),
                        version: String::from($version),
                        types: <$handler as $crate::Handler>::TYPES.iter().map(|t| String::from(*t)).collect(),
                    }
                }

                fn handle(item: $crate::Item) -> Result<Option<Vec<u8>>, $crate::Failure> {
                    <$handler as $crate::Handler>::handle(item).map(Into::into)
                }
            }

            #[cfg(target_arch = "wasm32")]
            $crate::bindings::export_component!(__Exported with_types_in $crate::bindings);

            // Natively, where a handler's own tests run, linkers refuse the contract's function names.
            #[cfg(not(target_arch = "wasm32"))]
            const _: fn($crate::Item) -> Result<Option<Vec<u8>>, $crate::Failure> =
                <__Exported as handler::Guest>::handle;
        };
    };
}
