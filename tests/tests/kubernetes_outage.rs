//! `source: kubernetes`: an API server that is away, forgets or babbles changes nothing for
//! traffic; when it is back, what has changed meanwhile is caught up with.

#![forbid(unsafe_code)]

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, Kind, objects},
    function::Function,
    kubernetes::{
        NAMESPACE, Outcome, SOON, Stage, assert_all_served, assert_no_breach, patient_function,
        pod, slice, with_pods,
    },
    wait::eventually,
};

const IP: &str = "10.96.0.10";
const CLIENTS: u64 = 4;
const FOLLOWED: [Kind; 3] = [Kind::Service, Kind::EndpointSlice, Kind::Deployment];

#[test]
fn an_outage_changes_nothing_for_traffic_and_is_caught_up_with() -> Result<()> {
    let hello = function();
    let (stage, pods) = set(&hello)?;
    let ((), outcomes) = stage.under_load(frontend(), CLIENTS, || {
        stage.cluster().faults().begin_outage()?;
        // The outage itself is what takes time here.
        thread::sleep(Duration::from_secs(2));
        stage.wait_members("hello", 0..2);
        stage.cluster().put(slice(&hello, 1..3))?;
        stage.cluster().faults().end_outage()?;
        stage.wait_members("hello", 1..3);
        Ok(())
    })?;
    assert_all_served(&outcomes);
    assert_eq!(stage.agent().admin().get("/readyz")?.status, 200);
    assert_no_breach(&pods);
    stage.finish()
}

/// Waits do not grow with the outage: what has changed is seen soon after it.
#[test]
fn a_long_outage_is_over_when_it_ends() -> Result<()> {
    let hello = function();
    let (stage, pods) = set(&hello)?;
    wait_watches(&stage, 1.0);
    stage.cluster().faults().begin_outage()?;
    // The outage itself is what takes time here.
    thread::sleep(Duration::from_secs(10));
    wait_watches(&stage, 0.0);
    assert_eq!(stage.call(frontend()), Outcome::Served);
    stage.cluster().put(slice(&hello, 1..3))?;
    let over = Instant::now();
    stage.cluster().faults().end_outage()?;
    stage.wait_members("hello", 1..3);
    let took = over.elapsed();
    assert!(took < Duration::from_secs(4), "seen after {took:?}");
    wait_watches(&stage, 1.0);
    assert_no_breach(&pods);
    stage.finish()
}

/// A list that fails again and again begins again and again, which is no sign of life.
#[test]
fn a_failing_watch_is_said_once_and_counted() -> Result<()> {
    let hello = function();
    let (stage, pods) = set(&hello)?;
    let faults = stage.cluster().faults();
    faults.answer([Kind::EndpointSlice], 500, u32::MAX);
    faults.expire_streams([Kind::EndpointSlice]);
    wait_watch(&stage, "EndpointSlice", 0.0);
    stage.cluster().forget_requests();
    eventually(SOON, || -> Result<()> {
        let requests = stage.cluster().requests();
        let lists = requests
            .iter()
            .filter(|each| each.is("list", Kind::EndpointSlice));
        ensure!(lists.count() >= 3, "{requests:?}");
        Ok(())
    });
    wait_watch(&stage, "Service", 1.0);
    faults.heal()?;
    wait_watches(&stage, 1.0);
    let log = stage.agent().stderr();
    let said = |what: &str| log.matches(what).count();
    assert_eq!(said("a watch of the API failed"), 1, "{log}");
    assert_eq!(said("the watch of the API is back"), 1, "{log}");
    assert_eq!(said("failed with status"), 0, "{log}");
    assert_no_breach(&pods);
    stage.finish()
}

