//! `status`: whether the agent steers, by which configuration, how busy it is; and `log-level`.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    Output, Report,
    client::Client,
    list, queues,
    table::{self, age},
};
use crate::{
    admin::{
        Applied, BackendRow, Configuration, LogLevelBody, Missing, Problem, QueueRow,
        ServiceSummary, Version,
    },
    config::LogLevel,
    occupancy::BackendState,
};

const AGENT: &str = "/v1/maps/AGENT";

/// Everything that `status` shows.
struct Status {
    address: String,
    version: Version,
    missing: Vec<Missing>,
    config: Configuration,
    services: usize,
    inflight: u64,
    states: BTreeMap<BackendState, usize>,
    agent: AgentState,
    queues: Vec<QueueRow>,
}

/// What the programs know about the agent: the one entry of `/v1/maps/AGENT`.
#[derive(Debug, Deserialize, Serialize)]
struct AgentState {
    is_alive: bool,
    heartbeat_age_ms: u64,
    overflow_v4: Option<SocketAddr>,
    overflow_v6: Option<SocketAddr>,
    port_v4: Option<u16>,
    port_v6: Option<u16>,
}

#[derive(Debug, Deserialize)]
struct AgentMap {
    entries: [AgentState; 1],
}

pub(super) async fn status(client: &Client, output: Output) -> anyhow::Result<Report> {
    let status = gather(client).await?;
    let text = match output {
        Output::Json => status.json(),
        Output::Table => status.table(),
    };
    Ok(Report {
        text,
        fine: status.missing.is_empty(),
    })
}

async fn gather(client: &Client) -> anyhow::Result<Status> {
    let version = client.decode("/version", &client.get("/version").await?)?;
    let config = client.decode("/v1/config", &client.get("/v1/config").await?)?;
    let services: Vec<ServiceSummary> =
        client.decode("/v1/services", &client.get("/v1/services").await?)?;
    let backends: Vec<BackendRow> =
        client.decode("/v1/backends", &client.get("/v1/backends").await?)?;
    let mut states = BTreeMap::new();
    for backend in &backends {
        *states.entry(backend.state).or_default() += 1;
    }
    let AgentMap { entries: [agent] } = client.decode(AGENT, &client.get(AGENT).await?)?;
    Ok(Status {
        address: client.address().to_string(),
        version,
        missing: missing(client).await?,
        config,
        services: services.len(),
        inflight: backends.iter().map(|backend| backend.inflight).sum(),
        states,
        agent,
        queues: client.decode(queues::PATH, &client.get(queues::PATH).await?)?,
    })
}

pub(super) async fn missing(client: &Client) -> anyhow::Result<Vec<Missing>> {
    let answer = client.send(Method::GET, "/readyz", String::new()).await?;
    if answer.status != StatusCode::SERVICE_UNAVAILABLE {
        return Ok(Vec::new());
    }
    Ok(client.decode::<Problem>("/readyz", &answer.body)?.missing)
}

impl Status {
    fn json(&self) -> String {
        let value = json!({
            "address": self.address,
            "ready": self.missing.is_empty(),
            "missing": self.missing,
            "version": self.version,
            "config": self.config,
            "services": self.services,
            "inflight": self.inflight,
            "backends": self.states,
            "overflow": self.agent,
            "waiters": self.waiters(),
            "refused": self.refused(),
        });
        format!("{value}\n")
    }

    fn table(&self) -> String {
        let states: Vec<_> = self
            .states
            .iter()
            .map(|(state, count)| format!("{count} {}", state.as_str()))
            .collect();
        let mut text = table::facts(&[
            (
                "agent",
                format!("{} on {}", self.version.version, self.address),
            ),
            ("kernel", self.version.kernel_release.clone()),
            ("cgroup", self.version.cgroup.clone()),
            ("up for", age(self.version.uptime_seconds * 1000)),
            ("steering", self.steering()),
            ("configuration", self.configuration()),
            ("services", self.services.to_string()),
            (
                "backends",
                if states.is_empty() {
                    "0".to_owned()
                } else {
                    states.join(", ")
                },
            ),
            ("inflight", self.inflight.to_string()),
            ("overflow", self.agent.to_string()),
            ("waiters", self.waiters().to_string()),
            ("refused", queues::refused(&self.queues)),
        ]);
        let problems = self
            .config
            .problems
            .iter()
            .map(|problem| ("rejected", problem));
        let warnings = self
            .config
            .warnings
            .iter()
            .map(|warning| ("warning", warning));
        for (kind, problem) in problems.chain(warnings) {
            text.push_str(&format!("{kind}: {}\n", problem.in_file(&self.config.file)));
        }
        text
    }

