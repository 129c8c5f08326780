//! Who may change something over the admin API, how often, and how large a request may be; and that
//! no secret is said, by whichever way.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::thread::{Uid, set_thread_res_uid};
use serde_json::json;
use tests::{
    admin::{Admin, Answer},
    agent::{Agent, AgentOptions},
    crowd::{Crowd, SOON, frontend_address, pod_address, service},
    exact::ExactServer,
    place,
    run_dir::RunDir,
    wait::eventually,
};

const ADMIN_TCP: ([u8; 4], u16) = ([127, 0, 0, 1], 9090);
const TOKEN: &str = "the-right-token-of-this-test";
const WRONG: &str = "some-wrong-token-of-this-test";
const LEVEL: &str = "/v1/log-level";
const INFO: &str = "{\"level\": \"info\"}";

/// An agent with a token, and one service with a pod.
struct Stage {
    agent: Agent,
    _server: ExactServer,
    crowd: Crowd,
    dir: RunDir,
}

impl Stage {
    fn new(more: &[(&str, &str)]) -> Result<Self> {
        let crowd = Crowd::new(2)?;
        let dir = RunDir::new("token")?;
        let server = crowd.serve(0, 2, Duration::ZERO)?;
        fs::write(dir.path().join("token"), TOKEN)?;
        let token_file = dir.path().join("token").display().to_string();
        let mut environment = vec![("IDLEFIRST_ADMIN_TOKEN_FILE".to_owned(), token_file)];
        environment.extend(
            more.iter()
                .map(|(key, value)| ((*key).into(), (*value).into())),
        );
        let options = AgentOptions {
            admin_tcp: Some(ADMIN_TCP.into()),
            environment,
            ..AgentOptions::new(&crowd.netns, &crowd.cgroup)
        };
        Ok(Self {
            agent: options.start(&[service(0, 2, [0])])?,
            _server: server,
            crowd,
            dir,
        })
    }

    fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    /// Puts another token in force in one step, or none.
    fn change_token(&self, token: Option<&str>) -> Result<()> {
        let draft = self.dir.path().join("draft");
        match token {
            None => fs::remove_file(self.token_file())?,
            Some(token) => {
                fs::write(&draft, token)?;
                fs::rename(&draft, self.token_file())?;
            }
        }
        Ok(())
    }

    /// Over TCP, from inside the agent's namespace.
    fn put(&self, token: Option<&str>) -> Result<Answer> {
        let header = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let admin = Admin::Tcp(ADMIN_TCP.into());
        let header = header.unwrap_or_default();
        let send = || admin.send_with("PUT", LEVEL, &header, INFO);
        self.crowd.netns.run(send)
    }

    fn tcp(&self) -> Result<TcpStream> {
        let stream = self.crowd.netns.connect(ADMIN_TCP.into())?;
        stream.set_read_timeout(Some(2 * SOON))?;
        Ok(stream)
    }

    /// The command, over TCP.
    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = place::command(Some(&self.crowd.netns), None, self.agent.binary());
        command.env("IDLEFIRST_ADMIN", SocketAddr::from(ADMIN_TCP).to_string());
        Ok(command.args(arguments).output()?)
    }
}

/// Checks what a refusal says, and that it gives no token away.
fn assert_refused(answer: &Answer, status: u16, words: &str) -> Result<()> {
    ensure!(answer.status == status, "{answer:?}");
    let media_type = answer.header("content-type");
    ensure!(media_type == Some("application/problem+json"), "{answer:?}");
    ensure!(answer.body.contains(words), "{answer:?}");
    ensure!(!answer.body.contains(TOKEN), "{answer:?}");
    Ok(())
}

#[test]
fn over_tcp_the_token_is_asked_for_and_the_newest_one_counts() -> Result<()> {
    let stage = Stage::new(&[])?;
    let unnamed = stage.put(None)?;
    assert_refused(&unnamed, 401, "Authorization: Bearer")?;
    let challenge = unnamed.header("www-authenticate");
    assert_eq!(challenge, Some("Bearer realm=\"idlefirst\""));
    let wrong = stage.put(Some(WRONG))?;
    assert_refused(&wrong, 401, "not that of agent.admin_token_file")?;
    let challenge = wrong.header("www-authenticate").context("a challenge")?;
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
    assert_eq!(stage.put(Some(TOKEN))?.status, 200);
    // Whoever owns the socket needs none, and whoever reads does not either.
    assert_eq!(stage.agent.admin().send("PUT", LEVEL, INFO)?.status, 200);
    let read = stage
        .crowd
        .netns
        .run(|| Admin::Tcp(ADMIN_TCP.into()).get(LEVEL))?;
    assert_eq!(read.status, 200);

    let newer = "a-newer-token-of-this-test";
    stage.change_token(Some(newer))?;
    assert_refused(&stage.put(Some(TOKEN))?, 401, "not that")?;
    assert_eq!(stage.put(Some(newer))?.status, 200);
    for unusable in [Some("short"), None] {
        stage.change_token(unusable)?;
        assert_refused(&stage.put(Some(newer))?, 503, "cannot read its own token")?;
        assert_refused(&stage.put(None)?, 401, "Authorization")?;
    }
    assert_eq!(stage.agent.admin().send("PUT", LEVEL, INFO)?.status, 200);
    stage.agent.uninstall()
}

