//! Who may do what: the rights of callers, how a request proves who sends it, and what happens to those that cannot.
//!
//! A request is identified by [`gate`], which reads a bearer token, a session cookie or the header of a trusted proxy.
//! Each route states the right that it needs; [`gate`] refuses a caller without it. This folder does not know what a
//! route does.

mod address;
mod caller;
mod clock;
mod form_tokens;
mod gate;
pub(crate) mod login;
mod rights;
mod sessions;
mod settings;
mod throttle;
mod tokens;

pub(crate) use crate::access::caller::Caller;
pub(crate) use crate::access::clock::AccessClock;
pub(crate) use crate::access::form_tokens::{FORM_VALID, FormProof, form_owner, session_owner};
pub(crate) use crate::access::gate::{SESSION_COOKIE, check_page, identify, require, session_cookie};
pub(crate) use crate::access::sessions::Sessions;
pub(crate) use crate::access::throttle::Throttle;

pub use crate::access::address::PeerAddress;
pub use crate::access::rights::{Right, Rights, Role, UnknownWord};
pub use crate::access::settings::{AccessSettings, ProxyUsers, SessionKey};
pub use crate::access::tokens::{InvalidTokenDigest, NamedToken, TokenDigest, is_name};
