//! Whatever shows how busy pods are says the same, and what the kernel's own socket list says.

use std::{collections::BTreeMap, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    agent::Agent,
    crowd::{Crowd, Outcome, SOON, exchange, frontend_address, pod_address, service, settle},
    exact::Request,
    wait::eventually,
};

/// Two pods of two slots, the second of which is in `NARROW` too, with a third pod; all of the
/// latter have one slot. And a service without pods.
const WIDE: u8 = 0;
const NARROW: u8 = 1;
const EMPTY: u8 = 2;

/// Samples by name and labels, the labels in alphabetical order.
type Samples = BTreeMap<String, f64>;

#[test]
fn all_figures_agree_with_the_sockets() -> Result<()> {
    let crowd = Crowd::new(3)?;
    let servers = [2, 1, 1].into_iter().zip(0..);
    let servers = servers
        .map(|(limit, pod)| crowd.serve(pod, limit, Duration::ZERO))
        .collect::<Result<Vec<_>>>()?;
    let services = [
        service(WIDE, 2, [0, 1]),
        service(NARROW, 1, [1, 2]),
        service(EMPTY, 1, []),
    ];
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &services)?;
    assert_agree(&agent, &crowd, [0, 0, 0])?;
    let before = samples(&agent)?;

    let mut held = vec![
        crowd.dial(frontend_address(WIDE))?,
        crowd.dial(frontend_address(WIDE))?,
    ];
    assert_agree(&agent, &crowd, [1, 1, 0])?;
    held.push(crowd.dial(frontend_address(WIDE))?);
    held.push(crowd.dial(frontend_address(NARROW))?);
    assert_agree(&agent, &crowd, [2, 1, 1])?;
    for frontend in [WIDE, NARROW, NARROW, EMPTY] {
        crowd
            .dial(frontend_address(frontend))
            .expect_err("no pod is available");
    }
    assert_agree(&agent, &crowd, [2, 1, 1])?;
    held.remove(0);
    eventually(SOON, || {
        let taken = agent.inflight()?;
        ensure!(taken == 3, "{taken} slots are taken");
        Ok(())
    });
    drop(held);
    settle(&agent, &servers);
    assert_agree(&agent, &crowd, [0, 0, 0])?;

    let moved = |sample: &str| -> Result<f64> {
        let of = |samples: &Samples| {
            let value = samples.get(sample).copied();
            value.with_context(|| format!("no {sample} in {samples:#?}"))
        };
        Ok(of(&samples(&agent)?)? - of(&before)?)
    };
    for (service, result, count) in [
        (WIDE, "idle", 2.0),
        (WIDE, "shared", 1.0),
        (WIDE, "queue_full", 1.0),
        (NARROW, "idle", 1.0),
        (NARROW, "queue_full", 2.0),
        (EMPTY, "no_backends", 1.0),
        (EMPTY, "idle", 0.0),
    ] {
        let sample = format!(
            "idlefirst_connects_total{{namespace=\"default\",result=\"{result}\",service=\"service-{service}\"}}"
        );
        assert_eq!(moved(&sample)?, count, "{sample}");
    }
    for (service, count) in [(WIDE, 3.0), (NARROW, 1.0)] {
        let sample = format!(
            "idlefirst_slots_released_total{{namespace=\"default\",service=\"service-{service}\"}}"
        );
        assert_eq!(moved(&sample)?, count, "{sample}");
    }
    agent.stop()
}

