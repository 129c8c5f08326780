//! Look-ups of ConfigMaps, which are not watched: one at a time for each, a few at once, and
//! again every now and then.
//!
//! Bounded by what services go by: what none does is forgotten with the service. Called by the
//! follower; the answers come to it like everything else that is heard.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::{Api, Client};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::object::Key;
use super::resolve::ConfigMap;
use super::watch::Heard;

/// Look-ups at once at most.
const AT_ONCE: usize = 16;

/// How long one look-up may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Looks ConfigMaps up.
pub(super) struct ConfigMaps {
    client: Client,
    heard: mpsc::Sender<Heard>,
    asked: HashSet<Key>,
    turns: Arc<Semaphore>,
}

impl ConfigMaps {
    pub(super) fn new(client: Client, heard: mpsc::Sender<Heard>) -> Self {
        Self {
            client,
            heard,
            asked: HashSet::new(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Looks one up, unless that is under way.
    pub(super) fn ask(&mut self, key: Key) {
        if !self.asked.insert(key.clone()) {
            return;
        }
        let api = Api::<core::ConfigMap>::namespaced(self.client.clone(), &key.namespace);
        let (heard, turns) = (self.heard.clone(), self.turns.clone());
        tokio::spawn(async move {
            let _turn = turns.acquire().await;
            let says = match timeout(TIMEOUT, api.get(&key.name)).await {
                Ok(Ok(found)) => ConfigMap::Holds(found.data.unwrap_or_default()),
                Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) => {
                    ConfigMap::Unreadable(status.message)
                }
                Ok(Err(error)) => ConfigMap::Unanswered(error.to_string()),
                Err(_) => ConfigMap::Unanswered("the API does not answer".to_owned()),
            };
            let _ = heard.send(Heard::ConfigMap(key, says)).await;
        });
    }

    /// Notes that an answer has come.
    pub(super) fn answered(&mut self, key: &Key) {
        self.asked.remove(key);
    }

    /// Looks all of these up again.
    pub(super) fn refresh(&mut self, in_use: BTreeSet<Key>) {
        for key in in_use {
            self.ask(key);
        }
    }
}
