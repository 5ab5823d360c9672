//! The settings of the database, which are read together: `OUTBOX_BACKEND`, `OUTBOX_DB`, `OUTBOX_DB_LISTEN` and
//! `OUTBOX_DB_PASSWORD`.
//!
//! This file opens no database and reads no file.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use crate::config::error::ConfigError;
use crate::config::sources::ResolvedSettings;
use crate::config::value::{Secret, redacted_url};

/// The database of the outbox. `Display` and `Debug` show no password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Database {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A database of a PostgreSQL server.
    Postgres {
        /// The URL for the driver, with the password.
        url: Secret,
        /// A PEM file with the certificate authorities of the server, instead of the public ones.
        root_certificates: Option<PathBuf>,
    },
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => std::path::absolute(path).as_ref().unwrap_or(path).display().fmt(f),
            Self::Postgres { url, .. } => f.write_str(&redacted_url(url.expose())),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The default of `OUTBOX_DB`.
const DEFAULT_FILE: &str = "/var/run/outbox.sqlite";
const ACCEPTED: &str = "the path of a SQLite file, or a URL such as postgres://user@host/database or sqlite:PATH (in a \
                        password, write ? as %3F and @ as %40, or set OUTBOX_DB_PASSWORD)";

/// A value of `OUTBOX_BACKEND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Sqlite,
    Postgres,
}

pub(super) fn database(settings: &ResolvedSettings) -> Result<Database, ConfigError> {
    let backend = settings.parsed("OUTBOX_BACKEND", "sqlite or postgres", |text| match text {
        "sqlite" => Some(Backend::Sqlite),
        "postgres" => Some(Backend::Postgres),
        _ => None,
    })?;
    let accepted = match backend {
        None => ACCEPTED,
        Some(Backend::Sqlite) => "the path of a SQLite file, or set OUTBOX_BACKEND=postgres",
        Some(Backend::Postgres) => "a URL such as postgres://user@host/database, or set OUTBOX_BACKEND=sqlite",
    };
    let place = settings.parsed("OUTBOX_DB", accepted, |text| {
        let (of, place) = parse_database(text)?;
        backend.is_none_or(|backend| backend == of).then_some(place)
    })?;
    let missing = "postgres together with OUTBOX_DB=postgres://user@host/database";
    let place = match (place, backend) {
        (None, Some(Backend::Postgres)) => settings.parsed("OUTBOX_BACKEND", missing, |_| None)?,
        (place, _) => place,
    };
    with_password(settings, place.unwrap_or_else(|| Database::Sqlite(DEFAULT_FILE.into())))
}

/// The engine and the database that a value of `OUTBOX_DB` names; `None` for an unknown scheme, and for a text that may
/// be a misspelt URL: taken for a path, it would show its password.
fn parse_database(text: &str) -> Option<(Backend, Database)> {
    let sqlite = |path: &str| Some((Backend::Sqlite, Database::Sqlite(path.into())));
    match scheme(text) {
        Some(("postgres" | "postgresql", rest)) => {
            let place = rest.strip_prefix("//")?;
            let user = place.rsplit_once('@').map_or("", |(user, _)| user);
            (!user.contains(['?', '@'])).then(|| (Backend::Postgres, postgres(text)))
        }
        Some(("sqlite" | "file", rest)) => sqlite(sqlite_path(rest)?),
        Some(_) => None,
        None => sqlite(text).filter(|_| !looks_like_connection(text)),
    }
}

/// The scheme of a URL, and what follows its colon. One letter is no scheme, nor is a word after a slash.
fn scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'-');
    (scheme.len() != 1 && scheme.bytes().all(is_allowed)).then_some((scheme, rest))
}

/// The path after `sqlite:` or `file:`, with or without two slashes. Neither a database in memory nor parameters are
/// understood: an outbox survives its process.
fn sqlite_path(rest: &str) -> Option<&str> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    (!path.is_empty() && !path.contains(['?', '#']) && path != ":memory:").then_some(path)
}

/// Whether a text without a scheme is rather a URL or a list of parameters of PostgreSQL than a path.
fn looks_like_connection(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let words = ["password=", "host=", "hostaddr=", "dbname=", "user="];
    text.contains('@')
        || text.starts_with("postgres") && text.contains("//")
        || words.iter().any(|word| text.contains(word))
}

