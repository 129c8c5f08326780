//! Answers as they may come, in whatever pieces.

use std::future::poll_fn;

use hyper::{Method, Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{Fault, Malformed, Outgoing, Wire};
use crate::overflow::request::body::Upload;

/// What came of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    status: u16,
    body: Vec<u8>,
    trailers: usize,
    is_reusable: bool,
}

async fn pair() -> (Wire, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    (Wire::new(stream), listener.accept().await.unwrap().0)
}

fn request(method: Method) -> Outgoing {
    let request = Request::builder()
        .method(method)
        .uri("/a?b")
        .header("host", "a.example");
    let (head, ()) = request.body(()).unwrap().into_parts();
    Outgoing::new(head, Upload::default(), false, false)
}

/// Reads an answer that comes in pieces of this size, after which the connection is closed.
async fn read(answer: &'static str, size: usize, method: Method) -> Result<Seen, Fault> {
    let (mut wire, mut backend) = pair().await;
    wire.begin(&mut request(method));
    tokio::spawn(async move {
        backend.set_nodelay(true).unwrap();
        let mut asked = [0; 1024];
        assert!(backend.read(&mut asked).await.unwrap() > 0);
        for piece in answer.as_bytes().chunks(size) {
            if backend.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    let head = poll_fn(|context| wire.poll_head(context)).await?;
    let mut seen = Seen {
        status: head.status().as_u16(),
        body: Vec::new(),
        trailers: 0,
        is_reusable: false,
    };
    while let Some(frame) = poll_fn(|context| wire.poll_frame(context)).await {
        match frame?.into_data() {
            Ok(data) => seen.body.extend_from_slice(&data),
            Err(trailers) => seen.trailers = trailers.into_trailers().unwrap().len(),
        }
    }
    seen.is_reusable = wire.is_reusable();
    Ok(seen)
}

#[tokio::test]
async fn answers_are_read_alike_in_whatever_pieces_they_come() {
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                  5;x=y\r\nhello\r\nA\r\n, 12345678\r\n0\r\n";
    let chunked = || chunks.to_owned() + "\r\n";
    let with_trailers = chunks.to_owned() + "A: b\r\nC: d\r\n\r\n";
    for (answer, body, trailers, is_reusable) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
            "hello",
            0,
            true,
        ),
        (
            "HTTP/1.1 200\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
            "hello",
            0,
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "",
            0,
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: a, Close\r\n\r\nok".to_owned(),
            "ok",
            0,
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
            "ok",
            0,
            false,
        ),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\n\r\nok".to_owned(),
            "ok",
            0,
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\nuntil the end".to_owned(),
            "until the end",
            0,
            false,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nA: b\r\n\r\n".to_owned() + &chunked(),
            "hello, 12345678",
            0,
            true,
        ),
        (chunked(), "hello, 12345678", 0, true),
        (with_trailers, "hello, 12345678", 2, true),
    ] {
        let answer: &'static str = answer.leak();
        for size in [1, 2, 3, 7, answer.len()] {
            let seen = read(answer, size, Method::GET).await.unwrap();
            let expected = Seen {
                status: 200,
                body: body.into(),
                trailers,
                is_reusable,
            };
            assert_eq!(seen, expected, "{answer:?} in pieces of {size}");
        }
    }
}

#[tokio::test]
async fn some_answers_have_no_body_whatever_they_say() {
    let no_content = "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n";
    let unchanged = "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    for (answer, method) in [
        (no_content, Method::GET),
        (unchanged, Method::GET),
        (ok, Method::HEAD),
    ] {
        let seen = read(answer, answer.len(), method).await.unwrap();
        assert!(
            seen.body.is_empty() && seen.is_reusable,
            "{answer:?}: {seen:?}"
        );
    }
}

#[tokio::test]
async fn what_is_malformed_is_not_passed_on() {
    let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
    let endless = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100);
    for (answer, malformed) in [
        (
            head("Content-Length: 5\r\nContent-Length: 6\r\n"),
            Malformed::Length,
        ),
        (head("Content-Length: 5, 5\r\n"), Malformed::Length),
        (head("Content-Length: -5\r\n"), Malformed::Length),
        (head("Content-Length: \r\n"), Malformed::Length),
        (
            head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            Malformed::Length,
        ),
        (head("Transfer-Encoding: gzip\r\n"), Malformed::Length),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            Malformed::Length,
        ),
        (
            head("Transfer-Encoding: chunked\r\n") + "x\r\n",
            Malformed::Chunk,
        ),
        (
            head("Transfer-Encoding: chunked\r\n") + "2\r\nokXY",
            Malformed::Chunk,
        ),
        (
            head("Upgrade: x\r\n").replace("200 OK", "101 S"),
            Malformed::Switch,
        ),
        (
            "HTTP/1.1 099 Low\r\n\r\n".into(),
            Malformed::Head(httparse::Error::Status),
        ),
        (
            "ICY 200 OK\r\n\r\n".into(),
            Malformed::Head(httparse::Error::Version),
        ),
        (
            head("A b\r\n"),
            Malformed::Head(httparse::Error::HeaderName),
        ),
        (
            head(&("A: ".to_owned() + &"b".repeat(70_000) + "\r\n")),
            Malformed::TooLong,
        ),
        (
            head(&"A: b\r\n".repeat(101)),
            Malformed::Head(httparse::Error::TooManyHeaders),
        ),
        (endless, Malformed::Interim),
    ] {
        let answer: &'static str = answer.leak();
        let fault = read(answer, answer.len(), Method::GET).await.unwrap_err();
        let shown: String = answer.chars().take(100).collect();
        assert!(
            matches!(fault, Fault::Malformed(found) if found == malformed),
            "{shown:?}: {fault}"
        );
    }
}

#[tokio::test]
async fn an_end_before_its_time_is_no_end() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ] {
        let fault = read(answer, 100, Method::GET).await.unwrap_err();
        assert!(matches!(fault, Fault::Closed), "{answer:?}: {fault}");
    }
}

#[tokio::test]
async fn what_follows_an_answer_spoils_the_connection() {
    let twice = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n";
    let seen = read(twice, twice.len(), Method::GET).await.unwrap();
    assert_eq!(
        (seen.status, &*seen.body, seen.is_reusable),
        (200, &b"ok"[..], false)
    );
}

#[tokio::test]
async fn a_request_is_written_as_it_is() {
    let (mut wire, mut backend) = pair().await;
    wire.begin(&mut request(Method::POST));
    let reading = async {
        let expected = "POST /a?b HTTP/1.1\r\nhost: a.example\r\n\r\n";
        let mut asked = vec![0; expected.len()];
        backend.read_exact(&mut asked).await.unwrap();
        assert_eq!(String::from_utf8(asked).unwrap(), expected);
        backend
            .write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
    };
    let (head, ()) = tokio::join!(poll_fn(|context| wire.poll_head(context)), reading);
    assert_eq!(head.unwrap().status(), StatusCode::ACCEPTED);
    assert!(wire.is_reusable() && !wire.is_stale());
    drop(backend);
    while !wire.is_stale() {
        tokio::task::yield_now().await;
    }
}
