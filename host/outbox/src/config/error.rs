//! The error of a configuration that cannot be used.

use std::net::SocketAddr;

/// A setting that cannot be used. Names the origin, the value and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The parser of a setting does not accept its value.
    #[error("{origin} is {value}: use {accepted}")]
    Value {
        /// The flag, the variable, or the key with its file.
        origin: String,
        /// The rejected value, quoted. A secret is hidden.
        value: String,
        /// A description of the accepted values.
        accepted: String,
    },
    /// The file has a key that is no setting.
    #[error("{file} has the unknown key {key:?}: {hint}")]
    UnknownKey {
        /// The path of the file.
        file: String,
        /// The key.
        key: String,
        /// The most similar key, or a description of the keys that exist.
        hint: String,
    },
    /// The file cannot be read or is not TOML.
    #[error("{file} cannot be used as the configuration: {problem}")]
    File {
        /// The path of the file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The tokens of callers cannot be used.
    #[error("the tokens of {file} cannot be used: {problem}")]
    Tokens {
        /// The path of the file that has them.
        file: String,
        /// What is wrong with them.
        problem: String,
    },
    /// Other machines can reach the HTTP server, and it asks for no token.
    #[error(
        "OUTBOX_LISTEN is {0}, which others can reach, and callers need no token: set OUTBOX_TOKEN or [[tokens]], listen \
         on 127.0.0.1, or pass --allow-unauthenticated if something in front of the outbox checks who calls"
    )]
    Unauthenticated(SocketAddr),
}
