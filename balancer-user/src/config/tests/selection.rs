//! The settings of how a backend is picked: strategy, hash, affinity, locality, slow start.

use std::time::Duration;

use super::settings::{service_of, with_service};
use super::{assert_refused, parse, parse_with, problems, warnings};
use crate::model::{Affinity, HashKey, Locality, Origin, Service, Setting, Strategy};

fn service(rest: &str) -> Service {
    service_of(&with_service(rest), &[])
}

/// What makes header and cookie keys fit.
const REQUESTS: &str = "  protocol: http\n  admission: request\n";

const LOCATED: &str = "  backends: [{address: 10.1.0.1:80, node: n, zone: z}]\n";

#[test]
fn every_strategy_may_be_chosen() {
    for strategy in Strategy::ALL {
        for word in [strategy.to_string(), strategy.as_str().replace('-', "_")] {
            let chosen = service(&format!("  strategy: {word}\n")).strategy;
            assert_eq!(chosen, Setting::new(*strategy, Origin::Service));
        }
    }
}

#[test]
fn affinity_is_a_mapping_or_none() {
    let affinity = |text: &str| service(&format!("  affinity: {text}\n{REQUESTS}")).affinity;
    let some = |seconds, cookie: Option<&str>| {
        let affinity = Affinity {
            timeout: Duration::from_secs(seconds),
            cookie: cookie.map(|name| name.parse().unwrap()),
        };
        Setting::new(Some(affinity), Origin::Service)
    };
    let none = Setting::new(None, Origin::Service);
    assert_eq!(affinity("{client: true}"), some(600, None));
    assert_eq!(affinity("{}"), some(600, None));
    assert_eq!(affinity("{timeout: 1s}"), some(1, None));
    assert_eq!(affinity("{cookie: SID}"), some(600, Some("SID")));
    assert_eq!(affinity("{client: false}"), none);
    assert_eq!(affinity("{client: false, timeout: 1h, cookie: a}"), none);
    assert_eq!(affinity("none"), none);

    // A layer replaces the one below as a whole.
    let below = "defaults: {affinity: {timeout: 1h, cookie: a}}\n";
    let text = format!(
        "{below}{}",
        with_service("  affinity: {timeout: 2s}\nfunctions: {x/a: {affinity: none}}\n")
    );
    let none = Setting::new(None, Origin::Function);
    assert_eq!(service_of(&text, &[]).affinity, none);
    let text = format!("{below}{}", with_service("  affinity: {timeout: 2s}\n"));
    assert_eq!(service_of(&text, &[]).affinity, some(2, None));

    assert_refused(&[
        (
            "defaults:\n  affinity: true\n",
            2,
            &[
                "affinity \"true\" is neither none nor a mapping",
                "timeout: 10m",
            ],
        ),
        (
            "defaults:\n  affinity:\n    client: maybe\n",
            3,
            &["affinity.client \"maybe\" is neither true nor false"],
        ),
        (
            "defaults:\n  affinity:\n    timeout: 10\n",
            3,
            &["affinity.timeout 10 has no unit", "from 1s to 24h"],
        ),
        (
            "defaults:\n  affinity:\n    cookie: 'a b'\n",
            3,
            &["affinity.cookie \"a b\" cannot be the name of a cookie: it contains ' '"],
        ),
        (
            "defaults:\n  affinity:\n    cookie: ''\n",
            3,
            &["it is empty"],
        ),
        (
            "defaults:\n  affinity: {clients: true}\n",
            2,
            &["unknown key \"clients\"", "client, timeout, cookie"],
        ),
        (
            "defaults:\n  affinity: [client]\n",
            2,
            &[
                "a list or a mapping is here",
                "{client: true, timeout: 10m}",
            ],
        ),
    ]);
}

