//! What is read of objects as clients really write them.

use serde_json::{Value, json};

use super::*;
use crate::source::kubernetes::environment::Entry;
use crate::source::kubernetes::object::Seen;

fn read<B: Body>(object: Value) -> B {
    let seen: Seen<B> = serde_json::from_value(object).unwrap();
    seen.body.unwrap()
}

fn slice(object: Value) -> Slice {
    read::<SliceBody>(object).kept(&mut Texts::default())
}

fn service(object: Value) -> Service {
    read::<ServiceBody>(object).kept(Some("1".to_owned()), &mut Texts::default())
}

fn deployment(object: Value) -> Deployment {
    read::<DeploymentBody>(object).kept(&mut Texts::default())
}

fn environment(containers: Value) -> Box<[Place]> {
    let template = json!({"spec": {"containers": containers}});
    deployment(json!({"metadata": {"name": "a"}, "spec": {"template": template}})).max_inflight
}

#[test]
fn a_service_as_the_api_shows_it() {
    let read = service(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "hello", "namespace": "fn", "uid": "1", "resourceVersion": "7",
            "creationTimestamp": "2024-05-01T10:00:00Z",
            "labels": {"faas_function": "hello"},
            "annotations": {
                "idlefirst.dev/max-inflight": "2", "idlefirst.dev/enabled": "true",
                "prometheus.io.scrape": "false",
            },
            "managedFields": [{"manager": "faas-netes", "fieldsV1": {"f:spec": {}}}],
        },
        "spec": {
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd96::10"],
            "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4", "IPv6"],
            "ports": [
                {"name": "http", "port": 8080, "protocol": "TCP", "targetPort": "http"},
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "odd", "port": 70_000},
            ],
            "selector": {"faas_function": "hello"}, "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    }));
    assert!(read.asks.is_function);
    assert_eq!(read.asks.enabled, Switch::On);
    assert_eq!(read.annotations.len(), 2);
    assert_eq!(read.cluster_ips.len(), 2);
    assert_eq!(read.ports.len(), 1);
    assert_eq!((&*read.ports[0].name, read.ports[0].number), ("http", 8080));
    assert_eq!(read.selector.len(), 1);
    assert!(!read.is_external_name);
}

#[test]
fn null_is_as_good_as_absent_everywhere() {
    let metadata = json!({
        "name": "a", "labels": null, "annotations": null, "deletionTimestamp": null, "uid": null,
    });
    let empty = service(json!({"metadata": metadata, "spec": {
        "type": null, "clusterIP": null, "clusterIPs": null, "ports": null, "selector": null,
    }}));
    let absent = service(json!({"metadata": {"name": "a"}, "spec": {}}));
    assert_eq!(empty, absent);
    assert_eq!(service(json!({"metadata": metadata, "spec": null})), absent);
    let port = json!([{"name": null, "port": 80, "protocol": null}, null]);
    let one = service(json!({"metadata": metadata, "spec": {"ports": port}}));
    assert_eq!(one.ports.len(), 1);
    let nulls = json!({"metadata": {"name": "a", "labels": {"faas_function": null}}});
    assert!(!service(nulls).asks.is_function);

    let empty = slice(json!({"metadata": metadata, "endpoints": null, "ports": null}));
    assert_eq!(empty, Slice::default());
    let odd = slice(json!({
        "metadata": metadata, "ports": [{"name": null, "port": null, "protocol": null}],
        "endpoints": [
            null,
            {"addresses": null, "conditions": null},
            {
                "addresses": ["10.1.0.2"], "conditions": {"ready": null, "serving": null},
                "hints": {"forZones": null}, "targetRef": {"kind": "Pod", "name": null},
                "nodeName": null, "zone": null,
            },
        ],
    }));
    assert_eq!((odd.endpoints.len(), odd.bad_addresses), (1, 1));
    assert_eq!(odd.endpoints[0].phase, Phase::Ready);

    for spec in [
        Value::Null,
        json!({"template": null}),
        json!({"template": {"metadata": null, "spec": null}}),
        json!({"template": {"metadata": {"labels": null}, "spec": {"containers": null}}}),
        json!({"template": {"spec": {"containers": [{"env": null, "envFrom": null}]}}}),
        json!({"template": {"spec": {"containers": [{
            "env": [{"name": "max_inflight", "value": null, "valueFrom": null}],
            "envFrom": [{"prefix": null, "configMapRef": null}],
        }]}}}),
    ] {
        let read = deployment(json!({"metadata": metadata, "spec": spec}));
        assert_eq!(read, Deployment::default(), "{spec}");
    }

    let pod =
        |status: Value| read::<PodBody>(json!({"metadata": metadata, "status": status})).kept(None);
    for status in [
        Value::Null,
        json!({"conditions": null}),
        json!({"conditions": [null]}),
    ] {
        assert_eq!(pod(status), Pod::default());
    }
    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": null});
    assert_eq!(pod(json!({"conditions": [ready]})).ready_since, Some(0));
}

