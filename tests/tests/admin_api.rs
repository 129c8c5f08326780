//! The admin API of a running agent: its routes and their field names, its refusals, what it does
//! with clients that misbehave.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    admin::{Admin, Answer},
    agent::{Agent, AgentOptions},
    crowd::{Crowd, SOON, frontend_address, pod_address, service},
    exact::ExactServer,
    wait::{eventually, eventually_eq},
};

const ADMIN_TCP: ([u8; 4], u16) = ([127, 0, 0, 1], 9090);
const METRICS_TCP: ([u8; 4], u16) = ([127, 0, 0, 1], 9102);

/// An agent with every kind of listener, and one service with a pod.
struct Stage {
    agent: Agent,
    _server: ExactServer,
    crowd: Crowd,
}

impl Stage {
    fn new() -> Result<Self> {
        let crowd = Crowd::new(1)?;
        let server = crowd.serve(0, 2, Duration::ZERO)?;
        let metrics = SocketAddr::from(METRICS_TCP).to_string();
        let options = AgentOptions {
            admin_tcp: Some(ADMIN_TCP.into()),
            environment: vec![("IDLEFIRST_METRICS".to_owned(), metrics)],
            ..AgentOptions::new(&crowd.netns, &crowd.cgroup)
        };
        Ok(Self {
            agent: options.start(&[service(0, 2, [0])])?,
            _server: server,
            crowd,
        })
    }

    /// Both ways in; TCP from inside the agent's namespace.
    fn over_both<T: Send>(&self, ask: impl Fn(Admin) -> T + Sync) -> [T; 2] {
        let tcp = || self.crowd.netns.run(|| ask(Admin::Tcp(ADMIN_TCP.into())));
        [ask(self.agent.admin()), tcp()]
    }

    fn tcp(&self) -> Result<TcpStream> {
        let stream = self.crowd.netns.connect(ADMIN_TCP.into())?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    }

    /// Asks something harmless, which must not take long.
    fn assert_answers(&self, admin: Admin) -> Result<()> {
        let begun = Instant::now();
        let answer = self.crowd.netns.run(|| admin.get("/v1/services"))?;
        ensure!(answer.status == 200, "{answer:?}");
        ensure!(
            begun.elapsed() < Duration::from_secs(5),
            "{admin} hung for {:?}",
            begun.elapsed()
        );
        Ok(())
    }
}

#[test]
fn every_route_has_the_fields_of_the_contract_over_both_sockets() -> Result<()> {
    let stage = Stage::new()?;
    let _held = stage.crowd.dial(frontend_address(0))?;
    let lists: [(&str, &str, &[&str]); 5] = [
        (
            "/v1/services",
            "",
            &[
                "namespace",
                "name",
                "frontends",
                "protocol",
                "admission",
                "strategy",
                "max_inflight",
                "backends",
                "idle",
                "available",
                "unhealthy",
                "inflight",
                "waiters",
            ],
        ),
        (
            "/v1/backends",
            "",
            &[
                "address",
                "services",
                "state",
                "inflight",
                "granted",
                "max_inflight",
                "weight",
                "response_time_us",
                "failures",
                "node",
                "zone",
            ],
        ),
        (
            "/v1/connections?service=service-0",
            "/connections",
            &[
                "client",
                "frontend",
                "backend",
                "via",
                "service",
                "age_ms",
                "holds_slot",
            ],
        ),
        ("/v1/maps", "", &["name", "holds", "entries", "capacity"]),
        (
            "/v1/queues",
            "",
            &[
                "namespace",
                "name",
                "waiters",
                "size",
                "timeout_ms",
                "oldest_ms",
                "accepted",
                "queued",
                "retried",
                "refused",
            ],
        ),
    ];
    let objects: [(&str, &[&str]); 8] = [
        ("/healthz", &["status"]),
        ("/readyz", &["status"]),
        (
            "/version",
            &["version", "map_abi", "programs", "kernel_release", "cgroup"],
        ),
        (
            "/v1/services/default/service-0",
            &[
                "namespace",
                "name",
                "frontends",
                "settings",
                "backends",
                "counters",
                "inflight",
            ],
        ),
        (
            "/v1/config",
            &[
                "file",
                "generation",
                "applied",
                "rejected",
                "problems",
                "warnings",
            ],
        ),
        ("/v1/log-level", &["level"]),
        ("/v1/stats", &["active_queues", "total", "services"]),
        ("/cache-metrics", &["cache_metrics", "pool_metrics"]),
    ];
    let outcomes = stage.over_both(|admin| -> Result<()> {
        for (path, pointer, fields) in lists {
            let body = admin.get_json(path)?;
            let first = body.pointer(&format!("{pointer}/0"));
            assert_has(
                path,
                first.with_context(|| format!("{path}: {body}"))?,
                fields,
            )?;
        }
        for (path, fields) in objects {
            assert_has(path, &admin.get_json(path)?, fields)?;
        }
        for map in admin.get_json("/v1/maps")?.as_array().context("a list")? {
            let path = format!("/v1/maps/{}", map["name"].as_str().context("a name")?);
            assert_has(
                &path,
                &admin.get_json(&path)?,
                &["name", "total", "truncated", "entries"],
            )?;
        }
        Ok(())
    });
    outcomes.into_iter().collect::<Result<()>>()?;
    stage.agent.stop()
}