#[test]
fn an_affinity_cookie_needs_admission_by_request() {
    const WORDS: &str = "cookie SID can only be issued where the agent reads requests, but the \
                         admission of x/a is connection";
    let cookie = "  affinity: {cookie: SID}\n";
    for (text, line) in [
        (with_service(cookie), 5),
        (
            with_service(&format!("{cookie}  admission: connection\n")),
            5,
        ),
        (
            with_service(&format!(
                "{cookie}{REQUESTS}functions:\n  a:\n    admission: connection\n"
            )),
            10,
        ),
        (
            with_service("functions:\n  a: {affinity: {cookie: SID}}\n"),
            6,
        ),
    ] {
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{found:#?}\n{text}");
        assert_eq!(found[0].line, Some(line), "{found:#?}\n{text}");
        assert!(found[0].message.contains(WORDS), "{found:#?}");
    }
    let inherited = format!(
        "defaults: {{affinity: {{cookie: SID}}}}\n{}",
        with_service("")
    );
    assert_eq!(warnings(&inherited), [""; 0]);
    let inherited = service_of(&inherited, &[]);
    assert!(inherited.affinity.value.unwrap().cookie.is_some());
    let here = service(&format!("{cookie}{REQUESTS}"));
    assert_eq!(here.sticks(), here.affinity.value);
}

#[test]
fn hash_is_a_word_or_names_a_header_or_a_cookie() {
    let hash = |text: &str| {
        service(&format!(
            "  strategy: consistent-hash\n  hash: {text}\n{REQUESTS}"
        ))
        .hash
    };
    let of_service = |key| Setting::new(key, Origin::Service);
    assert_eq!(hash("client"), of_service(HashKey::Client));
    let header = HashKey::Header("x-user".parse().unwrap());
    assert_eq!(hash("{header: X-User}"), of_service(header));
    let cookie = HashKey::Cookie("SID".parse().unwrap());
    assert_eq!(hash("{cookie: SID}"), of_service(cookie));

    assert_refused(&[
        (
            "defaults:\n  hash: header\n",
            2,
            &["hash \"header\" is neither client nor a mapping", "x-user"],
        ),
        (
            "defaults:\n  hash: {}\n",
            2,
            &["hash names neither a header nor a cookie", "write client"],
        ),
        (
            "defaults:\n  hash: {header: a, cookie: b}\n",
            2,
            &["hash names both a header and a cookie"],
        ),
        (
            "defaults:\n  hash:\n    header: 'x: y'\n",
            3,
            &["hash.header \"x: y\" cannot be the name of a header: it contains ':'"],
        ),
        (
            "defaults:\n  hash:\n    cookie: \"a\\r\\nb\"\n",
            3,
            &["cannot be the name of a cookie: it contains '\\r'"],
        ),
        (
            "defaults:\n  hash: {query: a}\n",
            2,
            &["unknown key \"query\"", "header, cookie"],
        ),
        ("defaults:\n  hash: [client]\n", 2, &["{header: x-user}"]),
    ]);
    let long = format!("defaults: {{hash: {{header: {}}}}}\n", "h".repeat(129));
    assert!(problems(&long)[0].message.contains("has 129 bytes"));
}

#[test]
fn hashing_a_part_of_a_request_needs_strategy_and_admission() {
    let hashing = "  strategy: consistent-hash\n";
    let header = "  hash: {header: x-user}\n";
    for (rest, line, words) in [
        (
            format!("{header}{REQUESTS}"),
            5,
            "only strategy consistent-hash hashes a header x-user, but the strategy of x/a is \
             idle-first",
        ),
        (
            format!("{header}{REQUESTS}{hashing}functions:\n  a:\n    strategy: random\n"),
            11,
            "but the strategy of x/a is random",
        ),
        (
            format!("{header}{hashing}"),
            5,
            "a header x-user can only be hashed where the agent reads requests, but the \
             admission of x/a is connection",
        ),
        (
            format!("{hashing}functions:\n  a:\n    hash: {{cookie: s}}\n"),
            8,
            "a cookie s can only be hashed",
        ),
    ] {
        let text = with_service(&rest);
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{found:#?}\n{text}");
        assert_eq!(found[0].line, Some(line), "{found:#?}\n{text}");
        assert!(found[0].message.contains(words), "{found:#?}");
    }
    let inherited = format!(
        "defaults: {{hash: {{header: x-user}}}}\n{}",
        with_service("")
    );
    assert_eq!(warnings(&inherited), [""; 0]);
    assert_eq!(service_of(&inherited, &[]).hashes(), HashKey::Client);
    assert_eq!(warnings(&with_service("  hash: client\n")), [""; 0]);
}

#[test]
fn locality_is_laid_on_as_other_settings_are() {
    let text = |defaults: &str, own: &str, function: &str| {
        format!(
            "defaults: {{{defaults}}}\nagent: {{zone: z}}\nfunctions: {{a: {{{function}}}}}\n{}",
            with_service(&format!("{own}{LOCATED}"))
        )
    };
    let zone = "locality: prefer_zone";
    let own = "  locality: prefer-node\n";
    let (node, of_zone) = (Locality::PreferNode, Locality::PreferZone);
    for (text, value, origin) in [
        (text(zone, "", ""), of_zone, Origin::Defaults),
        (text(zone, own, ""), node, Origin::Service),
        (text("", own, zone), of_zone, Origin::Function),
        (
            text(zone, own, "locality: none"),
            Locality::None,
            Origin::Function,
        ),
    ] {
        assert_eq!(warnings(&text), [""; 0], "{text}");
        assert_eq!(service_of(&text, &[]).locality, Setting::new(value, origin));
    }
}

#[test]
fn modifiers_contradict_some_strategies_in_one_place_only() {
    assert_refused(&[
        (
            "defaults:\n  strategy: leader\n  locality: prefer-node\n",
            3,
            &[
                "defaults: strategy leader picks the same backend on every node",
                "locality prefer-node cannot hold",
                "remove `locality`",
            ],
        ),
        (
            "defaults:\n  locality: prefer-zone\n  strategy: consistent-hash\n",
            2,
            &["strategy consistent-hash picks the same", "prefer-zone"],
        ),
        (
            "defaults:\n  strategy: leader\n  slow_start: 30s\n",
            3,
            &["a leader takes over whole, so slow_start 30s cannot hold"],
        ),
        (
            "services:\n- name: a\n  frontends: [10.0.0.1:80]\n  strategy: leader\n  \
             locality: prefer-node\n",
            5,
            &["default/a: strategy leader"],
        ),
        (
            "services:\n- name: a\n  frontends: [10.0.0.1:80]\nfunctions:\n  a:\n    \
             strategy: leader\n    slow_start: 1s\n",
            7,
            &["default/a: a leader takes over whole"],
        ),
    ]);
    for (text, variables) in [
        (
            "defaults: {slow_start: 30s, strategy: consistent-hash}\n",
            &[][..],
        ),
        (
            "defaults: {slow_start: 0s, locality: none, strategy: leader}\n",
            &[],
        ),
        (
            "defaults: {locality: prefer-node, slow_start: 30s}\n",
            &[("POD_SELECTION_STRATEGY", "leader")],
        ),
        (
            "defaults: {locality: prefer-node, slow_start: 30s}\nservices:\n- name: a\n  \
             frontends: [10.0.0.1:80]\n  strategy: leader\n",
            &[],
        ),
        (
            "defaults: {strategy: leader}\nservices:\n- name: a\n  frontends: [10.0.0.1:80]\n  \
             locality: prefer-node\n  slow_start: 1s\n",
            &[],
        ),
        // What a layer above mends is no contradiction.
        (
            "services:\n- name: a\n  frontends: [10.0.0.1:80]\n  strategy: leader\n  \
             slow_start: 1s\nfunctions: {a: {strategy: random}}\n",
            &[],
        ),
    ] {
        let loaded = parse_with(text, variables).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(loaded.warnings, [], "{text}");
    }
    let found = warnings("defaults:\n  strategy: leader\n  affinity: {client: true}\n");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].starts_with("test.yaml:3:13: defaults: every client is with the leader"),
        "{}",
        found[0]
    );
}

