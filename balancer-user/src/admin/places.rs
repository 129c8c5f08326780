//! The connections of one listener at a time, and who makes way when there are too many: whoever
//! has been silent longest.
//!
//! A connection is silent from its beginning until a request has come whole, and again from the end
//! of an answer. So neither idle clients nor such as send a request byte by byte keep others out.
//! Nobody is interrupted who is being answered. Owns no connection; called by `serve`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio::sync::Notify;

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// Told to leave by these; those that have been silent longest come first.
    silent: VecDeque<Arc<Notify>>,
}

impl State {
    /// Whether it was silent, and had not been told to leave.
    fn remove(&mut self, leave: &Arc<Notify>) -> bool {
        let mut silent = self.silent.iter();
        let position = silent.position(|other| Arc::ptr_eq(other, leave));
        position.and_then(|at| self.silent.remove(at)).is_some()
    }
}

/// One connection's. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    leave: Arc<Notify>,
}

/// While a request is answered.
#[derive(Debug)]
pub(super) struct Answering {
    place: Arc<Place>,
    was_silent: bool,
}

/// While a request comes in: with its end, when all of it has come or nobody wants the rest, the answer
/// begins, which lasts as long as what [`Place::asking`] gives beside this.
#[derive(Debug)]
pub(super) struct Asking {
    place: Arc<Place>,
    answer: Arc<OnceLock<Answering>>,
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// A place, if need be that of whoever has been silent longest. None while all are taken and
    /// nobody is silent.
    pub(super) fn take(self: &Arc<Self>) -> Option<Arc<Place>> {
        let mut state = self.state();
        if state.taken < self.most {
            state.taken += 1;
        } else {
            // Its place goes on to the newcomer.
            state.silent.pop_front()?.notify_one();
        }
        let leave = Arc::<Notify>::default();
        state.silent.push_back(leave.clone());
        Some(Arc::new(Place {
            places: self.clone(),
            leave,
        }))
    }

    /// Ends when there may be a place where there was none.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Ends when somebody else has this place.
    pub(super) async fn lost(&self) {
        self.leave.notified().await;
    }

    /// A request's head has come.
    pub(super) fn asking(self: &Arc<Self>) -> (Asking, Arc<OnceLock<Answering>>) {
        let answer = Arc::<OnceLock<Answering>>::default();
        let asking = Asking {
            place: self.clone(),
            answer: answer.clone(),
        };
        (asking, answer)
    }

    fn answering(self: &Arc<Self>) -> Answering {
        Answering {
            was_silent: self.places.state().remove(&self.leave),
            place: self.clone(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state();
        if state.remove(&self.leave) {
            state.taken -= 1;
            self.places.changed.notify_one();
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let _ = self.answer.set(self.place.answering());
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.was_silent {
            let Place { places, leave } = &*self.place;
            places.state().silent.push_back(leave.clone());
            places.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn has_lost(place: &Place) -> bool {
        place.lost().now_or_never().is_some()
    }

    #[test]
    fn who_has_been_silent_longest_makes_way() {
        let places = Places::new(2);
        let [first, second] = [(); 2].map(|()| places.take().unwrap());
        drop(first.answering());
        let third = places.take().unwrap();
        assert!(has_lost(&second) && !has_lost(&first));
        // What it goes on to do changes nothing.
        drop(second.answering());
        drop(second);
        let fourth = places.take().unwrap();
        assert!(has_lost(&first) && !has_lost(&third) && !has_lost(&fourth));
    }

    #[test]
    fn nobody_makes_way_who_is_being_answered() {
        let places = Places::new(1);
        let place = places.take().unwrap();
        let answering = place.answering();
        assert!(places.take().is_none());
        assert!(places.changed().now_or_never().is_none());
        drop(answering);
        assert!(places.changed().now_or_never().is_some());
        assert!(places.take().is_some());
        assert!(has_lost(&place));
    }

    #[test]
    fn who_has_not_asked_to_the_end_makes_way() {
        let places = Places::new(1);
        let place = places.take().unwrap();
        let (asking, answer) = place.asking();
        let other = places.take().unwrap();
        assert!(has_lost(&place));
        drop((asking, answer, place));
        let (asking, answer) = other.asking();
        drop(asking);
        assert!(places.take().is_none());
        drop(answer);
        assert!(places.take().is_some());
    }

    #[test]
    fn a_place_is_free_when_its_connection_has_ended() {
        let places = Places::new(1);
        let place = places.take().unwrap();
        let answering = place.answering();
        drop(place);
        assert!(places.take().is_none());
        drop(answering);
        assert!(places.changed().now_or_never().is_some());
        let place = places.take().unwrap();
        assert!(!has_lost(&place));
    }
}
