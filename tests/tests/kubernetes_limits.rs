//! `source: kubernetes`: a function without any annotation of ours is served, by the limit in its
//! Deployment's environment; a new limit applies to live traffic.

#![forbid(unsafe_code)]

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{
    cluster::{Kind, Written, objects, objects::Function},
    kubernetes::{NAMESPACE, Outcome, SOON, Stage, assert_no_breach, with_pods},
    wait::{eventually, eventually_eq},
};

const IP: &str = "10.96.0.10";
/// From the change's last byte on the wire to connections that go by it.
const AT_ONCE: Duration = Duration::from_millis(100);
/// The longest between two look-ups of what a service waits for, on a busy machine.
const LOOKED_UP_AGAIN: Duration = Duration::from_secs(6);

#[test]
fn a_function_without_annotations_is_served_by_its_limit() -> Result<()> {
    let hello = Function::new(NAMESPACE, "hello", IP).max_inflight(1);
    let stage = Stage::new(2, with_pods(&hello, 0..2))?;
    let pods = [
        stage.serve(0, 1, Duration::from_millis(1))?,
        stage.serve(1, 1, Duration::from_millis(1))?,
    ];
    stage.wait_members("hello", 0..2);
    stage.wait_served(frontend());
    let ((), outcomes) = stage.under_load(frontend(), 6, || Ok(()))?;
    // By default nobody waits for long.
    let is_due = |outcome: &Outcome| match outcome {
        Outcome::Served => true,
        Outcome::Answered(503, text) => text.contains("queue-timeout"),
        _ => false,
    };
    assert!(outcomes.keys().all(is_due), "{outcomes:?}");
    assert_no_breach(&pods);
    for pod in &pods {
        assert!(pod.seen().served > 0, "{:?}", pod.seen());
    }
    let shown = stage.shown("hello")?.expect("it is there");
    assert_eq!(shown["max_inflight"], 1);
    assert_eq!(shown["config_errors"], json!([]));
    stage.finish()
}

#[test]
fn what_is_no_function_and_asks_for_nothing_is_left_alone_until_it_asks() -> Result<()> {
    let plain = Function::plain(NAMESPACE, "plain", IP);
    let stage = Stage::new(1, with_pods(&plain, [0]))?;
    let _pod = stage.serve(0, 0, Duration::ZERO)?;
    assert_eq!(stage.members("plain")?, None);
    assert_eq!(stage.call(frontend()), Outcome::Unsteered);
    let enabled = |is: &str| json!({"metadata": {"annotations": {"idlefirst.dev/enabled": is}}});
    let cluster = stage.cluster();
    cluster.merge(Kind::Service, NAMESPACE, "plain", enabled("true"))?;
    stage.wait_served(frontend());
    cluster.merge(Kind::Service, NAMESPACE, "plain", enabled("false"))?;
    stage.wait_outcome(frontend(), &Outcome::Unsteered);
    cluster.merge(Kind::Deployment, NAMESPACE, "plain", enabled("true"))?;
    assert_eq!(stage.members("plain")?, None, "the Service's word counts");
    let annotations = json!({"metadata": {"annotations": null}});
    cluster.merge(Kind::Service, NAMESPACE, "plain", annotations)?;
    stage.wait_served(frontend());
    cluster.delete(Kind::Service, NAMESPACE, "plain")?;
    stage.wait_outcome(frontend(), &Outcome::Unsteered);
    stage.finish()
}

#[test]
fn a_new_limit_in_the_deployment_is_in_force_at_once() -> Result<()> {
    let hello = refusing("hello").max_inflight(1);
    let stage = Stage::new(1, with_pods(&hello, [0]))?;
    let _pod = stage.serve(0, 0, Duration::ZERO)?;
    stage.wait_members("hello", [0]);
    let mut delays = Vec::new();
    for _ in 0..5 {
        let changed = stage
            .cluster()
            .put(hello.clone().max_inflight(3).deployment())?;
        delays.push(wait_limit(&stage, 3, &changed.written)?);
        stage.cluster().put(hello.deployment())?;
        wait_limit_shown(&stage, 1);
        wait_free(&stage);
    }
    delays.sort();
    assert!(delays[delays.len() / 2] <= AT_ONCE, "{delays:?}");
    stage.finish()
}

#[test]
fn a_limit_in_a_config_map_counts_and_is_looked_up_once() -> Result<()> {
    let hello = refusing("hello").max_inflight_from("limits", "hello");
    let limits = |value: &str| objects::config_map(NAMESPACE, "limits", "hello", value);
    let all = [limits("2")].into_iter().chain(with_pods(&hello, [0]));
    let stage = Stage::new(1, all)?;
    let _pod = stage.serve(0, 0, Duration::ZERO)?;
    stage.wait_members("hello", [0]);
    wait_limit_shown(&stage, 2);

    // Whatever else changes, the ConfigMap is known.
    for replicas in 2..12 {
        let grown = hello
            .clone()
            .replicas(replicas)
            .label("step", &replicas.to_string());
        stage.cluster().put_all(grown.objects())?;
    }
    let literal = hello.clone().max_inflight(3);
    stage.cluster().put(literal.deployment())?;
    wait_limit_shown(&stage, 3);
    stage.cluster().put(hello.deployment())?;
    wait_limit_shown(&stage, 2);
    let asked = look_ups(&stage);
    ensure!(
        (1..=2).contains(&asked),
        "the ConfigMap was asked for {asked} times"
    );
    wait_free(&stage);
    stage.finish()
}

