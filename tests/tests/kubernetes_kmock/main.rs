//! `source: kubernetes` against an API server that is not of this project: the emulator of kmock,
//! a package for testing clients of Kubernetes.
//!
//! A function arrives, changes and goes through its HTTP API, and all of that is seen in traffic.
//! kmock lists, watches, creates, merges and deletes. It does no resuming from a version (a watch
//! begins with all that is there), no bookmarks, no 410, no selectors, no server-side apply and no
//! conflicts: those are tested with the project's own API server, in `kubernetes_outage` and
//! `kubernetes_publish`. As it ignores selectors, no Pods are put into it.

#![forbid(unsafe_code)]

mod server;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{
    cluster::objects,
    crowd::Crowd,
    kubernetes::{NAMESPACE, Outcome, Outcomes, SOON, Stage, slice},
    wait::eventually,
};

use self::server::{DEPLOYMENTS, Kmock, SERVICES, SLICES};

const IP: &str = "10.96.0.10";
/// As many as pods and the queue take, so that nobody is refused for there being too many.
const CLIENTS: u64 = 8;
const WORK: Duration = Duration::from_millis(5);

#[test]
fn a_function_is_served_changed_and_taken_away() -> Result<()> {
    let stage = Stage::follow(Crowd::new(2)?, json!({}), Vec::new(), Kmock::start)?;
    let hello = objects::Function::new(NAMESPACE, "hello", IP).max_inflight(1);
    // They serve whatever comes, and count how many at once.
    let pods = [stage.serve(0, 0, WORK)?, stage.serve(1, 0, WORK)?];
    let crowd = stage.crowd();
    for object in [hello.deployment(), hello.service(), slice(&hello, 0..2)] {
        stage.api().create(crowd, object)?;
    }
    wait_heard(&stage, &hello)?;
    stage.wait_members("hello", 0..2);
    stage.wait_served(frontend());

    let ((), outcomes) = stage.under_load(frontend(), CLIENTS, || Ok(()))?;
    assert_due(&outcomes);
    for pod in &pods {
        assert_eq!(pod.seen().peak, 1, "{:?}", pod.seen());
    }

    // The limit, in the Deployment's environment.
    let deployment = hello.clone().max_inflight(3).deployment();
    let spec = json!({"spec": {"template": deployment["spec"]["template"]}});
    let ((), outcomes) = stage.under_load(frontend(), CLIENTS, || {
        stage
            .api()
            .patch(crowd, &format!("{DEPLOYMENTS}/hello"), spec)?;
        wait_limit_shown(&stage, 3);
        eventually(SOON, || match pods.each_ref().map(|pod| pod.seen().peak) {
            [3, 3] => Ok(()),
            peaks => Err(format!("{peaks:?}")),
        });
        Ok(())
    })?;
    assert_due(&outcomes);
    for pod in &pods {
        assert_eq!(pod.seen().peak, 3, "{:?}", pod.seen());
    }

    // An endpoint, out of the slice.
    let endpoints = json!({"endpoints": slice(&hello, [1])["endpoints"]});
    let ((), outcomes) = stage.under_load(frontend(), CLIENTS, || {
        let path = format!("{SLICES}/{}", hello.slice_name("1"));
        stage.api().patch(crowd, &path, endpoints)?;
        stage.wait_members("hello", [1]);
        stage.wait_left_alone(0);
        pods[0].reset();
        Ok(())
    })?;
    assert_due(&outcomes);
    let gone = pods[0].seen();
    assert_eq!((gone.served, gone.peak), (0, 0), "{gone:?}");
    assert_eq!(pods[1].seen().peak, 3, "{:?}", pods[1].seen());

    // The whole slice, and another in its place.
    let path = format!("{SLICES}/{}", hello.slice_name("1"));
    stage.api().delete(crowd, &path)?;
    stage.wait_members("hello", []);
    stage.api().create(crowd, slice(&hello, [0]))?;
    stage.wait_members("hello", [0]);
    stage.wait_served(frontend());
    assert!(pods[0].seen().served > 0, "{:?}", pods[0].seen());

    stage.api().delete(crowd, &format!("{SERVICES}/hello"))?;
    stage.wait_no_service("hello");
    stage.wait_outcome(frontend(), &Outcome::Unsteered);
    stage.finish()
}

/// Waits until the agent has the function, by telling it again and again. What happens while a
/// watch of kmock's is being opened is not told to it, and nobody can see when it is open.
fn wait_heard(stage: &Stage<Kmock>, hello: &objects::Function) -> Result<()> {
    let all = [
        format!("{DEPLOYMENTS}/hello"),
        format!("{SERVICES}/hello"),
        format!("{SLICES}/{}", hello.slice_name("1")),
    ];
    let mut step = 0;
    eventually(SOON, || -> Result<()> {
        step += 1;
        for path in &all {
            let touched = json!({"metadata": {"labels": {"step": step.to_string()}}});
            stage.api().patch(stage.crowd(), path, touched)?;
        }
        let shown = stage.shown("hello")?;
        let limit = shown.as_ref().map(|shown| &shown["max_inflight"]);
        let backends = shown
            .as_ref()
            .and_then(|shown| shown["backends"].as_array());
        let is_heard = limit == Some(&json!(1)) && backends.is_some_and(|all| all.len() == 2);
        ensure!(is_heard, "{shown:?}");
        Ok(())
    });
    let kept = stage.api().get(stage.crowd(), &all[0])?;
    ensure!(
        kept["metadata"]["labels"]["step"] == json!(step.to_string()),
        "{kept}"
    );
    Ok(())
}

fn wait_limit_shown(stage: &Stage<Kmock>, limit: u32) {
    eventually(SOON, || -> Result<()> {
        let shown = stage.shown("hello")?.unwrap_or_default();
        ensure!(shown["max_inflight"] == json!(limit), "{shown}");
        Ok(())
    });
}

/// By default nobody waits for long: on a busy machine, some may wait in vain.
fn assert_due(outcomes: &Outcomes) {
    let is_due = |outcome: &Outcome| match outcome {
        Outcome::Served => true,
        Outcome::Answered(503, text) => text.contains("queue-timeout"),
        _ => false,
    };
    assert!(outcomes.keys().all(is_due), "{outcomes:?}");
    assert!(outcomes.contains_key(&Outcome::Served), "{outcomes:?}");
}

fn frontend() -> SocketAddr {
    SocketAddr::new(IP.parse().expect("an address"), 8080)
}
