//! What is noted of connections that are relayed.

use std::{net::Ipv4Addr, time::Duration};

use balancer_common::{response::read, service::Tables};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::overflow::{Departures, Identity, Visit, ground::Ground, relay};

/// Both ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (dialled, accepted) = tokio::join!(dialled, listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// A relay, with its client and its server, whose connection took so long to stand.
async fn relay(ground: &Ground, connected_in: Duration) -> (TcpStream, TcpStream, JoinHandle<()>) {
    let (client, from_client) = pair().await;
    let (to_server, server) = pair().await;
    let mut visit = Visit::new(ground.queue(), ground.now(), None).by(Identity::UNKNOWN);
    let slot = visit.slot().await.expect("one is free");
    let departure = Departures::default().watch(client.local_addr().unwrap());
    let backend = relay::Backend {
        stream: to_server,
        connected_in,
    };
    let relay = tokio::spawn(relay::relay(from_client, backend, slot, departure));
    (client, server, relay)
}

/// Sends from one end, and reads it at the other.
async fn pass(from: &mut TcpStream, to: &mut TcpStream) {
    let mut read = [0; 5];
    from.write_all(b"hello").await.unwrap();
    to.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"hello");
}

fn response_time(ground: &Ground) -> Duration {
    let record = ground.memory.plain.backend(0).unwrap();
    Duration::from_nanos(read(record).0)
}

#[tokio::test]
async fn the_first_request_and_its_response_are_measured_with_the_connect() {
    let ground = Ground::without_servers(1, 1, 10);
    let connected_in = Duration::from_secs(100);
    let (mut client, mut server, relay) = relay(&ground, connected_in).await;
    pass(&mut client, &mut server).await;
    assert_eq!(response_time(&ground), Duration::ZERO);
    pass(&mut server, &mut client).await;
    let first = response_time(&ground);
    assert!(
        (connected_in..connected_in + Duration::from_secs(10)).contains(&first),
        "{first:?}"
    );
    // The next is not.
    pass(&mut client, &mut server).await;
    pass(&mut server, &mut client).await;
    assert_eq!(response_time(&ground), first);
    drop((client, server));
    relay.await.unwrap();
    assert_eq!(ground.inflight(), 0);
}

#[tokio::test]
async fn what_a_backend_says_unasked_is_no_response() {
    let ground = Ground::without_servers(1, 1, 10);
    let (mut client, mut server, relay) = relay(&ground, Duration::from_secs(1)).await;
    pass(&mut server, &mut client).await;
    pass(&mut client, &mut server).await;
    drop((client, server));
    relay.await.unwrap();
    assert_eq!(response_time(&ground), Duration::ZERO);
}
