//! The tables `[[tokens]]`, in `outbox.toml` and in the file that `OUTBOX_TOKENS_FILE` names.
//!
//! This file checks what stands there. It knows no clock: whether a token has expired is found out when it is used.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use toml::Value;

use outbox_http::{NamedToken, Right, Rights, Role, TokenDigest, is_name};
use outbox_item::Millis;
use rustix::fs::OFlags;

use crate::config::environment::read_secret;
use crate::config::error::ConfigError;
use crate::config::value::{self, Secret};

/// Tokens that may have one name: one that is in use, and one that replaces it.
const OF_ONE_NAME: usize = 2;

/// Names that the audit trail has for others: `OUTBOX_TOKEN`, the host itself, and callers without a name.
const RESERVED: [&str; 3] = ["admin", "host", "http"];

/// What [`is_token_name`] accepts, in words.
pub(crate) const NAME_RULE: &str = "use a name of 1 to 64 letters, digits and . _ + -, and none of admin, host, http";

/// Whether a token may have this name.
pub(crate) fn is_token_name(name: &str) -> bool {
    is_name(name) && !RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
}

/// The token that a file has; `None` when it cannot be read, or has none that a header can carry.
pub(crate) fn token_in(file: &Path) -> Option<Secret> {
    value::token(&read_secret(file)?)
}

/// Rights of a file that let others read or change it. Its group may read it: Kubernetes gives a mounted secret to one.
const FOR_OTHERS: u32 = 0o027;

/// Rights of a file that let others change it.
const CHANGED_BY_OTHERS: u32 = 0o022;

