//! The commands that list: services, backends, connections, maps.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Output, Report,
    client::Client,
    table::{self, Column::Left, Column::Right, age, joined, limit, or_dash},
};
use crate::{
    admin::{BackendRow, Connections, MapSummary, ServiceSummary, Via},
    model::ServiceName,
};

pub(super) async fn services(client: &Client, output: Output) -> anyhow::Result<Report> {
    const PATH: &str = "/v1/services";
    let body = client.get(PATH).await?;
    if output == Output::Json {
        return Ok(json(body));
    }
    let services: Vec<ServiceSummary> = client.decode(PATH, &body)?;
    if services.is_empty() {
        return Ok(Report::fine(
            "No services. The agent's configuration names none.\n".to_owned(),
        ));
    }
    Ok(Report::fine(services_table(&services)))
}

fn services_table(services: &[ServiceSummary]) -> String {
    let columns = [
        Left("NAMESPACE"),
        Left("NAME"),
        Left("FRONTENDS"),
        Left("STRATEGY"),
        Right("MAX_INFLIGHT"),
        Right("BACKENDS"),
        Right("IDLE"),
        Right("AVAILABLE"),
        Right("UNHEALTHY"),
        Right("INFLIGHT"),
        Right("WAITERS"),
    ];
    let rows = services.iter().map(|service| {
        let ServiceSummary {
            facts,
            backends,
            occupancy,
        } = service;
        vec![
            facts.namespace.clone(),
            facts.name.clone(),
            joined(&facts.frontends),
            facts.strategy.to_string(),
            limit(facts.max_inflight),
            backends.to_string(),
            occupancy.idle.to_string(),
            occupancy.available.to_string(),
            occupancy.unhealthy.to_string(),
            occupancy.inflight.to_string(),
            occupancy.waiters.to_string(),
        ]
    });
    table::render(&columns, rows)
}

pub(super) async fn backends(client: &Client, output: Output) -> anyhow::Result<Report> {
    const PATH: &str = "/v1/backends";
    let body = client.get(PATH).await?;
    if output == Output::Json {
        return Ok(json(body));
    }
    let backends: Vec<BackendRow> = client.decode(PATH, &body)?;
    Ok(Report::fine(backends_table(&backends)))
}

pub(super) fn backends_table(backends: &[BackendRow]) -> String {
    let columns = [
        Left("ADDRESS"),
        Left("STATE"),
        Right("INFLIGHT"),
        Right("GRANTED"),
        Right("MAX_INFLIGHT"),
        Right("WEIGHT"),
        Right("FAILURES"),
        Right("STEERED"),
        Left("SERVICES"),
    ];
    let rows = backends.iter().map(|backend| {
        vec![
            backend.address.to_string(),
            backend.state.as_str().to_owned(),
            backend.inflight.to_string(),
            backend
                .granted
                .map_or_else(|| limit(0), |granted| granted.to_string()),
            // Without a service there is nothing that limits it, and nothing new comes.
            if backend.services.is_empty() {
                table::dash()
            } else {
                limit(backend.max_inflight)
            },
            backend.weight.to_string(),
            backend.failures.to_string(),
            backend.steered.to_string(),
            joined(&backend.services),
        ]
    });
    table::render(&columns, rows)
}

pub(super) async fn connections(
    client: &Client,
    service: Option<&str>,
    limit: Option<usize>,
    output: Output,
) -> anyhow::Result<Report> {
    let service = service
        .map(|name| name.parse::<ServiceName>())
        .transpose()
        .map_err(|fault| {
            anyhow::anyhow!(
                "--service cannot be a service's name: {fault}; write NAME or NAMESPACE/NAME"
            )
        })?;
    let parameters = [
        service.map(|name| format!("service={name}")),
        limit.map(|limit| format!("limit={limit}")),
    ];
    let path = with_query("/v1/connections", &parameters);
    let body = client.get(&path).await?;
    if output == Output::Json {
        return Ok(json(body));
    }
    let found: Connections = client.decode(&path, &body)?;
    Ok(Report::fine(connections_table(&found)))
}

