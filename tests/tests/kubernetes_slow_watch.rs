//! `source: kubernetes`: events that come late and in drips, and lists that take long, change
//! nothing for traffic; what they say applies when it is there, in order.

#![forbid(unsafe_code)]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{
    cluster::{Kind, objects},
    function::Function,
    kubernetes::{
        SOON, Stage, assert_all_served, assert_no_breach, patient_function, slice, with_pods,
    },
    wait::eventually,
};

const IP: &str = "10.96.0.10";
const CLIENTS: u64 = 6;
const FOLLOWED: [Kind; 3] = [Kind::Service, Kind::EndpointSlice, Kind::Deployment];
/// The most that any Deployment here allows.
const MOST: u32 = 2;

#[test]
fn late_and_dribbled_events_change_nothing_for_traffic() -> Result<()> {
    let hello = function();
    let (stage, pods) = set(&hello)?;
    let (cluster, faults) = (stage.cluster(), stage.cluster().faults());
    let ((), outcomes) = stage.under_load(frontend(), CLIENTS, || {
        faults.delay_events(FOLLOWED, Duration::from_millis(300));
        faults.trickle(FOLLOWED, 3, Duration::from_millis(1));
        // All are on their way before the first has come.
        for members in [1..3, 0..1, 0..3, 1..2] {
            cluster.put(slice(&hello, members))?;
        }
        cluster.put(hello.clone().max_inflight(MOST).deployment())?;
        cluster.put(hello.clone().label("step", "1").service())?;
        let last = cluster.put(slice(&hello, 0..2))?;
        ensure!(last.written.now().is_none(), "the events are not slow");
        last.written.wait(SOON)?;
        stage.wait_members("hello", 0..2);
        wait_limit_shown(&stage, MOST);
        Ok(())
    })?;
    assert_all_served(&outcomes);
    assert_no_breach(&pods);
    for pod in &pods[..2] {
        assert_eq!(pod.seen().peak, MOST, "{:?}", pod.seen());
    }
    stage.finish()
}

/// What is told in full applies while something else is still being told.
#[test]
fn a_slow_kind_does_not_hold_up_the_others() -> Result<()> {
    let hello = function();
    let (stage, pods) = set(&hello)?;
    let (cluster, faults) = (stage.cluster(), stage.cluster().faults());
    let ((), outcomes) = stage.under_load(frontend(), CLIENTS, || {
        // Some seconds for one slice.
        faults.trickle([Kind::EndpointSlice], 1, Duration::from_millis(5));
        let slow = cluster.put(slice(&hello, 2..3))?;
        cluster.put(hello.clone().max_inflight(MOST).deployment())?;
        wait_limit_shown(&stage, MOST);
        eventually(SOON, || match [pods[0].seen().peak, pods[1].seen().peak] {
            [MOST, MOST] => Ok(()),
            peaks => Err(format!("{peaks:?}")),
        });
        ensure!(slow.written.now().is_none(), "the slice was told meanwhile");
        ensure!(pods[2].seen().accepted == 0, "half a slice applied");
        slow.written.wait(SOON)?;
        stage.wait_members("hello", [2]);
        Ok(())
    })?;
    assert_all_served(&outcomes);
    assert_no_breach(&pods);
    assert!(pods[2].seen().served > 0, "{:?}", pods[2].seen());
    stage.finish()
}

/// While everything is listed again, slowly and one kind after the other, nothing is missing.
#[test]
fn a_slow_list_changes_nothing_until_it_is_there() -> Result<()> {
    let hello = function();
    let (stage, pods) = set(&hello)?;
    let (cluster, faults) = (stage.cluster(), stage.cluster().faults());
    let ((), outcomes) = stage.under_load(frontend(), CLIENTS, || {
        for (number, kind) in FOLLOWED.into_iter().enumerate() {
            let wait = Duration::from_millis(400 * (number as u64 + 1));
            faults.slow_answers([kind], wait);
        }
        cluster.forget_requests();
        faults.expire_streams(FOLLOWED);
        cluster.put(slice(&hello, 1..3))?;
        stage.wait_members("hello", 1..3);
        for kind in FOLLOWED {
            eventually(SOON, || -> Result<()> {
                let requests = cluster.requests();
                ensure!(
                    requests.iter().any(|each| each.is("list", kind)),
                    "{kind} is not listed again: {requests:?}"
                );
                Ok(())
            });
        }
        for kind in FOLLOWED {
            faults.slow_answers([kind], Duration::ZERO);
            cluster.wait_for_watches(kind, 1, SOON)?;
        }
        Ok(())
    })?;
    assert_all_served(&outcomes);
    assert_no_breach(&pods);
    stage.finish()
}

/// A function with the first two of three pods that serve.
fn set(hello: &objects::Function) -> Result<(Stage, Vec<Function>)> {
    let stage = Stage::new(3, with_pods(hello, 0..2))?;
    let pods = (0..3)
        .map(|number| stage.serve(number, MOST, Duration::from_millis(2)))
        .collect::<Result<_>>()?;
    stage.wait_members("hello", 0..2);
    stage.wait_served(frontend());
    Ok((stage, pods))
}

fn wait_limit_shown(stage: &Stage, limit: u32) {
    eventually(SOON, || -> Result<()> {
        let shown = stage.shown("hello")?.unwrap_or_default();
        ensure!(shown["max_inflight"] == json!(limit), "{shown}");
        Ok(())
    });
}

fn function() -> objects::Function {
    patient_function(IP, 1)
}

fn frontend() -> SocketAddr {
    SocketAddr::new(IP.parse().expect("an address"), 8080)
}
