//! The `outbox` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    outbox::main()
}
