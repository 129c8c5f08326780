//! What passes from one service to another: frontends, names, room; and that nothing is left
//! behind.

use super::*;

const OTHER_IP: &str = "10.96.0.11";

/// It used to depend on the order: a backend that became a frontend later stayed, and one that was
/// left out for being a frontend stayed so when it was none any more.
#[test]
fn no_frontend_is_a_backend_whichever_comes_first() {
    for is_backend_first in [true, false] {
        let mut scene = Scene::new("");
        let (a, b) = (service("a", OTHER_IP), service("b", IP));
        let of_b = slice("b", "b-1", json!([ready(OTHER_IP), ready("10.1.0.1")]));
        match is_backend_first {
            true => scene.put([b, of_b]).put([a]),
            false => scene.put([a]).put([b, of_b]),
        };
        assert_eq!(scene.frontends("a"), ["10.96.0.11:8080"]);
        assert_eq!(scene.backends("b"), ["10.1.0.1:8080"]);
        scene.assert_problem("Service b: its endpoint 10.96.0.11:8080 is a frontend of fn/a");
        scene.remove("Service", "a");
        assert_eq!(scene.backends("b"), ["10.1.0.1:8080", "10.96.0.11:8080"]);
        assert_eq!(scene.problems(), [""; 0]);
        scene.remove("Service", "b");
        assert!(scene.resolver.claims.is_empty());
    }
}

#[test]
fn a_frontend_belongs_to_whoever_came_first_and_then_to_the_next() {
    let mut scene = Scene::new("");
    scene.put([service("b", IP)]);
    scene.put([service("a", IP)]);
    assert!(scene.service("a").is_none());
    scene.assert_problem("Service a: 10.96.0.10:8080 is already a frontend of fn/b");
    scene.remove("Service", "b");
    assert_eq!(scene.frontends("a"), ["10.96.0.10:8080"]);
    assert_eq!(scene.problems(), [""; 0]);
    scene.remove("Service", "a");
    assert!(scene.resolver.claims.is_empty());
}

#[test]
fn cluster_ips_that_are_exchanged_at_once_are_no_conflict_in_any_order() {
    for names in [["a", "b"], ["b", "a"]] {
        let mut scene = Scene::new("");
        scene.put([service(names[0], IP), service(names[1], OTHER_IP)]);
        // The later may be told first.
        scene.put([service(names[1], IP), service(names[0], OTHER_IP)]);
        assert_eq!(scene.frontends(names[1]), ["10.96.0.10:8080"]);
        assert_eq!(scene.frontends(names[0]), ["10.96.0.11:8080"]);
        assert_eq!(scene.problems(), [""; 0]);
        assert!(scene.news.values().all(|change| change.problems.is_empty()));
        // Or in an event of its own.
        scene.put([service(names[0], IP)]);
        scene.put([service(names[1], OTHER_IP)]);
        assert_eq!(scene.frontends(names[0]), ["10.96.0.10:8080"]);
        assert_eq!(scene.frontends(names[1]), ["10.96.0.11:8080"]);
        assert_eq!(scene.problems(), [""; 0]);
    }
}

#[test]
fn a_service_that_is_deleted_and_made_again_keeps_nothing_of_the_first() {
    let mut scene = Scene::new("");
    scene.put([annotated(service("hello", IP), "max-inflight", "3")]);
    scene.hear_gone("Service", "hello");
    let mut again = annotated(service("hello", OTHER_IP), "max-inflight", "many");
    again["metadata"]["uid"] = "another".into();
    scene.put([again]);
    assert_eq!(scene.frontends("hello"), ["10.96.0.11:8080"]);
    assert_eq!(scene.limit("hello"), 0);
    scene.put([service("other", IP)]);
    assert_eq!(scene.frontends("other"), ["10.96.0.10:8080"]);
}

