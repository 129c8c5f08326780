//! `source: kubernetes`: a bad object is told where people look, leaves the last good state of its
//! own service in force, and harms no other.

#![forbid(unsafe_code)]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    cluster::{Kind, objects::Function},
    kubernetes::{NAMESPACE, Outcome, SOON, Stage, slice, with_pods},
    wait::{eventually, eventually_eq},
};

const IP: &str = "10.96.0.10";
const OTHER_IP: &str = "10.96.0.11";

#[test]
fn a_bad_annotation_is_told_and_the_last_good_value_stays() -> Result<()> {
    let hello = Function::new(NAMESPACE, "hello", IP);
    let good = hello.clone().annotation("idlefirst.dev/max-inflight", "3");
    let stage = Stage::new(1, with_pods(&good, [0]))?;
    wait_limit(&stage, 3);

    let bad = hello
        .annotation("idlefirst.dev/max-inflight", "many")
        .annotation("idlefirst.dev/strategy", "least-of-all");
    stage.cluster().put(bad.service())?;
    let errors = eventually(SOON, || -> Result<Vec<Value>> {
        let errors = stage.errors("hello")?;
        ensure!(errors.len() == 2, "{errors:?}");
        Ok(errors)
    });
    let annotations: Vec<_> = errors.iter().map(|error| &error["annotation"]).collect();
    for expected in ["idlefirst.dev/max-inflight", "idlefirst.dev/strategy"] {
        assert!(
            annotations.iter().any(|annotation| *annotation == expected),
            "{errors:?}"
        );
    }
    assert_eq!(stage.all_errors()?, errors);
    wait_limit(&stage, 3);
    let noted = wait_event(&stage, "Service", "hello", "max-inflight")?;
    assert_eq!(noted["type"], "Warning");
    assert_eq!(
        noted["involvedObject"]["uid"]
            .as_str()
            .or(noted["regarding"]["uid"].as_str()),
        Some(&*good.uid("Service"))
    );
    wait_event(&stage, "Service", "hello", "strategy")?;

    stage.cluster().put(good.service())?;
    eventually_eq(SOON, Vec::<Value>::new(), || {
        stage
            .all_errors()
            .expect("the agent tells of its configuration")
    });
    stage.finish()
}

#[test]
fn odd_objects_harm_none_but_themselves() -> Result<()> {
    let hello = Function::new(NAMESPACE, "hello", IP).max_inflight(1);
    // They are there when the agent begins, and are listed before the good one.
    let stage = Stage::new(2, odd_objects().into_iter().chain(with_pods(&hello, [0])))?;
    let _pods = [
        stage.serve(0, 1, Duration::ZERO)?,
        stage.serve(1, 1, Duration::ZERO)?,
    ];
    stage.wait_served(frontend(IP));
    for name in ["a-portless", "a-external", "a-headless"] {
        assert_eq!(stage.members(name)?, None, "{name}");
        wait_event(&stage, "Service", name, "")?;
        let errors = stage.all_errors()?;
        ensure!(
            errors.iter().any(|error| error["name"] == name),
            "{name}: {errors:?}"
        );
    }
    for (kind, name) in [
        ("Service", "a-types"),
        ("EndpointSlice", "a-types"),
        ("Deployment", "a-types"),
    ] {
        wait_event(&stage, kind, name, "cannot be read")?;
    }

    // They come again as events, and the good one still follows its own.
    stage.cluster().put_all(odd_objects())?;
    stage.cluster().put(slice(&hello, 0..2))?;
    stage.wait_members("hello", 0..2);
    // And when everything is listed anew.
    stage.cluster().faults().expire_streams(Kind::ALL);
    stage.cluster().put_all(odd_objects())?;
    stage.cluster().put(slice(&hello, [1]))?;
    stage.wait_members("hello", [1]);
    assert_eq!(stage.call(frontend(IP)), Outcome::Served);
    stage.finish()
}

#[test]
fn an_object_that_cannot_be_read_any_more_stays_as_it_was() -> Result<()> {
    let hello = Function::new(NAMESPACE, "hello", IP).max_inflight(2);
    let stage = Stage::new(1, with_pods(&hello, [0]))?;
    let _pod = stage.serve(0, 0, Duration::ZERO)?;
    stage.wait_served(frontend(IP));
    let name = hello.slice_name("1");
    let cluster = stage.cluster();
    cluster.merge(
        Kind::EndpointSlice,
        NAMESPACE,
        &name,
        json!({"endpoints": "none"}),
    )?;
    cluster.merge(
        Kind::Service,
        NAMESPACE,
        "hello",
        json!({"spec": {"ports": 7}}),
    )?;
    let template = json!({"spec": {"template": {"spec": {"containers": 7}}}});
    cluster.merge(Kind::Deployment, NAMESPACE, "hello", template)?;
    for (kind, name) in [
        ("EndpointSlice", &*name),
        ("Service", "hello"),
        ("Deployment", "hello"),
    ] {
        wait_event(&stage, kind, name, "cannot be read")?;
    }
    let stays = || -> Result<()> {
        assert_eq!(stage.call(frontend(IP)), Outcome::Served);
        wait_limit(&stage, 2);
        stage.wait_members("hello", [0]);
        Ok(())
    };
    stays()?;
    // A list of everything, in which it cannot be read either.
    cluster.forget_requests();
    cluster.faults().expire_streams(Kind::ALL);
    let other = Function::new(NAMESPACE, "other", OTHER_IP);
    for kind in [Kind::EndpointSlice, Kind::Service, Kind::Deployment] {
        eventually(SOON, || -> Result<()> {
            let listed = cluster.requests().iter().any(|each| {
                each.is("list", kind)
                    || each.parameter("sendInitialEvents") == "true" && each.kind == Some(kind)
            });
            ensure!(listed, "{kind} is not listed again");
            Ok(())
        });
        cluster.wait_for_watches(kind, 1, SOON)?;
    }
    cluster.put_all(with_pods(&other, [0]))?;
    stage.wait_members("other", [0]);
    stays()?;
    cluster.put_all(with_pods(&hello.max_inflight(4), [0]))?;
    wait_limit(&stage, 4);
    stage.finish()
}

