//! Where `max_inflight` comes from.

use super::*;

fn from_config_map() -> Value {
    json!([{
        "name": "max_inflight",
        "valueFrom": {"configMapKeyRef": {"name": "limits", "key": "hello"}},
    }])
}

fn holds(value: &str) -> ConfigMap {
    ConfigMap::Holds([("hello".into(), Some(value.into()))].into())
}

/// A Deployment that has its variables from ConfigMaps, of which some are optional.
fn from_all_of<const N: usize>(maps: [(&str, bool); N]) -> Value {
    let from = maps
        .iter()
        .map(|(name, optional)| json!({"configMapRef": {"name": name, "optional": optional}}));
    let mut object = deployment("hello", Value::Null);
    object["spec"]["template"]["spec"]["containers"][0]["envFrom"] = from.collect();
    object
}

fn has(value: Option<&str>) -> ConfigMap {
    ConfigMap::Holds([("max_inflight".into(), value.map(Box::from))].into())
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
    assert_eq!(scene.config_maps_in_use(), 1);
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
    assert_eq!(scene.config_maps_in_use(), 0);
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

#[test]
fn a_limit_that_cannot_be_known_is_not_guessed() {
    for (says, told) in [
        (ConfigMap::Missing, "does not exist"),
        (ConfigMap::Unreadable("no".to_owned()), "cannot be read: no"),
        (ConfigMap::Unanswered("no".to_owned()), "cannot be read: no"),
        (
            ConfigMap::Holds([("hello".into(), None)].into()),
            "has no key hello",
        ),
    ] {
        let mut scene = Scene::new("");
        let pods = slice("hello", "hello-1", json!([ready("10.1.0.2")]));
        scene.put([
            service("hello", IP),
            deployment("hello", from_config_map()),
            pods,
        ]);
        let needs = |scene: &Scene| scene.resolver.needs(&key("limits")).unwrap();
        assert!(needs(&scene).is_awaited);
        scene.config_map("limits", says.clone());
        assert!(scene.service("hello").is_none(), "{says:?}");
        scene.assert_problem(&format!(
            "ConfigMap limits, which holds max_inflight, {told}"
        ));
        assert!(needs(&scene).is_awaited, "{says:?}");
        assert!(scene.resolver.undecided().contains(&key("hello")));
        scene.config_map("limits", holds("2"));
        assert_eq!(scene.limit("hello"), 2);
        assert!(!needs(&scene).is_awaited);
        assert_eq!(scene.problems(), [""; 0]);
        // One that is known holds on.
        if !matches!(says, ConfigMap::Unanswered(_)) {
            scene.config_map("limits", says.clone());
            assert_eq!(scene.limit("hello"), 2, "{says:?}");
            scene.assert_problem(told);
            assert!(!needs(&scene).is_awaited);
        }
    }
}

#[test]
fn a_deployment_that_comes_after_its_service_is_awaited_too() {
    let mut scene = Scene::new("");
    scene.put([service("hello", IP)]);
    assert_eq!(scene.limit("hello"), 0);
    scene.put([deployment("hello", from_config_map())]);
    scene.config_map("limits", ConfigMap::Missing);
    scene.put([slice("hello", "hello-1", json!([ready("10.1.0.2")]))]);
    assert!(scene.service("hello").is_none());
    scene.config_map("limits", holds("1"));
    assert_eq!(scene.limit("hello"), 1);
    assert_eq!(scene.backends("hello"), ["10.1.0.2:8080"]);
}

#[test]
fn of_several_config_maps_the_last_that_has_the_key_counts() {
    let mut scene = Scene::new("defaults: {max_inflight: 9}\n");
    let below = from_all_of([("limits", false), ("more", false)]);
    scene.put([service("hello", IP), below]);
    let unknown = &scene.resolved.unknown_config_maps;
    assert!(unknown.contains(&key("limits")) && unknown.contains(&key("more")));
    scene.config_map("limits", has(Some("3")));
    assert!(
        scene.service("hello").is_none(),
        "the other may have it too"
    );
    scene.config_map("more", has(None));
    assert_eq!(scene.limit("hello"), 3);
    scene.config_map("more", has(Some("4")));
    assert_eq!(scene.limit("hello"), 4);
    scene.config_map("more", has(None));
    assert_eq!(scene.limit("hello"), 3);
    scene.config_map("limits", has(None));
    assert_eq!(scene.limit("hello"), 9);
    assert_eq!(scene.problems(), [""; 0]);
}

#[test]
fn what_is_optional_may_be_missing() {
    let mut scene = Scene::new("defaults: {max_inflight: 9}\n");
    let mut optional = from_config_map();
    optional[0]["valueFrom"]["configMapKeyRef"]["optional"] = true.into();
    scene.put([service("hello", IP), deployment("hello", optional)]);
    scene.config_map("limits", ConfigMap::Missing);
    assert_eq!(scene.limit("hello"), 9);
    scene.config_map("limits", holds("2"));
    assert_eq!(scene.limit("hello"), 2);
    scene.put([from_all_of([("limits", true), ("more", true)])]);
    scene.config_map("limits", has(Some("3")));
    scene.config_map("more", ConfigMap::Missing);
    assert_eq!(scene.limit("hello"), 3);
    assert_eq!(scene.problems(), [""; 0]);
}

#[test]
fn each_service_has_its_own_key_of_a_config_map_looked_up() {
    let mut scene = Scene::new("");
    let other = json!([{
        "name": "max_inflight",
        "valueFrom": {"configMapKeyRef": {"name": "limits", "key": "other"}},
    }]);
    scene.put([service("hello", IP), deployment("hello", from_config_map())]);
    scene.config_map("limits", holds("1"));
    let other_ip = "10.96.0.11";
    scene.put([service("other", other_ip), deployment("other", other)]);
    assert!(scene.resolved.unknown_config_maps.contains(&key("limits")));
    let needs = scene.resolver.needs(&key("limits")).unwrap();
    assert_eq!(needs.keys, ["hello", "other"].map(Box::from).into());
    assert!(needs.is_awaited);
    scene.config_map(
        "limits",
        ConfigMap::Holds([("other".into(), Some("2".into()))].into()),
    );
    assert_eq!((scene.limit("hello"), scene.limit("other")), (1, 2));
}

#[test]
fn without_its_deployment_a_function_keeps_its_limit_while_it_has_pods() {
    let mut scene = Scene::new("");
    let below = annotated(deployment("hello", literal("1")), "queue.size", "7");
    let pods = slice("hello", "hello-1", json!([ready("10.1.0.2")]));
    let mut plain = service("plain", "10.96.0.11");
    plain["metadata"]["labels"] = Value::Null;
    let plain = annotated(plain, "enabled", "true");
    let mut below_plain = deployment("plain", literal("1"));
    below_plain["metadata"]["labels"] = Value::Null;
    let its_pods = slice("plain", "plain-1", json!([ready("10.1.0.3")]));
    scene.put([service("hello", IP), below.clone(), pods]);
    scene.put([plain, below_plain, its_pods]);
    let queue = |scene: &Scene| scene.service("hello").unwrap().queue.size.value;
    assert_eq!((scene.limit("plain"), queue(&scene)), (1, 7));
    scene.remove("Deployment", "hello");
    assert_eq!((scene.limit("hello"), queue(&scene)), (1, 7));
    scene.put([below]);
    assert_eq!(scene.limit("hello"), 1);
    scene.remove("Deployment", "hello");
    scene.remove("EndpointSlice", "hello-1");
    assert_eq!(scene.limit("hello"), 0);
    assert_ne!(queue(&scene), 7);
    // Whose pods they are is only sure of functions.
    scene.remove("Deployment", "plain");
    assert_eq!(scene.limit("plain"), 0);
}

#[test]
fn a_new_function_waits_for_its_deployment_but_not_for_ever() {
    let pods = || slice("hello", "hello-1", json!([ready("10.1.0.2")]));
    let mut scene = Scene::new("");
    scene.resolver.patience = std::time::Duration::from_secs(3600);
    scene.put([service("hello", IP), pods()]);
    assert!(scene.service("hello").is_none(), "it is not known yet");
    assert_eq!(scene.resolved.later.len(), 1);
    scene.put([deployment("hello", literal("2"))]);
    assert_eq!(scene.limit("hello"), 2);
    // One whose Deployment never comes is balanced when the time is over.
    let mut scene = Scene::new("");
    scene.resolver.patience = std::time::Duration::from_millis(1);
    scene.put([service("hello", IP), pods()]);
    std::thread::sleep(std::time::Duration::from_millis(2));
    scene.resolver.store.note(key("hello"));
    scene.look();
    assert_eq!(scene.limit("hello"), 0);
}

#[test]
fn what_was_without_a_limit_before_its_deployment_came_is_not_balanced_until_it_is_known() {
    let mut scene = Scene::new("");
    let pods = slice("hello", "hello-1", json!([ready("10.1.0.2")]));
    scene.put([service("hello", IP), pods]);
    assert_eq!(scene.limit("hello"), 0);
    let from = json!([{"name": "max_inflight", "valueFrom": {
        "configMapKeyRef": {"name": "limits", "key": "hello"},
    }}]);
    scene.put([deployment("hello", from)]);
    assert!(scene.service("hello").is_none());
    let holds = [("hello".into(), Some("3".into()))];
    scene.config_map("limits", ConfigMap::Holds(holds.into()));
    assert_eq!(scene.limit("hello"), 3);
}
