//! `cargo xtask fuzz`: runs the fuzz targets of `fuzz/`, each for a bounded time and within bounded
//! memory, one after the other.
//!
//! Installs cargo-fuzz below the target directory if it is missing. Fails if any target finds
//! something, and names the input. Called by `main`; what must hold is said in `fuzz/src`.

mod outcome;

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use ebpf_build::InstallPolicy;

use crate::{
    build_ebpf,
    process::{cargo, progress, repository_root, run as run_command, succeeds, target_directory},
    test::{ensure_tools, search_path},
};
use outcome::Outcome;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these targets; all of them if none is named
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long each runs
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// What chance is drawn from; drawn itself if it is not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    seed: Option<u32>,
}

/// Fixed so that every machine builds the targets alike: its flags for the compiler decide what the
/// fuzzer sees. Kept out of cargo's home, where the user may have another version.
const CARGO_FUZZ_VERSION: &str = "0.13.2";
/// Of a target, at most.
const MEMORY_MB: u32 = 2048;
/// For one input. The slowest seed takes some milliseconds.
const INPUT_SECONDS: u32 = 10;
/// Bytes of an input at most.
const INPUT_BYTES: u32 = 4096;

/// Runs the targets.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = repository_root()?;
    let targets = chosen(&root, &options.targets)?;
    let ground = Ground {
        path: ensure_cargo_fuzz(&root)?,
        directory: target_directory(&root)?.join("fuzz"),
        triple: host_triple()?,
        root,
    };
    ground.build(&targets)?;
    let mut found = Vec::new();
    for target in &targets {
        let outcome = ground.run(target, options)?;
        println!("fuzz {target}: {outcome}");
        found.extend(outcome.finding.map(|finding| (target, finding)));
    }
    if found.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = found
        .iter()
        .map(|(target, finding)| format!("{target}: {finding}"))
        .collect();
    bail!(
        "fuzzing found something\n{}\n\
         what to do: copy the input to fuzz/findings/TARGET/ under a name that says what was wrong, \
         mend the code, and run `cargo nextest run -p balancer-user --test fuzz_seeds`",
        lines.join("\n")
    )
}

/// The targets that were named, or all: each has a directory of seeds.
fn chosen(root: &Path, named: &[String]) -> Result<Vec<String>> {
    let seeds = root.join("fuzz/seeds");
    let unreadable = || format!("cannot list {}", seeds.display());
    let mut all = Vec::new();
    for entry in fs::read_dir(&seeds).with_context(unreadable)? {
        let name = entry.with_context(unreadable)?.file_name();
        all.push(name.to_string_lossy().into_owned());
    }
    all.sort();
    if let Some(unknown) = named.iter().find(|name| !all.contains(name)) {
        bail!(
            "there is no fuzz target {unknown:?}\nwhat to do: name one of: {}",
            all.join(", ")
        );
    }
    Ok(match named {
        [] => all,
        named => named.to_vec(),
    })
}

/// Gives the `PATH` with which cargo finds cargo-fuzz.
fn ensure_cargo_fuzz(root: &Path) -> Result<OsString> {
    let path = search_path()?;
    ensure_tools(&path, &[("c++", "g++")], "the fuzzer is built with")?;
    let home = target_directory(root)?.join(format!("cargo-fuzz-{CARGO_FUZZ_VERSION}"));
    let directories = [home.join("bin")].into_iter();
    let path = env::join_paths(directories.chain(env::split_paths(&path)))
        .context("PATH cannot be extended")?;
    let is_there = home.join("bin/cargo-fuzz").exists();
    if is_there && succeeds(cargo(root).args(["fuzz", "--version"]).env("PATH", &path)) {
        return Ok(path);
    }
    let by_hand = format!(
        "cargo install cargo-fuzz --version {CARGO_FUZZ_VERSION} --locked --root {}",
        home.display()
    );
    if InstallPolicy::from_environment() == InstallPolicy::Nothing {
        bail!(
            "cargo-fuzz is missing, and IDLEFIRST_NO_INSTALL forbids installing it\nwhat to do: run `{by_hand}`"
        );
    }
    progress("installing cargo-fuzz (a minute or two): it builds the fuzz targets");
    let mut install = cargo(root);
    install
        .args(["install", "cargo-fuzz", "--locked", "--force"])
        .args(["--version", CARGO_FUZZ_VERSION])
        .arg("--root")
        .arg(&home);
    let remedy = format!("run `{by_hand}` and read what it says");
    ebpf_build::command::run(&mut install, "building cargo-fuzz", &remedy, &progress)?;
    Ok(path)
}

