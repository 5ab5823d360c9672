//! Components as images in an OCI registry, and their signatures.
//!
//! [`RegistryClient`] pushes a component under a tag, says which image a tag names, and pulls it. [`sign`] makes the
//! signature that hosts check. An image has the layout of Wasm artifacts: a config of the type
//! `application/vnd.wasm.config.v0+json` and one layer `application/wasm`. A signed image has its signature as a
//! further layer, so that both are copied and moved together, also between registries without the referrers API.
//!
//! What is pulled has the digest that the registry named for it, and nothing more is known: whether a signature is that
//! of a trusted key, and whether the component runs, is decided by the runtime. Manifests are no part of an image,
//! because the operator decides what a component is granted.
//!
//! ```
//! use outbox_registry::ImageReference;
//!
//! let image: ImageReference = "oci://registry.example/team/vector-upsert:stable".parse().unwrap();
//! assert_eq!((image.name(), image.pin()), ("vector-upsert", None));
//!
//! let refusal = "registry.example/team/vector-upsert".parse::<ImageReference>().unwrap_err();
//! assert!(refusal.to_string().contains("a tag or a digest"));
//! ```

#![deny(missing_docs)]

mod access;
mod answer;
mod artifact;
mod client;
mod credentials;
mod error;
mod reference;
mod signing;
mod transport;

pub use crate::client::{ImageContents, PulledImage, PushedImage, RegistryClient};
pub use crate::credentials::AuthFile;
pub use crate::error::RegistryError;
pub use crate::reference::{ImageReference, ReferenceError};
pub use crate::signing::{SigningError, sign};
pub use crate::transport::{PlainHttp, RegistrySettings};
