//! Finds the entries of each map that are in use, and decodes as many as are asked for.

use balancer_common::{
    atomic::{load, load32},
    service::{Backend, Leaf, SERVICE_PRESENT, Service, Tables},
};

use super::{
    MapName,
    entry::{self, MapEntry},
};
use crate::{
    admin::{Context, connections::dialled, problem::Refusal},
    occupancy::Names,
};

/// What was found in a map.
pub(super) struct Found {
    /// All that is in use.
    pub(super) total: usize,
    /// As much of it as was asked for.
    pub(super) shown: Vec<MapEntry>,
}

/// The first `limit` entries of a map, by id or key.
pub(super) fn entries(context: &Context, map: MapName, limit: usize) -> Result<Found, Refusal> {
    let names = Names::of(&context.progress.assignment());
    let tables = context.kernel.memory();
    match map {
        MapName::Frontends => {
            let mut all = context.kernel.frontends()?;
            all.sort_by_key(|(frontend, _)| frontend.socket_addr());
            found(all, limit, |(key, leads_to)| {
                Ok(MapEntry::frontend(key.socket_addr(), leads_to, &names))
            })
        }
        MapName::Services => found(services(context), limit, |(id, record)| {
            Ok(MapEntry::service(id, record, &names))
        }),
        MapName::Leaves => found(leaves(context), limit, |(place, record)| {
            Ok(MapEntry::leaf(place, record, tables, &names))
        }),
        MapName::Backends => found(backends(context), limit, |(id, record)| {
            Ok(MapEntry::backend(id, record, &names))
        }),
        MapName::Connections => connections(context, limit, &names),
        MapName::Counters => found(services(context), limit, |(id, _)| {
            Ok(MapEntry::counters(
                id,
                context.kernel.counters(id)?.into(),
                &names,
            ))
        }),
        MapName::Faults => found(context.kernel.faults()?, limit, |(name, count)| {
            Ok(MapEntry::fault(name, count))
        }),
        MapName::DecisionTime => {
            let counts = context.kernel.decision_time()?.into_iter().zip(0..);
            let filled: Vec<_> = counts.filter(|(count, _)| *count > 0).collect();
            found(filled, limit, |(count, bucket)| {
                Ok(MapEntry::decision_time(bucket, count))
            })
        }
        MapName::Agent => found(vec![context.kernel.agent_state()?], limit, |state| {
            Ok(MapEntry::agent(state, context.kernel.now()))
        }),
        MapName::OverflowFlows => {
            let mut all = context.kernel.flows()?;
            all.sort_by_key(|(_, target)| target.steered_at_ns);
            let now = context.kernel.now();
            found(all, limit, |(client, target)| {
                Ok(MapEntry::flow(client, target, now, &names))
            })
        }
        // The kernel does not show the sockets; AGENT has their ports.
        MapName::OverflowSock => {
            let listeners = entry::listeners(&context.kernel.agent_state()?);
            found(listeners, limit, |listener| {
                Ok(MapEntry::Listener(listener))
            })
        }
        MapName::Tables => {
            let with_table: Vec<_> = services(context)
                .into_iter()
                .filter(|(id, _)| entry::shape(tables, *id).is_some())
                .collect();
            let total = with_table.len();
            let shown = with_table.into_iter().take(limit);
            Ok(Found {
                total,
                shown: shown
                    .filter_map(|(id, _)| MapEntry::table(id, tables, &names))
                    .collect(),
            })
        }
        MapName::Affinity => {
            let mut all = context.kernel.bindings()?;
            all.sort_by_key(|(it, _)| (it.service, it.generation, it.client));
            // What others write while it is read may come twice.
            all.dedup_by_key(|(binding, _)| *binding);
            let now = context.kernel.now();
            found(all, limit, |entry| {
                Ok(MapEntry::affinity(entry, now, tables, &names))
            })
        }
        MapName::Bypass => {
            let mut all = context.kernel.bypassing()?;
            all.sort_unstable();
            found(all, limit, |cgroup| Ok(MapEntry::bypass(cgroup)))
        }
        // Read by the one who follows it.
        MapName::Events => Ok(Found {
            total: 0,
            shown: Vec::new(),
        }),
    }
}

fn found<K>(
    all: Vec<K>,
    limit: usize,
    decode: impl FnMut(K) -> Result<MapEntry, Refusal>,
) -> Result<Found, Refusal> {
    let total = all.len();
    let shown = all
        .into_iter()
        .take(limit)
        .map(decode)
        .collect::<Result<_, _>>()?;
    Ok(Found { total, shown })
}

/// The services that exist, by id.
fn services(context: &Context) -> Vec<(u32, &Service)> {
    let tables = context.kernel.memory();
    let ids = 0..context.progress.assignment().service_high_water();
    let records = ids.filter_map(|id| Some((id, tables.service(id)?)));
    records
        .filter(|(_, record)| load32(&record.flags) & SERVICE_PRESENT != 0)
        .collect()
}

/// The leaves that services have, each with its id, its service and its number there.
fn leaves(context: &Context) -> Vec<((u32, u32, u32), &Leaf)> {
    let tables = context.kernel.memory();
    let mut all: Vec<_> = services(context)
        .into_iter()
        .flat_map(|(service, record)| {
            entry::leaves(record).map(move |(number, leaf)| (leaf, service, number))
        })
        .filter_map(|place| Some((place, tables.leaf(place.0)?)))
        .collect();
    all.sort_unstable_by_key(|(place, _)| *place);
    all
}

/// The backends that stand somewhere, or have a slot taken, by id.
fn backends(context: &Context) -> Vec<(u32, &Backend)> {
    let tables = context.kernel.memory();
    let ids = 0..context.progress.assignment().backend_high_water();
    let records = ids.filter_map(|id| Some((id, tables.backend(id)?)));
    records
        .filter(|(_, record)| load(&record.memberships[0]) != 0 || record.inflight() > 0)
        .collect()
}

fn connections(context: &Context, limit: usize, names: &Names) -> Result<Found, Refusal> {
    let mut all = context.kernel.connections()?;
    all.sort_by_key(|connection| connection.steered_at);
    found(all, limit, |connection| {
        let service = dialled(&connection, names).map(ToString::to_string);
        Ok(MapEntry::connection(&connection, service))
    })
}
