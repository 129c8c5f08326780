//! `services NAME`: one service with its settings, counts and backends.

use std::fmt::Display;

use super::{
    Output, Report,
    client::Client,
    list::{backends_table, json},
    table::{self, Column::Left, joined, limit},
};
use crate::{
    admin::{Auto, Counts, Millis, ServiceDetail, Settings},
    model::{ServiceName, Setting},
};

pub(super) async fn service(client: &Client, name: &str, output: Output) -> anyhow::Result<Report> {
    let name: ServiceName = name.parse().map_err(|fault| {
        anyhow::anyhow!(
            "{name:?} cannot be a service's name: {fault}; write NAME or NAMESPACE/NAME"
        )
    })?;
    let path = format!("/v1/services/{name}");
    let body = client.get(&path).await?;
    if output == Output::Json {
        return Ok(json(body));
    }
    let detail: ServiceDetail = client.decode(&path, &body)?;
    Ok(Report::fine(service_text(&name, &detail)))
}

fn service_text(name: &ServiceName, detail: &ServiceDetail) -> String {
    let ServiceDetail {
        facts,
        occupancy,
        settings,
        counters,
        backends,
    } = detail;
    let facts = table::facts(&[
        ("service", name.to_string()),
        ("frontends", joined(&facts.frontends)),
        (
            "backends",
            format!(
                "{}: {} idle, {} available, {} unhealthy",
                backends.len(),
                occupancy.idle,
                occupancy.available,
                occupancy.unhealthy
            ),
        ),
        ("inflight", occupancy.inflight.to_string()),
        ("waiters", occupancy.waiters.to_string()),
        ("connects", connects(counters)),
        ("refused", refused(counters)),
        (
            "failed",
            format!(
                "{} connects, {} ejections",
                counters.connect_failures, counters.ejections
            ),
        ),
        ("released", counters.released.to_string()),
    ]);
    let settings = table::render(
        &[Left("SETTING"), Left("VALUE"), Left("FROM")],
        settings_rows(settings),
    );
    format!("{facts}\n{settings}\n{}", backends_table(backends))
}

fn connects(counts: &Counts) -> String {
    format!(
        "{} to idle backends, {} to busy ones, {} as trials, {} beyond the limit, {} to the agent",
        counts.idle, counts.shared, counts.trials, counts.over_admitted, counts.sent
    )
}

fn refused(counts: &Counts) -> String {
    format!(
        "{} in connect(): {} by the rate limit, {} by a full queue, {} without the agent, {} without backends",
        counts.refused,
        counts.rate_limited,
        counts.queue_full,
        counts.agent_gone,
        counts.no_backends
    )
}

fn settings_rows(settings: &Settings) -> Vec<Vec<String>> {
    let Settings {
        queue,
        health,
        breaker,
        ..
    } = settings;
    let ms = |ms: &u64| format!("{ms} ms");
    vec![
        plain("protocol", &settings.protocol),
        plain("admission", &settings.admission),
        plain("strategy", &settings.strategy),
        row("max_inflight", &settings.max_inflight, |slots| {
            limit(*slots)
        }),
        plain("queue.size", &queue.size),
        row(
            "queue.timeout",
            &queue.timeout_ms,
            |timeout| match timeout {
                Millis::Fixed(timeout) => ms(timeout),
                Millis::Auto(Auto::Auto) => "auto".to_owned(),
            },
        ),
        plain("queue.attempts", &queue.attempts),
        row("queue.tick", &queue.tick_ms, ms),
        plain("queue.overtaking", &queue.overtaking),
        plain("queue.refuse", &queue.refuse),
        plain("queue.adaptive", &queue.adaptive),
        row("rate_limit", &settings.rate_limit, |limit| match limit {
            Some(limit) => format!("{} per second, burst {}", limit.per_second, limit.burst),
            None => "none".to_owned(),
        }),
        plain("on_agent_loss", &settings.on_agent_loss),
        plain("health.probe", &health.probe),
        plain("health.path", &health.path),
        row("health.interval", &health.interval_ms, ms),
        row("health.timeout", &health.timeout_ms, ms),
        plain("health.failures", &health.failures),
        plain("breaker.failures", &breaker.failures),
        row("breaker.open", &breaker.open_ms, ms),
    ]
}

fn plain<T: Display>(name: &str, setting: &Setting<T>) -> Vec<String> {
    row(name, setting, ToString::to_string)
}

fn row<T>(name: &str, setting: &Setting<T>, shown: impl FnOnce(&T) -> String) -> Vec<String> {
    vec![
        name.to_owned(),
        shown(&setting.value),
        setting.origin.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Origin, Service};

    #[test]
    fn every_setting_has_a_row_with_its_origin() {
        let mut service = Service::named("hello".parse().unwrap());
        service.queue.size = Setting::new(50, Origin::Function);
        let rows = settings_rows(&(&service).into());
        let shown = |name: &str| {
            let row = rows.iter().find(|row| row[0] == name);
            row.map(|row| (row[1].as_str(), row[2].as_str()))
        };
        for (name, value, origin) in [
            ("max_inflight", "unlimited", "built-in"),
            ("queue.size", "50", "function"),
            ("queue.timeout", "100 ms", "built-in"),
            ("rate_limit", "none", "built-in"),
            ("on_agent_loss", "over-admit", "built-in"),
            ("breaker.open", "30000 ms", "built-in"),
        ] {
            assert_eq!(shown(name), Some((value, origin)), "{name}");
        }
    }
}
