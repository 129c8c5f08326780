//! Builds the eBPF programs, so that the agent can embed them: a plain `cargo build` is
//! enough. Leaves `$OUT_DIR/idlefirst.bpf.o`.
//!
//! Everything else about that build is in the `ebpf-build` crate. Called by cargo.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use ebpf_build::{BINARY, CRATE_DIRECTORY, Endian, InstallPolicy, OBJECT_NAME, Request};

fn main() -> ExitCode {
    let out = path_from("OUT_DIR");
    let root = path_from("CARGO_MANIFEST_DIR");
    let root = root.parent().unwrap_or(&root);
    let crate_directory = root.join(CRATE_DIRECTORY);
    rerun_if_changed(root);

    let endian = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => Endian::Big,
        _ => Endian::Little,
    };
    let request = Request {
        crate_directory: &crate_directory,
        binary: BINARY,
        target_directory: &shared_target(&out),
        object: &out.join(OBJECT_NAME),
        endian,
        policy: InstallPolicy::from_environment(),
        // Cargo shows a build script's warnings, and nothing else of what it prints.
        progress: &|line| println!("cargo::warning={line}"),
    };
    match ebpf_build::build(&request) {
        Ok(built) => {
            println!("built with {}", built.toolchain.describe());
            println!("{}", built.compiler_output);
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Returned as an error it would be printed as one escaped line.
            eprintln!("the eBPF programs could not be built\n{error}");
            ExitCode::FAILURE
        }
    }
}

fn rerun_if_changed(root: &Path) {
    let ebpf = root.join(CRATE_DIRECTORY);
    let common = root.join("balancer-common");
    for input in [
        root.join("Cargo.toml"),
        ebpf.join("Cargo.toml"),
        ebpf.join("Cargo.lock"),
        ebpf.join("src"),
        common.join("Cargo.toml"),
        common.join("src"),
    ] {
        println!("cargo::rerun-if-changed={}", input.display());
    }
}

/// A target directory for the nested build beside the profiles' own, so that debug, release
/// and clippy build the programs once: `<target>/<profile>/build/<package>/out` gives
/// `<target>/ebpf`. An unfamiliar layout gets one of its own.
fn shared_target(out: &Path) -> PathBuf {
    out.ancestors()
        .find(|path| path.file_name().is_some_and(|name| name == "build"))
        .and_then(|build| build.parent()?.parent())
        .map_or_else(|| out.join("ebpf"), |target| target.join("ebpf"))
}

fn path_from(variable: &str) -> PathBuf {
    env::var_os(variable)
        .unwrap_or_else(|| {
            panic!("{variable} is not set: this is a build script, let cargo run it")
        })
        .into()
}