fn assert_has(path: &str, object: &Value, fields: &[&str]) -> Result<()> {
    let object = object
        .as_object()
        .with_context(|| format!("{path}: {object}"))?;
    let missing: Vec<_> = fields
        .iter()
        .filter(|field| !object.contains_key(**field))
        .collect();
    ensure!(missing.is_empty(), "{path} has no {missing:?}: {object:?}");
    let camel = object
        .keys()
        .find(|key| key.chars().any(|c| c.is_ascii_uppercase() || c == '-'));
    ensure!(camel.is_none(), "{path}: {camel:?} is no snake_case");
    Ok(())
}

#[test]
fn what_is_in_the_answers_is_so() -> Result<()> {
    let stage = Stage::new()?;
    let admin = stage.agent.admin();
    assert_eq!(admin.get_json("/healthz")?, json!({"status": "ok"}));
    assert_eq!(admin.get_json("/readyz")?, json!({"status": "ok"}));
    let version = admin.get_json("/version")?;
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        version["cgroup"],
        stage.crowd.cgroup.path().display().to_string()
    );
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    assert_eq!(version["kernel_release"], release.trim());
    let programs = version["programs"].as_array().context("a list")?;
    let names: BTreeSet<_> = programs
        .iter()
        .filter_map(|program| program["name"].as_str())
        .collect();
    for name in [
        "idle_connect4",
        "idle_connect6",
        "idle_name4",
        "idle_name6",
        "idle_release",
        "idle_track",
    ] {
        assert!(names.contains(name), "{names:?}");
    }
    assert!(
        programs
            .iter()
            .all(|program| program["tag"].as_str().is_some_and(|tag| tag.len() == 16))
    );

    let detail = admin.get_json("/v1/services/default/service-0")?;
    let limit = &detail["settings"]["max_inflight"];
    assert_eq!(*limit, json!({"value": 2, "origin": "service"}));
    assert_eq!(
        detail["settings"]["strategy"],
        json!({"value": "idle-first", "origin": "built-in"})
    );
    let config = admin.get_json("/v1/config")?;
    assert_eq!(
        config["file"],
        stage.agent.config_path().display().to_string()
    );
    assert_eq!(config["applied"], "in_force");
    let Admin::Unix(socket) = &admin else {
        panic!("a unix socket, not {admin}")
    };
    assert_eq!(fs::metadata(socket)?.permissions().mode() & 0o777, 0o660);
    stage.agent.stop()
}

#[test]
fn the_openapi_document_lists_exactly_the_routes() -> Result<()> {
    let stage = Stage::new()?;
    let admin = stage.agent.admin();
    let document = admin.get_json("/openapi.json")?;
    assert!(
        document["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3."))
    );
    let paths = document["paths"].as_object().context("paths")?;
    let listed: BTreeSet<&str> = paths.keys().map(String::as_str).collect();
    let expected = [
        "/healthz",
        "/readyz",
        "/version",
        "/metrics",
        "/openapi.json",
        "/v1/config",
        "/v1/log-level",
        "/v1/services",
        "/v1/services/{namespace}/{name}",
        "/v1/services/{namespace}/{name}/backends/{address}/drain",
        "/v1/services/{namespace}/{name}/backends/{address}/undrain",
        "/v1/queues",
        "/v1/stats",
        "/v1/events",
        "/cache-metrics",
        "/v1/affinity",
        "/v1/audit",
        "/v1/backends",
        "/v1/connections",
        "/v1/maps",
        "/v1/maps/{name}",
    ];
    assert_eq!(listed, expected.into());
    for (path, operations) in paths {
        let path = path.replace("/v1/maps/{name}", "/v1/maps/BACKENDS");
        let path = path.replace("{namespace}/{name}", "default/service-0");
        let path = path.replace("{address}", &pod_address(0).to_string());
        if path == "/v1/events" {
            // What does not end is tried elsewhere.
            continue;
        }
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH"] {
            let answer = admin.send(method, &path, "{\"level\": \"info\"}")?;
            let documented = operations.get(method.to_lowercase()).is_some();
            let expected = if documented { 200 } else { 405 };
            assert_eq!(answer.status, expected, "{method} {path}: {answer:?}");
        }
    }
    stage.agent.stop()
}