#[test]
fn odd_endpoints_are_left_out_and_doubles_count_once() -> Result<()> {
    let hello = Function::new(NAMESPACE, "hello", IP).max_inflight(1);
    let stage = Stage::new(2, with_pods(&hello, [0]))?;
    let pods = [
        stage.serve(0, 1, Duration::from_millis(1))?,
        stage.serve(1, 1, Duration::from_millis(1))?,
    ];
    let mut odd = slice(&hello, [0, 1, 0, 1, 1]);
    let endpoints = odd["endpoints"].as_array_mut().context("a list")?;
    for addresses in [
        json!([]),
        json!(["no address"]),
        json!([""]),
        json!(["0.0.0.0"]),
        json!(["224.0.0.1"]),
    ] {
        endpoints.insert(0, json!({"addresses": addresses}));
    }
    stage.cluster().put(odd)?;
    stage.wait_members("hello", 0..2);
    ensure!(!stage.errors("hello")?.is_empty(), "odd endpoints are told");
    stage.under_load(frontend(IP), 4, || Ok(()))?;
    tests::kubernetes::assert_no_breach(&pods);
    stage.finish()
}

#[test]
fn thousands_of_endpoints_are_a_problem_of_their_own_service_only() -> Result<()> {
    let hello = Function::new(NAMESPACE, "hello", IP).max_inflight(1);
    let big = Function::new(NAMESPACE, "big", OTHER_IP).max_inflight(1);
    let objects = with_pods(&big, [0])
        .into_iter()
        .chain(with_pods(&hello, [1]));
    let stage = Stage::new(2, objects)?;
    let _pods = [
        stage.serve(0, 1, Duration::ZERO)?,
        stage.serve(1, 1, Duration::ZERO)?,
    ];
    stage.wait_members("big", [0]);
    for part in 0..5u32 {
        let pods: Vec<_> = (0..1000)
            .map(|pod| {
                big.pod(
                    part * 1000 + pod,
                    &format!("10.{}.{}.{}", 120 + part, pod / 250, pod % 250 + 1),
                    "node-2",
                )
            })
            .collect();
        stage
            .cluster()
            .put(big.slice(&format!("more-{part}"), &pods))?;
    }
    eventually(SOON, || -> Result<()> {
        let errors = stage.errors("big")?;
        let is_told = |error: &Value| {
            error["message"]
                .as_str()
                .is_some_and(|message| message.contains("5001"))
        };
        ensure!(errors.iter().any(is_told), "{errors:?}");
        Ok(())
    });
    assert_eq!(stage.call(frontend(IP)), Outcome::Served);
    for part in 0..5 {
        let name = big.slice_name(&format!("more-{part}"));
        stage
            .cluster()
            .delete(Kind::EndpointSlice, NAMESPACE, &name)?;
    }
    stage.wait_members("big", [0]);
    stage.wait_served(frontend(OTHER_IP));
    stage.finish()
}

/// Objects of which nothing can be made.
fn odd_objects() -> Vec<Value> {
    let mut portless = Function::new(NAMESPACE, "a-portless", "10.96.1.1").service();
    portless["spec"]["ports"] = json!([]);
    let mut external = Function::new(NAMESPACE, "a-external", "10.96.1.2").service();
    external["spec"] = json!({"type": "ExternalName", "externalName": "example.com"});
    let headless = Function::new(NAMESPACE, "a-headless", "")
        .headless()
        .service();
    let garbage = (0..20).fold(
        Function::new(NAMESPACE, "a-garbage", "10.96.1.3"),
        |function, number| {
            function.annotation(
                &format!("idlefirst.dev/x{number}"),
                &"{[%\u{1F980}".repeat(40),
            )
        },
    );
    let types = Function::new(NAMESPACE, "a-types", "10.96.1.4");
    let mut service = types.service();
    service["spec"] = json!("all of it");
    let mut deployment = types.deployment();
    deployment["spec"]["template"]["spec"]["containers"] = json!({"name": 1});
    let mut slice = types.slice("1", []);
    slice["metadata"]["name"] = "a-types".into();
    slice["endpoints"] = json!([1, "two", {"addresses": 3}]);
    vec![
        portless,
        external,
        headless,
        garbage.service(),
        service,
        deployment,
        slice,
    ]
}

fn wait_limit(stage: &Stage, limit: u32) {
    eventually_eq(SOON, Some(Value::from(limit)), || {
        let shown = stage.shown("hello").expect("the agent tells of services");
        shown.map(|shown| shown["max_inflight"].clone())
    });
}

/// Waits for an Event about an object whose note has this text.
fn wait_event(stage: &Stage, kind: &str, name: &str, text: &str) -> Result<Value> {
    let is_it = |event: &Value| {
        let about = [&event["regarding"], &event["involvedObject"]];
        let note = event["note"].as_str().or(event["message"].as_str());
        about
            .iter()
            .any(|about| about["kind"] == kind && about["name"] == name)
            && note.is_some_and(|note| note.contains(text))
    };
    Ok(eventually(SOON, || {
        let events = stage.cluster().list(Kind::Event);
        let found = events.iter().find(|event| is_it(event)).cloned();
        found.with_context(|| format!("no Event about {kind} {name} with {text:?} in {events:?}"))
    }))
}

fn frontend(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), 8080)
}