fn connections_table(found: &Connections) -> String {
    let columns = [
        Left("CLIENT"),
        Left("FRONTEND"),
        Left("BACKEND"),
        Left("SERVICE"),
        Right("AGE"),
        Left("SLOT"),
    ];
    let rows = found.connections.iter().map(|connection| {
        vec![
            or_dash(connection.client),
            connection.frontend.to_string(),
            match connection.via {
                Via::Kernel => or_dash(connection.backend),
                Via::Agent => "agent".to_owned(),
            },
            or_dash(connection.service.as_ref()),
            age(connection.age_ms),
            match (connection.holds_slot, connection.via) {
                (true, _) => "held".to_owned(),
                (false, Via::Kernel) => "given back".to_owned(),
                (false, Via::Agent) => table::dash(),
            },
        ]
    });
    let mut text = table::render(&columns, rows);
    if found.truncated {
        text.push_str(&left_out(found.connections.len(), found.total));
    }
    text
}

pub(super) async fn maps(client: &Client, output: Output) -> anyhow::Result<Report> {
    const PATH: &str = "/v1/maps";
    let body = client.get(PATH).await?;
    if output == Output::Json {
        return Ok(json(body));
    }
    let maps: Vec<MapSummary> = client.decode(PATH, &body)?;
    let columns = [
        Left("NAME"),
        Right("ENTRIES"),
        Right("CAPACITY"),
        Left("HOLDS"),
    ];
    let rows = maps.into_iter().map(|map| {
        vec![
            map.name,
            map.entries.to_string(),
            or_dash(map.capacity),
            map.holds,
        ]
    });
    Ok(Report::fine(table::render(&columns, rows)))
}

/// `/v1/maps/{name}`, whatever its entries hold.
#[derive(Debug, Deserialize)]
struct AnyMap {
    total: usize,
    truncated: bool,
    entries: Vec<Map<String, Value>>,
}

pub(super) async fn map(
    client: &Client,
    name: &str,
    limit: Option<usize>,
    output: Output,
) -> anyhow::Result<Report> {
    let is_map_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    anyhow::ensure!(
        !name.is_empty() && name.chars().all(is_map_name),
        "{name:?} cannot be a map's name; `idlefirst maps` lists them"
    );
    let path = with_query(
        &format!("/v1/maps/{name}"),
        &[limit.map(|limit| format!("limit={limit}"))],
    );
    let body = client.get(&path).await?;
    if output == Output::Json {
        return Ok(json(body));
    }
    let map: AnyMap = client.decode(&path, &body)?;
    let mut text = if map.total == 0 {
        "Empty.\n".to_owned()
    } else {
        table::objects(&map.entries)
    };
    if map.truncated {
        text.push_str(&left_out(map.entries.len(), map.total));
    }
    Ok(Report::fine(text))
}

fn with_query(path: &str, parameters: &[Option<String>]) -> String {
    let given: Vec<&str> = parameters.iter().flatten().map(String::as_str).collect();
    if given.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", given.join("&"))
    }
}

fn left_out(shown: usize, total: usize) -> String {
    format!("({shown} of {total} shown; ask for more with --limit)\n")
}

/// What the agent answered, as it is.
pub(super) fn json(body: String) -> Report {
    Report::fine(body + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::occupancy::BackendState;

    #[test]
    fn backends_are_shown_with_what_they_have_and_lack() {
        let backend = BackendRow {
            address: "10.1.0.2:8080".parse().unwrap(),
            services: vec!["default/a".to_owned(), "default/b".to_owned()],
            state: BackendState::Busy,
            inflight: 2,
            granted: None,
            max_inflight: 0,
            weight: 1,
            response_time_us: None,
            failures: 0,
            last_probe: None,
            steered: 7,
            node: None,
            zone: None,
        };
        let leaving = BackendRow {
            services: Vec::new(),
            state: BackendState::Draining,
            granted: Some(0),
            ..backend.clone()
        };
        let text = backends_table(&[backend, leaving]);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[0],
            [
                "10.1.0.2:8080",
                "busy",
                "2",
                "unlimited",
                "unlimited",
                "1",
                "0",
                "7",
                "default/a,default/b"
            ]
        );
        assert_eq!(
            lines[1],
            [
                "10.1.0.2:8080",
                "draining",
                "2",
                "0",
                "-",
                "1",
                "0",
                "7",
                "-"
            ]
        );
    }

    #[test]
    fn what_is_left_out_is_said() {
        let found = Connections {
            total: 5,
            truncated: true,
            connections: Vec::new(),
        };
        let text = connections_table(&found);
        assert!(
            text.ends_with("(0 of 5 shown; ask for more with --limit)\n"),
            "{text}"
        );
    }

    #[test]
    fn a_query_has_only_what_was_given() {
        assert_eq!(with_query("/x", &[None, None]), "/x");
        let both = [Some("a=1".to_owned()), Some("b=2".to_owned())];
        assert_eq!(with_query("/x", &both), "/x?a=1&b=2");
    }
}