#[test]
fn a_limit_in_a_config_map_that_comes_late_is_not_guessed() -> Result<()> {
    let stage = Stage::new(1, [])?;
    let pod = stage.serve(0, 1, Duration::from_millis(1))?;
    let hello = Function::new(NAMESPACE, "hello", IP).max_inflight_from("limits", "hello");
    stage.cluster().put_all(with_pods(&hello, [0]))?;
    let (delay, outcomes) = stage.under_load(frontend(), 6, || {
        wait_look_ups(&stage, 5);
        let errors = stage.all_errors()?;
        let told = errors.iter().any(|error| {
            let message = error["message"].as_str().unwrap_or_default();
            error["kind"] == "Deployment" && message.contains("ConfigMap limits")
        });
        ensure!(told, "{errors:?}");
        let before = stage.call(frontend());
        ensure!(before == Outcome::Unsteered, "it is balanced: {before:?}");
        let limits = objects::config_map(NAMESPACE, "limits", "hello", "1");
        stage.cluster().put(limits)?;
        let put = Instant::now();
        wait_limit_shown(&stage, 1);
        Ok(put.elapsed())
    })?;
    ensure!(delay <= LOOKED_UP_AGAIN, "known after {delay:?}");
    let is_due = |outcome: &Outcome| match outcome {
        Outcome::Served | Outcome::Unsteered => true,
        Outcome::Answered(503, text) => text.contains("queue-timeout"),
        _ => false,
    };
    assert!(outcomes.keys().all(is_due), "{outcomes:?}");
    stage.wait_served(frontend());
    assert_no_breach([&pod]);
    assert_eq!(stage.all_errors()?, [Value::Null; 0]);
    stage.finish()
}

#[test]
fn a_limit_that_the_api_does_not_tell_at_first_is_not_guessed() -> Result<()> {
    let hello = Function::new(NAMESPACE, "hello", IP).max_inflight_from("limits", "hello");
    for code in [401, 403, 429, 500, 503] {
        let limits = objects::config_map(NAMESPACE, "limits", "hello", "1");
        let all = [limits].into_iter().chain(with_pods(&hello, [0]));
        let mut stage = Stage::begin(1, all, |cluster| {
            cluster.faults().answer([Kind::ConfigMap], code, 3);
            Ok(())
        })?;
        let pod = stage.serve(0, 1, Duration::from_millis(1))?;
        stage.agent_mut().wait_ready()?;
        let ((), outcomes) = stage.under_load(frontend(), 6, || {
            wait_limit_shown(&stage, 1);
            Ok(())
        })?;
        stage.wait_served(frontend());
        assert_no_breach([&pod]);
        ensure!(look_ups(&stage) == 4, "{code}: {outcomes:?}");
        stage.finish()?;
    }
    Ok(())
}

#[test]
fn an_annotation_goes_before_the_environment() -> Result<()> {
    let hello = refusing("hello").max_inflight(1);
    let stage = Stage::new(1, with_pods(&hello, [0]))?;
    let below = hello
        .clone()
        .deployment_annotation("idlefirst.dev/max-inflight", "2");
    wait_limit_shown(&stage, 1);
    stage.cluster().put(below.deployment())?;
    wait_limit_shown(&stage, 2);
    let above = below.annotation("idlefirst.dev/max-inflight", "3");
    stage.cluster().put(above.service())?;
    wait_limit_shown(&stage, 3);
    stage.cluster().put_all(hello.objects())?;
    wait_limit_shown(&stage, 1);
    stage.finish()
}

/// A function whose callers are refused when no slot is free.
fn refusing(name: &str) -> Function {
    Function::new(NAMESPACE, name, IP)
        .annotation("idlefirst.dev/queue.size", "0")
        .annotation("idlefirst.dev/queue.refuse", "kernel")
}

/// Waits until exactly so many connections are let in; gives how long after the change.
fn wait_limit(stage: &Stage, limit: usize, written: &Written) -> Result<Duration> {
    let mut held = Vec::<TcpStream>::new();
    eventually(SOON, || -> Result<()> {
        while held.len() < limit {
            held.push(stage.dial(frontend())?);
        }
        Ok(())
    });
    let in_force = Instant::now();
    ensure!(
        stage.dial(frontend()).is_err(),
        "more than {limit} are let in"
    );
    let written = written.wait(SOON)?;
    Ok(in_force.saturating_duration_since(written.at))
}

/// How often ConfigMaps have been looked up.
fn look_ups(stage: &Stage) -> usize {
    let requests = stage.cluster().requests();
    let look_ups = requests
        .iter()
        .filter(|each| each.is("get", Kind::ConfigMap));
    look_ups.count()
}

fn wait_look_ups(stage: &Stage, count: usize) {
    eventually(SOON, || -> Result<()> {
        let made = look_ups(stage);
        ensure!(made >= count, "{made} look-ups");
        Ok(())
    });
}

fn wait_limit_shown(stage: &Stage, limit: u32) {
    eventually_eq(SOON, Some(Value::from(limit)), || {
        let shown = stage.shown("hello").expect("the agent tells of services");
        shown.map(|shown| shown["max_inflight"].clone())
    });
}

fn wait_free(stage: &Stage) {
    eventually_eq(SOON, 0, || {
        stage
            .agent()
            .inflight()
            .expect("the agent lists its backends")
    });
}

fn frontend() -> SocketAddr {
    SocketAddr::new(IP.parse().expect("an address"), 8080)
}
