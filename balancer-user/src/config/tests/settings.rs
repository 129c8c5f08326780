//! The settings of a service: every key, its bounds and its other names.

use std::fmt::Write;
use std::time::Duration;

use super::{assert_refused, parse, parse_with, problems, warnings};
use crate::model::{
    Admission, Affinity, HashKey, Intercept, Locality, OnAgentLoss, Origin, Probe, Protocol,
    QueueTimeout, RateLimit, Refuse, Service, Setting, Strategy,
};

/// A file of one service, `x/a`, with these further lines.
pub(super) fn with_service(rest: &str) -> String {
    format!("services:\n- name: a\n  namespace: x\n  frontends: [10.0.0.1:80]\n{rest}")
}

/// The one service of `text`, in an environment of these variables.
pub(super) fn service_of(text: &str, variables: &[(&str, &str)]) -> Service {
    let loaded = parse_with(text, variables).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let services = loaded.config.desired_state().services;
    assert_eq!(services.len(), 1, "{text}");
    services.values().next().unwrap().as_ref().clone()
}

fn service(rest: &str) -> Service {
    service_of(&with_service(rest), &[])
}

const EVERY_KEY: &str = "
  protocol: http, admission: request, strategy: consistent_hash, max_inflight: 4,
  hash: {header: X-User}, affinity: {client: true, timeout: 5m, cookie: session},
  locality: none, slow_start: 30s, intercept: pods,
  queue: {size: 20, timeout: 2s, attempts: 3, tick: 5ms, overtaking: true, refuse: kernel,
          adaptive: true},
  rate_limit: {per_second: 100, burst: 20}, on_agent_loss: refuse,
  health: {probe: tcp, path: '/ready?deep=1', interval: 1m, timeout: 250ms, failures: 2},
  breaker: {failures: 7, open: 1h}";

fn assert_every_key(service: &Service, origin: Origin) {
    fn is<T: PartialEq + std::fmt::Debug>(setting: Setting<T>, value: T, origin: Origin) {
        assert_eq!(setting, Setting::new(value, origin));
    }
    let seconds = Duration::from_secs;
    let queue = service.queue;
    is(service.protocol, Protocol::Http, origin);
    is(service.admission, Admission::Request, origin);
    is(service.max_inflight, 4, origin);
    is(service.strategy, Strategy::ConsistentHash, origin);
    let header = HashKey::Header("x-user".parse().unwrap());
    is(service.hash.clone(), header, origin);
    let affinity = Affinity {
        timeout: seconds(300),
        cookie: Some("session".parse().unwrap()),
    };
    is(service.affinity.clone(), Some(affinity), origin);
    is(service.locality, Locality::None, origin);
    is(service.slow_start, seconds(30), origin);
    is(service.intercept, Intercept::Pods, origin);
    is(queue.size, 20, origin);
    is(queue.timeout, QueueTimeout::Fixed(seconds(2)), origin);
    is(queue.attempts, 3, origin);
    is(queue.tick, Duration::from_millis(5), origin);
    is(queue.overtaking, true, origin);
    is(queue.refuse, Refuse::Kernel, origin);
    is(queue.adaptive, true, origin);
    let limit = RateLimit {
        per_second: 100,
        burst: 20,
    };
    is(service.rate_limit, Some(limit), origin);
    is(service.on_agent_loss, OnAgentLoss::Refuse, origin);
    let health = &service.health;
    is(health.probe(Protocol::Http), Probe::Tcp, origin);
    is(health.path.clone(), "/ready?deep=1".into(), origin);
    is(health.interval, seconds(60), origin);
    is(health.timeout, Duration::from_millis(250), origin);
    is(health.failures, 2, origin);
    is(service.breaker.failures, 7, origin);
    is(service.breaker.open, seconds(3600), origin);
}

#[test]
fn every_key_may_stand_in_every_place() {
    let bare = with_service("");
    let defaults = format!("defaults: {{{EVERY_KEY}}}\n");
    let function = format!("functions: {{a: {{{EVERY_KEY}}}}}\n");
    let own = format!("services: [{{name: a, frontends: [10.0.0.1:80], {EVERY_KEY}}}]\n");
    for (text, origin) in [
        (format!("{defaults}{bare}"), Origin::Defaults),
        (own.clone(), Origin::Service),
        (format!("{function}{bare}"), Origin::Function),
        (format!("{defaults}{own}"), Origin::Service),
        (format!("{defaults}{function}{own}"), Origin::Function),
    ] {
        assert_every_key(&service_of(&text, &[]), origin);
        assert_eq!(warnings(&text), [""; 0], "{text}");
    }
}