#[test]
fn what_has_another_type_cannot_be_read_and_still_has_a_name() {
    for object in [
        json!({"metadata": {"name": "a"}, "endpoints": "none"}),
        json!({"metadata": {"name": "a"}, "endpoints": [1]}),
        json!({"metadata": {"name": "a", "labels": []}}),
        json!({"metadata": {"name": "a"}, "ports": [{"port": "80"}]}),
    ] {
        let seen: Seen<SliceBody> = serde_json::from_value(object.clone()).unwrap();
        assert!(seen.body.is_err(), "{object}");
        assert_eq!(&*seen.key().name, "a");
    }
}

#[test]
fn a_switch_is_true_or_false_and_nothing_else() {
    let enabled = |value: &str| {
        let annotations = json!({"idlefirst.dev/enabled": value});
        service(json!({"metadata": {"name": "a", "annotations": annotations}}))
            .asks
            .enabled
    };
    assert_eq!(enabled("true"), Switch::On);
    assert_eq!(enabled("false"), Switch::Off);
    for bad in ["", "True", "yes", "1", " true"] {
        assert_eq!(enabled(bad), Switch::Bad, "{bad:?}");
    }
    assert_eq!(Switch::Bad.or_last(Switch::Off), Switch::Off);
    assert_eq!(Switch::Absent.or_last(Switch::Off), Switch::Absent);
}

#[test]
fn conditions_that_are_not_said_are_as_the_api_has_them() {
    for (conditions, expected) in [
        (Value::Null, Phase::Ready),
        (json!({}), Phase::Ready),
        (json!({"ready": true}), Phase::Ready),
        (json!({"ready": false}), Phase::Unusable),
        (json!({"ready": false, "serving": true}), Phase::Unusable),
        (
            json!({"ready": false, "terminating": true}),
            Phase::Unusable,
        ),
        (
            json!({"ready": false, "serving": true, "terminating": true}),
            Phase::ServingTerminating,
        ),
        (
            json!({"ready": true, "terminating": true}),
            Phase::ServingTerminating,
        ),
    ] {
        let endpoint = json!({"addresses": ["10.1.0.2"], "conditions": conditions});
        let read = slice(json!({"metadata": {"name": "a"}, "endpoints": [endpoint]}));
        assert_eq!(read.endpoints[0].phase, expected, "{conditions}");
    }
}

