//! Heads, both ways.

use super::ground::{Backend, Front, Message};

const HELLO: &str = "GET /hello?a=b HTTP/1.1\r\nHost: hello.example\r\n\r\n";

/// What a backend sees of a request with these header lines.
async fn seen(lines: &str) -> Message {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let answer = front
        .ask(&format!("GET / HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n"))
        .await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    backend.last()
}

/// What a client sees of an answer, asked for by this method.
async fn answered(method: &str, answer: &'static str) -> Message {
    let backend = Backend::answering(answer).await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await;
    client
        .send(format!("{method} / HTTP/1.1\r\nHost: a.example\r\n\r\n"))
        .await;
    let answer = match method {
        "HEAD" => client.head().await,
        _ => client.message().await,
    };
    front.settled().await;
    answer.unwrap()
}

#[tokio::test]
async fn connections_are_kept_on_both_sides_and_a_warm_one_holds_no_slot() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await;
    for _ in 0..5 {
        client.send(HELLO).await;
        let answer = client.message().await.unwrap();
        assert_eq!(
            (answer.status(), answer.text()),
            (200, "GET /hello?a=b HTTP/1.1\n")
        );
        front.settled().await;
    }
    assert_eq!(front.ask(HELLO).await.status(), 200);
    assert_eq!((backend.connections(), backend.requests().len()), (1, 6));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_turn() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await;
    let requests =
        ["one", "two", "three"].map(|name| format!("GET /{name} HTTP/1.1\r\nHost: a\r\n\r\n"));
    client.send(requests.concat()).await;
    for name in ["one", "two", "three"] {
        let answer = client.message().await.unwrap();
        assert_eq!(answer.text(), format!("GET /{name} HTTP/1.1\n"));
    }
}

#[tokio::test]
async fn the_backend_learns_for_whom_it_works() {
    let request = seen("User-Agent: test\r\ntraceparent: 00-aa-bb-01\r\n").await;
    assert_eq!(request.first, "GET / HTTP/1.1");
    for (name, value) in [
        ("host", "a.example"),
        ("user-agent", "test"),
        ("traceparent", "00-aa-bb-01"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "a.example"),
    ] {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
    let request = seen(
        "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2, 10.0.0.3\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Host: outer.example\r\n",
    )
    .await;
    let chain = "10.0.0.1, 10.0.0.2, 10.0.0.3, 127.0.0.1";
    assert_eq!(request.header("x-forwarded-for"), Some(chain));
    assert_eq!(request.header("x-forwarded-proto"), Some("https"));
    assert_eq!(request.header("x-forwarded-host"), Some("outer.example"));
}

#[tokio::test]
async fn what_concerns_one_connection_only_is_not_passed_on() {
    let request = seen(
        "Connection: keep-alive, X-Mine, Host, X-Forwarded-For\r\nConnection: x-other\r\n\
         X-Mine: 1\r\nX-Other: 2\r\nX-Kept: 3\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic YQ==\r\n\
         TE: trailers;q=0.5, gzip\r\nTrailer: X-Sum\r\nUpgrade: h2c\r\n",
    )
    .await;
    for name in [
        "x-mine",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
    ] {
        assert_eq!(request.count(name), 0, "{name}: {request:?}");
    }
    assert_eq!(request.header("x-kept"), Some("3"));
    assert_eq!(request.header("host"), Some("a.example"));
    assert_eq!(request.header("trailer"), Some("X-Sum"));
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));

    let request = seen("TE: trailers\r\nConnection: te\r\n").await;
    assert_eq!(request.header("te"), Some("trailers"));
    assert_eq!(request.header("connection"), Some("te"));

    let answer = answered(
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-mine, keep-alive\r\nX-Mine: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-Kept: 2\r\n\
         Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nok",
    )
    .await;
    for name in [
        "x-mine",
        "keep-alive",
        "proxy-authenticate",
        "upgrade",
        "connection",
    ] {
        assert_eq!(answer.count(name), 0, "{name}: {answer:?}");
    }
    assert_eq!(
        (answer.header("x-kept"), answer.count("set-cookie")),
        (Some("2"), 2)
    );
}

