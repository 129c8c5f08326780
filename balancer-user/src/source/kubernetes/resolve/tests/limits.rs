//! Where `max_inflight` comes from.

use super::*;

fn from_config_map() -> Value {
    json!([{
        "name": "max_inflight",
        "valueFrom": {"configMapKeyRef": {"name": "limits", "key": "hello"}},
    }])
}

fn holds(value: &str) -> ConfigMap {
    ConfigMap::Holds([("hello".to_owned(), value.to_owned())].into())
}

#[test]
fn the_nearest_source_wins() {
    let mut scene = Scene::new("defaults: {max_inflight: 9}\n");
    let plain = service("hello", IP);
    let below = deployment("hello", literal("3"));
    scene.put([plain.clone()]);
    assert_eq!(scene.limit("hello"), 9);
    scene.put([below.clone()]);
    assert_eq!(scene.limit("hello"), 3);
    scene.put([annotated(below.clone(), "max-inflight", "4")]);
    assert_eq!(scene.limit("hello"), 4);
    scene.put([annotated(plain.clone(), "max-inflight", "5")]);
    assert_eq!(scene.limit("hello"), 5);
    // And back, one by one.
    scene.put([plain]);
    assert_eq!(scene.limit("hello"), 4);
    scene.put([below]);
    assert_eq!(scene.limit("hello"), 3);
    scene.remove("Deployment", "hello");
    assert_eq!(scene.limit("hello"), 9);
    assert_eq!(scene.problems(), [""; 0]);
}

#[test]
fn a_config_map_is_asked_for_and_awaited_by_what_is_not_balanced_yet() {
    let mut scene = Scene::new("");
    let limits = key("limits");
    scene.put([service("hello", IP), deployment("hello", from_config_map())]);
    assert!(scene.service("hello").is_none());
    assert!(scene.resolved.unknown_config_maps.contains(&limits));
    assert!(scene.resolver.config_maps_in_use().contains(&limits));
    scene.config_map("limits", holds("7"));
    assert_eq!(scene.limit("hello"), 7);
    scene.config_map("limits", holds("8"));
    assert_eq!(scene.limit("hello"), 8);
    // The API does not answer: nothing is known to have changed.
    scene.config_map("limits", ConfigMap::Unanswered("no".to_owned()));
    assert!(scene.news.is_empty());
    scene.config_map("limits", ConfigMap::Unreadable("gone".to_owned()));
    assert_eq!(scene.limit("hello"), 8);
    scene.assert_problem("ConfigMap limits, which holds max_inflight, cannot be read: gone");
    scene.put([deployment("hello", literal("2"))]);
    assert_eq!(scene.limit("hello"), 2);
    assert!(scene.resolver.config_maps_in_use().is_empty());
    assert_eq!(scene.problems(), [""; 0]);
}

#[test]
fn pods_are_followed_while_a_config_map_is_awaited() {
    let mut scene = Scene::new("");
    let with = |address| slice("hello", "hello-1", json!([ready(address)]));
    let literal = deployment("hello", literal("2"));
    scene.put([service("hello", IP), literal, with("10.1.0.2")]);
    scene.put([deployment("hello", from_config_map()), with("10.1.0.3")]);
    assert_eq!(scene.backends("hello"), ["10.1.0.3:8080"]);
    assert_eq!(scene.limit("hello"), 2);
    assert!(scene.resolved.unknown_config_maps.contains(&key("limits")));
}

#[test]
fn an_annotation_does_not_wait_for_what_it_overrides() {
    let mut scene = Scene::new("");
    let plain = annotated(service("hello", IP), "max-inflight", "1");
    scene.put([plain, deployment("hello", from_config_map())]);
    assert_eq!(scene.limit("hello"), 1);
}

#[test]
fn a_variable_that_is_no_limit_is_told_and_the_last_good_one_holds() {
    let mut scene = Scene::new("");
    scene.put([service("hello", IP), deployment("hello", literal("3"))]);
    for bad in ["many", "-1", "1.5", "1000001", "99999999999999999999"] {
        scene.put([deployment("hello", literal(bad))]);
        assert_eq!(scene.limit("hello"), 3, "{bad}");
        scene.assert_problem(&format!(
            "Deployment hello: the variable max_inflight is {bad:?}"
        ));
    }
    let secret = json!([{"name": "max_inflight", "valueFrom": {"secretKeyRef": {"name": "s"}}}]);
    scene.put([deployment("hello", secret)]);
    assert_eq!(scene.limit("hello"), 3);
    scene.assert_problem("neither a literal nor a ConfigMap");
    scene.put([deployment("hello", literal(" 4 "))]);
    assert_eq!(scene.limit("hello"), 4);
    assert_eq!(scene.problems(), [""; 0]);
}
