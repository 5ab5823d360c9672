//! Asks the person at the terminal before something is done that deletes, takes work away or may repeat effects.
//!
//! Without a terminal there is no answer, so the command refuses and prints the line that does it unasked.

use std::io::{self, IsTerminal as _};

use crate::cli::arguments::UsageError;
use crate::cli::context::Context;
use crate::cli::output::to_stderr;

/// Asks on standard error whether to do `what` and reads the answer from standard input. Every answer but yes means no.
/// Errors where standard input is no terminal, with the line that does it: this command with these flags.
pub(crate) fn is_confirmed(what: &str, flags: &[&str], context: &Context) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(refused(what, "standard input is no terminal, so this cannot be confirmed", flags, context));
    }
    to_stderr(&format!("{what}\nGo on? [y/N]"));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// The error of a command that did not do `what`, with the line that does it.
pub(crate) fn refused(what: &str, why: &str, flags: &[&str], context: &Context) -> anyhow::Error {
    let command = command_line(&context.arguments, flags);
    UsageError(format!("{what}\nNothing was done: {why}. To do it, type:\n  {command}")).into()
}

/// The command of this process with more flags, as one types it in a shell. Flags come before `--`.
fn command_line(arguments: &[String], flags: &[&str]) -> String {
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let (before, after) = arguments.split_at(end);
    let name = |word: &str| word.split_once('=').map_or(word, |(name, _)| name).to_owned();
    let flags = flags.iter().copied().filter(|flag| !before.iter().any(|argument| name(argument) == name(flag)));
    let words = before.iter().map(String::as_str).chain(flags).chain(after.iter().map(String::as_str));
    words.map(shell_word).collect::<Vec<_>>().join(" ")
}

/// A word as a shell reads it back. The address of a database may contain a password, so it is left out.
fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    match word {
        word if word.contains("://") => "…".to_owned(),
        word if !word.is_empty() && word.chars().all(is_plain) => word.to_owned(),
        word => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_type_repeats_the_command_with_the_flags_that_it_lacks() {
        let line = |arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(|word| (*word).to_owned()).collect();
            command_line(&arguments, &["--all", "--yes"])
        };
        let dated = |arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(|word| (*word).to_owned()).collect();
            command_line(&arguments, &["--as-of=2026-01-31T12:00:00.000Z"])
        };
        let purge = "outbox purge DLQ --as-of=2026-01-31T12:00:00.000Z";
        assert_eq!(dated(&["outbox", "purge", "DLQ"]), purge);
        assert_eq!(dated(&["outbox", "purge", "DLQ", "--as-of=1h"]), "outbox purge DLQ --as-of=1h");
        assert_eq!(dated(&["outbox", "purge", "DLQ", "--as-of", "1h"]), "outbox purge DLQ --as-of 1h");
        assert_eq!(line(&["outbox", "purge", "DLQ"]), "outbox purge DLQ --all --yes");
        assert_eq!(line(&["outbox", "purge", "DONE", "--all"]), "outbox purge DONE --all --yes");
        assert_eq!(line(&["outbox", "dead", "--", "-1"]), "outbox dead --all --yes -- -1");
        let quoted = line(&["outbox", "purge", "DLQ", "--reason", "Ann's disk", ""]);
        assert_eq!(quoted, r"outbox purge DLQ --reason 'Ann'\''s disk' '' --all --yes");
        assert!(!line(&["outbox", "--db", "postgres://me:secret@host/db", "purge"]).contains("secret"));
    }
}