/// The text of the file of tokens. Errors when others may read or change it.
pub(super) fn read_file(path: &Path) -> Result<String, ConfigError> {
    let failed = |problem: String| ConfigError::Tokens { file: path.display().to_string(), problem };
    let cannot = |err: std::io::Error| failed(format!("it cannot be read: {err}"));
    // A pipe would keep the host waiting for its writer.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut file = File::options().read(true).custom_flags(flags).open(path).map_err(cannot)?;
    let found = file.metadata().map_err(cannot)?;
    if !found.is_file() {
        return Err(failed("it is no file".to_owned()));
    }
    if !is_trusted(found.uid(), rustix::process::geteuid().as_raw()) {
        return Err(failed(format!(
            "user {} owns it and can change it: chown it to the user of the host",
            found.uid()
        )));
    }
    let mode = found.mode() & 0o777;
    if mode & FOR_OTHERS != 0 {
        let problem = format!("others may read or change it, its mode is {mode:o}: chmod 600 {}", path.display());
        return Err(failed(problem));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(cannot)?;
    Ok(text)
}

/// Whether a file of this owner is as good as one of the host's own user: root can change everything anyway.
fn is_trusted(owner: u32, own: u32) -> bool {
    owner == own || owner == 0
}

/// The warning about a file with tokens that others can change: they can give themselves any right.
pub(super) fn writable(file: &Path) -> Option<String> {
    let mode = std::fs::metadata(file).ok()?.mode() & 0o777;
    let file = file.display();
    (mode & CHANGED_BY_OTHERS != 0)
        .then(|| format!("{file} has [[tokens]], and others may change it, its mode is {mode:o}: chmod go-w {file}"))
}

/// The tokens of a file that has nothing else.
pub(super) fn of_file(file: &str, text: &str) -> Result<Vec<NamedToken>, ConfigError> {
    let failed = |problem: String| ConfigError::Tokens { file: file.to_owned(), problem };
    let mut table: toml::Table = text.parse().map_err(|err: toml::de::Error| failed(err.message().to_owned()))?;
    let tokens = table.remove("tokens").unwrap_or(Value::Array(Vec::new()));
    if let Some(key) = table.keys().next() {
        return Err(failed(format!("it has the unknown key {key:?}: it has tables [[tokens]] only")));
    }
    match read(file, tokens)? {
        // A file that is being written must not open the host to everybody.
        none if none.is_empty() => Err(failed("it has no [[tokens]]: add one, or unset OUTBOX_TOKENS_FILE".to_owned())),
        tokens => Ok(tokens),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with name, role and sha256")]
struct TokenTable {
    name: String,
    role: String,
    sha256: String,
    #[serde(default)]
    expires: Option<Value>,
    #[serde(default)]
    rights: Vec<String>,
}

/// The tokens that the value of the key `tokens` declares.
pub(super) fn read(file: &str, value: Value) -> Result<Vec<NamedToken>, ConfigError> {
    let failed = |problem: String| ConfigError::Tokens { file: file.to_owned(), problem };
    let tables: Vec<TokenTable> =
        value.try_into().map_err(|err: toml::de::Error| failed(format!("[[tokens]]: {}", err.message())))?;
    tables.into_iter().map(|table| token(table).map_err(failed)).collect()
}

/// No message has the value of `sha256`: it may be the token itself, put there by mistake.
fn token(table: TokenTable) -> Result<NamedToken, String> {
    let TokenTable { name, role, sha256, expires, rights } = table;
    if !is_token_name(&name) {
        return Err(format!("the token {name:?}: {NAME_RULE}"));
    }
    let of = |problem: String| format!("the token {name:?}: {problem}");
    let role: Role = role.parse().map_err(|known| of(format!("its role is {role:?}: use one of {known}")))?;
    let more = rights.iter().map(|word| {
        word.parse::<Right>().map_err(|known| of(format!("it has the right {word:?}: use rights of {known}")))
    });
    let more: Rights = more.collect::<Result<_, _>>()?;
    let digest: TokenDigest = sha256.parse().map_err(|_| {
        of("its sha256 is not 64 hexadecimal digits: `outbox token new` prints the token and this line".to_owned())
    })?;
    if digest == TokenDigest::of("") {
        return Err(of("its sha256 is that of an empty text: `outbox token new` makes a token".to_owned()));
    }
    let expires_at = expires.map(|value| end(&value)).transpose().map_err(of)?;
    Ok(NamedToken { role, more, digest, expires_at, name })
}

fn end(value: &Value) -> Result<Millis, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Datetime(time) => time.to_string(),
        other => format!("a {}", other.type_str()),
    };
    let time = humantime::parse_rfc3339_weak(&text).ok().filter(|time| *time >= UNIX_EPOCH);
    time.map(Millis::from).ok_or_else(|| format!("it expires at {text:?}: use a time such as 2027-01-31T00:00:00Z"))
}

/// Errors when two tokens are the same, or too many have one name.
pub(super) fn check(tokens: &[NamedToken]) -> Result<(), ConfigError> {
    let failed = |problem: String| {
        let file = "OUTBOX_TOKEN, OUTBOX_TOKENS_FILE and outbox.toml".to_owned();
        Err(ConfigError::Tokens { file, problem })
    };
    let mut digests = BTreeSet::new();
    for token in tokens {
        let name = &token.name;
        if !digests.insert(token.digest) {
            return failed(format!("the token {name:?} is there twice, or under two names: give each its own"));
        }
        if tokens.iter().any(|other| other.name == *name && (other.role, other.more) != (token.role, token.more)) {
            return failed(format!("the tokens with the name {name:?} differ in role or rights: give them two names"));
        }
        if tokens.iter().filter(|other| other.name == *name).count() > OF_ONE_NAME {
            return failed(format!("more than two tokens have the name {name:?}: remove those that were replaced"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn table(rest: &str) -> String {
        format!("[[tokens]]\nsha256 = \"{SHA256}\"\n{rest}")
    }

    fn problem(text: &str) -> String {
        of_file("tokens.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn a_token_has_a_name_a_role_and_perhaps_an_end_and_more_rights() {
        let text = table("name = 'ada'\nrole = 'operate'\nexpires = 2027-01-31T00:00:00Z\nrights = ['read-payload']");
        let token = of_file("f", &text).unwrap().pop().unwrap();
        assert_eq!((token.name.as_str(), token.role, token.digest), ("ada", Role::Operate, TokenDigest::of("abc")));
        assert_eq!(token.expires_at, Some(Millis::new(1_801_353_600_000)));
        assert!(token.rights().has(Right::ReadPayload));
        let text = table("name = 'ada'\nrole = 'read'\nexpires = '2027-01-31T00:00:00Z'");
        assert_eq!(of_file("f", &text).unwrap()[0].expires_at, token.expires_at);
        assert!(problem("").contains("no [[tokens]]"));
        let empty = table("name = 'ada'\nrole = 'read'").replace(SHA256, &TokenDigest::of("").to_string());
        assert!(problem(&empty).contains("empty text"));
    }

    #[test]
    fn what_cannot_be_used_is_named_without_the_token() {
        for (rest, told) in [
            ("name = 'ada'\nrole = 'root'", "its role is \"root\": use one of enqueue, read, operate, admin, scrape"),
            ("name = 'a b'\nrole = 'read'", "\"a b\""),
            ("name = 'Admin'\nrole = 'read'", "none of admin"),
            ("name = 'root@db1'\nrole = 'read'", "\"root@db1\""),
            ("name = 'ada'\nrole = 'read'\nrights = ['write']", "the right \"write\""),
            ("name = 'ada'\nrole = 'read'\nexpires = 'soon'", "such as 2027-01-31T00:00:00Z"),
            ("name = 'ada'", "missing field `role`"),
            ("name = 'ada'\nrole = 'read'\nrole_ = 1", "unknown field `role_`"),
        ] {
            let problem = problem(&table(rest));
            assert!(problem.contains("tokens.toml") && problem.contains(told), "{problem}");
        }
        let secret = problem("[[tokens]]\nname = 'ada'\nrole = 'read'\nsha256 = 'hunter2'");
        assert!(secret.contains("outbox token new") && !secret.contains("hunter"), "{secret}");
        assert!(problem("token = 'hunter2'").contains("[[tokens]] only"));
    }

    #[test]
    fn a_token_may_be_replaced_by_another_of_its_name_and_none_is_there_twice() {
        let named = |name: &str, token: &str| NamedToken { name: name.into(), ..NamedToken::admin(token) };
        assert_eq!(check(&[named("ada", "a"), named("ada", "b"), named("bob", "c")]), Ok(()));
        let other_role = NamedToken { role: Role::Read, ..named("ada", "b") };
        let unlike = check(&[named("ada", "a"), other_role]).unwrap_err().to_string();
        assert!(unlike.contains("differ in role"), "{unlike}");
        let twice = check(&[named("ada", "a"), named("bob", "a")]).unwrap_err().to_string();
        assert!(twice.contains("twice"), "{twice}");
        let third = check(&["a", "b", "c"].map(|token| named("ada", token))).unwrap_err().to_string();
        assert!(third.contains("more than two"), "{third}");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), table("name = 'ada'\nrole = 'read'")).unwrap();
        for (mode, is_read) in [(0o600, true), (0o440, true), (0o640, true), (0o604, false), (0o620, false)] {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_file(file.path()).is_ok(), is_read, "{mode:o}");
        }
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        let told = read_file(file.path()).unwrap_err().to_string();
        assert!(told.contains("its mode is 644") && told.contains("chmod 600"), "{told}");
        assert!(read_file(Path::new("/none")).unwrap_err().to_string().contains("cannot be read"));
        assert!(writable(file.path()).is_none());
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o664)).unwrap();
        assert!(writable(file.path()).unwrap().contains("chmod go-w"));
    }

    #[test]
    fn only_a_file_of_the_hosts_user_or_of_root_is_read_and_nothing_that_is_no_file() {
        assert_eq!(
            [(0, 0), (0, 7), (7, 7), (8, 7), (7, 0)].map(|(owner, own)| is_trusted(owner, own)),
            [true, true, true, false, false]
        );
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().unwrap().success());
        for path in [&*pipe, folder.path()] {
            let told = read_file(path).unwrap_err().to_string();
            assert!(told.contains("it is no file"), "{told}");
        }
    }
}
