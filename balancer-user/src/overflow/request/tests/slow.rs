//! Clients that are too slow. The clock is stopped, and goes on by itself while nobody does
//! anything, so that a minute takes no time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::ground::{Backend, Front, Peer, until};

const HELLO: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// How long it takes until the connection is ended from the other side.
async fn lasts(peer: &mut Peer) -> Duration {
    let began = Instant::now();
    peer.rest().await;
    began.elapsed()
}

fn is_about(time: Duration, seconds: u64) -> bool {
    // A limit, a tick more, and a while for lingering.
    (seconds..=seconds + 12).contains(&time.as_secs())
}

#[tokio::test(start_paused = true)]
async fn a_head_must_come_within_ten_seconds() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let mut later = front.dial().await.patient();
    // First, since slots and backends go by another clock, which is not stopped.
    later.send(HELLO).await;
    assert_eq!(later.message().await.unwrap().status(), 200);
    later.send("GET / HT").await;
    let time = lasts(&mut later).await;
    assert!(is_about(time, 10), "{time:?}");
    for begin in ["G", "GET / HTTP/1.1\r\nHost: a\r\n", "PRI * HTTP/2.0\r\n"] {
        let mut client = front.dial().await.patient();
        client.send(begin).await;
        let time = lasts(&mut client).await;
        assert!(is_about(time, 10), "{begin:?}: {time:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_in_is_given_no_more_time() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await.patient();
    let began = Instant::now();
    client.send("GET / HTTP/1.1\r\n").await;
    while client.try_send("A: b\r\n").await.is_ok() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{:?}",
            began.elapsed()
        );
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed_after_a_while() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    // First, since slots and backends go by another clock, which is not stopped.
    let mut served = front.dial().await.patient();
    served.send(HELLO).await;
    assert_eq!(served.message().await.unwrap().status(), 200);
    let mut silent = front.dial().await.patient();
    let times = tokio::join!(lasts(&mut served), lasts(&mut silent));
    assert!(is_about(times.0, 75) && is_about(times.1, 75), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_loses_its_slot() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await.patient();
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    let time = lasts(&mut client).await;
    assert!(is_about(time, 30), "{time:?}");
    front.settled().await;
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_taken_loses_its_slot() {
    let backend = Backend::new(|mut peer, _| async move {
        peer.message().await.unwrap();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            .await;
        while peer.try_send([b'x'; 100_000]).await.is_ok() {}
    })
    .await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await.patient();
    client.send(HELLO).await;
    front.taken(1).await;
    let began = Instant::now();
    while front.ground.inflight() != 0 {
        sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < Duration::from_secs(60));
    }
    assert!(is_about(began.elapsed(), 30), "{:?}", began.elapsed());
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_slow_backend_is_waited_for() {
    let backend = Backend::new(|mut peer, seen| async move {
        seen.note(&peer.message().await.unwrap());
        sleep(Duration::from_secs(600)).await;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
            .await;
        sleep(Duration::from_secs(600)).await;
        peer.send("ok").await;
    })
    .await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await.patient();
    client.send(HELLO).await;
    assert_eq!(client.message().await.unwrap().text(), "ok");
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_may_be_silent() {
    let backend = Backend::new(|mut peer, _| async move {
        peer.message().await.unwrap();
        peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
            .await;
        sleep(Duration::from_secs(600)).await;
        peer.send("late\n").await;
    })
    .await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await.patient();
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        .await;
    assert_eq!(client.head().await.unwrap().status(), 101);
    assert_eq!(client.through("\n").await.unwrap(), "late\n");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_taken_loses_its_slot_even_if_its_connection_is_lively() {
    let backend = Backend::new(|mut peer, _| async move {
        while let Some(request) = peer.message().await {
            let length = match request.first.contains("large") {
                true => 10_000_000,
                false => 2,
            };
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            ))
            .await;
            if peer.try_send(vec![b'x'; length]).await.is_err() {
                return;
            }
        }
    })
    .await;
    let front = Front::with(&[backend.address], 2, |_| {}).await;
    let mut client = super::http2::dial(&front).await;
    let stalled = client
        .send_request(super::http2::get("/large"))
        .await
        .unwrap();
    assert_eq!(
        (stalled.status(), front.ground.inflight()),
        (hyper::StatusCode::OK, 1)
    );
    let began = Instant::now();
    while front.ground.inflight() != 0 {
        sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < Duration::from_secs(60));
    }
    assert!(is_about(began.elapsed(), 30), "{:?}", began.elapsed());
    until("the backend is told", || backend.open() == 0).await;
    client.ready().await.unwrap();
    drop(stalled);
}