#[test]
fn refusals_are_problem_json() -> Result<()> {
    let stage = Stage::new()?;
    let requests = [
        ("GET", "/", "", 404, "/openapi.json"),
        ("GET", "/v1", "", 404, "/openapi.json"),
        ("GET", "/v1/services/default/none", "", 404, "default/none"),
        ("GET", "/v1/services/default/No_Name", "", 400, "No_Name"),
        ("GET", "/v1/maps/NONE", "", 404, "BACKENDS"),
        (
            "GET",
            "/v1/connections?service=none",
            "",
            404,
            "default/none",
        ),
        ("GET", "/v1/connections?service=No_Name", "", 400, "No_Name"),
        ("GET", "/v1/connections?limit=many", "", 400, "limit"),
        ("GET", "/v1/connections?pod=x", "", 400, "pod"),
        ("GET", "/v1/maps/BACKENDS?limit=-1", "", 400, "limit"),
        ("POST", "/v1/services", "{}", 405, "POST"),
        (
            "DELETE",
            "/v1/services/default/service-0",
            "",
            405,
            "DELETE",
        ),
        ("PUT", "/v1/backends", "{}", 405, "PUT"),
    ];
    let outcomes = stage.over_both(|admin| -> Result<()> {
        for (method, path, body, status, words) in requests {
            let answer = admin.send(method, path, body)?;
            assert_problem(&answer, status, words).with_context(|| format!("{method} {path}"))?;
        }
        Ok(())
    });
    outcomes.into_iter().collect::<Result<()>>()?;
    stage.agent.stop()
}

fn assert_problem(answer: &Answer, status: u16, words: &str) -> Result<()> {
    ensure!(answer.status == status, "{answer:?}");
    let head = answer.head.to_lowercase();
    ensure!(
        head.contains("content-type: application/problem+json"),
        "{answer:?}"
    );
    let problem = answer.json()?;
    ensure!(problem["status"] == status, "{problem}");
    ensure!(problem["type"] == "about:blank", "{problem}");
    ensure!(
        problem["title"]
            .as_str()
            .is_some_and(|title| !title.is_empty()),
        "{problem}"
    );
    ensure!(
        problem["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains(words)),
        "{problem}"
    );
    Ok(())
}

#[test]
fn the_log_level_changes_over_the_unix_socket_only() -> Result<()> {
    let stage = Stage::new()?;
    let put =
        |body: &'static str| stage.over_both(move |admin| admin.send("PUT", "/v1/log-level", body));
    let level = || stage.agent.admin().get_json("/v1/log-level");
    let before = level()?;
    let [unix, tcp] = put("{\"level\": \"debug\"}");
    assert_problem(&tcp?, 403, "unix socket")?;
    assert_ne!(before, level()?);
    assert_eq!(unix?.json()?, json!({"level": "debug"}));
    assert_eq!(level()?, json!({"level": "debug"}));
    eventually(SOON, || -> Result<()> {
        let said = stage.agent.stderr();
        ensure!(said.contains("log level changed"), "{said}");
        Ok(())
    });

    for (body, status) in [
        ("{\"level\": \"loud\"}", 422),
        ("{\"level\": \"info\", \"more\": 1}", 422),
        ("{}", 422),
        ("not JSON", 400),
        ("", 415),
    ] {
        let [unix, tcp] = put(body);
        assert_problem(&unix?, status, "{\"level\": \"info\"}").with_context(|| body.to_owned())?;
        assert_problem(&tcp?, 403, "unix socket")?;
    }
    assert_eq!(level()?, json!({"level": "debug"}));
    stage.agent.stop()
}

#[test]
fn garbage_and_half_requests_do_not_keep_others_waiting() -> Result<()> {
    let stage = Stage::new()?;
    let tcp = || Admin::Tcp(ADMIN_TCP.into());
    let big = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 200_000]].concat();
    let garbage: [&[u8]; 5] = [
        b"\0\xff\x16\x03\x01garbage\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PUT /v1/log-level HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        &big,
    ];
    for bytes in garbage {
        let mut stream = stage.tcp()?;
        // It may hang up before all is sent.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        // A reset may overtake the answer if not all was read.
        let refused = answer.starts_with("HTTP/1.1 4") || answer.is_empty();
        assert!(refused, "{answer} {read:?}");
        stage.assert_answers(tcp())?;
    }

    // As many as fill the listener: the other one does not mind, and this one recovers.
    let mut halves = Vec::new();
    for half in 0..200 {
        let mut stream = stage.tcp()?;
        let bytes: &[u8] = match half % 3 {
            0 => b"GET /v1/ser",
            1 => b"PUT /v1/log-level HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
            _ => b"",
        };
        stream.write_all(bytes)?;
        halves.push(stream);
        if half == 40 {
            stage.assert_answers(tcp())?;
        }
    }
    stage.assert_answers(stage.agent.admin())?;
    drop(halves);
    eventually(SOON, || stage.assert_answers(tcp()));

    // One that asks and goes, again and again.
    for _ in 0..200 {
        stage
            .tcp()?
            .write_all(b"GET /v1/maps/LEAVES HTTP/1.1\r\nHost: x\r\n\r\n")?;
    }
    stage.assert_answers(tcp())?;
    assert!(
        !stage.agent.stderr().contains("panicked"),
        "{}",
        stage.agent.stderr()
    );
    stage.agent.stop()
}