#[test]
fn backends_say_where_they_are() {
    let text = "  backends:\n  - {address: 10.1.0.1:80, node: node-1, zone: eu-1a, weight: 2}\n  \
                - {address: 10.1.0.2:80, zone: eu-1a}\n  - {address: 10.1.0.3:80}\n";
    let backends = service(text).backends;
    let at = |index: usize| {
        let backend = &backends[index];
        (backend.node.as_deref(), backend.zone.as_deref())
    };
    assert_eq!(at(0), (Some("node-1"), Some("eu-1a")));
    assert_eq!(at(1), (None, Some("eu-1a")));
    assert_eq!(at(2), (None, None));
    assert_eq!(backends[0].weight, 2);
    let zones = [&backends[0], &backends[1]].map(|each| each.zone.as_ref().unwrap());
    assert!(
        std::sync::Arc::ptr_eq(zones[0], zones[1]),
        "one text for all"
    );

    let long = format!("agent:\n  zone: {}\n", "z".repeat(254));
    assert!(problems(&long)[0].message.contains("zone has 254 bytes"));
    assert_refused(&[
        (
            "services:\n- name: a\n  frontends: [10.0.0.1:80]\n  backends:\n  \
             - address: 10.1.0.1:80\n    node: 'node 1'\n",
            6,
            &[
                "node \"node 1\" contains what is no visible ASCII character",
                "node-1",
            ],
        ),
        (
            "services:\n- name: a\n  frontends: [10.0.0.1:80]\n  backends:\n  \
             - address: 10.1.0.1:80\n    zone: ''\n",
            6,
            &["zone is empty"],
        ),
        (
            "agent:\n  node: \"a\\0b\"\n",
            2,
            &["node", "no visible ASCII"],
        ),
        ("agent:\n  zone: [a]\n", 2, &["a single value belongs here"]),
    ]);
}

