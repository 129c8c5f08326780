//! Look-ups of ConfigMaps, which are not watched: one at a time for each, a few at once, and
//! again every now and then, each at a time of its own.
//!
//! Bounded by what services go by: what none does is forgotten when its turn comes. Called by the
//! follower; the answers come to it like everything else that is heard.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::{Api, Client};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use super::limit::{ConfigMap, Needs};
use super::object::Key;
use super::watch::Heard;

/// Look-ups at once at most.
const AT_ONCE: usize = 16;

/// How long one look-up may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// After how long what a service waits for is looked up again: at first, and at most.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// Looks ConfigMaps up.
pub(super) struct ConfigMaps {
    /// One that does not try again by itself.
    client: Client,
    heard: mpsc::Sender<Heard>,
    turns: Arc<Semaphore>,
    /// How often each is looked up in any case, more or less.
    every: Duration,
    known: HashMap<Key, LookUp>,
    /// Those that are not under way, by when they are next.
    due: BTreeSet<(Instant, Key)>,
    /// Those whose answers have come, and of which nobody has said yet when they are next.
    answered: Vec<Key>,
}

/// The last look-up of one ConfigMap.
#[derive(Default)]
struct LookUp {
    /// The keys that it was asked for.
    keys: BTreeSet<Box<str>>,
    /// When the next is; `None`: this one is under way.
    due: Option<Instant>,
    /// How many there have been without what a service waits for.
    vain: u32,
}

impl ConfigMaps {
    pub(super) fn new(client: Client, heard: mpsc::Sender<Heard>, every: Duration) -> Self {
        Self {
            client,
            heard,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            every,
            known: HashMap::new(),
            due: BTreeSet::new(),
            answered: Vec::new(),
        }
    }

    /// Waits until one is to be looked up again, and gives it.
    pub(super) async fn next(&self) -> Key {
        match self.due.first() {
            Some((at, key)) => {
                sleep_until(*at).await;
                key.clone()
            }
            None => std::future::pending().await,
        }
    }

    /// Looks one up, unless that is under way.
    pub(super) fn ask(&mut self, key: Key, needs: Needs) {
        let look_up = self.known.get(&key);
        if look_up.is_some_and(|look_up| look_up.due.is_none()) {
            return;
        }
        let look_up = self.known.entry(key.clone()).or_default();
        if let Some(at) = look_up.due.take() {
            self.due.remove(&(at, key.clone()));
        }
        look_up.keys = needs.keys;
        let keys = look_up.keys.clone();
        let api = Api::<core::ConfigMap>::namespaced(self.client.clone(), &key.namespace);
        let (heard, turns) = (self.heard.clone(), self.turns.clone());
        tokio::spawn(async move {
            let says = {
                let _turn = turns.acquire().await;
                let found = timeout(TIMEOUT, api.get(&key.name)).await;
                found.map_or_else(
                    |_| ConfigMap::Unanswered("the API does not answer".to_owned()),
                    |found| ConfigMap::of(found, keys),
                )
            };
            let _ = heard.send(Heard::ConfigMap(key, says)).await;
        });
    }

    /// Notes that an answer has come.
    pub(super) fn answered(&mut self, key: Key) {
        self.answered.push(key);
    }

    /// Says when those are next whose answers have come, by what is still needed of them. Gives
    /// those of which nothing is.
    pub(super) fn plan(&mut self, needs: impl Fn(&Key) -> Option<Needs>) -> Vec<Key> {
        let mut idle = Vec::new();
        for key in std::mem::take(&mut self.answered) {
            match (needs(&key), self.known.get_mut(&key)) {
                (Some(needs), Some(look_up)) => {
                    look_up.vain = match needs.is_awaited {
                        true => look_up.vain.saturating_add(1),
                        false => 0,
                    };
                    let wait = wait(look_up.vain, self.every);
                    let at = Instant::now() + wait;
                    look_up.due = Some(at);
                    self.due.insert((at, key.clone()));
                    if !needs.keys.is_subset(&look_up.keys) {
                        self.ask(key, needs);
                    }
                }
                _ => {
                    self.forget(&key);
                    idle.push(key);
                }
            }
        }
        idle
    }

    /// Forgets one that nobody needs any more.
    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(LookUp { due: Some(at), .. }) = self.known.remove(key) {
            self.due.remove(&(at, key.clone()));
        }
    }
}

impl ConfigMap {
    /// What an answer says of these keys.
    fn of(found: Result<core::ConfigMap, kube::Error>, keys: BTreeSet<Box<str>>) -> Self {
        let error = match found {
            Ok(found) => return Self::holds(found, keys),
            Err(error) => error,
        };
        match error {
            kube::Error::Api(status) => match status.code {
                404 => Self::Missing,
                // The API is busy, or the agent's token is being renewed.
                401 | 408 | 429 => Self::Unanswered(status.message),
                400..500 => Self::Unreadable(status.message),
                _ => Self::Unanswered(status.message),
            },
            error => Self::Unanswered(error.to_string()),
        }
    }

    /// What one holds of these keys.
    pub(super) fn holds(found: core::ConfigMap, keys: BTreeSet<Box<str>>) -> Self {
        let mut data = found.data.unwrap_or_default();
        let value = |key: Box<str>| {
            let value = data.remove(&*key).map(String::into_boxed_str);
            (key, value)
        };
        Self::Holds(keys.into_iter().map(value).collect())
    }
}

/// How long until the next look-up after so many in vain. No two agents keep the same time, and no
/// two ConfigMaps.
fn wait(vain: u32, every: Duration) -> Duration {
    let [first, most] = AGAIN_AFTER;
    match vain.checked_sub(1) {
        None => every.mul_f64(0.75 + 0.5 * fastrand::f64()),
        Some(doublings) => {
            let longest = first.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX));
            longest
                .min(most)
                .min(every)
                .mul_f64(0.5 + 0.5 * fastrand::f64())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_awaited_is_asked_for_soon_and_ever_more_seldom() {
        let every = Duration::from_secs(30);
        for (vain, most) in [(1, 100), (2, 200), (6, 3_200), (7, 5_000), (40, 5_000)] {
            let most = Duration::from_millis(most);
            for _ in 0..100 {
                let wait = wait(vain, every);
                assert!(most / 2 <= wait && wait <= most, "{vain}: {wait:?}");
            }
        }
    }

    #[test]
    fn what_is_known_is_asked_for_all_over_the_interval() {
        let every = Duration::from_secs(30);
        let waits: Vec<_> = (0..1_000).map(|_| wait(0, every)).collect();
        let within = |from: f64, to: f64| {
            let is_there =
                |wait: &&Duration| (every.mul_f64(from)..every.mul_f64(to)).contains(wait);
            waits.iter().filter(is_there).count()
        };
        assert_eq!(within(0.75, 1.25), waits.len());
        assert!(within(0.75, 0.85) > 50 && within(1.15, 1.25) > 50);
    }

    #[test]
    fn only_the_keys_in_use_are_kept_of_an_answer() {
        let data = [("a", "1"), ("b", "2")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let found = core::ConfigMap {
            data: Some(data.into()),
            ..core::ConfigMap::default()
        };
        let keys = ["a", "c"].map(Box::from);
        let expected = [("a".into(), Some("1".into())), ("c".into(), None)];
        assert_eq!(
            ConfigMap::of(Ok(found), keys.into()),
            ConfigMap::Holds(expected.into())
        );
    }
}
