//! Nothing is left behind, neither by values that are dropped nor, after a sweep, by owners that
//! were killed.
//!
//! One test, alone in its process: it counts everything that the process has.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use tests::{
    cgroup::{self, Cgroup},
    name::{Owner, PREFIX},
    place,
    process::{OWNER_VARIABLE, Process},
    residue::{Snapshot, Thing, sweep, things_of},
    run_dir::RunDir,
    topology::Topology,
    wait::eventually,
};

const SOON: Duration = Duration::from_secs(5);

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

        eventually(SOON, || -> Result<()> {
            let present = things_of(Owner::this())?;
            ensure!(
                present.len() >= 4,
                "a cgroup, a directory, a mount, a process: {present:?}"
            );
            Ok(())
        });
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
    fs::create_dir_all(cgroup.join("below"))?;
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
    // `env` takes over the mark that it gets from here.
    let mut orphan = Command::new("env");
    orphan.arg(format!("{OWNER_VARIABLE}={owner}"));
    orphan.args(["sleep", "600"]);
    let mut orphan = Process::start(orphan)?;

    let left = eventually(SOON, || -> Result<_> {
        let left = things_of(owner)?;
        ensure!(
            left.len() == 4,
            "a cgroup, a directory, a mount, a process: {left:?}"
        );
        Ok(left)
    });
    sweep()?;
    assert_eq!(things_of(owner)?, left, "its owner is alive");

    doomed.kill()?;
    let swept = sweep()?;
    assert!(
        left.iter().all(|thing| swept.contains(thing)),
        "{swept:?} has all of {left:?}"
    );
    assert!(swept.contains(&Thing::Process(orphan.pid())));
    assert!(!orphan.wait(SOON)?.success());
    assert!(things_of(owner)?.is_empty());
    assert!(!cgroup.exists() && !dir.exists());
    Ok(())
}
