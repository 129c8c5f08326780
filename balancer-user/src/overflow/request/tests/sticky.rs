//! The cookie that keeps a client with its backend, and what of it anybody sees.

use std::time::Duration;

use balancer_common::{
    atomic::{load32, store32},
    index,
    service::{STATE_DRAINING, Tables},
};
use hyper::{Request, header::COOKIE};

use super::{
    ground::{Backend, Front, Message},
    http2,
};
use crate::{
    model::{Admission, Affinity, Service, Setting},
    overflow::Reason,
};

const TIMEOUT: Duration = Duration::from_secs(600);

/// Has the service keep its clients with a cookie `route`.
fn keep(service: &mut Service) {
    service.admission = Setting::built_in(Admission::Request);
    service.affinity = Setting::built_in(Some(Affinity {
        timeout: TIMEOUT,
        cookie: Some("route".parse().unwrap()),
    }));
}

async fn echoes(count: usize) -> Vec<Backend> {
    let mut backends = Vec::new();
    for _ in 0..count {
        backends.push(Backend::echo().await);
    }
    backends
}

async fn front(backends: &[Backend]) -> Front {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    Front::with(&addresses, 2, keep).await
}

fn get(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

/// The word of the cookie that an answer brings.
fn word(answer: &Message) -> String {
    let cookie = answer.header("set-cookie").expect("one cookie");
    let (pair, _) = cookie.split_once(';').unwrap();
    pair.strip_prefix("route=").unwrap().to_owned()
}

/// Which of the backends got a request since `before`.
fn served(backends: &[Backend], before: &[usize]) -> usize {
    let grown: Vec<usize> = (0..backends.len())
        .filter(|at| backends[*at].requests().len() > before[*at])
        .collect();
    assert_eq!(grown.len(), 1, "one request");
    grown[0]
}

fn counts(backends: &[Backend]) -> Vec<usize> {
    let counts = backends.iter().map(|backend| backend.requests().len());
    counts.collect()
}

/// Asks with these header lines: which backend answered, and with which word.
async fn ask(front: &Front, backends: &[Backend], lines: &str) -> (usize, String) {
    let before = counts(backends);
    let answer = front.ask(&get(lines)).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    front.settled().await;
    (served(backends, &before), word(&answer))
}

#[tokio::test]
async fn a_client_that_sends_the_cookie_back_stays_and_others_go_round() {
    let backends = echoes(3).await;
    let front = front(&backends).await;
    let (own, word) = ask(&front, &backends, "").await;
    let mut others = std::collections::BTreeSet::new();
    for _ in 0..6 {
        others.insert(ask(&front, &backends, "").await.0);
        let again = ask(&front, &backends, &format!("Cookie: route={word}\r\n")).await;
        assert_eq!(again, (own, word.clone()));
    }
    assert_eq!(others.len(), 3);
    assert_eq!(front.ground.memory.bindings().len(), 0);
}

#[tokio::test]
async fn the_cookie_shows_no_address_and_has_its_attributes() {
    let backends = echoes(1).await;
    let front = front(&backends).await;
    let answer = front.ask(&get("")).await;
    let word = word(&answer);
    assert_eq!(
        answer.header("set-cookie"),
        Some(&*format!(
            "route={word}; Path=/; Max-Age=600; HttpOnly; SameSite=Lax"
        ))
    );
    assert!(word.len() == 32 && word.bytes().all(|digit| digit.is_ascii_hexdigit()));
    for (proto, is_secure) in [("https", true), ("HTTPS, http", true), ("http", false)] {
        let answer = front
            .ask(&get(&format!("X-Forwarded-Proto: {proto}\r\n")))
            .await;
        let cookie = answer.header("set-cookie").unwrap();
        assert_eq!(cookie.ends_with("; Secure"), is_secure, "{proto}");
    }
}

#[tokio::test]
async fn another_agent_understands_the_cookie() {
    let backends = echoes(3).await;
    let (own, word) = ask(&front(&backends).await, &backends, "").await;
    for _ in 0..3 {
        // In another order, so that ids differ.
        let addresses: Vec<_> = backends.iter().rev().map(|it| it.address).collect();
        let other = Front::with(&addresses, 2, keep).await;
        ask(&other, &backends, "").await;
        let again = ask(&other, &backends, &format!("Cookie: route={word}\r\n")).await;
        assert_eq!(again, (own, word.clone()));
    }
}

#[tokio::test]
async fn what_nobody_issued_is_answered_with_a_new_cookie() {
    let backends = echoes(2).await;
    let front = front(&backends).await;
    let (_, valid) = ask(&front, &backends, "").await;
    let long = "a".repeat(5000);
    for forged in [
        "",
        "0",
        "127.0.0.1:80",
        "00000000000000000000000000000000",
        &valid.to_ascii_uppercase(),
        &valid[1..],
        &long,
    ] {
        let (got, new) = ask(&front, &backends, &format!("Cookie: route={forged}\r\n")).await;
        assert_ne!(new, forged);
        let lines = format!("Cookie: route={new}\r\n");
        assert_eq!(ask(&front, &backends, &lines).await, (got, new), "{forged}");
    }
}

#[tokio::test]
async fn a_backend_that_is_full_or_draining_or_gone_is_replaced_with_its_cookie() {
    let backends = echoes(2).await;
    let changes: [fn(&Front, u32); 3] = [
        |front, id| {
            let record = front.ground.memory.plain.backend(id).unwrap();
            store32(&record.granted, 0);
        },
        |front, id| {
            let record = front.ground.memory.plain.backend(id).unwrap();
            store32(&record.state, STATE_DRAINING);
        },
        |front, id| {
            // Its id stands for another address.
            let record = front.ground.memory.plain.backend(id).unwrap();
            store32(&record.generation, load32(&record.generation) + 1);
            store32(&record.state, STATE_DRAINING);
        },
    ];
    for change in changes {
        let front = front(&backends).await;
        let (own, old) = ask(&front, &backends, "").await;
        change(&front, own as u32);
        index::refresh(&front.ground.memory.plain, own as u32);
        let (next, new) = ask(&front, &backends, &format!("Cookie: route={old}\r\n")).await;
        assert_ne!((next, &new), (own, &old));
        let lines = format!("Cookie: route={new}\r\n");
        assert_eq!(ask(&front, &backends, &lines).await, (next, new));
    }
}

#[tokio::test]
async fn the_backend_sees_all_cookies_but_ours() {
    let backends = echoes(2).await;
    let front = front(&backends).await;
    let (own, word) = ask(&front, &backends, "").await;
    let seen = async |lines: String| {
        let (backend, _) = ask(&front, &backends, &lines).await;
        assert_eq!(backend, own, "{lines}");
        let request = backends[own].last();
        let cookies = request.headers.into_iter();
        let cookies = cookies.filter(|(name, _)| name == "cookie");
        cookies.map(|(_, value)| value).collect::<Vec<_>>()
    };
    let alone = seen(format!("Cookie: route={word}\r\n")).await;
    assert!(alone.is_empty());
    let between = seen(format!("Cookie: a=1; route={word}; b=\"2\"\r\n")).await;
    assert_eq!(between, ["a=1; b=\"2\""]);
    let several = seen(format!(
        "Cookie: a=1\r\nCookie: route=old; route={word}\r\nCookie: routes=3;b=2\r\n"
    ))
    .await;
    assert_eq!(several, ["a=1", "routes=3;b=2"]);
}

#[tokio::test]
async fn over_http2_cookies_come_one_by_one_and_reach_the_backend_as_one() {
    let backends = echoes(2).await;
    let front = front(&backends).await;
    let (own, word) = ask(&front, &backends, "").await;
    let mut sender = http2::dial(&front).await;
    for _ in 0..3 {
        let before = counts(&backends);
        let request = Request::get("http://a.example/")
            .header(COOKIE, "a=1")
            .header(COOKIE, format!("route={word}"))
            .header(COOKIE, "b=2")
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let cookie = response.headers()["set-cookie"].to_str().unwrap();
        assert!(cookie.starts_with(&format!("route={word};")), "{cookie}");
        assert_eq!(served(&backends, &before), own);
        assert_eq!(backends[own].last().header("cookie"), Some("a=1; b=2"));
        ask(&front, &backends, "").await;
    }
}

#[tokio::test]
async fn the_backends_own_cookies_are_kept_beside_ours() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=1; Path=/x\r\n\
                  Set-Cookie: route=theirs\r\n\r\nok";
    let backend = Backend::answering(answer).await;
    let front = Front::with(&[backend.address], 1, keep).await;
    let answer = front.ask(&get("")).await;
    let cookies = answer.headers.iter();
    let cookies: Vec<&str> = cookies
        .filter(|(name, _)| name == "set-cookie")
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(cookies[..2], ["a=1; Path=/x", "route=theirs"]);
    // The last of one name is the one that a client keeps.
    assert!(cookies.len() == 3 && cookies[2].starts_with("route=") && cookies[2].len() > 40);
}

#[tokio::test]
async fn answers_of_our_own_bring_no_cookie_and_without_affinity_none_does() {
    let backends = echoes(1).await;
    let addresses = [backends[0].address];
    let front = Front::with(&addresses, 1, |service| {
        keep(service);
        service.queue.size = Setting::built_in(0);
    })
    .await;
    let held = front.hold().await;
    let refused = front.ask(&get("")).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(
        refused.header("x-idlefirst-reason"),
        Some(Reason::QueueFull.as_str())
    );
    assert_eq!(refused.count("set-cookie"), 0);
    drop(held);
    let malformed = front.ask("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(
        (malformed.status(), malformed.count("set-cookie")),
        (400, 0)
    );

    let plain = Front::new(&addresses).await;
    let answer = plain.ask(&get("Cookie: route=1; a=2\r\n")).await;
    assert_eq!((answer.status(), answer.count("set-cookie")), (200, 0));
    let request = backends[0].last();
    assert_eq!(request.header("cookie"), Some("route=1; a=2"));
}
