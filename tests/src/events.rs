//! A reader of `/v1/events`.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::admin::Admin;

/// For the next event, or the next sign of life.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An event as it comes.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its kind.
    pub name: String,
    /// Its number.
    pub id: Option<u64>,
    /// Its data.
    pub data: Value,
}

/// Follows events. Dropping it ends that.
#[derive(Debug)]
pub struct Follower {
    lines: BufReader<UnixStream>,
}

impl Admin {
    /// Follows events from now on, over the unix socket; `query` is empty or begins with `?`.
    pub fn follow(&self, query: &str) -> Result<Follower> {
        let Self::Unix(socket) = self else {
            anyhow::bail!("events are followed over a unix socket here, not over {self}");
        };
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        // HTTP/1.0, so that the body comes as it is, without chunks.
        write!(
            stream,
            "GET /v1/events{query} HTTP/1.0\r\nHost: localhost\r\n\r\n"
        )?;
        let mut follower = Follower {
            lines: BufReader::new(stream),
        };
        let status = follower.line()?;
        ensure!(status.contains(" 200 "), "GET /v1/events{query}: {status}");
        let mut is_stream = false;
        loop {
            let line = follower.line()?.to_lowercase();
            if line.is_empty() {
                break;
            }
            is_stream |= line.starts_with("content-type: text/event-stream");
        }
        ensure!(is_stream, "GET /v1/events{query} is no stream of events");
        Ok(follower)
    }
}

impl Follower {
    /// The next event.
    pub fn next_event(&mut self) -> Result<Event> {
        let (mut name, mut id, mut data) = (None, None, None);
        loop {
            let line = self.line()?;
            if line.is_empty() && data.is_none() {
                continue;
            }
            let Some((field, value)) = line.split_once(':') else {
                ensure!(line.is_empty(), "no line of an event: {line}");
                break;
            };
            let value = value.trim_start();
            match field {
                "event" => name = Some(value.to_owned()),
                "id" => id = Some(value.parse().context("an id that is no number")?),
                "data" => data = Some(serde_json::from_str(value).context("data that is no JSON")?),
                // A comment.
                "" => {}
                _ => anyhow::bail!("an unknown field: {line}"),
            }
        }
        Ok(Event {
            name: name.context("an event without a name")?,
            id,
            data: data.context("an event without data")?,
        })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).context("no event came")?;
        ensure!(read != 0, "the stream of events ended");
        Ok(line.trim_end().to_owned())
    }
}
