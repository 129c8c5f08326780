//! One agent beside, below and after another: a second one says why it does not start and does not
//! disturb the first; one that has ended, or was killed, stands in nobody's way.

use std::{fs, io::ErrorKind, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::{
    admin::Admin,
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    crowd::{Crowd, SOON, ask, frontend_address, service, settle},
    exact::{ExactServer, Request},
    process::Process,
    refusal::{LEAST, START, Stage, assert_says, assert_steered, entries},
    residue::BpfObjects,
    wait::eventually,
};

/// An agent that works, beside which others must not start.
struct First {
    agent: Agent,
    server: ExactServer,
}

impl First {
    fn start(crowd: &Crowd) -> Result<Self> {
        let server = crowd.serve(0, 1, Duration::ZERO)?;
        let agent = Agent::start(&crowd.netns, &crowd.cgroup, &[service(0, 1, [0])])?;
        Ok(Self { agent, server })
    }

    fn socket(&self) -> PathBuf {
        match self.agent.admin() {
            Admin::Unix(path) => path,
            Admin::Tcp(address) => panic!("an agent of ours listens on a socket, not {address}"),
        }
    }

    /// Everything of it that a failed start could have taken away.
    fn condition(&self) -> Result<(Vec<String>, bool)> {
        Ok((entries(self.agent.pin_path())?, self.socket().exists()))
    }

    /// Tries to start a second one beside it.
    fn beside(&self, stage: &Stage, config: &str, words: &[&str]) -> Result<()> {
        self.beside_under(&[], stage, config, words)
    }

    /// [`First::beside`], the second one started by another program.
    fn beside_under(
        &self,
        launcher: &[&str],
        stage: &Stage,
        config: &str,
        words: &[&str],
    ) -> Result<()> {
        let before = self.condition()?;
        ensure!(
            !before.0.is_empty() && before.1,
            "nothing to lose: {before:?}"
        );
        let held = stage.crowd.dial(frontend_address(0))?;
        let file = stage.path("config.yaml");
        fs::write(&file, config)?;
        let said = stage.refused_with(launcher, &file)?;
        fs::remove_file(&file)?;
        assert_says(&said, words);

        ensure!(
            self.condition()? == before,
            "it lost something: {:?}",
            self.condition()?
        );
        ensure!(self.agent.inflight()? == 1, "it lost count");
        let refused = stage
            .crowd
            .dial(frontend_address(0))
            .expect_err("its only slot is taken");
        ensure!(refused.kind() == ErrorKind::ConnectionRefused, "{refused}");
        ask(&held, Request::Answer)?;
        drop(held);
        settle(&self.agent, [&self.server]);
        assert_steered(&stage.crowd)
    }

    fn stop(self) -> Result<()> {
        settle(&self.agent, [&self.server]);
        self.agent.stop()
    }
}

#[test]
fn a_second_agent_does_not_start_on_the_same_cgroup() -> Result<()> {
    let stage = Stage::new()?;
    let first = First::start(&stage.crowd)?;
    let cgroup = stage.crowd.cgroup.path().display().to_string();
    let words = ["another idlefirst agent", &cgroup, "stop it first"];
    first.beside(&stage, &stage.config(), &words)?;
    first.stop()?;
    stage.assert_nothing_left()
}

#[test]
fn a_second_agent_does_not_start_below_the_first() -> Result<()> {
    nothing_starts_below(&[])
}

#[test]
fn with_the_least_capabilities_it_still_sees_the_first_above_it() -> Result<()> {
    nothing_starts_below(&LEAST)
}

fn nothing_starts_below(launcher: &[&str]) -> Result<()> {
    let stage = Stage::new()?;
    let first = First::start(&stage.crowd)?;
    let child = Child::of(&stage.crowd)?;
    let config = stage.config_for(&child.0, &stage.pins());
    let path = child.0.display().to_string();
    let words = [
        "another idlefirst agent already balances",
        &path,
        "above it",
        "stop the other",
    ];
    first.beside_under(launcher, &stage, &config, &words)?;
    drop(child);
    first.stop()?;
    stage.assert_nothing_left()
}

/// A cgroup below the clients'.
struct Child(PathBuf);

impl Child {
    fn of(crowd: &Crowd) -> Result<Self> {
        let path = crowd.cgroup.path().join("child");
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

#[test]
fn a_second_agent_does_not_take_over_pins() -> Result<()> {
    let stage = Stage::new()?;
    let first = First::start(&stage.crowd)?;
    let other = Cgroup::threaded("other")?;
    let pins = first.agent.pin_path().to_owned();
    let config = stage.config_for(other.path(), &pins);
    let pins = pins.display().to_string();
    first.beside(
        &stage,
        &config,
        &["another idlefirst agent", &pins, "pin path of its own"],
    )?;
    first.stop()?;
    stage.assert_nothing_left()
}

#[test]
fn a_second_agent_does_not_take_over_a_socket() -> Result<()> {
    let stage = Stage::new()?;
    let first = First::start(&stage.crowd)?;
    let other = Cgroup::threaded("other")?;
    let own = stage.path("admin.sock").display().to_string();
    let taken = first.socket().display().to_string();
    let config = stage
        .config_for(other.path(), &stage.pins())
        .replace(&own, &taken);
    let words = [
        "a running process answers on",
        &taken,
        "another agent",
        "agent.admin",
    ];
    first.beside(&stage, &config, &words)?;

    let file = stage.path("no-socket");
    fs::write(&file, "precious")?;
    let name = file.display().to_string();
    let config = stage
        .config_for(other.path(), &stage.pins())
        .replace(&own, &name);
    first.beside(&stage, &config, &[&name, "is no socket", "remove it"])?;
    assert_eq!(fs::read_to_string(&file)?, "precious");
    fs::remove_file(&file)?;
    first.stop()?;
    stage.assert_nothing_left()
}

#[test]
fn an_agent_that_was_killed_stands_in_nobodys_way() -> Result<()> {
    let stage = Stage::new()?;
    let mut first = First::start(&stage.crowd)?;
    assert_steered(&stage.crowd)?;
    first.agent.kill()?;
    let (pins, socket) = first.condition()?;
    ensure!(!pins.is_empty() && socket, "nothing is stale: {pins:?}");
    assert_steered(&stage.crowd).context("while there is no agent")?;

    first.agent.restart()?;
    assert_steered(&stage.crowd)?;
    assert_eq!(first.condition()?, (pins, true));
    let said = first.agent.stderr();
    assert_says(&said, &["taken over from an earlier agent"]);
    let objects = first.agent.bpf_objects()?;
    let socket = first.socket();
    first.agent.uninstall()?;
    objects.assert_gone();
    ensure!(!socket.exists(), "the socket is left");
    Ok(())
}

#[test]
fn sigterm_and_sigint_leave_steering_behind_and_nothing_else() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let stage = Stage::new()?;
        let server = stage.crowd.serve(0, 1, Duration::ZERO)?;
        let file = stage.path("config.yaml");
        fs::write(&file, stage.config())?;
        let mut process = Process::start(stage.command(&[], &file)?)?;
        eventually(START, || assert_steered(&stage.crowd));
        let objects = BpfObjects::in_use(process.pid(), &stage.pins())?;
        // Somebody is connected: no reason to stay.
        let held = stage.crowd.dial(frontend_address(0))?;
        process.signal(signal)?;
        let status = process.wait(SOON)?;
        ensure!(
            status.code() == Some(0),
            "{status} after {signal}: {}",
            process.stderr()
        );
        ask(&held, Request::Answer).context("a connection from before the end")?;
        drop(held);
        eventually(SOON, || assert_steered(&stage.crowd));
        assert_eq!(server.tally().served, 3);

        let uninstall = stage.uninstall(&file)?;
        assert_says(&uninstall, &["steering has ended"]);
        objects.assert_gone();
        let unsteered = stage
            .crowd
            .dial(frontend_address(0))
            .expect_err("nobody steers");
        ensure!(
            unsteered.kind() == ErrorKind::NetworkUnreachable,
            "{unsteered}"
        );
        assert_says(&stage.uninstall(&file)?, &["nothing is pinned"]);
        fs::remove_file(&file)?;
        stage.assert_nothing_left()?;
    }
    Ok(())
}

#[test]
fn an_agent_with_pins_of_its_own_does_not_steer_a_second_time() -> Result<()> {
    let stage = Stage::new()?;
    let mut first = First::start(&stage.crowd)?;
    first.agent.kill()?;
    let file = stage.path("config.yaml");
    fs::write(&file, stage.config())?;
    let said = stage.refused_with(&[], &file)?;
    let pins = first.agent.pin_path().display().to_string();
    assert_says(
        &said,
        &["still steer cgroup", &pins, "agent.pin_path", "uninstall"],
    );
    fs::remove_file(&file)?;
    assert_steered(&stage.crowd)?;
    first.agent.restart()?;
    first.agent.uninstall()?;
    stage.assert_nothing_left()
}

#[test]
fn programs_that_are_no_more_stand_in_nobodys_way() -> Result<()> {
    let stage = Stage::new()?;
    let mut first = First::start(&stage.crowd)?;
    let objects = first.agent.bpf_objects()?;
    first.agent.kill()?;
    fs::remove_dir_all(first.agent.pin_path())?;
    objects.assert_gone();
    let second = Agent::start(
        &stage.crowd.netns,
        &stage.crowd.cgroup,
        &[service(0, 1, [0])],
    )?;
    assert_steered(&stage.crowd)?;
    second.uninstall()
}

/// As when a runtime is restarted that owns the cgroup.
#[test]
fn a_cgroup_that_was_made_anew_is_told_and_steered_after_a_restart() -> Result<()> {
    let stage = Stage::new()?;
    let mut first = First::start(&stage.crowd)?;
    assert_steered(&stage.crowd)?;
    stage.crowd.cgroup.make_anew()?;
    first.agent.wait_not_ready();
    assert_says(
        &first.agent.stderr(),
        &["cgroup is gone", "restart the agent"],
    );
    let unsteered = stage
        .crowd
        .dial(frontend_address(0))
        .expect_err("nobody steers in the new one");
    ensure!(
        unsteered.kind() == ErrorKind::NetworkUnreachable,
        "{unsteered}"
    );
    first.agent.terminate()?;
    first.agent.restart()?;
    assert_steered(&stage.crowd)?;
    assert_eq!(first.server.tally().served, 2);
    first.agent.uninstall()
}

/// Whoever is below both would be counted twice.
#[test]
fn programs_that_steer_a_cgroup_above_or_below_are_seen_without_their_agent() -> Result<()> {
    let stage = Stage::new()?;
    let child = stage.crowd.cgroup.below("child")?;
    let _server = stage.crowd.serve(0, 1, Duration::ZERO)?;
    for (dead, other) in [(&stage.crowd.cgroup, &child), (&child, &stage.crowd.cgroup)] {
        let mut first = Agent::start(&stage.crowd.netns, dead, &[service(0, 1, [0])])?;
        first.kill()?;
        let file = stage.path("config.yaml");
        fs::write(&file, stage.config_for(other.path(), &stage.pins()))?;
        let said = stage.refused_with(&[], &file)?;
        let pins = first.pin_path().display().to_string();
        let steered = format!("still steer cgroup {};", dead.path().display());
        assert_says(&said, &[&steered, &pins, "uninstall"]);
        fs::remove_file(&file)?;
        first.uninstall()?;
    }
    child.remove()?;
    stage.assert_nothing_left()
}

#[test]
fn programs_that_somebody_has_detached_are_told_and_attached_by_a_restart() -> Result<()> {
    let stage = Stage::new()?;
    let mut first = First::start(&stage.crowd)?;
    assert_steered(&stage.crowd)?;
    fs::remove_dir_all(first.agent.pin_path())?;
    first.agent.wait_not_ready();
    assert_says(
        &first.agent.stderr(),
        &["agent.pin_path or detached", "restart the agent"],
    );
    first.agent.terminate()?;
    first.agent.restart()?;
    assert_steered(&stage.crowd)?;
    first.agent.uninstall()
}

#[test]
fn to_uninstall_what_is_pinned_elsewhere_is_no_success() -> Result<()> {
    let stage = Stage::new()?;
    let mut first = First::start(&stage.crowd)?;
    first.agent.kill()?;
    let file = stage.path("config.yaml");
    fs::write(&file, stage.config())?;
    let pins = first.agent.pin_path().display().to_string();
    let done = stage.uninstall(&file).expect_err("they steer on");
    assert_says(&format!("{done:#}"), &["steering goes on", &pins]);
    assert_steered(&stage.crowd)?;
    fs::remove_file(&file)?;
    first.agent.uninstall()?;
    stage.assert_nothing_left()
}

/// Not one of their services, however other its own are.
#[test]
fn an_agent_for_another_cgroup_or_namespace_changes_nothing_of_what_it_finds() -> Result<()> {
    let stage = Stage::new()?;
    let mut first = First::start(&stage.crowd)?;
    first.agent.kill()?;
    let pins = first.agent.pin_path().to_owned();
    let elsewhere = Crowd::new(1)?;
    let others = [
        (&stage.crowd.netns, &elsewhere.cgroup, "another cgroup"),
        (
            &elsewhere.netns,
            &stage.crowd.cgroup,
            "another network namespace",
        ),
    ];
    for (netns, cgroup, word) in others {
        let options = AgentOptions {
            pin_path: Some(pins.clone()),
            ..AgentOptions::new(netns, cgroup)
        };
        let config = stage.config_for(cgroup.path(), &pins);
        let failed = options.start_expecting_failure(&config.replace("hello", "other"))?;
        let pins = pins.display().to_string();
        assert_says(&failed.stderr, &[word, &pins, "idlefirst uninstall"]);
        assert_steered(&stage.crowd)?;
    }
    first.agent.restart()?;
    let services = first.agent.admin().get_json("/v1/services")?;
    assert_eq!(services[0]["name"], "service-0");
    let said = first.agent.stderr();
    assert_says(&said, &["services=1 backends=1"]);
    first.agent.uninstall()
}

#[test]
fn pins_that_are_not_all_there_are_named_and_left_alone() -> Result<()> {
    let stage = Stage::new()?;
    let mut first = First::start(&stage.crowd)?;
    first.agent.kill()?;
    let pins = first.agent.pin_path().to_owned();
    fs::remove_file(pins.join("COUNTERS"))?;
    let options = AgentOptions {
        pin_path: Some(pins.clone()),
        ..AgentOptions::new(&stage.crowd.netns, &stage.crowd.cgroup)
    };
    let config = stage.config_for(stage.crowd.cgroup.path(), &pins);
    let failed = options.start_expecting_failure(&config)?;
    assert_says(
        &failed.stderr,
        &["COUNTERS", "idlefirst uninstall --pin-path"],
    );
    assert_steered(&stage.crowd)?;
    first.agent.uninstall()
}

#[test]
fn nobody_uninstalls_what_an_agent_works_with() -> Result<()> {
    let stage = Stage::new()?;
    let first = First::start(&stage.crowd)?;
    let done = first.agent.uninstall_only()?;
    ensure!(done.status.code() == Some(1), "{done:?}");
    let said = String::from_utf8_lossy(&done.stderr);
    assert_says(
        &said,
        &["steering goes on", "an idlefirst agent is running"],
    );
    assert_steered(&stage.crowd)?;
    first.stop()
}
