//! What is tried again, and above all what is not.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::Semaphore;

use super::ground::{Backend, Front, Nobody, until};
use crate::model::Setting;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn request(method: &str) -> String {
    format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn post(body: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Answers the first request of each connection, reads the second one, and closes.
async fn fickle() -> Backend {
    Backend::new(|mut peer, seen| async move {
        seen.note(&peer.message().await.unwrap());
        peer.send(OK).await;
        if let Some(request) = peer.message().await {
            seen.note(&request);
        }
    })
    .await
}

#[tokio::test]
async fn a_backend_that_cannot_be_connected_to_is_left_for_another_whatever_the_method() {
    let backend = Backend::echo().await;
    for method in ["GET", "POST"] {
        let nobody = Nobody::new();
        let front = Front::new(&[nobody.address, backend.address]).await;
        for _ in 0..4 {
            let answer = front
                .ask(&request(method).replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody"))
                .await;
            assert_eq!(answer.text(), format!("{method} / HTTP/1.1\nbody"));
        }
        front.settled().await;
    }
    assert_eq!(backend.requests().len(), 8);
}

#[tokio::test]
async fn five_failed_connects_eject_a_backend() {
    let nobody = [Nobody::new(), Nobody::new()];
    let addresses = nobody.each_ref().map(|nobody| nobody.address);
    let front = Front::with(&addresses, 1, |service| {
        service.queue.attempts = Setting::built_in(20);
    })
    .await;
    let answer = front.ask(&request("GET")).await;
    assert_eq!(answer.status(), 503);
    front.settled().await;
    assert!(front.queue.figures().retried() >= 4);
}

#[tokio::test]
async fn a_warm_connection_that_breaks_is_replaced_if_the_request_may_be_sent_twice() {
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let backend = fickle().await;
        let front = Front::new(&[backend.address]).await;
        assert_eq!(front.ask(&request("GET")).await.status(), 200);
        front.settled().await;
        let mut client = front.dial().await;
        client.send(request(method)).await;
        assert_eq!(client.head().await.unwrap().status(), 200, "{method}");
        front.settled().await;
        // The first, the one that was lost, and the same again.
        assert_eq!(
            (backend.requests().len(), backend.connections()),
            (3, 2),
            "{method}"
        );
    }
}

#[tokio::test]
async fn a_warm_connection_that_breaks_under_any_other_request_breaks_the_request() {
    for lost in [
        request("POST"),
        request("PATCH"),
        post("body"),
        request("PUT").replace("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody"),
    ] {
        let backend = fickle().await;
        let front = Front::new(&[backend.address]).await;
        assert_eq!(front.ask(&request("GET")).await.status(), 200);
        front.settled().await;
        let answer = front.ask(&lost).await;
        assert_eq!(answer.status(), 502, "{lost:?}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(answer.count("x-idlefirst-reason"), 0);
        front.settled().await;
        assert_eq!(backend.requests().len(), 2, "{lost:?}");
    }
}

#[tokio::test]
async fn a_warm_connection_that_was_closed_meanwhile_is_not_used_whatever_the_method() {
    let permits = Arc::new(Semaphore::new(0));
    let backend = Backend::new({
        let permits = permits.clone();
        move |mut peer, seen| {
            let permits = permits.clone();
            async move {
                seen.note(&peer.message().await.unwrap());
                peer.send(OK).await;
                permits.acquire().await.unwrap().forget();
            }
        }
    })
    .await;
    let front = Front::new(&[backend.address]).await;
    for round in 1..4 {
        assert_eq!(front.ask(&post("body")).await.status(), 200);
        front.settled().await;
        permits.add_permits(1);
        until("the backend has closed", || backend.open() == 0).await;
        assert_eq!(
            (backend.connections(), backend.requests().len()),
            (round, round)
        );
    }
}

#[tokio::test]
async fn a_request_that_the_only_backend_does_not_answer_is_sent_once() {
    for method in ["GET", "POST"] {
        let backend = Backend::new(|mut peer, seen| async move {
            seen.note(&peer.message().await.unwrap());
        })
        .await;
        let front = Front::with(&[backend.address], 1, |service| {
            service.breaker.failures = Setting::built_in(2);
        })
        .await;
        assert_eq!(front.ask(&request(method)).await.status(), 502);
        assert!(!front.queue.breaker().is_open());
        assert_eq!(front.ask(&request(method)).await.status(), 502);
        assert!(
            front.queue.breaker().is_open(),
            "what breaks counts as an error"
        );
        front.settled().await;
        assert_eq!(backend.requests().len(), 2, "{method}");
    }
}

#[tokio::test]
async fn a_request_that_backends_do_not_answer_goes_round_a_few_if_that_does_no_harm() {
    for (method, sends) in [("GET", 3), ("POST", 1)] {
        let mut backends = Vec::new();
        for _ in 0..5 {
            backends.push(
                Backend::new(|mut peer, seen| async move {
                    seen.note(&peer.message().await.unwrap());
                })
                .await,
            );
        }
        let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
        let front = Front::new(&addresses).await;
        assert_eq!(front.ask(&request(method)).await.status(), 502);
        front.settled().await;
        let seen: Vec<_> = backends
            .iter()
            .map(|backend| backend.requests().len())
            .collect();
        assert_eq!(seen.iter().sum::<usize>(), sends, "{method}: {seen:?}");
        assert!(
            seen.iter().all(|requests| *requests <= 1),
            "{method}: {seen:?}"
        );
    }
}

#[tokio::test]
async fn nothing_is_tried_again_once_an_answer_has_begun() {
    for piece in ["H", "HTTP/1.1 200 OK\r\nContent-Le", "nonsense\r\n\r\n"] {
        let backend = Backend::new(move |mut peer, seen| async move {
            seen.note(&peer.message().await.unwrap());
            peer.send(OK).await;
            let Some(request) = peer.message().await else {
                return;
            };
            seen.note(&request);
            peer.send(piece).await;
        })
        .await;
        let front = Front::new(&[backend.address]).await;
        assert_eq!(front.ask(&request("GET")).await.status(), 200);
        front.settled().await;
        assert_eq!(front.ask(&request("GET")).await.status(), 502, "{piece:?}");
        front.settled().await;
        assert_eq!(backend.requests().len(), 2, "{piece:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_made_to_look_whole() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let backend = Backend::new(move |mut peer, seen| async move {
            seen.note(&peer.message().await.unwrap());
            peer.send(answer).await;
        })
        .await;
        let front = Front::new(&[backend.address]).await;
        let mut client = front.dial().await;
        client.send(request("GET")).await;
        assert!(client.message().await.is_none(), "{answer:?}");
        front.settled().await;
        assert_eq!(backend.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_backend_that_answers_nonsense_is_not_passed_on() {
    let long = "HTTP/1.1 200 OK\r\nX: ".to_owned() + &"x".repeat(100_000) + "\r\n\r\n";
    let many = "HTTP/1.1 200 OK\r\n".to_owned() + &"A: b\r\n".repeat(200) + "\r\n";
    for answer in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
        long.leak(),
        many.leak(),
    ] {
        let backend = Backend::new(move |mut peer, seen| async move {
            seen.note(&peer.message().await.unwrap());
            let _ = peer.try_send(answer).await;
            peer.is_ended().await;
        })
        .await;
        let front = Front::new(&[backend.address]).await;
        assert_eq!(
            front.ask(&request("GET")).await.status(),
            502,
            "{:.60}",
            answer
        );
        front.settled().await;
        assert_eq!(backend.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_backend_that_sends_more_than_one_answer_keeps_nobody_elses_request() {
    let twice = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let backend = Backend::answering(twice).await;
    let front = Front::new(&[backend.address]).await;
    for _ in 0..3 {
        let answer = front.ask(&request("GET")).await;
        assert_eq!((answer.status(), answer.text()), (200, "ok"));
        front.settled().await;
    }
}

#[tokio::test]
async fn warm_connections_belong_to_one_backend() {
    let backends = [
        Backend::echo().await,
        Backend::echo().await,
        Backend::echo().await,
    ];
    let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
    let front = Front::new(&addresses).await;
    for _ in 0..30 {
        assert_eq!(front.ask(&request("GET")).await.status(), 200);
        front.settled().await;
    }
    for backend in &backends {
        assert_eq!((backend.connections(), backend.requests().len()), (1, 10));
    }
}
