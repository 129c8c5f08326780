//! Values and shapes that are refused: where, with which words, and all that is wrong at once.

use super::{assert_refused, parse_with, problems};

#[test]
fn what_is_not_yaml() {
    assert_refused(&[
        ("source: 'abc\n", 2, &["not valid YAML"]),
        ("source: a: b\n", 1, &["not valid YAML"]),
        (
            "services:\n  - name: a\n   namespace: b\n",
            3,
            &["not valid YAML", "indentation"],
        ),
        (
            "services:\n- name: a\n  frontends: [::1]:80\n",
            3,
            &["not valid YAML", "put an IPv6 address in quotes"],
        ),
        (
            "source: file\n---\nsource: file\n",
            2,
            &["a second document"],
        ),
        ("source: *none\n", 1, &["names no anchor"]),
        ("source: !env X\n", 1, &["the tag \"!env\""]),
        ("source: \0\n", 1, &["not valid YAML"]),
    ]);
}

#[test]
fn what_sets_nothing() {
    for text in [
        "",
        "\n\n",
        "# only a comment\n",
        "---\n",
        "~",
        "services:\nagent:\n",
    ] {
        let problems = problems(text);
        assert_eq!(problems[0].line, None, "{text}");
        assert!(problems[0].message.contains("sets nothing"), "{text}");
    }
}

#[test]
fn keys_that_are_unknown_or_there_twice() {
    assert_refused(&[
        (
            "source: file\nservice: []\n",
            2,
            &[
                "unknown key \"service\"",
                "source, agent, defaults, functions, services",
            ],
        ),
        (
            "agent:\n  cgroups: /x\n",
            2,
            &["unknown key \"cgroups\"", "cgroup, pods_cgroup"],
        ),
        (
            "agent: {log: {colour: red}}\n",
            1,
            &["unknown key \"colour\"", "level, format"],
        ),
        (
            "defaults:\n  max-inflight: 1\n",
            2,
            &["unknown key \"max-inflight\""],
        ),
        (
            "functions:\n  a:\n    queue_timeout: 1\n",
            3,
            &["unknown key \"queue_timeout\""],
        ),
        (
            "services:\n- name: a\n  port: 1\n",
            3,
            &["unknown key \"port\""],
        ),
        (
            "services:\n- name: a\n  backends:\n  - address: 10.0.0.1:1\n    wieght: 1\n",
            5,
            &["unknown key \"wieght\"", "address, weight"],
        ),
        (
            "source: file\nsource: file\n",
            2,
            &["\"source\" is there twice", "keep one"],
        ),
        (
            "functions:\n  a: {}\n  a: {}\n",
            3,
            &["\"a\" is there twice"],
        ),
        ("1: 2\n", 1, &["unknown key \"1\""]),
    ]);
}

#[test]
fn shapes_that_are_wrong() {
    assert_refused(&[
        ("just words\n", 1, &["keys with values belong here"]),
        ("- a\n", 1, &["keys with values belong here"]),
        ("source: [file]\n", 1, &["a single value belongs here"]),
        ("services: {}\n", 1, &["a list belongs here"]),
        ("services:\n- hello\n", 2, &["keys with values belong here"]),
        (
            "services:\n- name: a\n  frontends: 10.0.0.1:80\n",
            3,
            &["a list belongs here"],
        ),
        (
            "services:\n- name: a\n  frontends: [~]\n",
            3,
            &["a value is missing"],
        ),
        (
            "services:\n- name: a\n  backends: [10.0.0.1:80]\n",
            3,
            &["keys with values"],
        ),
        ("functions: [a]\n", 1, &["keys with values belong here"]),
        ("agent: {admin: unix:/a}\n", 1, &["a list belongs here"]),
    ]);
}

#[test]
fn words_that_are_unknown_or_not_supported_yet() {
    assert_refused(&[
        (
            "source: consul\n",
            1,
            &["\"consul\" is no source", "file, kubernetes"],
        ),
        (
            "source: kubernetes\nservices: [{name: hello, frontends: [\"10.96.0.1:80\"]}]\n",
            2,
            &["come from the Kubernetes API", "source: file"],
        ),
        (
            "defaults: {strategy: fastest}\n",
            1,
            &[
                "\"fastest\" is no strategy",
                "idle-first, least-connections",
                "adaptive",
            ],
        ),
        (
            "defaults: {admission: activity}\n",
            1,
            &["not supported", "supported: connection, request"],
        ),
        (
            "defaults: {protocol: udp}\n",
            1,
            &["\"udp\" is no protocol", "tcp, http"],
        ),
        (
            "functions: {a: {strategy: p3c}}\n",
            1,
            &["\"p3c\" is no strategy"],
        ),
        (
            "defaults:\n  locality: prefer-rack\n",
            2,
            &[
                "\"prefer-rack\" is no locality",
                "none, prefer-node, prefer-zone",
            ],
        ),
        (
            "agent: {log: {level: loud}}\n",
            1,
            &["\"loud\" is no log level", "error, warn"],
        ),
    ]);
}

