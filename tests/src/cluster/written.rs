//! When an event has left for every watch stream that it belongs to.
//!
//! Benches count from here: it is the moment from which the agent can know. Made by `store`, told
//! by `connection`.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    time::{Duration, Instant},
};

/// Told with the time when bytes have been handed to the kernel.
pub(super) type Mark = Box<dyn FnOnce(Instant) + Send>;

/// The coming report about one change.
#[derive(Debug)]
pub struct Written(Receiver<Report>);

/// A change's way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Right after its last byte was written to the last stream; if there was none, the time of
    /// the change.
    pub at: Instant,
    /// Streams it was written to. Those that broke before are not among them.
    pub streams: usize,
}

/// A change that is not on all its streams, within the time given.
#[derive(Debug, thiserror::Error)]
#[error("the change is not on all its streams after {0:?}: is its kind held back or delayed?")]
pub struct NotWritten(Duration);

impl Written {
    /// Waits, blocking, until the change is on every stream.
    pub fn wait(&self, deadline: Duration) -> Result<Report, NotWritten> {
        self.0
            .recv_timeout(deadline)
            .map_err(|_| NotWritten(deadline))
    }

    /// The report, if it is there already.
    pub fn now(&self) -> Option<Report> {
        self.0.try_recv().ok()
    }
}

/// Gathers the marks of one change; the report goes out when the last is told or gone.
#[derive(Debug)]
pub(super) struct Gathering {
    so_far: Mutex<Report>,
    report: Sender<Report>,
}

impl Gathering {
    pub(super) fn begin() -> (Arc<Self>, Written) {
        let (report, written) = mpsc::channel();
        let so_far = Mutex::new(Report {
            at: Instant::now(),
            streams: 0,
        });
        (Arc::new(Self { so_far, report }), Written(written))
    }

    /// A mark for one stream.
    pub(super) fn mark(self: &Arc<Self>) -> Mark {
        let gathering = Arc::clone(self);
        Box::new(move |at| {
            let mut report = gathering
                .so_far
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            report.at = report.at.max(at);
            report.streams += 1;
        })
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let report = *self.so_far.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody has to want it.
        let _ = self.report.send(report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_comes_with_the_last_mark_and_leaves_out_the_lost() {
        let (gathering, written) = Gathering::begin();
        let marks = [gathering.mark(), gathering.mark(), gathering.mark()];
        drop(gathering);
        let [first, second, lost] = marks;
        let late = Instant::now() + Duration::from_secs(1);
        second(late);
        first(Instant::now());
        assert_eq!(written.now(), None);
        drop(lost);
        let report = written.wait(Duration::ZERO).expect("complete");
        assert_eq!(
            report,
            Report {
                at: late,
                streams: 2
            }
        );
    }
}
