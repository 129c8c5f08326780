//! What tests left on the machine: things whose owner is dead, and new entries of ours where
//! nothing tells an owner.
//!
//! An agent in service on this machine has such entries too; what was there before the tests
//! is therefore not counted. Called by `test`.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use tests::residue;

use crate::process::progress;

/// Where entries of ours carry no owner in their names.
const PLACES: [&str; 3] = ["/run/netns", "/sys/fs/bpf", "/sys/class/net"];

const PREFIX: &str = "idlefirst";

/// What was there before the tests.
pub(super) struct Before(BTreeSet<PathBuf>);

impl Before {
    /// Takes away what earlier runs left when they were killed, and remembers the rest.
    pub(super) fn take() -> Result<Self> {
        for thing in swept()? {
            progress(&format!("removed what an earlier run left: {thing}"));
        }
        Ok(Self(entries()))
    }

    /// Fails with a list if anything is there that was not before. What has a dead owner is
    /// taken away, so that one failure does not spoil the next run.
    pub(super) fn compare(&self) -> Result<()> {
        let mut left: Vec<_> = swept()?
            .iter()
            .map(|thing| format!("{thing} (removed)"))
            .collect();
        left.extend(
            entries()
                .difference(&self.0)
                .map(|path| path.display().to_string()),
        );
        if left.is_empty() {
            return Ok(());
        }
        bail!(
            "the tests left this behind:\n  {}\nwhat to do: find the test that does not clean up, also when it fails; remove what is not marked as removed",
            left.join("\n  ")
        )
    }
}

fn swept() -> Result<Vec<residue::Thing>> {
    residue::sweep().context("cannot take away what tests left behind")
}

fn entries() -> BTreeSet<PathBuf> {
    PLACES
        .iter()
        // Most machines have no /run/netns: nothing is there then.
        .filter_map(|place| fs::read_dir(place).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
        })
        .collect()
}
