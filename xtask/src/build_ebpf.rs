//! `cargo xtask build-ebpf`: builds the eBPF programs and shows what came out.
//!
//! The build itself is the `ebpf-build` crate, the same that the agent's build script calls.
//! Called by `main`, and by the commands that want its progress shown before cargo, which
//! shows nothing of a build script while it runs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use ebpf_build::{BINARY, Built, CRATE_DIRECTORY, Endian, InstallPolicy, OBJECT_NAME, Request};
use object::{Object, ObjectSection, SectionKind};

use crate::process::{progress, repository_root, target_directory};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Directory of another eBPF crate to build
    #[arg(long, value_name = "DIRECTORY")]
    crate_directory: Option<PathBuf>,
    /// Name of its binary target
    #[arg(long, default_value = BINARY)]
    binary: String,
}

/// Builds, and prints the object's path, size, sections, and the toolchain.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = repository_root()?;
    let directory = match &options.crate_directory {
        Some(directory) => fs::canonicalize(directory)
            .with_context(|| format!("no such directory: {}", directory.display()))?,
        None => root.join(CRATE_DIRECTORY),
    };
    let built = build(&root, &directory, &options.binary)?;
    if !built.compiler_output.is_empty() {
        eprintln!("{}", built.compiler_output);
    }

    let content = fs::read(&built.object)
        .with_context(|| format!("cannot read {}", built.object.display()))?;
    println!("object     {}", built.object.display());
    println!("size       {} bytes", content.len());
    println!("toolchain  {}", built.toolchain.describe());
    println!("programs");
    for (name, size_bytes) in program_sections(&content)? {
        println!(
            "  {name:<24} {:>6} instructions",
            size_bytes / INSTRUCTION_BYTES
        );
    }
    Ok(())
}

/// Builds the project's programs into the directory that the agent's build script uses too,
/// so that cargo's own build afterwards finds the work done.
pub(crate) fn build_own(root: &Path) -> Result<Built> {
    build(root, &root.join(CRATE_DIRECTORY), BINARY)
}

fn build(root: &Path, crate_directory: &Path, binary: &str) -> Result<Built> {
    let target = target_directory(root)?.join("ebpf");
    progress("building the eBPF programs");
    let built = ebpf_build::build(&Request {
        crate_directory,
        binary,
        target_directory: &target,
        object: &target.join(OBJECT_NAME),
        endian: Endian::NATIVE,
        policy: InstallPolicy::from_environment(),
        progress: &progress,
    })?;
    Ok(built)
}

const INSTRUCTION_BYTES: u64 = 8;

/// Names and sizes of the sections that hold instructions, in the object's order.
fn program_sections(content: &[u8]) -> Result<Vec<(String, u64)>> {
    let object = object::File::parse(content).context("the object file is not ELF")?;
    object
        .sections()
        .filter(|section| section.kind() == SectionKind::Text && section.size() > 0)
        .map(|section| Ok((section.name()?.to_owned(), section.size())))
        .collect()
}
