//! What is written of a leader, and how often.

use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn publication() -> Publication {
    let of = |pod: &str| (Some(pod.to_owned()), Some("node-1".to_owned()));
    Publication {
        name: "fn/hello".parse().unwrap(),
        uid: "1".to_owned(),
        port: "http".to_owned(),
        pods: [(at("10.1.0.2:80"), of("a")), (at("10.1.0.3:80"), of("b"))].into(),
    }
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
    let key = Key {
        namespace: "fn".into(),
        name: "hello".into(),
    };
    let body = |leader| Facts::of(&publication(), leader).body(&key, &slice_of(&key));
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
