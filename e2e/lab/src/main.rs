//! The `herald-lab` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    herald_lab::cli::main()
}
