//! The SDK for handlers of the outbox. Implement [`Handler`], name the implementation in [`export!`], and build the
//! crate, a `cdylib`, with `cargo build --target wasm32-wasip2`. This is a whole handler:
//!
//! ```
#![doc = include_str!("../examples/notify.rs")]
//! ```
//!
//! The crate owns the guest's side of the contract in `wit/handler.wit`. A component imports only what its handler
//! calls, so an operator grants no more than the handler uses. The crate knows nothing of stores, retries or roles,
//! which belong to the host.
//!
//! # Effects and their keys
//! The host may attempt an item again after a crash, even when the last attempt succeeded. It gives each request an
//! idempotency key that is the same in all attempts; the key is made from the item's key, the method and the URL. A
//! handler that sends *different* things to one URL names each effect: see [`http::Request::effect`].
//!
//! # Memory
//! A component that starts with all the memory it needs runs several times cheaper than one that grows its memory.
//! `.cargo/config.toml` sets this for the handlers of this repository. Elsewhere, write into that file:
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

/// Performs the effects of some types.
pub trait Handler {
    /// The types that it handles.
    const TYPES: &'static [&'static str];

    /// Performs the effect of one item. Each call runs in a new instance, without any data of an earlier item.
    ///
    /// The host stops the attempt at `item.deadline`.
    fn handle(item: Item) -> Result<Outcome, Failure>;
}

/// Makes a [`Handler`] the export of the component that this crate builds.
///
/// The component has the name and the version of the crate; `export!(T, version: "…")` sets another version.
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

            // A handler's own tests run natively, where linkers refuse the function names of the contract.
            #[cfg(not(target_arch = "wasm32"))]
            const _: fn($crate::Item) -> Result<Option<Vec<u8>>, $crate::Failure> =
                <__Exported as handler::Guest>::handle;
        };
    };
}
