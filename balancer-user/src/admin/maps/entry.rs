//! How an entry of each map looks in JSON, and how it is made from the record.

use std::net::SocketAddr;

use balancer_common::{
    atomic::{load, load32},
    connection::{AgentState, SWITCH_LOG},
    histogram,
    service::{
        Backend, LEAF_POSITIONS, Leaf, STATE_DRAINING, STATE_EJECTED, STATE_RETIRED,
        STATE_UNHEALTHY, Service, Strategy, Tables,
    },
    slot::Side,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    admin::Counts,
    kernel::LiveConnection,
    occupancy::{Names, address, granted, memberships},
};

/// An entry of one of the maps.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum MapEntry {
    /// Of FRONTENDS.
    Frontend(FrontendEntry),
    /// Of SERVICES.
    Service(Box<ServiceEntry>),
    /// Of LEAVES.
    Leaf(LeafEntry),
    /// Of BACKENDS.
    Backend(Box<BackendEntry>),
    /// Of CONNECTIONS.
    Connection(Box<ConnectionEntry>),
    /// Of COUNTERS.
    Counters(CounterEntry),
    /// Of FAULTS.
    Fault(FaultEntry),
    /// Of DECISION_TIME.
    DecisionTime(DecisionTimeEntry),
    /// Of AGENT.
    Agent(AgentEntry),
}

/// Of FRONTENDS.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FrontendEntry {
    #[schema(value_type = String)]
    frontend: SocketAddr,
    service_id: u32,
    service: Option<String>,
}

/// Of SERVICES.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ServiceEntry {
    service_id: u32,
    service: Option<String>,
    /// A word, or the number if this agent does not know it.
    strategy: String,
    admission: u32,
    backends: u32,
    /// Highest position in use, plus one.
    positions: u32,
    /// Position last chosen; null before the first choice.
    cursor: Option<u32>,
    waiters: u32,
    /// Counts changes of the set of backends.
    generation: u32,
    /// Leaves with an idle backend.
    idle_leaves: String,
    /// Leaves with an available backend.
    available_leaves: String,
    leaf_ids: Vec<u32>,
}

/// Of LEAVES.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeafEntry {
    leaf_id: u32,
    service_id: u32,
    service: Option<String>,
    /// Its first position in the service.
    first_position: u32,
    idle: String,
    available: String,
    backends: Vec<Standing>,
}

/// A backend at a position.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Standing {
    position: u32,
    backend_id: u32,
    #[schema(value_type = Option<String>)]
    backend: Option<SocketAddr>,
}

/// Of BACKENDS.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BackendEntry {
    backend_id: u32,
    #[schema(value_type = String)]
    backend: SocketAddr,
    /// Counts the addresses that the id has stood for.
    generation: u32,
    /// `unhealthy`, `draining`, `ejected`, `retired`; none: usable.
    state: Vec<String>,
    /// Slots that connect programs took.
    inflight_kernel: u32,
    /// Slots that the agent took.
    inflight_agent: u32,
    /// Null: no limit.
    granted: Option<u32>,
    weight: u32,
    failures: u32,
    ejected_until_ns: u64,
    response_time_ns: u64,
    response_time_at_ns: u64,
    steered: u64,
    memberships: Vec<Place>,
}

/// A position of a service.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Place {
    service_id: u32,
    service: Option<String>,
    position: u32,
}

/// Of CONNECTIONS.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ConnectionEntry {
    #[schema(value_type = Option<String>)]
    client: Option<SocketAddr>,
    #[schema(value_type = String)]
    frontend: SocketAddr,
    #[schema(value_type = String)]
    backend: SocketAddr,
    backend_id: u32,
    generation: u32,
    service_id: u32,
    service: Option<String>,
    holds_slot: bool,
    steered_at_ns: u64,
}

/// Of COUNTERS, summed over CPUs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CounterEntry {
    service_id: u32,
    service: Option<String>,
    #[serde(flatten)]
    counts: Counts,
}

/// Of FAULTS, summed over CPUs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FaultEntry {
    fault: String,
    count: u64,
}

/// Of DECISION_TIME, summed over CPUs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DecisionTimeEntry {
    bucket: u32,
    from_ns: u64,
    /// Null for the last bucket.
    below_ns: Option<u64>,
    count: u64,
}

/// Of AGENT.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AgentEntry {
    heartbeat_ns: u64,
    abi: u32,
    /// Whether the programs log their decisions.
    log: bool,
}

impl MapEntry {
    pub(super) fn frontend(frontend: SocketAddr, service_id: u32, names: &Names) -> Self {
        Self::Frontend(FrontendEntry {
            frontend,
            service_id,
            service: names.shown(service_id),
        })
    }

    pub(super) fn service(service_id: u32, record: &Service, names: &Names) -> Self {
        let strategy = load32(&record.strategy);
        let cursor = load32(&record.cursor);
        Self::Service(Box::new(ServiceEntry {
            service_id,
            service: names.shown(service_id),
            strategy: if strategy == Strategy::IdleFirst as u32 {
                "idle-first".to_owned()
            } else {
                strategy.to_string()
            },
            admission: load32(&record.admission),
            backends: load32(&record.backends),
            positions: load32(&record.positions),
            cursor: (cursor != u32::MAX).then_some(cursor),
            waiters: load32(&record.waiters),
            generation: load32(&record.generation),
            idle_leaves: bitmap(load(&record.summary.idle)),
            available_leaves: bitmap(load(&record.summary.available)),
            leaf_ids: leaves(record).map(|(_, id)| id).collect(),
        }))
    }

