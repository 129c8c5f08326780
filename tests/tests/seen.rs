//! What a person can see of overflow: queues, statistics, events, metrics; and draining by hand.

#![forbid(unsafe_code)]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    admin::Admin,
    agent::{Agent, AgentOptions},
    crowd::{Crowd, SOON, ask, frontend_address, pod_address, service, settle},
    exact::{ExactServer, Request},
    wait::eventually,
};

const ADMIN_TCP: ([u8; 4], u16) = ([127, 0, 0, 1], 9090);
/// Listeners to events at a time, as documented.
const MAX_LISTENERS: usize = 64;

/// One pod of one slot, and a service in whose queue one may wait, for long.
struct Stage {
    agent: Agent,
    server: ExactServer,
    crowd: Crowd,
}

impl Stage {
    fn new() -> Result<Self> {
        let crowd = Crowd::new(2)?;
        let server = crowd.serve(0, 1, Duration::ZERO)?;
        let hello = service(0, 1, [0]).with("queue", json!({"size": 1, "timeout": "30s"}));
        Ok(Self {
            agent: Agent::start(&crowd.netns, &crowd.cgroup, &[hello])?,
            server,
            crowd,
        })
    }

    fn finish(self) -> Result<()> {
        settle(&self.agent, [&self.server]);
        self.agent.stop()
    }

    /// Someone who finds the queue full: the agent ends it.
    fn refused(&self) -> Result<()> {
        let refused = self.crowd.dial(frontend_address(0))?;
        ask(&refused, Request::Answer).expect_err("the queue is full");
        Ok(())
    }
}

fn metrics(admin: &Admin) -> Result<String> {
    let answer = admin.get("/metrics")?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.body)
}

