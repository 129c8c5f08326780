//! A slot for each request, from its head to the end of its answer, and never one more.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::JoinSet};

use super::ground::{Backend, Front, SOON, until};
use crate::model::Setting;

const HELLO: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers each request when a permit comes.
async fn waiting(permits: &Arc<Semaphore>) -> Backend {
    let permits = permits.clone();
    Backend::new(move |mut peer, seen| {
        let permits = permits.clone();
        async move {
            while let Some(request) = peer.message().await {
                let busy = seen.busy();
                seen.note(&request);
                permits.acquire().await.unwrap().forget();
                drop(busy);
                if peer.try_send(OK).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn backends_never_serve_more_requests_than_they_have_slots() {
    const REQUESTS: usize = 100;
    let mut backends = Vec::new();
    for _ in 0..10 {
        backends.push(
            Backend::new(|mut peer, seen| async move {
                while let Some(request) = peer.message().await {
                    let busy = seen.busy();
                    seen.note(&request);
                    tokio::task::yield_now().await;
                    drop(busy);
                    peer.send(OK).await;
                }
            })
            .await,
        );
    }
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let front = Arc::new(
        Front::with(&addresses, 1, |service| {
            service.queue.size = Setting::built_in(REQUESTS as u32);
        })
        .await,
    );
    let mut tasks = JoinSet::new();
    for _ in 0..REQUESTS {
        let front = front.clone();
        tasks.spawn(async move {
            let mut client = front.dial().await;
            for _ in 0..5 {
                client.send(HELLO).await;
                assert_eq!(client.message().await.unwrap().status(), 200);
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    front.settled().await;
    let served: usize = backends
        .iter()
        .map(|backend| backend.requests().len())
        .sum();
    assert_eq!(served, 5 * REQUESTS);
    for backend in &backends {
        assert_eq!((backend.most(), backend.connections()), (1, 1));
    }
}

#[tokio::test]
async fn a_slot_is_held_until_the_answer_has_ended() {
    let permits = Arc::new(Semaphore::new(0));
    let backend = Backend::new({
        let permits = permits.clone();
        move |mut peer, _| {
            let permits = permits.clone();
            async move {
                while peer.message().await.is_some() {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhe")
                        .await;
                    permits.acquire().await.unwrap().forget();
                    peer.send("ad").await;
                }
            }
        }
    })
    .await;
    let front = Front::new(&[backend.address]).await;
    let (mut first, mut second) = (front.dial().await, front.dial().await);
    first.send(HELLO).await;
    let mut head = first.head().await.unwrap();
    second.send(HELLO).await;
    front.waiting(1).await;
    assert_eq!(front.ground.inflight(), 1);
    permits.add_permits(1);
    first.body(&mut head).await.unwrap();
    assert_eq!(head.text(), "head");
    permits.add_permits(1);
    assert_eq!(second.message().await.unwrap().text(), "head");
    front.settled().await;
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn an_idle_client_holds_no_slot() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = front.dial().await;
        client.send(HELLO).await;
        assert_eq!(client.message().await.unwrap().status(), 200);
        clients.push(client);
    }
    front.settled().await;
    for client in &mut clients {
        client.send(HELLO).await;
        assert_eq!(client.message().await.unwrap().status(), 200);
    }
    front.settled().await;
}

#[tokio::test]
async fn clients_that_go_while_they_wait_leave_the_queue_at_once() {
    let permits = Arc::new(Semaphore::new(0));
    let backend = waiting(&permits).await;
    let front = Front::new(&[backend.address]).await;
    let mut served = front.dial().await;
    served.send(HELLO).await;
    front.taken(1).await;
    let mut waiters = Vec::new();
    for place in 0..6 {
        let mut waiter = front.dial().await;
        waiter.send(HELLO).await;
        front.waiting(place + 1).await;
        waiters.push(waiter);
    }
    let mut stays = waiters.remove(3);
    // One of them by a reset, the others as usual.
    front.reset(waiters.remove(0));
    for waiter in waiters {
        front.close(waiter);
    }
    front.waiting(1).await;
    permits.add_permits(2);
    assert_eq!(served.message().await.unwrap().status(), 200);
    assert_eq!(stays.message().await.unwrap().status(), 200);
    front.settled().await;
    assert_eq!(backend.requests().len(), 2);
}

#[tokio::test]
async fn clients_that_go_while_they_wait_with_a_body_leave_the_queue_at_once_too() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let held = front.hold().await;
    let large = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n0\r\n\r\n";
    for request in [large, chunked] {
        let mut waiter = front.dial().await;
        waiter.send(request).await;
        if request == large {
            waiter.send([b'x'; 200_000]).await;
        }
        front.waiting(1).await;
        front.close(waiter);
        front.waiting(0).await;
    }
    drop(held);
    front.settled().await;
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn a_client_that_goes_before_its_answer_gives_its_slot_back_and_its_backend_is_told() {
    let permits = Arc::new(Semaphore::new(0));
    let backend = waiting(&permits).await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await;
    client.send(HELLO).await;
    until("the backend is asked", || backend.requests().len() == 1).await;
    front.close(client);
    front.settled().await;
    permits.add_permits(2);
    // What it would have answered is not the next one's answer.
    assert_eq!(front.ask(HELLO).await.status(), 200);
    assert_eq!(backend.connections(), 2);
    until("the first connection is closed", || backend.open() == 1).await;
}

#[tokio::test]
async fn a_client_that_goes_amid_its_answer_gives_its_slot_back_and_its_backend_is_told() {
    let backend = Backend::new(|mut peer, _| async move {
        peer.message().await.unwrap();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npiece")
            .await;
        assert!(peer.is_ended().await);
    })
    .await;
    let front = Front::new(&[backend.address]).await;
    for how in ["close", "reset"] {
        let mut client = front.dial().await;
        client.send(HELLO).await;
        client.through("piece").await.unwrap();
        assert_eq!(front.ground.inflight(), 1);
        match how {
            "close" => front.close(client),
            _ => front.reset(client),
        }
        front.settled().await;
        until("the backend is told", || backend.open() == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_amid_its_body_gives_its_slot_back_and_nobody_is_blamed() {
    let backend = Backend::new(|mut peer, seen| async move {
        if peer.message().await.is_none() {
            seen.step();
        }
    })
    .await;
    let front = Front::with(&[backend.address], 1, |service| {
        service.breaker.failures = Setting::built_in(1);
    })
    .await;
    let mut client = front.dial().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello")
        .await;
    front.taken(1).await;
    drop(client);
    front.settled().await;
    until("the backend is told", || backend.steps() == 1).await;
    assert!(!front.queue.breaker().is_open());
}

#[tokio::test]
async fn requests_in_flight_finish_when_the_agent_stops() {
    let permits = Arc::new(Semaphore::new(0));
    let backend = waiting(&permits).await;
    let front = Front::with(&[backend.address], 2, |_| {}).await;
    let (mut idle, mut busy, mut new) =
        (front.dial().await, front.dial().await, front.dial().await);
    idle.send(HELLO).await;
    permits.add_permits(1);
    assert_eq!(idle.message().await.unwrap().status(), 200);
    busy.send(HELLO).await;
    front.taken(1).await;
    let stopping = tokio::spawn({
        let proxy = front.proxy.clone();
        async move { proxy.shut_down(SOON).await }
    });
    assert!(idle.is_ended().await);
    assert!(new.is_ended().await);
    assert_eq!(front.ground.inflight(), 1);
    permits.add_permits(1);
    let answer = busy.message().await.unwrap();
    assert_eq!(
        (answer.status(), answer.header("connection")),
        (200, Some("close"))
    );
    assert!(busy.is_ended().await);
    drop((idle, busy, new));
    stopping.await.unwrap();
    front.settled().await;
    until("warm connections are closed", || backend.open() == 0).await;
}

#[tokio::test]
async fn a_client_that_will_send_no_more_keeps_its_place_and_gets_its_answer() {
    let permits = Arc::new(Semaphore::new(0));
    let backend = waiting(&permits).await;
    let front = Front::new(&[backend.address]).await;
    let mut first = front.dial().await;
    first.send(HELLO).await;
    first.finish().await;
    until("the backend is asked", || backend.requests().len() == 1).await;
    let mut second = front.dial().await;
    second.send(HELLO).await;
    second.finish().await;
    front.waiting(1).await;
    assert_eq!(front.ground.inflight(), 1);
    permits.add_permits(2);
    assert_eq!(first.message().await.unwrap().status(), 200);
    assert_eq!(second.message().await.unwrap().status(), 200);
    front.settled().await;
}