#[test]
fn many_at_once_with_the_right_token_are_all_let_in() -> Result<()> {
    let stage = Stage::new(&[])?;
    let answers = thread::scope(|scope| {
        let asking: Vec<_> = (0..40)
            .map(|_| scope.spawn(|| stage.put(Some(TOKEN))))
            .collect();
        let answers = asking.into_iter().map(|it| it.join().expect("no panic"));
        answers.collect::<Result<Vec<_>>>()
    })?;
    for answer in answers {
        ensure!(answer.status == 200, "{answer:?}");
    }
    stage.agent.uninstall()
}

#[test]
fn commands_send_the_token() -> Result<()> {
    let stage = Stage::new(&[])?;
    let backend = pod_address(0).to_string();
    let without = stage.run(&["drain", &backend])?;
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    ensure!(without.status.code() == Some(1), "{without:?}");
    ensure!(said.contains("--token-file"), "{said}");
    let token_file = stage.token_file().display().to_string();
    let with = stage.run(&["drain", &backend, "--token-file", &token_file])?;
    ensure!(with.status.success(), "{with:?}");
    let states = stage.agent.backends()?;
    assert_eq!(states[0].state, "draining");

    // A file that holds none is said to, where the token is needed.
    fs::write(stage.token_file(), "short")?;
    let bad = stage.run(&["undrain", &backend, "--token-file", &token_file])?;
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    ensure!(bad.status.code() == Some(1), "{bad:?}");
    ensure!(said.contains("has 5 characters, and one has 16"), "{said}");
    ensure!(
        stage
            .run(&["--token-file", &token_file, "status"])?
            .status
            .success()
    );
    stage.agent.uninstall()
}

#[test]
fn over_the_unix_socket_only_its_owner_and_root_change_anything() -> Result<()> {
    const NOBODY: u32 = 65534;
    let stage = Stage::new(&[])?;
    let Admin::Unix(socket) = stage.agent.admin() else {
        panic!("no unix socket")
    };
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    // A thread of its own, which alone changes its user.
    let as_nobody = |headers: &'static str, method: &'static str| -> Result<Answer> {
        let admin = stage.agent.admin();
        let ask = move || -> Result<Answer> {
            let nobody = Uid::from_raw(NOBODY);
            set_thread_res_uid(nobody, nobody, nobody)?;
            let body = if method == "GET" { "" } else { INFO };
            admin.send_with(method, LEVEL, headers, body)
        };
        thread::spawn(ask).join().expect("it does not panic")
    };
    assert_eq!(as_nobody("", "GET")?.status, 200);
    assert_refused(&as_nobody("", "PUT")?, 401, "unix socket, as its owner")?;
    let right = "Authorization: Bearer the-right-token-of-this-test\r\n";
    assert_eq!(as_nobody(right, "PUT")?.status, 200);
    assert_eq!(stage.agent.admin().send("PUT", LEVEL, INFO)?.status, 200);
    stage.agent.uninstall()?;

    let crowd = Crowd::new(1)?;
    let agent = AgentOptions::new(&crowd.netns, &crowd.cgroup).start(&[])?;
    let Admin::Unix(socket) = agent.admin() else {
        panic!("no unix socket")
    };
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    let ask = move || -> Result<Answer> {
        let nobody = Uid::from_raw(NOBODY);
        set_thread_res_uid(nobody, nobody, nobody)?;
        Admin::Unix(socket).send("PUT", LEVEL, INFO)
    };
    let answer = thread::spawn(ask).join().expect("it does not panic")?;
    assert_refused(&answer, 403, "only root and the user")?;
    agent.uninstall()
}

