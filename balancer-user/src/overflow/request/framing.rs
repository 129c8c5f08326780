//! Where each request on an HTTP/1 connection begins and ends, and that everyone must agree on it.
//!
//! Looks at what a client sends before the HTTP library does, and finds fault with all that two
//! parsers could read in two ways: a request that is two to someone else is how requests are
//! smuggled. Accepts less than RFC 9112 allows, and nothing that honest clients send is missing.
//! What else may be wrong with a head is left to the library. Pure; called by `watch`.

use memchr::memchr;

/// Bytes of a line at most, of the lines that are kept until they are complete.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// Bytes of the line before a chunk at most: its size and what it is extended with.
const MAX_CHUNK_LINE_BYTES: usize = 256;
/// Bytes of all trailer lines at most.
const MAX_TRAILER_BYTES: usize = 16 * 1024;

/// How far into its requests a connection is.
#[derive(Debug)]
pub(super) struct Framing {
    place: Place,
    /// The beginning of a line that is not complete.
    line: Vec<u8>,
    head: Head,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In a head, or before one.
    Head,
    /// In a body of known length; so many bytes are missing.
    Body(u64),
    /// Before a chunk.
    ChunkSize,
    /// In a chunk; so many bytes are missing.
    Chunk(u64),
    /// Behind a chunk.
    ChunkEnd,
    /// Behind the last chunk; so many bytes of trailers have come.
    Trailers(usize),
    /// Behind a request for another protocol, whose answer is not known.
    Asked,
    /// No HTTP any more.
    Over,
}

/// What is known of the head that is coming in.
#[derive(Debug, Default)]
struct Head {
    has_line: bool,
    length: Option<u64>,
    is_chunked: bool,
    is_upgrade: bool,
}

/// What is wrong with what a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// LF alone.
    #[error("a line does not end with CR LF")]
    LineEnd,
    /// A line of a head begins with a blank.
    #[error("a header is folded")]
    Folded,
    /// A line that goes on and on.
    #[error("a line is too long")]
    LineLength,
    /// A `Content-Length` that is no number, or not the only one.
    #[error("the body's length is not given by one number")]
    Length,
    /// A `Transfer-Encoding` other than `chunked`, or not the only one.
    #[error("the body's encoding is not exactly `chunked`")]
    Encoding,
    /// Both of them.
    #[error("the body has both a length and an encoding")]
    Both,
    /// Something other than a chunk's size, or other than the end of a chunk where that should be.
    #[error("a chunk is malformed")]
    Chunk,
    /// Trailers without end.
    #[error("the trailers are too long")]
    Trailers,
    /// Bytes behind a request for another protocol, before its answer.
    #[error("another protocol was not agreed upon yet")]
    Early,
}

/// A fault, and what to do with the bytes in which it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) fault: Fault,
    /// So many of them are fine: they belong to earlier requests.
    pub(super) fine: usize,
    /// It is in a head, so that the client can be told.
    pub(super) is_in_head: bool,
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            place: Place::Head,
            line: Vec::new(),
            head: Head::default(),
        }
    }
}

