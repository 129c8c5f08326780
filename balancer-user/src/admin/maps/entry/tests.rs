//! How entries look in JSON.

use balancer_common::{
    affinity::{Binding, Bound},
    atomic::{store, store32},
    plain::Plain,
    service::Strategy,
    slot::{Want, take},
    table::{self, Kind},
};
use serde_json::{Value, json};

use super::*;
use crate::admin::maps::DEFAULT_LIMIT;

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
        pods_cgroup: 77,
        pods_level: 1,
        bypass_levels: 0b1010,
        ..AgentState::default()
    };
    let at = |seconds| json(&MapEntry::agent(state, Duration::from_secs(seconds)));
    let fresh = at(3);
    assert_eq!(fresh["is_alive"], true);
    assert_eq!(fresh["heartbeat_age_ms"], 2_000);
    assert_eq!(fresh["overflow_v4"], "10.0.0.1:4000");
    assert_eq!(fresh["overflow_v6"], Value::Null);
    assert_eq!(fresh["port_v6"], Value::Null);
    let pods = (&fresh["pods_cgroup"], &fresh["pods_level"]);
    assert_eq!(pods, (&json!("77"), &json!(1)));
    assert_eq!(fresh["bypass_levels"], json!([1, 3]));
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
        client: u64::MAX,
        service: 3,
        reserved: 0,
    };
    let client = "[fd00::1]:5000".parse().unwrap();
    let now = Duration::from_millis(25);
    let shown = json(&MapEntry::flow(client, target, now, &Names::default()));
    let expected = json!({
        "client": "[fd00::1]:5000", "client_identity": "18446744073709551615",
        "service_id": 3, "service": null, "age_ms": 20,
    });
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

#[test]
fn a_service_shows_its_strategy_flags_and_leader_in_words() {
    let plain = Plain::one_service(&[1, 1]);
    let record = plain.service(0).unwrap();
    let leader = Leader {
        id: 1,
        generation: 4,
    };
    store32(&record.strategy, Strategy::Leader as u32);
    store32(&record.flags, SERVICE_RATE_LIMITED | SERVICE_MEASURED);
    store(&record.leader, leader.into_word());
    store(&record.near[1], 2);
    let shown = json(&MapEntry::service(0, record, &Names::default()));
    assert_eq!(shown["strategy"], "leader");
    assert_eq!(shown["flags"], json!(["rate-limited", "measured"]));
    assert_eq!(
        (&shown["leader_id"], &shown["leader_generation"]),
        (&json!(1), &json!(4))
    );
    let near = json!(["0x0000000000000000", "0x0000000000000002"]);
    assert_eq!(shown["near_leaves"], near);
    store32(&record.strategy, 99);
    store(&record.leader, 0);
    let shown = json(&MapEntry::service(0, record, &Names::default()));
    assert_eq!(
        (&shown["strategy"], &shown["leader_id"]),
        (&json!("99"), &Value::Null)
    );
}

/// What a table of these positions shows, for a service of two backends.
fn table_of(kind: Kind, positions: &[u16]) -> Value {
    let mut plain = Plain::one_service(&[1, 1]);
    store32(&plain.backend(1).unwrap().port, u32::from(80u16.to_be()));
    plain.set_table(0, table::words(kind, positions));
    json(&MapEntry::table(0, &plain, &Names::default()).unwrap())
}

#[test]
fn a_ranking_shows_its_order_a_maglev_table_its_shares_and_turns_both() {
    let ranking = table_of(Kind::Ranking, &[1, 0, 5]);
    assert_eq!(
        (&ranking["kind"], &ranking["len"]),
        (&json!("ranking"), &json!(3))
    );
    let order = json!([
        {"position": 1, "backend": "[::]:80"},
        {"position": 0, "backend": "[::]:0"},
        {"position": 5, "backend": null},
    ]);
    assert_eq!(
        (&ranking["order"], &ranking["shares"]),
        (&order, &json!([]))
    );

    let shares = json!([
        {"position": 0, "backend": "[::]:0", "places": 2},
        {"position": 1, "backend": "[::]:80", "places": 3},
    ]);
    let maglev = table_of(Kind::Maglev, &[1, 1, 0, 0, 1]);
    assert_eq!((&maglev["order"], &maglev["shares"]), (&json!([]), &shares));
    let turns = table_of(Kind::Turns, &[1, 1, 0, 0, 1]);
    assert_eq!(turns["order"].as_array().unwrap().len(), 5);
    assert_eq!(turns["shares"], shares);
}

#[test]
fn a_long_turn_is_cut_but_its_shares_are_whole() {
    let turns = table_of(Kind::Turns, &[1; 3_000]);
    assert_eq!(turns["order"].as_array().unwrap().len(), DEFAULT_LIMIT);
    assert_eq!(turns["shares"][0]["places"], 3_000);
}

#[test]
fn a_service_without_a_table_has_no_entry() {
    let plain = Plain::one_service(&[1]);
    assert!(MapEntry::table(0, &plain, &Names::default()).is_none());
}

#[test]
fn a_binding_says_whether_it_holds() {
    let plain = Plain::one_service(&[1]);
    let service = plain.service(0).unwrap();
    store32(&service.flags, SERVICE_AFFINITY);
    store(&service.affinity_ns, 10_000_000);
    let binding = Binding {
        client: 4_026_531_840,
        service: 0,
        generation: 0,
    };
    let bound = Bound {
        used_at_ns: 5_000_000,
        backend: 0,
        generation: 0,
    };
    let at = |bound, ms| {
        let now = Duration::from_millis(ms);
        json(&MapEntry::affinity(
            (binding, bound),
            now,
            &plain,
            &Names::default(),
        ))
    };
    let fresh = at(bound, 12);
    assert_eq!(fresh["client"], "4026531840");
    assert_eq!(
        (&fresh["age_ms"], &fresh["is_live"]),
        (&json!(7), &json!(true))
    );
    assert!(fresh["backend"].is_string());
    assert_eq!(at(bound, 15)["is_live"], false);
    let reused = Bound {
        generation: 1,
        ..bound
    };
    let reused = at(reused, 12);
    assert_eq!(
        (&reused["backend"], &reused["is_live"]),
        (&Value::Null, &json!(false))
    );
}
