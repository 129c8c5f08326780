//! `source: kubernetes`: the leader of a service is published in an EndpointSlice of its own, and
//! no longer than that is asked for.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    cluster::{Kind, objects},
    crowd::pod_address,
    kubernetes::{NAMESPACE, SOON, Stage, pod},
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

fn published(stage: &Stage) -> Option<Value> {
    stage.cluster().get(Kind::EndpointSlice, NAMESPACE, SLICE)
}

fn wait_published(stage: &Stage, leader: u8) {
    let expected = json!([pod_address(leader).ip().to_string()]);
    eventually(SOON, || -> Result<()> {
        let slice = published(stage).context("nothing is published")?;
        let endpoints = slice["endpoints"].as_array().context("no endpoints")?;
        ensure!(endpoints.len() == 1, "{endpoints:?}");
        ensure!(endpoints[0]["addresses"] == expected, "{endpoints:?}");
        Ok(())
    });
}
