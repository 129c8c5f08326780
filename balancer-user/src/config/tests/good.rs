//! Files that are accepted, and what they come to.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::{
    AdminAddress, Config, LogFormat, LogLevel, Metrics, Overflow, ProbeConfig, Source,
};
use super::{parse, warnings};
use crate::model::{Backend, Origin, Protocol, ServiceName, Setting, Strategy};

/// The example that the product's contract prints, word for word.
const CONTRACT: &str = r#"source: file            # or kubernetes
agent:
  cgroup: /sys/fs/cgroup          # found by itself if unset; the unified hierarchy
  pin_path: /sys/fs/bpf/idlefirst
  admin: [unix:/run/idlefirst/admin.sock, 127.0.0.1:9090]
  metrics: 0.0.0.0:9102
  overflow: auto                  # address that clients on this node can reach
defaults: {strategy: idle-first, max_inflight: 0}
functions:                        # per-function overrides; these short names too
  critical-service:
    queue_timeout_ms: 200
    queue_buffer_size: 50
    max_retries: 20
    health_check_interval_ms: 1000
services:                         # source: file
  - name: hello
    namespace: default
    protocol: http
    frontends: ["10.96.0.10:8080"]
    max_inflight: 1
    backends: [{address: "10.1.0.2:8080", weight: 1}, {address: "10.1.0.3:8080"}]
"#;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn the_contracts_example_is_read_whole() {
    let loaded = parse(CONTRACT).unwrap();
    let config = loaded.config;
    assert_eq!(config.source, Source::File);
    assert_eq!(
        config.agent.cgroup.as_deref(),
        Some(Path::new("/sys/fs/cgroup"))
    );
    assert_eq!(config.agent.metrics, Metrics::On(address("0.0.0.0:9102")));
    assert_eq!(config.agent.overflow, Overflow::Auto);

    let state = config.desired_state();
    let name = ServiceName::new("default", "hello").unwrap();
    assert_eq!(Vec::from_iter(state.services.keys()), [&name]);
    let service = &state.services[&name];
    assert_eq!(service.name, name);
    assert_eq!(
        service.protocol,
        Setting::new(Protocol::Http, Origin::Service)
    );
    assert_eq!(service.max_inflight, Setting::new(1, Origin::Service));
    assert_eq!(
        service.strategy,
        Setting::new(Strategy::IdleFirst, Origin::Defaults)
    );
    assert_eq!(service.frontends, [address("10.96.0.10:8080")]);
    let backend = |text| Backend::at(address(text));
    assert_eq!(
        service.backends,
        [backend("10.1.0.2:8080"), backend("10.1.0.3:8080")]
    );
}

#[test]
fn the_contracts_example_overrides_a_function_that_it_does_not_list() {
    let warnings = warnings(CONTRACT);
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    let expected = "test.yaml:10:3: no service is named \"critical-service\"";
    assert!(warnings[0].starts_with(expected), "{}", warnings[0]);
}

#[test]
fn a_file_that_only_names_its_source_is_all_defaults() {
    assert_eq!(parse("source: file\n").unwrap().config, Config::default());
    for text in [
        "agent: {}",
        "services: []",
        "agent: {cgroup: null}",
        "defaults: {}",
    ] {
        assert_eq!(parse(text).unwrap().config, Config::default(), "{text}");
    }
}

