//! Pods with the label `idlefirst.dev/bypass`, which are never steered.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use tests::{
    cgroup::Cgroup,
    cluster::{Changed, Kind, objects::Pod},
    kubepods::{Class, Driver},
    kubernetes::{self, NAMESPACE, NODE, Outcome, SOON, Stage, with_pods},
    place::Place,
    wait::{eventually, eventually_eq, within},
};

use crate::node::{Node, PODS, Reached, addresses, client_pod, cluster_ip, hello, refusing};

const BYPASS: &str = "idlefirst.dev/bypass";
/// From a change of the label to connections that go by it.
const IN_TIME: Duration = Duration::from_secs(1);

#[test]
fn a_guaranteed_pod_with_the_label_is_left_alone_with_the_cgroupfs_driver() -> Result<()> {
    the_label_comes_and_goes(Driver::Cgroupfs, Class::Guaranteed)
}

#[test]
fn a_burstable_pod_with_the_label_is_left_alone_with_the_cgroupfs_driver() -> Result<()> {
    the_label_comes_and_goes(Driver::Cgroupfs, Class::Burstable)
}

#[test]
fn a_burstable_pod_with_the_label_is_left_alone_with_the_systemd_driver() -> Result<()> {
    the_label_comes_and_goes(Driver::Systemd, Class::Burstable)
}

#[test]
fn a_best_effort_pod_with_the_label_is_left_alone_with_the_systemd_driver() -> Result<()> {
    the_label_comes_and_goes(Driver::Systemd, Class::BestEffort)
}

fn the_label_comes_and_goes(driver: Driver, class: Class) -> Result<()> {
    let node = Node::new(driver, with_pods(&refusing(hello()), 0..PODS))?;
    node.wait_frontends(true, 0..PODS);
    let (client, other) = (node.client(0, class)?, node.client(1, class)?);
    let cluster = node.stage.cluster();
    for each in [&client, &other] {
        cluster.put(each.pod.object())?;
    }
    let held = node.fill(&other.container, &[cluster_ip()])?;
    let without: [&dyn Fn() -> Result<Changed>; 3] = [
        &|| cluster.put(client.pod.object()),
        &|| cluster.put(client.pod.clone().label(BYPASS, "false").object()),
        &|| cluster.delete(Kind::Pod, NAMESPACE, client.pod.name()),
    ];
    for (restart, without) in (2..).zip(without) {
        node.assert_steered(&client.container);
        let with = cluster.put(bypassing(&client.pod).object())?;
        assert_in_time(&node, &client.container, &with, &Outcome::Served)?;
        assert_bypasses(&node, &client.container)?;
        // A container that is started again, or a further one: there is no waiting.
        let container = client.cgroup.container(restart)?;
        assert_bypasses(&node, &container)?;
        node.assert_steered(&other.container);

        let without = without()?;
        assert_in_time(&node, &client.container, &without, &Outcome::Refused)?;
        node.assert_steered(&container);
    }
    node.ensure_bypassing(0)?;
    drop(held);
    node.finish()
}

#[test]
fn a_pod_whose_cgroup_comes_later_or_comes_anew_is_left_alone() -> Result<()> {
    let node = Node::new(Driver::Systemd, with_pods(&refusing(hello()), 0..PODS))?;
    node.wait_frontends(true, 0..PODS);
    let other = node.client(0, Class::Burstable)?;
    let held = node.fill(&other.container, &[cluster_ip()])?;
    // The scheduler has chosen the node, the kubelet has not begun.
    let pod = bypassing(&client_pod(1, NODE));
    let known = node.stage.cluster().put(pod.object())?;
    known.written.wait(SOON)?;
    for class in [Class::BestEffort, Class::BestEffort, Class::Guaranteed] {
        let cgroup = node.pod_cgroup(&pod, class)?;
        let container = cgroup.container(1)?;
        wait_outcome(&node, &container, &Outcome::Served);
        assert_bypasses(&node, &container)?;
        node.ensure_bypassing(1)?;
    }
    eventually(SOON, || node.ensure_bypassing(0));
    drop(held);
    node.finish()
}

#[test]
fn pods_of_other_nodes_do_not_count() -> Result<()> {
    let node = Node::new(Driver::Cgroupfs, with_pods(&refusing(hello()), 0..PODS))?;
    node.wait_frontends(true, 0..PODS);
    let (client, foreign) = (
        node.client(0, Class::Burstable)?,
        client_pod(1, "node-of-others"),
    );
    // It cannot be here. If it is all the same, it is not the API's word that counts.
    let cgroup = node.pod_cgroup(&foreign, Class::Burstable)?;
    let container = cgroup.container(1)?;
    let held = node.fill(&container, &[cluster_ip()])?;
    let cluster = node.stage.cluster();
    cluster.put(bypassing(&foreign).object())?;
    let last = cluster.put(bypassing(&client.pod).object())?;
    assert_in_time(&node, &client.container, &last, &Outcome::Served)?;
    node.assert_steered(&container);
    node.ensure_bypassing(1)?;
    drop(held);
    node.finish()
}

