//! Installs what an eBPF build lacks, if the policy allows it, and says what and why first;
//! otherwise fails with the one command to run.
//!
//! Two builds at once install one after the other: the second finds everything there.
//! Called by `prepare`, and by `xtask` for the packages that the tests need.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Error,
    command::{self, Failure, Progress, query},
    environment::{InstallPolicy, cargo_home, scrub, which},
    toolchain::{self, Compiler, Lack, Toolchain},
};

/// Fixed so that every machine links alike.
const LINKER_VERSION: &str = "0.13.0";

/// The newest LLVM that this version of bpf-linker can be built with.
const NEWEST_LLVM: u32 = 23;

/// Debian's recent Rust; the plain `rustc` package is too old.
const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// The LLVM of that Rust, for the command shown to people who install by hand.
const COMPILER_LLVM: u32 = 22;

/// Another installation may hold dpkg's lock for this long before ours gives up.
const DPKG_LOCK_SECONDS: &str = "DPkg::Lock::Timeout=300";

/// Finds the toolchain, installing what is missing.
pub(crate) fn prepare(policy: InstallPolicy, progress: Progress<'_>) -> Result<Toolchain, Error> {
    let mut lack = match toolchain::find() {
        Ok(found) => return Ok(found),
        Err(lack) => lack,
    };
    if policy == InstallPolicy::Nothing {
        return Err(missing(&lack, policy));
    }

    let _held_until_return = install_lock()?;
    // A compiler from packages; if that is too old, one from rustup; then the linker, whose
    // LLVM follows from the compiler.
    for round in 0..3 {
        lack = match toolchain::find() {
            Ok(found) => return Ok(found),
            Err(lack) => lack,
        };
        match &lack {
            Lack::Compiler => install_compiler(round == 0, policy, progress)?,
            Lack::Linker(compiler) => install_linker(compiler, policy, progress)?,
        }
    }
    toolchain::find().map_err(|_| missing(&lack, policy))
}

/// Installs Debian packages, or says with which command to do it.
///
/// `why` completes the sentence "installing P: …".
pub fn install_packages(
    packages: &[&str],
    why: &str,
    policy: InstallPolicy,
    progress: Progress<'_>,
) -> Result<(), Error> {
    if let Some(obstacle) = policy.obstacle() {
        return Err(Error::MayNotInstall {
            what: packages.join(" "),
            why: why.to_owned(),
            obstacle,
            remedy: by_hand(packages),
        });
    }
    progress(&format!("installing {}: {why}", packages.join(" ")));

    let remedy = by_hand(packages);
    let mut update = apt_get();
    update.arg("update");
    if let Err(failure) = command::run(&mut update, "apt-get update", &remedy, progress) {
        // Lists from an earlier update may do; if not, the next command tells.
        progress(&format!(
            "going on with the package lists at hand: {failure}"
        ));
    }
    let mut install = apt_get();
    install
        // Removing something of the user's to make room is not ours to decide.
        .args(["install", "-y", "--no-install-recommends", "--no-remove"])
        .args(packages);
    command::run(&mut install, "apt-get install", &remedy, progress)?;
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    scrub(&mut command)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8")
        .args(["-q", "-o", DPKG_LOCK_SECONDS]);
    command
}

fn by_hand(packages: &[&str]) -> String {
    format!(
        "sudo apt-get update && sudo apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    )
}

fn install_compiler(
    packages_first: bool,
    policy: InstallPolicy,
    progress: Progress<'_>,
) -> Result<(), Error> {
    const WHY: &str = "the eBPF programs need a compiler with the sources of its core library";
    let rustup = which("rustup");
    if packages_first && policy == InstallPolicy::Everything {
        match (
            install_packages(&COMPILER_PACKAGES, WHY, policy, progress),
            &rustup,
        ) {
            (Err(error), Some(_)) => progress(&format!("trying rustup instead, since: {error}")),
            (outcome, _) => return outcome,
        }
    }
    let Some(rustup) = rustup else {
        return Err(missing(&Lack::Compiler, policy));
    };
    progress(&format!(
        "installing a nightly toolchain with rust-src: {WHY}"
    ));
    let mut install = Command::new(rustup);
    scrub(&mut install).args(
        "toolchain install nightly --profile minimal --component rust-src --no-self-update"
            .split(' '),
    );
    let remedy = remedy(&Lack::Compiler);
    command::run(&mut install, "rustup toolchain install", &remedy, progress)?;
    Ok(())
}

fn install_linker(
    compiler: &Compiler,
    policy: InstallPolicy,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let lack = Lack::Linker(compiler.clone());
    let llvm = compiler.llvm_major;
    if llvm > NEWEST_LLVM {
        return Err(missing(&lack, policy));
    }
    let prefix = match llvm_prefix(llvm) {
        Some(prefix) => prefix,
        None => {
            let package = format!("llvm-{llvm}-dev");
            let why = "bpf-linker is built with the LLVM of the compiler";
            install_packages(&[&package], why, policy, progress)?;
            llvm_prefix(llvm).ok_or_else(|| missing(&lack, policy))?
        }
    };

    progress(&format!(
        "installing bpf-linker {LINKER_VERSION} into {} (a minute or two): it links the eBPF programs",
        cargo_home().join("bin").display()
    ));
    let mut install = compiler.cargo();
    install
        .env("LLVM_PREFIX", &prefix)
        .current_dir(cargo_home())
        .args(["install", "bpf-linker", "--locked", "--force"])
        .args(["--version", LINKER_VERSION])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
        ])
        .arg("--root")
        .arg(cargo_home());
    command::run(
        &mut install,
        "building bpf-linker",
        &remedy(&lack),
        progress,
    )?;
    Ok(())
}