#[test]
fn a_silent_service_has_the_contracts_defaults() {
    let service = service("");
    let milliseconds = Duration::from_millis;
    let queue = service.queue;
    assert_eq!(service.strategy, Setting::built_in(Strategy::IdleFirst));
    assert_eq!(service.hash, Setting::built_in(HashKey::Client));
    assert_eq!(service.affinity, Setting::built_in(None));
    assert_eq!(service.locality, Setting::built_in(Locality::None));
    assert_eq!(service.slow_start, Setting::built_in(Duration::ZERO));
    assert_eq!(service.intercept, Setting::built_in(Intercept::Service));
    assert_eq!(queue.size, Setting::built_in(10));
    let timeout = QueueTimeout::Fixed(milliseconds(100));
    assert_eq!(queue.timeout, Setting::built_in(timeout));
    assert_eq!(queue.attempts, Setting::built_in(10));
    assert_eq!(queue.tick, Setting::built_in(milliseconds(10)));
    assert_eq!(queue.overtaking, Setting::built_in(false));
    assert_eq!(queue.refuse, Setting::built_in(Refuse::Agent));
    assert_eq!(queue.adaptive, Setting::built_in(false));
    assert_eq!(service.rate_limit, Setting::built_in(None));
    let loss = Setting::built_in(OnAgentLoss::OverAdmit);
    assert_eq!(service.on_agent_loss, loss);
    let health = &service.health;
    assert_eq!(health.path, Setting::built_in("/_/health".into()));
    assert_eq!(health.interval, Setting::built_in(milliseconds(5000)));
    assert_eq!(health.timeout, Setting::built_in(milliseconds(500)));
    assert_eq!(health.failures, Setting::built_in(3));
    assert_eq!(service.breaker.failures, Setting::built_in(5));
    assert_eq!(
        service.breaker.open,
        Setting::built_in(milliseconds(30_000))
    );
    let probe = |protocol| health.probe(protocol);
    assert_eq!(probe(Protocol::Http), Setting::built_in(Probe::Http));
    assert_eq!(probe(Protocol::Tcp), Setting::built_in(Probe::None));
}

#[test]
fn one_path_is_kept_once_for_all_services() {
    let text = "defaults: {health: {path: /alive}}\nservices:\n\
                - {name: a, frontends: [10.0.0.1:80]}\n- {name: b, frontends: [10.0.0.2:80]}\n";
    let state = parse(text).unwrap().config.desired_state();
    let paths: Vec<_> = state
        .services
        .values()
        .map(|each| &each.health.path.value)
        .collect();
    assert_eq!(&**paths[0], "/alive");
    assert!(std::sync::Arc::ptr_eq(paths[0], paths[1]));
}

#[test]
fn the_environment_stands_between_defaults_and_the_service() {
    let variables = [
        ("QUEUE_BUFFER_SIZE", "11"),
        ("QUEUE_TIMEOUT_MS", "150"),
        ("QUEUE_RETRY_COUNT", "12"),
        ("QUEUE_TICK_INTERVAL_MS", "13"),
        ("HEALTH_CHECK_TIMEOUT_MS", "140"),
        ("POD_AVAILABILITY_RETRIES", "15"),
    ];
    let below = "defaults: {queue: {size: 1, timeout: 1s, attempts: 1, tick: 1ms}, \
                 health: {timeout: 1s, failures: 1, path: /below}}\n";
    let own = "  queue: {size: 2}\n  health: {probe: tcp, failures: 2}\n";
    let service = service_of(&format!("{below}{}", with_service(own)), &variables);
    let (queue, health) = (service.queue, service.health);
    let milliseconds = Duration::from_millis;
    let of_environment = |time| Setting::new(time, Origin::Environment);
    assert_eq!(queue.size, Setting::new(2, Origin::Service));
    assert_eq!(
        queue.timeout,
        Setting::new(QueueTimeout::Fixed(milliseconds(150)), Origin::Environment)
    );
    assert_eq!(queue.attempts, Setting::new(12, Origin::Environment));
    assert_eq!(queue.tick, of_environment(milliseconds(13)));
    assert_eq!(health.timeout, of_environment(milliseconds(140)));
    assert_eq!(health.failures, Setting::new(2, Origin::Service));
    assert_eq!(&*health.path.value, "/below");
    assert_eq!(health.path.origin, Origin::Defaults);

    let auto = service_of(&with_service(""), &[("QUEUE_TIMEOUT_MS", "auto")]);
    assert_eq!(auto.queue.timeout.value, QueueTimeout::Auto);
}

