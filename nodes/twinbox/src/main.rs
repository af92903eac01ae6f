//! The one binary of Twinbox.

fn main() -> std::process::ExitCode {
    twinbox_cli::main()
}
