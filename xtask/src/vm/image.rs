//! The guest's initramfs: one part that is the same for all kernels (programs, the libraries that
//! they need, the plan), and one with a kernel's modules. Linux unpacks one after the other.
//!
//! Not compressed: unpacking takes an emulated processor longer than reading. Called by `mod`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use ebpf_build::command;

use super::{
    kernels::Kernel,
    programs::Programs,
    report::{PLAN_PATH, Plan},
};
use crate::process::progress;

const AGENT: &str = "bin/idlefirst";
const TESTS: &str = "tests";

/// What the tests and the ground call.
const TOOLS: [&str; 9] = [
    "bash", "cat", "ip", "nft", "nsenter", "setpriv", "sh", "sleep", "ss",
];

/// The kernel calls it by this path, for each module that it finds it needs.
const MODPROBE: &str = "sbin/modprobe";

/// Of a kernel's modules, those that the tests may need: directories or beginnings of names.
const MODULES: [&str; 6] = [
    "kernel/net",
    "kernel/lib",
    "kernel/crypto",
    "kernel/arch/x86/crypto",
    "kernel/drivers/net/veth.ko",
    "kernel/drivers/net/dummy.ko",
];

/// What packing needs to know besides the programs.
pub(super) struct Settings {
    pub(super) at_once: usize,
    pub(super) patience: u32,
    pub(super) test_timeout_seconds: u64,
}

/// Packs what all kernels have in common into an archive in `directory`, where it also leaves what
/// it packed.
pub(super) fn pack_common(
    programs: &Programs,
    settings: &Settings,
    directory: &Path,
) -> Result<PathBuf> {
    let mut stage = Stage::new(directory.join("common"))?;
    for tool in TOOLS {
        stage.tool(tool, &format!("bin/{tool}"))?;
    }
    stage.tool("modprobe", MODPROBE)?;
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    stage.program(&own, "bin/xtask")?;
    stage.program(&programs.agent, AGENT)?;
    for (name, path) in &programs.with_tests {
        stage.program(path, &format!("{TESTS}/{name}"))?;
    }
    for path in &programs.started_by_tests {
        stage.program(path, &in_guest(path))?;
    }
    stage.write("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")?;
    let plan = Plan {
        agent: Path::new("/").join(AGENT),
        tests_directory: Path::new("/").join(TESTS),
        tests: programs.tests.clone(),
        at_once: settings.at_once,
        patience: settings.patience,
        test_timeout_seconds: settings.test_timeout_seconds,
    };
    stage.write(&in_guest(Path::new(PLAN_PATH)), &serde_json::to_vec(&plan)?)?;
    stage.pack(&directory.join("common.cpio"))
}

/// Adds a kernel's modules. Gives the whole initramfs.
pub(super) fn pack_for(kernel: &Kernel, common: &Path, directory: &Path) -> Result<PathBuf> {
    let release = &kernel.release;
    let stage = Stage::new(directory.join(release))?;
    let modules = Path::new("lib/modules").join(release);
    let from = kernel.root.join(&modules);
    for wanted in MODULES {
        stage.modules(&from, &modules, Path::new(wanted))?;
    }
    for list in [
        "modules.order",
        "modules.builtin",
        "modules.builtin.modinfo",
    ] {
        let content = fs::read(from.join(list));
        let content = content.with_context(|| format!("{} has no {list}", from.display()))?;
        stage.write(&modules.join(list).to_string_lossy(), &content)?;
    }
    let mut depmod = Command::new("depmod");
    depmod
        .arg("-b")
        .arg(&stage.root)
        .arg(release)
        .env("PATH", SYSTEM_PATH);
    let remedy = "see whether the package kmod is whole";
    command::run(&mut depmod, "depmod", remedy, &progress)?;
    let own = stage.pack(&directory.join(format!("{release}.modules.cpio")))?;

    let whole = directory.join(format!("{release}.cpio"));
    let mut file = create(&whole)?;
    for part in [common, &own] {
        let mut part = File::open(part).with_context(|| format!("no {}", part.display()))?;
        io::copy(&mut part, &mut file).context("cannot write the initramfs")?;
    }
    Ok(whole)
}

const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The contents of an archive, as files below a directory.
struct Stage {
    root: PathBuf,
    /// Libraries that are in already.
    libraries: BTreeSet<PathBuf>,
}

