//! With admission by request, a slot is held while a request is in flight and no longer, over
//! however few or many connections.

#![forbid(unsafe_code)]

use std::{
    io::Read,
    net::TcpStream,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tests::{
    agent::Agent,
    crowd::{Crowd, assert_no_slot_astray, dial, frontend_address, pod_address, service},
    function::{Function, FunctionOptions, Work},
    http::{Http, Message},
    scene::{SOON, Scene, SceneOptions},
    service::Service,
    wait::{eventually, eventually_eq},
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const POST: &str = "POST / HTTP/1.1\r\nHost: hello\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn a_connection_holds_no_slot_between_requests() -> Result<()> {
    let scene = scene(1, by_request)?;
    let mut client = Http::new(scene.dial()?);
    scene.wait_waiters(0);
    assert_eq!(scene.inflight(), 0, "nothing was asked for");
    client.send("GET / HTTP/1.1\r\nHost: hello\r\n\r\n")?;
    let mut pod = accept(&scene)?;
    assert_eq!(pod.receive()?.start, "GET / HTTP/1.1");
    assert_eq!(scene.inflight(), 1);
    pod.send(OK)?;
    assert_eq!(client.receive()?.text(), "ok");
    scene.wait_inflight(0);

    // The connections on both sides are used again.
    for number in 0..3 {
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: hello\r\n\r\n"))?;
        assert_eq!(pod.receive()?.start, format!("GET /{number} HTTP/1.1"));
        assert_eq!(scene.inflight(), 1);
        pod.send(OK)?;
        assert_eq!(client.receive()?.status(), 200);
        scene.wait_inflight(0);
    }
    scene.assert_no_arrival();
    drop((client, pod));
    scene.finish()
}

#[test]
fn requests_of_many_connections_share_a_slot_in_turn() -> Result<()> {
    const CLIENTS: usize = 5;
    let scene = scene(1, by_request)?;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let client = Http::new(scene.dial()?);
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: hello\r\n\r\n"))?;
        // One is in flight, the others wait.
        scene.wait_waiters(number as u64);
        eventually_eq(SOON, 1, || scene.inflight());
        clients.push(client);
    }
    let mut pod = accept(&scene)?;
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(pod.receive()?.start, format!("GET /{number} HTTP/1.1"));
        assert_eq!(scene.inflight(), 1);
        scene.assert_no_arrival();
        pod.send(OK)?;
        assert_eq!(client.receive()?.status(), 200);
    }
    drop((clients, pod));
    scene.finish()
}

#[test]
fn a_slot_is_held_until_the_answer_is_complete() -> Result<()> {
    let scene = scene(1, by_request)?;
    let mut client = Http::new(scene.dial()?);
    client.send("GET / HTTP/1.1\r\nHost: hello\r\n\r\n")?;
    let mut pod = accept(&scene)?;
    pod.receive()?;
    pod.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")?;
    assert_eq!(client.receive_head()?.status(), 200);
    assert_eq!(client.exactly(2)?, b"ab");
    assert_eq!(scene.inflight(), 1);
    pod.send("cd")?;
    assert_eq!(client.exactly(2)?, b"cd");
    scene.wait_inflight(0);
    drop((client, pod));
    scene.finish()
}

#[test]
fn a_client_that_leaves_in_the_middle_gives_its_slot_back() -> Result<()> {
    let scene = scene(1, by_request)?;
    for request in [
        "GET / HTTP/1.1\r\nHost: hello\r\n\r\n",
        POST,
        "POST / HTTP/1.1\r\nHost: hello\r\nContent-Length: 10\r\n\r\nhalf",
    ] {
        let client = Http::new(scene.dial()?);
        client.send(request)?;
        let mut pod = accept(&scene)?;
        assert!(pod.receive_head()?.start.ends_with("HTTP/1.1"));
        assert_eq!(scene.inflight(), 1);
        drop(client);
        scene.wait_inflight(0);
        // What the pod does now is for nobody: it is told so, and the connection not used again.
        let mut pod = pod.into_stream();
        eventually(SOON, || match pod.read(&mut [0; 16]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(anyhow::anyhow!("there was more")),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error.into()),
        });
    }
    scene.finish()
}

