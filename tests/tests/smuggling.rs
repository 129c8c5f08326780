//! Nobody gets anything past the agent that the agent does not see as it is: what is malformed or
//! can be read in two ways is refused or ends the connection, and reaches no pod twice.
//!
//! Clients send raw bytes; the pod of each scene records whatever comes to it.

#![forbid(unsafe_code)]

use std::{
    fmt::Write as _,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    http::Http,
    process::resident,
    scene::{Scene, SceneOptions},
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// What an attacker wants a pod to take for a request of its own.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: hello\r\n\r\n";

/// What must not be passed on in any form: the head after its first line, and what follows.
const MALFORMED: &[(&str, &str)] = &[
    (
        "both lengths",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "both lengths, the other way round",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    ),
    (
        "two lengths",
        "Content-Length: 4\r\nContent-Length: 5\r\n\r\nbodyx",
    ),
    ("two lengths in one", "Content-Length: 4, 5\r\n\r\nbodyx"),
    ("a negative length", "Content-Length: -1\r\n\r\n"),
    ("a length with a sign", "Content-Length: +4\r\n\r\nbody"),
    ("a length in hexadecimal", "Content-Length: 0x4\r\n\r\nbody"),
    (
        "an enormous length",
        "Content-Length: 99999999999999999999\r\n\r\n",
    ),
    ("a length with text", "Content-Length: 4 bytes\r\n\r\nbody"),
    (
        "chunked, but not last",
        "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    ),
    (
        "an unknown coding",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked twice",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    ),
    (
        "a folded line",
        "X-Folded: one\r\n two\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "a folded coding",
        "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    ),
    ("a space before the colon", "Content-Length : 4\r\n\r\nbody"),
    (
        "a space before the name",
        " X-First: 1\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "a line without a colon",
        "Nothing\r\nContent-Length: 0\r\n\r\n",
    ),
    ("an empty name", ": nothing\r\nContent-Length: 0\r\n\r\n"),
    (
        "a NUL in a value",
        "X-Nul: a\0b\r\nContent-Length: 0\r\n\r\n",
    ),
    ("a NUL in a name", "X-\0Nul: a\r\nContent-Length: 0\r\n\r\n"),
    (
        "a bare CR in a value",
        "X-Cr: a\rb\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "a bare CR that hides a header",
        "X-Cr: a\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
    ),
];

/// First lines with the rest of a head.
const MALFORMED_STARTS: &[(&str, &str)] = &[
    ("no version", "GET /\r\nHost: hello\r\n\r\n"),
    (
        "an unknown version",
        "GET / HTTP/9.9\r\nHost: hello\r\n\r\n",
    ),
    ("no target", "GET HTTP/1.1\r\nHost: hello\r\n\r\n"),
    (
        "a space in the target",
        "GET /a b HTTP/1.1\r\nHost: hello\r\n\r\n",
    ),
    (
        "a NUL in the target",
        "GET /\0 HTTP/1.1\r\nHost: hello\r\n\r\n",
    ),
    (
        "a method that is none",
        "G(T / HTTP/1.1\r\nHost: hello\r\n\r\n",
    ),
    (
        "no HTTP at all",
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03\r\n\r\n",
    ),
];

/// What is as clear as it is wrong: the connection may go on after it.
const WRONG: &[(&str, &str)] = &[
    (
        "two hosts",
        "GET / HTTP/1.1\r\nHost: hello\r\nHost: other\r\n\r\n",
    ),
    ("no host", "GET / HTTP/1.1\r\nAccept: */*\r\n\r\n"),
    (
        "a tunnel",
        "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n",
    ),
    (
        "an unknown expectation",
        "POST / HTTP/1.1\r\nHost: hello\r\nExpect: 200-ok\r\n\r\n",
    ),
];

/// Chunked bodies that are wrong, after a head that is right.
const MALFORMED_CHUNKS: &[(&str, &str)] = &[
    ("a size that is none", "x\r\n"),
    ("a negative size", "-1\r\n\r\n"),
    ("a size with 0x", "0x2\r\nhi\r\n0\r\n\r\n"),
    ("an enormous size", "ffffffffffffffffff\r\n"),
    ("a chunk longer than it says", "2\r\nhello\r\n0\r\n\r\n"),
    ("a chunk without its end", "2\r\nhi0\r\n\r\n"),
];

#[test]
fn malformed_heads_are_refused_and_reach_no_pod() -> Result<()> {
    let scene = scene()?;
    for (what, rest) in MALFORMED {
        let request = format!("POST / HTTP/1.1\r\nHost: hello\r\n{rest}{SMUGGLED}");
        assert_refused(&scene, &request).with_context(|| (*what).to_owned())?;
    }
    for (what, request) in MALFORMED_STARTS {
        let request = format!("{request}{SMUGGLED}");
        assert_refused(&scene, &request).with_context(|| (*what).to_owned())?;
    }
    for (what, request) in WRONG {
        let client = Http::new(scene.dial()?);
        client.send(request)?;
        client.finish()?;
        ensure!(is_refused(client)?, "{what} was not refused");
    }
    scene.assert_no_arrival();
    assert_eq!(scene.queue().queued, 0);
    scene.finish()
}

#[test]
fn lines_that_end_in_a_bare_lf_hide_nothing() -> Result<()> {
    let scene = scene()?;
    for request in [
        "GET / HTTP/1.1\nHost: hello\n\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: hello\r\nX: y\nTransfer-Encoding: chunked\r\n\
         Content-Length: 4\r\n\r\n0\r\n\r\n"
            .to_owned(),
        format!("GET / HTTP/1.1\r\nHost: hello\r\nX: y\n\n{SMUGGLED}"),
    ] {
        assert_at_most_once(&scene, &request).with_context(|| format!("{request:?}"))?;
    }
    scene.finish()
}

#[test]
fn malformed_chunks_end_the_request_and_nothing_follows_it() -> Result<()> {
    let scene = scene()?;
    for (what, chunks) in MALFORMED_CHUNKS {
        let client = Http::new(scene.dial()?);
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: hello\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{SMUGGLED}"
        ))?;
        // The pod may have the head; it hears of the broken body by the connection's end.
        let seen = everything_the_pod_sees(&scene, client)?;
        ensure!(!seen.contains("smuggled"), "{what}: the pod saw {seen}");
        ensure!(!seen.contains("0\r\n\r\n"), "{what}: complete: {seen}");
        scene.wait_inflight(0);
    }
    scene.finish()
}

#[test]
fn a_body_is_a_body_whatever_it_looks_like() -> Result<()> {
    let scene = scene()?;
    let mut client = Http::new(scene.dial()?);
    let length = SMUGGLED.len();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: hello\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"
    ))?;
    let mut pod = Http::new(scene.accept_any()?.1);
    assert_eq!(pod.receive()?.text(), SMUGGLED);
    pod.send(OK)?;
    assert_eq!(client.receive()?.status(), 200);
    client.send(format!(
        "GET / HTTP/1.1\r\nHost: hello\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"
    ))?;
    assert_eq!(pod.receive()?.text(), SMUGGLED);
    pod.send(OK)?;
    assert_eq!(client.receive()?.status(), 200);
    drop((client, pod));
    scene.finish()
}

