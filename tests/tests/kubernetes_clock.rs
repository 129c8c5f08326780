//! `source: kubernetes`: wall clocks that jump or go wrong, the agent's own and those of others,
//! change nothing. Whatever the agent measures, it measures itself, by a clock that does not jump.

#![forbid(unsafe_code)]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    clock::Clock,
    cluster::{Cluster, Kind, objects},
    crowd::{Crowd, pod_address},
    kubernetes::{NAMESPACE, Outcome, SOON, Stage, assert_no_breach, pod, slice, with_pods},
    wait::eventually,
};

const IP: &str = "10.96.0.10";
const LED_IP: &str = "10.96.0.11";
const CLIENTS: u64 = 4;
const LEASE: (&str, &str) = ("default", "idlefirst-publisher");
/// The longest that a renewal of the Lease may take, and time for a slow machine.
const SOME_TIME: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// The agent's own clock, as a bad time server would set it: far ahead, far back, and back again.
#[test]
fn the_agent_does_not_mind_its_clock_to_jump() -> Result<()> {
    let hello = objects::Function::new(NAMESPACE, "hello", IP)
        .max_inflight(1)
        .annotation("idlefirst.dev/queue.timeout", "10s")
        .annotation("idlefirst.dev/health.probe", "http")
        .annotation("idlefirst.dev/health.interval", "50ms");
    let led = led().annotation("idlefirst.dev/publish-leader", "true");
    let leaders = [
        pod(&led, 2).ready_for(Duration::from_secs(100)),
        pod(&led, 3),
    ];
    let mut all = with_pods(&hello, 0..2);
    all.extend(led.objects());
    all.extend(leaders.iter().map(objects::Pod::object));
    all.push(led.slice("1", &leaders));

    let clock = Clock::new()?;
    let environment = clock.environment()?;
    let mut stage = Stage::follow(Crowd::new(4)?, json!({}), environment, |crowd, dir| {
        let cluster = Cluster::start(crowd.netns.listen("127.0.0.1:0".parse()?)?)?;
        cluster.put_all(all)?;
        Ok((cluster.kubeconfig_file(dir)?, cluster))
    })?;
    let ready = stage.agent_mut().wait_ready();
    Clock::tidy(stage.agent().pid())?;
    ready?;
    let pods = (0..4)
        .map(|number| stage.serve(number, 1, Duration::from_millis(2)))
        .collect::<Result<Vec<_>>>()?;
    stage.wait_members("hello", 0..2);
    stage.wait_served(frontend(IP));
    wait_leader(&stage, 2);
    let (holder, _) = wait_renewed(&stage, jiff::SignedDuration::ZERO)?;

    let hour = jiff::SignedDuration::from_hours(1);
    let jumps = [
        24 * hour,
        -48 * hour,
        10 * 365 * 24 * hour,
        jiff::SignedDuration::ZERO,
    ];
    let ((), outcomes) = stage.under_load(frontend(IP), CLIENTS, || {
        for (number, jump) in jumps.into_iter().enumerate() {
            clock.set(jump)?;
            // That it is renewed shows that the agent goes by the new time, and goes on.
            let (still, transitions) = wait_renewed(&stage, jump)?;
            ensure!(still == holder && transitions == 0, "{still}, not {holder}");
            let members = if number % 2 == 0 { 1..2 } else { 0..2 };
            stage.cluster().put(slice(&hello, members.clone()))?;
            stage.wait_members("hello", members);
            wait_leader(&stage, 2);
            ensure!(stage.call(frontend(LED_IP)) == Outcome::Served, "not led");
            let ready = stage.agent().admin().get("/readyz")?;
            ensure!(ready.status == 200, "{}", ready.body);
        }
        Ok(())
    })?;
    let all = outcomes.keys().all(|outcome| *outcome == Outcome::Served);
    assert!(all, "{outcomes:?}");
    assert_no_breach(&pods);
    for pod in &pods[..2] {
        assert!(pod.probes() > 0, "{} is not probed", pod.address());
    }
    let followers = pods[3].seen();
    assert_eq!(followers.served, 0, "led by another: {followers:?}");
    stage.finish()
}

/// Clocks of nodes: a leader is not pre-empted, whatever a newcomer claims, and no claim is so
/// absurd that its pod is not used.
#[test]
fn a_leader_stays_whatever_times_others_claim() -> Result<()> {
    let led = led();
    let claims = [
        "0001-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "2999-12-31T23:59:59Z",
        "9999-01-01T00:00:00Z",
    ];
    let first = pod(&led, 0);
    let mut all: Vec<_> = led.objects().into();
    all.extend([first.object(), led.slice("1", [&first])]);
    let stage = Stage::new(5, all)?;
    let _servers = (0..5)
        .map(|number| stage.serve(number, 0, Duration::ZERO))
        .collect::<Result<Vec<_>>>()?;
    wait_leader(&stage, 0);
    let mut pods = vec![first];
    for (number, since) in (1..).zip(claims) {
        let newcomer = pod(&led, number);
        stage.cluster().put(ready_since(&newcomer, since))?;
        pods.push(newcomer);
        stage.cluster().put(led.slice("1", &pods))?;
        stage.wait_members("led", 0..=number);
        wait_leader(&stage, 0);
    }
    // The leader's own claim changes nothing either.
    let rewritten = ready_since(&pods[0], "9999-01-01T00:00:00Z");
    stage.cluster().put(rewritten)?.written.wait(SOON)?;
    let last = stage.cluster().put(led.slice("1", &pods[..4]))?;
    last.written.wait(SOON)?;
    stage.wait_members("led", 0..4);
    wait_leader(&stage, 0);
    // Once it is gone, the claims count: they are all that there is.
    for (gone, next) in [(0, 1), (1, 2), (2, 3)] {
        let name = pods[gone].name();
        stage.cluster().delete(Kind::Pod, NAMESPACE, name)?;
        wait_leader(&stage, next);
        stage.wait_served(frontend(LED_IP));
    }
    stage.finish()
}