#[test]
fn a_client_that_leaves_in_the_middle_of_an_answer_gives_its_slot_back() -> Result<()> {
    let scene = scene(1, by_request)?;
    let mut client = Http::new(scene.dial()?);
    client.send("GET / HTTP/1.1\r\nHost: hello\r\n\r\n")?;
    let mut pod = accept(&scene)?;
    pod.receive()?;
    pod.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nthe first bytes")?;
    client.receive_head()?;
    drop(client);
    scene.wait_inflight(0);
    drop(pod);
    scene.finish()
}

#[test]
fn a_client_that_leaves_while_it_waits_leaves_the_queue() -> Result<()> {
    let scene = scene(1, by_request)?;
    let first = Http::new(scene.dial()?);
    first.send("GET /first HTTP/1.1\r\nHost: hello\r\n\r\n")?;
    let mut pod = accept(&scene)?;
    assert_eq!(pod.receive()?.start, "GET /first HTTP/1.1");
    let waiters: Vec<_> = (0..4)
        .map(|number| -> Result<Http> {
            let waiter = Http::new(scene.dial()?);
            waiter.send(format!("GET /{number} HTTP/1.1\r\nHost: hello\r\n\r\n"))?;
            scene.wait_waiters(number + 1);
            Ok(waiter)
        })
        .collect::<Result<_>>()?;
    let [leaving, mut staying, also_leaving, mut also_staying] =
        <[Http; 4]>::try_from(waiters).expect("four of them");
    drop((leaving, also_leaving));
    scene.wait_waiters(2);
    pod.send(OK)?;
    for (number, client) in [(1, &mut staying), (3, &mut also_staying)] {
        assert_eq!(pod.receive()?.start, format!("GET /{number} HTTP/1.1"));
        pod.send(OK)?;
        assert_eq!(client.receive()?.status(), 200);
    }
    drop((first, staying, also_staying, pod));
    scene.finish()
}

#[test]
fn a_pod_that_closed_a_warm_connection_is_connected_to_anew() -> Result<()> {
    let scene = scene(1, by_request)?;
    let mut client = Http::new(scene.dial()?);
    for request in ["GET / HTTP/1.1\r\nHost: hello\r\n\r\n", POST] {
        client.send(request)?;
        let mut pod = accept(&scene)?;
        pod.receive()?;
        pod.send(OK)?;
        assert_eq!(client.receive()?.status(), 200);
        drop(pod);
    }
    drop(client);
    scene.finish()
}

#[test]
fn a_request_that_may_not_be_repeated_reaches_a_pod_once() -> Result<()> {
    let scene = scene(2, by_request)?;
    let mut client = Http::new(scene.dial()?);
    client.send(POST)?;
    let mut pod = accept(&scene)?;
    assert_eq!(pod.receive()?.text(), "hi");
    drop(pod);
    assert_eq!(client.receive()?.status(), 502);
    scene.wait_inflight(0);
    scene.assert_no_arrival();
    drop(client);
    scene.finish()
}

#[test]
fn a_request_that_may_be_repeated_is_tried_on_another_pod() -> Result<()> {
    let scene = scene(2, by_request)?;
    let mut client = Http::new(scene.dial()?);
    client.send("GET / HTTP/1.1\r\nHost: hello\r\n\r\n")?;
    let (first, pod) = scene.accept_any()?;
    Http::new(pod).receive()?;
    let (second, pod) = scene.accept_any()?;
    assert_ne!(first, second);
    let mut pod = Http::new(pod);
    pod.receive()?;
    pod.send(OK)?;
    assert_eq!(client.receive()?.text(), "ok");
    drop((client, pod));
    scene.finish()
}