#[test]
fn the_variable_is_found_as_the_container_would_see_it() {
    let literal = |text: &str| Place::Literal(text.into());
    let entry = |name: &str, key: &str, [needs_map, needs_key]: [bool; 2]| {
        Place::ConfigMap(Entry {
            name: name.into(),
            key: key.into(),
            needs_map,
            needs_key,
        })
    };
    let variable = |value: &str| json!({"name": "max_inflight", "value": value});
    let reference = |optional: Value| {
        json!({"name": "max_inflight", "valueFrom": {
            "configMapKeyRef": {"name": "limits", "key": "hello", "optional": optional},
        }})
    };
    let (needed, optional) = (reference(Value::Null), reference(json!(true)));
    let field = json!({"name": "max_inflight", "valueFrom": {"fieldRef": {"fieldPath": "x"}}});
    let from = json!([
        {"configMapRef": {"name": "first", "optional": true}},
        {"prefix": "max_", "configMapRef": {"name": "second"}},
        {"prefix": "other_", "configMapRef": {"name": "third"}},
        {"secretRef": {"name": "secret"}},
    ]);
    // The last that has the key counts, and only whoever looks knows which those are.
    let second = || entry("second", "inflight", [true, false]);
    let first = || entry("first", "max_inflight", [false, false]);
    for (containers, expected) in [
        (json!([]), vec![]),
        (
            json!([{"env": [{"name": "MAX_INFLIGHT", "value": "1"}]}]),
            vec![],
        ),
        (
            json!([{"env": [variable("1"), variable("2")]}]),
            vec![literal("2")],
        ),
        (
            json!([{"env": []}, {"env": [variable("3")]}]),
            vec![literal("3")],
        ),
        (
            json!([{"env": [needed], "envFrom": from}]),
            vec![entry("limits", "hello", [true, true])],
        ),
        (json!([{"env": [field]}]), vec![Place::Elsewhere]),
        (json!([{"envFrom": from}]), vec![second(), first()]),
        (
            json!([{"env": [variable("4")], "envFrom": from}]),
            vec![literal("4")],
        ),
        (
            json!([{"env": [variable("")], "envFrom": from}, {"env": [variable("5")]}]),
            vec![literal("5")],
        ),
        (
            json!([{"env": [variable("6"), optional], "envFrom": from}]),
            vec![entry("limits", "hello", [false, false]), literal("6")],
        ),
        (
            json!([{"env": [optional], "envFrom": from}, {"env": [variable("7")]}]),
            vec![
                entry("limits", "hello", [false, false]),
                second(),
                first(),
                literal("7"),
            ],
        ),
    ] {
        assert_eq!(*environment(containers.clone()), *expected, "{containers}");
    }
}

#[test]
fn a_pod_that_is_being_deleted_is_not_ready_any_more() {
    let pod = |deleted: Value, status: &str| {
        let condition = json!({
            "type": "Ready", "status": status, "lastTransitionTime": "1970-01-01T00:01:00Z",
        });
        read::<PodBody>(json!({
            "metadata": {"name": "a", "deletionTimestamp": deleted},
            "status": {"conditions": [{"type": "Initialized", "status": "True"}, condition]},
        }))
        .kept(Some("1".to_owned()))
    };
    assert_eq!(pod(Value::Null, "True").ready_since, Some(60));
    assert_eq!(pod(Value::Null, "Unknown").ready_since, None);
    let leaving = pod(json!("2024-05-01T10:00:00Z"), "True");
    assert_eq!((leaving.ready_since, leaving.is_leaving), (None, true));
}

#[test]
fn a_time_that_nobody_can_read_makes_a_pod_the_youngest() {
    let since = |time: &str| {
        let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": time});
        let pod = json!({"metadata": {"name": "a"}, "status": {"conditions": [condition]}});
        read::<PodBody>(pod).kept(None).ready_since
    };
    for time in ["9999-12-31T23:59:59Z", "yesterday", ""] {
        assert_eq!(since(time), Some(i64::MAX), "{time}");
    }
    assert_eq!(since("1969-12-31T23:59:59Z"), Some(-1));
}

#[test]
fn a_pod_is_known_by_what_its_cgroup_is_named_after() {
    let pod = |annotations: Value, phase: &str| {
        read::<PodBody>(json!({
            "metadata": {"name": "a", "annotations": annotations},
            "status": {"phase": phase},
        }))
        .kept(Some("uid".to_owned()))
    };
    assert_eq!(&*pod(json!({"a": "b"}), "Running").uid, "uid");
    let mirrored = json!({"kubernetes.io/config.mirror": "c0ffee"});
    assert_eq!(&*pod(mirrored, "Running").uid, "c0ffee");
    for (phase, has_ended) in [("Pending", false), ("Succeeded", true), ("Failed", true)] {
        assert_eq!(pod(Value::Null, phase).has_ended, has_ended, "{phase}");
    }
}
