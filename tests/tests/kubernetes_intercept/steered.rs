//! Who is steered from the own addresses of pods, for how long, and to whom.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{
    cgroup::Cgroup,
    cluster::{Kind, objects::Function},
    crowd::{self, pod_address},
    function::Health,
    http::Http,
    kubepods::{Class, Driver},
    kubernetes::{NAMESPACE, Outcome, SOON, slice, with_pods},
    wait::{eventually, eventually_eq},
};

use crate::node::{Node, PODS, Reached, addresses, cluster_ip, hello, refusing};

const INTERCEPT: &str = "idlefirst.dev/intercept";

#[test]
fn clients_that_dial_pods_share_the_slots_with_the_cgroupfs_driver() -> Result<()> {
    clients_share_the_slots(Driver::Cgroupfs, &hello())
}

#[test]
fn clients_that_dial_pods_share_the_slots_with_the_systemd_driver() -> Result<()> {
    clients_share_the_slots(Driver::Systemd, &hello())
}

#[test]
fn clients_of_a_headless_service_share_the_slots_with_the_cgroupfs_driver() -> Result<()> {
    clients_share_the_slots(Driver::Cgroupfs, &hello().headless())
}

#[test]
fn clients_of_a_headless_service_share_the_slots_with_the_systemd_driver() -> Result<()> {
    clients_share_the_slots(Driver::Systemd, &hello().headless())
}

fn clients_share_the_slots(driver: Driver, function: &Function) -> Result<()> {
    let has_cluster_ip = function.service()["spec"]["clusterIP"] != "None";
    let node = Node::new(driver, with_pods(&refusing(function.clone()), 0..PODS))?;
    node.wait_frontends(has_cluster_ip, 0..PODS);
    let classes = [Class::Guaranteed, Class::Burstable, Class::BestEffort];
    let clients = (0..)
        .zip(classes)
        .map(|(number, class)| node.client(number, class))
        .collect::<Result<Vec<_>>>()?;

    // Each dials one and the same pod, and gets one of its own.
    for client in &clients {
        let held = node.fill(&client.container, &[pod_address(0)])?;
        for stream in &held {
            assert_eq!(stream.peer_addr()?, pod_address(0), "whom it dialled");
        }
        for address in addresses() {
            let outcome = node.call(&client.container, address);
            assert_eq!(outcome, Outcome::Refused, "{address}: no slot is free");
        }
        assert_eq!(node.inflight(), u64::from(PODS));
        drop(held);
    }
    node.wait_inflight(0);

    // Now who finds no slot waits.
    node.stage.cluster().put(function.service())?;
    wait_setting(&node, "/queue/size", 10);
    let dialled = match has_cluster_ip {
        true => cluster_ip(),
        false => pod_address(1),
    };
    let [first, second, third] = [0, 1, 2].map(|at| &clients[at].container);
    let stage = &node.stage;
    let load = |from: &Cgroup, to, change: &mut dyn FnMut() -> Result<_>| {
        let place = node.place(from);
        let (inner, outcomes) = stage.under_load_from(place, to, 3, change)?;
        ensure!(outcomes.keys().all(is_due), "{to}: {outcomes:?}");
        ensure!(outcomes[&Outcome::Served] > 0, "{to}: {outcomes:?}");
        Ok(inner)
    };
    load(first, pod_address(0), &mut || {
        load(second, dialled, &mut || {
            load(third, mapped(pod_address(2)), &mut || Ok(()))
        })
    })?;
    let served = node.served();
    let (pods, elsewhere) = served.split_at(PODS.into());
    assert!(pods.iter().all(|served| *served > 0), "{served:?}");
    assert_eq!(elsewhere, [0], "everybody was steered");
    node.finish()
}

#[test]
fn a_headless_service_is_steered_from_the_pods_that_it_has() -> Result<()> {
    let hello = hello().headless();
    let node = Node::new(Driver::Systemd, with_pods(&hello, [0]))?;
    let client = node.client(0, Class::BestEffort)?;
    let from = &client.container;
    for pods in [0..1, 0..3, 2..3, 1..3] {
        node.stage.cluster().put(slice(&hello, pods.clone()))?;
        node.wait_frontends(false, pods.clone());
        for pod in 0..PODS {
            let reached = node.reaches(from, pod_address(pod))?;
            match pods.contains(&pod) {
                true => assert!(
                    matches!(reached, Reached::Pod(pod) if pods.contains(&pod)),
                    "{pod} of {pods:?}: {reached:?}"
                ),
                false => assert_eq!(reached, Reached::Pod(pod), "it is none of {pods:?}"),
            }
        }
        node.wait_inflight(0);
    }
    node.stage.cluster().put(slice(&hello, []))?;
    node.wait_frontends(false, []);
    assert_eq!(node.reaches(from, pod_address(1))?, Reached::Pod(1));
    node.finish()
}

