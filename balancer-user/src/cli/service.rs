//! `services NAME`: one service with its settings, counts and backends.

use std::fmt::Display;

use super::{
    Output, Report,
    client::Client,
    list::{backends_table, json},
    table::{self, Column::Left, age, joined, limit, or_dash},
};
use crate::{
    admin::{Auto, Choice, Counts, HashKey, Millis, ServiceDetail, Settings},
    model::{Locality, ServiceName, Setting, Strategy},
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
        choice: _,
        occupancy,
        settings,
        counters,
        backends,
        config_errors,
    } = detail;
    let mut lines = vec![
        ("service", name.to_string()),
        ("frontends", joined(&facts.frontends)),
    ];
    lines.extend(
        config_errors
            .iter()
            .map(|error| ("config error", error.to_string())),
    );
    lines.extend(choosing(detail));
    lines.extend([
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
    let facts = table::facts(&lines);
    let settings = table::render(
        &[Left("SETTING"), Left("VALUE"), Left("FROM")],
        settings_rows(settings),
    );
    format!("{facts}\n{settings}\n{}", backends_table(backends))
}

/// How a backend is chosen. What is off is left out.
fn choosing(detail: &ServiceDetail) -> Vec<(&'static str, String)> {
    let ServiceDetail {
        facts,
        choice,
        settings,
        backends,
        ..
    } = detail;
    let mut lines = vec![("strategy", strategy(detail))];
    if facts.strategy_in_force == Strategy::Leader {
        lines.push(("leader", leader(choice)));
        lines.push(("failovers", failovers(choice)));
    }
    if settings.locality.value != Locality::None {
        lines.push(("locality", settings.locality.value.to_string()));
    }
    if let Some(affinity) = &settings.affinity.value {
        let lasts = age(affinity.timeout_ms);
        let bound = choice.affinity_entries.map_or_else(
            || "not in force".to_owned(),
            |clients| format!("clients bound: {clients}, each for {lasts} after its last use"),
        );
        lines.push(("affinity", bound));
    }
    if settings.slow_start_ms.value != 0 {
        let warming_up = backends.iter().filter(|it| it.warming_up_ms.is_some());
        let (lasts, count) = (age(settings.slow_start_ms.value), warming_up.count());
        lines.push((
            "slow start",
            format!("{lasts}; backends warming up: {count}"),
        ));
    }
    lines
}

fn strategy(detail: &ServiceDetail) -> String {
    let ServiceDetail { facts, choice, .. } = detail;
    if facts.strategy == facts.strategy_in_force {
        return facts.strategy.to_string();
    }
    let mut text = format!("{}; in force: {}", facts.strategy, facts.strategy_in_force);
    if let Some(since_ms) = choice.strategy_since_ms {
        text.push_str(&format!(" for {}", age(since_ms)));
    }
    if let Some(reason) = &choice.strategy_reason {
        text.push_str(&format!(", because {reason}"));
    }
    text
}

fn leader(choice: &Choice) -> String {
    let leader = or_dash(choice.leader);
    match choice.leaderless_ms {
        Some(ms) => format!(
            "{leader}; no connection to it yet, the one before was lost {} ago",
            age(ms)
        ),
        None => leader,
    }
}

fn failovers(choice: &Choice) -> String {
    let figures = choice.failovers.unwrap_or_default();
    let (Some(last), Some(ago), Some(average), Some(longest)) = (
        figures.last_ms,
        figures.last_ago_ms,
        figures.average_ms,
        figures.longest_ms,
    ) else {
        return "0".to_owned();
    };
    format!(
        "{}: {average:.1} ms on average, {longest:.1} ms at most, {last:.1} ms the last, {} ago",
        figures.count,
        age(ago)
    )
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
        row("hash", &settings.hash, |key| match key {
            HashKey::Client => "client".to_owned(),
            HashKey::Header(name) => format!("header {name}"),
            HashKey::Cookie(name) => format!("cookie {name}"),
        }),
        row("affinity", &settings.affinity, |affinity| match affinity {
            Some(affinity) => match &affinity.cookie {
                Some(cookie) => format!("{} ms, cookie {cookie}", affinity.timeout_ms),
                None => ms(&affinity.timeout_ms),
            },
            None => "none".to_owned(),
        }),
        plain("locality", &settings.locality),
        row(
            "slow_start",
            &settings.slow_start_ms,
            |slow_start| match slow_start {
                0 => "none".to_owned(),
                slow_start => ms(slow_start),
            },
        ),
        plain("intercept", &settings.intercept),
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
    use crate::{
        admin::{FailoverFigures, ServiceFacts},
        model::{self, Affinity, Origin, Service},
        occupancy::Occupancy,
    };

    /// Service `hello` with this strategy, while another one may be in force.
    fn detail(strategy: Strategy, strategy_in_force: Strategy) -> ServiceDetail {
        let mut service = Service::named("hello".parse().unwrap());
        service.strategy.value = strategy;
        ServiceDetail {
            facts: ServiceFacts {
                namespace: "default".to_owned(),
                name: "hello".to_owned(),
                frontends: Vec::new(),
                protocol: service.protocol.value,
                admission: service.admission.value,
                strategy,
                strategy_in_force,
                max_inflight: 0,
            },
            choice: Choice {
                strategy_reason: None,
                strategy_since_ms: None,
                leader: None,
                leaderless_ms: None,
                failovers: None,
                affinity_entries: None,
            },
            occupancy: Occupancy::default(),
            settings: (&service).into(),
            counters: Counts::default(),
            backends: Vec::new(),
            config_errors: Vec::new(),
        }
    }

    #[test]
    fn a_plain_service_says_its_strategy_and_no_more() {
        let lines = choosing(&detail(Strategy::P2c, Strategy::P2c));
        assert_eq!(lines, [("strategy", "p2c".to_owned())]);
    }

    #[test]
    fn adaptive_says_what_is_in_force_and_why() {
        let mut detail = detail(Strategy::Adaptive, Strategy::RoundRobin);
        assert_eq!(strategy(&detail), "adaptive; in force: round-robin");
        detail.choice.strategy_since_ms = Some(185_000);
        detail.choice.strategy_reason = Some("all are alike".to_owned());
        let expected = "adaptive; in force: round-robin for 3m05s, because all are alike";
        assert_eq!(strategy(&detail), expected);
        let text = service_text(&"hello".parse().unwrap(), &detail);
        assert!(
            text.contains(&format!("\nstrategy   {expected}\n")),
            "{text}"
        );
    }

    #[test]
    fn a_leader_service_says_who_leads_and_how_failovers_went() {
        let mut detail = detail(Strategy::Leader, Strategy::Leader);
        let none = [("leader", "-".to_owned()), ("failovers", "0".to_owned())];
        assert_eq!(choosing(&detail)[1..], none);
        detail.choice.leader = Some("10.1.0.2:80".parse().unwrap());
        detail.choice.leaderless_ms = Some(40);
        detail.choice.failovers = Some(FailoverFigures {
            count: 2,
            last_ms: Some(9.5),
            last_ago_ms: Some(1_250),
            average_ms: Some(10.04),
            longest_ms: Some(10.58),
        });
        let lines = choosing(&detail);
        let leader = "10.1.0.2:80; no connection to it yet, the one before was lost 40ms ago";
        assert_eq!(lines[1], ("leader", leader.to_owned()));
        let failovers = "2: 10.0 ms on average, 10.6 ms at most, 9.5 ms the last, 1.2s ago";
        assert_eq!(lines[2], ("failovers", failovers.to_owned()));
    }

    #[test]
    fn what_modifies_a_strategy_is_said_where_it_is_on() {
        let mut detail = detail(Strategy::IdleFirst, Strategy::IdleFirst);
        detail.settings.locality.value = Locality::PreferZone;
        detail.settings.slow_start_ms.value = 30_000;
        detail.settings.affinity.value = Some(crate::admin::Affinity {
            timeout_ms: 600_000,
            cookie: None,
        });
        detail.choice.affinity_entries = Some(12);
        let expected = [
            ("strategy", "idle-first"),
            ("locality", "prefer-zone"),
            (
                "affinity",
                "clients bound: 12, each for 10m00s after its last use",
            ),
            ("slow start", "30.0s; backends warming up: 0"),
        ];
        let expected = expected.map(|(name, value)| (name, value.to_owned()));
        assert_eq!(choosing(&detail), expected);
        // A leader binds nobody, whatever is configured.
        detail.choice.affinity_entries = None;
        let affinity = ("affinity", "not in force".to_owned());
        assert_eq!(choosing(&detail)[2], affinity);
    }

    #[test]
    fn every_setting_has_a_row_with_its_origin() {
        let mut service = Service::named("hello".parse().unwrap());
        service.queue.size = Setting::new(50, Origin::Function);
        service.affinity.value = Some(Affinity {
            timeout: Affinity::DEFAULT_TIMEOUT,
            cookie: Some("session".parse().unwrap()),
        });
        let hash = model::HashKey::Header("x-user".parse().unwrap());
        service.hash = Setting::new(hash, Origin::Service);
        let rows = settings_rows(&(&service).into());
        let shown = |name: &str| {
            let row = rows.iter().find(|row| row[0] == name);
            row.map(|row| (row[1].as_str(), row[2].as_str()))
        };
        for (name, value, origin) in [
            ("max_inflight", "unlimited", "built-in"),
            ("strategy", "idle-first", "built-in"),
            ("hash", "header x-user", "service"),
            ("affinity", "600000 ms, cookie session", "built-in"),
            ("locality", "none", "built-in"),
            ("slow_start", "none", "built-in"),
            ("intercept", "service", "built-in"),
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