/// As when the cluster's store is put back to a backup.
#[test]
fn versions_that_begin_anew_are_followed() -> Result<()> {
    let hello = function();
    let (stage, pods) = set(&hello)?;
    let ((), outcomes) = stage.under_load(frontend(), CLIENTS, || {
        stage.cluster().faults().reset_version();
        stage.cluster().put(slice(&hello, 1..3))?;
        stage.wait_members("hello", 1..3);
        for kind in FOLLOWED {
            stage.cluster().wait_for_watches(kind, 1, SOON)?;
        }
        stage.cluster().put(slice(&hello, 0..2))?;
        stage.wait_members("hello", 0..2);
        Ok(())
    })?;
    assert_all_served(&outcomes);
    assert_no_breach(&pods);
    stage.finish()
}

#[test]
fn forgotten_history_is_caught_up_with_without_flapping() -> Result<()> {
    let hello = function();
    let (stage, pods) = set(&hello)?;
    let ((), outcomes) = stage.under_load(frontend(), CLIENTS, || {
        for (round, as_status) in [false, true, false, true].into_iter().enumerate() {
            let faults = stage.cluster().faults();
            faults.gone_as_status(as_status);
            let members = if round % 2 == 0 { 1..3 } else { 0..2 };
            if as_status {
                // Who wants to go on after the break cannot.
                faults.begin_outage()?;
                faults.expire_history(Kind::ALL);
                stage.cluster().put(slice(&hello, members.clone()))?;
                faults.expire_history(Kind::ALL);
                faults.end_outage()?;
            } else {
                faults.expire_streams(Kind::ALL);
                stage.cluster().put(slice(&hello, members.clone()))?;
            }
            stage.wait_members("hello", members);
        }
        Ok(())
    })?;
    assert_all_served(&outcomes);
    assert_no_breach(&pods);
    stage.finish()
}

/// Nothing differs after the relist, and nothing is told to have changed.
#[test]
fn a_list_that_says_what_is_known_changes_nothing() -> Result<()> {
    let hello = function();
    let (stage, pods) = set(&hello)?;
    let before = stage.agent().configuration()?.generation;
    let ((), outcomes) = stage.under_load(frontend(), CLIENTS, || {
        for _ in 0..3 {
            relist(stage.cluster())?;
        }
        Ok(())
    })?;
    assert_all_served(&outcomes);
    assert_eq!(stage.agent().configuration()?.generation, before);
    assert_no_breach(&pods);
    stage.finish()
}

#[test]
fn broken_cut_and_doubled_events_lead_to_the_same_end() -> Result<()> {
    let hello = function();
    let (stage, pods) = set(&hello)?;
    let faults = stage.cluster().faults();
    let put = |members: std::ops::Range<u8>| stage.cluster().put(slice(&hello, members));
    let ((), outcomes) = stage.under_load(frontend(), CLIENTS, || {
        faults.cut_next_event([Kind::EndpointSlice]);
        put(1..3)?;
        stage.wait_members("hello", 1..3);
        faults.duplicate_events(FOLLOWED, true);
        for members in [0..1, 1..2, 2..3, 0..3] {
            put(members)?;
        }
        stage.wait_members("hello", 0..3);
        faults.duplicate_events(FOLLOWED, false);
        faults.trickle(FOLLOWED, 7, Duration::from_micros(100));
        put(0..2)?;
        stage.wait_members("hello", 0..2);
        faults.end_trickle(FOLLOWED);
        faults.break_streams(FOLLOWED);
        put(1..3)?;
        stage.wait_members("hello", 1..3);
        faults.end_streams(FOLLOWED);
        put(0..3)?;
        stage.wait_members("hello", 0..3);
        faults.answer(FOLLOWED, 500, 2);
        faults.break_streams(FOLLOWED);
        put(0..1)?;
        stage.wait_members("hello", 0..1);
        Ok(())
    })?;
    assert_all_served(&outcomes);
    assert_no_breach(&pods);
    stage.finish()
}