#[test]
fn short_names_mean_their_long_forms() {
    let short = "queue_timeout_ms: 200, queue_buffer_size: 50, max_retries: 20, \
                 health_check_interval_ms: 1000";
    let long = "queue: {timeout: 200ms, size: 50, attempts: 20}, health: {interval: 1s}";
    let alias = "queue: {timeout: 200ms, size: 50, retries: 20}, health: {interval: 1s}";
    for place in [
        "defaults: {#}\n",
        "functions: {a: {#}}\n",
        "services: [{#, SERVICE}]\n",
    ] {
        let read = |settings: &str| {
            let entry = "name: a, protocol: http, frontends: [10.0.0.1:80]";
            let mut text = place.replace('#', settings).replace("SERVICE", entry);
            if !text.contains("services") {
                writeln!(text, "services: [{{{entry}}}]").unwrap();
            }
            assert_eq!(warnings(&text), [""; 0], "{text}");
            service_of(&text, &[])
        };
        assert_eq!(read(short), read(long), "{place}");
        assert_eq!(read(alias), read(long), "{place}");
        assert_eq!(read(long).queue.size.value, 50);
    }
    let auto = service("  queue_timeout_ms: auto\n");
    assert_eq!(
        auto.queue.timeout,
        Setting::new(QueueTimeout::Auto, Origin::Service)
    );
}

#[test]
fn two_names_of_one_setting_in_one_mapping() {
    assert_refused(&[
        (
            "defaults:\n  queue_buffer_size: 5\n  queue: {size: 5}\n",
            2,
            &[
                "queue_buffer_size is the same setting as queue.size, at line 3",
                "keep one",
            ],
        ),
        (
            "functions:\n  a:\n    queue: {timeout: 1s}\n    queue_timeout_ms: 1000\n",
            4,
            &["queue_timeout_ms is the same setting as queue.timeout, at line 3"],
        ),
        (
            "defaults:\n  queue:\n    attempts: 1\n    retries: 1\n",
            4,
            &["queue.retries is the same setting as queue.attempts, at line 3"],
        ),
        (
            "defaults:\n  max_retries: 1\n  queue: {retries: 1}\n",
            2,
            &["max_retries is the same setting as queue.retries, at line 3"],
        ),
        (
            "defaults:\n  health: {interval: 1s}\n  health_check_interval_ms: 1\n",
            3,
            &["is the same setting as health.interval, at line 2"],
        ),
    ]);
    // In two places, the usual order of the places holds.
    let text = with_service("  queue_buffer_size: 5\nfunctions: {a: {queue: {size: 6}}}\n");
    assert_eq!(
        service_of(&text, &[]).queue.size,
        Setting::new(6, Origin::Function)
    );
}

#[test]
fn every_bound_is_exact() {
    for (key, low, high, below, above) in [
        ("slow_start: #", "0s", "1h", "0", "3600001ms"),
        ("affinity: {timeout: #}", "1s", "24h", "999ms", "25h"),
        ("queue: {size: #}", "0", "100000", "-1", "100001"),
        ("queue: {timeout: #}", "0ms", "1h", "0", "3600001ms"),
        ("queue: {attempts: #}", "1", "1000", "0", "1001"),
        ("queue: {tick: #}", "1ms", "1s", "0s", "1001ms"),
        (
            "rate_limit: {per_second: #}",
            "1",
            "10000000",
            "0",
            "10000001",
        ),
        (
            "rate_limit: {per_second: 1, burst: #}",
            "1",
            "1000000",
            "0",
            "1000001",
        ),
        (
            "health: {interval: #, timeout: 1ms}",
            "10ms",
            "1h",
            "9ms",
            "61m",
        ),
        (
            "health: {interval: 1h, timeout: #}",
            "1ms",
            "1m",
            "0ms",
            "61s",
        ),
        ("health: {failures: #}", "1", "100", "0", "101"),
        ("breaker: {failures: #}", "0", "1000", "-1", "1001"),
        ("breaker: {open: #}", "1ms", "1h", "0h", "2h"),
        ("queue_timeout_ms: #", "0", "3600000", "-1", "3600001"),
        ("queue_buffer_size: #", "0", "100000", "-1", "100001"),
        ("max_retries: #", "1", "1000", "0", "1001"),
        (
            "health_check_interval_ms: #",
            "500",
            "3600000",
            "9",
            "3600001",
        ),
    ] {
        let text = |value: &str| format!("defaults:\n  {}\n", key.replace('#', value));
        for value in [low, high] {
            let loaded = parse(&text(value)).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(loaded.warnings, [], "{}", text(value));
        }
        for value in [below, above] {
            let found = problems(&text(value));
            assert_eq!(found.len(), 1, "{found:#?}");
            assert_eq!(found[0].line, Some(2), "{found:#?}");
            assert!(found[0].hint.contains(" to "), "{found:#?}");
        }
    }
}

