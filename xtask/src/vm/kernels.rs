//! Which kernels Debian's package client offers, and those fetched and unpacked.
//!
//! Takes the newest package of each series (6.1, 6.12, …) in the configured sources, which it never
//! changes, and installs none of them. What was downloaded stays below cargo's target
//! directory. Called by `mod`.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use ebpf_build::command;

use crate::process::progress;

const PREFIX: &str = "linux-image-";
/// The smallest flavour that has all that the agent needs.
const FLAVOUR: &str = "-cloud-amd64";
/// Signed images come out later than those, and only for some versions.
const UNSIGNED: &str = "-unsigned";

/// The oldest series that the agent supports; a matrix without it says little.
const OLDEST: &str = "6.1";

/// A kernel that packages offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// As in `uname -r`.
    pub(super) release: String,
    package: String,
}

/// A kernel on disk.
#[derive(Debug)]
pub(super) struct Kernel {
    /// As in `uname -r`.
    pub(super) release: String,
    pub(super) image: PathBuf,
    /// Holds `lib/modules/RELEASE`.
    pub(super) root: PathBuf,
}

impl Offer {
    fn of(package: &str) -> Option<Self> {
        let name = package.strip_prefix(PREFIX)?;
        let release = name.strip_suffix(UNSIGNED).unwrap_or(name);
        let version = release.strip_suffix(FLAVOUR)?;
        // Metapackages name a series, or nothing at all.
        let is_version = version.starts_with(|c: char| c.is_ascii_digit());
        (is_version && numbers(version).len() > 2).then(|| Self {
            release: release.to_owned(),
            package: package.to_owned(),
        })
    }

    /// The first two numbers of its version.
    fn series(&self) -> String {
        let numbers = numbers(&self.release);
        format!("{}.{}", numbers[0], numbers[1])
    }
}

/// The offers to test: the newest of each series, or those that were asked for by series or
/// release. In order of age.
pub(super) fn choose(wanted: &[String]) -> Result<Vec<Offer>> {
    let mut offers = offered()?;
    if !offers.iter().any(|offer| offer.series() == OLDEST) {
        // A fresh machine has no lists yet.
        let mut update = Command::new("apt-get");
        update.args(["-q", "update"]);
        let remedy = "run `sudo apt-get update` and read what it says";
        command::run(&mut update, "apt-get update", remedy, &progress)?;
        offers = offered()?;
    }
    let names: Vec<_> = offers.iter().map(|offer| offer.release.as_str()).collect();
    let sources = format!(
        "the configured package sources offer {}",
        if names.is_empty() {
            "no kernels".to_owned()
        } else {
            names.join(", ")
        }
    );
    let newest = newest_of_each_series(&offers);
    if wanted.is_empty() {
        if !newest.contains_key(OLDEST) {
            bail!(
                "no kernel {OLDEST} to test: {sources}\nwhat to do: run this on Debian 12, or name kernels to test"
            );
        }
        return Ok(in_order(newest.into_values()));
    }
    let chosen = wanted
        .iter()
        .map(|wanted| {
            let by_release = || offers.iter().find(|offer| offer.release == *wanted);
            newest
                .get(wanted)
                .or_else(by_release)
                .with_context(|| format!("no kernel {wanted}: {sources}"))
                .cloned()
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(in_order(chosen.into_iter()))
}

/// Downloads and unpacks it, unless that was done before.
pub(super) fn fetch(offer: &Offer, directory: &Path) -> Result<Kernel> {
    let root = directory.join(&offer.release);
    if !root.exists() {
        progress(&format!("fetching {}", offer.package));
        // Renamed when complete: an interrupted run leaves nothing that looks complete.
        let partial = directory.join(format!("{}.partial", offer.release));
        remove(&partial)?;
        let unpacked = partial.join("root");
        fs::create_dir_all(&unpacked)
            .with_context(|| format!("cannot make {}", unpacked.display()))?;
        unpack(&download(&offer.package, &partial)?, &unpacked)?;
        fs::rename(&unpacked, &root)
            .with_context(|| format!("cannot rename {}", unpacked.display()))?;
        remove(&partial)?;
    }
    let image = root.join("boot").join(format!("vmlinuz-{}", offer.release));
    if !image.exists() {
        bail!(
            "the package {} has no {}\nwhat to do: name other kernels to test",
            offer.package,
            image.display()
        );
    }
    Ok(Kernel {
        release: offer.release.clone(),
        image,
        root,
    })
}

fn offered() -> Result<Vec<Offer>> {
    let output = Command::new("apt-cache")
        .args(["search", "--names-only"])
        .arg(format!("^{PREFIX}[0-9].*{FLAVOUR}({UNSIGNED})?$"))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run apt-cache: kernels come from Debian's packages")?;
    if !output.status.success() {
        bail!("apt-cache search ended with {}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut offers: Vec<_> = text
        .lines()
        .filter_map(|line| Offer::of(line.split(' ').next()?))
        .collect();
    // Of one release in two packages, the signed one.
    offers.sort_by(|a, b| (&a.release, &a.package).cmp(&(&b.release, &b.package)));
    offers.dedup_by(|later, first| later.release == first.release);
    Ok(offers)
}

fn newest_of_each_series(offers: &[Offer]) -> BTreeMap<String, Offer> {
    let mut newest = BTreeMap::new();
    let mut sorted = offers.to_vec();
    sorted.sort_by_key(|offer| Reverse(numbers(&offer.release)));
    for offer in sorted {
        newest.entry(offer.series()).or_insert(offer);
    }
    newest
}

fn in_order(offers: impl Iterator<Item = Offer>) -> Vec<Offer> {
    let mut offers: Vec<_> = offers.collect();
    offers.sort_by_key(|offer| numbers(&offer.release));
    offers.dedup();
    offers
}

/// The numbers in a version, by which versions compare.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn download(package: &str, directory: &Path) -> Result<PathBuf> {
    let mut download = Command::new("apt-get");
    download
        .current_dir(directory)
        .args(["-q", "download", package]);
    let remedy = "run `sudo apt-get update`, and try again";
    command::run(&mut download, "apt-get download", remedy, &progress)?;
    let entries = fs::read_dir(directory)?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get download {package} left no package"))
}

fn unpack(package: &Path, root: &Path) -> Result<()> {
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(package).arg(root);
    let remedy = "see whether the disk is full";
    command::run(&mut unpack, "unpacking", remedy, &progress)?;
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_that_are_no_kernel_are_passed_over() {
        for name in [
            "linux-image-cloud-amd64",
            "linux-image-6.12-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-dbg",
            "linux-image-6.1.0-56-amd64",
        ] {
            assert_eq!(Offer::of(name), None, "{name}");
        }
    }

    #[test]
    fn the_newest_of_a_series_is_found_by_its_numbers() {
        let offers: Vec<_> = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
        ]
        .into_iter()
        .filter_map(Offer::of)
        .collect();
        let newest = in_order(newest_of_each_series(&offers).into_values());
        let releases: Vec<_> = newest.iter().map(|offer| offer.release.as_str()).collect();
        assert_eq!(
            releases,
            ["6.1.0-56-cloud-amd64", "6.12.117+deb12-cloud-amd64"]
        );
    }
}
