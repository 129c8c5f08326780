//! `source: kubernetes`: pods come and go under load. Who is gone gets no connection any more, who
//! is there never gets too many, and at the end nothing is counted that is not there.

#![forbid(unsafe_code)]

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::Result;
use tests::{
    cluster::objects,
    function::Function,
    kubernetes::{
        Outcome, Stage, assert_all_served, assert_no_breach, patient_function, pod, slice,
        with_pods,
    },
};

const IP: &str = "10.96.0.10";
const CLIENTS: u64 = 8;
const LIMIT: u32 = 1;

#[test]
fn a_function_scales_from_1_to_10_to_0_to_5_under_load() -> Result<()> {
    let hello = function();
    let stage = Stage::new(10, with_pods(&hello, 0..1))?;
    let mut pods = BTreeMap::new();
    pods.insert(0, serve(&stage, 0)?);
    stage.wait_members("hello", 0..1);

    let (gone, outcomes) = stage.under_load(frontend(), CLIENTS, || {
        for number in 1..10 {
            pods.insert(number, serve(&stage, number)?);
        }
        scale(&stage, &hello, 0..10)?;
        eventually_all_serve(&pods);
        scale(&stage, &hello, 0..0)?;
        let gone: Vec<_> = (0..10)
            .map(|number| {
                stage.wait_left_alone(number);
                pods[&number].seen().served
            })
            .collect();
        scale(&stage, &hello, 5..10)?;
        stage.wait_served(frontend());
        Ok(gone)
    })?;
    for (number, pod) in &pods {
        let served = pod.seen().served;
        if *number < 5 {
            assert_eq!(served, gone[usize::from(*number)], "pod {number} is gone");
        } else {
            assert!(served > gone[usize::from(*number)], "pod {number} is back");
        }
    }
    assert_no_breach(pods.values());
    let odd: Vec<_> = outcomes
        .iter()
        // While there is no pod at all.
        .filter(|(outcome, _)| {
            !matches!(
                outcome,
                Outcome::Served | Outcome::Refused | Outcome::Answered(503, _)
            )
        })
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
    stage.finish()
}

#[test]
fn a_pod_that_terminates_serves_on_only_while_there_is_no_other() -> Result<()> {
    let hello = function();
    let stage = Stage::new(2, with_pods(&hello, 0..2))?;
    let pods = [serve(&stage, 0)?, serve(&stage, 1)?];
    stage.wait_members("hello", 0..2);
    let put = |pods: &[objects::Pod]| stage.cluster().put(hello.slice("1", pods));
    let (first, second) = (pod(&hello, 0), pod(&hello, 1));
    let ((), outcomes) = stage.under_load(frontend(), 2, || {
        put(&[first.clone().terminating(true), second.clone()])?;
        stage.wait_members("hello", [1]);
        put(&[first.clone().terminating(true), second.clone().ready(false)])?;
        stage.wait_members("hello", [0]);
        put(&[
            first.clone().terminating(true),
            second.clone().terminating(true),
        ])?;
        stage.wait_members("hello", 0..2);
        put(&[first.terminating(false), second])?;
        stage.wait_members("hello", [1]);
        Ok(())
    })?;
    assert_all_served(&outcomes);
    assert_no_breach(&pods);
    stage.finish()
}

#[test]
fn a_pod_may_be_in_two_slices_and_move_between_them() -> Result<()> {
    let hello = function();
    let stage = Stage::new(2, with_pods(&hello, 0..2))?;
    let pods = [serve(&stage, 0)?, serve(&stage, 1)?];
    stage.wait_members("hello", 0..2);
    let (first, second) = (pod(&hello, 0), pod(&hello, 1));
    let cluster = stage.cluster();
    let ((), outcomes) = stage.under_load(frontend(), 4, || {
        cluster.put(hello.slice("2", [&first, &second]))?;
        cluster.put(hello.slice("1", [&second, &second]))?;
        cluster.put(hello.slice("1", []))?;
        stage.wait_members("hello", 0..2);
        cluster.put(hello.slice("1", [&first]))?;
        cluster.put(hello.slice("2", []))?;
        stage.wait_members("hello", [0]);
        Ok(())
    })?;
    assert_all_served(&outcomes);
    assert_no_breach(&pods);
    stage.finish()
}

/// One whose callers wait for as long as a busy machine may take.
fn function() -> objects::Function {
    patient_function(IP, LIMIT)
}

fn serve(stage: &Stage, number: u8) -> Result<Function> {
    stage.serve(number, LIMIT, Duration::from_millis(1))
}

fn scale(stage: &Stage, function: &objects::Function, pods: std::ops::Range<u8>) -> Result<()> {
    stage.cluster().put(slice(function, pods.clone()))?;
    stage.wait_members("hello", pods);
    Ok(())
}

fn eventually_all_serve(pods: &BTreeMap<u8, Function>) {
    tests::wait::eventually(tests::kubernetes::SOON, || {
        let idle = pods.iter().find(|(_, pod)| pod.seen().served == 0);
        match idle {
            None => Ok(()),
            Some((number, _)) => Err(format!("pod {number} has served nobody")),
        }
    });
}

fn frontend() -> SocketAddr {
    SocketAddr::new(IP.parse().expect("an address"), 8080)
}
