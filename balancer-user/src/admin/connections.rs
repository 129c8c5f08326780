//! `/v1/connections`: the steered connections that are alive.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Context, Problem,
    maps::DEFAULT_LIMIT,
    problem::{Refusal, service_named},
};
use crate::{kernel::LiveConnection, model::ServiceName, occupancy::Names, state::Snapshot};

/// `/v1/connections`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Connections {
    /// How many there are.
    pub total: usize,
    /// Whether some of them are left out below.
    pub truncated: bool,
    /// The oldest first.
    pub connections: Vec<ConnectionRow>,
}

/// A steered connection.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConnectionRow {
    /// The client's address; null until the kernel has given it a port.
    #[schema(value_type = Option<String>)]
    pub client: Option<SocketAddr>,
    /// What the client dialled.
    #[schema(value_type = String)]
    pub frontend: SocketAddr,
    /// Where it was steered; null if that is the agent.
    #[schema(value_type = Option<String>)]
    pub backend: Option<SocketAddr>,
    /// Whether it goes to a backend straight, or through the agent.
    pub via: Via,
    /// `NAMESPACE/NAME`; null if the service does not have that frontend any more.
    pub service: Option<String>,
    /// Since it was steered.
    pub age_ms: u64,
    /// Whether it holds a slot itself: not after either side has ended it, and not if the agent
    /// holds one for it.
    pub holds_slot: bool,
}

/// The way of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// From client to backend: nothing is in between.
    Kernel,
    /// To the agent, which forwards it, or holds it in a queue.
    Agent,
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

/// Live steered connections, in every network namespace, oldest first.
#[utoipa::path(
    get, path = "/v1/connections", operation_id = "list_connections", tag = "connections", params(Parameters),
    responses(
        (status = 200, description = "The connections", body = Connections),
        (status = 404, response = Problem),
        (status = "default", response = Problem),
    )
)]
pub(super) async fn list(
    State(context): State<Context>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Json<Connections>, Refusal> {
    let (service, limit) = parameters?.0.read()?;
    let answer =
        context.read(move |context, snapshot| connections(context, snapshot, service, limit));
    Ok(Json(answer.await??))
}

fn connections(
    context: &Context,
    snapshot: &Snapshot,
    service: Option<ServiceName>,
    limit: usize,
) -> Result<Connections, Refusal> {
    if let Some(name) = service
        .clone()
        .filter(|name| !snapshot.desired.services.contains_key(name))
    {
        return Err(Refusal::NoService(name));
    }
    let live = context.kernel.connections()?;
    let now = context.kernel.now();
    let names = Names::of(&context.progress.assignment());
    Ok(select(live, now, &names, service.as_ref(), limit))
}

fn select(
    mut live: Vec<LiveConnection>,
    now: Duration,
    names: &Names,
    service: Option<&ServiceName>,
    limit: usize,
) -> Connections {
    live.sort_by_key(|connection| connection.steered_at);
    let rows = live
        .iter()
        .map(|connection| (connection, dialled(connection, names)));
    let wanted: Vec<_> = rows
        .filter(|(_, name)| service.is_none() || *name == service)
        .collect();
    Connections {
        total: wanted.len(),
        truncated: wanted.len() > limit,
        connections: wanted
            .into_iter()
            .take(limit)
            .map(|(connection, name)| row(connection, name, now))
            .collect(),
    }
}

/// The service that a connection's client dialled. Its id may stand for another service by now:
/// the frontend tells.
pub(super) fn dialled<'n>(
    connection: &LiveConnection,
    names: &'n Names,
) -> Option<&'n ServiceName> {
    let named = names.get(connection.service_id)?;
    let leads_there = named.frontends.contains(&connection.frontend);
    leads_there.then_some(&named.name)
}

fn row(connection: &LiveConnection, service: Option<&ServiceName>, now: Duration) -> ConnectionRow {
    ConnectionRow {
        client: connection.client,
        frontend: connection.frontend,
        backend: (!connection.is_to_agent).then_some(connection.backend),
        via: match connection.is_to_agent {
            true => Via::Agent,
            false => Via::Kernel,
        },
        service: service.map(ToString::to_string),
        age_ms: now.saturating_sub(connection.steered_at).as_millis() as u64,
        holds_slot: connection.holds_slot,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::occupancy::Named;

    fn connection(client_port: u16, steered_at_ms: u64) -> LiveConnection {
        LiveConnection {
            client: Some(SocketAddr::from(([10, 0, 0, 1], client_port))),
            frontend: "10.96.0.10:80".parse().unwrap(),
            backend: "10.1.0.2:80".parse().unwrap(),
            service_id: 0,
            backend_id: 0,
            generation: 1,
            holds_slot: true,
            is_to_agent: false,
            steered_at: Duration::from_millis(steered_at_ms),
        }
    }

    fn names(frontend: &str) -> Names {
        let name = ServiceName::new("default", "hello").unwrap();
        let frontends = [frontend.parse().unwrap()].into();
        [(0, Named { name, frontends })].into_iter().collect()
    }

    #[test]
    fn the_oldest_come_first_and_what_is_cut_off_is_said() {
        let live = vec![connection(2, 20), connection(1, 10), connection(3, 30)];
        let now = Duration::from_millis(35);
        let shown = select(live, now, &Names::default(), None, 2);
        assert_eq!((shown.total, shown.truncated), (3, true));
        let ages: Vec<_> = shown.connections.iter().map(|row| row.age_ms).collect();
        assert_eq!(ages, [25, 15]);
    }

    #[test]
    fn connections_are_those_of_the_service_asked_for() {
        let names = names("10.96.0.10:80");
        let of = |name: &str| {
            let name = ServiceName::new("default", name).unwrap();
            select(
                vec![connection(1, 0)],
                Duration::ZERO,
                &names,
                Some(&name),
                10,
            )
        };
        assert_eq!(
            of("hello").connections[0].service.as_deref(),
            Some("default/hello")
        );
        assert_eq!(of("other").total, 0);
    }

    #[test]
    fn what_goes_through_the_agent_has_no_backend() {
        let to_agent = LiveConnection {
            is_to_agent: true,
            holds_slot: false,
            ..connection(1, 0)
        };
        let live = vec![to_agent, connection(2, 1)];
        let shown = select(live, Duration::ZERO, &Names::default(), None, 10);
        let ways = shown.connections.iter().map(|row| (row.via, row.backend));
        let backend = "10.1.0.2:80".parse().unwrap();
        let expected = [(Via::Agent, None), (Via::Kernel, Some(backend))];
        assert_eq!(ways.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_id_that_stands_for_another_service_by_now_names_none() {
        let names = names("10.96.0.99:80");
        let shown = select(vec![connection(1, 0)], Duration::ZERO, &names, None, 10);
        assert_eq!(shown.connections[0].service, None);
    }
}