#[test]
fn kinds_may_come_in_any_order() -> Result<()> {
    for late in FOLLOWED {
        let stage = Stage::new(1, [])?;
        let _pod = stage.serve(0, 1, Duration::ZERO)?;
        let hello = function();
        let faults = stage.cluster().faults();
        let cluster = stage.cluster();
        faults.hold([late]);
        for object in with_pods(&hello, [0]) {
            let is_late = object["kind"] == late.name();
            let changed = cluster.put(object)?;
            if !is_late {
                changed.written.wait(SOON)?;
            }
        }
        faults.release([late]);
        stage.wait_served(frontend());

        faults.hold([late]);
        let slice = hello.slice_name("1");
        for kind in FOLLOWED {
            let name = match kind {
                Kind::EndpointSlice => &*slice,
                _ => "hello",
            };
            let changed = cluster.delete(kind, NAMESPACE, name)?;
            if kind != late {
                changed.written.wait(SOON)?;
            }
        }
        faults.release([late]);
        stage.wait_no_service("hello");
        stage.wait_outcome(frontend(), &Outcome::Unsteered);
        stage.finish()?;
    }
    Ok(())
}

/// A leader service is led by what both its slices and its Pods say.
#[test]
fn pods_may_come_after_their_slices_and_before() -> Result<()> {
    let hello = function().annotation("idlefirst.dev/strategy", "leader");
    let (old, young) = (
        pod(&hello, 0).ready_for(Duration::from_secs(100)),
        pod(&hello, 1).ready_for(Duration::from_secs(10)),
    );
    let stage = Stage::new(2, hello.objects().into_iter().chain([old.object()]))?;
    let _pods = [
        stage.serve(0, 1, Duration::ZERO)?,
        stage.serve(1, 1, Duration::ZERO)?,
    ];
    let cluster = stage.cluster();
    // The other one is of Pods that bypass the balancer.
    cluster.wait_for_watches(Kind::Pod, 2, SOON)?;

    // The slice first: one whose Pod is not known is not used.
    cluster.faults().hold([Kind::Pod]);
    cluster.put(young.object())?;
    cluster.put(hello.slice("1", [&old, &young]))?;
    stage.wait_members("hello", [0]);
    cluster.faults().release([Kind::Pod]);
    stage.wait_members("hello", 0..2);
    wait_leader(&stage, 0);
    stage.wait_served(frontend());

    // The Pod first: it is gone, whatever its slice says.
    cluster.faults().hold([Kind::EndpointSlice]);
    cluster.delete(Kind::Pod, NAMESPACE, old.name())?;
    cluster.put(hello.slice("1", [&young]))?;
    stage.wait_members("hello", [1]);
    wait_leader(&stage, 1);
    cluster.faults().release([Kind::EndpointSlice]);
    stage.wait_served(frontend());
    stage.wait_members("hello", [1]);
    stage.finish()
}

#[test]
fn connections_ask_nothing_of_the_api() -> Result<()> {
    let hello = function();
    let (stage, pods) = set(&hello)?;
    for kind in FOLLOWED {
        stage.cluster().wait_for_watches(kind, 1, SOON)?;
    }
    stage.cluster().forget_requests();
    let (_, outcomes) = stage.under_load(frontend(), CLIENTS, || {
        let begun = Instant::now();
        eventually(SOON, || match begun.elapsed() {
            passed if passed > Duration::from_secs(1) => Ok(()),
            _ => Err("too early"),
        });
        Ok(())
    })?;
    assert_all_served(&outcomes);
    assert!(outcomes.values().sum::<u64>() > 50, "{outcomes:?}");
    let asked: Vec<_> = stage.cluster().requests();
    assert!(asked.is_empty(), "{asked:?}");
    assert_no_breach(&pods);
    stage.finish()
}

