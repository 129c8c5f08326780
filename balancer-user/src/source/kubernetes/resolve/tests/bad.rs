//! Bad objects: told, and harmful to none but themselves.

use super::*;
use crate::model::MAX_BACKENDS_PER_SERVICE;

#[test]
fn a_bad_annotation_keeps_its_last_good_value_and_is_told_once() {
    let mut scene = Scene::new("");
    let good = annotated(service("hello", IP), "strategy", "random");
    scene.put([good.clone()]);
    let bad = annotated(service("hello", IP), "strategy", "best");
    scene.put([bad.clone()]);
    let strategy = |scene: &Scene| scene.service("hello").unwrap().strategy.value;
    assert_eq!(strategy(&scene), Strategy::Random);
    assert_eq!(scene.problems().len(), 1, "{:?}", scene.problems());
    // Something else about it changes.
    scene.put([slice("hello", "hello-1", json!([ready("10.1.0.2")]))]);
    assert_eq!(scene.problems().len(), 1);
    let before = scene.told.clone();
    scene.put([bad]);
    assert!(scene.news.is_empty(), "{:?}", scene.news);
    assert_eq!(before.len(), scene.told.len());
    // Another Service by the same name has no last good value.
    let mut again = annotated(service("hello", IP), "strategy", "best");
    again["metadata"]["uid"] = "another".into();
    scene.put([again]);
    assert_eq!(strategy(&scene), Strategy::default());
    scene.put([good]);
    assert_eq!(scene.problems(), [""; 0]);
}

#[test]
fn a_switch_that_is_neither_on_nor_off_is_told_and_stays_as_it_was() {
    let mut scene = Scene::new("");
    let mut plain = service("hello", IP);
    plain["metadata"]["labels"] = json!({});
    let switched = |how| annotated(plain.clone(), "enabled", how);
    scene.put([switched("yes")]);
    assert!(scene.service("hello").is_none());
    scene.assert_problem("it is neither true nor false");
    scene.put([switched("true")]);
    assert!(scene.service("hello").is_some());
    scene.put([switched("True")]);
    assert!(scene.service("hello").is_some());
    scene.assert_problem("it is neither true nor false");
    scene.put([switched("false")]);
    assert!(scene.told.is_empty());
    scene.put([switched("")]);
    assert!(scene.service("hello").is_none());
    scene.assert_problem("it is neither true nor false");
    assert_eq!(scene.resolver.claims.services(), 0);
    scene.put([plain.clone()]);
    assert!(scene.told.is_empty());
    scene.remove("Service", "hello");
    assert!(scene.resolver.memories.is_empty());
}

#[test]
fn a_function_that_is_switched_off_stays_off_when_the_switch_is_misspelt() {
    let mut scene = Scene::new("");
    scene.put([annotated(service("hello", IP), "enabled", "false")]);
    scene.put([annotated(service("hello", IP), "enabled", "flase")]);
    assert!(scene.service("hello").is_none());
    let below = annotated(deployment("hello", json!([])), "enabled", "off");
    scene.put([service("hello", IP), below]);
    assert!(scene.service("hello").is_some());
    scene.assert_problem("Deployment hello: it is neither true nor false");
}

#[test]
fn whether_a_leader_is_published_has_to_be_said_clearly() {
    let mut scene = Scene::new("");
    let leader = || annotated(service("hello", IP), "strategy", "leader");
    let publish = |how| annotated(leader(), "publish-leader", how);
    let is_published = |scene: &Scene| scene.resolver.publication(&key("hello")).is_some();
    let pods = Pods::refused();
    scene.resolver.pods.insert(key("hello"), pods);
    scene.put([publish("1")]);
    assert!(!is_published(&scene));
    scene.assert_problem("it is neither true nor false");
    scene.put([publish("true")]);
    assert!(is_published(&scene));
    scene.put([publish("on")]);
    assert!(is_published(&scene));
    scene.put([publish("false")]);
    assert!(!is_published(&scene));
    assert_eq!(scene.problems(), [""; 0]);
}