/// Checks every place against the numbers expected, pod by pod.
fn assert_agree(agent: &Agent, crowd: &Crowd, expected: [u64; 3]) -> Result<()> {
    let admin = agent.admin();
    let number = |value: &Value| {
        value
            .as_u64()
            .with_context(|| format!("no number: {value}"))
    };
    let maps = admin.get_json("/v1/maps/BACKENDS")?;
    let maps = maps["entries"].as_array().context("a list")?;
    let samples = samples(agent)?;
    let backends = agent.backends()?;
    let connections = admin.get_json("/v1/connections")?;
    let connections = connections["connections"].as_array().context("a list")?;
    for (pod, taken) in (0..).zip(expected) {
        let address = pod_address(pod).to_string();
        let row = backends.iter().find(|row| row.address == address);
        let row = row.with_context(|| format!("{address} is not among {backends:?}"))?;
        ensure!(
            row.inflight == taken,
            "/v1/backends: {row:?}, expected {taken}"
        );
        let granted = u64::from(row.granted.context("there is a limit")?);
        let state = match taken {
            0 => "idle",
            taken if taken == granted => "full",
            _ => "busy",
        };
        ensure!(
            row.state == state,
            "/v1/backends: {row:?}, expected {state}"
        );

        let entry = maps.iter().find(|entry| entry["backend"] == *address);
        let entry = entry.with_context(|| format!("{address} is not among {maps:?}"))?;
        ensure!(
            number(&entry["inflight_kernel"])? == taken,
            "/v1/maps/BACKENDS: {entry}"
        );
        ensure!(
            number(&entry["granted"])? == granted,
            "/v1/maps/BACKENDS: {entry}"
        );

        let sample = format!("idlefirst_backend_inflight{{backend=\"{address}\"}}");
        let shown = samples.get(&sample);
        ensure!(
            shown == Some(&(taken as f64)),
            "/metrics: {sample} {shown:?}"
        );

        let live = connections.iter().filter(|row| row["backend"] == *address);
        let live = live.filter(|row| row["holds_slot"] == true).count() as u64;
        ensure!(live == taken, "/v1/connections: {live} to {address}");

        let established = established(crowd, &address)?;
        ensure!(
            established == taken,
            "ss: {established} to {address}, expected {taken}"
        );
    }
    assert_services_agree(agent, &samples, expected)
}

fn assert_services_agree(agent: &Agent, samples: &Samples, expected: [u64; 3]) -> Result<()> {
    let services = agent.admin().get_json("/v1/services")?;
    let services = services.as_array().context("a list")?;
    let [first, shared, third] = expected;
    for (index, inflight) in [(WIDE, first + shared), (NARROW, shared + third), (EMPTY, 0)] {
        let name = format!("service-{index}");
        let row = services.iter().find(|row| row["name"] == *name);
        let row = row.with_context(|| format!("{name} is not among {services:?}"))?;
        ensure!(
            row["inflight"] == inflight,
            "/v1/services: {row}, expected {inflight}"
        );
        let detail = agent
            .admin()
            .get_json(&format!("/v1/services/default/{name}"))?;
        for field in ["inflight", "idle", "available", "unhealthy", "waiters"] {
            ensure!(detail[field] == row[field], "{field}: {detail} and {row}");
        }
        let backends = detail["backends"].as_array().context("a list")?;
        ensure!(row["backends"] == backends.len(), "{detail} and {row}");
        let idle = backends
            .iter()
            .filter(|backend| backend["state"] == "idle")
            .count();
        ensure!(row["idle"] == idle, "{detail} and {row}");
        let full = backends
            .iter()
            .filter(|backend| backend["state"] == "full")
            .count();
        ensure!(
            row["available"] == backends.len() - full,
            "{detail} and {row}"
        );

        let sample =
            format!("idlefirst_service_inflight{{namespace=\"default\",service=\"{name}\"}}");
        let shown = samples.get(&sample);
        ensure!(
            shown == Some(&(inflight as f64)),
            "/metrics: {sample} {shown:?}"
        );
    }
    Ok(())
}

