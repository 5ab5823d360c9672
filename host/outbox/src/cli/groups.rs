//! The help of the program: its commands by what they are for.
//!
//! A test says that each command is in one group. What a command does is its own file's.

use clap::Command;

/// The groups of commands, in the order of the help.
const GROUPS: [(&str, &[&str]); 6] = [
    ("Run a host", &["serve", "worker", "migrate", "backup", "config", "token", "doctor"]),
    ("Enqueue and find", &["enqueue", "list", "show"]),
    ("Look for trouble", &["top", "stats", "stuck", "failures", "jobs", "audit", "signals"]),
    (
        "Change items and types",
        &["replay", "dead", "restore", "reschedule", "release", "purge", "pause", "resume", "unblock"],
    ),
    ("Handlers", &["plugin"]),
    ("Move and measure", &["export", "import", "bench", "completions", "man", "help"]),
];

/// The command with a help that lists its commands by group.
pub(crate) fn grouped(mut command: Command) -> Command {
    command.build();
    let groups: Vec<_> = GROUPS.iter().map(|(heading, names)| group(&command, heading, names)).collect();
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{}Global options:\n{{options}}",
        groups.concat()
    );
    command.help_template(template)
}

fn group(command: &Command, heading: &str, names: &[&str]) -> String {
    let line = |name: &&str| {
        let about = command.find_subcommand(name).and_then(Command::get_about);
        format!("  {name:<12} {}\n", about.map(ToString::to_string).unwrap_or_default())
    };
    format!("{heading}:\n{}\n", names.iter().map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_command_is_in_one_group_and_every_group_has_known_commands() {
        let mut command = Cli::command();
        command.build();
        let mut known: Vec<_> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
        let mut listed: Vec<_> = GROUPS.iter().flat_map(|(_, names)| *names).map(|name| (*name).to_owned()).collect();
        known.sort();
        listed.sort();
        assert_eq!(known, listed);
    }
}
