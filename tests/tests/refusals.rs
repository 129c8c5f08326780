//! Who is refused learns why: over HTTP by a `503` that names the reason, whatever takes a slot.

#![forbid(unsafe_code)]

use std::net::TcpStream;

use anyhow::Result;
use http_body_util::Empty;
use hyper::{Request, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tests::{
    http::{Http, Message},
    scene::{SOON, Scene, SceneOptions},
    service::Service,
    wait::eventually_eq,
};

const REQUEST: &str = "GET /anything HTTP/1.1\r\nHost: hello\r\n\r\n";

#[test]
fn queue_full() -> Result<()> {
    let scene = scene(1, |service| service.with("queue", json!({"size": 0})))?;
    let held = scene.connection()?;
    assert_refused(&scene, ask(&scene)?, "queue-full", 1);
    drop(held);
    scene.finish()
}

#[test]
fn queue_timeout() -> Result<()> {
    let scene = scene(1, |service| {
        service.with("queue", json!({"timeout": "20ms"}))
    })?;
    let held = scene.connection()?;
    assert_refused(&scene, ask(&scene)?, "queue-timeout", 1);
    drop(held);
    scene.finish()
}

#[test]
fn no_backends() -> Result<()> {
    let scene = scene(1, |service| service.with("queue", json!({})))?;
    let mut service = scene.service();
    service.backends.clear();
    scene.agent().reload(&[service])?;
    assert_refused(&scene, ask(&scene)?, "no-backends", 1);
    scene.agent().reload(&[scene.service()])?;
    scene.finish()
}

#[test]
fn retries_exhausted() -> Result<()> {
    let mut scene = scene(1, |service| {
        service
            .with("queue", json!({"timeout": "30s", "attempts": 2}))
            .with("breaker", json!({"failures": 0}))
    })?;
    let held = scene.connection()?;
    let mut waiter = Http::new(scene.dial()?);
    waiter.send(REQUEST)?;
    scene.wait_waiters(1);
    scene.close_port(0);
    drop(held);
    let answer = waiter.receive()?;
    waiter.expect_end()?;
    drop(waiter);
    assert_refused(&scene, answer, "retries-exhausted", 1);
    scene.finish()
}

#[test]
fn breaker_open() -> Result<()> {
    let mut scene = scene(2, |service| {
        service
            .with("queue", json!({"timeout": "30s"}))
            .with("breaker", json!({"failures": 2, "open": "1h"}))
            .with(
                "health",
                json!({"probe": "tcp", "interval": "20ms", "failures": 1}),
            )
    })?;
    let state = |scene: &Scene, pod: usize| scene.backends()[pod].state.clone();
    // The first is shut out by its breaker, and healthy again before it is let in; the second is
    // unhealthy, so that nothing is left.
    let probes_off = |scene: &Scene| {
        let unprobed = scene.service().with("health", json!({"probe": "none"}));
        scene.agent().reload(&[unprobed])
    };
    probes_off(&scene)?;
    scene.close_port(0);
    eventually_eq(SOON, "ejected".to_owned(), || {
        drop(scene.dial());
        state(&scene, 0)
    });
    scene.open_port(0)?;
    scene.close_port(1);
    scene.agent().reload(&[scene.service()])?;
    eventually_eq(SOON, "unhealthy".to_owned(), || state(&scene, 1));
    assert_refused(&scene, ask(&scene)?, "breaker-open", 1);
    scene.wait_inflight(0);
    scene.agent().reload(&[])?;
    scene.finish()
}

#[test]
fn a_client_that_says_nothing_is_told_nothing_and_does_not_hold_on_to_the_agent() -> Result<()> {
    let scene = scene(1, |service| service.with("queue", json!({"size": 0})))?;
    let held = scene.connection()?;
    let mut silent = Http::new(scene.dial()?);
    assert_eq!(silent.try_receive_head()?, None);
    drop((held, silent));
    scene.finish()
}

#[test]
fn a_request_with_a_body_is_refused_as_well() -> Result<()> {
    let scene = scene(1, |service| service.with("queue", json!({"size": 0})))?;
    let held = scene.connection()?;
    let mut client = Http::new(scene.dial()?);
    client.send("POST / HTTP/1.1\r\nHost: hello\r\nContent-Length: 100000\r\n\r\n")?;
    client.send(vec![b'x'; 1000])?;
    assert_refused(&scene, client.receive()?, "queue-full", 1);
    drop((held, client));
    scene.finish()
}

#[test]
fn a_client_that_speaks_http2_is_told_in_http2() -> Result<()> {
    let scene = scene(1, |service| service.with("queue", json!({"size": 0})))?;
    let held = scene.connection()?;
    let stream = scene.dial()?;
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (status, reason) = runtime.block_on(async {
        let io = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        let request = Request::get("http://hello/").body(Empty::<Bytes>::new())?;
        let answer = tokio::time::timeout(SOON, sender.send_request(request)).await??;
        let reason = answer.headers().get("x-idlefirst-reason").cloned();
        anyhow::Ok((answer.status(), reason))
    })?;
    drop(runtime);
    assert_eq!(status, 503);
    assert_eq!(
        reason.as_ref().map(|reason| reason.as_bytes()),
        Some(&b"queue-full"[..])
    );
    drop(held);
    scene.finish()
}

/// Pods with one slot each of a service that speaks HTTP and is not probed.
fn scene(pods: usize, arrange: fn(Service) -> Service) -> Result<Scene> {
    let scene = SceneOptions {
        pods,
        arrange: Some(arrange),
        protocol: Some("http"),
        ..SceneOptions::default()
    };
    scene.start()
}

/// The answer to a request, after which the connection ends.
fn ask(scene: &Scene) -> Result<Message> {
    let client: TcpStream = scene.dial()?;
    let mut client = Http::new(client);
    let answer = client.ask(REQUEST)?;
    client.expect_end()?;
    Ok(answer)
}

/// The answer says that and why it is one, and so do the figures.
#[track_caller]
fn assert_refused(scene: &Scene, answer: Message, reason: &str, count: u64) {
    assert_eq!(answer.status(), 503, "{answer:?}");
    assert_eq!(
        answer.header("x-idlefirst-reason"),
        Some(reason),
        "{answer:?}"
    );
    let kind = answer.header("content-type");
    assert_eq!(kind, Some("application/problem+json"), "{answer:?}");
    let retry_after = answer.header("retry-after").map(str::parse::<u32>);
    assert!(matches!(retry_after, Some(Ok(1..))), "{answer:?}");
    let problem: Value = serde_json::from_slice(&answer.body).expect("problem+json is JSON");
    assert_eq!(problem["status"], 503, "{problem}");
    assert!(problem["title"].is_string(), "{problem}");
    eventually_eq(SOON, count, || scene.queue().refused_for(reason));
}
