//! A blocking HTTP/1.1 client that sends exactly the bytes it is given, also wrong ones, and takes
//! the answers apart.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
};

use anyhow::{Context, Result, bail, ensure};

/// One side of an HTTP connection: it sends bytes and reads messages, answers or requests.
#[derive(Debug)]
pub struct Http {
    reader: BufReader<TcpStream>,
}

/// A message: an answer, or a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The first line.
    pub start: String,
    /// Headers, as they came.
    pub headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// Trailers, as they came.
    pub trailers: Vec<(String, String)>,
}

impl Http {
    /// Over an established connection.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            reader: BufReader::new(stream),
        }
    }

    /// The connection.
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The connection, for something that is not HTTP. What was read of it already is lost.
    pub fn into_stream(self) -> TcpStream {
        self.reader.into_inner()
    }

    /// Sends bytes as they are.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream().write_all(bytes.as_ref())
    }

    /// Says that no more will be sent.
    pub fn finish(&self) -> io::Result<()> {
        self.stream().shutdown(Shutdown::Write)
    }

    /// Sends a request and reads its answer.
    pub fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Result<Message> {
        self.send(bytes).context("cannot ask")?;
        self.receive()
    }

    /// `GET` of a path, over a connection that is kept.
    pub fn get(&mut self, path: &str) -> Result<Message> {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: function\r\n\r\n"))
    }

    /// Reads a message with its whole body.
    pub fn receive(&mut self) -> Result<Message> {
        let mut message = self.receive_head()?;
        self.receive_body(&mut message)?;
        Ok(message)
    }

    /// Reads a message up to its body.
    pub fn receive_head(&mut self) -> Result<Message> {
        let message = self.try_receive_head()?;
        let ended = || {
            let what = "the connection ended instead of an answer";
            io::Error::new(io::ErrorKind::UnexpectedEof, what)
        };
        Ok(message.ok_or_else(ended)?)
    }

    /// Reads a message up to its body, if there is one before the connection ends: in whatever way.
    pub fn try_receive_head(&mut self) -> Result<Option<Message>> {
        let start = match self.line() {
            Ok(start) => start,
            Err(error) => {
                return match error.downcast_ref::<io::Error>().map(io::Error::kind) {
                    Some(
                        io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::BrokenPipe,
                    ) => Ok(None),
                    _ => Err(error),
                };
            }
        };
        Ok(Some(Message {
            start,
            headers: self.fields()?,
            ..Message::default()
        }))
    }

    /// Reads the body of the message whose head came last.
    pub fn receive_body(&mut self, message: &mut Message) -> Result<()> {
        if message.has_no_body() {
            return Ok(());
        }
        if message.is_chunked() {
            while let Some(chunk) = self.chunk()? {
                message.body.extend(chunk);
            }
            message.trailers = self.fields()?;
        } else if let Some(length) = message.header("content-length") {
            message.body = self.exactly(length.parse()?)?;
        } else if !message.is_request() {
            self.reader.read_to_end(&mut message.body)?;
        }
        Ok(())
    }

    /// Reads one chunk; `None` for the last, which is empty.
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let length = usize::from_str_radix(&line, 16).with_context(|| format!("{line:?}"))?;
        if length == 0 {
            return Ok(None);
        }
        let chunk = self.exactly(length)?;
        ensure!(
            self.line()?.is_empty(),
            "a chunk does not end where it says"
        );
        Ok(Some(chunk))
    }

    /// Reads so many bytes.
    pub fn exactly(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.reader
            .read_exact(&mut bytes)
            .with_context(|| format!("{length} bytes do not come"))?;
        Ok(bytes)
    }

    /// Checks that the other side ends the connection, having said no more.
    pub fn expect_end(&mut self) -> Result<()> {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => return Err(error).context("the connection does not end"),
        }
        let rest = String::from_utf8_lossy(&rest);
        ensure!(rest.is_empty(), "there is more: {rest}");
        Ok(())
    }

    fn fields(&mut self) -> Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let Some((name, value)) = line.split_once(':') else {
                bail!("no header: {line:?}");
            };
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let line = line.strip_suffix(b"\r\n").context("a bare LF")?;
        Ok(String::from_utf8_lossy(line).into_owned())
    }
}

impl Message {
    /// An answer's status.
    #[track_caller]
    pub fn status(&self) -> u16 {
        let status = self.start.split(' ').nth(1);
        let status = status.and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| panic!("no answer: {}", self.start))
    }

    /// The value of a header, if it is there; it must not be there twice.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() <= 1, "{name} several times: {values:?}");
        values.first().copied()
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let headers = self.headers.iter();
        headers
            .filter(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| &**value)
            .collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn is_request(&self) -> bool {
        !self.start.starts_with("HTTP/")
    }

    fn is_chunked(&self) -> bool {
        self.all("transfer-encoding")
            .iter()
            .any(|value| value.eq_ignore_ascii_case("chunked"))
    }

    fn has_no_body(&self) -> bool {
        !self.is_request() && matches!(self.status(), 100..=199 | 204 | 304)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn received(bytes: &[u8]) -> Http {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut sender = TcpStream::connect(address).expect("connects");
        sender.write_all(bytes).expect("sends");
        Http::new(listener.accept().expect("accepts").0)
    }

    #[test]
    fn messages_are_taken_apart() {
        let mut http = received(
            b"HTTP/1.1 100 Continue\r\n\r\n\
              HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\
              HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\nA: b\r\n\r\n\
              3\r\nabc\r\n1\r\nd\r\n0\r\nsum: 1\r\n\r\n",
        );
        assert_eq!(http.receive().expect("an answer").status(), 100);
        assert_eq!(http.receive().expect("an answer").text(), "ok");
        let last = http.receive().expect("an answer");
        assert_eq!((last.status(), &*last.text()), (503, "abcd"));
        assert_eq!(last.header("a"), Some("b"));
        assert_eq!(last.trailers, [("sum".to_owned(), "1".to_owned())]);
        assert_eq!(http.try_receive_head().expect("the end"), None);
    }
}