/// Where LLVM of this major version is installed with its `llvm-config`.
fn llvm_prefix(major: u32) -> Option<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    if debian.join("bin/llvm-config").exists() {
        return Some(debian);
    }
    [format!("llvm-config-{major}"), "llvm-config".to_owned()]
        .iter()
        .filter_map(|name| which(name))
        .find_map(|config| {
            let version = query(Command::new(&config).arg("--version"))?;
            let fits = version.trim().split('.').next() == Some(&major.to_string());
            let prefix = fits.then(|| query(Command::new(&config).arg("--prefix")))??;
            Some(PathBuf::from(prefix.trim()))
        })
}

fn missing(lack: &Lack, policy: InstallPolicy) -> Error {
    let (what, why) = match lack {
        Lack::Compiler => (
            "a Rust compiler with the sources of its core library (a nightly with rust-src, or Debian's rustc-web)".to_owned(),
            "the eBPF programs are compiled together with core".to_owned(),
        ),
        Lack::Linker(compiler) => (
            format!("bpf-linker, built with LLVM {} or newer", compiler.llvm_major),
            format!("it links the eBPF programs compiled by {}", compiler.version),
        ),
    };
    Error::MayNotInstall {
        what,
        why,
        obstacle: policy
            .obstacle()
            .unwrap_or("no way of installing it led to one that fits"),
        remedy: remedy(lack),
    }
}

/// The one command that gives the machine what it lacks.
fn remedy(lack: &Lack) -> String {
    let debian = which("apt-get").is_some();
    match lack {
        Lack::Compiler if debian => {
            let llvm = format!("llvm-{COMPILER_LLVM}-dev");
            let mut packages = COMPILER_PACKAGES.to_vec();
            packages.push(&llvm);
            format!(
                "{} && {}",
                by_hand(&packages),
                build_linker(Path::new("/usr/bin/cargo"), Path::new("/usr/bin/rustc"), COMPILER_LLVM)
            )
        }
        Lack::Compiler => {
            "rustup toolchain install nightly --profile minimal --component rust-src && cargo binstall bpf-linker"
                .to_owned()
        }
        Lack::Linker(compiler) if compiler.llvm_major > NEWEST_LLVM => {
            "cargo binstall bpf-linker".to_owned()
        }
        Lack::Linker(compiler) => {
            let build = build_linker(&compiler.cargo, &compiler.rustc, compiler.llvm_major);
            if llvm_prefix(compiler.llvm_major).is_none() && debian {
                let package = format!("llvm-{}-dev", compiler.llvm_major);
                format!("{} && {build}", by_hand(&[&package]))
            } else {
                build
            }
        }
    }
}

fn build_linker(cargo: &Path, rustc: &Path, llvm: u32) -> String {
    let prefix = llvm_prefix(llvm).unwrap_or_else(|| format!("/usr/lib/llvm-{llvm}").into());
    format!(
        "RUSTC={} LLVM_PREFIX={} {} install bpf-linker --version {LINKER_VERSION} --no-default-features --features llvm-{llvm} --locked --force",
        rustc.display(),
        prefix.display(),
        cargo.display()
    )
}

/// Held while installing; released when the file is dropped, also by a crash.
fn install_lock() -> Result<File, Error> {
    let home = cargo_home();
    let path = home.join(".idlefirst-install.lock");
    fs::create_dir_all(&home)
        .and_then(|()| File::create(&path))
        .and_then(|file| file.lock().map(|()| file))
        .map_err(|source| Error::File {
            doing: "taking the lock for installing tools",
            path,
            source,
        })
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Command(failure)
    }
}