#[test]
fn whoever_waits_is_seen_everywhere() -> Result<()> {
    let stage = Stage::new()?;
    let admin = stage.agent.admin();
    let held = stage.crowd.dial(frontend_address(0))?;
    let waiter = stage.crowd.dial(frontend_address(0))?;
    eventually(SOON, || -> Result<()> {
        let queue = stage.agent.queue("service-0")?;
        ensure!(queue.waiters == 1 && queue.oldest_ms.is_some(), "{queue:?}");
        ensure!(queue.accepted == 1, "{queue:?}");
        Ok(())
    });
    stage.refused()?;
    eventually(SOON, || -> Result<()> {
        let refused = stage.agent.queue("service-0")?.refused_for("queue-full");
        ensure!(refused == 1, "{refused} refused");
        Ok(())
    });

    // Computed at most once a second, so maybe before the last of it.
    eventually(SOON, || -> Result<()> {
        let stats = admin.get_json("/v1/stats")?;
        ensure!(stats["active_queues"] == 1, "{stats}");
        for figures in [&stats["total"], &stats["services"][0]] {
            ensure!(figures["requests"] == 3, "{stats}");
            ensure!(figures["successful_selections"] == 1, "{stats}");
            ensure!(figures["refused"]["queue-full"] == 1, "{stats}");
            ensure!(figures["waiters"] == 1, "{stats}");
        }
        Ok(())
    });
    let text = metrics(&admin)?;
    let labels = r#"function="service-0",namespace="default""#;
    let selection = "openfaas_pod_selection_duration_seconds";
    for line in [
        format!("openfaas_queue_depth{{{labels}}} 1"),
        format!(r#"{selection}_bucket{{{labels},result="success",le="0.005"}} 1"#),
        format!(r#"{selection}_count{{{labels},result="success"}} 1"#),
        format!(r#"{selection}_count{{{labels},result="failure"}} 1"#),
        "idlefirst_active_queues 1".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} is not in:\n{text}");
    }
    let connections = admin.get_json("/v1/connections")?;
    let client = waiter.local_addr()?.to_string();
    let rows = connections["connections"].as_array().context("a list")?;
    let row = rows.iter().find(|row| row["client"] == *client);
    let row = row.with_context(|| format!("{client} is not among {connections}"))?;
    assert_eq!(
        (&row["via"], &row["backend"]),
        (&json!("agent"), &Value::Null)
    );

    drop(held);
    ask(&waiter, Request::Answer)?;
    let queue = stage.agent.queue("service-0")?;
    assert_eq!((queue.waiters, queue.oldest_ms), (0, None));
    assert_eq!(queue.queued, 1);
    drop(waiter);
    stage.finish()
}

#[test]
fn refusals_and_rejected_configurations_are_told_as_they_happen() -> Result<()> {
    let stage = Stage::new()?;
    let admin = stage.agent.admin();
    let mut all = admin.follow("")?;
    let mut of_service = admin.follow("?service=service-0&kind=refusal,ejection")?;
    let held = stage.crowd.dial(frontend_address(0))?;
    let waiter = stage.crowd.dial(frontend_address(0))?;
    eventually(SOON, || -> Result<()> {
        let waiters = stage.agent.queue("service-0")?.waiters;
        ensure!(waiters == 1, "{waiters} wait");
        Ok(())
    });
    for _ in 0..3 {
        stage.refused()?;
    }
    for follower in [&mut all, &mut of_service] {
        let mut told = 0;
        while told < 3 {
            let event = follower.next_event()?;
            assert_eq!(event.name, "refusal", "{event:?}");
            assert_eq!(event.data["service"], "default/service-0");
            assert_eq!(event.data["reason"], "queue-full");
            assert_eq!(event.data["id"], event.id.context("an id")?);
            told += event.data["count"].as_u64().context("a count")?;
        }
        assert_eq!(told, 3);
    }
    stage.agent.reload_expecting_rejection("source: [")?;
    let event = all.next_event()?;
    assert_eq!(event.name, "config-error");
    let detail = event.data["detail"].as_str().context("a detail")?;
    let file = stage.agent.config_path().display().to_string();
    assert!(detail.starts_with(&file), "{detail}");
    drop((held, waiter));
    stage.finish()
}

#[test]
fn an_ejection_is_told_and_counted() -> Result<()> {
    let crowd = Crowd::new(2)?;
    let server = crowd.serve(0, 0, Duration::ZERO)?;
    // Nobody listens at pod 1.
    let hello = service(0, 0, [0, 1]).with("breaker", json!({"failures": 2, "open": "1h"}));
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &[hello])?;
    let mut ejections = agent.admin().follow("?kind=ejection")?;
    let pod = pod_address(1).to_string();
    for _ in 0..20 {
        // Refused by one of the two pods until that is out.
        let _ = crowd.dial(frontend_address(0));
    }
    let event = ejections.next_event()?;
    assert_eq!(event.data["backend"], pod, "{event:?}");
    assert_eq!(event.data["service"], "default/service-0");
    assert_eq!(event.data["reason"], "connect-failures");
    let backends = agent.admin().get_json("/v1/backends")?;
    let rows = backends.as_array().context("a list")?;
    let row = rows.iter().find(|row| row["address"] == *pod);
    let row = row.with_context(|| format!("{pod} is not among {backends}"))?;
    assert_eq!(row["state"], "ejected");
    assert_eq!(row["failures"], 2);
    let text = metrics(&agent.admin())?;
    for line in [
        r#"idlefirst_ejections_total{namespace="default",service="service-0"} 1"#,
        r#"idlefirst_events_total{kind="ejection"} 1"#,
        r#"idlefirst_backends{state="ejected"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    settle(&agent, [&server]);
    agent.stop()
}

#[test]
fn steering_is_reported_only_while_someone_listens() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let server = crowd.serve(0, 0, Duration::ZERO)?;
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &[service(0, 0, [0])])?;
    let admin = agent.admin();
    let is_on = |expected: bool| {
        eventually(SOON, || -> Result<()> {
            let state = admin.get_json("/v1/maps/AGENT")?;
            ensure!(state["entries"][0]["steer_events"] == expected, "{state}");
            Ok(())
        });
    };
    is_on(false);
    let mut follower = admin.follow("?kind=steer")?;
    is_on(true);
    // One in sixteen is reported.
    for _ in 0..400 {
        crowd.dial(frontend_address(0))?;
    }
    let event = follower.next_event()?;
    assert_eq!(event.name, "steer");
    assert_eq!(event.data["service"], "default/service-0");
    assert_eq!(event.data["backend"], pod_address(0).to_string());
    drop(follower);
    is_on(false);
    settle(&agent, [&server]);
    agent.stop()
}

