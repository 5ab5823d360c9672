//! The contract of `wit/`: its text, its version, and the names that components know its interfaces by.

/// The version of the contract that this host offers, as `wit/handler.wit` declares it.
pub(crate) const CONTRACT_VERSION: &str = "0.1.0";

/// What the names of the contract's interfaces begin with.
pub(crate) const PACKAGE: &str = "outbox:handler/";

/// The files of the contract as pairs of path and text. Each file comes after those that it uses.
pub const WIT: [(&str, &str); 10] = [
    ("deps/io.wit", include_str!("../../../../wit/deps/io.wit")),
    ("deps/clocks.wit", include_str!("../../../../wit/deps/clocks.wit")),
    ("deps/random.wit", include_str!("../../../../wit/deps/random.wit")),
    ("deps/filesystem.wit", include_str!("../../../../wit/deps/filesystem.wit")),
    ("deps/sockets.wit", include_str!("../../../../wit/deps/sockets.wit")),
    ("deps/cli.wit", include_str!("../../../../wit/deps/cli.wit")),
    ("deps/http.wit", include_str!("../../../../wit/deps/http.wit")),
    ("deps/config.wit", include_str!("../../../../wit/deps/config.wit")),
    ("deps/logging.wit", include_str!("../../../../wit/deps/logging.wit")),
    ("handler.wit", include_str!("../../../../wit/handler.wit")),
];

/// The package of the contract with its version, for messages.
pub(crate) fn package_name() -> String {
    format!("outbox:handler@{CONTRACT_VERSION}")
}

/// The full name of an interface of the contract.
pub(crate) fn interface_name(interface: &str) -> String {
    format!("{PACKAGE}{interface}@{CONTRACT_VERSION}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_the_wit_file_declares() {
        let (_, handler) = WIT.into_iter().find(|(path, _)| *path == "handler.wit").unwrap();
        let declared = handler.lines().find_map(|line| line.strip_prefix("package ")).unwrap();
        assert_eq!(declared, format!("{};", package_name()));
    }
}
