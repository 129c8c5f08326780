//! With admission by request, what the client says reaches the pod and the other way round, as it
//! is said: heads with what a proxy adds and takes out, bodies as they come, trailers, other
//! protocols.

#![forbid(unsafe_code)]

use std::{
    io::{Read, Write},
    thread,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    http::{Http, Message},
    process::resident,
    scene::{Scene, SceneOptions},
    wait::eventually_eq,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const MIB: usize = 1 << 20;

#[test]
fn a_head_is_passed_on_with_what_a_proxy_adds() -> Result<()> {
    let mut stage = Stage::new()?;
    let client_ip = stage.client.stream().local_addr()?.ip().to_string();
    let heard = stage.exchange(
        "PATCH /some/path?x=%20y&x=2 HTTP/1.1\r\n\
         Host: function.example:8080\r\n\
         X-Own: first\r\nX-Own: second\r\n\
         Accept: text/*\r\n\
         traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
         Content-Length: 0\r\n\r\n",
        OK,
    )?;
    let request = &heard.request;
    assert_eq!(request.start, "PATCH /some/path?x=%20y&x=2 HTTP/1.1");
    for (name, value) in [
        ("host", "function.example:8080"),
        ("accept", "text/*"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("x-forwarded-for", &*client_ip),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "function.example:8080"),
    ] {
        assert_eq!(request.header(name), Some(value), "{request:?}");
    }
    assert_eq!(request.all("x-own"), ["first", "second"]);
    let id = request.header("x-request-id").context("an id")?;
    assert!(!id.is_empty());
    assert_eq!(heard.answer.header("x-request-id"), Some(id));
    stage.finish()
}

#[test]
fn an_id_is_kept_and_a_chain_of_proxies_goes_on() -> Result<()> {
    let mut stage = Stage::new()?;
    let client_ip = stage.client.stream().local_addr()?.ip().to_string();
    let heard = stage.exchange(
        "GET / HTTP/1.1\r\nHost: hello\r\nX-Request-Id: mine-1\r\n\
         X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: example.org\r\n\r\n",
        OK,
    )?;
    let request = &heard.request;
    assert_eq!(request.header("x-request-id"), Some("mine-1"));
    assert_eq!(heard.answer.header("x-request-id"), Some("mine-1"));
    let chain = request.all("x-forwarded-for").join(", ");
    assert_eq!(chain, format!("192.0.2.1, {client_ip}"));
    assert_eq!(request.header("x-forwarded-proto"), Some("https"));
    assert_eq!(request.header("x-forwarded-host"), Some("example.org"));
    stage.finish()
}

#[test]
fn what_concerns_one_hop_only_is_not_passed_on() -> Result<()> {
    let mut stage = Stage::new()?;
    let heard = stage.exchange(
        "GET / HTTP/1.1\r\nHost: hello\r\n\
         Connection: keep-alive, x-secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\n\
         TE: gzip\r\nX-Kept: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, x-pod\r\nX-Pod: 1\r\nKeep-Alive: timeout=5\r\n\
         X-Kept: 1\r\nContent-Length: 0\r\n\r\n",
    )?;
    let request = &heard.request;
    for name in [
        "x-secret",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
    ] {
        assert_eq!(request.header(name), None, "{request:?}");
    }
    assert!(request.header("te").is_none_or(|te| te == "trailers"));
    assert_eq!(request.header("x-kept"), Some("1"));
    for name in ["x-pod", "keep-alive"] {
        assert_eq!(heard.answer.header(name), None, "{:?}", heard.answer);
    }
    assert_eq!(heard.answer.header("x-kept"), Some("1"));
    stage.finish()
}

#[test]
fn an_answer_comes_as_the_pod_gives_it() -> Result<()> {
    let mut stage = Stage::new()?;
    for (request, answer, status, body) in [
        (
            "GET",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone",
            404,
            "none",
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n",
            304,
            "",
        ),
        (
            "POST",
            "HTTP/1.1 201 Created\r\nLocation: /1\r\nContent-Length: 0\r\n\r\n",
            201,
            "",
        ),
    ] {
        let request = format!("{request} / HTTP/1.1\r\nHost: hello\r\nContent-Length: 0\r\n\r\n");
        let heard = stage.exchange(&request, answer)?;
        assert_eq!(
            (heard.answer.status(), &*heard.answer.text()),
            (status, body)
        );
    }
    // The answer to HEAD has a length and no body.
    stage
        .client
        .send("HEAD / HTTP/1.1\r\nHost: hello\r\n\r\n")?;
    let mut pod = stage.pod()?;
    pod.receive()?;
    pod.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")?;
    let head = stage.client.receive_head()?;
    assert_eq!(head.header("content-length"), Some("1000"));
    stage.pod = Some(pod);
    assert_eq!(
        stage
            .exchange("GET / HTTP/1.1\r\nHost: hello\r\n\r\n", OK)?
            .answer
            .text(),
        "ok"
    );
    stage.finish()
}

#[test]
fn requests_sent_without_waiting_are_answered_in_their_order() -> Result<()> {
    const REQUESTS: usize = 5;
    let mut stage = Stage::new()?;
    let all: String = (0..REQUESTS)
        .map(|number| format!("GET /{number} HTTP/1.1\r\nHost: hello\r\n\r\n"))
        .collect();
    stage.client.send(all)?;
    let mut pod = stage.pod()?;
    for number in 0..REQUESTS {
        assert_eq!(pod.receive()?.start, format!("GET /{number} HTTP/1.1"));
        assert_eq!(stage.scene.inflight(), 1);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
        pod.send(answer)?;
        assert_eq!(stage.client.receive()?.text(), number.to_string());
    }
    stage.pod = Some(pod);
    stage.finish()
}

#[test]
fn a_client_that_speaks_http_1_0_is_served_and_let_go() -> Result<()> {
    let mut stage = Stage::new()?;
    let heard = stage.exchange("GET / HTTP/1.0\r\n\r\n", OK)?;
    assert!(
        heard.request.header("host").is_some(),
        "{:?}",
        heard.request
    );
    assert_eq!(heard.answer.text(), "ok");
    stage.client.expect_end()?;
    stage.finish()
}

#[test]
fn a_client_that_wants_to_part_is_let_go() -> Result<()> {
    let mut stage = Stage::new()?;
    let heard = stage.exchange(
        "GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n",
        OK,
    )?;
    assert_eq!(heard.answer.text(), "ok");
    stage.client.expect_end()?;
    // That was the client's wish; the pod's connection is kept.
    let mut second = Http::new(stage.scene.dial()?);
    second.send("GET /second HTTP/1.1\r\nHost: hello\r\n\r\n")?;
    let mut pod = stage.pod()?;
    assert_eq!(pod.receive()?.start, "GET /second HTTP/1.1");
    stage.scene.assert_no_arrival();
    pod.send(OK)?;
    assert_eq!(second.receive()?.status(), 200);
    drop(second);
    stage.finish()
}

#[test]
fn a_body_is_passed_on_as_it_comes() -> Result<()> {
    let mut stage = Stage::new()?;
    stage
        .client
        .send("POST / HTTP/1.1\r\nHost: hello\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let mut pod = stage.pod()?;
    assert_eq!(
        pod.receive_head()?.header("transfer-encoding"),
        Some("chunked")
    );
    pod.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    assert_eq!(stage.client.receive_head()?.status(), 200);
    // An echo: each piece is there before the next one is sent.
    for piece in ["one", "another", "the last"] {
        stage
            .client
            .send(format!("{:x}\r\n{piece}\r\n", piece.len()))?;
        assert_eq!(pod.chunk()?.as_deref(), Some(piece.as_bytes()));
        pod.send(format!("{:x}\r\n{piece}\r\n", piece.len()))?;
        assert_eq!(stage.client.chunk()?.as_deref(), Some(piece.as_bytes()));
        assert_eq!(stage.scene.inflight(), 1);
    }
    stage.client.send("0\r\n\r\n")?;
    assert_eq!(pod.chunk()?, None);
    pod.send("0\r\n\r\n")?;
    assert_eq!(stage.client.chunk()?, None);
    stage.scene.wait_inflight(0);
    drop(pod);
    stage.finish()
}

#[test]
fn trailers_are_passed_on_both_ways() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.client.send(
        "POST / HTTP/1.1\r\nHost: hello\r\nTE: trailers\r\nTrailer: x-sum\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n",
    )?;
    let mut pod = stage.pod()?;
    let request = pod.receive()?;
    assert_eq!(request.text(), "hi");
    assert_eq!(request.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    pod.send(
        "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nok\r\n0\r\nx-sum: 2\r\n\r\n",
    )?;
    let answer = stage.client.receive()?;
    assert_eq!(answer.text(), "ok");
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "2".to_owned())]);
    stage.pod = Some(pod);
    stage.finish()
}

