//! Which leaders are to be published, and what is told of those that cannot be.

use super::*;
use crate::source::kubernetes::publish::Family;

/// A Service with a leader, whose Pods nobody can ask for.
fn led(name: &str) -> Value {
    annotated(service(name, IP), "strategy", "leader")
}

fn scene(names: &[&str]) -> Scene {
    let mut scene = Scene::new("");
    for name in names {
        scene.resolver.pods.insert(key(name), Pods::refused());
    }
    scene
}

fn is_published(scene: &Scene, name: &str) -> bool {
    scene.resolver.publication(&key(name)).is_some()
}

#[test]
fn without_a_leader_there_is_nothing_to_publish() {
    let mut scene = scene(&["hello"]);
    let plain = annotated(service("hello", IP), "publish-leader", "true");
    scene.put([plain]);
    scene.assert_problem("Service hello: its strategy is not leader");
    scene.put([annotated(led("hello"), "publish-leader", "true")]);
    assert!(is_published(&scene, "hello"));
    assert_eq!(scene.problems(), [""; 0]);
}

#[test]
fn a_name_that_no_label_can_hold_is_told() {
    let (fits, too_long) = ("a".repeat(56), "a".repeat(57));
    let mut scene = scene(&[&fits, &too_long]);
    scene.put([annotated(led(&fits), "publish-leader", "true")]);
    assert!(is_published(&scene, &fits));
    scene.remove("Service", &fits);
    scene.put([annotated(led(&too_long), "publish-leader", "true")]);
    assert!(!is_published(&scene, &too_long));
    assert!(scene.service(&too_long).is_some());
    scene.assert_problem("-leader, which is 64 bytes long");
}

#[test]
fn a_deployment_may_ask_for_it_and_its_service_has_the_last_word() {
    let below = |how| annotated(deployment("hello", json!([])), "publish-leader", how);
    let mut scene = scene(&["hello"]);
    scene.put([led("hello"), below("true")]);
    assert!(is_published(&scene, "hello"));
    scene.put([annotated(led("hello"), "publish-leader", "false")]);
    assert!(!is_published(&scene, "hello"));
    scene.put([led("hello"), below("yes")]);
    assert!(is_published(&scene, "hello"));
    scene.assert_problem("Deployment hello: it is neither true nor false");
    scene.remove("Deployment", "hello");
    assert!(!is_published(&scene, "hello"));
    assert_eq!(scene.problems(), [""; 0]);
}

#[test]
fn what_the_api_refuses_is_a_problem_of_its_service_while_it_lasts() {
    let mut scene = scene(&["hello"]);
    scene.put([annotated(led("hello"), "publish-leader", "true")]);
    let refused = || Refusals::from([(key("hello"), "no leases for you (403)".to_owned())]);
    scene.resolver.hear_refusals(refused());
    scene.look();
    scene.assert_problem("no leases for you (403)");
    assert!(is_published(&scene, "hello"), "it is tried again");
    scene.resolver.hear_refusals(refused());
    assert!(scene.resolver.store.is_settled());
    scene.resolver.hear_refusals(Refusals::new());
    scene.look();
    assert_eq!(scene.problems(), [""; 0]);
}

#[test]
fn the_pods_addresses_are_of_the_family_that_clients_dial() {
    let mut scene = scene(&["hello"]);
    for (ips, family) in [
        (json!(["fd00::10"]), Some(Family::V6)),
        (json!(["fd00::10", IP]), Some(Family::V4)),
        (json!([IP, "fd00::10"]), Some(Family::V4)),
    ] {
        let mut hello = annotated(led("hello"), "publish-leader", "true");
        hello["spec"]["clusterIP"] = ips[0].clone();
        hello["spec"]["clusterIPs"] = ips;
        scene.put([hello]);
        let publication = scene.resolver.publication(&key("hello"));
        assert_eq!(publication.expect("it is published").family, family);
    }
}
