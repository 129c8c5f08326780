//! A reader of HTTP/1 requests that is as simple as can be, by RFC 9112 to the letter, with all
//! bytes at hand.
//!
//! Stops at the first thing that is not clear. Shares no code with what it is compared with.

/// What is in the bytes of one connection.
#[derive(Debug, Default)]
pub struct Read {
    pub requests: Vec<Request>,
    /// How far the last whole request reaches.
    pub length: usize,
    /// Why nothing more was read; none if there is nothing more, or not enough.
    pub fault: Option<&'static str>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub version: Vec<u8>,
    /// Names in lower case.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// As far as it has come.
    pub body: Vec<u8>,
    /// Whether the body has come to its end.
    pub has_all: bool,
    /// Whether a reader may refuse it though it is whole: for what stands around its chunks.
    pub is_doubtful: bool,
}

impl Request {
    pub fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let named = self
            .headers
            .iter()
            .filter(move |(other, _)| other == name.as_bytes());
        named.map(|(_, value)| value.as_slice())
    }

    pub fn has_body(&self) -> bool {
        !self.body.is_empty() || self.values("transfer-encoding").next().is_some()
    }
}

/// Why reading stops.
enum Stop {
    /// More bytes are needed.
    Short,
    Fault(&'static str),
}

type Step<T> = Result<T, Stop>;

/// Reads as many as there are.
pub fn requests(bytes: &[u8]) -> Read {
    let mut read = Read::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut request = Request::default();
        let result = head(&mut rest, &mut request).and_then(|framing| {
            read.requests.push(request);
            let request = read.requests.last_mut().expect("it was just put there");
            body(&mut rest, request, framing)
        });
        match result {
            Ok(()) => read.length = bytes.len() - rest.len(),
            Err(Stop::Short) => return read,
            Err(Stop::Fault(fault)) => {
                read.fault = Some(fault);
                return read;
            }
        }
    }
    read
}

/// So much in a line, and so many trailers, every reader takes.
const MANY_BYTES: usize = 128;
const MANY_LINES: usize = 32;

enum Framing {
    Length(usize),
    Chunked,
}

fn head(rest: &mut &[u8], request: &mut Request) -> Step<Framing> {
    let mut first = line(rest)?;
    while first.is_empty() {
        first = line(rest)?;
    }
    let words: Vec<_> = first.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else {
        return Err(Stop::Fault("no request line"));
    };
    if !is_token(method) || target.is_empty() || !matches!(version, b"HTTP/1.0" | b"HTTP/1.1") {
        return Err(Stop::Fault("no request line"));
    }
    request.method = method.to_vec();
    request.target = target.to_vec();
    request.version = version.to_vec();
    loop {
        let line = line(rest)?;
        if line.is_empty() {
            return framing(request);
        }
        ensure(!line.contains(&0), "NUL within a head")?;
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.ok_or(Stop::Fault("no header"))?);
        if !is_token(name) {
            return Err(Stop::Fault("no header's name"));
        }
        let value = trimmed(&value[1..]);
        request
            .headers
            .push((name.to_ascii_lowercase(), value.to_vec()));
    }
}

/// RFC 9112, 6.3, without any of its leniency.
fn framing(request: &Request) -> Step<Framing> {
    let lengths: Vec<_> = request.values("content-length").collect();
    let encodings: Vec<_> = request.values("transfer-encoding").collect();
    match (&lengths[..], &encodings[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) => number(length, 10).map(Framing::Length),
        ([], [encoding]) if encoding.eq_ignore_ascii_case(b"chunked") => match &request.version[..]
        {
            b"HTTP/1.1" => Ok(Framing::Chunked),
            _ => Err(Stop::Fault("chunks in HTTP/1.0")),
        },
        _ => Err(Stop::Fault("no clear framing")),
    }
}

fn body(rest: &mut &[u8], request: &mut Request, framing: Framing) -> Step<()> {
    match framing {
        Framing::Length(length) => take(rest, length, &mut request.body)?,
        Framing::Chunked => loop {
            let size = line(rest)?;
            request.is_doubtful |= size.len() > MANY_BYTES;
            // Whoever does not know what is behind the size has to pass it over: 7.1.1.
            let digits = size.split(|byte| *byte == b';').next().unwrap_or_default();
            match number(digits, 16)? {
                0 => {
                    request.is_doubtful |= !trailers(rest)?;
                    break;
                }
                size => take(rest, size, &mut request.body)?,
            }
            if !line(rest)?.is_empty() {
                return Err(Stop::Fault("a chunk does not end where it should"));
            }
        },
    }
    request.has_all = true;
    Ok(())
}

fn take(rest: &mut &[u8], length: usize, body: &mut Vec<u8>) -> Step<()> {
    let count = length.min(rest.len());
    body.extend_from_slice(&rest[..count]);
    *rest = &rest[count..];
    match count == length {
        true => Ok(()),
        false => Err(Stop::Short),
    }
}

/// A line, which ends with CR LF and has neither of them within.
fn line<'b>(rest: &mut &'b [u8]) -> Step<&'b [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n');
    let (line, after) = rest.split_at(end.ok_or(Stop::Short)? + 1);
    let line = line.strip_suffix(b"\r\n").ok_or(Stop::Fault("no CR LF"))?;
    ensure(!line.contains(&b'\r'), "CR within a line")?;
    *rest = after;
    Ok(line)
}

fn ensure(is_so: bool, fault: &'static str) -> Step<()> {
    is_so.then_some(()).ok_or(Stop::Fault(fault))
}

fn number(digits: &[u8], radix: u32) -> Step<usize> {
    let is_digit = |byte: &u8| char::from(*byte).is_digit(radix);
    let text = std::str::from_utf8(digits).ok();
    let text = text.filter(|text| text.bytes().all(|byte| is_digit(&byte)));
    let number = text.and_then(|text| usize::from_str_radix(text, radix).ok());
    number.ok_or(Stop::Fault("no number"))
}

fn trimmed(value: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_blank(byte));
    let end = value.iter().rposition(|byte| !is_blank(byte));
    match (start, end) {
        (Some(start), Some(end)) => &value[start..=end],
        _ => &[],
    }
}

/// Reads up to their end. Tells whether they are headers, and few enough for every reader.
fn trailers(rest: &mut &[u8]) -> Step<bool> {
    let mut count = 0;
    let mut are_headers = true;
    loop {
        let line = line(rest)?;
        if line.is_empty() {
            return Ok(are_headers && count <= MANY_LINES);
        }
        count += 1;
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let is_named = parts.next().is_some_and(is_token);
        let is_text = |byte: &u8| !byte.is_ascii_control() || *byte == b'\t';
        let has_value = parts.next().is_some_and(|value| value.iter().all(is_text));
        are_headers &= is_named && has_value;
    }
}

/// RFC 9110, 5.6.2.
fn is_token(name: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(is_allowed)
}
