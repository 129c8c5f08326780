//! Entries of TABLES and AFFINITY: what strategies go by beside the records.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use balancer_common::{
    affinity::{Binding, Bound},
    atomic::load32,
    service::Tables,
    table::{self, Kind},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{MapEntry, age_ns};
use crate::{
    admin::{affinity::is_live, maps::DEFAULT_LIMIT},
    occupancy::{Names, address},
};

/// Of TABLES. The kernel does not show what is in the array of a service, so this is what the
/// agent has put there.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TableEntry {
    service_id: u32,
    service: Option<String>,
    /// `turns`, `maglev` or `ranking`; or the number, if this agent does not know it.
    kind: String,
    /// Places in it.
    len: u32,
    /// Of turns and a ranking: who stands at each place, the first 1000. A backend that is gone
    /// is null.
    order: Vec<Placed>,
    /// Of turns and a Maglev table: how many places each position has.
    shares: Vec<Share>,
}

/// Who stands at a place of a table.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Placed {
    position: u32,
    #[schema(value_type = Option<String>)]
    backend: Option<SocketAddr>,
}

/// A backend's part of a table.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Share {
    position: u32,
    #[schema(value_type = Option<String>)]
    backend: Option<SocketAddr>,
    /// Places of the table.
    places: u32,
}

/// Of AFFINITY.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AffinityEntry {
    service_id: u32,
    service: Option<String>,
    /// Of the service when the client was bound.
    service_generation: u32,
    /// The client's identity, in decimal.
    client: String,
    backend_id: u32,
    /// Of the backend when the client was bound.
    generation: u32,
    /// Null if the id stands for another backend by now.
    #[schema(value_type = Option<String>)]
    backend: Option<SocketAddr>,
    /// Since the client came last.
    age_ms: u64,
    /// Whether the binding holds: it has not lapsed, and service and backend are those that were.
    is_live: bool,
}

impl MapEntry {
    /// None if the service has no table.
    pub(in crate::admin::maps) fn table<T: Tables>(
        service_id: u32,
        tables: &T,
        names: &Names,
    ) -> Option<Self> {
        let (kind, len) = shape(tables, service_id)?;
        let places =
            |count| (0..count).filter_map(|place| table::position(tables, service_id, place));
        let at = |position| backend_at(tables, service_id, position);
        let order = match kind {
            TURNS | RANKING => places(len.min(DEFAULT_LIMIT as u32))
                .map(|position| Placed {
                    position,
                    backend: at(position),
                })
                .collect(),
            _ => Vec::new(),
        };
        let mut shares = BTreeMap::<u32, u32>::new();
        if matches!(kind, TURNS | MAGLEV) {
            for position in places(len) {
                *shares.entry(position).or_default() += 1;
            }
        }
        let shares = shares.into_iter().map(|(position, places)| Share {
            position,
            backend: at(position),
            places,
        });
        Some(Self::Table(TableEntry {
            service_id,
            service: names.shown(service_id),
            kind: word(kind),
            len,
            order,
            shares: shares.collect(),
        }))
    }

    pub(in crate::admin::maps) fn affinity<T: Tables>(
        (binding, bound): (Binding, Bound),
        now: Duration,
        tables: &T,
        names: &Names,
    ) -> Self {
        let backend = tables.backend(bound.backend);
        let backend = backend.filter(|it| load32(&it.generation) == bound.generation);
        Self::Affinity(AffinityEntry {
            service_id: binding.service,
            service: names.shown(binding.service),
            service_generation: binding.generation,
            client: binding.client.to_string(),
            backend_id: bound.backend,
            generation: bound.generation,
            backend: backend.map(address),
            age_ms: age_ns(bound.used_at_ns, now) / 1_000_000,
            is_live: is_live(tables, &binding, &bound, now),
        })
    }
}

const TURNS: u32 = Kind::Turns as u32;
const MAGLEV: u32 = Kind::Maglev as u32;
const RANKING: u32 = Kind::Ranking as u32;

fn word(kind: u32) -> String {
    match kind {
        TURNS => "turns".to_owned(),
        MAGLEV => "maglev".to_owned(),
        RANKING => "ranking".to_owned(),
        other => other.to_string(),
    }
}

fn backend_at<T: Tables>(tables: &T, service: u32, position: u32) -> Option<SocketAddr> {
    let leaf = tables.leaf(tables.service(service)?.leaf(position)?)?;
    tables.backend(leaf.backend(position)?).map(address)
}

/// Kind and length of a service's table, if it has one.
pub(in crate::admin::maps) fn shape<T: Tables>(tables: &T, service: u32) -> Option<(u32, u32)> {
    let header = tables.table_word(service, 0)?;
    Some(((header >> 32) as u32, header as u32))
}
