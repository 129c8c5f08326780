//! The admin API: whatever a client sends, over the unix socket and over TCP.
//!
//! Every answer is well-formed; every refusal says what is wrong as problem+json with the status
//! that the answer has; and nothing that changes anything is taken over TCP.

use std::sync::OnceLock;

use balancer_user::fuzzing::Api;
use serde_json::Value;

use super::number_of;
use super::stream::{Stream, run};

/// Serves a client that sends the input.
pub fn check(data: &[u8]) {
    for is_unix in [true, false] {
        let (stream, written) = Stream::in_pieces(data, number_of(data));
        run(api(is_unix).serve(stream));
        let bytes = written.take();
        let mut rest = &bytes[..];
        let mut asked = methods(data);
        while !rest.is_empty() {
            let answer = Answer::read(&mut rest).unwrap_or_else(|| {
                panic!("no answer: {}", String::from_utf8_lossy(&bytes));
            });
            answer.check(is_unix, asked.next());
        }
    }
}

/// Made once: its document is long.
fn api(is_unix: bool) -> Api {
    static APIS: OnceLock<[Api; 2]> = OnceLock::new();
    let [tcp, unix] = APIS.get_or_init(|| [false, true].map(Api::new));
    match is_unix {
        true => unix.clone(),
        false => tcp.clone(),
    }
}

/// The method of the only request, or of the first of several.
fn methods(data: &[u8]) -> impl Iterator<Item = String> {
    let data = data.trim_ascii_start();
    let end = data.iter().position(|byte| *byte == b' ').unwrap_or(0);
    let method = String::from_utf8_lossy(&data[..end]).into_owned();
    (!method.is_empty()).then_some(method).into_iter()
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    /// The first of the answers in these bytes; none if that is not one.
    fn read(rest: &mut &[u8]) -> Option<Self> {
        let end = rest.windows(4).position(|part| part == b"\r\n\r\n")?;
        let (head, after) = rest.split_at(end + 4);
        let head = std::str::from_utf8(head).ok()?;
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
        let headers: Option<Vec<_>> = lines
            .map(|line| {
                let (name, value) = line
                    .split_once(": ")
                    .or_else(|| Some((line.strip_suffix(':')?, "")))?;
                Some((name.to_ascii_lowercase(), value.to_owned()))
            })
            .collect();
        let mut answer = Self {
            status: status.parse().ok()?,
            headers: headers?,
            body: Vec::new(),
        };
        let length = match answer.header("content-length") {
            Some(length) => length.parse().ok()?,
            None => 0,
        };
        // That to HEAD has a length and no body, and is the last that is read here.
        let length = match after.starts_with(b"HTTP/1.") {
            true => 0,
            false => length.min(after.len()),
        };
        answer.body = after[..length].to_vec();
        *rest = &after[length..];
        Some(answer)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(other, _)| other == name);
        named.next().map(|(_, value)| value.as_str())
    }

    /// `method` is that of the request, as far as that is sure.
    fn check(&self, is_unix: bool, method: Option<String>) {
        let shown = String::from_utf8_lossy(&self.body);
        assert_ne!(self.status / 100, 5, "{shown}");
        let changes = !matches!(method.as_deref(), None | Some("GET" | "HEAD"));
        if changes && !is_unix {
            assert_ne!(self.status, 200, "{method:?} over TCP: {shown}");
        }
        if self.status < 400 || self.body.is_empty() {
            return;
        }
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        let problem: Value = serde_json::from_slice(&self.body).expect("a problem in JSON");
        assert_eq!(problem["status"], self.status, "{shown}");
        assert!(
            problem["detail"].as_str().is_some_and(|it| !it.is_empty()),
            "{shown}"
        );
    }
}