#[test]
fn what_a_pod_says_beyond_its_answer_reaches_no_other_client() -> Result<()> {
    let scene = scene()?;
    let mut victim = Http::new(scene.dial()?);
    let mut client = Http::new(scene.dial()?);
    client.send("GET /first HTTP/1.1\r\nHost: hello\r\n\r\n")?;
    let mut pod = Http::new(scene.accept_any()?.1);
    pod.receive()?;
    pod.send(format!(
        "{OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    ))?;
    assert_eq!(client.receive()?.text(), "ok");
    scene.wait_inflight(0);
    victim.send("GET /second HTTP/1.1\r\nHost: hello\r\n\r\n")?;
    // Over another connection: this one is not to be trusted.
    let mut second = Http::new(scene.accept_any()?.1);
    assert_eq!(second.receive()?.start, "GET /second HTTP/1.1");
    second.send(OK)?;
    assert_eq!(victim.receive()?.text(), "ok");
    drop((client, victim, pod, second));
    scene.finish()
}

#[test]
fn answers_that_can_be_read_in_two_ways_are_not_passed_on() -> Result<()> {
    let scene = scene()?;
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX-Nul: a\0b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 2\r\n\r\nok",
        "nothing like HTTP\r\n\r\n",
    ] {
        let mut client = Http::new(scene.dial()?);
        client.send("POST / HTTP/1.1\r\nHost: hello\r\nContent-Length: 0\r\n\r\n")?;
        let mut pod = Http::new(scene.accept_any()?.1);
        pod.receive()?;
        pod.send(answer)?;
        let heard = client.receive()?;
        ensure!(heard.status() == 502, "{answer:?} became {heard:?}");
        drop((client, pod));
        scene.wait_inflight(0);
    }
    scene.finish()
}

#[test]
fn huge_heads_are_refused_and_cost_the_agent_no_more_than_their_limit() -> Result<()> {
    const CLIENTS: usize = 16;
    const SENT_AT_MOST: usize = 8 << 20;
    const AGENT_GROWS_BY: usize = 16 << 20;
    let scene = scene()?;
    let before = resident(scene.agent().pid())?;
    let mut many = String::new();
    for number in 0..100_000 {
        write!(many, "X-{number}: y\r\n")?;
    }
    let line = vec![b'y'; SENT_AT_MOST];
    for head in [
        [
            b"GET / HTTP/1.1\r\nHost: hello\r\nX-Long: ".as_slice(),
            &line,
        ]
        .concat(),
        [b"GET /".as_slice(), &line].concat(),
        [
            b"GET / HTTP/1.1\r\nHost: hello\r\n".as_slice(),
            many.as_bytes(),
        ]
        .concat(),
    ] {
        for _ in 0..CLIENTS {
            let client = Http::new(scene.dial()?);
            // The agent stops reading long before, and says so or closes.
            let sent = client.send(&head);
            ensure!(
                sent.is_err() || is_refused(client)?,
                "it was read to its end"
            );
        }
    }
    let grown = resident(scene.agent().pid())?.saturating_sub(before);
    assert!(grown < AGENT_GROWS_BY, "the agent grew by {grown} bytes");
    scene.assert_no_arrival();
    scene.finish()
}

#[test]
fn huge_chunk_extensions_and_trailers_are_refused() -> Result<()> {
    const SENT_AT_MOST: usize = 8 << 20;
    let scene = scene()?;
    let long = vec![b'y'; SENT_AT_MOST];
    for start in ["1;", "0\r\nX-Long: "] {
        let client = Http::new(scene.dial()?);
        client.send("POST / HTTP/1.1\r\nHost: hello\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        client.send(start)?;
        let sent = client.send(&long);
        let seen = everything_the_pod_sees(&scene, client)?;
        ensure!(
            sent.is_err() || seen.len() < SENT_AT_MOST,
            "{start:?} was passed on"
        );
        scene.wait_inflight(0);
    }
    scene.finish()
}

#[test]
fn heads_that_come_slowly_hold_no_slot_and_are_not_waited_for_for_ever() -> Result<()> {
    const CLIENTS: usize = 20;
    // Ten seconds, and a tick or two of the agent's.
    const AT_MOST: Duration = Duration::from_secs(22);
    let scene = scene()?;
    let slow: Vec<_> = (0..CLIENTS)
        .map(|_| -> Result<TcpStream> {
            let mut client = scene.dial()?;
            client.write_all(b"GET / HTTP/1.1\r\nHost: he")?;
            client.set_read_timeout(Some(Duration::from_millis(500)))?;
            Ok(client)
        })
        .collect::<Result<_>>()?;
    scene.wait_waiters(0);
    assert_eq!(scene.inflight(), 0);
    // They are in nobody's way.
    let mut client = Http::new(scene.dial()?);
    client.send("GET / HTTP/1.1\r\nHost: hello\r\n\r\n")?;
    let mut pod = Http::new(scene.accept_any()?.1);
    pod.receive()?;
    pod.send(OK)?;
    assert_eq!(client.receive()?.status(), 200);
    drop((client, pod));

    // A byte now and then does not help.
    let begun = Instant::now();
    let mut left = slow;
    while !left.is_empty() {
        ensure!(begun.elapsed() < AT_MOST, "{} are still there", left.len());
        left.retain_mut(|client| {
            let _ = client.write_all(b"l");
            match client.read(&mut [0; 512]) {
                Err(error) => error.kind() == ErrorKind::WouldBlock,
                Ok(0) => false,
                // A refusal, before the end.
                Ok(_) => true,
            }
        });
    }
    scene.finish()
}

/// One pod with one slot, which answers as the test says.
fn scene() -> Result<Scene> {
    let options = SceneOptions {
        arrange: Some(|service| {
            service
                .with("admission", json!("request"))
                .with("queue", json!({"timeout": "30s"}))
        }),
        protocol: Some("http"),
        ..SceneOptions::default()
    };
    options.start()
}

/// The request is refused, the connection ends, and no pod hears of it.
fn assert_refused(scene: &Scene, request: &str) -> Result<()> {
    let client = Http::new(scene.dial()?);
    client.send(request)?;
    ensure!(is_refused(client)?, "it was not refused: {request:?}");
    scene.assert_no_arrival();
    ensure!(scene.inflight() == 0, "it has a slot: {request:?}");
    Ok(())
}

/// Whether all that comes is a refusal, if anything, and then the end.
fn is_refused(mut client: Http) -> Result<bool> {
    let Some(mut answer) = client.try_receive_head()? else {
        return Ok(true);
    };
    let status = answer.status();
    client.receive_body(&mut answer)?;
    client.expect_end()?;
    Ok((400..500).contains(&status))
}

/// The pod sees one request or none; whatever is behind it, is not one.
fn assert_at_most_once(scene: &Scene, request: &str) -> Result<()> {
    let client = Http::new(scene.dial()?);
    client.send(request)?;
    let seen = everything_the_pod_sees(scene, client)?;
    let requests = seen.matches(" HTTP/1.1\r\n").count();
    ensure!(requests <= 1, "the pod saw {seen}");
    ensure!(
        !seen.contains('\u{0}') && !seen.replace("\r\n", "").contains('\n'),
        "{seen}"
    );
    scene.wait_inflight(0);
    Ok(())
}

/// Lets the pod answer each connection once and never again, until the client has nothing more to
/// say. Gives all that the pod was sent.
fn everything_the_pod_sees(scene: &Scene, mut client: Http) -> Result<String> {
    client.finish().ok();
    let mut seen = String::new();
    let heard = std::thread::scope(|scope| -> Result<()> {
        let client = scope.spawn(move || {
            loop {
                match client.try_receive_head() {
                    Ok(Some(mut answer)) => {
                        if client.receive_body(&mut answer).is_err() {
                            return;
                        }
                    }
                    // Neither is what comes after it any of the pod's.
                    Ok(None) | Err(_) => return,
                }
            }
        });
        while !client.is_finished() {
            if let Some((_, pod)) = scene.try_accept()? {
                seen += &answer_once(pod)?;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        client.join().expect("the client does not panic");
        Ok(())
    });
    heard?;
    while let Some((_, pod)) = scene.try_accept()? {
        seen += &answer_once(pod)?;
    }
    Ok(seen)
}

/// Answers as soon as something comes, and takes the rest until the end or until nothing comes for
/// a while.
fn answer_once(mut pod: TcpStream) -> Result<String> {
    pod.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut seen = Vec::new();
    let mut bytes = vec![0; 64 * 1024];
    let mut has_answered = false;
    loop {
        match pod.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => {
                seen.extend_from_slice(&bytes[..length]);
                if !has_answered && seen.windows(4).any(|end| end == b"\r\n\r\n") {
                    has_answered = true;
                    pod.write_all(OK.as_bytes()).ok();
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(String::from_utf8_lossy(&seen).into_owned())
}
