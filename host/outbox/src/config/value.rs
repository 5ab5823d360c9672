//! Parsers of single values, and the types that keep secrets out of logs.
//!
//! A parser returns `None` for a text that it does not accept. This file does not know which setting, and which
//! source, a text comes from.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use outbox_core::BreakerMode;

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// `OUTBOX_BREAKER`, and what decides beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BreakerSetting {
    /// What the operator chose.
    pub(crate) mode: BreakerMode,
    /// Whether `OUTBOX_MAX_RETRIES` is set. Then `auto` keeps no breakers: two retries mean two.
    pub(crate) retries_are_set: bool,
}

impl BreakerSetting {
    /// For which plugins the process keeps breakers.
    pub(crate) fn effective(self) -> BreakerMode {
        if self.mode == BreakerMode::Auto && self.retries_are_set { BreakerMode::Off } else { self.mode }
    }

    /// What this means for items, as a sentence for operators.
    pub(crate) fn sentence(self) -> &'static str {
        match (self.mode, self.effective()) {
            (BreakerMode::Off, _) => "OUTBOX_BREAKER is off: each failure counts, also while a receiver is down",
            (_, BreakerMode::Off) => {
                "OUTBOX_MAX_RETRIES is set, so OUTBOX_BREAKER=auto is off: each failure counts, also while a receiver is \
                 down"
            }
            (BreakerMode::On, _) => "OUTBOX_BREAKER is on: failures do not count while a receiver is down",
            (_, BreakerMode::Auto | BreakerMode::On) => {
                "OUTBOX_BREAKER is auto: failures do not count while a receiver is down, except for plugins whose \
                 manifests set max_retries"
            }
        }
    }
}

/// Reads the mode of breakers.
pub(super) fn breaker(word: &str) -> Option<BreakerMode> {
    match word {
        "auto" => Some(BreakerMode::Auto),
        "on" => Some(BreakerMode::On),
        "off" => Some(BreakerMode::Off),
        _ => None,
    }
}

impl LogFormat {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// A text that `Debug` does not show: a password, a token, or a URL that holds a password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(super) fn new(secret: &str) -> Self {
        Self(secret.to_owned())
    }

    /// The secret itself, for the code that compares it or sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// A URL for messages: the server and the database, without user, password and parameters.
pub(super) fn redacted_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    // A password may hold characters that should have been escaped: only what follows the last @ is no secret.
    let place = rest.rsplit('@').next().unwrap_or_default();
    let place = place.split(['?', '#']).next().unwrap_or_default();
    format!("{scheme}://{place}")
}

/// The text without the users and passwords of its URLs. Each line has one value.
pub(crate) fn without_users(text: &str) -> String {
    text.split_inclusive('\n').map(without_user).collect()
}

fn without_user(line: &str) -> String {
    let Some((before, rest)) = line.split_once("://") else { return without_bare_users(line) };
    let before = without_bare_users(before);
    match behind_user(rest) {
        Some((_, end)) => format!("{before}://…{end}"),
        None => format!("{before}://{rest}"),
    }
}

/// The words of a line, those such as `ada:secret@host` without the user and the password.
fn without_bare_users(line: &str) -> String {
    let is_around = |c: char| c.is_whitespace() || matches!(c, '\'' | '"');
    line.split_inclusive(is_around).map(without_bare_user).collect()
}

/// The value of a setting without users and passwords. A password in it may have any character.
pub(super) fn shown_value(text: &str) -> String {
    if text.contains("://") { without_users(text) } else { without_bare_user(text) }
}

fn without_bare_user(text: &str) -> String {
    match behind_user(text) {
        Some((user, end)) if user.contains(':') => format!("…{end}"),
        _ => text.to_owned(),
    }
}

/// What is before the last `@` that no digest follows, and the rest with it.
fn behind_user(text: &str) -> Option<(&str, &str)> {
    let mut parts = text.rmatch_indices('@').map(|(at, _)| text.split_at(at));
    parts.find(|(_, end)| !end.starts_with("@sha256:"))
}

pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// A role is the name of a folder below the plugin folder. No accepted name leads out of that folder.
pub(super) fn role(text: &str) -> Option<String> {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let is_role = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && text.bytes().all(is_allowed);
    is_role.then(|| text.to_owned())
}

/// A token is sent in an HTTP header, so it has only characters that a header may have.
pub(super) fn token(text: &str) -> Option<Secret> {
    text.bytes().all(|b| b.is_ascii_graphic()).then(|| Secret::new(text))
}

