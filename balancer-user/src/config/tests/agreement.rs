//! Settings that contradict each other, or come to nothing: where that is said, and how often.

use super::settings::with_service;
use super::{assert_refused, parse_with, problems, warnings};

#[test]
fn admission_by_request_needs_http() {
    let request = "  admission: request\n";
    let service = |rest: &str| with_service(&format!("{request}{rest}"));
    for (text, line) in [
        (service(""), 5),
        (service("  protocol: tcp\n"), 5),
        (
            service("  protocol: http\nfunctions:\n  a:\n    protocol: tcp\n"),
            9,
        ),
        (with_service("functions:\n  a: {admission: request}\n"), 6),
        (
            format!("defaults: {{admission: request}}\n{}", with_service("")),
            3,
        ),
        (
            format!(
                "defaults: {{admission: request}}\n{}",
                with_service("  protocol: tcp\n")
            ),
            6,
        ),
    ] {
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{found:#?}\n{text}");
        assert_eq!(found[0].line, Some(line), "{found:#?}\n{text}");
        let words = "but the protocol of x/a is tcp";
        assert!(found[0].message.contains(words), "{found:#?}");
    }
    for text in [
        service("  protocol: http\n"),
        service("functions: {a: {protocol: http}}\n"),
        service("functions: {a: {admission: connection}}\n"),
        format!("defaults: {{protocol: http}}\n{}", service("")),
        "defaults: {admission: request}\n".to_owned(),
    ] {
        assert_eq!(warnings(&text), [""; 0], "{text}");
    }
}

#[test]
fn an_adaptive_queue_needs_room() {
    const WORDS: &str = "defaults: the queue is adaptive, but its size is 0";
    assert_refused(&[
        (
            "defaults:\n  queue: {adaptive: true, size: 0}\n",
            2,
            &[WORDS, "1 or more"],
        ),
        (
            "defaults: {queue: {adaptive: true}}\nservices:\n- name: a\n  \
             frontends: [10.0.0.1:80]\n  queue_buffer_size: 0\n- name: b\n  \
             frontends: [10.0.0.2:80]\n",
            5,
            &["default/a: the queue is adaptive, but its size is 0"],
        ),
        (
            "services:\n- name: a\n  frontends: [10.0.0.1:80]\n  queue: {size: 0}\n\
             functions:\n  a:\n    queue: {adaptive: true}\n",
            7,
            &["default/a: the queue is adaptive"],
        ),
    ]);
    let error = parse_with(
        "defaults: {queue: {adaptive: true}}\n",
        &[("QUEUE_BUFFER_SIZE", "0")],
    )
    .unwrap_err();
    assert_eq!(
        error.problems()[0].variable.as_deref(),
        Some("QUEUE_BUFFER_SIZE")
    );

    // What a layer above mends is no contradiction.
    let mended = with_service(
        "  queue: {size: 0}\nfunctions: {a: {queue: {adaptive: false}}}\n\
         defaults: {queue: {adaptive: true}}\n",
    );
    assert_eq!(warnings(&mended), [""; 0]);
    let large = warnings("defaults:\n  queue: {adaptive: true, size: 100}\n");
    assert!(large[0].contains("2:21: defaults: the queue is adaptive, but its size is 100"));
    assert_eq!(
        warnings("defaults: {queue: {adaptive: true, size: 99}}\n"),
        [""; 0]
    );
}

#[test]
fn probes_that_outlast_their_interval_are_warned_of_once() {
    let found = warnings("defaults:\n  health:\n    interval: 100ms\n    timeout: 101ms\n");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].contains(":4:14: defaults: a probe may take 101ms, but is due every 100ms"),
        "{}",
        found[0]
    );
    let equal = "defaults: {health: {interval: 100ms, timeout: 100ms}}\n";
    assert_eq!(warnings(equal), [""; 0]);

    // Two services, of which one is to blame itself.
    let text = "defaults: {health: {interval: 100ms, timeout: 1s}, protocol: http}\nservices:\n\
                - name: a\n  frontends: [10.0.0.1:80]\n\
                - name: b\n  frontends: [10.0.0.2:80]\n  health_check_interval_ms: 200\n";
    let found = warnings(text);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].contains(":1:47: defaults: a probe may take"),
        "{}",
        found[0]
    );
    assert!(
        found[1].contains(":7:29: default/b: a probe may take 1s"),
        "{}",
        found[1]
    );
}

#[test]
fn health_settings_of_a_service_that_is_not_probed_are_warned_of() {
    for rest in [
        "  health:\n    path: /ready\n",
        "  health:\n    failures: 1\n",
        "functions:\n  a: {health: {interval: 1s}}\n",
    ] {
        let found = warnings(&with_service(rest));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with("test.yaml:6:"), "{}", found[0]);
        assert!(found[0].contains("x/a is not probed"), "{}", found[0]);
    }
    for rest in [
        "  protocol: http\n  health: {path: /ready}\n",
        "  health: {probe: http, path: /ready}\n",
        "  health: {probe: none, path: /ready}\n",
        "defaults: {health: {path: /ready}}\n",
    ] {
        assert_eq!(warnings(&with_service(rest)), [""; 0], "{rest}");
    }
}
