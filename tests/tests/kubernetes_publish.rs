//! `source: kubernetes`: the leader of a service is published in an EndpointSlice of its own, and
//! no longer than that is asked for; and what comes in the way of that.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    cluster::{Kind, objects},
    crowd::pod_address,
    kubernetes::{NAMESPACE, NODE, SOON, Stage, pod},
    wait::eventually,
};

const SLICE: &str = "hello-idlefirst-leader";

#[test]
fn a_leader_is_published_and_its_successor_and_then_nobody() -> Result<()> {
    let hello = objects::Function::new(NAMESPACE, "hello", "10.96.0.10")
        .annotation("idlefirst.dev/strategy", "leader")
        .annotation("idlefirst.dev/publish-leader", "true");
    let (old, young) = (
        pod(&hello, 0).ready_for(Duration::from_secs(100)),
        pod(&hello, 1).ready_for(Duration::from_secs(10)),
    );
    let pods = [
        old.object(),
        young.object(),
        hello.slice("1", [&old, &young]),
    ];
    let stage = Stage::new(2, hello.objects().into_iter().chain(pods))?;
    let _servers = [
        stage.serve(0, 1, Duration::ZERO)?,
        stage.serve(1, 1, Duration::ZERO)?,
    ];
    wait_published(&stage, 0);
    let slice = published(&stage).context("it was there")?;
    let labels = &slice["metadata"]["labels"];
    assert_eq!(labels["kubernetes.io/service-name"], "hello-leader");
    assert_eq!(
        labels["endpointslice.kubernetes.io/managed-by"],
        "idlefirst.dev"
    );
    let owner = &slice["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["name"]),
        (&json!("Service"), &json!("hello"))
    );
    assert_eq!(slice["endpoints"][0]["targetRef"]["name"], old.name());
    let lease = stage.cluster().list(Kind::Lease);
    assert_eq!(lease.len(), 1, "{lease:?}");

    stage.cluster().delete(Kind::Pod, NAMESPACE, old.name())?;
    wait_published(&stage, 1);

    let off = json!({"metadata": {"annotations": {"idlefirst.dev/publish-leader": null}}});
    stage
        .cluster()
        .merge(Kind::Service, NAMESPACE, "hello", off)?;
    eventually(SOON, || -> Result<()> {
        ensure!(published(&stage).is_none(), "it is still there");
        Ok(())
    });
    stage.finish()
}

#[test]
fn a_leader_that_comes_after_its_service_is_published_in_its_own_family() -> Result<()> {
    let hello = led("fd00:96::10");
    let stage = Stage::new(0, hello.objects())?;
    // What others have left there is of the other family, which cannot be changed.
    let mut other = hello.slice("1", []);
    other["metadata"]["name"] = SLICE.into();
    other["metadata"]["labels"]["kubernetes.io/service-name"] = "hello-leader".into();
    stage.cluster().put(other)?;
    let first = hello.pod(0, "fd00:111::1", NODE);
    stage.cluster().put(first.object())?;
    stage.cluster().put(hello.slice6("6", [&first]))?;
    wait_published_at(&stage, "fd00:111::1");
    let slice = published(&stage).context("it was there")?;
    assert_eq!(slice["addressType"], "IPv6");
    assert_eq!(stage.errors("hello")?, [Value::Null; 0]);
    stage.finish()
}

#[test]
fn what_somebody_else_writes_there_is_put_right() -> Result<()> {
    let stage = stage()?;
    wait_published(&stage, 0);
    let astray = [
        json!({"endpoints": [{"addresses": ["10.111.9.9"]}]}),
        json!({"ports": []}),
        json!({"metadata": {"labels": {"kubernetes.io/service-name": null}}}),
    ];
    for patch in astray {
        let cluster = stage.cluster();
        cluster.merge(Kind::EndpointSlice, NAMESPACE, SLICE, patch.clone())?;
        eventually(SOON, || -> Result<()> {
            let slice = published(&stage).context("nothing is published")?;
            let labels = &slice["metadata"]["labels"];
            ensure!(
                labels["kubernetes.io/service-name"] == "hello-leader",
                "{patch}"
            );
            ensure!(
                slice["ports"]
                    .as_array()
                    .is_some_and(|ports| ports.len() == 1),
                "{patch}"
            );
            let address = pod_address(0).ip().to_string();
            ensure!(
                slice["endpoints"][0]["addresses"] == json!([address]),
                "{patch}"
            );
            Ok(())
        });
    }
    stage.finish()
}

#[test]
fn the_lease_is_given_up_at_an_orderly_end() -> Result<()> {
    let mut stage = stage()?;
    wait_published(&stage, 0);
    let holder = |stage: &Stage| {
        let leases = stage.cluster().list(Kind::Lease);
        leases[0]["spec"]["holderIdentity"].clone()
    };
    assert!(holder(&stage).is_string());
    stage.agent_mut().terminate()?;
    assert!(holder(&stage).is_null(), "{}", holder(&stage));
    Ok(())
}

#[test]
fn that_it_is_refused_is_told_of_the_service_while_it_lasts() -> Result<()> {
    for kind in [Kind::Lease, Kind::EndpointSlice] {
        let stage = stage()?;
        wait_published(&stage, 0);
        stage.cluster().faults().forbid([kind], true);
        // What is there is taken away, so that it has to be written.
        stage
            .cluster()
            .delete(Kind::EndpointSlice, NAMESPACE, SLICE)?;
        eventually(SOON, || -> Result<()> {
            let errors = stage.errors("hello")?;
            ensure!(errors.len() == 1, "{kind}: {errors:?}");
            let message = errors[0]["message"].as_str().unwrap_or_default();
            ensure!(message.contains("forbidden"), "{kind}: {message}");
            Ok(())
        });
        stage.cluster().faults().forbid([kind], false);
        eventually(SOON, || -> Result<()> {
            let errors = stage.errors("hello")?;
            ensure!(errors.is_empty(), "{kind}: {errors:?}");
            Ok(())
        });
        wait_published(&stage, 0);
        stage.finish()?;
    }
    Ok(())
}

/// A function whose leader is to be published.
fn led(ip: &str) -> objects::Function {
    objects::Function::new(NAMESPACE, "hello", ip)
        .annotation("idlefirst.dev/strategy", "leader")
        .annotation("idlefirst.dev/publish-leader", "true")
        .annotation("idlefirst.dev/health.probe", "none")
}

/// With one pod, of which nothing is asked.
fn stage() -> Result<Stage> {
    let hello = led("10.96.0.10");
    let pod = pod(&hello, 0);
    let pods = [pod.object(), hello.slice("1", [&pod])];
    Stage::new(1, hello.objects().into_iter().chain(pods))
}

fn published(stage: &Stage) -> Option<Value> {
    stage.cluster().get(Kind::EndpointSlice, NAMESPACE, SLICE)
}

fn wait_published(stage: &Stage, leader: u8) {
    wait_published_at(stage, &pod_address(leader).ip().to_string());
}

fn wait_published_at(stage: &Stage, address: &str) {
    let expected = json!([address]);
    eventually(SOON, || -> Result<()> {
        let slice = published(stage).context("nothing is published")?;
        let endpoints = slice["endpoints"].as_array().context("no endpoints")?;
        ensure!(endpoints.len() == 1, "{endpoints:?}");
        ensure!(endpoints[0]["addresses"] == expected, "{endpoints:?}");
        Ok(())
    });
}