#[test]
fn the_agents_keys_are_read() {
    let text = "agent:\n  node: node-1\n  zone: eu-1a\n  \
                cgroup: /sys/fs/cgroup/unified/a\n  pin_path: /bpf/x\n  \
                pods_cgroup: /c/pods\n  bypass_cgroups: [/c/a, b/c.service]\n  \
                admin: ['[::1]:9091']\n  metrics: none\n  log: {level: debug, format: json}\n";
    let agent = parse(text).unwrap().config.agent;
    assert_eq!(agent.node.as_deref(), Some("node-1"));
    assert_eq!(agent.zone.as_deref(), Some("eu-1a"));
    assert_eq!(
        agent.cgroup,
        Some(PathBuf::from("/sys/fs/cgroup/unified/a"))
    );
    assert_eq!(agent.pin_path, PathBuf::from("/bpf/x"));
    assert_eq!(agent.pods_cgroup, Some(PathBuf::from("/c/pods")));
    let bypassing = ["/c/a", "b/c.service"].map(PathBuf::from);
    assert_eq!(agent.bypass_cgroups, bypassing);
    assert_eq!(agent.admin, [AdminAddress::Tcp(address("[::1]:9091"))]);
    assert_eq!(agent.metrics, Metrics::Off);
    assert_eq!(agent.log.level, LogLevel::Debug);
    assert_eq!(agent.log.format, LogFormat::Json);
    assert_eq!(parse("agent: {admin: []}").unwrap().config.agent.admin, []);
}

#[test]
fn the_agents_keys_of_overflow_and_probes_are_read() {
    let text = "agent:\n  workers: 256\n  cache_max_size: 1\n  metrics_collection: false\n  \
                resync: 1m\n  shutdown_timeout: 0s\n  health_checks: {enabled: false, at_once: 7, cache_ttl: 0s}\n";
    let agent = parse(text).unwrap().config.agent;
    assert_eq!(agent.workers, Some(256));
    assert_eq!(agent.cache_max_size, 1);
    assert!(!agent.collect_metrics);
    assert_eq!(agent.resync, Duration::from_secs(60));
    assert_eq!(agent.shutdown_timeout, Duration::ZERO);
    let probes = ProbeConfig {
        enabled: false,
        at_once: 7,
        cache_ttl: Duration::ZERO,
    };
    assert_eq!(agent.probes, probes);
}

#[test]
fn overflow_is_found_or_given_for_each_family() {
    let v4 = |text: &str| Some(text.parse().unwrap());
    let v6 = |text: &str| Some(text.parse().unwrap());
    for (text, expected) in [
        ("auto", Overflow::Auto),
        (
            "192.0.2.1",
            Overflow::Addresses {
                v4: v4("192.0.2.1"),
                v6: None,
            },
        ),
        (
            "'fd00::1'",
            Overflow::Addresses {
                v4: None,
                v6: v6("fd00::1"),
            },
        ),
        (
            "['fd00::1', '::ffff:192.0.2.1']",
            Overflow::Addresses {
                v4: v4("192.0.2.1"),
                v6: v6("fd00::1"),
            },
        ),
    ] {
        let loaded = parse(&format!("agent: {{overflow: {text}}}")).unwrap();
        assert_eq!(loaded.config.agent.overflow, expected, "{text}");
        assert_eq!(loaded.warnings, [], "{text}");
    }
}

#[test]
fn both_families_are_read_and_mapped_addresses_become_ipv4() {
    let text = "services:\n- name: a\n  frontends: ['[fd00::1]:80', '[::ffff:10.0.0.1]:80']\n  \
                backends: [{address: '10.0.0.3:8080'}, {address: '[::ffff:10.0.0.2]:8080'}]\n";
    let state = parse(text).unwrap().config.desired_state();
    let service = state.services.values().next().unwrap();
    assert_eq!(
        service.frontends,
        [address("[fd00::1]:80"), address("10.0.0.1:80")]
    );
    let backends: Vec<_> = service.backends.iter().map(|each| each.address).collect();
    assert_eq!(
        backends,
        [address("10.0.0.3:8080"), address("10.0.0.2:8080")]
    );
}

#[test]
fn a_service_may_have_no_backends() {
    for backends in ["", "  backends:\n", "  backends: []\n"] {
        let text = format!("services:\n- name: a\n  frontends: [10.0.0.1:80]\n{backends}");
        let state = parse(&text).unwrap().config.desired_state();
        assert_eq!(state.services.values().next().unwrap().backends, []);
    }
}

