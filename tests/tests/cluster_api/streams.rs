//! Watches, and what they promise.

use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::json;
use tests::cluster::{
    Kind,
    objects::{Function, config_map},
};
use tests::wait::eventually_eq;

use super::*;

// Waiting for streams to end must not keep this client from ending them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_sees_what_is_there_and_what_becomes_of_it() -> Result<()> {
    let cluster = Cluster::local()?;
    let client = client(&cluster).await?;
    for streaming in [false, true] {
        let config = match streaming {
            true => watcher::Config::default().streaming_lists(),
            false => watcher::Config::default(),
        };
        cluster.put(config_map("a", "first", "k", "1"))?;
        cluster.forget_requests();
        let maps: Api<ConfigMap> = Api::all(client.clone());
        let mut events = Box::pin(watcher(maps, config));
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| last != "done") {
            seen.push(event(ok(&mut events).await?));
        }
        cluster.put(config_map("b", "second", "k", "1"))?;
        cluster.merge(Kind::ConfigMap, "a", "first", json!({"data": {"k": "2"}}))?;
        cluster.delete(Kind::ConfigMap, "b", "second")?;
        for _ in 0..3 {
            seen.push(event(ok(&mut events).await?));
        }
        assert_eq!(
            seen,
            [
                "init",
                "init first",
                "done",
                "apply second",
                "apply first",
                "delete second"
            ]
        );
        let lists = cluster
            .requests()
            .iter()
            .filter(|request| request.verb == "list")
            .count();
        assert_eq!(lists, usize::from(!streaming));
        drop(events);
        eventually_eq(DEADLINE, 0, || cluster.watches(Kind::ConfigMap));
    }
    Ok(())
}

#[tokio::test]
async fn a_watch_goes_on_from_a_version_and_misses_nothing() -> Result<()> {
    let cluster = Cluster::local()?;
    let maps: Api<ConfigMap> = Api::all(client(&cluster).await?);
    let from = cluster.put(config_map("a", "before", "k", "1"))?.revision;
    cluster.put(config_map("a", "x", "k", "1"))?;
    cluster.put(config_map("a", "x", "k", "2"))?;
    cluster.delete(Kind::ConfigMap, "a", "x")?;
    let params = WatchParams::default();
    let mut events = Box::pin(maps.watch(&params, &from.to_string()).await?);
    let mut everything = Box::pin(maps.watch(&params, "0").await?);
    for expected in ["+x", "~x", "-x"] {
        assert_eq!(short(&ok(&mut events).await?), expected);
    }
    assert_eq!(short(&ok(&mut everything).await?), "+before");
    let report = cluster
        .put(config_map("a", "y", "k", "1"))?
        .written
        .wait(DEADLINE)?;
    assert_eq!(report.streams, 2);
    assert_eq!(short(&ok(&mut events).await?), "+y");
    assert_eq!(short(&ok(&mut everything).await?), "+y");
    Ok(())
}

#[tokio::test]
async fn objects_come_and_go_for_a_selector_as_their_labels_change() -> Result<()> {
    let cluster = Cluster::local()?;
    let maps: Api<ConfigMap> = Api::all(client(&cluster).await?);
    let params = WatchParams::default().labels("on");
    let mut events = Box::pin(maps.watch(&params, "0").await?);
    let label = |value| json!({"metadata": {"labels": {"on": value}}});
    cluster.put(config_map("a", "x", "k", "1"))?;
    for value in [json!(""), json!("1"), json!(null), json!("")] {
        cluster.merge(Kind::ConfigMap, "a", "x", label(value))?;
    }
    cluster.delete(Kind::ConfigMap, "a", "x")?;
    for expected in ["+x", "~x", "-x", "+x", "-x"] {
        assert_eq!(short(&ok(&mut events).await?), expected);
    }
    Ok(())
}