#[test]
fn the_agent_is_ready_when_the_api_has_told_and_not_before() -> Result<()> {
    let hello = function();
    let mut stage = Stage::begin(1, with_pods(&hello, [0]), |cluster| {
        cluster.faults().begin_outage()
    })?;
    let _pod = stage.serve(0, 1, Duration::ZERO)?;
    wait_missing_source(&stage)?;
    assert_eq!(stage.call(frontend()), Outcome::Unsteered);
    stage.cluster().faults().forbid([Kind::EndpointSlice], true);
    stage.cluster().faults().end_outage()?;
    stage.cluster().wait_for_watches(Kind::Service, 1, SOON)?;
    wait_missing_source(&stage)?;
    assert_eq!(stage.call(frontend()), Outcome::Unsteered);
    stage
        .cluster()
        .faults()
        .forbid([Kind::EndpointSlice], false);
    stage.agent_mut().wait_ready()?;
    stage.wait_served(frontend());
    stage.finish()
}

#[test]
fn an_empty_cluster_is_told_too() -> Result<()> {
    let stage = Stage::new(0, [])?;
    assert_eq!(stage.agent().admin().get_json("/v1/services")?, json!([]));
    stage.finish()
}

fn wait_missing_source(stage: &Stage) -> Result<()> {
    let missing = eventually(SOON, || -> Result<Value> {
        let answer = stage.agent().admin().get("/readyz")?;
        ensure!(answer.status == 503, "{}: {}", answer.status, answer.body);
        let missing = answer.json()?["missing"].clone();
        let others_are_there = missing.as_array().is_some_and(|missing| missing.len() == 1);
        ensure!(others_are_there, "{missing}");
        Ok(missing)
    });
    ensure!(missing == json!(["source"]), "{missing}");
    Ok(())
}

/// Waits until the watches of every kind are up (1) or down (0).
fn wait_watches(stage: &Stage, up: f64) {
    for kind in FOLLOWED {
        wait_watch(stage, kind.name(), up);
    }
}

fn wait_watch(stage: &Stage, kind: &str, up: f64) {
    eventually(SOON, || -> Result<()> {
        let metrics = stage.agent().admin().get("/metrics")?.body;
        let line = format!("idlefirst_api_watch_up{{kind=\"{kind}\"}} {up}\n");
        ensure!(metrics.contains(&line), "no {line}in {metrics}");
        Ok(())
    });
}

/// Has everything listed again, and waits until that is done.
fn relist(cluster: &Cluster) -> Result<()> {
    cluster.forget_requests();
    cluster.faults().expire_streams(FOLLOWED);
    for kind in FOLLOWED {
        eventually(SOON, || -> Result<()> {
            let requests = cluster.requests();
            let is_listed = requests.iter().any(|each| each.is("list", kind))
                || requests.iter().any(|each| {
                    each.is("watch", kind) && each.parameter("sendInitialEvents") == "true"
                });
            ensure!(is_listed, "{kind} is not listed again: {requests:?}");
            Ok(())
        });
        cluster.wait_for_watches(kind, 1, SOON)?;
    }
    Ok(())
}

fn wait_leader(stage: &Stage, pod: u8) {
    let expected = tests::crowd::pod_address(pod).to_string();
    eventually(SOON, || -> Result<()> {
        let shown = stage.shown("hello")?.context("no service")?;
        ensure!(shown["leader"] == *expected, "{}", shown["leader"]);
        Ok(())
    });
}

/// A function with the first two of three pods that serve.
fn set(hello: &objects::Function) -> Result<(Stage, Vec<Function>)> {
    let stage = Stage::new(3, with_pods(hello, 0..2))?;
    let pods = (0..3)
        .map(|number| stage.serve(number, 1, Duration::from_millis(2)))
        .collect::<Result<_>>()?;
    stage.wait_members("hello", 0..2);
    stage.wait_served(frontend());
    Ok((stage, pods))
}

fn function() -> objects::Function {
    patient_function(IP, 1)
}

fn frontend() -> SocketAddr {
    SocketAddr::new(IP.parse().expect("an address"), 8080)
}
