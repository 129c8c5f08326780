//! What the machine and the process environment say: where cargo's home is, which
//! variables must not reach a nested build, whether packages may be installed.
//!
//! Reads only; nothing here runs a command. Called by `toolchain` and `install`.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

/// Set to `1`, this forbids installing anything.
pub const NO_INSTALL_VARIABLE: &str = "IDLEFIRST_NO_INSTALL";

/// Whether missing tools may be installed, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstallPolicy {
    /// System packages and cargo binaries may be installed.
    Everything,
    /// Only into cargo's own home: there are no rights to install system packages.
    OnlyCargo(NoPackages),
    /// Nothing may be installed: [`NO_INSTALL_VARIABLE`] says so.
    Nothing,
}

/// Why system packages cannot be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPackages {
    /// The process does not run as root.
    NotRoot,
    /// The machine has no `apt-get`.
    NoApt,
}

impl InstallPolicy {
    /// What the environment allows.
    pub fn from_environment() -> Self {
        if env::var_os(NO_INSTALL_VARIABLE).is_some_and(|value| forbids(&value)) {
            Self::Nothing
        } else if which("apt-get").is_none() {
            Self::OnlyCargo(NoPackages::NoApt)
        } else if !is_root() {
            Self::OnlyCargo(NoPackages::NotRoot)
        } else {
            Self::Everything
        }
    }

    /// Why packages cannot be installed, in words; `None` if they can.
    pub fn obstacle(self) -> Option<&'static str> {
        match self {
            Self::Everything => None,
            Self::OnlyCargo(NoPackages::NotRoot) => Some("this process is not root"),
            Self::OnlyCargo(NoPackages::NoApt) => Some("this machine has no apt-get"),
            Self::Nothing => Some("IDLEFIRST_NO_INSTALL forbids installing"),
        }
    }
}

fn forbids(value: &OsStr) -> bool {
    !value.is_empty() && value != "0"
}

/// Whether this process has root's effective user id.
pub fn is_root() -> bool {
    // The kernel makes a process own its directory in /proc.
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The first executable called `name` on PATH.
pub fn which(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(name))
        .find(|path| is_executable(path))
}

pub(crate) fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Cargo's home: `CARGO_HOME`, else `~/.cargo`.
pub fn cargo_home() -> PathBuf {
    home_of("CARGO_HOME", ".cargo")
}

/// Rustup's home: `RUSTUP_HOME`, else `~/.rustup`.
pub(crate) fn rustup_home() -> PathBuf {
    home_of("RUSTUP_HOME", ".rustup")
}

fn home_of(variable: &str, below_home: &str) -> PathBuf {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map_or_else(
            || {
                env::home_dir()
                    .unwrap_or_else(|| PathBuf::from("/root"))
                    .join(below_home)
            },
            PathBuf::from,
        )
}

/// Takes away from `command` whatever an outer cargo, rustup or clippy left in the
/// environment for its own build and would mislead a nested one.
pub(crate) fn scrub(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(misleads) {
            command.env_remove(name);
        }
    }
    command
}

/// Network and registry settings stay, so that mirrors and proxies keep working.
fn misleads(name: &str) -> bool {
    const KEPT: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    const PREFIXES: [&str; 5] = ["CARGO_", "RUSTC_", "CLIPPY_", "DEP_", "NEXTEST"];
    const EXACT: [&str; 19] = [
        "CARGO",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
        "RUST_TARGET_PATH",
        "OUT_DIR",
        "TARGET",
        "HOST",
        "NUM_JOBS",
        "OPT_LEVEL",
        "PROFILE",
        "DEBUG",
        "MAKEFLAGS",
        "MFLAGS",
        "LD_LIBRARY_PATH",
        "SYSROOT",
    ];
    let starts_with = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    !starts_with(&KEPT) && (EXACT.contains(&name) || starts_with(&PREFIXES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_variables_are_scrubbed_and_network_settings_kept() {
        for name in [
            "CARGO",
            "RUSTC",
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_TARGET",
            "CARGO_BUILD_RUSTC_WRAPPER",
            "CARGO_MAKEFLAGS",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_UNSTABLE_BUILD_STD",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_BOOTSTRAP",
            "RUSTUP_TOOLCHAIN",
            "LD_LIBRARY_PATH",
            "TARGET",
        ] {
            assert!(misleads(name), "{name} leaks into the nested build");
        }
        for name in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "RUSTUP_HOME",
            "CARGO_HTTP_PROXY",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_MIRROR_INDEX",
            "CARGO_REGISTRY_DEFAULT",
            "CARGO_TERM_COLOR",
            "https_proxy",
        ] {
            assert!(!misleads(name), "{name} does not reach the nested build");
        }
    }

    #[test]
    fn zero_and_empty_do_not_forbid_installing() {
        assert!(forbids(OsStr::new("1")));
        assert!(!forbids(OsStr::new("0")));
        assert!(!forbids(OsStr::new("")));
    }
}
