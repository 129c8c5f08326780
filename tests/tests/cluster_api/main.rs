//! The API server of the tests, seen by a client that is not ours: what it does, in `objects` and
//! `streams`, and what it does wrong on demand, in `faults`.

#![forbid(unsafe_code)]

mod faults;
mod objects;
mod streams;

use std::{fmt::Debug, time::Duration};

use anyhow::{Context, Result, bail};
use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use tests::{cluster::Cluster, name};

/// Nothing here takes that long.
const DEADLINE: Duration = Duration::from_secs(20);

/// A client that finds the server as any program does, by a kubeconfig.
async fn client(cluster: &Cluster) -> Result<Client> {
    let directory = std::env::temp_dir().join(name::unique("kubeconfig"));
    std::fs::create_dir(&directory)?;
    let read = cluster
        .kubeconfig_file(&directory)
        .and_then(|path| Kubeconfig::read_from(path).context("the kubeconfig"));
    std::fs::remove_dir_all(&directory)?;
    let mut config = Config::from_custom_kubeconfig(read?, &KubeConfigOptions::default()).await?;
    // Refusals are to be seen, not tried again.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// The next item of a stream, in time; `None` at its end.
async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> Result<Option<T>> {
    tokio::time::timeout(DEADLINE, stream.next())
        .await
        .context("nothing more comes")
}

/// The next item of a stream that goes on and has no error.
async fn ok<T, E>(stream: &mut (impl Stream<Item = Result<T, E>> + Unpin)) -> Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    Ok(next(stream).await?.context("the stream has ended")??)
}

/// Short for an event: `+a`, `~a`, `-a`, or `=` for a bookmark.
fn short<K: kube::Resource<DynamicType = ()>>(event: &WatchEvent<K>) -> String {
    match event {
        WatchEvent::Added(object) => format!("+{}", object.name_any()),
        WatchEvent::Modified(object) => format!("~{}", object.name_any()),
        WatchEvent::Deleted(object) => format!("-{}", object.name_any()),
        WatchEvent::Bookmark(_) => "=".to_owned(),
        WatchEvent::Error(status) => format!("!{}", status.code),
    }
}

/// The status of a refusal.
fn code<T: Debug>(answer: kube::Result<T>) -> u16 {
    match answer.expect_err("a refusal") {
        kube::Error::Api(status) => status.code,
        other => panic!("no status: {other}"),
    }
}
