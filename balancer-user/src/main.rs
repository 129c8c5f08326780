//! The `idlefirst` command. All of it is in the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    balancer_user::cli::run()
}
