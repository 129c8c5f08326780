//! Finds or installs the eBPF toolchain and builds the programs with it.
//!
//! Called by the agent's build script, so that a plain `cargo build` is right, and by
//! `cargo xtask`. Uses only the standard library, since every build of the agent waits
//! for it. Knows nothing of what the programs do.

pub mod command;
mod environment;
mod install;
mod toolchain;

use std::{
    error, fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

pub use command::{Failure, Progress};
pub use environment::{InstallPolicy, NO_INSTALL_VARIABLE, NoPackages, cargo_home, is_root, which};
pub use install::install_packages;
pub use toolchain::{Compiler, Origin, Toolchain};

/// The crate of the eBPF programs, relative to the root of the repository.
pub const CRATE_DIRECTORY: &str = "balancer-ebpf";

/// The binary target of that crate.
pub const BINARY: &str = "idlefirst";

/// Name of the object file that [`build`] leaves.
pub const OBJECT_NAME: &str = "idlefirst.bpf.o";

/// Byte order of the machine that will run the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endian {
    /// `bpfel-unknown-none`
    Little,
    /// `bpfeb-unknown-none`
    Big,
}

impl Endian {
    /// That of this machine.
    pub const NATIVE: Self = if cfg!(target_endian = "big") {
        Self::Big
    } else {
        Self::Little
    };

    fn target(self) -> &'static str {
        match self {
            Self::Little => "bpfel-unknown-none",
            Self::Big => "bpfeb-unknown-none",
        }
    }
}

/// What to build, and where to.
pub struct Request<'a> {
    /// Directory of the eBPF crate.
    pub crate_directory: &'a Path,
    /// Name of its binary target.
    pub binary: &'a str,
    /// Target directory of the nested cargo. Must not be that of the calling cargo, which
    /// holds its lock; builds that name the same one share their work and take turns.
    pub target_directory: &'a Path,
    /// Where the object file goes. Replaced whole, never seen half-written.
    pub object: &'a Path,
    /// Byte order of the machine that will load it.
    pub endian: Endian,
    /// Whether missing tools may be installed.
    pub policy: InstallPolicy,
    /// Where progress lines go.
    pub progress: Progress<'a>,
}

/// A finished build.
#[derive(Debug)]
pub struct Built {
    /// The object file, as asked for.
    pub object: PathBuf,
    /// What built it.
    pub toolchain: Toolchain,
    /// What the compiler said, warnings above all.
    pub compiler_output: String,
}

/// Why there is no object file.
#[derive(Debug)]
pub enum Error {
    /// Something is missing that may not or cannot be installed.
    MayNotInstall {
        /// What is missing.
        what: String,
        /// What it is needed for.
        why: String,
        /// Why it was not installed.
        obstacle: &'static str,
        /// The command to run.
        remedy: String,
    },
    /// A command failed: an installation, or the compiler.
    Command(Failure),
    /// A file could not be read or written.
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MayNotInstall {
                what,
                why,
                obstacle,
                remedy,
            } => write!(
                f,
                "missing: {what}\nneeded because: {why}\nnot installed because: {obstacle}\nrun this, then try again:\n  {remedy}"
            ),
            Self::Command(failure) => failure.fmt(f),
            Self::File {
                doing,
                path,
                source,
            } => write!(
                f,
                "{doing} failed at {}: {source}\nwhat to do: see that the directory exists, is writable and has room",
                path.display()
            ),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::MayNotInstall { .. } => None,
            Self::Command(failure) => failure.source(),
            Self::File { source, .. } => Some(source),
        }
    }
}

/// Finds the toolchain, installing what is missing as far as `policy` allows.
pub fn prepare(policy: InstallPolicy, progress: Progress<'_>) -> Result<Toolchain, Error> {
    install::prepare(policy, progress)
}

/// Builds the eBPF programs into one object file.
pub fn build(request: &Request<'_>) -> Result<Built, Error> {
    let toolchain = prepare(request.policy, request.progress)?;
    let _held_until_return = lock(request.target_directory)?;

    let mut cargo = cargo(&toolchain, request);
    let compiler_output = command::run(
        &mut cargo,
        "building the eBPF programs",
        "read the compiler's message above; if the linker speaks of bitcode or LLVM versions, \
         remove bpf-linker and build again",
        request.progress,
    )?;
    let built = request
        .target_directory
        .join(request.endian.target())
        .join("release")
        .join(request.binary);
    put_in_place(&built, request.object)?;
    Ok(Built {
        object: request.object.to_owned(),
        toolchain,
        compiler_output,
    })
}

fn cargo(toolchain: &Toolchain, request: &Request<'_>) -> Command {
    let linker = format!("linker={}", toolchain.linker.display());
    let flags = [
        "-C",
        "debuginfo=2",
        "-C",
        "link-arg=--btf",
        "-C",
        "target-cpu=v3",
        "-C",
        &linker,
    ];
    let mut cargo = toolchain.compiler.cargo();
    cargo
        // A directory of the crate, so that cargo reads the repository's own configuration.
        .current_dir(request.crate_directory)
        .env("CARGO_TARGET_DIR", request.target_directory)
        // Unlike RUSTFLAGS it takes a path with blanks.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .args(["build", "--release", "-Z", "build-std=core"])
        .args(["--target", request.endian.target()])
        .args(["--bin", request.binary]);
    if toolchain.compiler.origin == Origin::Distribution {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    cargo
}

/// Keeps another build from replacing the object between linking and copying.
fn lock(target_directory: &Path) -> Result<File, Error> {
    let path = target_directory.join(".idlefirst-build.lock");
    fs::create_dir_all(target_directory)
        .and_then(|()| File::create(&path))
        .and_then(|file| file.lock().map(|()| file))
        .map_err(|source| Error::File {
            doing: "taking the lock for building the eBPF programs",
            path,
            source,
        })
}

fn put_in_place(built: &Path, object: &Path) -> Result<(), Error> {
    let error = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File {
            doing,
            path,
            source,
        }
    };
    let unfinished = object.with_extension(format!("unfinished-{}", std::process::id()));
    if let Some(directory) = object.parent() {
        fs::create_dir_all(directory).map_err(error("creating a directory", directory))?;
    }
    fs::copy(built, &unfinished).map_err(error("copying the object file", built))?;
    fs::rename(&unfinished, object).map_err(error("renaming the object file", object))
}