impl Stage {
    /// An empty one; what an earlier run left there goes.
    fn new(root: PathBuf) -> Result<Self> {
        match fs::remove_dir_all(&root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", root.display()));
            }
            _ => {}
        }
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Self {
            root,
            libraries: BTreeSet::new(),
        })
    }

    fn place(&self, path: &str) -> Result<PathBuf> {
        let place = self.root.join(path);
        let directory = place.parent().unwrap_or(&self.root);
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(place)
    }

    fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        let place = self.place(path)?;
        fs::write(&place, content).with_context(|| format!("cannot write {}", place.display()))
    }

    /// A program of this machine, and its libraries.
    fn tool(&mut self, name: &str, path: &str) -> Result<()> {
        let found = SYSTEM_PATH
            .split(':')
            .map(|directory| Path::new(directory).join(name))
            .find(|path| path.exists())
            .with_context(|| format!("this machine has no {name}, which the tests call"))?;
        self.copy(&found, path)?;
        self.libraries_of(&found)
    }

    /// One that cargo built, without what only a debugger needs, and its libraries.
    fn program(&mut self, from: &Path, path: &str) -> Result<()> {
        let mut strip = Command::new("objcopy");
        strip.arg("--strip-debug").arg(from).arg(self.place(path)?);
        let remedy = "see whether the package binutils is whole";
        command::run(&mut strip, "objcopy", remedy, &progress)?;
        self.libraries_of(from)
    }

    /// At the paths where the loader looks for them.
    fn libraries_of(&mut self, program: &Path) -> Result<()> {
        let output = Command::new("ldd")
            .arg(program)
            .stdin(Stdio::null())
            .output()
            .context("cannot start ldd")?;
        // A static program has none, and ldd fails.
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            ensure!(
                !line.contains("not found"),
                "{} lacks a library: {}",
                program.display(),
                line.trim()
            );
            let path = line.split_whitespace().find(|word| word.starts_with('/'));
            let Some(path) = path.map(PathBuf::from) else {
                continue;
            };
            if self.libraries.insert(path.clone()) {
                self.copy(&path, &in_guest(&path))?;
            }
        }
        Ok(())
    }

    /// What is below `wanted`, or begins like it, from one modules directory to another.
    fn modules(&self, from: &Path, to: &Path, wanted: &Path) -> Result<()> {
        let source = from.join(wanted);
        if source.is_dir() {
            for entry in fs::read_dir(&source)? {
                self.modules(from, to, &wanted.join(entry?.file_name()))?;
            }
            return Ok(());
        }
        // Compressed or not, whichever way.
        for ending in ["", ".xz", ".zst"] {
            let path = with_ending(wanted, ending);
            if from.join(&path).is_file() {
                self.copy(&from.join(&path), &to.join(&path).to_string_lossy())?;
            }
        }
        Ok(())
    }

    fn copy(&self, from: &Path, path: &str) -> Result<()> {
        let place = self.place(path)?;
        fs::copy(from, &place)
            .with_context(|| format!("cannot copy {} to {}", from.display(), place.display()))?;
        Ok(())
    }

    /// Writes the archive.
    fn pack(&self, archive: &Path) -> Result<PathBuf> {
        let mut names = Vec::new();
        list(&self.root, Path::new(""), &mut names)?;
        let mut cpio = Command::new("cpio")
            .args(["--create", "--format=newc", "--quiet", "--owner=0:0"])
            .current_dir(&self.root)
            .stdin(Stdio::piped())
            .stdout(create(archive)?)
            .spawn()
            .context("cannot start cpio")?;
        let mut stdin = cpio.stdin.take().context("stdin is piped")?;
        stdin
            .write_all(names.join("\n").as_bytes())
            .context("cannot write to cpio")?;
        drop(stdin);
        let status = cpio.wait()?;
        if !status.success() {
            bail!("cpio ended with {status}\nwhat to do: see whether the disk is full");
        }
        Ok(archive.to_owned())
    }
}

/// Names of all that is below a directory, each after the directory that it is in.
fn list(root: &Path, below: &Path, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        names.push(path.to_string_lossy().into_owned());
        if entry.file_type()?.is_dir() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// The same absolute path, for joining to a root.
fn in_guest(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot make {}", path.display()))
}