/// Host names with commas between them, as lower case.
pub(super) fn hosts(text: &str) -> Option<Vec<String>> {
    let host = |text: &str| {
        let host = text.trim().to_ascii_lowercase();
        (!host.is_empty() && !host.contains(['/', '*'])).then_some(host)
    };
    text.split(',').map(host).collect()
}

/// A name that fits into the header of a page.
pub(super) fn environment_name(text: &str) -> Option<String> {
    let is_name = (1..=32).contains(&text.chars().count()) && !text.contains(char::is_control);
    is_name.then(|| text.to_owned())
}

/// The fewest characters of a token that is not called weak: nobody tries all texts of this length.
const TOKEN_USUAL: usize = 16;

/// The warning about a token that can be guessed. Wrong tokens are slowed, and a right one is taken all the same.
pub(super) fn weak_token(token: Option<&Secret>) -> Option<String> {
    let length = token?.expose().len();
    (length < TOKEN_USUAL).then(|| {
        format!("OUTBOX_TOKEN has {length} characters, so others may guess it: `outbox token new` makes a long one")
    })
}

/// Whether clients set the header themselves, and proxies pass it on.
pub(super) fn is_header_of_clients(name: &str) -> bool {
    let of_clients = ["authorization", "cookie", "host", "origin", "referer", "user-agent"];
    of_clients.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Networks, and addresses as networks of one, with commas between them. The network of all addresses is none.
pub(super) fn networks(text: &str) -> Option<Vec<IpNet>> {
    let one = |text: &str| text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
    text.split(',').map(str::trim).map(|text| one(text).filter(|network| network.prefix_len() > 0)).collect()
}

/// Public keys, or paths of files with one, with commas between them. The plugin runtime decides later whether each
/// names a key.
pub(super) fn plugin_keys(text: &str) -> Option<Vec<String>> {
    let key = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    text.split(',').map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_token_is_called_weak_and_not_shown() {
        let told = |token: &str| weak_token(Some(&Secret::new(token)));
        let weak = told("hunter2").unwrap();
        assert!(weak.contains("7 characters") && !weak.contains("hunter2"), "{weak}");
        assert_eq!((told(&"k".repeat(TOKEN_USUAL)), weak_token(None)), (None, None));
    }

    #[test]
    fn a_proxy_is_no_network_of_all_addresses() {
        assert_eq!(networks("10.0.0.0/8, ::1").unwrap().len(), 2);
        assert_eq!([networks("0.0.0.0/0"), networks("::/0"), networks("10.0.0.1, ::/0")], [None, None, None]);
    }

    #[test]
    fn a_url_is_shown_without_who_connects_and_with_what() {
        let check = |url: &str, shown: &str| assert_eq!(redacted_url(url), shown);
        check("postgres://ada:hunter2@db:5432/app", "postgres://db:5432/app");
        check("postgres://ada:hun@ter/2@a,b/app?password=hunter3&sslmode=require", "postgres://a,b/app");
        check("mysql://ada:hunt?er@h/app?x=y", "mysql://h/app");
        check("postgres:///app", "postgres:///app");
    }

    #[test]
    fn a_setting_is_shown_without_a_user_also_where_it_is_no_url() {
        for (told, shown) in [
            ("ada:hunter2@r.example:5000", "…@r.example:5000"),
            ("a:5000, ada:hun@ter, 2@r.example", "…@r.example"),
            ("https://ada:hunter2@r.example", "https://…@r.example"),
            ("a:5000, loopback", "a:5000, loopback"),
            ("ada@example.org", "ada@example.org"),
        ] {
            assert_eq!(shown_value(told), shown);
        }
    }

    #[test]
    fn a_text_is_shown_without_the_users_in_its_urls() {
        let digest = format!("@sha256:{}", "a".repeat(64));
        for (told, shown) in [
            (
                "error: 'oci://ada:hun@ter 2@r.example/p:1' found\n\n  'x'",
                "error: 'oci://…@r.example/p:1' found\n\n  'x'",
            ),
            (&format!("'oci://ada:hunter2@r.example/p{digest}'"), &format!("'oci://…@r.example/p{digest}'")),
            (&format!("'oci://r.example/p{digest}'"), &format!("'oci://r.example/p{digest}'")),
            ("'ada@example.org' http://r.example", "'ada@example.org' http://r.example"),
            ("error: 'ada:hunter2@r.example/p:1' found", "error: '…@r.example/p:1' found"),
            ("ada:hunter2@a, https://b.example", "…@a, https://b.example"),
            ("error: 'ada@example.org' and p:1@sha256:ab", "error: 'ada@example.org' and p:1@sha256:ab"),
        ] {
            assert_eq!(without_users(told), shown);
        }
    }
}
