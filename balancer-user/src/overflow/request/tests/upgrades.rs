//! Connections that change their protocol.

use super::ground::{Backend, Front, until};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                      Upgrade: websocket\r\nSec-WebSocket-Accept: xyz\r\n\r\n";

/// Switches, and says everything back until "bye".
async fn chatty() -> Backend {
    Backend::new(|mut peer, seen| async move {
        seen.note(&peer.message().await.unwrap());
        peer.send(SWITCH.to_owned() + "welcome\n").await;
        while let Some(line) = peer.through("\n").await {
            if line == "bye\n" {
                return;
            }
            peer.send(line).await;
        }
        seen.step();
    })
    .await
}

#[tokio::test]
async fn an_upgraded_connection_holds_its_slot_until_it_is_closed() {
    let backend = chatty().await;
    let front = Front::new(&[backend.address]).await;
    for who_ends in ["client", "backend"] {
        let mut client = front.dial().await;
        client.send(ASK).await;
        let answer = client.head().await.unwrap();
        assert_eq!(answer.status(), 101, "{answer:?}");
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert_eq!(
            answer.header("connection").map(str::to_lowercase),
            Some("upgrade".into())
        );
        assert_eq!(answer.header("sec-websocket-accept"), Some("xyz"));
        let request = backend.last();
        assert_eq!(request.header("upgrade"), Some("websocket"));
        assert_eq!(request.header("connection"), Some("upgrade"));
        assert_eq!(request.header("sec-websocket-key"), Some("abc"));
        assert_eq!(client.through("\n").await.unwrap(), "welcome\n");
        for line in ["one\n", "two \0\u{1}\n"] {
            client.send(line).await;
            assert_eq!(client.through("\n").await.unwrap(), line);
            assert_eq!(front.ground.inflight(), 1);
        }
        match who_ends {
            "client" => drop(client),
            _ => {
                client.send("bye\n").await;
                assert!(client.is_ended().await);
                drop(client);
            }
        }
        front.settled().await;
        until("the backend's end is closed", || backend.open() == 0).await;
    }
}

#[tokio::test]
async fn a_backend_may_decline_and_the_connection_goes_on() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await;
    for _ in 0..2 {
        client.send(ASK).await;
        assert_eq!(client.message().await.unwrap().status(), 200);
        front.settled().await;
    }
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.message().await.unwrap().status(), 200);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn what_comes_before_another_protocol_is_agreed_upon_ends_the_connection() {
    let backend = Backend::new(|mut peer, seen| async move {
        while let Some(request) = peer.message().await {
            seen.note(&request);
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
                .await;
        }
    })
    .await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await;
    client
        .send(ASK.to_owned() + "GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    // The first is answered, and what came too early is not.
    assert_eq!(client.message().await.unwrap().status(), 200);
    assert!(client.is_ended().await);
    front.settled().await;
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn a_full_queue_refuses_an_upgrade_like_any_request() {
    let backend = chatty().await;
    let front = Front::with(&[backend.address], 1, |service| {
        service.queue.size = crate::model::Setting::built_in(0);
    })
    .await;
    let held = front.hold().await;
    assert_eq!(front.ask(ASK).await.status(), 503);
    drop(held);
}
