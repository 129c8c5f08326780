//! Ports, slices, conditions, zones: what services look like.

use super::*;

fn backend_zones(scene: &Scene) -> Vec<Option<String>> {
    let service = scene.service("hello").unwrap();
    let backends = service.backends.iter();
    backends
        .map(|it| it.zone.as_ref().map(ToString::to_string))
        .collect()
}

#[test]
fn each_port_makes_a_service_and_http_keeps_the_name() {
    let mut scene = Scene::new("");
    let mut hello = service("hello", IP);
    hello["spec"]["ports"] = json!([
        {"name": "admin", "port": 9000},
        {"name": "http", "port": 8080},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    ]);
    let mut pods = slice("hello", "hello-1", json!([ready("10.1.0.2")]));
    pods["ports"] = json!([
        {"name": "http", "port": 3000},
        {"name": "admin", "port": 3001},
        {"name": "dns", "port": 3002, "protocol": "UDP"},
    ]);
    scene.put([hello.clone(), pods]);
    assert_eq!(scene.frontends("hello"), ["10.96.0.10:8080"]);
    assert_eq!(scene.backends("hello"), ["10.1.0.2:3000"]);
    assert_eq!(scene.frontends("hello:admin"), ["10.96.0.10:9000"]);
    assert_eq!(scene.backends("hello:admin"), ["10.1.0.2:3001"]);
    assert_eq!(scene.told.len(), 2);
    // A port goes: its service goes with it, and what it had is free.
    hello["spec"]["ports"] = json!([{"name": "http", "port": 8080}]);
    scene.put([hello.clone()]);
    assert!(scene.news[&service_name("hello:admin")].service.is_none());
    assert_eq!(scene.told.len(), 1);
    // The name passes from one port to another.
    hello["spec"]["ports"] = json!([{"name": "a", "port": 8080}, {"name": "b", "port": 9000}]);
    scene.put([hello.clone()]);
    assert_eq!(scene.frontends("hello"), ["10.96.0.10:8080"]);
    hello["spec"]["ports"] = json!([{"name": "a", "port": 8080}, {"name": "http", "port": 9000}]);
    scene.put([hello]);
    assert_eq!(scene.frontends("hello"), ["10.96.0.10:9000"]);
    assert_eq!(scene.frontends("hello:a"), ["10.96.0.10:8080"]);
    assert_eq!(scene.problems(), [""; 0]);
}

#[test]
fn slices_may_come_before_their_service_and_name_a_pod_twice() {
    let mut scene = Scene::new("");
    scene.put([
        slice(
            "hello",
            "hello-1",
            json!([ready("10.1.0.2"), ready("10.1.0.3")]),
        ),
        slice(
            "hello",
            "hello-2",
            json!([ready("10.1.0.3"), ready("::ffff:10.1.0.2")]),
        ),
        slice("other", "other-1", json!([ready("10.1.0.9")])),
    ]);
    assert!(scene.news.is_empty());
    scene.put([service("hello", IP)]);
    let both = ["10.1.0.2:8080", "10.1.0.3:8080"];
    assert_eq!(scene.backends("hello"), both);
    scene.remove("EndpointSlice", "hello-2");
    assert!(
        scene.news.is_empty(),
        "nothing has changed: {:?}",
        scene.news
    );
    scene.remove("EndpointSlice", "hello-1");
    assert_eq!(scene.backends("hello"), [""; 0]);
}

#[test]
fn of_a_pod_in_two_slices_the_better_word_holds_and_the_terminating_only_serve_at_last() {
    let mut scene = Scene::new("");
    let leaving = |serving| json!({"ready": false, "serving": serving, "terminating": true});
    let with = |address, conditions| json!({"addresses": [address], "conditions": conditions});
    scene.put([
        service("hello", IP),
        slice(
            "hello",
            "hello-1",
            json!([
                with("10.1.0.2", leaving(true)),
                with("10.1.0.3", leaving(false)),
                with("10.1.0.4", json!({"ready": false})),
                with(
                    "10.1.0.5",
                    json!({"ready": null, "serving": null, "terminating": null})
                ),
            ]),
        ),
    ]);
    assert_eq!(scene.backends("hello"), ["10.1.0.5:8080"]);
    scene.put([slice(
        "hello",
        "hello-1",
        json!([
            with("10.1.0.2", leaving(true)),
            with("10.1.0.3", leaving(false)),
            with("10.1.0.4", json!({"ready": false})),
        ]),
    )]);
    assert_eq!(scene.backends("hello"), ["10.1.0.2:8080"]);
    scene.put([slice("hello", "hello-2", json!([ready("10.1.0.4")]))]);
    assert_eq!(scene.backends("hello"), ["10.1.0.4:8080"]);
}

#[test]
fn a_hint_goes_before_where_a_pod_is() {
    let mut scene = Scene::new("");
    let with = |address: &str, zones: Value| {
        json!({
            "addresses": [address], "zone": "zone-9", "nodeName": "node-1",
            "hints": {"forZones": zones},
        })
    };
    scene.put([
        service("hello", IP),
        slice(
            "hello",
            "hello-1",
            json!([
                with("10.1.0.2", json!([{"name": "zone-2"}, {"name": "zone-1"}])),
                with("10.1.0.3", json!([{"name": "zone-2"}, {"name": "zone-3"}])),
                with("10.1.0.4", Value::Null),
                {"addresses": ["10.1.0.5"]},
            ]),
        ),
    ]);
    let zone = |name: &str| Some(name.to_owned());
    assert_eq!(
        backend_zones(&scene),
        [zone("zone-1"), zone("zone-2"), zone("zone-9"), None]
    );
}

