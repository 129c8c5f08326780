//! `source: kubernetes`: Services of all shapes: of both families, with several ports, with the
//! same cluster IP, without any.

#![forbid(unsafe_code)]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    cluster::{Kind, objects::Function},
    crowd::pod_address,
    kubernetes::{NAMESPACE, NODE, Outcome, SOON, Stage, assert_no_breach, with_pods},
    wait::{eventually, eventually_eq},
};

const IP: &str = "10.96.0.10";
const IP6: &str = "fd00:96::10";

#[test]
fn clients_of_both_families_share_the_slots_of_a_pod() -> Result<()> {
    let hello = Function::new(NAMESPACE, "hello", IP)
        .and_cluster_ip(IP6)
        .annotation("idlefirst.dev/queue.size", "0")
        .annotation("idlefirst.dev/queue.refuse", "kernel")
        .max_inflight(1);
    let pods: Vec<_> = (0..2)
        .map(|number: u8| {
            let ip = pod_address(number).ip().to_string();
            let pod = hello.pod(number.into(), &ip, NODE);
            pod.and_ip(&format!("fd00:111::1:{}", number + 1))
        })
        .collect();
    let slices = [hello.slice("4", &pods), hello.slice6("6", &pods)];
    let stage = Stage::new(2, hello.objects().into_iter().chain(slices))?;
    let servers = [
        stage.serve(0, 1, Duration::ZERO)?,
        stage.serve(1, 1, Duration::ZERO)?,
    ];
    stage.wait_members("hello", 0..2);
    for ip in [IP, IP6] {
        stage.wait_served(at(ip, 8080));
    }
    eventually_eq(SOON, 0, || {
        stage.agent().inflight().expect("it lists backends")
    });
    let held = (stage.dial(at(IP6, 8080))?, stage.dial(at(IP, 8080))?);
    assert_eq!(held.0.peer_addr()?, at(IP6, 8080));
    for ip in [IP, IP6] {
        assert_eq!(stage.call(at(ip, 8080)), Outcome::Refused, "{ip}");
    }
    drop(held);
    assert_no_breach(&servers);
    stage.finish()
}

#[test]
fn each_port_is_a_service_of_its_own() -> Result<()> {
    let hello = Function::new(NAMESPACE, "hello", IP)
        .port("admin", 9000, 9001)
        .and_port("http", 80, 8080);
    let stage = Stage::new(1, with_pods(&hello, [0]))?;
    let _pod = stage.serve(0, 0, Duration::ZERO)?;
    stage.wait_members("hello", [0]);
    stage.wait_served(at(IP, 80));
    let frontends = |name: &str| -> Result<Value> {
        let shown = stage
            .shown(name)?
            .with_context(|| format!("{name} is not there"))?;
        Ok(shown["frontends"].clone())
    };
    assert_eq!(frontends("hello")?, serde_json::json!(["10.96.0.10:80"]));
    assert_eq!(
        frontends("hello:admin")?,
        serde_json::json!(["10.96.0.10:9000"])
    );
    let members = stage.members("hello:admin")?.context("it is there")?;
    assert_eq!(Vec::from_iter(members), ["10.111.1.1:9001"]);

    let fewer = hello.port("http", 80, 8080);
    stage.cluster().put_all(with_pods(&fewer, [0]))?;
    stage.wait_no_service("hello:admin");
    stage.wait_served(at(IP, 80));
    stage.wait_outcome(at(IP, 9000), &Outcome::Unsteered);
    stage.finish()
}

#[test]
fn a_cluster_ip_that_changes_hands_is_steered_to_whoever_has_it() -> Result<()> {
    let first = Function::new(NAMESPACE, "first", IP);
    let second = Function::new(NAMESPACE, "second", IP);
    let stage = Stage::new(2, with_pods(&first, [0]))?;
    let pods = [
        stage.serve(0, 0, Duration::ZERO)?,
        stage.serve(1, 0, Duration::ZERO)?,
    ];
    stage.wait_served(at(IP, 8080));
    stage.cluster().put_all(with_pods(&second, [1]))?;
    eventually(SOON, || -> Result<()> {
        let errors = stage.all_errors()?;
        ensure!(
            errors.iter().any(|error| error["name"] == "second"),
            "{errors:?}"
        );
        Ok(())
    });
    // It lets go by getting another, and then the second gets it.
    let moved = Function::new(NAMESPACE, "first", "10.96.0.11");
    stage.cluster().put(moved.service())?;
    stage.wait_served(at("10.96.0.11", 8080));
    stage.wait_members("second", [1]);
    stage.wait_served(at(IP, 8080));
    assert!(pods[1].seen().served > 0);
    // Or by going.
    stage
        .cluster()
        .put(Function::new(NAMESPACE, "second", "10.96.0.11").service())?;
    stage.cluster().delete(Kind::Service, NAMESPACE, "first")?;
    stage.wait_no_service("first");
    stage.wait_served(at("10.96.0.11", 8080));
    stage.finish()
}

#[test]
fn a_headless_function_is_balanced_if_its_pods_are_intercepted() -> Result<()> {
    let hello = Function::new(NAMESPACE, "hello", "").headless();
    let stage = Stage::new(1, with_pods(&hello, [0]))?;
    assert_eq!(stage.members("hello")?, None);
    let intercepted = hello.annotation("idlefirst.dev/intercept", "pods");
    stage.cluster().put(intercepted.service())?;
    stage.wait_members("hello", [0]);
    eventually_eq(SOON, Vec::<Value>::new(), || {
        stage
            .all_errors()
            .expect("the agent tells of its configuration")
    });
    stage.finish()
}

fn at(ip: &str, port: u16) -> SocketAddr {
    let ip: IpAddr = ip.parse().expect("an address");
    SocketAddr::new(ip, port)
}