#[test]
fn anchors_aliases_and_merges_are_understood() {
    let text = "services:\n\
                - &first\n  name: a\n  frontends: [10.0.0.1:80]\n  max_inflight: 2\n  \
                backends: &pods [{address: 10.1.0.1:80}]\n\
                - name: b\n  frontends: [10.0.0.2:80]\n  max_inflight: 2\n  backends: *pods\n\
                - <<: *first\n  name: c\n  frontends: [10.0.0.3:80]\n";
    let state = parse(text).unwrap().config.desired_state();
    assert_eq!(state.services.len(), 3);
    for service in state.services.values() {
        assert_eq!(service.backends.len(), 1, "{service:?}");
        assert_eq!(service.max_inflight.value, 2);
    }
    assert_eq!(state.backend_addresses().len(), 1);
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_do_no_harm() {
    let text = "\u{feff}services:\r\n- name: a\r\n  frontends: [10.0.0.1:80]\r\n";
    assert_eq!(
        parse(text).unwrap().config.desired_state().services.len(),
        1
    );
}

#[test]
fn a_backend_may_be_in_eight_services() {
    let text = sharing(8);
    let state = parse(&text).unwrap().config.desired_state();
    assert_eq!(state.services.len(), 8);
    assert_eq!(state.backend_addresses().len(), 1);
}

/// A file of that many services with one backend between them.
pub(super) fn sharing(services: usize) -> String {
    let mut text = String::from("services:\n");
    for index in 1..=services {
        text.push_str(&format!(
            "- name: s{index}\n  frontends: [10.0.0.{index}:80]\n  \
             backends: [{{address: 10.1.0.1:80}}]\n"
        ));
    }
    text
}

#[test]
fn what_has_no_effect_or_looks_odd_is_warned_of() {
    let service = |rest: &str| format!("services:\n- name: a\n  frontends: [10.0.0.1:80]\n{rest}");
    let two_limits = "  max_inflight: 1\n  backends: [{address: 10.1.0.1:80}]\n\
                      - name: b\n  frontends: [10.0.0.2:80]\n  max_inflight: 3\n  \
                      backends: [{address: 10.1.0.1:80}]\n";
    for (text, expected) in [
        (
            service(two_limits),
            "test.yaml:9:24: backend 10.1.0.1:80 has max_inflight 3 in default/b and 1 in \
             default/a (line 5); it is one backend with one count, so the tightest limit holds; \
             give both",
        ),
        (
            "functions: {other/a: {max_inflight: 1}}".to_owned(),
            "test.yaml:1:13: no service is named \"other/a\"",
        ),
    ] {
        let warnings = warnings(&text);
        assert_eq!(warnings.len(), 1, "{warnings:#?}\n{text}");
        assert!(warnings[0].starts_with(expected), "{}\n{text}", warnings[0]);
    }
}

#[test]
fn a_clean_file_is_not_warned_of() {
    let text = "services:\n- name: a\n  frontends: [10.0.0.1:80]\n  max_inflight: 1\n  \
                backends: [{address: 10.1.0.1:80, weight: 3}]\nfunctions: {a: {max_inflight: 2}}\n";
    assert_eq!(warnings(text), [""; 0]);
}

#[test]
fn files_are_loaded_from_disk_and_a_missing_one_is_named() {
    let directory = std::env::temp_dir().join(format!("idlefirst-config-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join("config.yaml");
    std::fs::write(&file, "source: file\n").unwrap();
    let loaded = Config::load(&file, &|_| None);
    std::fs::write(&file, b"source: file\nservices: []\n# \xff\n").unwrap();
    let not_utf8 = Config::load(&file, &|_| None);
    std::fs::remove_dir_all(&directory).unwrap();
    let missing = Config::load(&file, &|_| None);

    assert_eq!(loaded.unwrap().config, Config::default());
    let not_utf8 = not_utf8.unwrap_err();
    assert!(
        not_utf8
            .to_string()
            .contains("config.yaml:3: this line is not UTF-8"),
        "{not_utf8}"
    );
    let missing = missing.unwrap_err();
    assert_eq!(missing.reason(), "unreadable");
    let text = missing.to_string();
    assert!(text.starts_with(&file.display().to_string()), "{text}");
    assert!(text.contains("--config"), "{text}");
}