#[test]
fn those_who_listen_are_bounded_and_leave_room_for_others() -> Result<()> {
    let stage = Stage::new()?;
    let admin = stage.agent.admin();
    let followers = (0..MAX_LISTENERS)
        .map(|_| admin.follow(""))
        .collect::<Result<Vec<_>>>()?;
    let refused = admin.follow("").expect_err("as many listen as may");
    assert!(refused.to_string().contains("503"), "{refused:#}");
    assert_eq!(admin.get("/v1/queues")?.status, 200);
    drop(followers);
    eventually(SOON, || admin.follow("").map(drop));

    for (query, status) in [
        ("?kind=steers", 400),
        ("?service=No_Name", 400),
        ("?x=1", 400),
    ] {
        let answer = admin.get(&format!("/v1/events{query}"))?;
        assert_eq!(answer.status, status, "{query}: {answer:?}");
    }
    stage.finish()
}

#[test]
fn a_drained_backend_gets_nothing_new_and_keeps_what_it_has() -> Result<()> {
    let crowd = Crowd::new(2)?;
    let servers = [
        crowd.serve(0, 0, Duration::ZERO)?,
        crowd.serve(1, 0, Duration::ZERO)?,
    ];
    let options = AgentOptions {
        admin_tcp: Some(ADMIN_TCP.into()),
        ..AgentOptions::new(&crowd.netns, &crowd.cgroup)
    };
    let agent = options.start(&[service(0, 0, [0, 1])])?;
    let admin = agent.admin();
    let first = crowd.dial(frontend_address(0))?;
    let inflight = |pod: u8| -> Result<u64> {
        let address = pod_address(pod).to_string();
        let rows = agent.backends()?.into_iter();
        Ok(rows
            .filter(|row| row.address == address)
            .map(|row| row.inflight)
            .sum())
    };
    let drained = if inflight(0)? == 1 { 0 } else { 1 };
    let path = |pod: SocketAddr, action: &str| {
        format!("/v1/services/default/service-0/backends/{pod}/{action}")
    };
    let answer = admin.send("POST", &path(pod_address(drained), "drain"), "")?;
    assert_eq!(answer.status, 200, "{answer:?}");
    let row = answer.json()?;
    assert_eq!(row["state"], "draining");
    assert_eq!(row["inflight"], 1);
    let more = (0..10)
        .map(|_| crowd.dial(frontend_address(0)))
        .collect::<std::io::Result<Vec<_>>>()?;
    assert_eq!((inflight(drained)?, inflight(1 - drained)?), (1, 10));
    ask(&first, Request::Answer)?;

    let answer = admin.send("POST", &path(pod_address(drained), "undrain"), "")?;
    assert_eq!(answer.json()?["state"], "busy");
    drop((first, more));
    settle(&agent, &servers);
    let after = [
        crowd.dial(frontend_address(0))?,
        crowd.dial(frontend_address(0))?,
    ];
    assert_eq!((inflight(0)?, inflight(1)?), (1, 1));
    drop(after);

    for (pod, status) in [("10.111.1.99:8080", 404), ("nowhere", 400)] {
        let path = format!("/v1/services/default/service-0/backends/{pod}/drain");
        let answer = admin.send("POST", &path, "")?;
        assert_eq!(answer.status, status, "{pod}: {answer:?}");
    }
    let over_tcp = || Admin::Tcp(ADMIN_TCP.into()).send("POST", &path(pod_address(0), "drain"), "");
    assert_eq!(crowd.netns.run(over_tcp)?.status, 403);
    settle(&agent, &servers);
    agent.stop()
}

#[test]
fn metrics_can_be_switched_off() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let options = AgentOptions {
        environment: vec![("METRICS_COLLECTION_ENABLED".to_owned(), "false".to_owned())],
        ..AgentOptions::new(&crowd.netns, &crowd.cgroup)
    };
    let agent = options.start(&[service(0, 0, [0])])?;
    let answer = agent.admin().get("/metrics")?;
    assert_eq!(answer.status, 404, "{answer:?}");
    let detail = answer.json()?["detail"].to_string();
    assert!(detail.contains("METRICS_COLLECTION_ENABLED"), "{detail}");
    agent.stop()
}