#[test]
fn guesses_and_floods_are_slowed_down_and_reads_are_not() -> Result<()> {
    let stage = Stage::new(&[])?;
    let tokens = (0..50).map(|_| stage.put(Some(WRONG)));
    let refused = tokens.filter_map(Result::ok).find(|it| it.status == 429);
    let refused = refused.context("fifty guesses in a row")?;
    assert_refused(&refused, 429, "too many wrong tokens")?;
    let wait: u64 = refused.header("retry-after").context("how long")?.parse()?;
    assert!((1..=10).contains(&wait), "{wait}");
    // Neither root on the socket is slowed down by it, nor, after a while, whoever has the token.
    assert_eq!(stage.agent.admin().send("PUT", LEVEL, INFO)?.status, 200);
    eventually(SOON, || -> Result<()> {
        let answer = stage.put(Some(TOKEN))?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    });

    let flood = || {
        let admin = stage.agent.admin();
        let mut answers = (0..2000).map(|_| admin.send("PUT", LEVEL, INFO));
        answers.find(|it| it.as_ref().is_ok_and(|it| it.status == 429))
    };
    let slowed = thread::scope(|scope| {
        let floods: Vec<_> = (0..4).map(|_| scope.spawn(flood)).collect();
        let read = (0..20).map(|_| stage.agent.admin().get("/metrics"));
        let read: Vec<_> = read.collect();
        for answer in read {
            ensure!(answer?.status == 200, "a read was refused");
        }
        let slowed = floods.into_iter().filter_map(|it| it.join().ok()?);
        slowed.last().context("nobody was slowed down")?
    })?;
    assert_refused(&slowed, 429, "too many changes")?;
    assert!(slowed.header("retry-after").is_some(), "{slowed:?}");
    eventually(SOON, || -> Result<()> {
        let answer = stage.agent.admin().send("PUT", LEVEL, INFO)?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    });
    stage.agent.uninstall()
}

#[test]
fn what_is_too_large_is_refused() -> Result<()> {
    let stage = Stage::new(&[])?;
    let admin = stage.agent.admin();
    let body = format!(
        "{{\"level\": \"info\", \"pad\": \"{}\"}}",
        "x".repeat(70_000)
    );
    let answer = admin.send("PUT", LEVEL, &body)?;
    assert_refused(&answer, 413, "length limit")?;
    let long = format!("X-Long: {}\r\n", "x".repeat(20_000));
    match admin.send_with("GET", "/healthz", &long, "") {
        Ok(answer) => assert_eq!(answer.status, 431),
        // Not all of it is read, so a reset may overtake the answer.
        Err(error) => {
            let cause = error.downcast_ref::<io::Error>().map(io::Error::kind);
            assert_eq!(cause, Some(io::ErrorKind::ConnectionReset), "{error:#}");
        }
    }
    let many: String = (0..120).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_eq!(admin.send_with("GET", "/healthz", &many, "")?.status, 431);
    let enough: String = (0..60).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_eq!(admin.send_with("GET", "/healthz", &enough, "")?.status, 200);
    stage.agent.uninstall()
}

