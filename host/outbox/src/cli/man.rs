//! `man`: writes the manual pages, one for each command, from the definition of the arguments and of the settings.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::output::{Output, count};
use crate::config::{Config, DescribedSetting};

/// What the pages belong to.
const MANUAL: &str = "Outbox Manual";

/// Write the manual pages, one for each command
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The folder, such as /usr/local/share/man/man1; it is made if needed
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
}

pub(crate) fn run(args: &ManArgs, command: Command, output: Output) -> anyhow::Result<ExitCode> {
    let folder = &args.to;
    fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let pages = write_all(&command, folder, true)?;
    output.hint(&format!("{} in {}", count(pages, "manual page"), folder.display()));
    Ok(ExitCode::SUCCESS)
}

/// Writes the page of the command and of those below it. Returns how many.
fn write_all(command: &Command, folder: &Path, is_program: bool) -> anyhow::Result<u64> {
    let source = format!("outbox {}", env!("CARGO_PKG_VERSION"));
    // Roff takes the next argument for an empty date.
    let page = Man::new(command.clone()).date(" ").source(source).manual(MANUAL);
    let file = folder.join(page.get_filename());
    fs::write(&file, text(&page, is_program)?).with_context(|| format!("writing {}", file.display()))?;
    let mut pages = 1;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages += write_all(below, folder, false)?;
    }
    Ok(pages)
}

/// What clap knows of the command, and the sections that all commands share.
fn text(page: &Man, is_program: bool) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    page.render(&mut text)?;
    let mut roff = Roff::new();
    exit_status(&mut roff);
    if is_program {
        environment(&mut roff);
    } else {
        section(&mut roff, "ENVIRONMENT", "Every setting may be given by a variable: outbox(1) lists them.");
    }
    files(&mut roff);
    if !is_program {
        section(&mut roff, "SEE ALSO", "outbox(1)");
    }
    roff.to_writer(&mut text)?;
    Ok(text)
}

fn section(roff: &mut Roff, title: &str, about: &str) {
    roff.control("SH", [title]).text([roman(about)]);
}

/// A name and what it means.
fn entry(roff: &mut Roff, name: &str, about: &str) {
    roff.control("TP", []).text([bold(name)]).text([roman(about)]);
}

fn exit_status(roff: &mut Roff) {
    roff.control("SH", ["EXIT STATUS"]);
    entry(roff, "0", "Success.");
    entry(roff, "1", "The command failed, or refused what was asked; the message says why.");
    entry(roff, "2", "The arguments or the settings cannot be used. Nothing was done.");
}

fn environment(roff: &mut Roff) {
    section(
        roff,
        "ENVIRONMENT",
        "A flag wins over a variable, a variable over the file, the file over the default. The keys of the file are the names \
         of the variables in lower case without OUTBOX_.",
    );
    for DescribedSetting { variable, default, about } in Config::described() {
        let default = if default.is_empty() { String::new() } else { format!(" (by default {default})") };
        entry(roff, variable, &format!("{about}{default}."));
    }
    entry(roff, "OUTBOX_CONFIG", "The configuration file.");
    entry(roff, "RUST_LOG", "Which lines are logged, such as info or outbox=debug.");
    entry(roff, "NO_COLOR", "With any value, outbox top has no colours.");
    entry(roff, "OTEL_EXPORTER_OTLP_ENDPOINT", "The collector that gets traces and log lines; see telemetry.md.");
}

fn files(roff: &mut Roff) {
    roff.control("SH", ["FILES"]);
    entry(roff, "outbox.toml", "The settings, in the working directory.");
    entry(roff, "/etc/outbox/outbox.toml", "The settings, where the working directory has none.");
    entry(roff, "plugins.d", "The handlers and their manifests, unless OUTBOX_PLUGINS names another folder.");
    entry(roff, "/usr/share/doc/outbox", "The documents, where a package has installed them.");
}
