//! The table, the page made from it, and the shape of what is served.

use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use balancer_common::histogram;
use prometheus::TextEncoder;

use super::{
    METRICS, definition,
    family::Family,
    read, reference_markdown,
    requests::{Families, Requests},
    strategies::{self, Chosen},
};
use crate::{
    admin::{Counts, DecisionTimes, Tally},
    failover::Failovers,
    model::Strategy,
    source::kubernetes::Watched,
};

fn text(families: Vec<Family>) -> String {
    let families: Vec<_> = families.into_iter().filter_map(Family::finish).collect();
    TextEncoder::new().encode_to_string(&families).unwrap()
}

#[test]
fn the_page_in_docs_is_the_rendered_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let rendered = reference_markdown();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&file, &rendered).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == rendered,
        "docs/metrics.md is not what the code says; run: UPDATE_DOCS=1 cargo test -p balancer-user metrics"
    );
}

#[test]
fn names_are_unique_and_end_as_prometheus_wants() {
    let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), METRICS.len());
    for metric in METRICS {
        let prefixes = ["idlefirst_", "openfaas_"];
        assert!(
            prefixes
                .iter()
                .any(|prefix| metric.name.starts_with(prefix)),
            "{}",
            metric.name
        );
        let counts = metric.name.ends_with("_total");
        assert_eq!(
            counts,
            metric.kind == super::Kind::Counter,
            "{}",
            metric.name
        );
    }
}

#[test]
fn a_family_is_text_with_its_labels_in_order() {
    let mut connects = Family::new(definition::CONNECTS);
    connects.push(&["default", "hello", "idle"], 3.0);
    let text = text(vec![connects, Family::new(definition::FAULTS)]);
    assert!(
        text.contains("# TYPE idlefirst_connects_total counter\n"),
        "{text}"
    );
    let line = r#"idlefirst_connects_total{namespace="default",service="hello",result="idle"} 3"#;
    assert!(text.contains(line), "{text}");
    assert!(
        !text.contains("faults"),
        "a family without values is left out: {text}"
    );
}

#[test]
fn what_dashboards_query_has_the_names_labels_and_kinds_that_they_know() {
    use super::Kind;

    for (name, kind, labels) in [
        (
            "openfaas_queue_depth",
            Kind::Gauge,
            &["function", "namespace"][..],
        ),
        (
            "openfaas_pod_selection_duration_seconds",
            Kind::Histogram,
            &["function", "namespace", "result"],
        ),
        (
            "openfaas_health_check_duration_seconds",
            Kind::Histogram,
            &["pod_ip", "result"],
        ),
    ] {
        let found = METRICS.iter().find(|metric| metric.name == name);
        let found = found.map(|metric| (metric.kind, metric.labels));
        assert_eq!(found, Some((kind, labels)), "{name}");
    }
}