#[test]
fn a_preference_that_comes_to_nothing_is_warned_of() {
    let nowhere = "  backends: [{address: 10.1.0.1:80}]\n";
    let zone = "agent: {zone: z}\n";
    for (text, expected) in [
        (
            with_service(&format!("  locality: prefer-node\n{nowhere}")),
            "test.yaml:5:13: x/a: locality prefer-node has no effect, because no backend has a node",
        ),
        (
            with_service(&format!("  locality: prefer-zone\n{nowhere}{zone}")),
            "test.yaml:5:13: x/a: locality prefer-zone has no effect, because no backend has a zone",
        ),
        (
            with_service(&format!("  locality: prefer-zone\n{LOCATED}")),
            "test.yaml:5:13: x/a: locality prefer-zone has no effect, because the agent's own \
             zone is not known; set `agent.zone`",
        ),
        (
            format!(
                "defaults: {{locality: prefer-node}}\n{}",
                with_service(nowhere)
            ),
            "test.yaml:1:22: defaults: locality prefer-node has no effect",
        ),
    ] {
        let found = warnings(&text);
        assert_eq!(found.len(), 1, "{found:#?}\n{text}");
        assert!(found[0].starts_with(expected), "{}\n{text}", found[0]);
    }
    let other = "- {name: b, frontends: [10.0.0.2:80], backends: [{address: 10.1.0.2:80}]}\n";
    for text in [
        with_service(&format!("  locality: prefer-node\n{LOCATED}")),
        with_service(&format!("  locality: prefer-zone\n{LOCATED}{zone}")),
        with_service("  locality: prefer-node\n"),
        with_service(nowhere),
        // It is of use to one of the two that inherit it.
        format!(
            "defaults: {{locality: prefer-node}}\n{}{other}",
            with_service(LOCATED)
        ),
        format!(
            "defaults: {{locality: prefer-node}}\n{}",
            with_service(&format!("  strategy: leader\n{nowhere}"))
        ),
    ] {
        assert_eq!(warnings(&text), [""; 0], "{text}");
    }
    assert!(
        parse("defaults: {locality: prefer-node}\n")
            .unwrap()
            .warnings
            .is_empty()
    );
}