#[test]
fn numbers_that_are_none_or_out_of_range() {
    assert_refused(&[
        (
            "defaults: {max_inflight: -1}\n",
            1,
            &["max_inflight -1 is negative"],
        ),
        (
            "defaults: {max_inflight: 1000001}\n",
            1,
            &["is above 1000000", "from 0 to 1000000"],
        ),
        (
            "defaults: {max_inflight: 4294967296}\n",
            1,
            &["4294967296 is above 1000000"],
        ),
        (
            "defaults: {max_inflight: 99999999999999999999999}\n",
            1,
            &["is above 1000000"],
        ),
        (
            "defaults: {max_inflight: 1.5}\n",
            1,
            &["\"1.5\" is not a whole number"],
        ),
        (
            "defaults: {max_inflight: many}\n",
            1,
            &["\"many\" is not a whole number"],
        ),
        (
            "defaults: {max_inflight: ''}\n",
            1,
            &["\"\" is not a whole number"],
        ),
        (
            "defaults: {max_inflight: 0x10}\n",
            1,
            &["\"0x10\" is not a whole number", "digits only"],
        ),
        (
            "functions: {a: {max_inflight: -2}}\n",
            1,
            &["-2 is negative"],
        ),
    ]);
}

#[test]
fn services_that_lack_something() {
    assert_refused(&[
        (
            "services:\n- frontends: [10.0.0.1:80]\n",
            2,
            &["has no name"],
        ),
        ("services:\n- name: a\n", 2, &["default/a has no frontends"]),
        (
            "defaults:\n  intercept: pod\n",
            2,
            &["\"pod\" is no intercept", "service, pods"],
        ),
        (
            "agent:\n  pods_cgroup: kubepods\n",
            2,
            &["pods_cgroup \"kubepods\" is not an absolute path"],
        ),
        (
            "agent:\n  bypass_cgroups: [a, ../b]\n",
            2,
            &["\"../b\" is not the path of a cgroup"],
        ),
        (
            "services:\n- name: a\n  frontends: []\n",
            2,
            &["default/a has no frontends"],
        ),
        (
            "services:\n- name: a\n  frontends: [10.0.0.1:80]\n  backends: [{weight: 1}]\n",
            4,
            &["this backend has no address"],
        ),
    ]);
}

#[test]
fn names_that_are_no_dns_labels() {
    assert_refused(&[
        (
            "services:\n- name: Hello\n  frontends: [10.0.0.1:80]\n",
            2,
            &["\"Hello\" cannot be a service's name", "'H'", "DNS label"],
        ),
        (
            "services:\n- name: a\n  namespace: x/y\n  frontends: [10.0.0.1:80]\n",
            3,
            &["\"x/y\" cannot be a service's namespace"],
        ),
        (
            "services:\n- name: ''\n  frontends: [10.0.0.1:80]\n",
            2,
            &["it is empty"],
        ),
        (
            "functions: {a_b: {}}\n",
            1,
            &["\"a_b\" cannot be a function's name"],
        ),
        (
            "functions: {a/b/c: {}}\n",
            1,
            &["\"a/b/c\" cannot be a function's name"],
        ),
    ]);
}

#[test]
fn addresses_that_name_no_host_and_port() {
    for (address, words) in [
        ("10.1.0.2", "has no port"),
        ("10.1.0.2:0", "port 0"),
        ("hello:80", "names are not looked up"),
        (
            "hello.default.svc.cluster.local:80",
            "names are not looked up",
        ),
        ("0.0.0.0:80", "unspecified"),
        ("'[::]:80'", "unspecified"),
        ("224.0.0.1:80", "multicast"),
        ("'[ff02::1]:80'", "multicast"),
        ("255.255.255.255:80", "broadcast"),
        ("10.1.0.2:65536", "1 to 65535"),
        ("'[fe80::1%eth0]:80'", "zone"),
        ("10.1.0.256:80", "not an IP address"),
        ("'::1'", "has no port"),
    ] {
        let frontend = format!("services:\n- name: a\n  frontends:\n  - {address}\n");
        let backend = format!(
            "services:\n- name: a\n  frontends: [10.0.0.1:80]\n  backends:\n  - address: {address}\n"
        );
        for (text, line, what) in [(frontend, 4, "frontend"), (backend, 5, "backend")] {
            let found = problems(&text);
            assert_eq!(found.len(), 1, "{found:#?}");
            assert_eq!(found[0].line, Some(line), "{text}");
            let message = &found[0].message;
            assert!(message.contains(words), "{message}");
            assert!(
                message.contains(&format!("cannot be a {what}")),
                "{message}"
            );
        }
    }
}

