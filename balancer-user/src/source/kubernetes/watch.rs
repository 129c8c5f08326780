//! Watches of the API, each a task of its own that tells one channel what it hears.
//!
//! The kube library lists, watches and resumes; here is what becomes of its events, and of its
//! failures: how soon it tries again, and when it lists anew. That a watch has failed for good is
//! said once, not at every try; that it is back, once it has told something.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::StreamExt as _;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher as watch;
use kube::runtime::watcher::{self, Event};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::kinds::{
    Deployment, DeploymentBody, Pod, PodBody, Service, ServiceBody, Slice, SliceBody,
};
use super::limit::ConfigMap;
use super::object::{Body, Key, Seen};
use super::patience::Patience;
use super::store::{Told, Unreadable};
use super::texts::Texts;
use super::watched::Watched;

/// Something that was heard of the API.
#[derive(Debug)]
pub(super) enum Heard {
    Service(Told<Service>),
    Slice(Told<Slice>),
    Deployment(Told<Deployment>),
    /// Of the Pods of a leader service.
    Pod(Followed, Told<Pod>),
    /// The Pods of a leader service are not given.
    NoPods(Followed),
    /// Of the Pods on this node that bypass the balancer.
    Bypassing(Told<Pod>),
    /// The API does not say, or not soon, which they are.
    NoBypassing,
    /// This service is to be looked at once more.
    Later(Key),
    ConfigMap(Key, ConfigMap),
}

/// Whose Pods a watch is about, and which watch of them it is.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    pub(super) service: Key,
    pub(super) number: u64,
}

impl Heard {
    /// Whether all objects of a kind that there are many of have just been told.
    pub(super) fn is_end(&self) -> bool {
        matches!(
            self,
            Self::Service(Told::End) | Self::Slice(Told::End) | Self::Deployment(Told::End)
        )
    }
}

/// Follows one kind until dropped.
#[derive(Debug)]
pub(super) struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What all watches share.
#[derive(Clone)]
pub(super) struct Watches {
    /// One that does not try again by itself: failures are to be heard of.
    pub(super) client: Client,
    pub(super) heard: mpsc::Sender<Heard>,
    pub(super) texts: Arc<Mutex<Texts>>,
    pub(super) watched: Watched,
}

impl Watches {
    /// Follows the Services of all namespaces.
    pub(super) fn services(&self) -> Watch {
        let texts = self.texts.clone();
        self.follow::<ServiceBody, _>(
            Api::all(self.client.clone()),
            watcher::Config::default(),
            move |body, uid| body.kept(uid, &mut lock(&texts)),
            Heard::Service,
            None,
        )
    }

    /// Follows the EndpointSlices of all namespaces.
    pub(super) fn slices(&self) -> Watch {
        let texts = self.texts.clone();
        self.follow::<SliceBody, _>(
            Api::all(self.client.clone()),
            watcher::Config::default(),
            move |body, _| body.kept(&mut lock(&texts)),
            Heard::Slice,
            None,
        )
    }

    /// Follows the Deployments of all namespaces.
    pub(super) fn deployments(&self) -> Watch {
        let texts = self.texts.clone();
        self.follow::<DeploymentBody, _>(
            Api::all(self.client.clone()),
            watcher::Config::default(),
            move |body, _| body.kept(&mut lock(&texts)),
            Heard::Deployment,
            None,
        )
    }

    /// Follows the Pods that a leader service selects.
    pub(super) fn pods(&self, followed: Followed, selector: &str) -> Watch {
        let refused = Heard::NoPods(followed.clone());
        self.follow::<PodBody, _>(
            Api::namespaced(self.client.clone(), &followed.service.namespace),
            watcher::Config::default().labels(selector),
            PodBody::kept,
            move |told| Heard::Pod(followed.clone(), told),
            Some(refused),
        )
    }

    /// Follows the Pods on this node that bypass the balancer.
    pub(super) fn bypassing(&self, node: &str) -> Watch {
        let config = watcher::Config::default()
            .labels("idlefirst.dev/bypass=true")
            .fields(&format!("spec.nodeName={node}"));
        self.follow::<PodBody, _>(
            Api::all(self.client.clone()),
            config,
            PodBody::kept,
            Heard::Bypassing,
            Some(Heard::NoBypassing),
        )
    }

