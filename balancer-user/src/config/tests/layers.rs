//! Which of several places wins, and that the winner is named.

use std::time::Duration;

use super::super::{AdminAddress, LogFormat, LogLevel, Metrics, Overrides, ProbeConfig};
use super::{parse, parse_with};
use crate::model::{Origin, Setting, Strategy};

const SERVICE: &str = "services:\n- name: a\n  namespace: x\n  frontends: [10.0.0.1:80]\n";

fn max_inflight(rest: &str) -> Setting<u32> {
    let text = format!("{SERVICE}{rest}");
    let state = parse(&text).unwrap().config.desired_state();
    state.services.values().next().unwrap().max_inflight
}

#[test]
fn a_services_setting_comes_from_the_most_particular_place() {
    let defaults = "defaults: {max_inflight: 1}\n";
    let own = "  max_inflight: 2\n";
    let function = "functions: {a: {max_inflight: 3}}\n";
    let both = "functions: {x/a: {max_inflight: 4}, a: {max_inflight: 3}}\n";
    let elsewhere = "functions: {y/a: {max_inflight: 5}}\n";
    for (rest, value, origin) in [
        (String::new(), 0, Origin::BuiltIn),
        (defaults.to_owned(), 1, Origin::Defaults),
        (format!("{own}{defaults}"), 2, Origin::Service),
        (format!("{own}{defaults}{function}"), 3, Origin::Function),
        (function.to_owned(), 3, Origin::Function),
        (both.to_owned(), 4, Origin::Function),
        (format!("{own}{elsewhere}"), 2, Origin::Service),
    ] {
        assert_eq!(max_inflight(&rest), Setting::new(value, origin), "{rest}");
    }
}

#[test]
fn the_environment_stands_over_defaults_and_under_the_service() {
    let strategy = |text: &str, value: &str| {
        let loaded = parse_with(text, &[("POD_SELECTION_STRATEGY", value)]).unwrap();
        let state = loaded.config.desired_state();
        state.services.values().next().unwrap().strategy
    };
    for word in Strategy::ALL {
        let variable = word.as_str().replace('-', "_");
        let of_environment = Setting::new(*word, Origin::Environment);
        assert_eq!(strategy(SERVICE, &variable), of_environment);
    }
    let from = |origin| Setting::new(Strategy::IdleFirst, origin);
    let defaults = format!("defaults: {{strategy: idle-first}}\n{SERVICE}");
    let own = format!("{defaults}  strategy: idle-first\n");
    for spelling in ["idle_first", "idle-first", " idle-first\n"] {
        assert_eq!(strategy(SERVICE, spelling), from(Origin::Environment));
        assert_eq!(strategy(&defaults, spelling), from(Origin::Environment));
        assert_eq!(strategy(&own, spelling), from(Origin::Service));
    }
    assert_eq!(
        strategy(&defaults, ""),
        from(Origin::Defaults),
        "empty is unset"
    );
}

#[test]
fn variables_win_over_the_file_and_flags_over_both() {
    let text = "agent:\n  node: file\n  zone: file\n  cgroup: /file\n  pin_path: /file\n  admin: ['unix:/file']\n  \
                metrics: 127.0.0.1:1\n  log: {level: error, format: json}\n";
    let environment = [
        ("IDLEFIRST_NODE", "variable"),
        ("IDLEFIRST_ZONE", "variable"),
        ("IDLEFIRST_CGROUP", "/variable"),
        ("IDLEFIRST_PIN_PATH", "/variable"),
        ("IDLEFIRST_ADMIN", "unix:/variable, 127.0.0.1:2"),
        ("IDLEFIRST_METRICS", "none"),
        ("IDLEFIRST_LOG", "debug"),
        ("IDLEFIRST_LOG_FORMAT", "text"),
    ];
    let of_file = parse(text).unwrap().config;
    assert_eq!(of_file.agent.node.as_deref(), Some("file"));
    assert_eq!(of_file.agent.zone.as_deref(), Some("file"));
    assert_eq!(of_file.agent.cgroup, Some("/file".into()));
    assert_eq!(of_file.agent.log.level, LogLevel::Error);

    let config = parse_with(text, &environment).unwrap().config;
    assert_eq!(config.agent.node.as_deref(), Some("variable"));
    assert_eq!(config.agent.zone.as_deref(), Some("variable"));
    assert_eq!(config.agent.cgroup, Some("/variable".into()));
    assert_eq!(config.agent.pin_path, std::path::Path::new("/variable"));
    assert_eq!(
        config.agent.admin,
        [
            AdminAddress::Unix("/variable".into()),
            AdminAddress::Tcp("127.0.0.1:2".parse().unwrap())
        ]
    );
    assert_eq!(config.agent.metrics, Metrics::Off);
    assert_eq!(config.agent.log.level, LogLevel::Debug);
    assert_eq!(config.agent.log.format, LogFormat::Text);

    let flags = Overrides {
        cgroup: Some("/flag".into()),
        metrics: Some("127.0.0.1:3".parse().unwrap()),
        log_level: Some("trace".parse().unwrap()),
        ..Overrides::default()
    };
    let before = config.clone();
    let config = config.with_overrides(&flags);
    assert_eq!(config.agent.cgroup, Some("/flag".into()));
    assert_eq!(config.agent.metrics.to_string(), "127.0.0.1:3");
    assert_eq!(config.agent.log.level, LogLevel::Trace);
    assert_eq!(config.agent.admin, before.agent.admin);
    assert_eq!(config.agent.pin_path, before.agent.pin_path);
    assert_eq!(before.clone().with_overrides(&Overrides::default()), before);
}

#[test]
fn a_bad_value_in_the_file_is_refused_even_under_a_good_variable() {
    let error = parse_with("agent: {cgroup: x}\n", &[("IDLEFIRST_CGROUP", "/x")]).unwrap_err();
    assert_eq!(error.problems()[0].line, Some(1));
}

#[test]
fn an_unset_variable_leaves_the_agents_keys_and_a_set_one_replaces_them() {
    let text = "agent:\n  cache_max_size: 5\n  metrics_collection: false\n  resync: 1h\n  \
                health_checks: {enabled: true, at_once: 1, cache_ttl: 1m}\n";
    let environment = [
        ("CACHE_MAX_SIZE", "6"),
        ("METRICS_COLLECTION_ENABLED", "true"),
        ("POD_CACHE_REFRESH_INTERVAL_SEC", "2"),
        ("HEALTH_CHECK_ENABLED", "false"),
        ("MAX_CONCURRENT_HEALTH_CHECKS", "3"),
        ("HEALTH_CHECK_CACHE_TTL_SEC", "4"),
    ];
    let agent = parse(text).unwrap().config.agent;
    assert_eq!(agent.cache_max_size, 5);
    assert_eq!(agent.resync, Duration::from_secs(3600));

    let agent = parse_with(text, &environment).unwrap().config.agent;
    assert_eq!(agent.cache_max_size, 6);
    assert!(agent.collect_metrics);
    assert_eq!(agent.resync, Duration::from_secs(2));
    let probes = ProbeConfig {
        enabled: false,
        at_once: 3,
        cache_ttl: Duration::from_secs(4),
    };
    assert_eq!(agent.probes, probes);
}
