//! The commands that list: services, backends, connections, maps.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Output, Report,
    client::Client,
    status,
    table::{self, Column::Left, Column::Right, age, joined, limit, micros, or_dash},
};
use crate::{
    admin::{BackendRow, Connections, MapSummary, Missing, ServiceFacts, ServiceSummary, Via},
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
        return none(client).await;
    }
    Ok(Report::fine(services_table(&services)))
}

/// That there are no services, and why.
async fn none(client: &Client) -> anyhow::Result<Report> {
    if status::missing(client).await?.contains(&Missing::Source) {
        return Ok(Report {
            text: "No services yet. The agent has not read the cluster so far; its log says what \
                   it waits for.\n"
                .to_owned(),
            fine: false,
        });
    }
    Ok(Report::fine(
        "No services. Neither the agent's file nor an object of the cluster names one.\n"
            .to_owned(),
    ))
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
            strategy(facts),
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

/// The strategy; the one in force behind it if that is another.
pub(super) fn strategy(facts: &ServiceFacts) -> String {
    match facts.strategy == facts.strategy_in_force {
        true => facts.strategy.to_string(),
        false => format!("{} ({})", facts.strategy, facts.strategy_in_force),
    }
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
    // What only some configurations know of would otherwise be a column of dashes.
    let has = |known: fn(&BackendRow) -> bool| backends.iter().any(known);
    let leads = has(|it| it.is_leader.is_some());
    let warms_up = has(|it| it.warming_up_ms.is_some());
    let (has_node, has_zone) = (has(|it| it.node.is_some()), has(|it| it.zone.is_some()));
    let columns = [
        (true, Left("ADDRESS")),
        (true, Left("STATE")),
        (leads, Left("LEADS")),
        (true, Right("INFLIGHT")),
        (true, Right("GRANTED")),
        (true, Right("MAX_INFLIGHT")),
        (true, Right("WEIGHT")),
        (true, Right("RESPONSE")),
        (warms_up, Right("WARMING_UP")),
        (true, Right("FAILURES")),
        (true, Right("STEERED")),
        (has_node, Left("NODE")),
        (has_zone, Left("ZONE")),
        (true, Left("SERVICES")),
    ];
    let rows = backends.iter().map(|backend| {
        let cells = backend_cells(backend).into_iter();
        let shown = cells.zip(&columns).filter(|(_, (is_shown, _))| *is_shown);
        shown.map(|(cell, _)| cell).collect()
    });
    let shown = columns.iter().filter(|(is_shown, _)| *is_shown);
    let shown: Vec<_> = shown.map(|(_, column)| *column).collect();
    table::render(&shown, rows)
}

/// A cell for each of the columns that there can be.
fn backend_cells(backend: &BackendRow) -> [String; 14] {
    [
        backend.address.to_string(),
        backend.state.as_str().to_owned(),
        or_dash(backend.is_leader.filter(|leads| *leads).map(|_| "yes")),
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
        or_dash(backend.response_time_us.map(micros)),
        or_dash(backend.warming_up_ms.map(age)),
        backend.failures.to_string(),
        backend.steered.to_string(),
        or_dash(backend.node.as_ref()),
        or_dash(backend.zone.as_ref()),
        joined(&backend.services),
    ]
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

    fn backend() -> BackendRow {
        BackendRow {
            address: "10.1.0.2:8080".parse().unwrap(),
            services: vec!["default/a".to_owned(), "default/b".to_owned()],
            state: BackendState::Busy,
            inflight: 2,
            granted: None,
            max_inflight: 0,
            weight: 3,
            response_time_us: Some(12_345),
            failures: 0,
            last_probe: None,
            steered: 7,
            node: None,
            zone: None,
            is_leader: None,
            warming_up_ms: None,
        }
    }

    fn words(text: &str) -> Vec<Vec<&str>> {
        let lines = text.lines();
        lines
            .map(|line| line.split_whitespace().collect())
            .collect()
    }

    #[test]
    fn backends_are_shown_with_what_they_have_and_lack() {
        let leaving = BackendRow {
            services: Vec::new(),
            state: BackendState::Draining,
            granted: Some(0),
            response_time_us: None,
            ..backend()
        };
        let text = backends_table(&[backend(), leaving]);
        let expected = [
            "ADDRESS STATE INFLIGHT GRANTED MAX_INFLIGHT WEIGHT RESPONSE FAILURES STEERED SERVICES",
            "10.1.0.2:8080 busy 2 unlimited unlimited 3 12.3ms 0 7 default/a,default/b",
            "10.1.0.2:8080 draining 2 0 - 3 - 0 7 -",
        ];
        assert_eq!(words(&text), words(&expected.join("\n")));
    }

    #[test]
    fn what_any_backend_has_gets_a_column() {
        let leader = BackendRow {
            is_leader: Some(true),
            warming_up_ms: Some(1_500),
            node: Some("n1".to_owned()),
            zone: Some("z1".to_owned()),
            ..backend()
        };
        let other = BackendRow {
            is_leader: Some(false),
            ..backend()
        };
        let text = backends_table(&[leader, other]);
        let lines = words(&text);
        let column = |name| {
            let place = lines[0].iter().position(|it| *it == name).unwrap();
            [lines[1][place], lines[2][place]]
        };
        for (name, cells) in [
            ("LEADS", ["yes", "-"]),
            ("RESPONSE", ["12.3ms", "12.3ms"]),
            ("WARMING_UP", ["1.5s", "-"]),
            ("NODE", ["n1", "-"]),
            ("ZONE", ["z1", "-"]),
            ("SERVICES", ["default/a,default/b"; 2]),
        ] {
            assert_eq!(column(name), cells, "{name}");
        }
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