#[test]
fn a_pod_that_cannot_be_connected_to_is_passed_over() -> Result<()> {
    let mut scene = scene(2, |service| {
        by_request(service).with("breaker", json!({"failures": 0}))
    })?;
    scene.close_port(0);
    let mut client = Http::new(scene.dial()?);
    for _ in 0..4 {
        client.send(POST)?;
        let (pod, stream) = scene.accept_any()?;
        assert_eq!(pod, 1);
        let mut pod = Http::new(stream);
        assert_eq!(pod.receive()?.text(), "hi");
        pod.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
        assert_eq!(client.receive()?.status(), 200);
    }
    drop(client);
    scene.finish()
}

#[test]
fn whoever_finds_no_slot_is_refused_and_may_ask_again() -> Result<()> {
    for (queue, reason) in [
        (json!({"size": 0}), "queue-full"),
        (json!({"timeout": "20ms"}), "queue-timeout"),
    ] {
        let scene = scene(1, by_request)?;
        scene
            .agent()
            .reload(&[scene.service().with("queue", queue)])?;
        let busy = Http::new(scene.dial()?);
        busy.send("GET / HTTP/1.1\r\nHost: hello\r\n\r\n")?;
        let mut pod = accept(&scene)?;
        pod.receive()?;
        let mut client = Http::new(scene.dial()?);
        assert_refused(&client.get("/")?, reason);
        assert_refused(&client.get("/")?, reason);
        pod.send(OK)?;
        scene.wait_inflight(0);
        client.send("GET /again HTTP/1.1\r\nHost: hello\r\n\r\n")?;
        assert_eq!(pod.receive()?.start, "GET /again HTTP/1.1");
        pod.send(OK)?;
        assert_eq!(client.receive()?.status(), 200);
        eventually_eq(SOON, 2, || scene.queue().refused_for(reason));
        drop((busy, client, pod));
        scene.finish()?;
    }
    Ok(())
}

#[test]
fn the_kernel_refuses_nobody_for_whom_there_is_a_slot() -> Result<()> {
    let scene = scene(1, |service| {
        let queue = json!({"size": 0, "refuse": "kernel"});
        by_request(service).with("queue", queue)
    })?;
    // However many connections come: they wait for nothing until they ask.
    let mut clients = (0..5)
        .map(|_| Ok(Http::new(scene.dial().context("a pod is idle")?)))
        .collect::<Result<Vec<_>>>()?;
    let mut pod = None;
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: hello\r\n\r\n")?;
        let pod = match &mut pod {
            Some(pod) => pod,
            none => none.insert(accept(&scene)?),
        };
        pod.receive()?;
        pod.send(OK)?;
        assert_eq!(client.receive()?.status(), 200);
        scene.wait_inflight(0);
    }
    drop((clients, pod));
    scene.finish()
}

#[test]
fn an_answer_that_breaks_off_is_not_taken_for_a_complete_one() -> Result<()> {
    let scene = scene(1, by_request)?;
    for (answer, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "half"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "4\r\nhalf\r\n",
        ),
    ] {
        let mut client = Http::new(scene.dial()?);
        client.send("GET / HTTP/1.1\r\nHost: hello\r\n\r\n")?;
        let mut pod = accept(&scene)?;
        pod.receive()?;
        pod.send(answer)?;
        pod.send(body)?;
        let mut heard = client.receive_head()?;
        drop(pod);
        let cut = client.receive_body(&mut heard);
        assert!(cut.is_err(), "taken for complete: {heard:?}");
        scene.wait_inflight(0);
    }
    scene.finish()
}