#[test]
fn times_need_a_unit_and_a_whole_number() {
    assert_refused(&[
        (
            "defaults:\n  queue:\n    timeout: 100\n",
            3,
            &[
                "queue.timeout 100 has no unit",
                "100ms",
                "from 0ms to 1h",
                "or auto",
            ],
        ),
        (
            "defaults: {queue: {timeout: soon}}\n",
            1,
            &["queue.timeout \"soon\" is not a time", "or auto"],
        ),
        (
            "defaults: {queue: {tick: 1.5s}}\n",
            1,
            &["queue.tick \"1.5s\" is not a time", "from 1ms to 1s"],
        ),
        (
            "defaults: {queue: {tick: 5 ms}}\n",
            1,
            &[
                "\"5 ms\" is not a time",
                "whole number and its unit (ms, s, m or h)",
            ],
        ),
        ("defaults: {queue: {tick: -5ms}}\n", 1, &["is not a time"]),
        ("defaults: {queue: {tick: ms}}\n", 1, &["is not a time"]),
        (
            "defaults: {queue: {tick: ''}}\n",
            1,
            &["\"\" is not a time"],
        ),
        (
            "defaults: {health: {interval: 1d}}\n",
            1,
            &["health.interval \"1d\" is not a time", "from 10ms to 1h"],
        ),
        (
            "defaults: {breaker: {open: 99999999999999999999h}}\n",
            1,
            &["breaker.open 99999999999999999999h is above 1h"],
        ),
        (
            "functions:\n  a:\n    queue_timeout_ms: 200ms\n",
            3,
            &[
                "queue_timeout_ms \"200ms\" is not a whole number of milliseconds",
                "0 to 3600000",
            ],
        ),
    ]);
}

#[test]
fn words_and_switches_that_are_none() {
    assert_refused(&[
        (
            "defaults:\n  on_agent_loss: shrug\n",
            2,
            &["\"shrug\" is no on_agent_loss", "over-admit, refuse"],
        ),
        (
            "defaults: {queue: {refuse: nobody}}\n",
            1,
            &["\"nobody\" is no queue.refuse", "agent, kernel"],
        ),
        (
            "defaults: {health: {probe: grpc}}\n",
            1,
            &["\"grpc\" is no health.probe", "http, tcp, none"],
        ),
        (
            "defaults: {queue: {overtaking: yes}}\n",
            1,
            &[
                "queue.overtaking \"yes\" is neither true nor false",
                "write true or false",
            ],
        ),
        (
            "defaults: {queue: {adaptive: 1}}\n",
            1,
            &["queue.adaptive \"1\" is neither true nor false"],
        ),
        (
            "defaults: {queue: 5}\n",
            1,
            &["keys with values belong here"],
        ),
        (
            "defaults: {queue: {sise: 5}}\n",
            1,
            &["unknown key \"sise\"", "size, timeout"],
        ),
    ]);
}

