//! How an entry of each map looks in JSON, and how it is made from the record.

mod choice;

use std::{net::SocketAddr, time::Duration};

use balancer_common::{
    address::{Address, LeadsTo, Port},
    atomic::{load, load32},
    connection::{AGENT_GONE_AFTER_NS, AgentState, FlowTarget, SWITCH_LOG, SWITCH_STEER_EVENTS},
    histogram,
    select::Leader,
    service::{
        Admission, Backend, LEAF_POSITIONS, Leaf, SERVICE_AFFINITY, SERVICE_LOCAL,
        SERVICE_MEASURED, SERVICE_OVERTAKING, SERVICE_RATE_LIMITED, SERVICE_REFUSE_IN_KERNEL,
        SERVICE_REFUSE_WITHOUT_AGENT, STATE_DRAINING, STATE_RETIRED, STATE_UNHEALTHY, Service,
        Tables,
    },
    slot,
    slot::Side,
    waiting,
};
use serde::Serialize;
use utoipa::ToSchema;

pub(super) use choice::shape;
use choice::{AffinityEntry, TableEntry};

use crate::{
    admin::{Counts, strategy},
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
    Agent(Box<AgentEntry>),
    /// Of OVERFLOW_FLOWS.
    Flow(FlowEntry),
    /// Of OVERFLOW_SOCK.
    Listener(ListenerEntry),
    /// Of TABLES.
    Table(TableEntry),
    /// Of AFFINITY.
    Affinity(AffinityEntry),
    /// Of BYPASS.
    Bypass(BypassEntry),
}

/// Of FRONTENDS.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FrontendEntry {
    #[schema(value_type = String)]
    frontend: SocketAddr,
    /// Whether it is the own address of a backend: then only pods are steered.
    is_backend: bool,
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
    /// A word, or the number if this agent does not know it.
    admission: String,
    /// `overtaking`, `refuse-in-kernel`, `refuse-without-agent`, `rate-limited`, `affinity`,
    /// `local`, `measured`.
    flags: Vec<String>,
    backends: u32,
    /// Highest position in use, plus one.
    positions: u32,
    /// Position last chosen; null before the first choice.
    cursor: Option<u32>,
    /// Those on their way to the agent's queue, and those in it.
    waiters: u32,
    /// Those in it.
    queued: u32,
    queue_size: u32,
    /// From one token of the rate limit to the next; 0: there is no limit.
    rate_interval_ns: u64,
    /// How far ahead of the clock the bucket may be.
    rate_ahead_ns: u64,
    /// When the bucket is full again.
    rate_full_at_ns: u64,
    /// Consecutive failures that eject a backend; 0: none do.
    breaker_failures: u32,
    breaker_open_ns: u64,
    /// Backends that breakers keep out.
    ejected: u64,
    /// Counts the services that the id has stood for.
    generation: u32,
    /// Turns taken of a weighted turn.
    turn: u64,
    /// Id of the backend that was elected last, usable or not; null: none was.
    leader_id: Option<u32>,
    /// Its generation when it was elected; 0 if none was.
    leader_generation: u32,
    /// When the leader before it was lost; 0 once a connection to this one stands.
    leaderless_since_ns: u64,
    /// How long a client is remembered after it came last; 0: not at all.
    affinity_ns: u64,
    /// Leaves of near backends, by circle: the node's, the zone's.
    near_leaves: Vec<String>,
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
    /// When the first of those was.
    failing_since_ns: u64,
    ejected_until_ns: u64,
    /// Since when its share grows.
    cold_at_ns: u64,
    /// When it gets its full share; 0: it does.
    warm_at_ns: u64,
    response_time_ns: u64,
    response_time_at_ns: u64,
    awaiting: u64,
    awaiting_since_ns: u64,
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
    /// Whether it was steered to the agent: then the backend is the agent's address, and its id
    /// and generation mean nothing.
    is_to_agent: bool,
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
    heartbeat_age_ms: u64,
    /// Whether the programs send connections to the agent: not once its heartbeat is 2 s old.
    is_alive: bool,
    abi: u32,
    /// Whether the programs log their decisions.
    log: bool,
    /// Whether they report a sample of them.
    steer_events: bool,
    netns_cookie: u64,
    /// Where clients in other network namespaces reach the agent; null: nowhere.
    #[schema(value_type = Option<String>)]
    overflow_v4: Option<SocketAddr>,
    #[schema(value_type = Option<String>)]
    overflow_v6: Option<SocketAddr>,
    /// The ports of its listeners, also for clients in its own network namespace; null: it has
    /// none.
    port_v4: Option<u16>,
    port_v6: Option<u16>,
    /// Id of the cgroup that all pods are in, in decimal; null: none is known.
    pods_cgroup: Option<String>,
    /// How far below the root it is.
    pods_level: Option<u32>,
    /// How far below the root those are whose processes are never steered.
    bypass_levels: Vec<u32>,
}

