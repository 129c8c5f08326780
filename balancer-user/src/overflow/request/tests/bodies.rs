//! Bodies, both ways: streamed, never collected.

use super::ground::{Backend, Front, until};

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_body_of_known_length_goes_up_with_its_length() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    for method in ["POST", "PUT", "GET", "DELETE"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        let answer = front.ask(&request).await;
        assert_eq!(answer.text(), format!("{method} / HTTP/1.1\nhello"));
        let request = backend.last();
        assert_eq!(request.header("content-length"), Some("5"));
        assert_eq!(request.count("transfer-encoding"), 0);
    }
    let empty = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(front.ask(empty).await.status(), 200);
    assert_eq!(backend.last().header("content-length"), Some("0"));
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn chunks_are_passed_on_one_by_one_both_ways() {
    let backend = Backend::new(|mut peer, seen| async move {
        let mut request = peer.head().await.unwrap();
        seen.note(&request);
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        // Each answer follows its question: nothing may be held back.
        while let Some(chunk) = peer.chunk().await.unwrap() {
            let text = String::from_utf8(chunk).unwrap().to_uppercase();
            peer.send(format!("{:x}\r\n{text}\r\n", text.len())).await;
        }
        peer.send("0\r\n\r\n").await;
        request.body.clear();
    })
    .await;
    let front = Front::new(&[backend.address]).await;
    for method in ["POST", "GET"] {
        let mut client = front.dial().await;
        client
            .send(CHUNKED.replace("POST", method) + "\r\n5\r\nfirst\r\n")
            .await;
        let head = client.head().await.unwrap();
        assert_eq!(head.header("transfer-encoding"), Some("chunked"));
        assert_eq!(client.chunk().await.unwrap().unwrap(), b"FIRST");
        client.send("6\r\nsecond\r\n").await;
        assert_eq!(client.chunk().await.unwrap().unwrap(), b"SECOND");
        assert_eq!(front.ground.inflight(), 1);
        client.send("0\r\n\r\n").await;
        assert_eq!(client.chunk().await, Some(None));
        front.settled().await;
        assert_eq!(
            backend
                .requests()
                .last()
                .unwrap()
                .header("transfer-encoding"),
            Some("chunked")
        );
    }
}

#[tokio::test]
async fn trailers_are_passed_on_both_ways() {
    let backend = Backend::answering(
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n",
    )
    .await;
    let front = Front::new(&[backend.address]).await;
    let body = "2\r\nhi\r\n0\r\nX-Check: 7\r\n\r\n";
    let head = format!("{CHUNKED}Trailer: X-Check\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    let answer = front.ask(&(head + body)).await;
    assert_eq!(
        (answer.text(), answer.header("trailer")),
        ("ok", Some("X-Sum"))
    );
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "42".to_owned())]);
    let request = backend.last();
    assert_eq!(
        (request.text(), request.header("trailer")),
        ("hi", Some("X-Check"))
    );
    assert_eq!(request.trailers, [("x-check".to_owned(), "7".to_owned())]);
    front.settled().await;
    assert_eq!(
        front
            .ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .status(),
        200
    );
    assert_eq!(
        backend.connections(),
        1,
        "the connection is as good as before"
    );
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    const SIZE: usize = 3_000_000;
    let backend = Backend::new(|mut peer, seen| async move {
        while let Some(request) = peer.message().await {
            seen.note(&request);
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"))
                .await;
            peer.send(request.body).await;
        }
    })
    .await;
    let front = Front::new(&[backend.address]).await;
    let body: Vec<u8> = (0..SIZE).map(|place| (place % 251) as u8).collect();
    let mut client = front.dial().await;
    for _ in 0..2 {
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"
            ))
            .await;
        client.send(&body).await;
        assert!(client.message().await.unwrap().body == body);
    }
    front.settled().await;
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn who_does_not_read_stops_who_sends() {
    let backend = Backend::new(|mut peer, seen| async move {
        peer.head().await.unwrap();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        let chunk = "10000\r\n".to_owned() + &"x".repeat(0x10000) + "\r\n";
        // Far more than all buffers on the way hold.
        for _ in 0..2000 {
            if peer.try_send(&chunk).await.is_err() {
                return;
            }
            seen.step();
        }
    })
    .await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await.unwrap();
    backend.stalled().await;
    assert!(
        backend.steps() < 1000,
        "{} chunks are on their way",
        backend.steps()
    );
    client.reset();
    front.settled().await;
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_passed_on_whole() {
    let backend = Backend::new(|mut peer, seen| async move {
        seen.note(&peer.message().await.unwrap());
        peer.send("HTTP/1.1 200 OK\r\n\r\nall there is").await;
    })
    .await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.message().await.unwrap().text(), "all there is");
    }
    front.settled().await;
    assert_eq!(backend.connections(), 2);
}

/// Wants each body to be announced.
async fn continuing() -> Backend {
    Backend::new(|mut peer, seen| async move {
        while let Some(mut request) = peer.head().await {
            assert!(
                request
                    .header("expect")
                    .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
            );
            peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            peer.body(&mut request).await.unwrap();
            seen.note(&request);
            peer.send(OK).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_client_is_told_to_continue_only_when_the_backend_says_so() {
    let backend = continuing().await;
    let front = Front::new(&[backend.address]).await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n";
    let mut client = front.dial().await;
    for _ in 0..2 {
        client.send(request).await;
        let go = client.head().await.unwrap();
        assert_eq!((go.status(), front.ground.inflight()), (100, 1));
        client.send("hello").await;
        let answer = client.message().await.unwrap();
        assert_eq!((answer.status(), answer.text()), (200, "ok"));
    }
    front.settled().await;
}

#[tokio::test]
async fn a_client_is_not_told_to_continue_before_it_has_a_slot() {
    let backend = continuing().await;
    let front = Front::new(&[backend.address]).await;
    let held = front.hold().await;
    let mut client = front.dial().await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.send(request).await;
    front.waiting(1).await;
    assert!(client.is_silent());
    drop(held);
    assert_eq!(client.head().await.unwrap().status(), 100);
    client.send("hello").await;
    assert_eq!(client.message().await.unwrap().text(), "ok");
}

#[tokio::test]
async fn a_backend_may_refuse_a_body_before_it_comes() {
    let backend = Backend::new(|mut peer, seen| async move {
        while let Some(request) = peer.head().await {
            seen.note(&request);
            peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
                .await;
        }
    })
    .await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.send(request).await;
    let answer = client.message().await.unwrap();
    assert_eq!((answer.status(), answer.text()), (413, "no"));
    assert!(client.is_ended().await, "what comes next may be the body");
    front.settled().await;
    until("the connection is not kept", || backend.open() == 0).await;
}
