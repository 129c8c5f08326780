//! `idlefirst uninstall --wait`, which takes the agent's place on every node of a cluster: it fails
//! while an agent is at work, ends steering when there is none, and then stays until told to end.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::{
    agent::Agent,
    crowd::{Crowd, SOON, ask, frontend_address, service},
    exact::Request,
    place,
    process::Process,
    refusal::LEAST,
    wait::eventually,
};

fn start(crowd: &Crowd, agent: &Agent) -> Result<Process> {
    // With what the manifests give it.
    let [program, arguments @ ..] = LEAST;
    let mut command = place::command(Some(&crowd.netns), None, program.as_ref());
    command.args(arguments).arg(agent.binary());
    command.args(["uninstall", "--wait", "--config"]);
    command.arg(agent.config_path());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    Process::start(command)
}

#[test]
fn it_waits_for_its_turn_and_then_to_be_ended() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let _server = crowd.serve(0, 1, Duration::ZERO)?;
    let mut agent = Agent::start(&crowd.netns, &crowd.cgroup, &[service(0, 1, [0])])?;
    let mut early = start(&crowd, &agent)?;
    let status = early.wait(SOON)?;
    ensure!(status.code() == Some(1), "{status}: {}", early.stderr());
    ensure!(
        early.stderr().contains("steering goes on"),
        "{}",
        early.stderr()
    );
    ask(&crowd.dial(frontend_address(0))?, Request::Answer)?;

    agent.terminate()?;
    let mut process = start(&crowd, &agent)?;
    eventually(SOON, || -> Result<()> {
        ensure!(!agent.pin_path().exists(), "{}", process.stderr());
        Ok(())
    });
    // Its programs are gone, though whoever held them last may let go a moment later.
    eventually(SOON, || -> Result<()> {
        let dialled = crowd.dial(frontend_address(0));
        ensure!(dialled.is_err(), "it is still steered");
        Ok(())
    });
    ensure!(process.ended()?.is_none(), "it ended: {}", process.stderr());
    process.signal(Signal::SIGTERM)?;
    let status = process.wait(SOON)?;
    ensure!(status.success(), "{status}: {}", process.stderr());

    // The kubelet may start it again.
    let mut again = start(&crowd, &agent)?;
    let mut said = String::new();
    let stdout = again.take_stdout().context("it is piped")?;
    BufReader::new(stdout).read_line(&mut said)?;
    ensure!(said.contains("nothing is pinned"), "{said}");
    again.signal(Signal::SIGTERM)?;
    let status = again.wait(SOON)?;
    ensure!(status.success(), "{status}: {}", again.stderr());
    Ok(())
}
