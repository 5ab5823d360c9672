//! Where every setting comes from: flags, environment, outbox.toml, defaults.