#[test]
fn the_rate_limit_counts_requests_not_connections() -> Result<()> {
    const BURST: usize = 5;
    let stage = Stage::new(
        1,
        FunctionOptions::default(),
        json!({"size": 10}),
        |service| service.with("rate_limit", json!({"per_second": 1, "burst": BURST})),
    )?;
    let begun = Instant::now();
    let mut client = stage.client()?;
    let mut served = 0;
    for _ in 0..30 {
        let answer = client.get("/")?;
        match answer.status() {
            200 => served += 1,
            _ => assert_refused(&answer, "rate-limited"),
        }
    }
    let more = begun.elapsed().as_secs() as usize + 1;
    assert!((BURST..=BURST + more).contains(&served), "{served} served");
    drop(client);
    stage.finish()
}

#[test]
fn server_errors_in_a_row_shut_the_service_until_a_trial_succeeds() -> Result<()> {
    const FAILURES: usize = 3;
    let scene = scene(1, |service| {
        by_request(service).with("breaker", json!({"failures": FAILURES, "open": "500ms"}))
    })?;
    let mut client = Http::new(scene.dial()?);
    let mut pod = None;
    let mut exchange = |client: &mut Http, answer: &str| -> Result<u16> {
        client.send("GET / HTTP/1.1\r\nHost: hello\r\n\r\n")?;
        let pod = match &mut pod {
            Some(pod) => pod,
            none => none.insert(accept(&scene)?),
        };
        pod.receive()?;
        pod.send(answer)?;
        Ok(client.receive()?.status())
    };
    const BROKEN: &str = "HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n";
    // A success between them forgives.
    for answer in [BROKEN, BROKEN, OK, BROKEN, BROKEN] {
        exchange(&mut client, answer)?;
    }
    let opened = Instant::now();
    assert_eq!(exchange(&mut client, BROKEN)?, 500);
    let answer = client.get("/")?;
    assert_refused(&answer, "breaker-open");
    assert_eq!(scene.inflight(), 0);
    eventually(SOON, || -> Result<()> {
        ensure!(opened.elapsed() >= Duration::from_millis(600), "too early");
        Ok(())
    });
    assert_eq!(exchange(&mut client, OK)?, 200);
    assert_eq!(exchange(&mut client, BROKEN)?, 500);
    assert_eq!(exchange(&mut client, OK)?, 200);
    drop((client, pod));
    scene.finish()
}

#[test]
fn no_function_gets_more_than_its_limit_from_clients_that_keep_their_connections() -> Result<()> {
    const PODS: u8 = 4;
    const CLIENTS: usize = 32;
    const SERVED: u64 = 5_000;
    let options = FunctionOptions {
        work: Work::Fixed(Duration::from_micros(200)),
        ..FunctionOptions::default()
    };
    let queue = json!({"size": 1000, "timeout": "1m"});
    let stage = Stage::new(PODS, options, queue, |service| service)?;
    let served = AtomicU64::new(0);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (stage, served) = (&stage, &served);
                scope.spawn(move || -> Result<()> {
                    stage.crowd.place().enter()?;
                    let mut client = Http::new(dial(frontend_address(0))?);
                    while served.load(Relaxed) < SERVED {
                        let answer = client.get("/")?;
                        ensure!(answer.status() == 200, "{answer:?}");
                        served.fetch_add(1, Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().expect("a client does not panic"))
    })?;
    let mut accepted = 0;
    for function in &stage.functions {
        let seen = function.seen();
        assert_eq!((seen.over_limit, seen.peak), (0, 1), "{seen:?}");
        accepted += seen.accepted;
    }
    // Upstream connections are kept too.
    assert!(
        accepted < SERVED / 10,
        "{accepted} connections to functions"
    );
    stage.finish()
}

#[test]
fn nor_from_requests_of_one_http2_connection() -> Result<()> {
    const REQUESTS: usize = 100;
    let options = FunctionOptions {
        work: Work::Fixed(Duration::from_millis(2)),
        ..FunctionOptions::default()
    };
    let queue = json!({"size": 1000, "timeout": "1m"});
    let stage = Stage::new(4, options, queue, |service| service)?;
    let stream = stage.crowd.dial(frontend_address(0))?;
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        let io = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        let mut asked = tokio::task::JoinSet::new();
        for number in 0..REQUESTS {
            let mut sender = sender.clone();
            asked.spawn(async move {
                let request = Request::get(format!("http://hello/{number}"));
                let request = request.body(Empty::<Bytes>::new())?;
                sender.ready().await?;
                let answer = sender.send_request(request).await?;
                let status = answer.status();
                answer.into_body().collect().await?;
                anyhow::Ok(status)
            });
        }
        let mut served = 0;
        while let Some(answered) = asked.join_next().await {
            let status = answered.context("a request does not panic")??;
            ensure!(status == 200, "{status}");
            served += 1;
        }
        anyhow::Ok(served)
    })?;
    assert_eq!(served, REQUESTS);
    drop(runtime);
    for function in &stage.functions {
        let seen = function.seen();
        assert_eq!((seen.over_limit, seen.peak), (0, 1), "{seen:?}");
    }
    stage.finish()
}