#[test]
fn nobody_is_refused_while_pods_join_and_leave() -> Result<()> {
    let hello = refusing(hello().headless().max_inflight(0));
    let node = Node::new(Driver::Cgroupfs, with_pods(&hello, [0]))?;
    node.wait_frontends(false, [0]);
    let client = node.client(0, Class::Burstable)?;
    let place = node.place(&client.container);
    let changes = || -> Result<()> {
        for _ in 0..50 {
            node.stage.cluster().put(slice(&hello, []))?;
            node.wait_frontends(false, []);
            node.stage.cluster().put(slice(&hello, [0]))?;
            node.wait_frontends(false, [0]);
        }
        Ok(())
    };
    let ((), outcomes) = node
        .stage
        .under_load_from(place, pod_address(0), 1, changes)?;
    let outcomes = Vec::from_iter(outcomes.keys());
    assert_eq!(outcomes, [&Outcome::Served]);
    node.finish()
}

#[test]
fn a_kubelet_reaches_each_pod_and_takes_no_slot() -> Result<()> {
    // No probes but the kubelet's own are counted below.
    let hello = hello().annotation("idlefirst.dev/health.probe", "none");
    let node = Node::new(
        Driver::Systemd,
        with_pods(&refusing(hello.clone()), 0..PODS),
    )?;
    node.wait_frontends(true, 0..PODS);
    let client = node.client(0, Class::Guaranteed)?;
    let held = node.fill(&client.container, &[cluster_ip()])?;
    node.assert_left_alone(&node.system)?;
    let outcome = node.call(&node.system, cluster_ip());
    assert_eq!(outcome, Outcome::Refused, "a cluster IP is for everyone");
    let standing = (0..PODS)
        .map(|pod| node.dial(&node.system, pod_address(pod)))
        .collect::<std::io::Result<Vec<_>>>()?;
    drop(held);
    // What the kubelet holds is nobody's slot.
    drop(node.fill(&client.container, &[pod_address(0)])?);
    for (pod, stream) in (0..).zip(&standing) {
        assert_eq!(stream.peer_addr()?, pod_address(pod));
    }
    drop(standing);

    node.stage.cluster().put(hello.service())?;
    wait_setting(&node, "/queue/size", 10);
    let probes = || Vec::from_iter(node.servers.iter().map(|server| server.probes()));
    assert_eq!(probes(), [0; PODS as usize]);
    let place = node.place(&client.container);
    let probing = || -> Result<()> {
        for round in 1..=20 {
            for pod in 0..PODS {
                probe(&node, &node.system, pod)?;
                assert_eq!(probes()[usize::from(pod)], round, "pod {pod} itself");
            }
        }
        Ok(())
    };
    let ((), outcomes) = node
        .stage
        .under_load_from(place, pod_address(1), 6, probing)?;
    assert!(outcomes.keys().all(is_due), "{outcomes:?}");
    node.finish()
}

#[test]
fn an_agent_in_a_pod_probes_each_pod_itself() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs, [])?;
    // As a DaemonSet's is.
    let own = node.client(0, Class::Burstable)?;
    let procs = own.container.path().join("cgroup.procs");
    fs::write(procs, node.stage.agent().pid().to_string())?;
    let hello = refusing(hello())
        .annotation("idlefirst.dev/health.interval", "50ms")
        .annotation("idlefirst.dev/health.failures", "1");
    node.servers[0].set_health(Health::Sick);
    node.stage.cluster().put_all(with_pods(&hello, 0..PODS))?;
    wait_states(&node, ["unhealthy", "idle", "idle"]);
    let client = node.client(1, Class::Burstable)?;
    let held = [0, 0]
        .map(|pod| node.dial(&client.container, pod_address(pod)))
        .into_iter()
        .collect::<std::io::Result<Vec<_>>>()?;
    wait_states(&node, ["unhealthy", "full", "full"]);
    let outcome = node.call(&client.container, pod_address(0));
    assert_eq!(outcome, Outcome::Refused);
    // No slot is free but for the probed one's, if it is well.
    node.servers[0].set_health(Health::Healthy);
    wait_states(&node, ["idle", "full", "full"]);
    node.servers[1].set_health(Health::Sick);
    wait_states(&node, ["idle", "unhealthy", "full"]);
    drop(held);
    node.finish()
}

#[test]
fn who_dials_a_pod_waits_for_a_slot_at_an_agent_that_is_in_a_pod() -> Result<()> {
    let node = Node::new(Driver::Systemd, [])?;
    let own = node.client(0, Class::Burstable)?;
    let procs = own.container.path().join("cgroup.procs");
    fs::write(procs, node.stage.agent().pid().to_string())?;
    for admission in ["connection", "request"] {
        let hello = hello()
            .headless()
            .annotation("idlefirst.dev/admission", admission)
            .annotation("idlefirst.dev/queue.timeout", "10s");
        node.stage.cluster().put_all(with_pods(&hello, 0..PODS))?;
        wait_setting(&node, "/admission", admission);
        node.wait_frontends(false, 0..PODS);
        let client = node.client(1, Class::Guaranteed)?;
        let held = node.dial(&client.container, pod_address(2))?;
        assert_eq!(held.peer_addr()?, pod_address(2));
        drop(held);
        let place = node.place(&client.container);
        let ((), outcomes) = node
            .stage
            .under_load_from(place, pod_address(2), 8, || Ok(()))?;
        let served = Vec::from_iter(outcomes.keys());
        assert_eq!(served, [&Outcome::Served], "{admission}: {outcomes:?}");
        node.wait_inflight(0);
    }
    node.finish()
}