#[test]
fn of_two_families_the_one_counts_that_all_clients_reach() {
    let mut scene = Scene::new("");
    let mut hello = service("hello", IP);
    let mut v6 = slice("hello", "hello-6", json!([ready("fd00::2")]));
    v6["addressType"] = "IPv6".into();
    let v4 = slice("hello", "hello-4", json!([ready("10.1.0.2")]));
    hello["spec"]["clusterIPs"] = json!([IP, "fd96::10"]);
    scene.put([hello.clone(), v4, v6]);
    assert_eq!(
        scene.frontends("hello"),
        ["10.96.0.10:8080", "[fd96::10]:8080"]
    );
    assert_eq!(scene.backends("hello"), ["10.1.0.2:8080"]);
    hello["spec"]["clusterIPs"] = json!(["fd96::10"]);
    scene.put([hello]);
    assert_eq!(scene.backends("hello"), ["[fd00::2]:8080"]);
}

#[test]
fn what_is_no_function_has_to_ask() {
    let mut scene = Scene::new("");
    let mut plain = service("hello", IP);
    plain["metadata"]["labels"] = json!({});
    scene.put([plain.clone()]);
    assert!(scene.told.is_empty());
    // Its Deployment says that it is one.
    scene.put([deployment("hello", json!([]))]);
    assert!(scene.service("hello").is_some());
    scene.put([annotated(plain.clone(), "enabled", "false")]);
    assert!(scene.told.is_empty());
    scene.remove("Deployment", "hello");
    scene.put([annotated(plain, "enabled", "true")]);
    assert!(scene.service("hello").is_some());
}

#[test]
fn a_deployment_whose_labels_change_is_another_services() {
    let mut scene = Scene::new("");
    scene.put([
        service("a", IP),
        service("b", "10.96.0.11"),
        deployment("a", literal("3")),
    ]);
    assert_eq!((scene.limit("a"), scene.limit("b")), (3, 0));
    let mut moved = deployment("a", literal("3"));
    moved["spec"]["template"]["metadata"]["labels"] = json!({"faas_function": "b", "x": "y"});
    scene.put([moved]);
    assert_eq!((scene.limit("a"), scene.limit("b")), (0, 3));
}

#[test]
fn a_headless_service_is_balanced_by_its_pods_only() {
    let mut scene = Scene::new("");
    let mut hello = service("hello", "None");
    scene.put([
        hello.clone(),
        slice("hello", "hello-1", json!([ready("10.1.0.2")])),
    ]);
    assert!(scene.service("hello").is_none());
    scene.assert_problem("it is headless");
    hello = annotated(hello, "intercept", "pods");
    scene.put([hello]);
    assert_eq!(scene.backends("hello"), ["10.1.0.2:8080"]);
    assert_eq!(scene.problems(), [""; 0]);
}

#[test]
fn where_pods_are_dialled_both_their_addresses_are_intercepted() {
    let named = |address: &str, pod: &str| {
        let mut endpoint = ready(address);
        endpoint["targetRef"] = json!({"kind": "Pod", "name": pod});
        endpoint
    };
    let mut v6 = slice(
        "hello",
        "hello-6",
        json!([named("fd00::2", "a"), named("fd00::3", "gone")]),
    );
    v6["addressType"] = "IPv6".into();
    let v4 = json!([named("10.1.0.2", "a"), named("10.1.0.4", "b")]);
    let mut scene = Scene::new("");
    scene.put([service("hello", IP), slice("hello", "hello-4", v4), v6]);
    let intercepted = |scene: &Scene| -> Vec<String> {
        let service = scene.service("hello").unwrap();
        service.intercepted().map(|it| it.to_string()).collect()
    };
    assert_eq!(intercepted(&scene), [""; 0]);
    scene.put([annotated(service("hello", IP), "intercept", "pods")]);
    assert_eq!(scene.backends("hello"), ["10.1.0.2:8080", "10.1.0.4:8080"]);
    assert_eq!(
        intercepted(&scene),
        ["10.1.0.2:8080", "[fd00::2]:8080", "10.1.0.4:8080"]
    );
}

#[test]
fn with_a_local_policy_only_pods_of_the_own_node_serve() {
    let mut scene = Scene::new("");
    scene.resolver.node = Some("node-1".into());
    let on = |node: &str, address: &str| {
        let mut endpoint = ready(address);
        endpoint["nodeName"] = node.into();
        endpoint
    };
    let endpoints = json!([
        on("node-1", "10.1.0.2"),
        on("node-2", "10.1.0.3"),
        ready("10.1.0.4"),
    ]);
    let mut hello = service("hello", IP);
    scene.put([hello.clone(), slice("hello", "hello-1", endpoints)]);
    assert_eq!(scene.backends("hello").len(), 3);
    hello["spec"]["internalTrafficPolicy"] = "Local".into();
    scene.put([hello.clone()]);
    assert_eq!(scene.backends("hello"), ["10.1.0.2:8080"]);
    hello["spec"]["internalTrafficPolicy"] = "Cluster".into();
    scene.put([hello]);
    assert_eq!(scene.backends("hello").len(), 3);
}
