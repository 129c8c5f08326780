//! `/v1/connections`: what is steered and alive, and nothing else.

#![forbid(unsafe_code)]

use std::net::Shutdown;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use rustix::net::connect_unspec;
use serde_json::Value;
use socket2::Domain;
use tests::{
    scene::{FRONTEND_V6, SOON, Scene, SceneOptions, errno, mapped},
    wait::{eventually, eventually_eq},
};

const NONE: [Value; 0] = [];

#[test]
fn a_connection_is_listed_until_it_is_closed() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    assert_eq!(scene.connections(), NONE);
    let client = scene.dial()?;
    let row = only(&scene)?;
    assert_eq!(row["client"], client.local_addr()?.to_string());
    assert_eq!(row["frontend"], scene.frontend().to_string());
    assert_eq!(row["backend"], scene.pod(0).to_string());
    assert_eq!(row["service"], "default/hello");
    assert_eq!(row["holds_slot"], true);
    drop(client);
    scene.wait_forgotten();
    scene.finish()
}

#[test]
fn a_closed_one_is_not_listed_though_the_pod_is_silent() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let client = scene.dial()?;
    let pod = &scene.topology().pods[0].netns;
    pod.ip_batch("route add blackhole 10.111.2.0/24\n")?;
    drop(client);
    // The kernel goes on sending the FIN for minutes.
    assert_eq!(scene.connections(), NONE);
    pod.ip_batch("route del blackhole 10.111.2.0/24\n")?;
    scene.finish()
}

#[test]
fn its_age_grows_from_nothing() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let begun = std::time::Instant::now();
    let client = scene.dial()?;
    let age_ms = |scene: &Scene| -> Result<u128> {
        let age_ms = only(scene)?["age_ms"].as_u64();
        Ok(age_ms.context("an age is a number")?.into())
    };
    // One scheduler tick more, at most: that is how coarse the kernel's clock is.
    let tick_ms = 10;
    let first = age_ms(&scene)?;
    assert!(first <= begun.elapsed().as_millis() + tick_ms, "{first} ms");
    eventually(SOON, || {
        let age = age_ms(&scene)?;
        ensure!(age >= first + 50, "{age} ms");
        Ok(())
    });
    assert!(age_ms(&scene)? <= begun.elapsed().as_millis() + tick_ms);
    drop(client);
    scene.finish()
}

#[test]
fn each_is_listed_by_its_own_client_and_pod() -> Result<()> {
    let scene = Scene::new(3, 2)?;
    let mut held = Vec::new();
    for _ in 0..6 {
        let client = scene.dial()?;
        let (pod, end) = scene.accept(&client)?;
        held.push((client, pod, end));
    }
    let mut expected = Vec::new();
    for (client, pod, _) in &held {
        expected.push((
            client.local_addr()?.to_string(),
            scene.pod(*pod).to_string(),
        ));
    }
    // Those of one scheduler tick are in any order.
    expected.sort();
    assert_eq!(listed(&scene), expected);

    for _ in 0..6 {
        let (client, pod, _) = held.swap_remove(held.len() / 2);
        let gone = (client.local_addr()?.to_string(), scene.pod(pod).to_string());
        drop(client);
        expected.retain(|row| *row != gone);
        eventually_eq(SOON, expected.clone(), || listed(&scene));
    }
    scene.finish()
}

#[test]
fn a_half_closed_one_is_listed_without_its_slot() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let (client, pod) = scene.connection()?;
    pod.shutdown(Shutdown::Write)?;
    eventually(SOON, || {
        let row = only(&scene)?;
        ensure!(row["holds_slot"] == false, "{row}");
        Ok(())
    });
    drop(client);
    scene.finish()
}

#[test]
fn one_that_the_kernel_refused_is_not_listed() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let held = scene.dial()?;
    let refused = scene.socket(Domain::IPV4)?;
    let failed = errno(refused.connect(&scene.frontend().into()));
    assert_eq!(failed, Errno::ECONNREFUSED);
    assert_eq!(only(&scene)?["client"], held.local_addr()?.to_string());
    drop((held, refused));
    scene.finish()
}

#[test]
fn one_that_is_dissolved_is_not_listed_while_its_socket_lives() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let socket = scene.socket(Domain::IPV4)?;
    socket.connect(&scene.frontend().into())?;
    only(&scene)?;
    connect_unspec(&socket)?;
    assert_eq!(scene.connections(), NONE);
    drop(socket);
    scene.finish()
}

#[test]
fn every_form_of_address_is_written_as_people_write_it() -> Result<()> {
    let scene = Scene::new(1, 2)?;
    let plain = scene.dial()?;
    let six = scene.socket(Domain::IPV6)?;
    six.connect(&mapped(scene.frontend()).into())?;
    let rows = scene.connections();
    ensure!(rows.len() == 2, "{rows:?}");
    for row in &rows {
        assert_eq!(row["frontend"], scene.frontend().to_string());
        assert_eq!(row["backend"], scene.pod(0).to_string());
        let client = row["client"].as_str().context("a client is text")?;
        ensure!(client.starts_with("10.111.2.1:"), "{row}");
    }
    drop((plain, six));
    scene.finish()?;

    let options = SceneOptions {
        frontend: FRONTEND_V6,
        ..SceneOptions::default()
    };
    let scene = options.start()?;
    let client = scene.dial()?;
    let row = only(&scene)?;
    assert_eq!(row["client"], client.local_addr()?.to_string());
    assert_eq!(row["frontend"], FRONTEND_V6.to_string());
    assert_eq!(row["backend"], scene.pod(0).to_string());
    drop(client);
    scene.finish()
}

#[test]
fn they_can_be_listed_by_service() -> Result<()> {
    let scene = Scene::new(1, 2)?;
    let hello = scene.service();
    let mut other = hello.clone();
    other.name = "other".to_owned();
    other.frontends = vec!["10.96.0.11:80".to_owned()];
    scene.agent().reload(&[hello, other])?;
    let client = scene.dial()?;
    let of = |service: &str| -> Result<Value> {
        let path = format!("/v1/connections?service={service}");
        let listed = scene.agent().admin().get_json(&path)?;
        Ok(listed["total"].clone())
    };
    assert_eq!(of("default/hello")?, 1);
    assert_eq!(of("default/other")?, 0);
    let unknown = scene
        .agent()
        .admin()
        .get("/v1/connections?service=nobody")?;
    assert_eq!(unknown.status, 404);
    drop(client);
    scene.finish()
}

fn only(scene: &Scene) -> Result<Value> {
    let mut rows = scene.connections();
    ensure!(rows.len() == 1, "one row expected: {rows:?}");
    Ok(rows.remove(0))
}

fn listed(scene: &Scene) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = scene.connections();
    let rows = rows
        .iter()
        .map(|row| (text(&row["client"]), text(&row["backend"])));
    let mut rows: Vec<_> = rows.collect();
    rows.sort();
    rows
}