/// Removes the parameters of the URL that libpq knows and the driver does not. A connection with TLS always checks the
/// server's name and certificate, so `verify-ca` and `verify-full` mean the same as `require`.
fn postgres(url: &str) -> Database {
    let (place, query) = url.split_once('?').unwrap_or((url, ""));
    let mut root_certificates = None;
    let mut kept = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslrootcert", path)) => root_certificates = Some(path.into()),
            Some(("sslmode", "verify-ca" | "verify-full")) => kept.push("sslmode=require"),
            _ => kept.push(parameter),
        }
    }
    let mark = if kept.is_empty() { "" } else { "?" };
    Database::Postgres { url: Secret::new(&format!("{place}{mark}{}", kept.join("&"))), root_certificates }
}

/// The URL at which the store listens for notifications, where it is another than that of the database.
pub(super) fn listen_database(settings: &ResolvedSettings) -> Result<Option<Secret>, ConfigError> {
    let accepted = match database(settings)? {
        Database::Sqlite(_) => ONLY_POSTGRES,
        Database::Postgres { .. } => "a URL such as postgres://user@host/database, of the database of OUTBOX_DB",
    };
    let url = settings.parsed("OUTBOX_DB_LISTEN", accepted, |text| match parse_database(text)? {
        (Backend::Postgres, Database::Postgres { url, .. }) if accepted != ONLY_POSTGRES => Some(url),
        _ => None,
    })?;
    let password = password(settings)?;
    Ok(url.map(|url| with_parameter(url, password.as_deref())))
}

/// What is accepted of a setting of PostgreSQL while the database is a SQLite file.
const ONLY_POSTGRES: &str = "only together with OUTBOX_DB=postgres://user@host/database";

fn with_password(settings: &ResolvedSettings, database: Database) -> Result<Database, ConfigError> {
    let Database::Postgres { url, root_certificates } = database else {
        settings.parsed("OUTBOX_DB_PASSWORD", ONLY_POSTGRES, |_| None::<()>)?;
        return Ok(database);
    };
    let url = with_parameter(url, password(settings)?.as_deref());
    Ok(Database::Postgres { url, root_certificates })
}

fn password(settings: &ResolvedSettings) -> Result<Option<String>, ConfigError> {
    settings.parsed("OUTBOX_DB_PASSWORD", "a password", |text| Some(text.to_owned()))
}

/// The URL with the password, if there is one.
fn with_parameter(url: Secret, password: Option<&str>) -> Secret {
    let Some(password) = password else { return url };
    let mark = if url.expose().contains('?') { '&' } else { '?' };
    Secret::new(&format!("{}{mark}password={}", url.expose(), encoded(password)))
}

/// The text with every byte percent-encoded.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        write!(encoded, "%{byte:02X}").expect("writing to a String cannot fail");
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_sqlite_are_paths_and_misspelt_urls_are_nothing() {
        let path = |text: &str| match parse_database(text) {
            Some((Backend::Sqlite, Database::Sqlite(path))) => Some(path),
            _ => None,
        };
        for (text, expected) in [
            ("app.db", "app.db"),
            ("/var//run/app.db", "/var//run/app.db"),
            ("./odd:name.db", "./odd:name.db"),
            ("postgres/app.db", "postgres/app.db"),
            ("sqlite:app.db", "app.db"),
            ("file:app.db", "app.db"),
            ("sqlite:///var/app.db", "/var/app.db"),
            ("file:///var/app.db", "/var/app.db"),
            ("sqlite:/home/ada@work/app.db", "/home/ada@work/app.db"),
        ] {
            assert_eq!(path(text), Some(expected.into()), "{text}");
        }
        for text in [
            ":memory:",
            "sqlite::memory:",
            "sqlite:",
            "file:app.db?mode=memory",
            "mysql://h/app",
            "mysql:app",
            "postgres//ada:pw@h/app",
            "postgres//h/app",
            "postgres:/h/app",
            "postgres:h/app",
            "ada:pw@h/app",
            "host=h password=pw dbname=app",
            "HOST=h",
            "postgres://ada:p?w@h/app",
            "postgres://ada:p@w@h/app",
        ] {
            assert!(parse_database(text).is_none(), "{text}");
        }
        assert!(matches!(parse_database("postgres://ada:p#w/x@h/app?a=b"), Some((Backend::Postgres, _))));
    }

    #[test]
    fn the_parameters_that_only_libpq_knows_are_taken_out_of_the_url() {
        let check = |given: &str, kept: &str, roots: Option<&str>| {
            let (url, root_certificates) = (Secret::new(kept), roots.map(PathBuf::from));
            assert_eq!(postgres(given), Database::Postgres { url, root_certificates });
        };
        check("postgres://db/app", "postgres://db/app", None);
        check("postgres://db/app?sslmode=verify-full", "postgres://db/app?sslmode=require", None);
        check("postgres://db/app?sslrootcert=/ca.pem&a=b", "postgres://db/app?a=b", Some("/ca.pem"));
    }
}
