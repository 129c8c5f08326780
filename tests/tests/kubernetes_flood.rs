//! `source: kubernetes`: a thousand events a second, for ten seconds, about a function under load
//! and about many others. Nobody notices but the agent, which has it right in the end.

#![forbid(unsafe_code)]

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{
    cluster::{Cluster, Kind, objects},
    kubernetes::{NAMESPACE, NODE, Outcome, SOON, Stage, assert_no_breach, slice, with_pods},
    wait::eventually,
};

const IP: &str = "10.96.0.10";
const CLIENTS: u64 = 6;
const EVENTS: u32 = 10_000;
const PERIOD: Duration = Duration::from_millis(1);
/// Functions that nobody calls.
const OTHERS: u32 = 100;

#[test]
fn a_thousand_events_a_second_change_nothing_for_traffic() -> Result<()> {
    let hello = objects::Function::new(NAMESPACE, "hello", IP)
        .max_inflight(1)
        .annotation("idlefirst.dev/queue.timeout", "10s");
    let others = (0..OTHERS).flat_map(|number| {
        let slice = other_slice(number, 0);
        other(number, 0).objects().into_iter().chain([slice])
    });
    let stage = Stage::new(4, with_pods(&hello, 0..3).into_iter().chain(others))?;
    let pods = (0..4)
        .map(|number| stage.serve(number, 1, Duration::from_millis(2)))
        .collect::<Result<Vec<_>>>()?;
    stage.wait_members("hello", 0..3);
    stage.wait_served(frontend());
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Deployment] {
        stage.cluster().wait_for_watches(kind, 1, SOON)?;
    }
    stage.cluster().forget_requests();
    for pod in &pods {
        pod.reset();
    }

    let (took, outcomes) = stage.under_load(frontend(), CLIENTS, || {
        let took = flood(stage.cluster(), &hello)?;
        for number in 0..OTHERS {
            wait_as_told(&stage, number);
        }
        stage.wait_members("hello", 0..3);
        Ok(took)
    })?;
    println!("{EVENTS} events in {took:?}");

    let all = outcomes.keys().all(|outcome| *outcome == Outcome::Served);
    assert!(all, "{outcomes:?}");
    assert_no_breach(&pods);
    let served: u64 = pods.iter().map(|pod| pod.seen().served).sum();
    assert_eq!(Some(&served), outcomes.get(&Outcome::Served));
    for pod in &pods {
        assert!(pod.seen().served > 0, "{:?}", pod.seen());
    }
    // It kept up: nothing had to be listed again, or asked for at all.
    let asked = stage.cluster().requests();
    assert!(asked.is_empty(), "{asked:?}");
    eventually(SOON, || -> Result<()> {
        let configuration = stage.agent().configuration()?;
        ensure!(configuration.in_force(), "{configuration:?}");
        Ok(())
    });
    stage.finish()
}

/// Makes changes at an even pace; what was late is caught up with. Gives how long it took.
fn flood(cluster: &Cluster, hello: &objects::Function) -> Result<Duration> {
    let begun = Instant::now();
    for event in 0..EVENTS {
        // The pace itself is what takes time here.
        thread::sleep((begun + PERIOD * event).saturating_duration_since(Instant::now()));
        let (number, round) = (event % OTHERS, event / OTHERS);
        let object = match event % 10 {
            // The called function's own: a pod comes and goes, and it is told what is known.
            0 if round % 2 == 0 => slice(hello, 0..4),
            0 => slice(hello, 0..3),
            1 => hello.clone().replicas(round).deployment(),
            2 => hello.clone().label("step", &event.to_string()).service(),
            3 | 4 => other(number, round).deployment(),
            5 => other(number, round).service(),
            _ => other_slice(number, round),
        };
        cluster.put(object)?;
    }
    Ok(begun.elapsed())
}

/// A function as it is in a round.
fn other(number: u32, round: u32) -> objects::Function {
    let ip = format!("10.96.1.{number}");
    objects::Function::new(NAMESPACE, &format!("other-{number}"), &ip)
        .max_inflight(limit(number, round))
        .label("round", &round.to_string())
}

fn limit(number: u32, round: u32) -> u32 {
    1 + (number + round) % 7
}

fn other_slice(number: u32, round: u32) -> Value {
    let function = other(number, 0);
    let pods: Vec<_> = other_pods(number, round)
        .map(|pod| function.pod(pod, &pod_ip(number, pod), NODE))
        .collect();
    function.slice("1", &pods)
}

/// Those with these numbers, others in each round.
fn other_pods(number: u32, round: u32) -> std::ops::Range<u32> {
    let first = (number + round) % 5;
    first..first + 1 + round % 4
}

fn pod_ip(number: u32, pod: u32) -> String {
    format!("10.120.{number}.{}", pod + 1)
}

/// Waits until a function is shown as the API has it.
fn wait_as_told(stage: &Stage, number: u32) {
    let name = format!("other-{number}");
    let last = EVENTS / OTHERS - 1;
    // Which object is changed depends on the number's last digit: the rest is as at first.
    let pods_round = if number % 10 > 5 { last } else { 0 };
    let limit_round = if matches!(number % 10, 3 | 4) {
        last
    } else {
        0
    };
    let pods = other_pods(number, pods_round).map(|pod| format!("{}:8080", pod_ip(number, pod)));
    let members = pods.collect();
    eventually(SOON, || -> Result<()> {
        let shown = stage.shown(&name)?.unwrap_or_default();
        let expected = json!(limit(number, limit_round));
        ensure!(shown["max_inflight"] == expected, "{name}: {shown}");
        let seen = stage.members(&name)?;
        ensure!(
            seen.as_ref() == Some(&members),
            "{name}: {seen:?}, not {members:?}"
        );
        Ok(())
    });
}

fn frontend() -> SocketAddr {
    SocketAddr::new(IP.parse().expect("an address"), 8080)
}
