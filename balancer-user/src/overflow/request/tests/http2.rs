//! Clients that speak HTTP/2 from the first byte.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::{
    HeaderMap, Request, Response, Version,
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use super::ground::{Backend, Front, SOON, until};
use crate::model::Setting;

pub(super) async fn dial<B>(front: &Front) -> SendRequest<B>
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(front.address()).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

pub(super) fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://a.example{path}"))
        .body(Empty::new())
        .unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn requests_over_http2_reach_backends_over_http1_each_with_a_slot() {
    let backends = [Backend::echo().await, Backend::echo().await];
    let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
    let front = Front::with(&addresses, 1, |service| {
        service.queue.size = Setting::built_in(100);
    })
    .await;
    let sender = dial(&front).await;
    let asking = (0..50).map(|number| {
        let mut sender = sender.clone();
        async move {
            let response = sender
                .send_request(get(&format!("/{number}?q")))
                .await
                .unwrap();
            assert_eq!(response.status(), 200);
            assert!(response.headers().contains_key("x-request-id"));
            assert_eq!(text(response).await, format!("GET /{number}?q HTTP/1.1\n"));
        }
    });
    let mut tasks = tokio::task::JoinSet::from_iter(asking);
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    front.settled().await;
    let request = backends[0].last();
    assert_eq!(request.header("host"), Some("a.example"));
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(
        backends
            .iter()
            .map(|backend| backend.requests().len())
            .sum::<usize>(),
        50
    );
    let without_a_path = sender.clone().send_request(get("?q")).await.unwrap();
    assert_eq!(text(without_a_path).await, "GET /?q HTTP/1.1\n");
}

#[tokio::test]
async fn bodies_and_refusals_over_http2() {
    let backend = Backend::echo().await;
    let front = Front::with(&[backend.address], 1, |service| {
        service.queue.size = Setting::built_in(0);
    })
    .await;
    let mut sender = dial(&front).await;
    let post = || {
        let body = Full::new(Bytes::from_static(b"hello"));
        Request::post("http://a.example/").body(body).unwrap()
    };
    let response = sender.send_request(post()).await.unwrap();
    assert_eq!(text(response).await, "POST / HTTP/1.1\nhello");
    let held = front.hold().await;
    let response = sender.send_request(post()).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["x-idlefirst-reason"], "queue-full");
    drop(held);
    assert_eq!(sender.send_request(post()).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_stream_that_is_reset_gives_its_slot_back_and_leaves_the_others_alone() {
    let backend = Backend::new(|mut peer, seen| async move {
        seen.note(&peer.message().await.unwrap());
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npiece")
            .await;
        peer.is_ended().await;
    })
    .await;
    let front = Front::with(&[backend.address], 2, |_| {}).await;
    let mut sender = dial(&front).await;
    let mut one = sender.send_request(get("/one")).await.unwrap();
    let other = sender.send_request(get("/other")).await.unwrap();
    assert!(one.body_mut().frame().await.unwrap().is_ok());
    front.taken(2).await;
    drop(one);
    front.taken(1).await;
    until("one upstream connection is closed", || backend.open() == 1).await;
    drop(other);
    front.settled().await;
    let waiting = {
        let mut sender = sender.clone();
        let _held = (front.hold().await, front.hold().await);
        let asking = tokio::spawn(async move { sender.send_request(get("/waits")).await.is_ok() });
        front.waiting(1).await;
        asking.abort();
        front.waiting(0).await;
        asking
    };
    assert!(waiting.await.unwrap_err().is_cancelled());
    front.settled().await;
}

/// A gRPC server of sorts: says what it got, and ends with trailers.
async fn grpc(seen: Arc<Mutex<Vec<(Version, HeaderMap)>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let seen = seen.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                seen.lock()
                    .unwrap()
                    .push((request.version(), request.headers().clone()));
                let host = request.uri().authority().map(|host| host.to_string());
                async move {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    trailers.insert("host-was", host.unwrap().parse().unwrap());
                    let frames =
                        [Frame::data(body), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
                    Ok::<_, Infallible>(Response::new(StreamBody::new(futures_util::stream::iter(
                        frames,
                    ))))
                }
            });
            let serving = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    address
}

#[tokio::test]
async fn grpc_is_spoken_over_http2_on_both_sides_trailers_and_all() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let backend = grpc(seen.clone()).await;
    let front = Front::new(&[backend]).await;
    let mut sender = dial(&front).await;
    for _ in 0..2 {
        let request = Request::post("http://a.example/service/method")
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(b"message")))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().unwrap().clone();
        assert_eq!(collected.to_bytes(), "message");
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers["host-was"], "a.example");
        front.settled().await;
    }
    let seen = seen.lock().unwrap();
    for (version, headers) in seen.iter() {
        assert_eq!(
            (*version, headers.get("te").map(|te| te.as_bytes())),
            (Version::HTTP_2, Some(&b"trailers"[..]))
        );
        assert!(!headers.contains_key("connection") && !headers.contains_key("host"));
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn streams_finish_when_the_agent_stops() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let held = front.hold().await;
    let mut sender = dial(&front).await;
    let asking = sender.send_request(get("/"));
    let asking = tokio::spawn(asking);
    front.waiting(1).await;
    let stopping = tokio::spawn({
        let proxy = front.proxy.clone();
        async move { proxy.shut_down(SOON).await }
    });
    drop(held);
    assert_eq!(asking.await.unwrap().unwrap().status(), 200);
    stopping.await.unwrap();
    assert!(sender.ready().await.is_err() || sender.send_request(get("/")).await.is_err());
}