    /// Follows one kind. `refused` is told when the watch cannot be had.
    fn follow<B: Body, T: Send + 'static>(
        &self,
        api: Api<Seen<B>>,
        config: watcher::Config,
        kept: impl Fn(B, Option<String>) -> T + Send + 'static,
        tell: impl Fn(Told<T>) -> Heard + Send + 'static,
        mut refused: Option<Heard>,
    ) -> Watch {
        let heard = self.heard.clone();
        let mut mark = self.watched.follow(B::KIND);
        Watch(tokio::spawn(async move {
            let start = || watch(api.clone(), config.clone()).boxed();
            let mut events = start();
            let mut patience = Patience::default();
            let mut is_said = false;
            while let Some(event) = events.next().await {
                let event = match event {
                    Ok(event) => event,
                    Err(error) => {
                        let is_lost = patience.fail(Instant::now());
                        let is_unknown = is_version_unknown(&error);
                        // Either way a list is next, which shows when the API is back.
                        if is_lost || matches!(error, watcher::Error::InitialListFailed(_)) {
                            mark.set(false);
                            if !std::mem::replace(&mut is_said, true) {
                                warn_failed(B::KIND, &error);
                            }
                        } else if is_unknown {
                            tracing::info!(
                                kind = B::KIND,
                                "the API does not know the version that a watch was at; \
                                 everything is listed again"
                            );
                        }
                        if let Some(refused) = refused.take() {
                            let _ = heard.send(refused).await;
                        }
                        if is_lost || is_unknown {
                            // The library would ask for the same version for ever.
                            events = start();
                        }
                        tokio::time::sleep(patience.pause(fastrand::f64())).await;
                        continue;
                    }
                };
                // That a list has begun proves nothing yet.
                if !matches!(event, Event::Init | Event::InitApply(_)) {
                    patience.reset();
                    mark.set(true);
                    if std::mem::take(&mut is_said) {
                        tracing::info!(kind = B::KIND, "the watch of the API is back");
                    }
                }
                if heard.send(tell(told(event, &kept))).await.is_err() {
                    return;
                }
            }
        }))
    }
}

fn warn_failed(kind: &str, error: &watcher::Error) {
    tracing::warn!(
        kind,
        error = error as &dyn std::error::Error,
        "a watch of the API failed; what is known stays in force, and it is tried again"
    );
}

/// Whether a watch cannot go on because of the version that it was at: it is no longer kept, or
/// the API has been put back to an earlier state and has not come to it yet. (Of the former, told
/// as an event in the stream, the library sees to itself.)
fn is_version_unknown(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status,
        _ => return false,
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 410
        || causes
            .into_iter()
            .any(|cause| cause.reason == "ResourceVersionTooLarge")
        || status.message.starts_with("Too large resource version")
}

pub(super) fn told<B: Body, T>(
    event: Event<Seen<B>>,
    kept: &impl Fn(B, Option<String>) -> T,
) -> Told<T> {
    let keep = |seen: Seen<B>| {
        let key = seen.key();
        let uid = seen.meta.uid;
        match seen.body {
            Ok(body) => Ok((key, kept(body, uid))),
            Err(error) => {
                let why = error.to_string();
                Err((key, Unreadable { uid, why }))
            }
        }
    };
    match event {
        Event::Init => Told::Begin,
        Event::InitApply(seen) => match keep(seen) {
            Ok((key, object)) => Told::Listed(key, object),
            Err((key, unreadable)) => Told::ListedUnreadable(key, unreadable),
        },
        Event::InitDone => Told::End,
        Event::Apply(seen) => match keep(seen) {
            Ok((key, object)) => Told::Put(key, object),
            Err((key, unreadable)) => Told::PutUnreadable(key, unreadable),
        },
        Event::Delete(seen) => Told::Gone(seen.key()),
    }
}

pub(super) fn lock(texts: &Mutex<Texts>) -> std::sync::MutexGuard<'_, Texts> {
    texts.lock().unwrap_or_else(PoisonError::into_inner)
}