#[test]
fn what_is_no_longer_intercepted_is_left_alone_and_nothing_stays() -> Result<()> {
    let hello = refusing(hello());
    let node = Node::new(Driver::Cgroupfs, with_pods(&hello, 0..PODS))?;
    let client = node.client(0, Class::BestEffort)?;
    let from = &client.container;
    for _ in 0..3 {
        node.wait_frontends(true, 0..PODS);
        let held = node.fill(from, &[pod_address(0), cluster_ip()])?;
        node.assert_steered(from);
        let none = json!({"metadata": {"annotations": {INTERCEPT: null}}});
        let cluster = node.stage.cluster();
        cluster.merge(Kind::Service, NAMESPACE, "hello", none)?;
        node.wait_frontends(true, []);
        node.assert_left_alone(from)?;
        assert_eq!(node.call(from, cluster_ip()), Outcome::Refused);
        for (stream, dialled) in held.iter().zip([pod_address(0), cluster_ip()]) {
            assert_eq!(stream.peer_addr()?, dialled, "what stands is not touched");
        }
        drop(held);
        node.wait_inflight(0);
        cluster.put(hello.service())?;
    }
    node.wait_frontends(true, 0..PODS);
    let headless = hello.headless();
    node.stage.cluster().put(headless.service())?;
    node.wait_frontends(false, 0..PODS);
    let held = node.fill(from, &[pod_address(1)])?;
    let none = json!({"metadata": {"annotations": null}});
    let cluster = node.stage.cluster();
    cluster.merge(Kind::Service, NAMESPACE, "hello", none)?;
    node.stage.wait_no_service("hello");
    node.wait_frontends(false, []);
    for pod in 0..PODS {
        assert_eq!(node.reaches(from, pod_address(pod))?, Reached::Pod(pod));
    }
    assert_eq!(node.reaches(from, cluster_ip())?, Reached::Elsewhere);
    drop(held);
    node.finish()
}

#[test]
fn a_bad_value_is_told_and_who_was_intercepted_still_is() -> Result<()> {
    for function in [hello(), hello().headless()] {
        let has_cluster_ip = function.service()["spec"]["clusterIP"] != "None";
        let hello = refusing(function);
        let node = Node::new(Driver::Cgroupfs, with_pods(&hello, 0..PODS))?;
        let client = node.client(0, Class::Burstable)?;
        node.wait_frontends(has_cluster_ip, 0..PODS);
        let bad = hello.clone().annotation(INTERCEPT, "everything");
        node.stage.cluster().put(bad.service())?;
        eventually(SOON, || -> Result<()> {
            let errors = node.stage.errors("hello")?;
            let [error] = &*errors else {
                anyhow::bail!("{errors:?}");
            };
            ensure!(error["annotation"] == INTERCEPT, "{error}");
            Ok(())
        });
        // The slice's change is in force, so the Service's is what it will be.
        node.stage.cluster().put(slice(&hello, 0..2))?;
        node.wait_frontends(has_cluster_ip, 0..2);
        node.stage.cluster().put(slice(&hello, 0..PODS))?;
        node.wait_frontends(has_cluster_ip, 0..PODS);
        let held = node.fill(&client.container, &[pod_address(2)])?;
        drop(held);
        node.stage.cluster().put(hello.service())?;
        eventually_eq(SOON, Vec::<Value>::new(), || {
            node.stage.all_errors().expect("the agent tells of errors")
        });
        node.finish()?;
    }
    Ok(())
}

/// Whether this may become of a call to a service whose queue is as by default.
fn is_due(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Served => true,
        Outcome::Answered(503, text) => text.contains("queue-"),
        _ => false,
    }
}

/// Asks a pod for its health.
fn probe(node: &Node, from: &Cgroup, pod: u8) -> Result<()> {
    node.place(from).run(|| {
        let stream = crowd::dial(pod_address(pod))?;
        let answer = Http::new(stream).get("/_/health")?;
        ensure!(answer.status() == 200, "pod {pod}: {}", answer.status());
        Ok(())
    })
}

fn wait_states(node: &Node, expected: [&str; PODS as usize]) {
    eventually_eq(SOON, expected.map(str::to_owned).to_vec(), || node.states());
}

/// Waits until a setting of the service is so.
fn wait_setting(node: &Node, setting: &str, expected: impl Into<Value>) {
    eventually_eq(SOON, Some(expected.into()), || {
        let shown = node.stage.shown("hello");
        let shown = shown.expect("the agent tells of services")?;
        Some(shown["settings"].pointer(setting)?["value"].clone())
    });
}

/// As an IPv6 client dials it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}
