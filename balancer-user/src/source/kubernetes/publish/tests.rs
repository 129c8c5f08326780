//! What is written of a leader, and how often.

use serde_json::json;

use super::*;
use crate::source::kubernetes::kinds::SliceBody;
use crate::source::kubernetes::texts::Texts;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn publication() -> Publication {
    let of = |pod: &str| (Some(pod.to_owned()), Some("node-1".to_owned()));
    Publication {
        name: "fn/hello".parse().unwrap(),
        uid: "1".to_owned(),
        port: "http".to_owned(),
        family: Some(Family::V4),
        pods: [(at("10.1.0.2:80"), of("a")), (at("10.1.0.3:80"), of("b"))].into(),
    }
}

fn key() -> Key {
    Key {
        namespace: "fn".into(),
        name: "hello".into(),
    }
}

fn said(publication: &Publication, leader: Option<SocketAddr>) -> Facts {
    Facts::of(publication, leader).expect("its family is known")
}

#[test]
fn what_a_slice_says_changes_with_what_it_is_about_and_not_with_other_pods() {
    let leader = Some(at("10.1.0.2:80"));
    let before = Facts::of(&publication(), leader);
    let mut fewer = publication();
    fewer.pods.remove(&at("10.1.0.3:80"));
    assert_eq!(Facts::of(&fewer, leader), before);
    let again = Publication {
        uid: "2".to_owned(),
        ..publication()
    };
    assert_ne!(Facts::of(&again, leader), before);
    assert_ne!(Facts::of(&publication(), Some(at("10.1.0.3:80"))), before);
}

#[test]
fn a_slice_names_its_leader_or_nobody() {
    let key = key();
    let body = |leader| said(&publication(), leader).body(&key, &slice_of(&key));
    let led = body(Some(at("10.1.0.3:80")));
    assert_eq!(led["metadata"]["name"], "hello-idlefirst-leader");
    assert_eq!(led["endpoints"][0]["addresses"], json!(["10.1.0.3"]));
    assert_eq!(led["endpoints"][0]["targetRef"]["name"], "b");
    assert_eq!(led["ports"][0]["port"], 80);
    let nobody = body(None);
    assert_eq!(nobody["endpoints"], json!([]));
    assert_eq!(nobody["ports"], led["ports"]);
    let v6 = body(Some(at("[fd00::1]:80")));
    assert_eq!(v6["addressType"], "IPv6");
}

#[test]
fn nothing_is_said_before_it_is_known_what_addresses_there_will_be() {
    let (key, slice) = (key(), slice_of(&key()));
    let of = |family, pods| Publication {
        family,
        pods,
        ..publication()
    };
    let v6 = BTreeMap::from([(at("[fd00::1]:80"), (None, None))]);
    assert_eq!(Facts::of(&of(None, BTreeMap::new()), None), None);
    for known in [of(Some(Family::V6), BTreeMap::new()), of(None, v6)] {
        let nobody = said(&known, None).body(&key, &slice);
        assert_eq!(nobody["addressType"], "IPv6");
        assert_eq!(nobody["endpoints"], json!([]));
    }
}