#[tokio::test]
async fn a_request_keeps_its_id_or_gets_one() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let ask = async |line: &str| {
        let answer = front
            .ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n"))
            .await;
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert_eq!(backend.last().header("x-request-id"), Some(&*id), "{line}");
        id
    };
    assert_eq!(ask("X-Request-Id: abc-123\r\n").await, "abc-123");
    let longest = "a".repeat(128);
    assert_eq!(ask(&format!("X-Request-Id: {longest}\r\n")).await, longest);
    let mut made = std::collections::HashSet::new();
    for line in [
        "",
        "X-Request-Id: \r\n",
        "X-Request-Id: with blank\r\n",
        "X-Request-Id: caf\u{e9}\r\n",
        "X-Request-Id: a\r\nX-Request-Id: b\r\n",
        &format!("X-Request-Id: {}\r\n", "a".repeat(129)),
    ] {
        let id = ask(line).await;
        assert!(
            id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{line}: {id}"
        );
        assert!(made.insert(id), "{line}");
    }
}

#[tokio::test]
async fn targets_reach_the_backend_in_origin_form_and_with_one_host() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let absolute = "GET http://b.example:81/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let answer = front.ask(absolute).await;
    assert_eq!(answer.text(), "GET /x?y HTTP/1.1\n");
    assert_eq!(backend.last().header("host"), Some("b.example:81"));
    let answer = front
        .ask("GET http://b.example HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(answer.text(), "GET / HTTP/1.1\n");
    let answer = front
        .ask("GET http://b.example?y HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(answer.text(), "GET /?y HTTP/1.1\n");
    let answer = front.ask("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.text(), "OPTIONS * HTTP/1.1\n");
    let answer = front.ask("GET //x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(answer.text(), "GET //x HTTP/1.1\n");

    let so_far = backend.requests().len();
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(front.ask(request).await.status(), 400, "{request:?}");
    }
    let answer = front
        .ask("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n")
        .await;
    assert_eq!(
        (answer.status(), answer.header("allow").is_some()),
        (405, true)
    );
    assert_eq!(answer.header("x-request-id").map(str::len), Some(32));
    let odd = "POST / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\nContent-Length: 0\r\n\
               X-Request-Id: odd\r\n\r\n";
    let answer = front.ask(odd).await;
    assert_eq!(
        (answer.status(), answer.header("x-request-id")),
        (417, Some("odd"))
    );
    assert_eq!(backend.requests().len(), so_far);
}

#[tokio::test]
async fn clients_of_http_1_0_are_served_and_closed_unless_they_ask_to_be_kept() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let backend = Backend::answering(answer).await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let answer = client.message().await.unwrap();
    assert!(answer.first.starts_with("HTTP/1.0 200"), "{answer:?}");
    assert_eq!(
        (answer.count("transfer-encoding"), answer.text()),
        (0, "ok")
    );
    assert!(client.is_ended().await);
    let request = backend.last();
    assert_eq!(request.first, "GET / HTTP/1.1");
    assert_eq!(request.header("host"), Some("hello.default"));

    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await;
    for _ in 0..2 {
        client
            .send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .await;
        let answer = client.message().await.unwrap();
        assert_eq!(answer.header("connection"), Some("keep-alive"));
    }
}

#[tokio::test]
async fn backends_of_http_1_0_and_those_that_close_are_not_kept() {
    for answer in [
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    ] {
        let backend = Backend::answering(answer).await;
        let front = Front::new(&[backend.address]).await;
        let mut client = front.dial().await;
        for _ in 0..2 {
            client.send(HELLO).await;
            let answer = client.message().await.unwrap();
            assert_eq!((answer.status(), answer.text()), (200, "ok"));
            assert!(answer.first.starts_with("HTTP/1.1"), "{answer:?}");
        }
        assert_eq!(
            (backend.connections(), backend.requests().len()),
            (2, 2),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn answers_without_bodies_keep_what_their_heads_say() {
    let long = "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n";
    assert_eq!(
        answered("HEAD", long).await.header("content-length"),
        Some("1234")
    );
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(answered("HEAD", chunked).await.status(), 200);
    let none = answered("GET", "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n").await;
    assert_eq!((none.status(), none.count("content-length")), (204, 0));
    let unchanged = "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: \"x\"\r\n\r\n";
    let unchanged = answered("GET", unchanged).await;
    assert_eq!(
        (unchanged.status(), unchanged.header("etag")),
        (304, Some("\"x\""))
    );
    let empty = answered("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(empty.header("content-length"), Some("0"));
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    assert_eq!(answered("GET", early).await.status(), 200);
}

#[tokio::test]
async fn a_reason_phrase_and_odd_statuses_are_passed_on() {
    let odd = answered(
        "GET",
        "HTTP/1.1 299 Fancy That\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    assert_eq!(odd.first, "HTTP/1.1 299 Fancy That");
    let error = answered(
        "GET",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
    )
    .await;
    assert_eq!((error.status(), error.text()), (404, "no"));
}
