//! The HTTP front of `request` mode: whatever a client sends, in whatever pieces.
//!
//! What is passed on is read once more by a reader of its own (`reading`), which knows nothing of
//! the agent's: each request is one request, the same one, to the client and to the backend.

mod reading;

use balancer_user::fuzzing::{Passed, serve_requests};
use reading::Request;

use super::{
    number_of,
    stream::{Stream, run},
};

/// With what HTTP/2 begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a client that sends the input, at once and piece by piece.
pub fn check(data: &[u8]) {
    let whole = served(Stream::whole(data));
    let pieces = served(Stream::in_pieces(data, number_of(data)));
    if data.starts_with(PREFACE) {
        return;
    }
    let sent = reading::requests(data);
    check_against(&sent, &whole);
    check_against(&sent, &pieces);
    let (whole, pieces) = (settled(&sent, &whole), settled(&sent, &pieces));
    if mentions_upgrade(data) {
        // What comes before the answer to an upgrade is refused, and that depends on the pieces.
        let common = whole.len().min(pieces.len());
        assert_eq!(whole[..common], pieces[..common]);
    } else {
        assert_eq!(whole, pieces);
    }
}

fn served((stream, written): (Stream, super::stream::Written)) -> Vec<Passed> {
    let passed = run(serve_requests(stream));
    passed.iter().for_each(check_passed);
    drop(written.take());
    passed
}

/// What is passed on is one whole request, and says the same to everyone.
fn check_passed(passed: &Passed) {
    let Passed::Whole(bytes) = passed else {
        return;
    };
    let shown = || String::from_utf8_lossy(bytes);
    let read = reading::requests(bytes);
    assert!(read.fault.is_none(), "{:?}: {}", read.fault, shown());
    assert_eq!(read.requests.len(), 1, "{}", shown());
    assert_eq!(read.length, bytes.len(), "{}", shown());
    let request = &read.requests[0];
    assert!(request.has_all, "{}", shown());
    assert_eq!(request.version, b"HTTP/1.1", "{}", shown());
    assert_eq!(request.values("host").count(), 1, "{}", shown());
    let is_local = request.target.starts_with(b"/") || request.target == b"*";
    assert!(is_local, "{}", shown());
    for connection in request.values("connection") {
        assert!(matches!(connection, b"upgrade" | b"te"), "{}", shown());
    }
    for name in ["keep-alive", "proxy-connection", "proxy-authorization"] {
        assert_eq!(request.values(name).count(), 0, "{name}: {}", shown());
    }
}

/// The requests that are passed on are those that the client sent, in order, none left out and
/// none made up.
fn check_against(sent: &reading::Read, passed: &[Passed]) {
    for (number, passed) in passed.iter().enumerate() {
        let Some(sent) = sent.requests.get(number) else {
            panic!(
                "request {number} was never sent: {passed:?}; {:?}",
                sent.fault
            );
        };
        let Passed::Whole(bytes) = passed else {
            continue;
        };
        assert!(sent.has_all, "request {number} is incomplete: {passed:?}");
        let read = reading::requests(bytes);
        let request = &read.requests[0];
        assert_eq!(request.method, sent.method, "request {number}");
        assert_eq!(request.body, sent.body, "request {number}");
        assert_kept(sent, request);
    }
}

/// Headers that are for the backend reach it.
fn assert_kept(sent: &Request, passed: &Request) {
    for name in ["authorization", "content-type", "x-test"] {
        let is_named = sent.values("connection").any(|value| {
            value
                .to_ascii_lowercase()
                .windows(name.len())
                .any(|part| part == name.as_bytes())
        });
        if !is_named {
            let sent: Vec<_> = sent.values(name).collect();
            let passed: Vec<_> = passed.values(name).collect();
            assert_eq!(passed, sent, "{name}");
        }
    }
}

/// What depends neither on how much of a faulty request had come when it was refused, nor on how a
/// body came, nor on chance: ids are drawn for requests that have none.
fn settled(sent: &reading::Read, passed: &[Passed]) -> Vec<Settled> {
    let is_clear = |sent: &&Request| sent.has_all && !sent.is_doubtful;
    let clear = sent.requests.iter().take_while(is_clear);
    let mut settled = Vec::new();
    for (passed, sent) in passed.iter().zip(clear) {
        settled.push(match passed {
            Passed::Whole(bytes) => {
                let mut request = reading::requests(bytes).requests.remove(0);
                request.headers.retain(|(name, _)| name != b"x-request-id");
                Settled::Whole(request)
            }
            // How much of it was passed on is chance.
            Passed::Broken(_) => Settled::Broken,
            other => Settled::Other(other.clone()),
        });
        if !matches!(passed, Passed::Whole(_)) && sent.has_body() {
            // It is refused before its body is read. Whether the connection can go on behind the
            // body depends on whether that has come by then.
            break;
        }
    }
    settled
}

#[derive(Debug, PartialEq, Eq)]
enum Settled {
    Whole(Request),
    Broken,
    Other(Passed),
}

fn mentions_upgrade(data: &[u8]) -> bool {
    data.to_ascii_lowercase()
        .windows(7)
        .any(|part| part == b"upgrade")
}