impl Framing {
    /// Looks at what came next.
    ///
    /// # Errors
    /// What is wrong with it. Nothing else may be passed on then.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), Found> {
        let mut at = 0;
        // Where the request that is coming in begins; 0 if that was earlier.
        let mut head_at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let was_head = self.place == Place::Head;
            let step = match self.place {
                Place::Head | Place::ChunkSize | Place::Trailers(_) => self.line(rest),
                Place::Body(left) => Ok(self.skip(rest, left, Place::Body, Place::Head)),
                Place::Chunk(left) => Ok(self.skip(rest, left, Place::Chunk, Place::ChunkEnd)),
                Place::ChunkEnd => self.chunk_end(rest),
                Place::Asked => Err(Fault::Early),
                Place::Over => return Ok(()),
            };
            at += step.map_err(|fault| Found {
                fault,
                fine: match self.place {
                    Place::Asked => at,
                    _ => head_at,
                },
                is_in_head: was_head,
            })?;
            if self.place == Place::Head && !self.head.has_line && self.line.is_empty() {
                head_at = at;
            }
        }
        Ok(())
    }

    /// Whether a head has begun and is not complete.
    pub(super) fn is_in_head(&self) -> bool {
        self.place == Place::Head && (self.head.has_line || !self.line.is_empty())
    }

    /// Whether a request for another protocol is being answered.
    pub(super) fn is_asked(&self) -> bool {
        self.place == Place::Asked
    }

    /// That request has been answered: HTTP goes on.
    pub(super) fn go_on(&mut self) {
        self.place = Place::Head;
    }

    /// From here on, anything may come.
    pub(super) fn end(&mut self) {
        self.place = Place::Over;
    }

    /// Takes the rest of a line, and says how many bytes that was.
    fn line(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        let limit = match self.place {
            Place::ChunkSize => MAX_CHUNK_LINE_BYTES,
            _ => MAX_LINE_BYTES,
        };
        let end = memchr(b'\n', rest);
        let piece = &rest[..end.map_or(rest.len(), |end| end + 1)];
        if self.line.len() + piece.len() > limit {
            return Err(Fault::LineLength);
        }
        if end.is_none() {
            self.line.extend_from_slice(piece);
        } else if self.line.is_empty() {
            self.complete(piece)?;
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(piece);
            self.complete(&line)?;
            // Kept for its memory, unless that is much.
            line.clear();
            line.shrink_to(1024);
            self.line = line;
        }
        Ok(piece.len())
    }

    fn complete(&mut self, line: &[u8]) -> Result<(), Fault> {
        let line = line.strip_suffix(b"\r\n").ok_or(Fault::LineEnd)?;
        match self.place {
            Place::ChunkSize => self.chunk_size(line),
            Place::Trailers(before) => self.trailer(line, before),
            _ => self.head_line(line),
        }
    }

    fn head_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        if !self.head.has_line {
            // RFC 9112, 2.2: an empty line before a request is skipped.
            self.head.has_line = !line.is_empty();
            return Ok(());
        }
        match line.first() {
            None => self.head_end(),
            Some(b' ' | b'\t') => Err(Fault::Folded),
            Some(b'c' | b'C' | b't' | b'T' | b'u' | b'U') => self.header(line),
            Some(_) => Ok(()),
        }
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Fault> {
        let colon = memchr(b':', line).unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        // With a blank before the colon, the library refuses it.
        let name = name.trim_ascii_end();
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = decimal(value).ok_or(Fault::Length)?;
            if self.head.length.replace(length).is_some() {
                return Err(Fault::Length);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.head.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Fault::Encoding);
            }
            self.head.is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.head.is_upgrade = true;
        }
        Ok(())
    }

    fn head_end(&mut self) -> Result<(), Fault> {
        let head = std::mem::take(&mut self.head);
        self.place = match (head.length, head.is_chunked) {
            (Some(_), true) => return Err(Fault::Both),
            (None, true) => Place::ChunkSize,
            (Some(length), false) if length != 0 => Place::Body(length),
            _ if head.is_upgrade => Place::Asked,
            _ => Place::Head,
        };
        Ok(())
    }

    fn skip(&mut self, rest: &[u8], left: u64, more: fn(u64) -> Place, then: Place) -> usize {
        let count = (rest.len() as u64).min(left);
        self.place = match left - count {
            0 => then,
            left => more(left),
        };
        count as usize
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<(), Fault> {
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        if line.contains(&b'\r') {
            return Err(Fault::Chunk);
        }
        self.place = match hexadecimal(digits).ok_or(Fault::Chunk)? {
            0 => Place::Trailers(0),
            size => Place::Chunk(size),
        };
        Ok(())
    }

    fn chunk_end(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        let expected = match self.line.is_empty() {
            true => b'\r',
            false => b'\n',
        };
        if rest[0] != expected {
            return Err(Fault::Chunk);
        }
        if expected == b'\r' {
            self.line.push(b'\r');
        } else {
            self.line.clear();
            self.place = Place::ChunkSize;
        }
        Ok(1)
    }

    fn trailer(&mut self, line: &[u8], before: usize) -> Result<(), Fault> {
        let so_far = before + line.len() + 2;
        self.place = match line.first() {
            None => Place::Head,
            Some(b' ' | b'\t') => return Err(Fault::Folded),
            Some(_) if so_far > MAX_TRAILER_BYTES => return Err(Fault::Trailers),
            Some(_) => Place::Trailers(so_far),
        };
        Ok(())
    }
}

