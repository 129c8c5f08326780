//! Bodies on their way, and what is held until their end.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::{
    exchange::InFlight,
    link::Download,
    watch::{Kept, Watch},
    wire::Fault,
};

/// How long a client may send nothing of a body that it has announced.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client's body on its way upstream.
#[derive(Debug, Default)]
pub(super) struct Upload(Option<Rising>);

#[derive(Debug)]
struct Rising {
    body: Incoming,
    /// When the client has been waited for too long; nobody waits until this is there.
    until: Option<Pin<Box<Sleep>>>,
}

/// A client broke off in the middle of a body, or was silent for too long.
#[derive(Debug, thiserror::Error)]
#[error("the client did not send all of the body")]
pub(super) struct Incomplete;

impl From<Incoming> for Upload {
    fn from(body: Incoming) -> Self {
        Self((!body.is_end_stream()).then_some(Rising { body, until: None }))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Incomplete;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Incomplete>>> {
        let Some(Rising { body, until }) = &mut self.0 else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            *until = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|_| Incomplete)));
        }
        let until = until.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        ready!(until.as_mut().poll(context));
        Poll::Ready(Some(Err(Incomplete)))
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

/// A backend's answer on its way, with all that is held until its end. In a box, since answers are
/// moved about.
pub(super) type Held = Box<(Download, InFlight)>;

/// An answer's body on its way to the client.
#[derive(Debug)]
pub(super) enum Answer {
    /// One of our own.
    Own(Bytes),
    /// A backend's.
    Backend(Held),
    /// A backend's, beside others on the same connection.
    Beside(Arc<Kept>, Arc<Watch>),
    /// It has ended, or there was none.
    Over,
}

impl From<Bytes> for Answer {
    fn from(text: Bytes) -> Self {
        Self::Own(text)
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, Fault>>>;

/// The next frame; with the last one, whatever is held is let go.
fn poll_held(held: &mut Option<Held>, context: &mut Context<'_>) -> Polled {
    let Some(answer) = held else {
        return Poll::Ready(Some(Err(Fault::Client)));
    };
    let frame = ready!(answer.0.poll_frame(context));
    if matches!(frame, Some(Ok(_))) && !answer.0.is_over() {
        return Poll::Ready(frame);
    }
    if let Some(answer) = held.take() {
        let (download, in_flight) = *answer;
        match &frame {
            Some(Err(fault)) => {
                // Before the slot is given back, with which another may come.
                drop(download);
                in_flight.broke(fault);
            }
            _ => in_flight.finish(download.into_link()),
        }
    }
    Poll::Ready(frame)
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        match std::mem::replace(this, Self::Over) {
            Self::Own(text) => Poll::Ready(Some(Ok(Frame::data(text)))),
            Self::Over => Poll::Ready(None),
            Self::Backend(held) => {
                let mut held = Some(held);
                let polled = poll_held(&mut held, context);
                if let Some(held) = held {
                    *this = Self::Backend(held);
                }
                polled
            }
            Self::Beside(kept, watch) => {
                let mut held = kept.answer();
                let polled = poll_held(&mut held, context);
                let is_over = held.is_none();
                drop(held);
                watch.handed(&kept, polled.is_ready());
                if !is_over {
                    *this = Self::Beside(kept, watch);
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Over)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(text) => SizeHint::with_exact(text.len() as u64),
            Self::Backend(held) => held.0.size_hint(),
            Self::Beside(kept, _) => match &*kept.answer() {
                Some(held) => held.0.size_hint(),
                None => SizeHint::default(),
            },
            Self::Over => SizeHint::with_exact(0),
        }
    }
}
