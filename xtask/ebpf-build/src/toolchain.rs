//! Finds what an eBPF build needs: a compiler that takes unstable features, the sources of
//! its own `core`, and a bpf-linker whose LLVM is not older than the compiler's.
//!
//! Looks in this order: nightly toolchains of rustup, then the distribution's Rust. Installs
//! nothing (see `install`). Called by `install` and by the build itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    command::query,
    environment::{cargo_home, is_executable, rustup_home, scrub, which},
};

/// Where the distribution keeps its compiler. Debian names the packages of the one that is
/// recent enough `rustc-web`, `cargo-web` and `rust-web-src`.
const DISTRIBUTION_BIN: &str = "/usr/bin";

/// The oldest LLVM whose bitcode a supported bpf-linker reads.
pub(crate) const OLDEST_LLVM: u32 = 21;

/// Everything a build needs, found on this machine.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The compiler with its sources.
    pub compiler: Compiler,
    /// Path of bpf-linker.
    pub linker: PathBuf,
}

/// A compiler that can build `core` for the BPF target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// Where it comes from.
    pub origin: Origin,
    /// Path of its cargo.
    pub cargo: PathBuf,
    /// Path of its rustc.
    pub rustc: PathBuf,
    /// What `rustc -V` says.
    pub version: String,
    /// Major version of the LLVM inside.
    pub llvm_major: u32,
}

/// Where a compiler comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A nightly toolchain of rustup.
    Rustup,
    /// Packages of the distribution: a stable compiler, which takes unstable features only
    /// with `RUSTC_BOOTSTRAP=1`.
    Distribution,
}

/// What a machine lacks.
#[derive(Clone, Debug)]
pub(crate) enum Lack {
    /// There is no fitting compiler with its sources.
    Compiler,
    /// There are compilers, but no bpf-linker that fits one of them.
    Linker(Compiler),
}

impl Toolchain {
    /// One line for people.
    pub fn describe(&self) -> String {
        let origin = match self.compiler.origin {
            Origin::Rustup => "rustup",
            Origin::Distribution => "distribution packages",
        };
        format!(
            "{} ({origin}, LLVM {}), {}",
            self.compiler.version,
            self.compiler.llvm_major,
            self.linker.display()
        )
    }
}

impl Compiler {
    /// A command of this compiler's cargo with a clean environment.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        scrub(&mut command).env("RUSTC", &self.rustc);
        command
    }

    fn from_directory(origin: Origin, bin: &Path) -> Option<Self> {
        let (cargo, rustc) = (bin.join("cargo"), bin.join("rustc"));
        if !is_executable(&cargo) || !is_executable(&rustc) {
            return None;
        }
        let mut ask = Command::new(&rustc);
        let sysroot = query(scrub(&mut ask).args(["--print", "sysroot"]))?;
        let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
        // The lock file is what `-Z build-std` asks for; sources alone are not enough.
        if !library.join("core/src/lib.rs").exists() || !library.join("Cargo.lock").exists() {
            return None;
        }
        let mut ask = Command::new(&rustc);
        let verbose = query(scrub(&mut ask).arg("-vV"))?;
        let llvm_major = llvm_major(&verbose)?;
        (llvm_major >= OLDEST_LLVM).then(|| Self {
            origin,
            cargo,
            rustc,
            version: verbose.lines().next().unwrap_or_default().to_owned(),
            llvm_major,
        })
    }
}

/// The toolchain to build with, or what is missing for one.
pub(crate) fn find() -> Result<Toolchain, Lack> {
    let compilers = compilers();
    let linkers: Vec<_> = linkers()
        .into_iter()
        .map(|path| {
            (
                fs::read(&path)
                    .ok()
                    .and_then(|binary| linked_llvm_major(&binary)),
                path,
            )
        })
        .collect();

    for compiler in &compilers {
        let fits = |llvm: &Option<u32>| llvm.is_none_or(|major| major >= compiler.llvm_major);
        if let Some((_, linker)) = linkers.iter().find(|(llvm, _)| fits(llvm)) {
            return Ok(Toolchain {
                compiler: compiler.clone(),
                linker: linker.clone(),
            });
        }
    }
    match compilers.into_iter().next() {
        Some(compiler) => Err(Lack::Linker(compiler)),
        None => Err(Lack::Compiler),
    }
}

fn compilers() -> Vec<Compiler> {
    let toolchains = rustup_home().join("toolchains");
    let names = fs::read_dir(&toolchains)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    nightlies(names)
        .into_iter()
        .filter_map(|name| {
            Compiler::from_directory(Origin::Rustup, &toolchains.join(name).join("bin"))
        })
        .chain(Compiler::from_directory(
            Origin::Distribution,
            Path::new(DISTRIBUTION_BIN),
        ))
        .collect()
}

/// Nightly toolchains: the undated one first, then dated ones, newest first.
fn nightlies(names: Vec<String>) -> Vec<String> {
    let dated = |name: &String| name.as_bytes().get(8).is_some_and(u8::is_ascii_digit);
    let mut names: Vec<_> = names
        .into_iter()
        .filter(|name| name == "nightly" || name.starts_with("nightly-"))
        .collect();
    names.sort_by(|a, b| dated(a).cmp(&dated(b)).then_with(|| b.cmp(a)));
    names
}

/// bpf-linker on PATH, and in cargo's home even where that is not on PATH.
fn linkers() -> Vec<PathBuf> {
    let at_home = cargo_home().join("bin/bpf-linker");
    let mut found: Vec<_> = which("bpf-linker").into_iter().collect();
    if is_executable(&at_home) && !found.contains(&at_home) {
        found.push(at_home);
    }
    found
}

fn llvm_major(rustc_verbose_version: &str) -> Option<u32> {
    let version = rustc_verbose_version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

/// The major version of the shared LLVM that a binary names, if it names one.
///
/// bpf-linker does not say which LLVM it was built with, and an older one than the
/// compiler's fails only at the end of the build, over "invalid bitcode".
fn linked_llvm_major(binary: &[u8]) -> Option<u32> {
    [&b"libLLVM.so."[..], b"libLLVM-"]
        .into_iter()
        .find_map(|name| {
            let found = binary
                .windows(name.len())
                .position(|window| window == name)?;
            let digits: String = binary[found + name.len()..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .map(|byte| char::from(*byte))
                .collect();
            digits.parse().ok()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undated_nightly_comes_first_then_the_newest() {
        let names = [
            "stable-x86_64-unknown-linux-gnu",
            "nightly-2025-01-02-x86_64-unknown-linux-gnu",
            "nightly-x86_64-unknown-linux-gnu",
            "nightly-2026-03-04-x86_64-unknown-linux-gnu",
            "nightlyish",
        ];
        assert_eq!(
            nightlies(names.map(str::to_owned).to_vec()),
            [names[2], names[3], names[1]]
        );
    }

    #[test]
    fn llvm_of_a_compiler_is_read_from_its_verbose_version() {
        assert_eq!(
            llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"),
            Some(22)
        );
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }

    #[test]
    fn llvm_of_a_linker_is_read_from_the_library_it_names() {
        assert_eq!(
            linked_llvm_major(b"\x7fELF\0libLLVM.so.22.1\0libc.so.6"),
            Some(22)
        );
        assert_eq!(linked_llvm_major(b"\x7fELF\0libLLVM-21.so\0"), Some(21));
        assert_eq!(linked_llvm_major(b"\x7fELF\0libc.so.6"), None);
    }
}