/// Connections to a pod that the kernel lists, seen from the client's end.
fn established(crowd: &Crowd, pod: &str) -> Result<u64> {
    let filter = ["-Htn", "state", "established", "dst", pod];
    let output = crowd.netns.run(|| Command::new("ss").args(filter).output());
    let output = output.context("cannot run ss: install the package iproute2")?;
    ensure!(
        output.status.success(),
        "ss: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?.lines().count() as u64)
}

fn samples(agent: &Agent) -> Result<Samples> {
    let answer = agent.admin().get("/metrics")?;
    ensure!(answer.status == 200, "{answer:?}");
    parse(&answer.body)
}

/// Reads the Prometheus text format, and insists on it.
fn parse(text: &str) -> Result<Samples> {
    ensure!(text.ends_with('\n'), "the last line does not end");
    let mut kinds = BTreeMap::new();
    let mut samples = Samples::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (keyword, name) = (
                words.next(),
                words.next().context("a comment names a metric")?,
            );
            let rest = words.next().unwrap_or_default();
            match keyword {
                Some("TYPE") => {
                    let known = ["counter", "gauge", "histogram", "summary"];
                    ensure!(known.contains(&rest), "{line}");
                    ensure!(
                        kinds.insert(name.to_owned(), rest).is_none(),
                        "twice: {line}"
                    );
                }
                Some("HELP") => ensure!(!rest.is_empty(), "{line}"),
                _ => anyhow::bail!("{line}"),
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
        let name = sample.split('{').next().unwrap_or_default();
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| {
                name.strip_suffix(suffix)
                    .filter(|stem| matches!(kinds.get(*stem), Some(&"histogram" | &"summary")))
            })
            .unwrap_or(name);
        let kind = kinds
            .get(family)
            .with_context(|| format!("no TYPE before {line}"))?;
        ensure!(
            *kind != "counter" || name.ends_with("_total"),
            "a counter's name: {line}"
        );
        ensure!(
            name.starts_with("idlefirst_") || name.starts_with("openfaas_"),
            "{line}"
        );
        let value: f64 = value.parse().with_context(|| line.to_owned())?;
        ensure!(
            samples.insert(in_order(sample), value).is_none(),
            "twice: {line}"
        );
    }
    ensure!(!samples.is_empty(), "no samples");
    Ok(samples)
}

/// Labels may come in any order. None of ours has a comma in its value.
fn in_order(sample: &str) -> String {
    let labels = sample.split_once('{');
    let labels = labels.and_then(|(name, rest)| Some((name, rest.strip_suffix('}')?)));
    let Some((name, labels)) = labels else {
        return sample.to_owned();
    };
    let mut labels: Vec<_> = labels.split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

#[test]
fn the_decision_histogram_is_one() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let _server = crowd.serve(0, 0, Duration::ZERO)?;
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &[service(WIDE, 0, [0])])?;
    crowd.place().run(|| -> Result<()> {
        // One decision in 64 is timed.
        for _ in 0..3000 {
            ensure!(exchange(frontend_address(WIDE), Request::Close)? == Outcome::Served);
        }
        Ok(())
    })?;
    let samples = samples(&agent)?;
    const NAME: &str = "idlefirst_decision_duration_seconds";
    let of = |name: &str| {
        samples
            .get(name)
            .copied()
            .with_context(|| format!("no {name}"))
    };
    let count = of(&format!("{NAME}_count"))?;
    assert!((1.0..=3000.0).contains(&count), "{count} timed");
    let sum = of(&format!("{NAME}_sum"))?;
    assert!(sum > 0.0 && sum < count, "{count} decisions took {sum} s");
    assert_eq!(of(&format!("{NAME}_bucket{{le=\"+Inf\"}}"))?, count);
    let mut buckets = Vec::new();
    for (sample, value) in &samples {
        let bound = sample.strip_prefix(&format!("{NAME}_bucket{{le=\""));
        if let Some(bound) = bound.and_then(|rest| rest.strip_suffix("\"}")) {
            let bound: f64 = bound.replace("+Inf", "inf").parse()?;
            buckets.push((bound, *value));
        }
    }
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert!(buckets.len() > 2, "{buckets:?}");
    assert!(buckets.is_sorted_by_key(|(_, value)| *value), "{buckets:?}");
    agent.stop()
}