#[test]
fn weights_that_are_out_of_range() {
    for (weight, words) in [
        ("0", "weight 0 is below 1"),
        ("-1", "weight -1 is negative"),
        ("10001", "weight 10001 is above 10000"),
        ("heavy", "not a whole number"),
    ] {
        let text = format!(
            "services:\n- name: a\n  frontends: [10.0.0.1:80]\n  backends:\n  \
             - address: 10.1.0.1:80\n    weight: {weight}\n"
        );
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].line, Some(6));
        assert!(found[0].message.contains(words), "{}", found[0].message);
    }
}

#[test]
fn the_agents_bad_values() {
    assert_refused(&[
        (
            "agent: {cgroup: sys/fs/cgroup}\n",
            1,
            &["cgroup \"sys/fs/cgroup\" is not an absolute"],
        ),
        (
            "agent: {pin_path: /sys/../etc}\n",
            1,
            &["pin_path", "without '..'"],
        ),
        (
            "agent:\n  admin:\n  - unix:run/a.sock\n",
            3,
            &["`unix:` is not absolute"],
        ),
        (
            "agent: {admin: [localhost:9090]}\n",
            1,
            &["names are not looked up", "unix:/ABSOLUTE"],
        ),
        ("agent: {admin: [127.0.0.1]}\n", 1, &["has no port"]),
        (
            "agent: {admin: [127.0.0.1:9, 127.0.0.1:9]}\n",
            1,
            &["beside 127.0.0.1:9"],
        ),
        (
            "agent: {admin: [unix:/a, unix:/a]}\n",
            1,
            &["beside unix:/a"],
        ),
        (
            "agent: {metrics: 0.0.0.0:9090}\n",
            1,
            &["0.0.0.0:9090 cannot be listened on beside"],
        ),
        (
            "agent: {metrics: 9102}\n",
            1,
            &["\"9102\"", "IP:PORT or none"],
        ),
        ("agent: {metrics: 224.0.0.1:9102}\n", 1, &["multicast"]),
        (
            "agent: {overflow: sometimes}\n",
            1,
            &["neither auto nor an IP address"],
        ),
        (
            "agent: {overflow: 127.0.0.1}\n",
            1,
            &["other network namespaces"],
        ),
        ("agent: {overflow: []}\n", 1, &["overflow names no address"]),
        (
            "agent:\n  overflow:\n  - 192.0.2.1\n  - 192.0.2.2\n",
            4,
            &["overflow 192.0.2.2 is the second", "keep one IPv4"],
        ),
        (
            "agent: {overflow: [auto]}\n",
            1,
            &["\"auto\" is neither", "write auto"],
        ),
        ("agent: {overflow: 1}\n", 1, &["overflow \"1\" is neither"]),
        (
            "agent: {overflow: {v4: 192.0.2.1}}\n",
            1,
            &["write a single value, or a list"],
        ),
        (
            "agent: {overflow: 'fe80::1'}\n",
            1,
            &["other network namespaces"],
        ),
        ("agent: {workers: 0}\n", 1, &["workers 0 is below 1"]),
        ("agent: {workers: 257}\n", 1, &["workers 257 is above 256"]),
        (
            "agent: {cache_max_size: 0}\n",
            1,
            &["cache_max_size 0 is below 1"],
        ),
        (
            "agent: {metrics_collection: yes}\n",
            1,
            &["\"yes\" is neither true nor false"],
        ),
        (
            "agent: {shutdown_timeout: 2h}\n",
            1,
            &["shutdown_timeout 2h is above 1h", "from 0ms to 1h"],
        ),
        (
            "agent: {resync: 500ms}\n",
            1,
            &["resync 500ms is below 1s", "from 1s to 24h"],
        ),
        (
            "agent: {health_checks: {at_once: 0}}\n",
            1,
            &["at_once 0 is below 1"],
        ),
        (
            "agent: {health_checks: {cache_ttl: 5}}\n",
            1,
            &["cache_ttl 5 has no unit"],
        ),
    ]);
    let long = format!("agent: {{admin: ['unix:/{}']}}", "a".repeat(107));
    assert!(problems(&long)[0].message.contains("at most 107"));
}