#[test]
fn a_type_that_changes_frees_the_frontends() {
    let mut scene = Scene::new("");
    scene.put([service("hello", IP)]);
    let mut external = service("hello", IP);
    external["spec"] = json!({"type": "ExternalName", "externalName": "example.com"});
    scene.put([external]);
    assert!(scene.service("hello").is_none());
    scene.put([service("other", IP)]);
    assert!(scene.service("other").is_some());
}

#[test]
fn a_service_for_which_there_is_no_room_claims_nothing_and_comes_in_when_there_is() {
    let mut scene = Scene::new("");
    scene.resolver.claims.room = 2;
    scene.put([service("a", IP), service("b", OTHER_IP)]);
    scene.put([service("c", "10.96.0.12")]);
    assert!(scene.service("c").is_none());
    scene.assert_problem("Service c: 16384 services are balanced already");
    // What it would have had is free for one that is in.
    scene.put([service("b", "10.96.0.12")]);
    assert_eq!(scene.frontends("b"), ["10.96.0.12:8080"]);
    scene.put([service("c", OTHER_IP)]);
    scene.remove("Service", "a");
    assert_eq!(scene.frontends("c"), ["10.96.0.11:8080"]);
    assert_eq!(scene.problems(), [""; 0]);
    for name in ["b", "c"] {
        scene.remove("Service", name);
    }
    assert!(scene.resolver.claims.is_empty());
}

#[test]
fn a_ninth_service_on_a_pod_is_left_alone_until_there_is_a_place() {
    let mut scene = Scene::new("");
    let with = |of: &str, pods: &[&str]| {
        let endpoints = pods.iter().map(|address| ready(address)).collect();
        slice(of, &format!("{of}-1"), endpoints)
    };
    for number in 1..=9 {
        let name = format!("s{number}");
        let ip = format!("10.96.0.{number}");
        scene.put([service(&name, &ip), with(&name, &["10.1.0.2"])]);
    }
    let crowded = "Service s9: its endpoint 10.1.0.2:8080 is in 8 services already";
    assert!(scene.service("s9").is_none());
    scene.assert_problem(crowded);
    assert_eq!(scene.problems().len(), 1, "{:?}", scene.problems());
    // Whatever else those that have places do, they keep them.
    scene.put([with("s1", &["10.1.0.2", "10.1.0.3"])]);
    scene.put([annotated(service("s2", "10.96.0.2"), "max-inflight", "3")]);
    assert!((1..9).all(|number| scene.service(&format!("s{number}")).is_some()));
    scene.assert_problem(crowded);
    // Its frontend is nobody's.
    scene.put([service("other", "10.96.0.9")]);
    assert_eq!(scene.frontends("other"), ["10.96.0.9:8080"]);
    scene.remove("Service", "other");
    // One moves to another pod, and back; one is switched off; one goes.
    scene.put([with("s1", &["10.1.0.3"])]);
    assert_eq!(scene.backends("s9"), ["10.1.0.2:8080"]);
    scene.put([with("s1", &["10.1.0.2"])]);
    assert!(scene.service("s1").is_none());
    scene.assert_problem("Service s1: its endpoint 10.1.0.2:8080 is in 8");
    scene.put([annotated(service("s3", "10.96.0.3"), "enabled", "false")]);
    assert_eq!(scene.backends("s1"), ["10.1.0.2:8080"]);
    scene.put([service("s3", "10.96.0.3")]);
    scene.assert_problem("Service s3: its endpoint 10.1.0.2:8080 is in 8");
    scene.remove("Service", "s4");
    assert_eq!(scene.backends("s3"), ["10.1.0.2:8080"]);
    assert_eq!(scene.problems(), [""; 0]);
    for number in 1..=9 {
        scene.remove("Service", &format!("s{number}"));
    }
    assert!(scene.resolver.claims.is_empty());
}

