//! A small blocking client for the agent's admin API, over its unix socket or TCP.
//!
//! It speaks HTTP/1.0, so that a response ends where the connection does.

use std::{
    fmt,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Where an admin API listens.
#[derive(Clone, Debug)]
pub enum Admin {
    /// On a unix socket.
    Unix(PathBuf),
    /// On a TCP address, reachable from the calling thread's namespace.
    Tcp(SocketAddr),
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Header lines as they came.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Admin {
    /// `GET`.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.send("GET", path, "")
    }

    /// `GET` of something that must be there and be JSON.
    pub fn get_json(&self, path: &str) -> Result<Value> {
        let answer = self.get(path)?;
        if answer.status != 200 {
            bail!(
                "GET {path} on {self}: status {}: {}",
                answer.status,
                answer.body.trim()
            );
        }
        answer
            .json()
            .with_context(|| format!("GET {path} on {self}"))
    }

    /// Any method, with a JSON body unless that is empty.
    pub fn send(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        self.send_with(method, path, "", body)
    }

    /// [`Admin::send`] with further header lines, each ended by CR LF.
    pub fn send_with(&self, method: &str, path: &str, headers: &str, body: &str) -> Result<Answer> {
        let exchanged = match self {
            Self::Unix(socket) => UnixStream::connect(socket).and_then(|stream| {
                stream.set_read_timeout(Some(TIMEOUT))?;
                exchange(stream, method, path, headers, body)
            }),
            Self::Tcp(address) => TcpStream::connect_timeout(address, TIMEOUT).and_then(|stream| {
                stream.set_read_timeout(Some(TIMEOUT))?;
                exchange(stream, method, path, headers, body)
            }),
        };
        let bytes = exchanged.with_context(|| format!("{method} {path} on {self}"))?;
        parse(&bytes).with_context(|| format!("{method} {path} on {self}: not an HTTP response"))
    }
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

impl Answer {
    /// The value of a header line.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let mut lines = lines.filter(|(it, _)| it.eq_ignore_ascii_case(name));
        lines.next().map(|(_, value)| value.trim())
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<Vec<u8>> {
    let mut request = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\n{headers}");
    if !body.is_empty() {
        request += &format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        );
    }
    request += "\r\n";
    request += body;
    stream.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    Ok(response)
}

fn parse(response: &[u8]) -> Result<Answer> {
    let text = String::from_utf8(response.to_vec()).context("not text")?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("the head does not end")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("no status")?;
    Ok(Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_taken_apart() {
        let answer =
            parse(b"HTTP/1.0 503 Service Unavailable\r\na: b\r\n\r\n{\"x\": [1]}").expect("parses");
        assert_eq!(answer.status, 503);
        assert_eq!(answer.json().expect("JSON")["x"][0], 1);
        assert!(parse(b"").is_err());
    }
}
