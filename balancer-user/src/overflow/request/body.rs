//! Bodies on their way, and what is held until their end.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{exchange::InFlight, watch::Watch};

/// How long a client that waits for "100 Continue" is kept waiting if the backend says nothing.
const SILENCE: Duration = Duration::from_secs(1);

/// A client's body on its way upstream.
#[derive(Debug, Default)]
pub(super) struct Upload(Option<Rising>);

#[derive(Debug)]
struct Rising {
    body: Incoming,
    watch: Arc<Watch>,
    progress: Arc<Progress>,
    go: Option<Waiting>,
}

/// How far a body has got.
#[derive(Debug, Default)]
pub(super) struct Progress {
    is_over: AtomicBool,
    is_broken: AtomicBool,
}

/// The backend's word that the body may come.
#[derive(Clone, Debug, Default)]
pub(super) struct Go(CancellationToken);

struct Waiting(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Progress {
    /// All of it has been sent, or nobody wants more of it.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    /// The client broke off.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Relaxed)
    }
}

impl Go {
    /// It may.
    pub(super) fn give(&self) {
        self.0.cancel();
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Waiting")
    }
}

impl Upload {
    /// None at all.
    pub(super) fn empty() -> Self {
        Self::default()
    }

    /// One whose course can be asked for.
    pub(super) fn new(body: Incoming, watch: Arc<Watch>, progress: Arc<Progress>) -> Self {
        Self(Some(Rising {
            body,
            watch,
            progress,
            go: None,
        }))
    }

    /// Asks the client for nothing until the backend has given its word, or has been silent for
    /// too long: asking is what sends "100 Continue" to the client.
    pub(super) fn wait_for(&mut self, go: Go) {
        if let Some(rising) = &mut self.0 {
            rising.go = Some(Waiting(Box::pin(async move {
                // Being over time is as good.
                let _ = timeout(SILENCE, go.0.cancelled()).await;
            })));
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(rising) = &mut self.0 else {
            return Poll::Ready(None);
        };
        if let Some(go) = &mut rising.go {
            ready!(go.0.as_mut().poll(context));
            rising.go = None;
        }
        let polled = Pin::new(&mut rising.body).poll_frame(context);
        rising.watch.body(polled.is_pending());
        if let Poll::Ready(Some(Err(_))) = polled {
            rising.progress.is_broken.store(true, Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|rising| rising.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Some(rising) => rising.body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl Drop for Rising {
    fn drop(&mut self) {
        self.watch.body(false);
        self.progress.is_over.store(true, Relaxed);
    }
}

/// An answer's body on its way to the client.
#[derive(Debug)]
pub(super) enum Answer {
    /// One of our own.
    Own(Option<Bytes>),
    /// A backend's, with all that is held until its end.
    Backend(Incoming, Option<InFlight>),
}

impl From<Bytes> for Answer {
    fn from(text: Bytes) -> Self {
        Self::Own((!text.is_empty()).then_some(text))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let (body, in_flight) = match self.get_mut() {
            Self::Own(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Backend(body, in_flight) => (body, in_flight),
        };
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) if !frame.is_trailers() && !body.is_end_stream() => {}
            Some(Ok(_)) | None => {
                if let Some(in_flight) = in_flight.take() {
                    in_flight.finish();
                }
            }
            Some(Err(error)) => {
                if let Some(in_flight) = in_flight.take() {
                    in_flight.broke(error);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(text) => text.is_none(),
            Self::Backend(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Self::Backend(body, _) => body.size_hint(),
        }
    }
}
