//! What goes wrong, on demand.
//!
//! Faults are switched here and acted out by `feed` (streams), `answer` (answers) and `connection`
//! (the port). They hold until they are switched off, or [`Faults::heal`] is called.

use std::{array, sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use tokio::sync::watch;

use super::{Kind, refused::Refused, store::Store};
use crate::wait::within;

/// How long an outage may take to begin or end.
const SWITCHING: Duration = Duration::from_secs(5);
/// As real API servers do.
const BOOKMARKS_EVERY: Duration = Duration::from_secs(60);

/// The switches. Kinds are given as one ([`Kind::Pod`]), several (`[Kind::Pod, Kind::Node]`) or
/// all ([`Kind::ALL`]).
#[derive(Clone, Debug)]
pub struct Faults {
    pub(super) state: Arc<watch::Sender<State>>,
    pub(super) serving: watch::Receiver<bool>,
    pub(super) store: Arc<Store>,
}

/// All faults at a moment.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) outage: bool,
    /// 410 as the HTTP status rather than as the stream's first and last event.
    pub(super) gone_as_status: bool,
    pub(super) bookmarks_every: Duration,
    kinds: [KindState; Kind::ALL.len()],
}

/// A kind's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KindState {
    pub(super) delay: Duration,
    pub(super) duplicate: bool,
    pub(super) held: bool,
    pub(super) trickle: Option<Trickle>,
    /// Events still to be cut.
    pub(super) cuts: u32,
    /// Counts the times that all streams were broken off.
    pub(super) breaks: u32,
    /// Counts the times that all streams were ended properly.
    pub(super) ends: u32,
    pub(super) forbidden: bool,
    pub(super) answers_after: Duration,
    /// Status and number of requests that get it.
    pub(super) answer: Option<(u16, u32)>,
}

/// Pieces and pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trickle {
    pub(super) piece_bytes: usize,
    pub(super) pause: Duration,
}

impl Default for State {
    fn default() -> Self {
        Self {
            outage: false,
            gone_as_status: false,
            bookmarks_every: BOOKMARKS_EVERY,
            kinds: array::from_fn(|_| KindState::default()),
        }
    }
}

impl State {
    pub(super) fn of(&self, kind: Kind) -> KindState {
        self.kinds[kind.index()]
    }
}

impl Faults {
    /// Breaks every connection and refuses new ones, from when this returns.
    pub fn begin_outage(&self) -> Result<()> {
        self.switch_outage(true)
    }

    /// Takes connections again, at the same address, from when this returns.
    pub fn end_outage(&self) -> Result<()> {
        self.switch_outage(false)
    }

    /// Lets each event wait this long before it is sent; [`Duration::ZERO`] ends it.
    pub fn delay_events(&self, kinds: impl IntoIterator<Item = Kind>, delay: Duration) {
        self.set(kinds, |kind| kind.delay = delay);
    }

    /// Sends each event twice, or no longer.
    pub fn duplicate_events(&self, kinds: impl IntoIterator<Item = Kind>, on: bool) {
        self.set(kinds, |kind| kind.duplicate = on);
    }

    /// Holds the streams of these kinds back while those of others go on. Lists show what the
    /// streams have not yet said.
    pub fn hold(&self, kinds: impl IntoIterator<Item = Kind>) {
        self.set(kinds, |kind| kind.held = true);
    }

    /// Sends what was held back.
    pub fn release(&self, kinds: impl IntoIterator<Item = Kind>) {
        self.set(kinds, |kind| kind.held = false);
    }

    /// Sends streams in pieces with pauses between them.
    pub fn trickle(
        &self,
        kinds: impl IntoIterator<Item = Kind>,
        piece_bytes: usize,
        pause: Duration,
    ) {
        assert!(piece_bytes > 0, "a piece has at least one byte");
        self.set(kinds, |kind| {
            kind.trickle = Some(Trickle { piece_bytes, pause });
        });
    }

    /// Sends streams at full speed again.
    pub fn end_trickle(&self, kinds: impl IntoIterator<Item = Kind>) {
        self.set(kinds, |kind| kind.trickle = None);
    }

    /// Breaks a connection in the middle of the next event of each of these kinds: on one stream.
    pub fn cut_next_event(&self, kinds: impl IntoIterator<Item = Kind>) {
        self.set(kinds, |kind| kind.cuts += 1);
    }

