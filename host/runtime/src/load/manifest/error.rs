//! Why a manifest is refused.

/// A manifest that cannot be used. Nothing of it takes effect. Messages show values as the operator wrote them, never
/// what a variable stands for, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The text is not TOML.
    #[error("the manifest is not TOML: {0}")]
    Syntax(String),
    /// The manifest has a key that the host does not know.
    #[error("unknown key `{key}`: did you mean `{nearest}`? (known here: {known})")]
    UnknownKey {
        /// The key with its path.
        key: String,
        /// The known key that is most like it, with its path.
        nearest: String,
        /// The known keys of this table, separated by commas.
        known: String,
    },
    /// A key has a value that is not accepted.
    #[error("`{key}` is {value}: it must be {accepted}")]
    Value {
        /// The key with its path.
        key: String,
        /// The value as it was written.
        value: String,
        /// The values that are accepted, in words.
        accepted: String,
    },
    /// A required key is absent.
    #[error("`{key}` is missing{}", .given.as_ref().map(|given| format!(": is `{given}` misspelt?")).unwrap_or_default())]
    Missing {
        /// The key with its path.
        key: String,
        /// An unknown key of the table that resembles it, with its path.
        given: Option<String>,
    },
    /// A value names a variable that the host's environment does not have.
    #[error(
        "`{key}` needs the environment variable {variable}, which is not set for the host, and {variable}_FILE names no \
         file that it can read"
    )]
    Unset {
        /// The key with its path.
        key: String,
        /// The name of the variable.
        variable: String,
    },
}
