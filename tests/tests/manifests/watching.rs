//! The dashboard, the alerts and the queries in the documentation ask for metrics that exist, and
//! every alert leads to a place in the documentation that exists.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    deploy, expect_copy,
    kinds::{PrometheusRuleSpec, Rule},
    read, repository,
};

/// Labels that come from Prometheus, not from the agent.
const ADDED_LABELS: [&str; 4] = ["job", "node", "le", "instance"];

/// Metrics of the documentation, with their labels, under every name that a scrape shows.
fn documented() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut metrics = BTreeMap::new();
    for line in read(&repository().join("docs/metrics.md"))?.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, ..] = cells[..] else {
            continue;
        };
        let Some(name) = name.strip_prefix('`').and_then(|it| it.strip_suffix('`')) else {
            continue;
        };
        let labels: BTreeSet<_> = labels
            .split(", ")
            .map(|label| label.trim_matches('`').to_owned())
            .collect();
        let suffixes: &[&str] = match kind {
            "histogram" => &["_bucket", "_sum", "_count"],
            "summary" => &["", "_sum", "_count"],
            _ => &[""],
        };
        for suffix in suffixes {
            metrics.insert(format!("{name}{suffix}"), labels.clone());
        }
    }
    ensure!(metrics.len() > 40, "only {} metrics", metrics.len());
    Ok(metrics)
}

/// Checks the metrics of an expression, and the labels that select among them.
fn check(expression: &str, metrics: &BTreeMap<String, BTreeSet<String>>) -> Result<()> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = 0;
    let mut rest = expression;
    while let Some(start) = rest.find(is_word) {
        let word = &rest[start..];
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        let (name, after) = word.split_at(end);
        rest = after;
        let labels = match metrics.get(name) {
            Some(labels) => labels,
            None if name == "up" => &BTreeSet::new(),
            None => {
                let ours = name.starts_with("idlefirst_") || name.starts_with("openfaas_");
                ensure!(!ours, "{name} is not in docs/metrics.md: {expression}");
                continue;
            }
        };
        found += 1;
        let selector = after.strip_prefix('{').and_then(|it| it.split('}').next());
        for part in selector.into_iter().flat_map(|it| it.split(", ")) {
            let label = part.split(['=', '!']).next().unwrap_or(part);
            ensure!(
                labels.contains(label) || ADDED_LABELS.contains(&label),
                "{name} has no label {label}: {expression}"
            );
        }
    }
    ensure!(found > 0, "no metric in {expression:?}");
    Ok(())
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() -> Result<()> {
    let text = read(&deploy().join("grafana/idlefirst.json"))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let metrics = documented()?;
    let (mut ids, mut asked) = (BTreeSet::new(), 0);
    for panel in dashboard["panels"].as_array().context("panels")? {
        ensure!(ids.insert(panel["id"].as_u64()), "twice: {}", panel["id"]);
        for target in panel["targets"].as_array().into_iter().flatten() {
            check(target["expr"].as_str().context("expr")?, &metrics)?;
            asked += 1;
        }
    }
    ensure!(asked > 15, "only {asked} queries");
    for variable in dashboard["templating"]["list"].as_array().context("list")? {
        if let Some(query) = variable["query"]["query"].as_str() {
            check(query, &metrics)?;
        }
    }
    Ok(())
}

#[test]
fn the_queries_of_the_documentation_ask_for_metrics_that_exist() -> Result<()> {
    let metrics = documented()?;
    let text = read(&repository().join("docs/operations.md"))?;
    let queries: Vec<_> = text
        .split("```promql\n")
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .collect();
    for query in &queries {
        check(query, &metrics)?;
    }
    for metric in [
        "openfaas_queue_depth",
        "openfaas_pod_selection_duration_seconds_bucket",
        "openfaas_pod_selection_duration_seconds_count",
        "openfaas_health_check_duration_seconds_bucket",
        "openfaas_health_check_duration_seconds_count",
    ] {
        ensure!(
            queries.iter().any(|query| query.contains(metric)),
            "no query for {metric}"
        );
    }
    Ok(())
}

fn alerts(text: &str) -> Result<Vec<Rule>> {
    let file: PrometheusRuleSpec = serde_saphyr::from_str(text)?;
    Ok(file.groups.into_iter().flat_map(|it| it.rules).collect())
}

#[test]
fn alerts_ask_for_metrics_that_exist_and_have_a_runbook() -> Result<()> {
    let metrics = documented()?;
    let alerts = alerts(&read(&deploy().join("prometheus/alerts.yaml"))?)?;
    ensure!(!alerts.is_empty(), "there are no alerts");
    for alert in &alerts {
        check(&alert.expr, &metrics).with_context(|| alert.alert.clone())?;
        let runbook = alert
            .annotations
            .get("runbook_url")
            .context("no runbook_url")?;
        let (file, anchor) = runbook.split_once('#').context("no anchor")?;
        let text = read(&repository().join(file))?;
        ensure!(
            anchors(&text).contains(anchor),
            "{}: {file} has no heading for {anchor}",
            alert.alert
        );
        let severity = alert.labels.get("severity").map(String::as_str);
        ensure!(
            matches!(severity, Some("critical" | "warning")),
            "{}: severity {severity:?}",
            alert.alert
        );
    }
    Ok(())
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    headings
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                _ => None,
            });
            kept.collect()
        })
        .collect()
}

/// The rules as the operator's kind, and what the chart holds of rules and dashboard.
pub fn copies() -> Result<()> {
    let text = read(&deploy().join("prometheus/alerts.yaml"))?;
    let groups = text.find("groups:").context("no groups")?;
    let indented: String = text[groups..]
        .lines()
        .map(|line| format!("  {line}\n"))
        .collect();
    let rule = format!(
        "# Made from deploy/prometheus/alerts.yaml by: UPDATE_DOCS=1 cargo test -p tests --test manifests\n\
         apiVersion: monitoring.coreos.com/v1\n\
         kind: PrometheusRule\n\
         metadata:\n  name: idlefirst\n  namespace: idlefirst-system\n  \
           labels:\n    app.kubernetes.io/name: idlefirst\n\
         spec:\n{indented}"
    );
    let component = deploy().join("kustomize/components/monitoring");
    expect_copy(&component.join("prometheus-rule.yaml"), &rule)?;
    let files = deploy().join("helm/idlefirst/files");
    expect_copy(&files.join("alerts.yaml"), &text)?;
    let dashboard = read(&deploy().join("grafana/idlefirst.json"))?;
    expect_copy(&files.join("dashboard.json"), &dashboard)
}

#[test]
fn a_metric_or_label_that_does_not_exist_is_found() -> Result<()> {
    let metrics = documented()?;
    assert!(
        check(
            "rate(idlefirst_requests_total{service=\"a\"}[5m])",
            &metrics
        )
        .is_ok()
    );
    assert!(check("rate(idlefirst_request_total[5m])", &metrics).is_err());
    assert!(
        check(
            "rate(idlefirst_requests_total{function=\"a\"}[5m])",
            &metrics
        )
        .is_err()
    );
    assert!(check("openfaas_pod_selection_duration_seconds", &metrics).is_err());
    assert!(check("1 + 1", &metrics).is_err());
    Ok(())
}
