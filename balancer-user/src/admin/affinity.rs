//! `/v1/affinity`: the clients that are bound to a backend.
//!
//! Shows what holds: a binding that has lapsed, or whose backend is gone, means nothing to the next
//! connect and is left out. `/v1/maps/AFFINITY` has those too.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use balancer_common::{
    affinity::{Binding, Bound, holds, is_on},
    atomic::{load, load32},
    service::{Backend, Service, Tables},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Context, Problem,
    maps::DEFAULT_LIMIT,
    problem::{Refusal, service_named},
};
use crate::{
    kernel::KernelError,
    model::ServiceName,
    occupancy::{Names, address},
    state::Snapshot,
};

/// `/v1/affinity`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BoundClients {
    /// How many there are.
    pub total: usize,
    /// Whether some of them are left out below.
    pub truncated: bool,
    /// By service; within one, who came last comes first.
    pub bindings: Vec<BindingRow>,
}

/// A client that is bound to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BindingRow {
    /// `NAMESPACE/NAME`.
    pub service: String,
    /// The client's identity, in decimal: the cookie of its network namespace (`SO_NETNS_COOKIE`)
    /// where the programs look; what the agent makes of its address or cookie, where that does.
    pub client: String,
    /// The backend that it gets as long as that has a slot.
    #[schema(value_type = String)]
    pub backend: SocketAddr,
    /// Since it came last.
    pub age_ms: u64,
    /// Until it is forgotten unless it comes again.
    pub expires_in_ms: u64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    /// Only those of this service: `NAME` or `NAMESPACE/NAME`.
    service: Option<String>,
    /// So many at most; 1000 if not given.
    limit: Option<usize>,
}

impl Parameters {
    pub(super) fn read(self) -> Result<(Option<ServiceName>, usize), Refusal> {
        let service = self.service.map(service_named).transpose()?;
        Ok((service, self.limit.unwrap_or(DEFAULT_LIMIT)))
    }
}

