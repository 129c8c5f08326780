//! Nothing is left behind, neither by values that are dropped nor, after a sweep, by owners that
//! were killed.
//!
//! One test, alone in its process: it counts everything that the process has.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use tests::{
    cgroup::{self, Cgroup},
    name::{Owner, PREFIX},
    place,
    process::{OWNER_VARIABLE, Process},
    residue::{Snapshot, Thing, sweep, things_of},
    run_dir::RunDir,
    topology::Topology,
};

#[test]
fn nothing_is_left_behind() -> Result<()> {
    values_take_their_things_with_them()?;
    a_sweep_takes_what_the_dead_left_and_nothing_else()
}

fn values_take_their_things_with_them() -> Result<()> {
    let snapshot = Snapshot::take()?;
    {
        let topology = Topology::new(3, 1)?;
        let cgroup = Cgroup::domain("residue")?;
        let dir = RunDir::new("residue")?;
        fs::write(dir.path().join("file"), "")?;
        let mut command = place::command(
            Some(&topology.node),
            Some(cgroup.path()),
            Path::new("sleep"),
        );
        command.arg("600");
        let _sleeper = Process::start(command)?;
        let adopted = cgroup.adopt_process()?;
        assert_eq!(cgroup::home()?, cgroup.path());
        drop(adopted);

        let present = things_of(Owner::this())?;
        assert!(
            present.len() >= 4,
            "a cgroup, a directory, a mount, a process: {present:?}"
        );
    }
    snapshot.assert_nothing_left();
    Ok(())
}

fn a_sweep_takes_what_the_dead_left_and_nothing_else() -> Result<()> {
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    let mut doomed = Process::start(sleep)?;
    let owner = Owner::of(doomed.pid()).context("it has just been started")?;
    let name = format!("{PREFIX}{owner}-0-doomed");

    let cgroup = cgroup::unified()?.join(&name);
    fs::create_dir(&cgroup)?;
    let dir = Path::new("/run").join(&name);
    let bpffs = dir.join("bpf");
    fs::create_dir_all(&bpffs)?;
    mount(
        Some("bpf"),
        &bpffs,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    fs::create_dir(bpffs.join("pins"))?;
    let mut orphan = Command::new("setsid");
    orphan
        .args(["sleep", "601"])
        .env(OWNER_VARIABLE, owner.to_string());
    let mut orphan = orphan.spawn()?;

    let left = things_of(owner)?;
    assert_eq!(
        left.len(),
        4,
        "a cgroup, a directory, a mount, a process: {left:?}"
    );
    sweep()?;
    assert_eq!(things_of(owner)?, left, "its owner is alive");

    doomed.kill()?;
    // A zombie has no environment, so a killed orphan is no longer seen; this reaps it.
    let swept = sweep()?;
    assert!(
        left.iter().all(|thing| swept.contains(thing)),
        "{swept:?} has all of {left:?}"
    );
    assert!(swept.contains(&Thing::Process(orphan.id())));
    assert!(!orphan.wait()?.success());
    assert!(things_of(owner)?.is_empty());
    assert!(!cgroup.exists() && !dir.exists());
    Ok(())
}