#[tokio::test]
async fn bookmarks_come_on_demand_and_by_the_clock() -> Result<()> {
    let cluster = Cluster::local()?;
    let maps: Api<ConfigMap> = Api::all(client(&cluster).await?);
    let from = cluster
        .put(config_map("a", "x", "k", "1"))?
        .revision
        .to_string();
    let mut events = Box::pin(maps.watch(&WatchParams::default(), &from).await?);
    let without = WatchParams::default().disable_bookmarks();
    let mut others = Box::pin(maps.watch(&without, &from).await?);
    cluster.wait_for_watches(Kind::ConfigMap, 2, DEADLINE)?;
    let elsewhere = cluster
        .put(Function::new("a", "f", "10.96.0.1").service())?
        .revision;
    cluster.bookmark(Kind::ConfigMap);
    let WatchEvent::Bookmark(bookmark) = ok(&mut events).await? else {
        bail!("no bookmark")
    };
    assert_eq!(bookmark.metadata.resource_version, elsewhere.to_string());
    cluster.faults().bookmarks_every(Duration::from_millis(1));
    for _ in 0..3 {
        assert_eq!(short(&ok(&mut events).await?), "=");
    }
    cluster.put(config_map("a", "y", "k", "1"))?;
    assert_eq!(short(&ok(&mut others).await?), "+y");
    Ok(())
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_over() -> Result<()> {
    let cluster = Cluster::local()?;
    let maps: Api<ConfigMap> = Api::all(client(&cluster).await?);
    let mut events = Box::pin(maps.watch(&WatchParams::default().timeout(1), "0").await?);
    assert!(next(&mut events).await?.is_none(), "an end, and no error");
    Ok(())
}

#[tokio::test]
async fn ten_thousand_services_and_a_thousand_changes_arrive() -> Result<()> {
    let cluster = Cluster::local()?;
    for n in 0..10_000_u32 {
        let function = Function::new("fn", &format!("f{n}"), "10.96.0.1");
        let pods: Vec<_> = (0..10)
            .map(|pod| function.pod(pod, &format!("10.1.{}.{}", n % 250, pod + 1), "n1"))
            .collect();
        cluster.put(function.service())?;
        cluster.put(function.slice("a", &pods))?;
    }
    let client = client(&cluster).await?;
    let begun = std::time::Instant::now();
    for path in [
        "/api/v1/services",
        "/apis/discovery.k8s.io/v1/endpointslices",
    ] {
        let body = client
            .request_text(http::Request::get(path).body(Vec::new())?)
            .await?;
        let list: serde_json::Value = serde_json::from_str(&body)?;
        assert_eq!(list["items"].as_array().map(Vec::len), Some(10_000));
        println!("{path}: {} bytes after {:?}", body.len(), begun.elapsed());
    }

    let slices: Api<EndpointSlice> = Api::all(client);
    let mut events = Box::pin(
        slices
            .watch(&WatchParams::default(), &cluster.revision().to_string())
            .await?,
    );
    cluster.wait_for_watches(Kind::EndpointSlice, 1, DEADLINE)?;
    let begun = std::time::Instant::now();
    for n in 0..1_000_u32 {
        let function = Function::new("fn", &format!("f{n}"), "10.96.0.1");
        cluster.put(function.slice("a", [&function.pod(0, "10.1.0.1", "n1")]))?;
    }
    println!("a thousand changes put after {:?}", begun.elapsed());
    for n in 0..1_000 {
        assert_eq!(short(&ok(&mut events).await?), format!("~f{n}-a"));
    }
    println!("and received after {:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_watcher_lists_anew_after_410() -> Result<()> {
    let cluster = Cluster::local()?;
    let maps: Api<ConfigMap> = Api::all(client(&cluster).await?);
    cluster.put(config_map("a", "old", "k", "1"))?;
    let mut events = Box::pin(watcher(maps, watcher::Config::default()).default_backoff());
    while !matches!(ok(&mut events).await?, watcher::Event::InitDone) {}
    // The watch begins only now, when the watcher is asked again.
    cluster.delete(Kind::ConfigMap, "a", "old")?;
    assert_eq!(event(ok(&mut events).await?), "delete old");
    cluster.faults().hold(Kind::ConfigMap);
    cluster.put(config_map("a", "new", "k", "1"))?;
    cluster.forget_requests();
    cluster.faults().expire_history(Kind::ConfigMap);
    cluster.faults().end_streams(Kind::ConfigMap);
    let gone = next(&mut events).await?.context("an error")?;
    assert!(matches!(gone, Err(watcher::Error::WatchError(status)) if status.code == 410));
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "done") {
        seen.push(event(ok(&mut events).await?));
    }
    assert_eq!(seen, ["init", "init new", "done"]);
    let requests = cluster.requests();
    let verbs: Vec<_> = requests.iter().map(|request| request.verb).collect();
    assert_eq!(verbs, ["watch", "list"]);
    Ok(())
}

fn event(event: watcher::Event<ConfigMap>) -> String {
    match event {
        watcher::Event::Init => "init".to_owned(),
        watcher::Event::InitApply(object) => format!("init {}", object.name_any()),
        watcher::Event::InitDone => "done".to_owned(),
        watcher::Event::Apply(object) => format!("apply {}", object.name_any()),
        watcher::Event::Delete(object) => format!("delete {}", object.name_any()),
    }
}
