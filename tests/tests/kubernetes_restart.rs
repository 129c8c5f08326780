//! `source: kubernetes`, an agent that is killed and started again: what it knew goes on, whether
//! the API is there or not.

#![forbid(unsafe_code)]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use tests::{
    cluster::objects::Function,
    kubernetes::{NAMESPACE, Outcome, SOON, Stage, assert_no_breach, slice, with_pods},
    wait::eventually,
};

const IP: &str = "10.96.0.10";

#[test]
fn an_agent_that_starts_while_the_api_is_away_goes_on_with_what_stands() -> Result<()> {
    let hello = Function::new(NAMESPACE, "hello", IP).max_inflight(1);
    let mut stage = Stage::new(2, with_pods(&hello, 0..2))?;
    let pods = [
        stage.serve(0, 1, Duration::from_millis(1))?,
        stage.serve(1, 1, Duration::from_millis(1))?,
    ];
    stage.wait_members("hello", 0..2);
    stage.wait_served(frontend());
    let held = stage.dial(frontend())?;
    stage.agent_mut().kill()?;
    stage.cluster().faults().begin_outage()?;
    stage.cluster().put(slice(&hello, [1]))?;
    assert_eq!(stage.call(frontend()), Outcome::Served, "by the other pod");

    stage.agent_mut().relaunch()?;
    eventually(SOON, || {
        let said = stage.agent().stderr();
        ensure!(said.contains("taken over"), "{said}");
        Ok(())
    });
    eventually(SOON, || {
        let status = stage.agent().admin().get("/readyz")?.status;
        ensure!(status == 503, "{status}");
        Ok(())
    });
    let full = stage.dial(frontend())?;
    let refused = stage.call(frontend());
    ensure!(refused != Outcome::Served, "one slot each: {refused:?}");
    drop(full);
    stage.wait_served(frontend());

    stage.cluster().faults().end_outage()?;
    stage.agent_mut().wait_ready()?;
    stage.wait_members("hello", [1]);
    drop(held);
    assert_no_breach(&pods);
    stage.finish()
}

fn frontend() -> SocketAddr {
    SocketAddr::new(IP.parse().expect("an address"), 8080)
}