#[test]
fn whatever_happens_to_the_api_nobody_is_steered_who_should_not_be() -> Result<()> {
    let node = Node::new(Driver::Systemd, with_pods(&refusing(hello()), 0..PODS))?;
    node.wait_frontends(true, 0..PODS);
    let clients = [
        node.client(0, Class::Burstable)?,
        node.client(1, Class::BestEffort)?,
    ];
    let [client, marker] = &clients;
    let stage = &node.stage;
    let cluster = stage.cluster();
    cluster.put(bypassing(&client.pod).object())?;
    eventually(SOON, || node.ensure_bypassing(1));
    let before = node.served();
    let faults = cluster.faults();
    let troubles: [&dyn Fn() -> Result<()>; 4] = [
        &|| {
            faults.break_streams([Kind::Pod]);
            Ok(())
        },
        &|| {
            faults.expire_streams([Kind::Pod]);
            Ok(())
        },
        &|| {
            faults.gone_as_status(true);
            faults.expire_streams(Kind::ALL);
            Ok(())
        },
        &|| {
            faults.begin_outage()?;
            faults.end_outage()
        },
    ];
    let place = node.place(&client.container);
    let ((), outcomes) = stage.under_load_from(place, cluster_ip(), 2, || {
        for trouble in troubles {
            trouble()?;
            // What comes after it is heard, so it is over.
            cluster.put(bypassing(&marker.pod).object())?;
            eventually(SOON, || node.ensure_bypassing(2));
            cluster.delete(Kind::Pod, NAMESPACE, marker.pod.name())?;
            eventually(SOON, || node.ensure_bypassing(1));
        }
        Ok(())
    })?;
    let calls = outcomes[&Outcome::Served];
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    let mut expected = before;
    expected[usize::from(PODS)] += calls;
    assert_eq!(node.served(), expected, "no pod served any call");
    node.finish()
}

#[test]
fn nobody_is_steered_who_should_not_be_when_the_agent_begins() -> Result<()> {
    let client = bypassing(&client_pod(0, NODE));
    let objects = with_pods(&hello(), 0..PODS).into_iter();
    let mut node = Node::new(Driver::Systemd, objects.chain([client.object()]))?;
    let cgroup = node.pod_cgroup(&client, Class::Burstable)?;
    let container = cgroup.container(1)?;
    eventually(SOON, || node.ensure_bypassing(1));
    let netns = node.stage.crowd().netns.share()?;
    let faults = node.stage.cluster().faults();
    faults.slow_answers([Kind::Pod], Duration::from_millis(500));
    let before = node.served();
    let ends = AtomicBool::new(false);
    let calls = thread::scope(|scope| -> Result<u64> {
        let calling = scope.spawn(|| {
            Place::new(&netns, &container).run(|| {
                let mut calls = 0;
                while !ends.load(SeqCst) {
                    let outcome = kubernetes::call(cluster_ip());
                    ensure!(outcome == Outcome::Served, "{outcome:?}");
                    calls += 1;
                }
                Ok(calls)
            })
        });
        let restarted = (0..3).try_for_each(|_| {
            node.stage.agent_mut().terminate()?;
            node.stage.agent_mut().restart()?;
            within(SOON, || node.ensure_bypassing(1))?;
            Ok(())
        });
        ends.store(true, SeqCst);
        let calls = calling.join().expect("the caller does not panic");
        restarted.and(calls)
    })?;
    node.wait_frontends(true, 0..PODS);
    let mut expected = before;
    expected[usize::from(PODS)] += calls;
    assert_eq!(node.served(), expected, "no pod served any call");
    node.finish()
}

#[test]
fn an_agent_that_is_not_told_of_pods_steers_all_the_same() -> Result<()> {
    let mut stage = Stage::begin(1, with_pods(&hello(), [0]), |cluster| {
        cluster.faults().forbid([Kind::Pod], true);
        Ok(())
    })?;
    stage.agent_mut().wait_ready()?;
    let _pod = stage.serve(0, 1, Duration::ZERO)?;
    stage.wait_served(cluster_ip());
    stage.finish()
}

fn bypassing(pod: &Pod) -> Pod {
    pod.clone().label(BYPASS, "true")
}

/// Checks that whatever a client dials is what it reaches, although no slot is free.
fn assert_bypasses(node: &Node, from: &Cgroup) -> Result<()> {
    node.assert_left_alone(from)?;
    assert_eq!(node.reaches(from, cluster_ip())?, Reached::Elsewhere);
    for address in addresses() {
        assert_eq!(node.dial(from, address)?.peer_addr()?, address);
    }
    Ok(())
}

/// Waits until this becomes of calls to the cluster IP, and checks that it did not take long.
fn assert_in_time(node: &Node, from: &Cgroup, changed: &Changed, expected: &Outcome) -> Result<()> {
    let written = changed.written.wait(SOON)?;
    wait_outcome(node, from, expected);
    let delay = written.at.elapsed();
    ensure!(delay <= IN_TIME, "it took {delay:?}");
    Ok(())
}

fn wait_outcome(node: &Node, from: &Cgroup, expected: &Outcome) {
    eventually_eq(SOON, expected.clone(), || node.call(from, cluster_ip()));
}