#[test]
fn the_metrics_address_serves_metrics_and_nothing_else() -> Result<()> {
    let stage = Stage::new()?;
    let metrics = Admin::Tcp(METRICS_TCP.into());
    stage.crowd.netns.run(|| -> Result<()> {
        let answer = metrics.get("/metrics")?;
        ensure!(answer.status == 200, "{answer:?}");
        let head = answer.head.to_lowercase();
        ensure!(
            head.contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        assert_problem(&metrics.get("/v1/services")?, 404, "/v1/services")?;
        assert_problem(
            &metrics.send("PUT", "/v1/log-level", "{}")?,
            404,
            "/v1/log-level",
        )
    })?;
    stage.agent.stop()
}

#[test]
fn clients_that_say_nothing_keep_nobody_out() -> Result<()> {
    let stage = Stage::new()?;
    let mut follower = stage.tcp()?;
    follower.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")?;
    eventually_eq(SOON, true, || {
        follower.read(&mut [0; 4096]).is_ok_and(|read| read > 0)
    });
    let mut silent = Vec::new();
    for number in 0..400 {
        let mut client = stage.tcp()?;
        if number % 2 == 0 {
            client.write_all(b"GET /heal")?;
        }
        silent.push(client);
    }
    let probe = Admin::Tcp(ADMIN_TCP.into());
    let begun = Instant::now();
    stage.crowd.netns.run(|| -> Result<()> {
        for _ in 0..10 {
            let answer = probe.get("/healthz")?;
            ensure!(answer.status == 200, "{answer:?}");
        }
        Ok(())
    })?;
    // An idle connection is closed by itself after fifteen seconds.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    assert!(
        silent[0].read(&mut [0; 16]).is_ok_and(|read| read == 0),
        "the one that was silent longest is still served"
    );
    follower.set_read_timeout(Some(Duration::from_millis(100)))?;
    let is_followed = match follower.read(&mut [0; 4096]) {
        Ok(read) => read > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    };
    assert!(is_followed, "one who was being answered was cut off");
    stage.agent.stop()
}

#[test]
fn an_agent_with_api_clients_connected_ends_at_once() -> Result<()> {
    let stage = Stage::new()?;
    let mut idle = stage.tcp()?;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")?;
    eventually_eq(SOON, true, || {
        idle.read(&mut [0; 4096]).is_ok_and(|read| read > 0)
    });
    let mut half = stage.tcp()?;
    half.write_all(b"GET /heal")?;
    let begun = Instant::now();
    stage.agent.stop()?;
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        begun.elapsed()
    );
    Ok(())
}