    fn waiters(&self) -> u32 {
        self.queues.iter().map(|queue| queue.waiters).sum()
    }

    fn refused(&self) -> u64 {
        let refused = self.queues.iter().flat_map(|queue| queue.refused.values());
        refused.sum()
    }

    fn steering(&self) -> String {
        let missing = self.missing.iter().map(|missing| match missing {
            Missing::Programs => "the programs are not attached",
            Missing::Configuration => "the first configuration is not in the kernel",
            Missing::Source => "the Kubernetes API has not told yet what services there are",
        });
        match missing.collect::<Vec<_>>() {
            none if none.is_empty() => "yes".to_owned(),
            some => format!("no: {}", some.join(", ")),
        }
    }

    fn configuration(&self) -> String {
        let Configuration {
            file,
            generation,
            generation_in_kernel,
            applied,
            rejected,
            ..
        } = &self.config;
        let applied = match applied {
            Applied::InForce => "in force".to_owned(),
            Applied::Pending => {
                format!("on its way; generation {generation_in_kernel} is in the kernel")
            }
            Applied::Rejected => "in force; the newest change of the file was rejected".to_owned(),
        };
        format!("{file}, generation {generation}, {applied}, {rejected} rejected so far")
    }
}

impl fmt::Display for AgentState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_alive {
            let silent = age(self.heartbeat_age_ms);
            return write!(
                out,
                "nothing is sent to the agent: the programs have not heard of it for {silent}"
            );
        }
        let ports: Vec<_> = [("IPv4", self.port_v4), ("IPv6", self.port_v6)]
            .into_iter()
            .filter_map(|(family, port)| Some(format!("{family} port {}", port?)))
            .collect();
        if ports.is_empty() {
            return out.write_str("the agent takes none");
        }
        let others: Vec<_> = [self.overflow_v4, self.overflow_v6]
            .into_iter()
            .flatten()
            .collect();
        write!(
            out,
            "{} over loopback; from other network namespaces: {}",
            ports.join(" and "),
            table::joined(&others)
        )
    }
}

pub(super) async fn log_level(
    client: &Client,
    level: LogLevel,
    output: Output,
) -> anyhow::Result<Report> {
    const PATH: &str = "/v1/log-level";
    let body = client
        .put(PATH, serde_json::to_string(&LogLevelBody { level })?)
        .await?;
    if output == Output::Json {
        return Ok(list::json(body));
    }
    let LogLevelBody { level } = client.decode(PATH, &body)?;
    Ok(Report::fine(format!(
        "The agent now logs {level} and more severe lines.\n"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflow_is_told_in_one_line() {
        let mut agent = AgentState {
            is_alive: true,
            heartbeat_age_ms: 100,
            overflow_v4: Some("10.0.0.1:4000".parse().unwrap()),
            overflow_v6: None,
            port_v4: Some(4000),
            port_v6: Some(4001),
        };
        let expected = "IPv4 port 4000 and IPv6 port 4001 over loopback; \
                        from other network namespaces: 10.0.0.1:4000";
        assert_eq!(agent.to_string(), expected);
        (agent.port_v4, agent.port_v6) = (None, None);
        assert_eq!(agent.to_string(), "the agent takes none");
        (agent.is_alive, agent.heartbeat_age_ms) = (false, 5_000);
        assert!(agent.to_string().ends_with("for 5.0s"), "{agent}");
    }
}