#[test]
fn a_client_that_asks_first_is_told_by_the_pod_to_go_on() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.client.send(
        "POST / HTTP/1.1\r\nHost: hello\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    )?;
    let mut pod = stage.pod()?;
    assert_eq!(pod.receive_head()?.header("expect"), Some("100-continue"));
    pod.send("HTTP/1.1 100 Continue\r\n\r\n")?;
    assert_eq!(stage.client.receive()?.status(), 100);
    stage.client.send("body")?;
    assert_eq!(pod.exactly(4)?, b"body");
    pod.send(OK)?;
    assert_eq!(stage.client.receive()?.text(), "ok");
    stage.pod = Some(pod);
    stage.finish()
}

#[test]
fn a_client_that_asks_first_hears_when_its_body_is_not_wanted() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.client.send(
        "POST / HTTP/1.1\r\nHost: hello\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
    )?;
    let mut pod = stage.pod()?;
    pod.receive_head()?;
    pod.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")?;
    assert_eq!(stage.client.receive()?.status(), 401);
    stage.scene.wait_inflight(0);
    drop(pod);
    stage.finish()
}

#[test]
fn another_protocol_is_passed_on_and_holds_its_slot_until_it_ends() -> Result<()> {
    for ends_first in ["client", "pod"] {
        let mut stage = Stage::new()?;
        stage.client.send(
            "GET /chat HTTP/1.1\r\nHost: hello\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )?;
        let mut pod = stage.pod()?;
        let request = pod.receive()?;
        assert_eq!(request.header("upgrade"), Some("websocket"));
        let connection = request.header("connection").unwrap_or_default();
        assert!(connection.eq_ignore_ascii_case("upgrade"), "{request:?}");
        // What follows the head at once is the other protocol's already.
        pod.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nwelcome",
        )?;
        let answer = stage.client.receive()?;
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.header("upgrade"), Some("websocket"));
        assert_eq!(stage.client.exactly(7)?, b"welcome");
        for _ in 0..3 {
            stage.client.send([0x81, 0, b'?'])?;
            assert_eq!(pod.exactly(3)?, [0x81, 0, b'?']);
            pod.send([0x81, 0, b'!'])?;
            assert_eq!(stage.client.exactly(3)?, [0x81, 0, b'!']);
            assert_eq!(stage.scene.inflight(), 1);
        }
        let (mut client, mut pod) = (stage.client.into_stream(), pod.into_stream());
        match ends_first {
            "client" => {
                client.write_all(b"bye")?;
                drop(client);
                let mut last = Vec::new();
                pod.read_to_end(&mut last)?;
                assert_eq!(last, b"bye");
                drop(pod);
            }
            _ => {
                pod.write_all(b"bye")?;
                drop(pod);
                let mut last = Vec::new();
                client.read_to_end(&mut last)?;
                assert_eq!(last, b"bye");
                drop(client);
            }
        }
        stage.scene.wait_inflight(0);
        stage.scene.finish()?;
    }
    Ok(())
}

