//! The command line: arguments in, tables or JSON out.

/// Runs the command that the process was started with.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