#[test]
fn an_agent_that_is_stopped_lets_requests_in_flight_finish() -> Result<()> {
    let options = FunctionOptions {
        work: Work::Fixed(Duration::from_millis(500)),
        ..FunctionOptions::default()
    };
    let stage = Stage::new(1, options, json!({"size": 10}), |service| service)?;
    let mut client = stage.client()?;
    client.send("GET / HTTP/1.1\r\nHost: hello\r\n\r\n")?;
    eventually_eq(SOON, 1, || stage.functions[0].seen().current);
    stage.agent.stop()?;
    assert_eq!(client.receive()?.status(), 200);
    client.expect_end()
}

/// Functions of one service, admitted by request.
struct Stage {
    agent: Agent,
    functions: Vec<Function>,
    crowd: Crowd,
}

impl Stage {
    fn new(
        pods: u8,
        options: FunctionOptions,
        queue: Value,
        more: impl FnOnce(Service) -> Service,
    ) -> Result<Self> {
        let crowd = Crowd::new(pods)?;
        let functions = (0..pods)
            .map(|pod| Function::start(&crowd.netns, pod_address(pod), options.clone()))
            .collect::<Result<Vec<_>>>()?;
        let service = service(0, 1, 0..pods)
            .with("protocol", json!("http"))
            .with("admission", json!("request"))
            .with("queue", queue);
        Ok(Self {
            agent: Agent::start(&crowd.netns, &crowd.cgroup, &[more(service)])?,
            functions,
            crowd,
        })
    }

    fn client(&self) -> Result<Http> {
        let stream: TcpStream = self.crowd.dial(frontend_address(0))?;
        Ok(Http::new(stream))
    }

    /// No slot is taken and nobody waits in the end.
    fn finish(self) -> Result<()> {
        eventually_eq(SOON, 0, || self.agent.inflight().expect("the agent counts"));
        self.agent.wait_nobody_waits();
        assert_no_slot_astray(&self.agent)?;
        self.agent.stop()
    }
}

/// Pods with one slot each, which answer as the test says.
fn scene(pods: usize, arrange: fn(Service) -> Service) -> Result<Scene> {
    let scene = SceneOptions {
        pods,
        arrange: Some(arrange),
        protocol: Some("http"),
        ..SceneOptions::default()
    };
    scene.start()
}

fn by_request(service: Service) -> Service {
    service
        .with("admission", json!("request"))
        .with("queue", json!({"timeout": "30s"}))
}

fn accept(scene: &Scene) -> Result<Http> {
    Ok(Http::new(scene.accept_any()?.1))
}

#[track_caller]
fn assert_refused(answer: &Message, reason: &str) {
    assert_eq!(answer.status(), 503, "{answer:?}");
    assert_eq!(
        answer.header("x-idlefirst-reason"),
        Some(reason),
        "{answer:?}"
    );
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}