/// A Lease is as old as its watchers have seen it to be, whatever times stand in it.
#[test]
fn a_lease_is_left_while_it_is_renewed_and_taken_when_it_is_not() -> Result<()> {
    for year in ["1999", "2999"] {
        let led = led().annotation("idlefirst.dev/publish-leader", "true");
        let leader = pod(&led, 0);
        let mut all: Vec<_> = led.objects().into();
        all.extend([leader.object(), led.slice("1", [&leader]), lease(year, 0)]);
        let stage = Stage::new(1, all)?;
        let _server = stage.serve(0, 0, Duration::ZERO)?;
        wait_leader(&stage, 0);

        let looks = || {
            let requests = stage.cluster().requests();
            requests
                .iter()
                .filter(|each| each.is("get", Kind::Lease))
                .count()
        };
        // Longer than the Lease lasts without renewal.
        let mut renewals = 0;
        eventually(SOON, || -> Result<()> {
            renewals += 1;
            stage.cluster().put(lease(year, renewals))?;
            ensure!(looks() >= 3, "{} looks", looks());
            Ok(())
        });
        assert_eq!(held(&stage)?["holderIdentity"], "another", "{year}");
        assert!(published(&stage).is_none(), "{year}: published by two");

        eventually(SOON, || -> Result<()> {
            let held = held(&stage)?;
            ensure!(held["holderIdentity"] != "another", "{year}: {held}");
            ensure!(published(&stage).is_some(), "{year}: nothing is published");
            Ok(())
        });
        assert_eq!(held(&stage)?["leaseTransitions"], 1, "{year}");
        stage.finish()?;
    }
    Ok(())
}

/// Waits until the agent has renewed its Lease at a time so far ahead of this machine's. Gives the
/// holder, and how often it has changed.
fn wait_renewed(stage: &Stage, ahead: jiff::SignedDuration) -> Result<(String, i64)> {
    let held = eventually(SOON, || -> Result<Value> {
        let held = held(stage)?;
        let renewed: jiff::Timestamp = held["renewTime"].as_str().context("a time")?.parse()?;
        let expected = jiff::Timestamp::now() + ahead;
        let off = renewed.duration_since(expected).abs();
        ensure!(
            off < SOME_TIME,
            "renewed at {renewed}, not about {expected}; is the agent linked statically, so that \
             it has no other clock than the machine's?"
        );
        Ok(held)
    });
    let holder = held["holderIdentity"].as_str().context("a holder")?;
    let transitions = held["leaseTransitions"].as_i64().context("a count")?;
    Ok((holder.to_owned(), transitions))
}

fn held(stage: &Stage) -> Result<Value> {
    let lease = stage.cluster().get(Kind::Lease, LEASE.0, LEASE.1);
    Ok(lease.context("there is no Lease")?["spec"].clone())
}

/// Another agent's, which goes by a clock of its own.
fn lease(year: &str, renewals: u32) -> Value {
    let renewed = format!("{year}-01-01T00:00:00.{renewals:06}Z");
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"namespace": LEASE.0, "name": LEASE.1},
        "spec": {
            "holderIdentity": "another",
            "leaseDurationSeconds": 3,
            "leaseTransitions": 0,
            "acquireTime": renewed,
            "renewTime": renewed,
        },
    })
}

fn published(stage: &Stage) -> Option<Value> {
    let cluster = stage.cluster();
    cluster.get(Kind::EndpointSlice, NAMESPACE, "led-idlefirst-leader")
}

/// The Pod, ready since whenever its node says.
fn ready_since(pod: &objects::Pod, since: &str) -> Value {
    let mut object = pod.object();
    let conditions = object["status"]["conditions"].as_array_mut();
    for condition in conditions.into_iter().flatten() {
        condition["lastTransitionTime"] = since.into();
    }
    object
}

#[track_caller]
fn wait_leader(stage: &Stage, pod: u8) {
    let expected = pod_address(pod).to_string();
    eventually(SOON, || -> Result<()> {
        let shown = stage.shown("led")?.context("no service")?;
        ensure!(shown["leader"] == *expected, "{}", shown["leader"]);
        Ok(())
    });
}

fn led() -> objects::Function {
    objects::Function::new(NAMESPACE, "led", LED_IP).annotation("idlefirst.dev/strategy", "leader")
}

fn frontend(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), 8080)
}