#[test]
fn nothing_is_remembered_of_what_is_gone() {
    let mut scene = Scene::new("");
    scene.resolver.claims.room = 2;
    for round in 0..3 {
        let name = format!("hello-{round}");
        let of_map = json!([{
            "name": "max_inflight",
            "valueFrom": {"configMapKeyRef": {"name": "limits", "key": "x"}},
        }]);
        let conflicting = service("other", IP);
        let crowded = service("third", OTHER_IP);
        scene.put([
            service(&name, IP),
            deployment(&name, of_map),
            conflicting,
            crowded,
        ]);
        scene.config_map(
            "limits",
            ConfigMap::Holds([("x".into(), Some("1".into()))].into()),
        );
        scene.put([slice(
            &name,
            &format!("{name}-1"),
            json!([ready("10.1.0.2")]),
        )]);
        assert!(!scene.told.is_empty());
        scene.remove("Deployment", &name);
        scene.remove("EndpointSlice", &format!("{name}-1"));
        for name in [&*name, "other", "third"] {
            scene.remove("Service", name);
        }
        assert!(scene.told.is_empty(), "{:?}", scene.told);
        assert!(
            scene.resolver.claims.is_empty(),
            "{:?}",
            scene.resolver.claims
        );
        assert!(scene.resolver.memories.is_empty());
        assert_eq!(scene.config_maps_in_use(), 0);
    }
}

#[test]
fn what_is_switched_off_asks_for_nothing_more() {
    let mut scene = Scene::new("");
    let of_map = json!([{
        "name": "max_inflight",
        "valueFrom": {"configMapKeyRef": {"name": "limits", "key": "x"}},
    }]);
    scene.put([service("hello", IP), deployment("hello", of_map)]);
    scene.config_map("limits", ConfigMap::Missing);
    assert_eq!(scene.config_maps_in_use(), 1);
    scene.put([annotated(service("hello", IP), "enabled", "false")]);
    assert!(scene.told.is_empty());
    assert_eq!(scene.config_maps_in_use(), 0);
}

#[test]
fn leader_services_need_pods_and_wait_for_them() {
    let mut scene = Scene::new("");
    let lead = annotated(service("hello", IP), "strategy", "leader");
    let lead = annotated(lead, "publish-leader", "true");
    let endpoint = json!({
        "addresses": ["10.1.0.2"], "conditions": {"ready": true},
        "targetRef": {"kind": "Pod", "name": "hello-1"},
    });
    scene.put([lead, slice("hello", "hello-1", json!([endpoint]))]);
    let hello = key("hello");
    assert!(scene.resolved.leaders.contains(&hello));
    assert!(scene.service("hello").is_none());
    assert!(scene.resolver.undecided().contains(&hello));
    // The API does not give them; then it does.
    let mut pods = Pods::default();
    assert!(pods.refuse());
    assert!(!pods.refuse());
    scene.resolver.pods.insert(hello.clone(), pods);
    scene.resolver.store.note(hello.clone());
    scene.look();
    assert_eq!(scene.backends("hello"), ["10.1.0.2:8080"]);
    assert!(scene.resolver.undecided().is_empty());
    let pods = scene.resolver.pods.get_mut(&hello).unwrap();
    assert!(!pods.hear(Told::Begin));
    assert!(pods.hear(Told::End), "there are none, which is news");
    scene.resolver.store.note(hello.clone());
    scene.look();
    assert_eq!(scene.backends("hello"), [""; 0]);
    let pods = scene.resolver.pods.get_mut(&hello).unwrap();
    let why = Unreadable {
        uid: None,
        why: "no".to_owned(),
    };
    assert!(pods.hear(Told::PutUnreadable(key("hello-1"), why)));
    scene.resolver.store.note(hello.clone());
    scene.look();
    scene.assert_problem("Pod hello-1: it cannot be read: no");
    scene.resolver.pods.clear();
    scene.put([service("hello", IP)]);
    assert!(scene.resolved.others.contains(&hello));
    assert_eq!(scene.backends("hello"), ["10.1.0.2:8080"]);
    assert_eq!(scene.problems(), [""; 0]);
}
