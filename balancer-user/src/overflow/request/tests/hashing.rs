//! Requests whose backends are chosen by who sends them, and how fast backends answer.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use balancer_common::{response::read, service::Tables};
use tokio::net::TcpSocket;

use super::ground::{Backend, Front, Peer};
use crate::model::{Admission, Affinity, HashKey, Service, Setting, Strategy};

/// Backends that answer with their own number.
async fn numbered() -> Vec<Backend> {
    let mut backends = Vec::new();
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n0",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n3",
    ] {
        backends.push(Backend::answering(answer).await);
    }
    backends
}

async fn front(backends: &[Backend], set: impl FnOnce(&mut Service)) -> Front {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    Front::with(&addresses, 5, |service| {
        service.admission = Setting::built_in(Admission::Request);
        set(service);
    })
    .await
}

async fn hashing(backends: &[Backend], key: HashKey) -> Front {
    front(backends, |service| {
        service.strategy = Setting::built_in(Strategy::ConsistentHash);
        service.hash = Setting::built_in(key);
    })
    .await
}

/// Which backend answers a request with these header lines.
async fn ask(client: &mut Peer, lines: &str) -> String {
    client
        .send(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
        .await;
    client.message().await.unwrap().text().to_owned()
}

/// Connects from a loopback address of one's own.
async fn dial_from(front: &Front, last: u8) -> Peer {
    let socket = TcpSocket::new_v4().unwrap();
    let source = Ipv4Addr::new(127, 0, 0, last);
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    Peer::new(socket.connect(front.address()).await.unwrap())
}

#[tokio::test]
async fn each_request_of_a_connection_goes_by_its_own_header() {
    let backends = numbered().await;
    let front = hashing(&backends, HashKey::Header("x-user".parse().unwrap())).await;
    let mut client = front.dial().await;
    let mut used = BTreeSet::new();
    for user in 0..30 {
        let line = format!("X-User: user-{user}\r\n");
        let own = ask(&mut client, &line).await;
        assert_eq!(ask(&mut client, &line).await, own);
        // Wherever it comes from.
        let mut other = dial_from(&front, 9).await;
        assert_eq!(ask(&mut other, &line).await, own);
        used.insert(own);
    }
    assert_eq!(used.len(), 4);
}

#[tokio::test]
async fn each_request_goes_by_its_cookie_which_the_backend_sees() {
    let backends = numbered().await;
    let front = hashing(&backends, HashKey::Cookie("session".parse().unwrap())).await;
    let mut client = front.dial().await;
    let mut used = BTreeSet::new();
    for session in 0..30 {
        let own = ask(
            &mut client,
            &format!("Cookie: a={session}0; session={session}\r\n"),
        )
        .await;
        let again = ask(
            &mut client,
            &format!("Cookie: session={session}\r\nCookie: a=1\r\n"),
        )
        .await;
        assert_eq!(again, own);
        let request = backends[own.parse::<usize>().unwrap()].last();
        assert_eq!(request.count("cookie"), 2, "{request:?}");
        used.insert(own);
    }
    assert_eq!(used.len(), 4);
}

#[tokio::test]
async fn without_the_header_and_by_default_the_source_address_counts() {
    let backends = numbered().await;
    for key in [HashKey::Header("x-user".parse().unwrap()), HashKey::Client] {
        let front = hashing(&backends, key).await;
        let mut used = BTreeSet::new();
        for last in 1..30 {
            let mut client = dial_from(&front, last).await;
            let own = ask(&mut client, "").await;
            assert_eq!(ask(&mut client, "X-User: \r\n").await, own);
            // From another port.
            let mut again = dial_from(&front, last).await;
            assert_eq!(ask(&mut again, "").await, own);
            used.insert(own);
        }
        assert_eq!(used.len(), 4);
    }
}

#[tokio::test]
async fn affinity_without_a_cookie_goes_by_the_source_address() {
    let backends = numbered().await;
    let front = front(&backends, |service| {
        service.affinity = Setting::built_in(Some(Affinity {
            timeout: Affinity::DEFAULT_TIMEOUT,
            cookie: None,
        }));
    })
    .await;
    let mut used = BTreeSet::new();
    for last in 1..9 {
        let own = ask(&mut dial_from(&front, last).await, "").await;
        for _ in 0..3 {
            front.settled().await;
            assert_eq!(ask(&mut dial_from(&front, last).await, "").await, own);
        }
        front.settled().await;
        used.insert(own);
    }
    assert_eq!(used.len(), 4);
    assert_eq!(front.ground.memory.bindings().len(), 8);
}

#[tokio::test]
async fn the_time_from_a_request_to_its_response_is_recorded() {
    const TAKES: Duration = Duration::from_millis(50);
    let backend = Backend::new(|mut peer, _| async move {
        while peer.message().await.is_some() {
            tokio::time::sleep(TAKES).await;
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await;
        }
    })
    .await;
    let backends = [backend];
    let front = front(&backends, |_| {}).await;
    let record = front.ground.memory.plain.backend(0).unwrap();
    assert_eq!(read(record), (0, 0));
    let mut client = front.dial().await;
    let mut before = 0;
    // Over a new connection, and over a warm one.
    for _ in 0..2 {
        ask(&mut client, "").await;
        let (average_ns, at_ns) = read(record);
        assert!(average_ns >= TAKES.as_nanos() as u64, "{average_ns}");
        assert!(at_ns > before);
        before = at_ns;
    }
}
