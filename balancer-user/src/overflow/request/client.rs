//! A client's connection, as the HTTP library reads and writes it.
//!
//! Notes for `watch` what is waited for, has `framing` look at what comes in, and closes so that
//! the client can read the last answer.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{
    framing::{Found, Framing},
    watch::Watch,
};

/// Pieces that are no larger together are sent as one.
const SMALL: usize = 2048;
/// How long a closed connection may linger, and how much of what still comes is thrown away.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// The connection. What was read of it before comes first.
#[derive(Debug)]
pub(super) struct Client<S> {
    stream: S,
    first: Bytes,
    watch: Arc<Watch>,
    framing: Framing,
    end: End,
}

#[derive(Debug)]
enum End {
    /// Not in sight.
    Open,
    /// The client will send no more.
    Eof,
    /// What it sent is at fault. If the library has been made to tell it so, this is the end.
    Faulty { is_told: bool },
    /// Shut from this side.
    Lingering {
        is_over: Pin<Box<Sleep>>,
        bytes_left: usize,
    },
}

impl<S> Client<S> {
    /// One that speaks HTTP/1.
    pub(super) fn http1(stream: S, first: Bytes, watch: Arc<Watch>) -> Self {
        Self {
            stream,
            first,
            watch,
            framing: Framing::default(),
            end: End::Open,
        }
    }

    /// One that speaks HTTP/2, whose framing leaves nothing to doubt.
    pub(super) fn http2(stream: S, first: Bytes, watch: Arc<Watch>) -> Self {
        let mut client = Self::http1(stream, first, watch);
        client.framing.end();
        client
    }

    /// Lets `framing` have a look at what came. What is faulty is kept from the library.
    fn inspect(&mut self, buffer: &mut ReadBuf<'_>, before: usize) -> io::Result<()> {
        if self.framing.is_asked() {
            if self.watch.is_switched() {
                self.framing.end();
            } else if !self.watch.is_busy() {
                self.framing.go_on();
            }
        }
        let result = self.framing.take(&buffer.filled()[before..]);
        self.watch.received(self.framing.is_in_head());
        let Err(Found {
            fault,
            fine,
            is_in_head,
        }) = result
        else {
            return Ok(());
        };
        tracing::debug!(%fault, "a client's request is malformed");
        buffer.set_filled(before + fine);
        self.end = End::Faulty {
            is_told: is_in_head,
        };
        if is_in_head {
            // No head has this byte anywhere, so the library answers 400.
            buffer.put_slice(b"\0");
        } else if fine == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Client<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let End::Faulty { is_told } = this.end {
            return Poll::Ready(match is_told {
                true => Ok(()),
                false => Err(io::ErrorKind::InvalidData.into()),
            });
        }
        let before = buffer.filled().len();
        if this.first.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        } else {
            let count = this.first.len().min(buffer.remaining());
            buffer.put_slice(&this.first.split_to(count));
        }
        if buffer.filled().len() == before {
            this.end = End::Eof;
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(this.inspect(buffer, before))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Client<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch.blocked(result.is_pending());
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = parts.iter().map(|part| part.len()).sum();
        if length > SMALL {
            let result = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
            self.watch.blocked(result.is_pending());
            return result;
        }
        // One piece goes out at less cost than two.
        let mut whole = [0; SMALL];
        let mut rest = &mut whole[..];
        for part in parts {
            rest.put_slice(part);
        }
        self.poll_write(context, &whole[..length])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Says that there is no more, and then waits, for a moment, for the client to say so too: what
    /// it still sends would make the kernel reset the connection, and the client lose the answer.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !matches!(this.end, End::Lingering { .. }) {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
            if matches!(this.end, End::Eof) {
                return Poll::Ready(Ok(()));
            }
            this.end = End::Lingering {
                is_over: Box::pin(sleep(LINGER)),
                bytes_left: LINGER_BYTES,
            };
        }
        let End::Lingering {
            is_over,
            bytes_left,
        } = &mut this.end
        else {
            return Poll::Ready(Ok(()));
        };
        let mut scrap = [MaybeUninit::uninit(); 4096];
        while *bytes_left > 0 {
            let mut scrap = ReadBuf::uninit(&mut scrap);
            match Pin::new(&mut this.stream).poll_read(context, &mut scrap) {
                Poll::Ready(Ok(())) if !scrap.filled().is_empty() => {
                    *bytes_left = bytes_left.saturating_sub(scrap.filled().len());
                }
                Poll::Ready(_) => break,
                Poll::Pending => return is_over.as_mut().poll(context).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}