#[test]
fn a_bad_variable_is_named_instead_of_a_line() {
    for (variable, value, words) in [
        (
            "POD_SELECTION_STRATEGY",
            "fastest",
            "\"fastest\" is no strategy",
        ),
        (
            "IDLEFIRST_NODE",
            "node 1",
            "node \"node 1\" contains what is no visible ASCII",
        ),
        ("IDLEFIRST_ZONE", "zône", "no visible ASCII"),
        ("IDLEFIRST_CGROUP", "here", "not an absolute path"),
        ("IDLEFIRST_PIN_PATH", "./x", "not an absolute path"),
        (
            "IDLEFIRST_ADMIN",
            "unix:/a,nonsense",
            "\"nonsense\" cannot be an address",
        ),
        ("IDLEFIRST_METRICS", "off", "\"off\" cannot be an address"),
        ("IDLEFIRST_LOG", "loud", "no log level"),
        ("QUEUE_BUFFER_SIZE", "-1", "its value -1 is negative"),
        (
            "QUEUE_TIMEOUT_MS",
            "100ms",
            "not a whole number of milliseconds",
        ),
        ("QUEUE_TIMEOUT_MS", "3600001", "is above 3600000"),
        ("QUEUE_RETRY_COUNT", "0", "its value 0 is below 1"),
        ("QUEUE_TICK_INTERVAL_MS", "1001", "is above 1000"),
        ("HEALTH_CHECK_TIMEOUT_MS", "0", "is below 1"),
        (
            "HEALTH_CHECK_CACHE_TTL_SEC",
            "5s",
            "not a whole number of seconds",
        ),
        ("HEALTH_CHECK_ENABLED", "on", "neither true nor false"),
        ("POD_AVAILABILITY_RETRIES", "101", "is above 100"),
        ("MAX_CONCURRENT_HEALTH_CHECKS", "0", "is below 1"),
        ("POD_CACHE_REFRESH_INTERVAL_SEC", "0", "is below 1"),
        ("CACHE_MAX_SIZE", "0", "is below 1"),
        ("METRICS_COLLECTION_ENABLED", "1", "neither true nor false"),
        ("IDLEFIRST_LOG_FORMAT", "xml", "no log format"),
    ] {
        let error = parse_with("source: file\n", &[(variable, value)]).unwrap_err();
        assert_eq!(error.problems().len(), 1, "{error}");
        assert_eq!(error.problems()[0].variable.as_deref(), Some(variable));
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("environment variable {variable}: ")),
            "{text}"
        );
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once_by_line() {
    let text = "source: nowhere\n\
                agent: {cgroup: x}\n\
                defaults: {max_inflight: -1}\n\
                functions: {A: {}}\n\
                services:\n\
                - name: b_\n  frontends: [10.0.0.1]\n  strategy: best\n\
                - name: c\n  frontends: [10.0.0.2:80]\n  backends: [{address: x:1, weight: 0}]\n";
    let error = parse_with(text, &[("IDLEFIRST_LOG", "loud")]).unwrap_err();
    let lines: Vec<_> = error.problems().iter().map(|each| each.line).collect();
    let line = Some;
    assert_eq!(
        lines,
        [
            line(1),
            line(2),
            line(3),
            line(4),
            line(6),
            line(7),
            line(8),
            line(11),
            line(11),
            None
        ],
        "{error}"
    );
    let shown = error.to_string();
    assert_eq!(shown.lines().count(), 10);
    assert_eq!(error.reason(), "invalid");
    assert!(
        shown.starts_with("test.yaml:1:9: \"nowhere\" is no source; write one of"),
        "{shown}"
    );
}

#[test]
fn a_value_is_found_wrong_where_it_is_defined() {
    let text = "services:\n- &a\n  name: a\n  max_inflight: -1\n  frontends: [10.0.0.1:80]\n\
                - <<: *a\n  name: b\n  frontends: [10.0.0.2:80]\n";
    let lines: Vec<_> = problems(text).iter().map(|each| each.line).collect();
    assert_eq!(lines, [Some(4), Some(4)]);
}

#[test]
fn an_ipv4_frontend_before_an_ipv6_backend() {
    assert_refused(&[(
        "services:\n- name: a\n  frontends: ['10.96.0.1:80']\n  backends: [{address: '[fd00::1]:80'}]\n",
        4,
        &[
            "frontend 10.96.0.1:80 of default/a is IPv4",
            "backend [fd00::1]:80 is IPv6",
        ],
    )]);
    let other_way = "services:\n- name: a\n  frontends: ['[fd00:96::1]:80']\n  backends: [{address: '10.1.0.1:80'}]\n";
    assert!(parse_with(other_way, &[]).is_ok());
}