#[test]
fn rate_limits() {
    let limit = |text: &str| service(&format!("  rate_limit: {text}\n")).rate_limit;
    let of_service =
        |per_second, burst| Setting::new(Some(RateLimit { per_second, burst }), Origin::Service);
    assert_eq!(limit("{per_second: 7}"), of_service(7, 7));
    assert_eq!(limit("{per_second: 7, burst: 1}"), of_service(7, 1));
    assert_eq!(
        limit("{per_second: 5000000}"),
        of_service(5_000_000, 1_000_000)
    );
    assert_eq!(limit("none"), Setting::new(None, Origin::Service));
    let off = "defaults: {rate_limit: {per_second: 7}}\n";
    let off = format!("{off}{}", with_service("  rate_limit: none\n"));
    assert_eq!(
        service_of(&off, &[]).rate_limit,
        Setting::new(None, Origin::Service)
    );

    assert_refused(&[
        (
            "defaults:\n  rate_limit: 100\n",
            2,
            &[
                "rate_limit \"100\" is neither none nor a mapping",
                "{per_second: 100",
            ],
        ),
        (
            "defaults: {rate_limit: true}\n",
            1,
            &["\"true\" is neither none"],
        ),
        (
            "defaults:\n  rate_limit: {burst: 5}\n",
            2,
            &["rate_limit has no per_second", "{per_second: 100"],
        ),
        (
            "defaults:\n  rate_limit:\n    per_second: many\n    burst: 3\n",
            3,
            &["rate_limit.per_second \"many\" is not a whole number"],
        ),
        (
            "defaults: {rate_limit: {per_second: 1, per_minute: 1}}\n",
            1,
            &["unknown key \"per_minute\"", "per_second, burst"],
        ),
        (
            "defaults: {rate_limit: [1]}\n",
            1,
            &["write a single value, or a mapping: {per_second"],
        ),
    ]);
}

#[test]
fn health_paths_are_request_targets() {
    for path in [
        "/",
        "/_/health",
        "/a%20b",
        "/a?b=c&d",
        "//a",
        "/~a!$'()*+,;=:@",
    ] {
        let path_of = service(&format!("  health: {{probe: http, path: \"{path}\"}}\n"));
        assert_eq!(&*path_of.health.path.value, path);
    }
    for (path, words) in [
        ("health", "does not begin with '/'"),
        ("http://a/health", "does not begin with '/'"),
        ("''", "does not begin with '/'"),
        ("/a b", "contains what no request can ask for"),
        ("'/a#b'", "contains what no request can ask for"),
        ("/naïve", "contains what no request can ask for"),
        (
            "\"/a\\r\\nHost: b\"",
            "contains what no request can ask for",
        ),
        ("\"/a\\0\"", "contains what no request can ask for"),
    ] {
        let found = problems(&format!("defaults:\n  health:\n    path: {path}\n"));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].line, Some(3), "{path}");
        assert!(found[0].message.contains(words), "{found:#?}");
        assert!(found[0].hint.contains("/_/health"), "{found:#?}");
    }
    let path = |length: usize| {
        format!(
            "defaults: {{health: {{path: /{}}}}}",
            "a".repeat(length - 1)
        )
    };
    assert!(parse(&path(1024)).is_ok());
    let found = problems(&path(1025));
    assert!(found[0].message.contains("has 1025 bytes"), "{found:#?}");
}

#[test]
fn functions_override_each_setting_by_itself() {
    let text = with_service(
        "  queue: {size: 1, timeout: 1s}\n  breaker: {failures: 1}\n\
         functions:\n  a: {queue: {size: 2}, breaker: {open: 1s}}\n  \
         x/a: {queue: {attempts: 3}}\n  y/a: {queue: {tick: 3ms}}\n",
    );
    let service = service_of(&text, &[]);
    assert_eq!(service.queue.size, Setting::new(2, Origin::Function));
    assert_eq!(service.queue.timeout.origin, Origin::Service);
    assert_eq!(service.queue.attempts, Setting::new(3, Origin::Function));
    assert_eq!(service.queue.tick.origin, Origin::BuiltIn);
    assert_eq!(service.breaker.failures, Setting::new(1, Origin::Service));
    assert_eq!(service.breaker.open.origin, Origin::Function);
}

#[test]
fn many_bad_settings_are_all_said() {
    let found = problems(
        "defaults:\n  queue:\n    size: x\n    timeout: 5\n    tick: 2h\n  health:\n    \
         path: x\n    failures: 0\n  breaker: {open: 0s}\n  on_agent_loss: x\n  rate_limit: x\n",
    );
    let lines: Vec<_> = found.iter().map(|each| each.line.unwrap()).collect();
    assert_eq!(lines, [3, 4, 5, 7, 8, 9, 10, 11], "{found:#?}");
}