#[test]
fn selections_show_both_outcomes_in_the_default_buckets() {
    let decisions = DecisionTimes::new(&[]);
    let tally = Tally {
        counts: Counts {
            idle: 2,
            shared: 1,
            refused: 4,
            queue_full: 4,
            ..Counts::default()
        },
        waiters: 5,
        queue: None,
    };
    let name = "ns/hello".parse().unwrap();
    let service = Requests {
        name: &name,
        tally: &tally,
        queue_size: 10,
    };
    let (openfaas, own) = Families::of([service].into_iter(), &decisions).split();
    let text = text(openfaas.into_iter().chain(own).collect());
    let labels = r#"function="hello",namespace="ns""#;
    let own_labels = r#"namespace="ns",service="hello""#;
    for line in [
        format!("openfaas_queue_depth{{{labels}}} 5"),
        format!(
            r#"openfaas_pod_selection_duration_seconds_bucket{{{labels},result="success",le="0.005"}} 3"#
        ),
        format!(
            r#"openfaas_pod_selection_duration_seconds_bucket{{{labels},result="failure",le="10"}} 4"#
        ),
        format!(r#"openfaas_pod_selection_duration_seconds_count{{{labels},result="failure"}} 4"#),
        format!("idlefirst_requests_total{{{own_labels}}} 7"),
        format!("idlefirst_successful_selections_total{{{own_labels}}} 3"),
        format!(r#"idlefirst_refusals_total{{{own_labels},reason="queue-full"}} 4"#),
        format!(r#"idlefirst_refusals_total{{{own_labels},reason="queue-timeout"}} 0"#),
        format!(r#"idlefirst_selection_seconds{{{own_labels},quantile="0.99"}} 0"#),
        format!("idlefirst_selection_seconds_count{{{own_labels}}} 3"),
    ] {
        assert!(text.contains(&line), "{line} is not in:\n{text}");
    }
    let success = text
        .lines()
        .filter(|line| line.contains(r#"result="success",le="#));
    assert_eq!(success.count(), prometheus::DEFAULT_BUCKETS.len() + 1);
}

#[test]
fn decision_times_fall_in_buckets_of_powers_of_two() {
    let mut counts = vec![0; histogram::BUCKETS as usize];
    for ns in [100, 127, 128, 1_000, 10_000_000] {
        counts[histogram::bucket(ns) as usize] += 1;
    }
    let text = text(vec![read::decision(&counts)]);
    for line in [
        r#"_bucket{le="0.000000064"} 0"#,
        r#"_bucket{le="0.000000128"} 2"#,
        r#"_bucket{le="0.000000256"} 3"#,
        r#"_bucket{le="0.000001024"} 4"#,
        r#"_bucket{le="+Inf"} 5"#,
        "_count 5",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
}

#[test]
fn leader_services_show_their_failovers_from_the_start_and_all_show_their_strategy() {
    let [led, lost, other] = ["ns/led", "ns/lost", "ns/other"].map(|name| name.parse().unwrap());
    let failovers = Failovers::default();
    for ms in [3, 30, 10_000] {
        failovers.count(&lost, Duration::from_millis(ms), Instant::now());
    }
    let chosen = |name, strategy| Chosen {
        name,
        strategy: Some(strategy),
        failovers: failovers.of(name),
    };
    let services = [
        chosen(&led, Strategy::Leader),
        chosen(&lost, Strategy::Random),
        chosen(&other, Strategy::P2c),
    ];
    let text = text(strategies::families(services.into_iter()).into());
    let bucket = "idlefirst_failover_duration_seconds_bucket";
    let lost = r#"function="lost",namespace="ns""#;
    for line in [
        r#"idlefirst_strategy_in_force{function="other",namespace="ns",strategy="p2c"} 1"#,
        r#"idlefirst_failovers_total{function="led",namespace="ns"} 0"#,
        &format!("idlefirst_failovers_total{{{lost}}} 3"),
        &format!(r#"{bucket}{{{lost},le="0.0025"}} 0"#),
        &format!(r#"{bucket}{{{lost},le="0.005"}} 1"#),
        &format!(r#"{bucket}{{{lost},le="0.05"}} 2"#),
        &format!(r#"{bucket}{{{lost},le="5"}} 2"#),
        &format!(r#"{bucket}{{{lost},le="+Inf"}} 3"#),
        &format!("idlefirst_failover_duration_seconds_sum{{{lost}}} 10.033"),
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
    assert!(
        !text.contains(r#"failovers_total{function="other""#),
        "{text}"
    );
}

#[test]
fn a_kind_that_is_not_heard_of_is_down() {
    let watched = Watched::default();
    let mut service = watched.follow("Service");
    let _pod = watched.follow("Pod");
    service.set(true);
    let text = text(vec![read::about_watches(&watched)]);
    for line in [
        "idlefirst_api_watch_up{kind=\"Pod\"} 0\n",
        "idlefirst_api_watch_up{kind=\"Service\"} 1\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
}