#[test]
fn what_cannot_be_read_is_among_the_problems_of_what_it_is_part_of() {
    let mut scene = Scene::new("");
    let pods = slice("hello", "hello-1", json!([ready("10.1.0.2")]));
    scene.put([
        service("hello", IP),
        deployment("hello", literal("3")),
        pods.clone(),
    ]);
    let mut odd = [
        service("hello", IP),
        deployment("hello", literal("3")),
        pods.clone(),
    ];
    odd[0]["spec"]["ports"] = json!(7);
    odd[1]["spec"]["template"]["spec"]["containers"] = json!("none");
    odd[2]["endpoints"] = json!([1]);
    scene.put(odd.clone());
    for kind in ["Service hello", "Deployment hello", "EndpointSlice hello-1"] {
        scene.assert_problem(&format!("{kind}: it cannot be read: invalid type"));
    }
    assert_eq!(scene.resolver.unreadable().len(), 3);
    assert_eq!(scene.backends("hello"), ["10.1.0.2:8080"]);
    assert_eq!(scene.limit("hello"), 3);
    scene.put(odd);
    assert!(scene.news.is_empty(), "{:?}", scene.news);
    scene.put([service("hello", IP), pods]);
    scene.remove("Deployment", "hello");
    assert_eq!(scene.problems(), [""; 0]);
    assert!(scene.resolver.unreadable().is_empty());
}

#[test]
fn what_nothing_is_made_of_and_cannot_be_read_is_known_too() {
    let mut scene = Scene::new("");
    let mut odd = service("odd", IP);
    odd["spec"] = json!("all of it");
    scene.put([odd]);
    assert!(scene.told.is_empty());
    let unreadable = scene.resolver.unreadable();
    assert_eq!(unreadable.first().unwrap().name, "odd");
    let uid = scene.resolver.store.uid("Service", &key("odd"));
    assert_eq!(uid.as_deref(), Some("uid-odd"));
    scene.remove("Service", "odd");
    assert!(scene.resolver.unreadable().is_empty());
}

#[test]
fn addresses_that_no_pod_can_have_are_left_out() {
    let mut scene = Scene::new("");
    let odd = [
        "0.0.0.0",
        "::",
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "169.254.1.1",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
    ];
    let mut endpoints: Vec<_> = odd.iter().map(|address| ready(address)).collect();
    endpoints.push(ready("10.1.0.2"));
    endpoints.push(json!({"addresses": []}));
    endpoints.push(json!({"addresses": null}));
    endpoints.push(json!({"addresses": ["pod-1"]}));
    scene.put([
        service("hello", IP),
        slice("hello", "hello-1", endpoints.into()),
    ]);
    assert_eq!(scene.backends("hello"), ["10.1.0.2:8080"]);
    assert_eq!(
        scene.problems().len(),
        odd.len() + 1,
        "{:?}",
        scene.problems()
    );
    scene.assert_problem("3 of its endpoints have no IP address");
    scene.assert_problem("169.254.1.1:8080 cannot be a backend");
}

#[test]
fn of_too_many_endpoints_those_of_before_stay_while_they_are_there() {
    let mut scene = Scene::new("");
    let many = |from: usize| -> Value {
        let pods = from..from + MAX_BACKENDS_PER_SERVICE + 4;
        let address =
            |it: usize| format!("10.{}.{}.{}", 1 + it / 62_500, it / 250 % 250, it % 250 + 1);
        pods.map(|it| ready(&address(it))).collect()
    };
    scene.put([
        service("hello", IP),
        slice(
            "hello",
            "hello-1",
            json!([ready("10.1.0.1"), ready("10.1.0.2")]),
        ),
    ]);
    scene.put([slice("hello", "hello-1", many(0))]);
    assert_eq!(scene.backends("hello"), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    scene.assert_problem("it has 4100 endpoints");
    // One of them goes, and must not be dialled any more.
    scene.put([slice("hello", "hello-1", many(1))]);
    assert_eq!(scene.backends("hello"), ["10.1.0.2:8080"]);
    // An agent that starts now knows none of before.
    let mut fresh = Scene::new("");
    fresh.put([service("hello", IP), slice("hello", "hello-1", many(0))]);
    assert_eq!(fresh.backends("hello").len(), MAX_BACKENDS_PER_SERVICE);
}

#[test]
fn what_nothing_can_be_made_of_says_why() {
    let mut scene = Scene::new("");
    let mut external = service("a", IP);
    external["spec"] = json!({"type": "ExternalName", "externalName": "example.com"});
    let mut portless = service("b", "10.96.0.11");
    portless["spec"]["ports"] = Value::Null;
    let odd = service("c", "10.96.0.300");
    let unspecified = service("d", "0.0.0.0");
    scene.put([external, portless, odd, unspecified]);
    scene.assert_problem("Service a: it is an ExternalName");
    scene.assert_problem("Service b: it has no TCP port");
    scene.assert_problem("Service c: its cluster IP \"10.96.0.300\" is no IP address");
    scene.assert_problem("Service d: 0.0.0.0:8080 cannot be a frontend");
    assert!(scene.told.values().all(|change| change.service.is_none()));
    assert_eq!(scene.resolver.claims.services(), 0);
}
