//! Every reason to refuse, and what a client reads then.

use std::time::{Duration, Instant};

use balancer_common::{
    atomic::{load32, store, store32},
    service::{SERVICE_RATE_LIMITED, Tables},
};
use tokio::net::{TcpListener, TcpStream};

use super::ground::{Backend, Front, Message, Nobody, Peer, SOON};
use crate::{
    model::{Protocol, QueueTimeout, Setting},
    overflow::{Reason, ground::SERVICE, refuse},
};

const HELLO: &str = "GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n";

/// Checks that this is how a refusal looks.
fn assert_refused(answer: &Message, reason: Reason) {
    assert_eq!(answer.status(), 503, "{answer:?}");
    assert_eq!(answer.header("x-idlefirst-reason"), Some(reason.as_str()));
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["type"], "about:blank");
    assert_eq!(problem["title"], "Service Unavailable");
    assert_eq!(problem["status"], 503);
    assert_eq!(problem["reason"], reason.as_str());
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("default/hello: ") && detail.contains(reason.detail()),
        "{detail}"
    );
}

/// Asks once, checks the refusal, its count, and that the connection can be used on.
async fn refused(front: &Front, reason: Reason) -> Peer {
    let before = front.queue.figures().refused(reason);
    let mut client = front.dial().await;
    client.send(HELLO).await;
    let answer = client.message().await.unwrap();
    assert_refused(&answer, reason);
    assert_eq!(answer.header("x-request-id"), Some("mine"));
    assert_eq!(answer.count("connection"), 0);
    assert_eq!(front.queue.figures().refused(reason), before + 1);
    client
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_the_connection_lives_on() {
    let backend = Backend::echo().await;
    let front = Front::with(&[backend.address], 1, |service| {
        service.queue.size = Setting::built_in(0);
    })
    .await;
    let held = front.hold().await;
    let mut client = refused(&front, Reason::QueueFull).await;
    drop(held);
    client.send(HELLO).await;
    assert_eq!(client.message().await.unwrap().status(), 200);
}

#[tokio::test]
async fn who_waits_in_vain_is_refused_when_the_time_is_up() {
    let backend = Backend::echo().await;
    let front = Front::with(&[backend.address], 1, |service| {
        let timeout = QueueTimeout::Fixed(Duration::from_millis(100));
        service.queue.timeout = Setting::built_in(timeout);
    })
    .await;
    let _held = front.hold().await;
    let began = Instant::now();
    refused(&front, Reason::QueueTimeout).await;
    assert!(
        began.elapsed() >= Duration::from_millis(100),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn a_service_without_backends_refuses() {
    let front = Front::new(&[]).await;
    refused(&front, Reason::NoBackends).await;
}

#[tokio::test]
async fn backends_that_cannot_be_connected_to_are_tried_as_often_as_allowed() {
    let nobody = [Nobody::new(), Nobody::new()];
    let addresses = nobody.each_ref().map(|nobody| nobody.address);
    let front = Front::with(&addresses, 1, |service| {
        service.queue.attempts = Setting::built_in(3);
        service.breaker.failures = Setting::built_in(0);
    })
    .await;
    refused(&front, Reason::RetriesExhausted).await;
    assert_eq!(front.queue.figures().retried(), 2);
    front.settled().await;
}

#[tokio::test]
async fn server_errors_in_a_row_open_the_breaker() {
    let error = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno";
    let backend = Backend::answering(error).await;
    let front = Front::with(&[backend.address], 1, |service| {
        service.breaker.failures = Setting::built_in(3);
    })
    .await;
    for _ in 0..3 {
        let answer = front.ask(HELLO).await;
        assert_eq!((answer.status(), answer.text()), (500, "no"));
    }
    refused(&front, Reason::BreakerOpen).await;
    assert_eq!(backend.requests().len(), 3);
}

#[tokio::test]
async fn the_rate_limit_counts_requests() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let record = front.ground.memory.plain.service(SERVICE).unwrap();
    // A token an hour, and room for two.
    let hour_ns = 3600 * 1_000_000_000;
    store(&record.rate_interval_ns, hour_ns);
    store(&record.rate_ahead_ns, hour_ns);
    let flags = load32(&record.flags) | SERVICE_RATE_LIMITED;
    store32(&record.flags, flags);
    let mut client = front.dial().await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        client.send(HELLO).await;
        statuses.push(client.message().await.unwrap().status());
    }
    assert_eq!(
        statuses.iter().filter(|status| **status == 200).count(),
        backend.requests().len()
    );
    assert!(
        statuses.starts_with(&[200]) && statuses.ends_with(&[503, 503]),
        "{statuses:?}"
    );
    refused(&front, Reason::RateLimited).await;
}

#[tokio::test]
async fn a_refused_body_is_skipped_if_it_is_there_and_else_the_connection_ends() {
    let backend = Backend::echo().await;
    let front = Front::with(&[backend.address], 1, |service| {
        service.queue.size = Setting::built_in(0);
    })
    .await;
    let held = front.hold().await;
    let mut client = front.dial().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    assert_refused(&client.message().await.unwrap(), Reason::QueueFull);
    let mut large = front.dial().await;
    large
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n")
        .await;
    large.send(vec![b'x'; 500_000]).await;
    // Not lost, though a good deal of the body was never read.
    assert_refused(&large.message().await.unwrap(), Reason::QueueFull);
    assert!(large.is_ended().await);
    drop(held);
    client.send(HELLO).await;
    assert_eq!(client.message().await.unwrap().status(), 200);
    assert_eq!(backend.requests().len(), 1);
}

/// A connection, and its other end.
async fn pair() -> (Peer, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    (Peer::new(client), listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn a_refused_connection_is_told_why_and_closed() {
    let front = Front::with(&[], 1, |service| {
        service.protocol = Setting::built_in(Protocol::Http);
    })
    .await;
    let view = front.queue.view();
    let (mut client, stream) = pair().await;
    let refusing = tokio::spawn(async move {
        refuse::refuse_connection(stream, Reason::QueueFull, &view).await;
    });
    client
        .send(
            "POST / HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\nContent-Length: 10000000\r\n\r\n",
        )
        .await;
    client.send(vec![b'x'; 300_000]).await;
    let answer = client.message().await.unwrap();
    assert_refused(&answer, Reason::QueueFull);
    assert_eq!(answer.header("x-request-id"), Some("mine"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.is_ended().await);
    drop(client);
    tokio::time::timeout(SOON, refusing).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refused_connection_that_asks_nothing_is_reset() {
    let front = Front::with(&[], 1, |service| {
        service.protocol = Setting::built_in(Protocol::Http);
    })
    .await;
    let (mut client, stream) = pair().await;
    let began = Instant::now();
    refuse::refuse_connection(stream, Reason::QueueFull, &front.queue.view()).await;
    assert!(began.elapsed() < SOON);
    assert!(client.was_reset().await);
}

#[tokio::test]
async fn a_refused_connection_of_bare_tcp_is_reset_at_once() {
    let front = Front::with(&[], 1, |service| {
        service.protocol = Setting::built_in(Protocol::Tcp);
    })
    .await;
    let (mut client, stream) = pair().await;
    refuse::refuse_connection(stream, Reason::QueueFull, &front.queue.view()).await;
    assert!(client.was_reset().await);
}