/// What the compiler calls this machine, as which directories are named.
fn host_triple() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("-vV")
        .stdin(Stdio::null())
        .output()
        .context("rustc could not be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .context("rustc -vV does not name its host")
}

struct Ground {
    root: PathBuf,
    /// Has cargo-fuzz on it.
    path: OsString,
    /// Where targets are built, with what they have found.
    directory: PathBuf,
    triple: String,
}

impl Ground {
    fn build(&self, targets: &[String]) -> Result<()> {
        // The agent's build script would do this too, but in silence.
        build_ebpf::build_own(&self.root)?;
        let mut build = cargo(&self.root.join("fuzz"));
        build
            .args(["fuzz", "build", "--target", &self.triple, "--target-dir"])
            .arg(&self.directory)
            .env("PATH", &self.path)
            // Instrumentation is an unstable option of the compiler. The stable compiler has it all
            // the same, with the runtime of the address sanitizer, and is what the agent is built
            // with; a nightly would be one more compiler to install, of another age every day.
            .env("RUSTC_BOOTSTRAP", "1");
        if let [target] = targets {
            build.arg(target);
        }
        run_command(&mut build, "read the compiler's message above")
    }

    fn run(&self, target: &str, options: &Options) -> Result<Outcome> {
        let seconds = options.seconds;
        let corpus = self.corpus(target)?;
        let findings = self.directory.join("findings").join(target);
        make(&findings)?;
        let program = self.directory.join(&self.triple).join("release");
        let log = self.directory.join(format!("{target}.log"));
        let told = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut fuzzer = Command::new(program.join(target));
        fuzzer
            .arg(&corpus)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-rss_limit_mb={MEMORY_MB}"))
            .arg(format!("-timeout={INPUT_SECONDS}"))
            .arg(format!("-max_len={INPUT_BYTES}"))
            .arg(format!("-artifact_prefix={}/", findings.display()))
            .arg("-print_final_stats=1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(told);
        let dictionary = self.root.join("fuzz/dictionaries").join(target);
        if dictionary.exists() {
            fuzzer.arg(format!("-dict={}", dictionary.display()));
        }
        if let Some(seed) = options.seed {
            fuzzer.arg(format!("-seed={seed}"));
        }
        progress(&format!(
            "fuzzing {target} for {seconds} s; see {}",
            log.display()
        ));
        let status = fuzzer
            .status()
            .with_context(|| format!("{target} could not be started"))?;
        let text = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
        Outcome::read(&String::from_utf8_lossy(&text), status.success())
            .with_context(|| format!("{target} ended with {status}; see {}", log.display()))
    }

    /// The seeds, and what earlier runs made of them.
    fn corpus(&self, target: &str) -> Result<PathBuf> {
        let corpus = self.directory.join("corpus").join(target);
        make(&corpus)?;
        let fuzz = self.root.join("fuzz");
        for kept in ["seeds", "findings"].map(|kept| fuzz.join(kept).join(target)) {
            if !kept.exists() {
                continue;
            }
            let failed = || format!("cannot copy {} to {}", kept.display(), corpus.display());
            for entry in fs::read_dir(&kept).with_context(failed)? {
                let entry = entry.with_context(failed)?;
                fs::copy(entry.path(), corpus.join(entry.file_name())).with_context(failed)?;
            }
        }
        Ok(corpus)
    }
}

fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))
}