#[test]
fn a_slice_that_somebody_has_changed_does_not_say_what_was_published() {
    let key = key();
    for leader in [Some(at("10.1.0.2:80")), None] {
        let facts = said(&publication(), leader);
        let body = facts.body(&key, &slice_of(&key));
        let are_said = |change: fn(&mut serde_json::Value)| {
            let mut body = body.clone();
            change(&mut body);
            let found: SliceBody = serde_json::from_value(body).unwrap();
            facts.are_said(&key, &found.kept(&mut Texts::default()))
        };
        assert!(are_said(|_| {}));
        assert!(are_said(
            |body| body["metadata"]["labels"]["more"] = "1".into()
        ));
        let changes: [fn(&mut serde_json::Value); 5] = [
            |body| body["endpoints"] = json!([{"addresses": ["10.1.0.9"]}]),
            |body| body["ports"] = json!([]),
            |body| body["ports"][0]["port"] = 81.into(),
            |body| body["metadata"]["labels"] = json!({}),
            |body| match body["endpoints"].as_array_mut() {
                Some(them) if !them.is_empty() => them.clear(),
                _ => body["endpoints"] = json!([{"addresses": ["nowhere"]}]),
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert!(!are_said(change), "{leader:?}: change {number}");
        }
    }
    let facts = said(&publication(), Some(at("10.1.0.2:80")));
    for field in ["nodeName", "targetRef", "conditions"] {
        let mut body = facts.body(&key, &slice_of(&key));
        body["endpoints"][0][field] = match field {
            "nodeName" => "node-2".into(),
            "targetRef" => json!({"kind": "Pod", "name": "b"}),
            _ => json!({"ready": false}),
        };
        let found: SliceBody = serde_json::from_value(body).unwrap();
        assert!(
            !facts.are_said(&key, &found.kept(&mut Texts::default())),
            "{field}"
        );
    }
}

#[test]
fn what_is_changed_again_and_again_is_put_right_once_a_second() {
    let leader = Some(at("10.1.0.2:80"));
    let mut published = Published {
        written: Instant::now(),
        facts: said(&publication(), leader),
        is_spoilt: false,
        repaired: None,
    };
    assert!(published.holds(leader) && !published.holds(None));
    published.is_spoilt = true;
    assert!(!published.holds(leader));
    published.repaired = Some(Instant::now());
    assert!(published.holds(leader));
    // Another leader does not wait.
    assert!(!published.holds(Some(at("10.1.0.3:80"))));
    published.repaired = Instant::now().checked_sub(REST);
    assert!(!published.holds(leader));
}

#[test]
fn of_refusals_it_is_told_what_the_api_says_and_which_are_about_the_family() {
    let refused = |code, field: &str| {
        let mut status = kube::core::Status::failure("it is no good.", "Invalid");
        status.code = code;
        let details = json!({"causes": [{"reason": "FieldValueInvalid", "field": field}]});
        status.details = serde_json::from_value(details).unwrap();
        WriteError::Api(kube::Error::Api(status.boxed()))
    };
    let family = refused(422, "addressType");
    assert!(family.is_of_other_family());
    assert_eq!(family.words().as_deref(), Some("it is no good (422)"));
    assert!(!refused(422, "endpoints").is_of_other_family());
    assert!(!refused(500, "addressType").is_of_other_family());
    assert_eq!(refused(503, "").words(), None);
    assert_eq!(WriteError::Timeout.words(), None);
}

#[test]
fn what_is_refused_rests_ever_longer_and_what_fails_otherwise_does_not() {
    let now = Instant::now();
    let pause = |rest: Rest| rest.until - now;
    let mut rest = Rest::after_failure(None, true, now);
    assert_eq!(pause(rest), REST);
    for seconds in [2, 4, 8, 16, 32, 60, 60] {
        rest = Rest::after_failure(Some(&rest), true, now);
        assert_eq!(pause(rest), Duration::from_secs(seconds));
    }
    rest = Rest::after_failure(Some(&rest), false, now);
    assert_eq!(pause(rest), REST);
    let done = Rest::after_done(now);
    assert!(!done.is_failing);
    assert_eq!(pause(Rest::after_failure(Some(&done), true, now)), REST);
}

#[tokio::test(start_paused = true)]
async fn a_write_is_tried_twice_and_one_that_is_refused_once() {
    use std::cell::Cell;
    let status = |code| {
        let mut status = kube::core::Status::failure("no", "No");
        status.code = code;
        kube::Error::Api(status.boxed())
    };
    for (code, expected) in [(403, 1), (409, 1), (429, 2), (500, 2), (503, 2)] {
        let made = Cell::new(0);
        let done: Result<(), _> = attempt(|| {
            made.set(made.get() + 1);
            std::future::ready(Err(status(code)))
        })
        .await;
        assert!(done.is_err());
        assert_eq!(made.get(), expected, "{code}");
    }
    // An API that never answers does not hold the other services up.
    let begun = tokio::time::Instant::now();
    let done: Result<(), _> = attempt(std::future::pending).await;
    assert!(matches!(done, Err(WriteError::Timeout)));
    assert!(begun.elapsed() <= TIMEOUT * 2 + FIRST_DELAY);
}