    pub(super) fn leaf<T: Tables>(
        (leaf_id, service_id, number): (u32, u32, u32),
        record: &Leaf,
        tables: &T,
        names: &Names,
    ) -> Self {
        let first_position = number * LEAF_POSITIONS as u32;
        let positions = 0..LEAF_POSITIONS as u32;
        let standing = positions.filter_map(|offset| {
            let backend_id = record.backend(offset)?;
            let backend = tables.backend(backend_id).map(address);
            Some(Standing {
                position: first_position + offset,
                backend_id,
                backend,
            })
        });
        Self::Leaf(LeafEntry {
            leaf_id,
            service_id,
            service: names.shown(service_id),
            first_position,
            idle: bitmap(load(&record.index.idle)),
            available: bitmap(load(&record.index.available)),
            backends: standing.collect(),
        })
    }

    pub(super) fn backend(backend_id: u32, record: &Backend, names: &Names) -> Self {
        let word = load(&record.inflight);
        let places = memberships(record).map(|(service_id, position)| Place {
            service_id,
            service: names.shown(service_id),
            position,
        });
        Self::Backend(Box::new(BackendEntry {
            backend_id,
            backend: address(record),
            generation: load32(&record.generation),
            state: flags(load32(&record.state)),
            inflight_kernel: half(word, Side::Kernel),
            inflight_agent: half(word, Side::Agent),
            granted: granted(record),
            weight: load32(&record.weight),
            failures: load32(&record.failures),
            ejected_until_ns: load(&record.ejected_until_ns),
            response_time_ns: load(&record.response_time_ns),
            response_time_at_ns: load(&record.response_time_at_ns),
            steered: load(&record.steered),
            memberships: places.collect(),
        }))
    }

    pub(super) fn connection(connection: &LiveConnection, service: Option<String>) -> Self {
        Self::Connection(Box::new(ConnectionEntry {
            client: connection.client,
            frontend: connection.frontend,
            backend: connection.backend,
            backend_id: connection.backend_id,
            generation: connection.generation,
            service_id: connection.service_id,
            service,
            holds_slot: connection.holds_slot,
            steered_at_ns: connection.steered_at.as_nanos() as u64,
        }))
    }

    pub(super) fn counters(service_id: u32, counts: Counts, names: &Names) -> Self {
        Self::Counters(CounterEntry {
            service_id,
            service: names.shown(service_id),
            counts,
        })
    }

    pub(super) fn fault(name: &str, count: u64) -> Self {
        Self::Fault(FaultEntry {
            fault: name.to_owned(),
            count,
        })
    }

    pub(super) fn decision_time(bucket: u32, count: u64) -> Self {
        let last = bucket + 1 >= histogram::BUCKETS;
        Self::DecisionTime(DecisionTimeEntry {
            bucket,
            from_ns: histogram::lower_bound_ns(bucket),
            below_ns: (!last).then(|| histogram::lower_bound_ns(bucket + 1)),
            count,
        })
    }

    pub(super) fn agent(state: AgentState) -> Self {
        Self::Agent(AgentEntry {
            heartbeat_ns: state.heartbeat_ns,
            abi: state.abi,
            log: state.switches & SWITCH_LOG != 0,
        })
    }
}

/// Number and id of each leaf of a service.
pub(super) fn leaves(record: &Service) -> impl Iterator<Item = (u32, u32)> + '_ {
    let numbers = 0..record.leaves.len() as u32;
    numbers.filter_map(|number| Some((number, record.leaf(number * LEAF_POSITIONS as u32)?)))
}

/// See [`balancer_common::slot`]: the kernel's half is the low one.
const fn half(word: u64, side: Side) -> u32 {
    match side {
        Side::Kernel => word as u32,
        Side::Agent => (word >> 32) as u32,
    }
}

fn flags(state: u32) -> Vec<String> {
    let all = [
        (STATE_UNHEALTHY, "unhealthy"),
        (STATE_DRAINING, "draining"),
        (STATE_EJECTED, "ejected"),
        (STATE_RETIRED, "retired"),
    ];
    let set = all.into_iter().filter(|(flag, _)| state & flag != 0);
    set.map(|(_, word)| word.to_owned()).collect()
}

fn bitmap(word: u64) -> String {
    format!("{word:#018x}")
}

#[cfg(test)]
mod tests {
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
    fn the_last_bucket_has_no_upper_bound() {
        let last = json(&MapEntry::decision_time(histogram::BUCKETS - 1, 1));
        assert_eq!(last["below_ns"], Value::Null);
        let first = json(&MapEntry::decision_time(9, 1));
        assert_eq!(
            (&first["from_ns"], &first["below_ns"]),
            (&json!(10), &json!(12))
        );
    }
}