/// Clients that are bound to a backend.
#[utoipa::path(
    get, path = "/v1/affinity", operation_id = "list_affinity", tag = "connections", params(Parameters),
    responses(
        (status = 200, description = "The clients", body = BoundClients),
        (status = 404, response = Problem),
        (status = "default", response = Problem),
    )
)]
pub(super) async fn list(
    State(context): State<Context>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Json<BoundClients>, Refusal> {
    let (service, limit) = parameters?.0.read()?;
    let answer = context.read(move |context, snapshot| bound(context, snapshot, service, limit));
    Ok(Json(answer.await??))
}

fn bound(
    context: &Context,
    snapshot: &Snapshot,
    service: Option<ServiceName>,
    limit: usize,
) -> Result<BoundClients, Refusal> {
    if let Some(name) = service
        .clone()
        .filter(|name| !snapshot.desired.services.contains_key(name))
    {
        return Err(Refusal::NoService(name));
    }
    let names = Names::of(&context.progress.assignment());
    let bindings = Bindings::live(context)?;
    Ok(bindings.shown(context.kernel.memory(), &names, service.as_ref(), limit))
}

/// Bindings that hold, at one moment.
pub(super) struct Bindings {
    now: Duration,
    /// By service and client, each once: what is read of a map that others write may come twice.
    all: BTreeMap<(u32, u64), Bound>,
}

impl Bindings {
    /// Those in the kernel.
    pub(super) fn live(context: &Context) -> Result<Self, KernelError> {
        let all = context.kernel.bindings()?;
        Ok(Self::among(
            all,
            context.kernel.memory(),
            context.kernel.now(),
        ))
    }

    fn among<T: Tables>(all: Vec<(Binding, Bound)>, tables: &T, now: Duration) -> Self {
        let live = all.into_iter();
        let live = live.filter(|(binding, bound)| is_live(tables, binding, bound, now));
        Self {
            now,
            all: live
                .map(|(binding, bound)| ((binding.service, binding.client), bound))
                .collect(),
        }
    }

    /// Those of the service with this id.
    pub(super) fn of(&self, service: u32) -> impl Iterator<Item = (u64, &Bound)> {
        let clients = (service, 0)..=(service, u64::MAX);
        let range = self.all.range(clients);
        range.map(|((_, client), bound)| (*client, bound))
    }

    fn shown<T: Tables>(
        &self,
        tables: &T,
        names: &Names,
        service: Option<&ServiceName>,
        limit: usize,
    ) -> BoundClients {
        let wanted = names.by_name().into_iter();
        let wanted = wanted.filter(|(_, named)| service.is_none_or(|name| named.name == *name));
        let mut rows = Vec::new();
        for (id, named) in wanted {
            let Some(record) = tables.service(id) else {
                continue;
            };
            let mut bound: Vec<_> = self.of(id).collect();
            bound.sort_by_key(|(client, bound)| (std::cmp::Reverse(bound.used_at_ns), *client));
            let service = named.name.to_string();
            rows.extend(bound.into_iter().filter_map(|(client, bound)| {
                let backend = tables.backend(bound.backend)?;
                Some(self.row(&service, client, bound, backend, record))
            }));
        }
        let total = rows.len();
        rows.truncate(limit);
        BoundClients {
            total,
            truncated: total > rows.len(),
            bindings: rows,
        }
    }

    fn row(
        &self,
        service: &str,
        client: u64,
        bound: &Bound,
        backend: &Backend,
        record: &Service,
    ) -> BindingRow {
        let age = self
            .now
            .saturating_sub(Duration::from_nanos(bound.used_at_ns));
        let lasts = Duration::from_nanos(load(&record.affinity_ns));
        BindingRow {
            service: service.to_owned(),
            client: client.to_string(),
            backend: address(backend),
            age_ms: age.as_millis() as u64,
            expires_in_ms: lasts.saturating_sub(age).as_millis() as u64,
        }
    }
}

/// Whether the next connect of the client would heed the binding, if the backend has a slot.
pub(super) fn is_live<T: Tables>(
    tables: &T,
    binding: &Binding,
    bound: &Bound,
    now: Duration,
) -> bool {
    let (Some(service), Some(backend)) = (
        tables.service(binding.service),
        tables.backend(bound.backend),
    ) else {
        return false;
    };
    is_on(service)
        && load32(&service.generation) == binding.generation
        && holds(service, bound, now.as_nanos() as u64)
        && load32(&backend.generation) == bound.generation
        && backend.is_in(binding.service)
}

#[cfg(test)]
mod tests {
    use balancer_common::{
        atomic::{store, store32},
        plain::Plain,
        service::{SERVICE_AFFINITY, SERVICE_PRESENT},
    };

    use super::*;
    use crate::occupancy::Named;

    const MS: u64 = 1_000_000;

    fn sticky() -> Plain {
        let plain = Plain::one_service(&[1, 1]);
        let service = plain.service(0).unwrap();
        store32(&service.flags, SERVICE_PRESENT | SERVICE_AFFINITY);
        store32(&service.generation, 3);
        store(&service.affinity_ns, 100 * MS);
        store32(&plain.backend(1).unwrap().generation, 7);
        plain
    }

    fn binding(client: u64, used_at_ms: u64) -> (Binding, Bound) {
        let binding = Binding {
            client,
            service: 0,
            generation: 3,
        };
        let bound = Bound {
            used_at_ns: used_at_ms * MS,
            backend: 1,
            generation: 7,
        };
        (binding, bound)
    }

    fn names() -> Names {
        let name = "ns/hello".parse().unwrap();
        let frontends = Default::default();
        [(0, Named { name, frontends })].into_iter().collect()
    }

    #[test]
    fn who_came_last_comes_first_and_what_is_cut_off_is_said() {
        let plain = sticky();
        let all = vec![binding(10, 950), binding(u64::MAX, 980), binding(10, 950)];
        let bindings = Bindings::among(all, &plain, Duration::from_millis(1_000));
        assert_eq!(bindings.of(0).count(), 2, "each client is shown once");
        let shown = bindings.shown(&plain, &names(), None, 1);
        assert_eq!((shown.total, shown.truncated), (2, true));
        let expected = BindingRow {
            service: "ns/hello".to_owned(),
            client: u64::MAX.to_string(),
            backend: address(plain.backend(1).unwrap()),
            age_ms: 20,
            expires_in_ms: 80,
        };
        assert_eq!(shown.bindings, [expected]);
        let other = "ns/other".parse().unwrap();
        assert_eq!(bindings.shown(&plain, &names(), Some(&other), 9).total, 0);
    }

    #[test]
    fn what_has_lapsed_or_is_gone_is_not_shown() {
        let (binding, bound) = binding(1, 950);
        let live = |plain: &Plain, binding, bound, now_ms| {
            is_live(plain, &binding, &bound, Duration::from_millis(now_ms))
        };
        let plain = sticky();
        assert!(live(&plain, binding, bound, 1_000));
        assert!(!live(&plain, binding, bound, 1_050), "lapsed");
        let earlier = Binding {
            generation: 2,
            ..binding
        };
        assert!(
            !live(&plain, earlier, bound, 1_000),
            "of an earlier service"
        );
        let other = Bound {
            generation: 6,
            ..bound
        };
        assert!(
            !live(&plain, binding, other, 1_000),
            "to an earlier backend"
        );
        let absent = Bound {
            backend: 99,
            ..bound
        };
        assert!(!live(&plain, binding, absent, 1_000));
        store(&plain.backend(1).unwrap().memberships[0], 0);
        assert!(!live(&plain, binding, bound, 1_000), "to one that left");
        let plain = sticky();
        store32(&plain.service(0).unwrap().flags, SERVICE_PRESENT);
        assert!(
            !live(&plain, binding, bound, 1_000),
            "binds nobody any more"
        );
    }
}
