//! A bad change of the configuration is reported and changes nothing, and the next good one is
//! taken.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    agent::Agent,
    crowd::{Crowd, Outcome, SOON, exchange, frontend_address, service, settle, slots_taken},
    exact::Request,
    wait::eventually,
};

/// The service, without a limit: none of its connects may fail.
const HELLO: u8 = 0;

#[test]
fn a_bad_change_is_reported_and_changes_nothing() -> Result<()> {
    let crowd = Crowd::new(2)?;
    let servers = [
        crowd.serve(0, 0, Duration::ZERO)?,
        crowd.serve(1, 0, Duration::ZERO)?,
    ];
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &[service(HELLO, 0, [0])])?;
    let good = fs::read_to_string(agent.config_path())?;
    let stop = AtomicBool::new(false);

    let served = thread::scope(|scope| -> Result<u64> {
        let clients: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| -> Result<u64> { ask_until(&crowd, &stop) }))
            .collect();
        let all_reported = report_each(&agent, &good);
        stop.store(true, SeqCst);
        all_reported?;
        clients
            .into_iter()
            .map(|client| client.join().expect("a client does not panic"))
            .sum()
    })?;
    assert!(served > 100, "only {served} requests meanwhile");

    agent.reload(&[service(HELLO, 0, [0, 1])])?;
    let both = [
        crowd.dial(frontend_address(HELLO))?,
        crowd.dial(frontend_address(HELLO))?,
    ];
    assert_eq!(
        slots_taken(&agent, 1)?,
        [1],
        "the good change after them is in force"
    );
    drop(both);
    settle(&agent, &servers);
    agent.stop()
}

/// Every exchange must succeed.
fn ask_until(crowd: &Crowd, stop: &AtomicBool) -> Result<u64> {
    crowd.place().enter()?;
    let mut served = 0;
    while !stop.load(SeqCst) {
        let outcome = exchange(frontend_address(HELLO), Request::Answer)?;
        ensure!(
            outcome == Outcome::Served,
            "{outcome:?} though there is no limit"
        );
        served += 1;
        thread::sleep(Duration::from_millis(2));
    }
    Ok(served)
}

/// A configuration that must be rejected, and words that its problem must have.
type Bad = (&'static str, Option<String>, &'static [&'static str]);

fn report_each(agent: &Agent, good: &str) -> Result<()> {
    let duplicate = {
        let mut config: Value = serde_json::from_str(good)?;
        let mut second = config["services"][0].clone();
        second["name"] = "second".into();
        config["services"]
            .as_array_mut()
            .context("a list")?
            .push(second);
        serde_json::to_string_pretty(&config)?
    };
    let unknown = good.replace("\"max_inflight\"", "\"max_inflights\"");
    ensure!(unknown != good, "no key to misspell in {good}");
    let bad: [Bad; 6] = [
        ("malformed", Some(format!("{good}\n  - [")), &["YAML"]),
        (
            "unknown key",
            Some(unknown),
            &["unknown key", "max_inflights"],
        ),
        (
            "duplicate frontend",
            Some(duplicate),
            &["already a frontend", "line"],
        ),
        (
            "truncated",
            Some(good[..good.len() / 2].to_owned()),
            &["YAML"],
        ),
        ("empty", Some(String::new()), &["sets nothing"]),
        ("deleted", None, &["cannot be read"]),
    ];
    for (what, text, words) in bad {
        report(agent, text, words)
            .with_context(|| format!("{what}; the agent said:\n{}", agent.stderr()))?;
        // The next good one is taken, even if it says the same as before.
        agent
            .reload_text(good)
            .with_context(|| format!("after {what}"))?;
    }
    Ok(())
}

fn report(agent: &Agent, text: Option<String>, words: &[&str]) -> Result<()> {
    let services = agent.admin().get_json("/v1/services/default/service-0")?;
    let before = agent.configuration()?;
    let said_before = agent.stderr().len();
    match text {
        Some(text) => drop(agent.reload_expecting_rejection(&text)?),
        None => {
            fs::remove_file(agent.config_path())?;
            eventually(SOON, || -> Result<()> {
                let rejected = agent.configuration()?.rejected;
                ensure!(rejected > before.rejected, "rejected: {rejected}");
                Ok(())
            });
        }
    }
    let shown = agent.admin().get_json("/v1/config")?;
    ensure!(shown["applied"] == "rejected", "shown as {shown}");
    let problems = shown["problems"].to_string();
    let said = agent.stderr().split_off(said_before);
    for word in words {
        ensure!(
            problems.contains(word),
            "no {word:?} in the problems of {shown}"
        );
        ensure!(said.contains(word), "no {word:?} in the log: {said}");
    }
    ensure!(said.contains("ERROR"), "no error in the log: {said}");
    ensure!(shown["generation"] == before.generation, "{shown}");
    let mut now = agent.admin().get_json("/v1/services/default/service-0")?;
    // These move with the traffic.
    for moving in ["counters", "backends", "inflight", "idle"] {
        now[moving] = services[moving].clone();
    }
    ensure!(now == services, "the service changed: {now}");
    Ok(())
}
