//! Just enough HTTP/1.1 for servers and clients that cost next to nothing themselves: blocking, one
//! message after the other, short bodies with their length announced.
//!
//! Refuses everything else. Used by `queue` and `request`.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
};

/// Head and body of a message together are no longer than this.
const MESSAGE_AT_MOST: usize = 16 << 10;
const HEADERS_AT_MOST: usize = 64;

/// One side of a connection.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
    filled: usize,
}

/// What a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Whether the connection ends with it.
    pub(super) is_last: bool,
}

/// A message at the beginning of the buffer.
struct Found<T> {
    message: T,
    bytes: usize,
}

impl Connection {
    /// Over an established stream.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; MESSAGE_AT_MOST].into(),
            filled: 0,
        })
    }

    /// Sends a whole message.
    pub(super) fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.stream.write_all(message)
    }

    /// The next request's target; `None` if the connection ended before it.
    pub(super) fn request(&mut self) -> io::Result<Option<String>> {
        self.next(request_in)
    }

    /// The next answer; `None` if the connection ended before it.
    pub(super) fn answer(&mut self) -> io::Result<Option<Answer>> {
        self.next(answer_in)
    }

    fn next<T>(
        &mut self,
        find: impl Fn(&[u8]) -> io::Result<Option<Found<T>>>,
    ) -> io::Result<Option<T>> {
        loop {
            if let Some(Found { message, bytes }) = find(&self.buffer[..self.filled])? {
                self.buffer.copy_within(bytes..self.filled, 0);
                self.filled -= bytes;
                return Ok(Some(message));
            }
            let room = &mut self.buffer[self.filled..];
            if room.is_empty() {
                return Err(unexpected("a message that is too long"));
            }
            match (self.stream.read(room)?, self.filled) {
                (0, 0) => return Ok(None),
                (0, _) => return Err(ErrorKind::UnexpectedEof.into()),
                (count, _) => self.filled += count,
            }
        }
    }
}

fn request_in(bytes: &[u8]) -> io::Result<Option<Found<String>>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_AT_MOST];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(bytes)) => Ok(Some(Found {
            message: request.path.unwrap_or_default().to_owned(),
            bytes,
        })),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(io::Error::new(ErrorKind::InvalidData, error)),
    }
}

fn answer_in(bytes: &[u8]) -> io::Result<Option<Found<Answer>>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_AT_MOST];
    let mut answer = httparse::Response::new(&mut headers);
    let head = match answer.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, error)),
    };
    let (status, version) = (answer.code.unwrap_or_default(), answer.version);
    let value = |name: &str| {
        let mut headers = answer.headers.iter();
        let header = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    let connection = value("connection").unwrap_or_default();
    let is_last = connection.eq_ignore_ascii_case("close") || version == Some(0);
    let body: usize = match value("content-length").map(str::parse) {
        Some(Ok(length)) => length,
        _ => return Err(unexpected("an answer that does not announce its length")),
    };
    let whole = head.saturating_add(body);
    Ok((bytes.len() >= whole).then_some(Found {
        message: Answer { status, is_last },
        bytes: whole,
    }))
}

fn unexpected(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-length: 2\r\n\r\nokHTTP/1.1 5";

    #[test]
    fn an_answer_is_there_when_its_body_is() {
        let end = ANSWER.len() - "HTTP/1.1 5".len();
        for cut in 0..end {
            assert!(
                answer_in(&ANSWER[..cut]).expect("no fault").is_none(),
                "{cut}"
            );
        }
        let found = answer_in(ANSWER).expect("no fault").expect("complete");
        assert_eq!(found.bytes, end);
        let expected = Answer {
            status: 200,
            is_last: false,
        };
        assert_eq!(found.message, expected);
    }

    #[test]
    fn a_connection_ends_as_announced() {
        let text = b"HTTP/1.1 503 x\r\ncontent-length: 0\r\nConnection: close\r\n\r\n";
        let found = answer_in(text).expect("no fault").expect("complete");
        let expected = Answer {
            status: 503,
            is_last: true,
        };
        assert_eq!(found.message, expected);
    }

    #[test]
    fn a_length_that_is_not_announced_is_refused() {
        assert!(answer_in(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn a_request_is_its_target() {
        let found = request_in(b"GET /?work_us=5 HTTP/1.1\r\nhost: x\r\n\r\nGET");
        let found = found.expect("no fault").expect("complete");
        assert_eq!((found.message.as_str(), found.bytes), ("/?work_us=5", 37));
    }
}