#[test]
fn a_pod_that_does_not_want_another_protocol_says_so() -> Result<()> {
    let mut stage = Stage::new()?;
    let heard = stage.exchange(
        "GET / HTTP/1.1\r\nHost: hello\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        OK,
    )?;
    assert_eq!(heard.answer.text(), "ok");
    stage.finish()
}

#[test]
fn fifty_megabytes_pass_each_way_and_the_agent_holds_next_to_nothing() -> Result<()> {
    const SIZE: usize = 50 * MIB;
    const AGENT_GROWS_BY: usize = 16 * MIB;
    let mut stage = Stage::new()?;
    let before = resident(stage.scene.agent().pid())?;
    stage.client.send(format!(
        "POST / HTTP/1.1\r\nHost: hello\r\nContent-Length: {SIZE}\r\n\r\n"
    ))?;
    let block: Vec<u8> = (0..MIB).map(|byte| (byte % 251) as u8).collect();
    let mut pod = stage.pod()?;
    pod.receive_head()?;
    thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| send_blocks(&stage.client, &block, SIZE));
        receive_blocks(&mut pod, &block, SIZE)?;
        sender.join().expect("sending does not panic")
    })?;
    pod.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"))?;
    stage.client.receive_head()?;
    let client = &mut stage.client;
    thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| send_blocks(&pod, &block, SIZE));
        receive_blocks(client, &block, SIZE)?;
        sender.join().expect("sending does not panic")
    })?;
    let grown = resident(stage.scene.agent().pid())?.saturating_sub(before);
    assert!(grown < AGENT_GROWS_BY, "the agent grew by {grown} bytes");
    stage.pod = Some(pod);
    stage.finish()
}

