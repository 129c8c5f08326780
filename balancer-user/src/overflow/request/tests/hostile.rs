//! Requests that are malformed, or that two servers might read in two ways.

use super::ground::{Backend, Front, SOON};

const SECOND: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends this; checks that the answer, if any, has one of these statuses, that the connection ends
/// then, and that the backend has seen no more than `most` requests, none of them smuggled.
async fn rejected(text: &str, statuses: &[u16], most: usize) {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await;
    // It may stop reading in the middle.
    let _ = client.try_send(text).await;
    let mut answers = Vec::new();
    while let Some(answer) = client.message().await {
        answers.push(answer.status());
    }
    let shown: String = text.chars().take(200).collect();
    let refused: Vec<_> = answers
        .iter()
        .filter(|status| **status != 200)
        .copied()
        .collect();
    assert!(refused.len() <= 1, "{shown:?}: {answers:?}");
    assert!(
        refused.iter().all(|status| statuses.contains(status)),
        "{shown:?}: {answers:?}"
    );
    assert!(client.is_ended().await, "{shown:?}");
    front.settled().await;
    let seen = backend.requests();
    assert!(seen.len() <= most, "{shown:?}: {seen:?}");
    assert!(
        seen.iter()
            .all(|request| !request.first.contains("smuggled")),
        "{shown:?}: {seen:?}"
    );
}

#[tokio::test]
async fn requests_that_can_be_read_in_two_ways_never_reach_a_backend() {
    let head = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    for text in [
        head("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n" + SECOND,
        head("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n") + "0\r\n\r\n" + SECOND,
        head("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n") + "0\r\n\r\n" + SECOND,
        head("Content-Length: 0\r\nContent-Length: 45\r\n") + SECOND,
        head("Content-Length: 0\r\nContent-Length: 0\r\n") + SECOND,
        head("Content-Length: 0, 45\r\n") + SECOND,
        head("Content-Length: +0\r\n") + SECOND,
        head("Content-Length: 0x0\r\n") + SECOND,
        head("Content-Length: \r\n") + SECOND,
        head("Content-Length : 0\r\n") + SECOND,
        head("Content-Length\t: 0\r\n") + SECOND,
        head(" Content-Length: 0\r\n") + SECOND,
        head("Transfer-Encoding : chunked\r\n") + "0\r\n\r\n" + SECOND,
        head("Transfer-Encoding: xchunked\r\n") + "0\r\n\r\n" + SECOND,
        head("Transfer-Encoding: chunked, identity\r\n") + "0\r\n\r\n" + SECOND,
        head("Transfer-Encoding: identity, chunked\r\n") + "0\r\n\r\n" + SECOND,
        head("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n") + SECOND,
        head("Transfer-Encoding:\x0bchunked\r\n") + "0\r\n\r\n" + SECOND,
        head("Transfer-Encoding:\r\n chunked\r\n") + "0\r\n\r\n" + SECOND,
        head("Foo: bar\r\n Transfer-Encoding: chunked\r\n") + SECOND,
        head("Foo: bar\r\n\tbaz\r\n") + SECOND,
        head("Foo: bar\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n" + SECOND,
        head("Foo: bar\rTransfer-Encoding: chunked\r\n") + "0\r\n\r\n" + SECOND,
        head("Foo: a\0b\r\n") + SECOND,
        head("F\0o: b\r\n") + SECOND,
        head("Foo Bar: b\r\n") + SECOND,
        head("no colon here\r\n") + SECOND,
        head(": empty name\r\n") + SECOND,
        "GET / HTTP/1.1\nHost: a\n\n".to_owned() + SECOND,
        "GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned() + SECOND,
        "GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned() + SECOND,
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned() + SECOND,
        "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned() + SECOND,
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n".to_owned() + SECOND,
        "GET /\r\nHost: a\r\n\r\n".to_owned() + SECOND,
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned() + SECOND,
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n".to_owned() + SECOND,
        "GET / HTTP/9\r\nHost: a\r\n\r\n".to_owned() + SECOND,
        "G@T / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned() + SECOND,
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03".to_owned(),
        "\r\n\n".to_owned() + SECOND,
    ] {
        rejected(&text, &[400, 505], 0).await;
    }
}

#[tokio::test]
async fn a_fault_behind_a_good_request_concerns_only_what_follows() {
    let good = "GET /good HTTP/1.1\r\nHost: a\r\n\r\n";
    rejected(
        &(good.to_owned() + "GET / HTTP/1.1\nHost: a\n\n" + SECOND),
        &[400],
        1,
    )
    .await;
}

#[tokio::test]
async fn malformed_chunks_end_the_connection() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "5\nhello\n0\n\n",
        "5\r\nhelloo\r\n0\r\n\r\n",
        "5\r\nhell\r\n0\r\n\r\n",
        "x\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff0\r\nhello\r\n0\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\n folded: b\r\n\r\n",
    ] {
        rejected(&(head.to_owned() + body + SECOND), &[400], 0).await;
    }
    let extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(10_000));
    rejected(&(head.to_owned() + &extension), &[400], 0).await;
    let trailers = format!("0\r\n{}\r\n", "A: b\r\n".repeat(10_000));
    rejected(&(head.to_owned() + &trailers), &[400], 0).await;
}

#[tokio::test]
async fn heads_have_limits() {
    let many = "A: b\r\n".repeat(101);
    let long = "A: ".to_owned() + &"b".repeat(70_000) + "\r\n";
    let endless = "A: ".to_owned() + &"b".repeat(10_000_000);
    for (text, statuses) in [
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), [431]),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{long}\r\n"), [431]),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{endless}"), [431]),
        (
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000)),
            [431],
        ),
        (
            format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "X".repeat(70_000)),
            [431],
        ),
    ] {
        rejected(&text, &[statuses[0], 414, 400], 0).await;
    }
}

#[tokio::test]
async fn heads_just_below_the_limits_are_served() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let lines: String = (0..90).map(|number| format!("A{number}: b\r\n")).collect();
    let answer = front
        .ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
        .await;
    assert_eq!(answer.status(), 200);
    let long = "b".repeat(60_000);
    let answer = front
        .ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nA: {long}\r\n\r\n"))
        .await;
    assert_eq!(answer.status(), 200);
    assert_eq!(backend.last().header("a").map(str::len), Some(60_000));
}

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_is_one_request() {
    let backend = Backend::echo().await;
    let front = Front::new(&[backend.address]).await;
    let mut client = front.dial().await;
    let request = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
    for byte in request.as_bytes() {
        client.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    let answer = tokio::time::timeout(SOON, client.message())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer.text(), "POST /x HTTP/1.1\nabcde");
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn a_body_cut_short_reaches_no_backend_as_if_it_were_whole() {
    for text in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let backend = Backend::echo().await;
        let front = Front::new(&[backend.address]).await;
        let mut client = front.dial().await;
        client.send(text).await;
        client.finish().await;
        while client.message().await.is_some() {}
        front.settled().await;
        assert_eq!(backend.requests().len(), 0, "{text:?}");
    }
}