/// A number of digits only.
fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().all(u8::is_ascii_digit).then_some(())?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The same, to the base of 16.
fn hexadecimal(digits: &[u8]) -> Option<u64> {
    digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a text, whole and in any two or more pieces.
    fn take(text: &str) -> Result<Place, Fault> {
        let whole = in_pieces(text, text.len());
        for size in 1..text.len() {
            assert_eq!(in_pieces(text, size), whole, "{text:?} in pieces of {size}");
        }
        whole
    }

    fn in_pieces(text: &str, size: usize) -> Result<Place, Fault> {
        let mut framing = Framing::default();
        for piece in text.as_bytes().chunks(size.max(1)) {
            framing.take(piece).map_err(|found| found.fault)?;
        }
        assert!(framing.line.is_empty(), "{text:?}");
        Ok(framing.place)
    }

    #[test]
    fn requests_follow_one_another() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\nTest: 1\r\nCookie: x\r\n\r\n";
        let post = "POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:5\r\n\r\nhello";
        let chunked = "PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked \r\n\r\n\
                       5;a=\"b\"\r\nhe\nlo\r\nA\r\n0123456789\r\n000\r\nDigest: x\r\n\r\n";
        let empty = "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n";
        for text in [get, post, chunked, empty, "\r\n\r\nGET / HTTP/1.0\r\n\r\n"] {
            assert_eq!(take(text), Ok(Place::Head), "{text:?}");
        }
        assert_eq!(
            take(&[get, post, chunked, empty, chunked, get].concat()),
            Ok(Place::Head)
        );
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let head = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let chunks = |text: &str| head("Transfer-Encoding: chunked\r\n") + text;
        let long = format!("A: {}", "a".repeat(MAX_LINE_BYTES));
        let trailers = "A: b\r\n".repeat(MAX_TRAILER_BYTES / 6 + 1);
        for (text, fault) in [
            (
                head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
                Fault::Both,
            ),
            (
                head("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
                Fault::Both,
            ),
            (
                head("Content-Length: 5\r\nContent-Length: 6\r\n"),
                Fault::Length,
            ),
            (
                head("Content-Length: 5\r\nContent-Length: 5\r\n"),
                Fault::Length,
            ),
            (head("Content-Length: 5, 5\r\n"), Fault::Length),
            (head("Content-Length: +5\r\n"), Fault::Length),
            (head("Content-Length: -5\r\n"), Fault::Length),
            (head("Content-Length: 0x5\r\n"), Fault::Length),
            (head("Content-Length:\r\n"), Fault::Length),
            (
                head("Content-Length: 99999999999999999999\r\n"),
                Fault::Length,
            ),
            (
                head("Content-Length : 5\r\nTransfer-Encoding: chunked\r\n"),
                Fault::Both,
            ),
            (
                head("Transfer-Encoding: gzip, chunked\r\n"),
                Fault::Encoding,
            ),
            (
                head("Transfer-Encoding: chunked, identity\r\n"),
                Fault::Encoding,
            ),
            (head("Transfer-Encoding: xchunked\r\n"), Fault::Encoding),
            (head("Transfer-Encoding: \x0bchunked\r\n"), Fault::Encoding),
            (
                head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
                Fault::Encoding,
            ),
            (head("Test: a\r\n Content-Length: 5\r\n"), Fault::Folded),
            (head("Test: a\r\n\tb\r\n"), Fault::Folded),
            (head("Test: a\nContent-Length: 5\r\n"), Fault::LineEnd),
            ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), Fault::LineEnd),
            ("\nGET / HTTP/1.1\r\n".to_owned(), Fault::LineEnd),
            (head(&long), Fault::LineLength),
            (chunks("5\nhello\r\n0\r\n\r\n"), Fault::LineEnd),
            (chunks("5;a\n0\r\nhello\r\n0\r\n\r\n"), Fault::LineEnd),
            (chunks("5;a\rb\r\nhello"), Fault::Chunk),
            (chunks("5 \r\nhello"), Fault::Chunk),
            (chunks("+5\r\nhello"), Fault::Chunk),
            (chunks("0x5\r\nhello"), Fault::Chunk),
            (chunks("\r\nhello"), Fault::Chunk),
            (chunks("11111111111111111\r\nhello"), Fault::Chunk),
            (chunks("5\r\nhelloX"), Fault::Chunk),
            (chunks("5\r\nhello\n"), Fault::Chunk),
            (
                chunks(&format!("5;{}\r\n", "a".repeat(MAX_CHUNK_LINE_BYTES))),
                Fault::LineLength,
            ),
            (chunks("0\r\n A: b\r\n\r\n"), Fault::Folded),
            (chunks("0\r\nA: b\n\r\n"), Fault::LineEnd),
            (chunks(&format!("0\r\n{trailers}\r\n")), Fault::Trailers),
        ] {
            // Long ones only whole: piece by piece takes its time.
            let result = match text.len() < 1000 {
                true => take(&text),
                false => in_pieces(&text, text.len()),
            };
            assert_eq!(result, Err(fault), "{text:?}");
        }
    }

    #[test]
    fn what_is_before_a_fault_is_fine() {
        let good = "GET / HTTP/1.1\r\n\r\n";
        let found = |text: &str| {
            let found = Framing::default().take(text.as_bytes()).unwrap_err();
            (found.fine, found.is_in_head)
        };
        assert_eq!(found("GET / HTTP/1.1\n"), (0, true));
        assert_eq!(
            found(&format!("{good}GET / HTTP/1.1\n")),
            (good.len(), true)
        );
        let chunked = "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
        assert_eq!(found(chunked), (0, false));
    }

    #[test]
    fn behind_a_request_for_another_protocol_nothing_may_come_before_the_answer() {
        let ask = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
        let mut framing = Framing::default();
        framing.take(ask.as_bytes()).unwrap();
        assert!(framing.is_asked());
        framing.go_on();
        framing.take(ask.as_bytes()).unwrap();
        let found = framing.take(b"x").unwrap_err();
        assert_eq!((found.fault, found.fine), (Fault::Early, 0));
        framing.end();
        assert_eq!(framing.take(b"\n anything"), Ok(()));

        let found = Framing::default()
            .take(format!("{ask}x").as_bytes())
            .unwrap_err();
        assert_eq!((found.fault, found.fine), (Fault::Early, ask.len()));
    }

    #[test]
    fn a_head_is_known_to_have_begun() {
        let mut framing = Framing::default();
        assert!(!framing.is_in_head());
        framing.take(b"G").unwrap();
        assert!(framing.is_in_head());
        framing.take(b"ET / HTTP/1.1\r\n").unwrap();
        assert!(framing.is_in_head());
        framing.take(b"\r\n").unwrap();
        assert!(!framing.is_in_head());
    }
}
