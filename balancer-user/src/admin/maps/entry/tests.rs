//! How entries look in JSON.

use balancer_common::{
    atomic::store32,
    plain::Plain,
    slot::{Want, take},
};
use serde_json::{Value, json};

use super::*;

fn json(entry: &MapEntry) -> Value {
    serde_json::to_value(entry).unwrap()
}

#[test]
fn a_backend_shows_its_halves_flags_and_places() {
    let plain = Plain::one_service(&[3, 1]);
    let record = plain.backend(0).unwrap();
    take(record, Want::Available, Side::Kernel).unwrap();
    take(record, Want::Available, Side::Kernel).unwrap();
    take(record, Want::Available, Side::Agent).unwrap();
    store32(&record.state, STATE_DRAINING | STATE_RETIRED);
    let shown = json(&MapEntry::backend(0, record, &Names::default()));
    assert_eq!(shown["inflight_kernel"], 2);
    assert_eq!(shown["inflight_agent"], 1);
    assert_eq!(shown["granted"], 3);
    assert_eq!(shown["state"], json!(["draining", "retired"]));
    let place = json!([{"service_id": 0, "service": null, "position": 0}]);
    assert_eq!(shown["memberships"], place);
}

#[test]
fn a_leaf_shows_who_stands_where_and_who_is_idle() {
    let plain = Plain::one_service(&[1; 66]);
    take(plain.backend(65).unwrap(), Want::Idle, Side::Kernel).unwrap();
    plain.refresh(65);
    let leaf = MapEntry::leaf((1, 0, 1), plain.leaf(1).unwrap(), &plain, &Names::default());
    let shown = json(&leaf);
    assert_eq!(shown["first_position"], 64);
    assert_eq!(shown["idle"], "0x0000000000000001");
    assert_eq!(shown["backends"][1]["position"], 65);
    assert_eq!(shown["backends"][1]["backend_id"], 65);
    let service = json(&MapEntry::service(
        0,
        plain.service(0).unwrap(),
        &Names::default(),
    ));
    assert_eq!(service["leaf_ids"], json!([0, 1]));
    assert_eq!(service["idle_leaves"], "0x0000000000000003");
    assert_eq!(service["cursor"], Value::Null);
}

#[test]
fn the_agent_is_alive_while_its_heartbeat_is_fresh_and_is_reached_where_it_listens() {
    let state = AgentState {
        heartbeat_ns: 1_000_000_000,
        switches: SWITCH_STEER_EVENTS,
        overflow_v4: Address::from(std::net::IpAddr::from([10, 0, 0, 1])),
        port_v4: Port::from(4000),
        ..AgentState::default()
    };
    let at = |seconds| json(&MapEntry::agent(state, Duration::from_secs(seconds)));
    let fresh = at(3);
    assert_eq!(fresh["is_alive"], true);
    assert_eq!(fresh["heartbeat_age_ms"], 2_000);
    assert_eq!(fresh["overflow_v4"], "10.0.0.1:4000");
    assert_eq!(fresh["overflow_v6"], Value::Null);
    assert_eq!(fresh["port_v6"], Value::Null);
    assert_eq!(
        (&fresh["log"], &fresh["steer_events"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(at(4)["is_alive"], false);
    let listeners = serde_json::to_value(listeners(&state)).unwrap();
    assert_eq!(listeners, json!([{"family": "ipv4", "port": 4000}]));
}

#[test]
fn a_flow_says_how_long_it_has_been_on_its_way() {
    let target = FlowTarget {
        steered_at_ns: 5_000_000,
        service: 3,
        reserved: 0,
    };
    let client = "[fd00::1]:5000".parse().unwrap();
    let now = Duration::from_millis(25);
    let shown = json(&MapEntry::flow(client, target, now, &Names::default()));
    let expected =
        json!({"client": "[fd00::1]:5000", "service_id": 3, "service": null, "age_ms": 20});
    assert_eq!(shown, expected);
}

#[test]
fn the_last_bucket_has_no_upper_bound() {
    let last = json(&MapEntry::decision_time(histogram::BUCKETS - 1, 1));
    assert_eq!(last["below_ns"], Value::Null);
    let first = json(&MapEntry::decision_time(9, 1));
    assert_eq!(
        (&first["from_ns"], &first["below_ns"]),
        (&json!(10), &json!(12))
    );
}
