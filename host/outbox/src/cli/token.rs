//! `token`: makes a token for a caller of the HTTP server. Reads and changes no settings.
//!
//! Standard output has the lines for the file and nothing else, so that they can be appended to it. The token is a secret
//! that belongs in no file of the host: it goes to standard error, with the explanation.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde::Serialize;

use outbox_http::{Right, Role, TokenDigest};

use crate::cli::arguments::UsageError;
use crate::cli::output::Output;
use crate::config::{NAME_RULE, is_token_name};

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token: print the lines for outbox.toml, and the token itself to standard error
    ///
    /// The token is shown this once: the host keeps only its SHA-256. `outbox token new … >> tokens.toml`
    /// appends the lines and shows the token. Two tokens may have one name, so that the new one can
    /// replace the old one: add it, give it to its caller, and remove the old one.
    New(NewTokenArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NewTokenArgs {
    /// Who gets it; the audit trail has this name
    name: String,
    /// What it is for: enqueue, read, operate, admin or scrape
    #[arg(long, value_parser = role)]
    role: Role,
    /// A right besides those of the role, such as read-payload; may be repeated
    #[arg(long = "right", value_name = "RIGHT", value_parser = right)]
    rights: Vec<Right>,
    /// In how long it is refused, such as 90d, or from when on, such as 2027-01-31T00:00:00Z
    #[arg(long, value_name = "AGE|WHEN", value_parser = end)]
    expires: Option<SystemTime>,
}

fn role(word: &str) -> Result<Role, String> {
    word.parse().map_err(|known| format!("use one of {known}"))
}

fn right(word: &str) -> Result<Right, String> {
    word.parse().map_err(|known| format!("use one of {known}"))
}

fn end(text: &str) -> Result<SystemTime, String> {
    let in_how_long = |length: Duration| SystemTime::now().checked_add(length);
    let from_now = humantime::parse_duration(text).ok().and_then(in_how_long);
    let end = from_now.or_else(|| humantime::parse_rfc3339_weak(text).ok());
    let end = end.ok_or("use a time such as 90d, or 2027-01-31T00:00:00Z")?;
    if end <= SystemTime::now() { Err("this has passed: the token would be refused".to_owned()) } else { Ok(end) }
}

/// A new token.
#[derive(Serialize)]
struct NewToken {
    name: String,
    token: String,
    sha256: String,
    /// The lines for `outbox.toml`.
    toml: String,
}

pub(crate) fn run(command: &TokenCommand, output: Output) -> anyhow::Result<ExitCode> {
    let TokenCommand::New(args) = command;
    if !is_token_name(&args.name) {
        let problem = format!("the name is {:?}: {NAME_RULE}", args.name);
        return Err(UsageError(problem).into());
    }
    let token = new_token();
    let sha256 = TokenDigest::of(&token).to_string();
    let made = NewToken { name: args.name.clone(), toml: lines(args, &sha256), token, sha256 };
    output.hint(&explanation(&made));
    output.emit(&made, || made.toml.clone())?;
    Ok(ExitCode::SUCCESS)
}

/// 244 bits from the system's random numbers; a UUID has 122. The prefix lets scanners of secrets find tokens.
fn new_token() -> String {
    let part = || uuid::Uuid::new_v4().simple().to_string();
    format!("outbox_{}{}", part(), part())
}

fn lines(args: &NewTokenArgs, sha256: &str) -> String {
    let NewTokenArgs { name, role, rights, expires } = args;
    let words: Vec<_> = rights.iter().map(|right| format!("\"{right}\"")).collect();
    let rights = (!rights.is_empty()).then(|| format!("rights = [{}]", words.join(", ")));
    let end = expires.map(|end| format!("expires = {}", humantime::format_rfc3339_seconds(end)));
    let always = ["[[tokens]]".to_owned(), format!("name = \"{name}\""), format!("role = \"{role}\"")];
    let sha256 = format!("sha256 = \"{sha256}\"");
    let lines = always.into_iter().chain(rights).chain([sha256]).chain(end);
    lines.map(|line| line + "\n").collect()
}

fn explanation(made: &NewToken) -> String {
    format!(
        "The token of {}, which is shown this once:\n\n{}\n\nThese lines belong in outbox.toml, or in the file that \
         OUTBOX_TOKENS_FILE names, which others must not be able to read. Then send the host a SIGHUP:\n",
        made.name, made.token
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tokens_are_alike() {
        let [one, other] = [new_token(), new_token()];
        assert!(one != other && one.len() == "outbox_".len() + 64, "{one}");
    }

    #[test]
    fn an_end_is_a_length_or_a_time_that_has_not_passed() {
        assert!(end("90d").is_ok() && end("2999-01-31T00:00:00Z").is_ok());
        assert!(end("2020-01-31T00:00:00Z").unwrap_err().contains("passed"));
        assert!(end("0s").unwrap_err().contains("passed"));
        assert!(end("soon").unwrap_err().contains("90d"));
    }
}