    /// Breaks the connections of all open streams of these kinds.
    pub fn break_streams(&self, kinds: impl IntoIterator<Item = Kind>) {
        self.set(kinds, |kind| kind.breaks += 1);
    }

    /// Ends all open streams of these kinds properly, as API servers do now and then.
    pub fn end_streams(&self, kinds: impl IntoIterator<Item = Kind>) {
        self.set(kinds, |kind| kind.ends += 1);
    }

    /// Forgets history and begun lists: who wants to go on from any version before now gets 410.
    /// Open streams stay.
    pub fn expire_history(&self, kinds: impl IntoIterator<Item = Kind>) {
        for kind in kinds {
            self.store.expire(kind);
        }
    }

    /// Forgets history, and ends the open streams of these kinds with a 410 event.
    pub fn expire_streams(&self, kinds: impl IntoIterator<Item = Kind>) {
        for kind in kinds {
            self.store.expire(kind);
            self.store.say_gone(kind);
        }
    }

    /// Counts versions from the start again, as when the API's store was put back to a backup, and
    /// breaks all streams: who wants to go on from a version not yet come to gets 504.
    pub fn reset_version(&self) {
        self.store.reset_version();
        self.break_streams(Kind::ALL);
    }

    /// Whether a watch from a forgotten version gets 410 as its HTTP status, or (as at first) as
    /// the only event of its stream. Clients meet both.
    pub fn gone_as_status(&self, on: bool) {
        self.state.send_modify(|state| state.gone_as_status = on);
    }

    /// How often streams get bookmarks, if they allow them; 60 s at first.
    pub fn bookmarks_every(&self, interval: Duration) {
        self.state
            .send_modify(|state| state.bookmarks_every = interval);
    }

    /// Answers the next requests about each of these kinds with a status.
    pub fn answer(&self, kinds: impl IntoIterator<Item = Kind>, code: u16, times: u32) {
        self.set(kinds, |kind| kind.answer = Some((code, times)));
    }

    /// Lets every answer about these kinds wait this long; [`Duration::ZERO`] ends it.
    pub fn slow_answers(&self, kinds: impl IntoIterator<Item = Kind>, delay: Duration) {
        self.set(kinds, |kind| kind.answers_after = delay);
    }

    /// Answers every request about these kinds with 403, or no longer.
    pub fn forbid(&self, kinds: impl IntoIterator<Item = Kind>, on: bool) {
        self.set(kinds, |kind| kind.forbidden = on);
    }

    /// Switches everything off. History that was forgotten stays so.
    pub fn heal(&self) -> Result<()> {
        self.state.send_modify(|state| {
            for kind in &mut state.kinds {
                // The counts are no faults: streams compare them.
                *kind = KindState {
                    breaks: kind.breaks,
                    ends: kind.ends,
                    ..KindState::default()
                };
            }
            state.gone_as_status = false;
            state.bookmarks_every = BOOKMARKS_EVERY;
        });
        self.end_outage()
    }

    /// Why a request about this kind is refused on demand, if it is.
    pub(super) fn refusal(&self, kind: Kind) -> Option<Refused> {
        if self.state.borrow().of(kind).forbidden {
            return Some(Refused::Forbidden { kind });
        }
        let mut refusal = None;
        self.state.send_if_modified(|state| {
            let answer = &mut state.kinds[kind.index()].answer;
            if let Some((code, times)) = *answer {
                refusal = (times > 0).then_some(Refused::OnDemand { code });
                *answer = (times > 1).then_some((code, times - 1));
            }
            refusal.is_some()
        });
        refusal
    }

    /// Whether the caller has to cut its event: only one of those who ask gets it.
    pub(super) fn take_cut(&self, kind: Kind) -> bool {
        self.state.send_if_modified(|state| {
            let cuts = &mut state.kinds[kind.index()].cuts;
            let taken = *cuts > 0;
            *cuts = cuts.saturating_sub(1);
            taken
        })
    }

    fn set(&self, kinds: impl IntoIterator<Item = Kind>, set: impl Fn(&mut KindState)) {
        self.state.send_modify(|state| {
            for kind in kinds {
                set(&mut state.kinds[kind.index()]);
            }
        });
    }

    fn switch_outage(&self, outage: bool) -> Result<()> {
        self.state.send_modify(|state| state.outage = outage);
        within(SWITCHING, || {
            if *self.serving.borrow() == outage {
                Err("not switched")
            } else {
                Ok(())
            }
        })
        .map_err(|late| anyhow!("the API server's port cannot be opened or closed: {late}"))
    }
}