#[test]
fn a_head_that_trickles_is_not_waited_for() -> Result<()> {
    let stage = Stage::new(&[])?;
    let mut trickle = stage.tcp()?;
    trickle.set_nonblocking(true)?;
    let begun = Instant::now();
    let mut head = b"GET /healthz HTTP/1.1\r\nX: "
        .iter()
        .chain(std::iter::repeat(&b'x'));
    let ended = eventually(2 * SOON, || -> Result<Duration> {
        let written = trickle.write(&[*head.next().context("endless")?]);
        let mut byte = [0];
        let is_over = match trickle.read(&mut byte) {
            Ok(read) => read == 0 || byte == *b"H",
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        ensure!(is_over || written.is_err(), "it is still waited for");
        Ok(begun.elapsed())
    });
    assert!(ended < Duration::from_secs(18), "after {ended:?}");
    assert!(ended > Duration::from_secs(10), "after {ended:?}");
    stage.agent.uninstall()
}

/// Every secret that anybody sends in [`no_secret_is_said`].
const SECRETS: [&str; 5] = [
    TOKEN,
    WRONG,
    "secret-of-a-request",
    "secret-of-a-cookie",
    "secret-of-a-malformed-one",
];

#[test]
fn no_secret_is_said() -> Result<()> {
    for format in ["text", "json"] {
        let stage = Stage::new(&[("IDLEFIRST_LOG", "trace"), ("IDLEFIRST_LOG_FORMAT", format)])?;
        let listener = stage
            .crowd
            .netns
            .run(|| TcpListener::bind(pod_address(1)))?;
        let requests = service(1, 1, [1])
            .with("protocol", json!("http"))
            .with("admission", json!("request"))
            .with("health", json!({"probe": "none"}));
        stage.agent.reload(&[service(0, 2, [0]), requests])?;
        let pod = thread::spawn(move || answer_one(&listener));
        for head in [
            "GET /x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret-of-a-request\r\n\
             Cookie: session=secret-of-a-cookie\r\nConnection: close\r\n\r\n",
            "GET /x HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer secret-of-a-malformed-one\r\n\r\n",
        ] {
            let mut client = stage.crowd.dial(frontend_address(1))?;
            client.write_all(head.as_bytes())?;
            let mut answer = String::new();
            client.read_to_string(&mut answer)?;
            let status = if head.contains("malformed") {
                "400"
            } else {
                "200"
            };
            ensure!(answer.contains(status), "{answer}");
        }
        let asked = pod.join().expect("it does not panic")?;
        ensure!(asked.contains("secret-of-a-request"), "{asked}");

        let mut said = vec![stage.put(Some(WRONG))?.body];
        for token in [TOKEN, WRONG] {
            let header = format!("Authorization: Bearer {token}\r\n");
            let post = stage
                .crowd
                .netns
                .run(|| Admin::Tcp(ADMIN_TCP.into()).send_with("POST", "/v1/audit", &header, ""))?;
            said.push(post.body);
        }
        said.extend(all_answers(&stage.agent.admin())?);
        for tokens in ["with a blank the-right-token", "the-right"] {
            fs::write(stage.token_file(), tokens)?;
            let answer = stage.put(Some(TOKEN))?;
            ensure!(answer.status == 503, "{answer:?}");
        }
        eventually(SOON, || -> Result<()> {
            let log = stage.agent.stderr();
            ensure!(log.contains("nobody can change anything by token"), "{log}");
            ensure!(log.contains("its token is wrong"), "{log}");
            Ok(())
        });
        said.push(stage.agent.stderr());
        for text in &said {
            let shown = SECRETS.iter().find(|secret| text.contains(**secret));
            ensure!(shown.is_none(), "{shown:?} is in:\n{text}");
            ensure!(!text.contains("the-right"), "{text}");
        }
        stage.agent.uninstall()?;
    }
    Ok(())
}

/// What every route that only reads answers.
fn all_answers(admin: &Admin) -> Result<Vec<String>> {
    let document = admin.get_json("/openapi.json")?;
    let mut answers = vec![document.to_string()];
    for (path, methods) in document["paths"].as_object().context("paths")? {
        if path == "/v1/events" || methods["get"].is_null() {
            continue;
        }
        let path = path.replace("{namespace}/{name}", "default/service-1");
        let path = path.replace("maps/{name}", "maps/BACKENDS");
        let answer = admin.get(&path)?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
        answers.push(answer.body);
    }
    Ok(answers)
}

/// Serves one request; gives its head.
fn answer_one(listener: &TcpListener) -> Result<String> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(SOON))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")?;
    Ok(String::from_utf8(head)?)
}

#[test]
fn an_agent_whose_token_cannot_be_used_does_not_start() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let dir = RunDir::new("token")?;
    let file = dir.path().join("token");
    let config = "source: file\nagent: {cgroup: {cgroup}, pin_path: {pin_path}, \
                  admin: [\"{admin}\"], metrics: none}\n";
    for (content, words) in [
        (None, "cannot read the token file"),
        (Some("hunter2"), "has 7 characters, and one has 16 to 1024"),
        (
            Some("a token with blanks in it"),
            "other than visible ASCII",
        ),
    ] {
        if let Some(content) = content {
            fs::write(&file, content)?;
        }
        let options = AgentOptions {
            environment: vec![(
                "IDLEFIRST_ADMIN_TOKEN_FILE".to_owned(),
                file.display().to_string(),
            )],
            ..AgentOptions::new(&crowd.netns, &crowd.cgroup)
        };
        let failed = options.start_expecting_failure(config)?;
        let said = failed.stderr;
        for word in [words, "agent.admin_token_file", &file.display().to_string()] {
            ensure!(said.contains(word), "no {word:?} in:\n{said}");
        }
        ensure!(
            !said.contains("hunter2") && !said.contains("blanks"),
            "{said}"
        );
    }
    // Who may read it is told, and kept from nobody: see what the kubelet makes of a Secret.
    fs::write(&file, TOKEN)?;
    for (mode, is_told) in [(0o644, true), (0o400, false)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        let options = AgentOptions {
            environment: vec![(
                "IDLEFIRST_ADMIN_TOKEN_FILE".to_owned(),
                file.display().to_string(),
            )],
            ..AgentOptions::new(&crowd.netns, &crowd.cgroup)
        };
        let agent = options.start(&[])?;
        let told = agent.stderr().contains("may read or write the token file");
        assert_eq!(told, is_told, "{}", agent.stderr());
        agent.uninstall()?;
    }
    Ok(())
}