#[test]
fn a_client_that_does_not_read_slows_its_pod_down() -> Result<()> {
    // What the sockets on the way may buffer, and a good deal more.
    const SIZE: usize = 256 * MIB;
    const AGENT_GROWS_BY: usize = 16 * MIB;
    let mut stage = Stage::new()?;
    let before = resident(stage.scene.agent().pid())?;
    stage.client.send("GET / HTTP/1.1\r\nHost: hello\r\n\r\n")?;
    let mut pod = stage.pod()?;
    pod.receive()?;
    pod.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"))?;
    let pod = pod.into_stream();
    // That nothing moves can only be seen by waiting.
    pod.set_write_timeout(Some(std::time::Duration::from_millis(200)))?;
    let block = vec![b'x'; MIB];
    let mut written = 0;
    while let Ok(more) = (&pod).write(&block) {
        written += more;
        ensure!(written < SIZE, "all was taken, and nothing read");
    }
    let grown = resident(stage.scene.agent().pid())?.saturating_sub(before);
    assert!(grown < AGENT_GROWS_BY, "the agent grew by {grown} bytes");
    let Stage { client, scene, .. } = stage;
    assert_eq!(scene.inflight(), 1);
    drop(client);
    scene.wait_inflight(0);
    drop(pod);
    scene.finish()
}

/// One pod, and a client whose requests it answers.
struct Stage {
    client: Http,
    pod: Option<Http>,
    scene: Scene,
}

/// Both sides of an exchange.
struct Heard {
    request: Message,
    answer: Message,
}

impl Stage {
    fn new() -> Result<Self> {
        let options = SceneOptions {
            arrange: Some(|service| {
                service
                    .with("admission", json!("request"))
                    .with("queue", json!({"timeout": "30s"}))
            }),
            protocol: Some("http"),
            ..SceneOptions::default()
        };
        let scene = options.start()?;
        Ok(Self {
            client: Http::new(scene.dial()?),
            pod: None,
            scene,
        })
    }

    /// The pod's end of the agent's connection: the one that was kept, or a new one.
    fn pod(&mut self) -> Result<Http> {
        match self.pod.take() {
            Some(pod) => Ok(pod),
            None => Ok(Http::new(self.scene.accept_any()?.1)),
        }
    }

    fn exchange(&mut self, request: &str, answer: &str) -> Result<Heard> {
        self.client.send(request)?;
        let mut pod = self.pod()?;
        let request = pod.receive()?;
        pod.send(answer)?;
        self.pod = Some(pod);
        let answer = self.client.receive()?;
        Ok(Heard { request, answer })
    }

    fn finish(self) -> Result<()> {
        let Self { client, pod, scene } = self;
        eventually_eq(tests::scene::SOON, 0, || scene.inflight());
        drop((client, pod));
        scene.finish()
    }
}

fn send_blocks(http: &Http, block: &[u8], size: usize) -> Result<()> {
    for _ in 0..size / block.len() {
        http.send(block)?;
    }
    Ok(())
}

fn receive_blocks(http: &mut Http, block: &[u8], size: usize) -> Result<()> {
    for number in 0..size / block.len() {
        ensure!(
            http.exactly(block.len())? == block,
            "block {number} is damaged"
        );
    }
    Ok(())
}
