//! Watches of the API, each a task of its own that tells one channel what it hears.
//!
//! The kube library lists, watches, resumes, backs off and lists again after `410 Gone`; here is
//! only what becomes of its events. A failing watch is said once, not at every try.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::Client;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::kinds::{
    Deployment, DeploymentBody, Pod, PodBody, Service, ServiceBody, Slice, SliceBody,
};
use super::object::{Body, Key, Seen};
use super::resolve::ConfigMap;
use super::store::{Told, Unreadable};
use super::texts::Texts;

/// How long to wait before everything is listed again because a version is no longer kept.
const RESTART_DELAY: Duration = Duration::from_millis(200);

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
    pub(super) client: Client,
    pub(super) heard: mpsc::Sender<Heard>,
    pub(super) texts: Arc<Mutex<Texts>>,
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
        Watch(tokio::spawn(async move {
            let start = || watch(api.clone(), config.clone()).default_backoff().boxed();
            let mut events = start();
            let mut is_failing = false;
            while let Some(event) = events.next().await {
                let event = match event {
                    Ok(event) => event,
                    Err(error) => {
                        if !std::mem::replace(&mut is_failing, true) {
                            tracing::warn!(
                                kind = B::KIND,
                                error = &error as &dyn std::error::Error,
                                "a watch of the API failed; what is known stays in force, and it \
                                 is tried again"
                            );
                        }
                        if let Some(refused) = refused.take() {
                            let _ = heard.send(refused).await;
                        }
                        if is_gone(&error) {
                            // The library would ask for the same version for ever.
                            tokio::time::sleep(RESTART_DELAY).await;
                            events = start();
                        }
                        continue;
                    }
                };
                if std::mem::take(&mut is_failing) {
                    tracing::info!(kind = B::KIND, "the watch of the API is back");
                }
                if heard.send(tell(told(event, &kept))).await.is_err() {
                    return;
                }
            }
        }))
    }
}

/// Whether the version that a watch would go on from is no longer kept, answered as the status of
/// the request. (As an event in the stream, the library sees to it.)
fn is_gone(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

fn told<B: Body, T>(event: Event<Seen<B>>, kept: &impl Fn(B, Option<String>) -> T) -> Told<T> {
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

fn lock(texts: &Mutex<Texts>) -> std::sync::MutexGuard<'_, Texts> {
    texts.lock().unwrap_or_else(PoisonError::into_inner)
}