/// Of BYPASS.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BypassEntry {
    /// Id of the cgroup, which is the inode of its directory, in decimal.
    cgroup: String,
}

/// Of OVERFLOW_FLOWS.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FlowEntry {
    #[schema(value_type = String)]
    client: SocketAddr,
    /// The cookie of its network namespace, in decimal.
    client_identity: String,
    service_id: u32,
    service: Option<String>,
    age_ms: u64,
}

/// Of OVERFLOW_SOCK.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ListenerEntry {
    /// `ipv4` or `ipv6`.
    family: String,
    /// Its port, from AGENT: the kernel does not show the sockets of this map.
    port: u16,
}

impl MapEntry {
    pub(super) fn frontend(frontend: SocketAddr, leads_to: LeadsTo, names: &Names) -> Self {
        let service_id = leads_to.id();
        Self::Frontend(FrontendEntry {
            frontend,
            is_backend: leads_to.is_of_backend(),
            service_id,
            service: names.shown(service_id),
        })
    }

    pub(super) fn service(service_id: u32, record: &Service, names: &Names) -> Self {
        let number = load32(&record.strategy);
        let strategy = strategy::known(number);
        let leader = Leader::from_word(load(&record.leader));
        let cursor = load32(&record.cursor);
        Self::Service(Box::new(ServiceEntry {
            service_id,
            service: names.shown(service_id),
            strategy: strategy.map_or_else(|| number.to_string(), |it| it.to_string()),
            admission: admission(load32(&record.admission)),
            flags: words(
                load32(&record.flags),
                &[
                    (SERVICE_OVERTAKING, "overtaking"),
                    (SERVICE_REFUSE_IN_KERNEL, "refuse-in-kernel"),
                    (SERVICE_REFUSE_WITHOUT_AGENT, "refuse-without-agent"),
                    (SERVICE_RATE_LIMITED, "rate-limited"),
                    (SERVICE_AFFINITY, "affinity"),
                    (SERVICE_LOCAL, "local"),
                    (SERVICE_MEASURED, "measured"),
                ],
            ),
            backends: load32(&record.backends),
            positions: load32(&record.positions),
            cursor: (cursor != u32::MAX).then_some(cursor),
            waiters: waiting::count(&record.waiting) as u32,
            queued: waiting::queued(&record.waiting),
            queue_size: load32(&record.queue_size),
            rate_interval_ns: load(&record.rate_interval_ns),
            rate_ahead_ns: load(&record.rate_ahead_ns),
            rate_full_at_ns: load(&record.rate_full_at_ns),
            breaker_failures: load32(&record.breaker_failures),
            breaker_open_ns: load(&record.breaker_open_ns),
            ejected: load(&record.ejected),
            generation: load32(&record.generation),
            turn: load(&record.turn),
            leader_id: leader.map(|it| it.id),
            leader_generation: leader.map_or(0, |it| it.generation),
            leaderless_since_ns: load(&record.leaderless_since_ns),
            affinity_ns: load(&record.affinity_ns),
            near_leaves: record.near.iter().map(|near| bitmap(load(near))).collect(),
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
            state: flags(load32(&record.state), load(&record.ejected_until_ns)),
            inflight_kernel: half(word, Side::Kernel),
            inflight_agent: half(word, Side::Agent),
            granted: granted(record),
            weight: load32(&record.weight),
            failures: load32(&record.failures),
            failing_since_ns: load(&record.failing_since_ns),
            ejected_until_ns: load(&record.ejected_until_ns),
            cold_at_ns: load(&record.cold_at_ns),
            warm_at_ns: load(&record.warm_at_ns),
            response_time_ns: load(&record.response_time_ns),
            response_time_at_ns: load(&record.response_time_at_ns),
            awaiting: slot::total(load(&record.awaiting)),
            awaiting_since_ns: load(&record.awaiting_since_ns),
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
            is_to_agent: connection.is_to_agent,
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

    pub(super) fn agent(state: AgentState, now: Duration) -> Self {
        let age_ns = age_ns(state.heartbeat_ns, now);
        let (port_v4, port_v6) = (port(state.port_v4), port(state.port_v6));
        Self::Agent(Box::new(AgentEntry {
            heartbeat_ns: state.heartbeat_ns,
            heartbeat_age_ms: age_ns / 1_000_000,
            is_alive: age_ns <= AGENT_GONE_AFTER_NS,
            abi: state.abi,
            log: state.switches & SWITCH_LOG != 0,
            steer_events: state.switches & SWITCH_STEER_EVENTS != 0,
            netns_cookie: state.netns_cookie,
            overflow_v4: overflow(state.overflow_v4, port_v4),
            overflow_v6: overflow(state.overflow_v6, port_v6),
            port_v4,
            port_v6,
            pods_cgroup: (state.pods_cgroup != 0).then(|| state.pods_cgroup.to_string()),
            pods_level: (state.pods_cgroup != 0).then_some(state.pods_level),
            bypass_levels: (0..u32::BITS)
                .filter(|level| state.bypass_levels >> level & 1 != 0)
                .collect(),
        }))
    }

    pub(super) fn bypass(cgroup: u64) -> Self {
        Self::Bypass(BypassEntry {
            cgroup: cgroup.to_string(),
        })
    }

    pub(super) fn flow(
        client: SocketAddr,
        target: FlowTarget,
        now: Duration,
        names: &Names,
    ) -> Self {
        Self::Flow(FlowEntry {
            client,
            client_identity: target.client.to_string(),
            service_id: target.service,
            service: names.shown(target.service),
            age_ms: age_ns(target.steered_at_ns, now) / 1_000_000,
        })
    }
}

/// The listeners that the programs know of.
pub(super) fn listeners(state: &AgentState) -> Vec<ListenerEntry> {
    let ports = [("ipv4", state.port_v4), ("ipv6", state.port_v6)].into_iter();
    ports
        .filter_map(|(family, listener)| {
            Some(ListenerEntry {
                family: family.to_owned(),
                port: port(listener)?,
            })
        })
        .collect()
}

fn port(port: Port) -> Option<u16> {
    (port != Port(0)).then(|| port.into())
}

fn overflow(address: Address, port: Option<u16>) -> Option<SocketAddr> {
    let port = port?;
    (!address.is_none()).then(|| SocketAddr::new(address.into(), port))
}

fn age_ns(since_ns: u64, now: Duration) -> u64 {
    (now.as_nanos() as u64).saturating_sub(since_ns)
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

fn flags(state: u32, ejected_until_ns: u64) -> Vec<String> {
    let mut set = words(
        state,
        &[
            (STATE_UNHEALTHY, "unhealthy"),
            (STATE_DRAINING, "draining"),
            (STATE_RETIRED, "retired"),
        ],
    );
    if ejected_until_ns != 0 {
        set.push("ejected".to_owned());
    }
    set
}

fn words(bits: u32, all: &[(u32, &str)]) -> Vec<String> {
    let set = all.iter().filter(|(flag, _)| bits & flag != 0);
    set.map(|(_, word)| (*word).to_owned()).collect()
}

fn admission(number: u32) -> String {
    let all = [
        (Admission::Connection, "connection"),
        (Admission::Request, "request"),
    ];
    let known = all.iter().find(|(known, _)| *known as u32 == number);
    known.map_or_else(|| number.to_string(), |(_, word)| (*word).to_owned())
}

fn bitmap(word: u64) -> String {
    format!("{word:#018x}")
}

#[cfg(test)]
mod tests;
