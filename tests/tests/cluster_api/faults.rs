//! Each fault does what it says, and no more.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Instant,
};

use kube::api::ListParams;
use serde_json::Value;
use tests::{
    cluster::{
        Changed, Kind,
        objects::{Function, config_map},
    },
    wait::eventually_eq,
};

use super::*;

/// A server, and what watches ConfigMaps and Services on it from now on.
struct Scene {
    cluster: Cluster,
    client: Client,
}

type Events<K> = std::pin::Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<K>>> + Send>>;

impl Scene {
    async fn new() -> Result<Self> {
        let cluster = Cluster::local()?;
        let client = client(&cluster).await?;
        Ok(Self { cluster, client })
    }

    async fn maps(&self) -> Result<Events<ConfigMap>> {
        let maps: Api<ConfigMap> = Api::all(self.client.clone());
        let revision = self.cluster.revision().to_string();
        Ok(Box::pin(
            maps.watch(&WatchParams::default(), &revision).await?,
        ))
    }

    async fn services(&self) -> Result<Events<Service>> {
        let services: Api<Service> = Api::all(self.client.clone());
        let revision = self.cluster.revision().to_string();
        Ok(Box::pin(
            services.watch(&WatchParams::default(), &revision).await?,
        ))
    }

    fn put_map(&self, name: &str) -> Result<Changed> {
        self.cluster.put(config_map("a", name, "k", "1"))
    }

    fn put_service(&self, name: &str) -> Result<Changed> {
        self.cluster
            .put(Function::new("a", name, "10.96.0.1").service())
    }

    async fn lists(&self) -> kube::Result<usize> {
        let maps: Api<ConfigMap> = Api::all(self.client.clone());
        Ok(maps.list(&ListParams::default()).await?.items.len())
    }
}

// An outage waits for the server's thread, not for this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_breaks_streams_and_refuses_until_it_ends() -> Result<()> {
    let scene = Scene::new().await?;
    for _ in 0..2 {
        let mut events = scene.maps().await?;
        scene.cluster.faults().begin_outage()?;
        assert!(matches!(next(&mut events).await?, Some(Err(_)) | None));
        let refused = TcpStream::connect(scene.cluster.address()).expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(scene.lists().await.is_err());
        let put = scene.put_map("meanwhile")?;
        assert_eq!(put.written.wait(DEADLINE)?.streams, 0);
        scene.cluster.faults().end_outage()?;
        assert_eq!(scene.lists().await?, 1);
    }
    Ok(())
}

#[tokio::test]
async fn delayed_events_come_late_and_in_order() -> Result<()> {
    let scene = Scene::new().await?;
    let (mut maps, mut services) = (scene.maps().await?, scene.services().await?);
    let delay = Duration::from_millis(80);
    scene.cluster.faults().delay_events(Kind::ConfigMap, delay);
    let begun = Instant::now();
    let first = scene.put_map("x")?;
    scene.put_map("y")?;
    scene.put_service("s")?.written.wait(DEADLINE)?;
    assert_eq!(first.written.now(), None);
    assert_eq!(short(&ok(&mut services).await?), "+s");
    assert_eq!(short(&ok(&mut maps).await?), "+x");
    assert_eq!(short(&ok(&mut maps).await?), "+y");
    assert!(begun.elapsed() >= delay);
    assert!(first.written.wait(DEADLINE)?.at >= begun + delay);
    Ok(())
}

#[tokio::test]
async fn duplicated_events_come_twice() -> Result<()> {
    let scene = Scene::new().await?;
    let mut maps = scene.maps().await?;
    scene
        .cluster
        .faults()
        .duplicate_events(Kind::ConfigMap, true);
    scene.put_map("x")?.written.wait(DEADLINE)?;
    scene
        .cluster
        .faults()
        .duplicate_events(Kind::ConfigMap, false);
    scene.put_map("y")?.written.wait(DEADLINE)?;
    scene.put_map("y")?;
    for expected in ["+x", "+x", "+y", "~y"] {
        assert_eq!(short(&ok(&mut maps).await?), expected);
    }
    Ok(())
}

#[tokio::test]
async fn one_kind_is_held_back_while_others_go_on() -> Result<()> {
    let scene = Scene::new().await?;
    let (mut maps, mut services) = (scene.maps().await?, scene.services().await?);
    scene.cluster.faults().hold(Kind::ConfigMap);
    let held = scene.put_map("x")?;
    let later = scene.put_service("s")?.written.wait(DEADLINE)?;
    assert_eq!(short(&ok(&mut services).await?), "+s");
    scene.cluster.bookmark(Kind::ConfigMap);
    assert_eq!(held.written.now(), None);
    scene.cluster.faults().release(Kind::ConfigMap);
    assert!(held.written.wait(DEADLINE)?.at > later.at);
    assert_eq!(short(&ok(&mut maps).await?), "+x");
    assert_eq!(short(&ok(&mut maps).await?), "=");
    Ok(())
}

#[tokio::test]
async fn a_cut_event_breaks_one_stream_in_the_middle() -> Result<()> {
    let scene = Scene::new().await?;
    let mut streams = [scene.maps().await?, scene.maps().await?];
    scene.put_map("before")?.written.wait(DEADLINE)?;
    scene.cluster.faults().cut_next_event(Kind::ConfigMap);
    let cut = scene.put_map("cut")?.written.wait(DEADLINE)?;
    assert_eq!(cut.streams, 1);
    eventually_eq(DEADLINE, 1, || scene.cluster.watches(Kind::ConfigMap));
    scene.put_map("after")?;
    let mut whole = 0;
    for events in &mut streams {
        assert_eq!(short(&ok(events).await?), "+before");
        // This client takes the break for an end.
        if let Some(Ok(event)) = next(events).await? {
            assert_eq!(short(&event), "+cut");
            assert_eq!(short(&ok(events).await?), "+after");
            whole += 1;
        }
    }
    assert_eq!(whole, 1);
    Ok(())
}

#[test]
fn a_cut_event_is_half_a_line_without_a_proper_end() -> Result<()> {
    let cluster = Cluster::local()?;
    cluster.put(config_map("a", "before", "k", "1"))?;
    let stream = TcpStream::connect(cluster.address())?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let watch = "GET /api/v1/configmaps?watch=1 HTTP/1.1\r\nhost: x\r\n\r\n";
    (&stream).write_all(watch.as_bytes())?;
    cluster.wait_for_watches(Kind::ConfigMap, 1, DEADLINE)?;
    cluster.faults().cut_next_event(Kind::ConfigMap);
    cluster.put(config_map("a", "cut", "k", "1"))?;
    let mut received = String::new();
    (&stream).read_to_string(&mut received)?;
    let lines: Vec<&str> = received
        .lines()
        .filter(|line| line.starts_with('{'))
        .collect();
    let [whole, half] = lines.as_slice() else {
        bail!("{received}")
    };
    assert!(serde_json::from_str::<Value>(whole).is_ok(), "{whole}");
    assert!(serde_json::from_str::<Value>(half).is_err(), "{half}");
    assert!(!received.ends_with("0\r\n\r\n"), "{received}");
    Ok(())
}

#[tokio::test]
async fn streams_break_or_end_by_kind() -> Result<()> {
    let scene = Scene::new().await?;
    let (mut broken, mut services) = (scene.maps().await?, scene.services().await?);
    scene.cluster.faults().break_streams(Kind::ConfigMap);
    assert!(!matches!(next(&mut broken).await?, Some(Ok(_))));
    let mut ended = scene.maps().await?;
    scene.cluster.faults().end_streams([Kind::ConfigMap]);
    assert!(next(&mut ended).await?.is_none());
    scene.put_service("s")?;
    assert_eq!(short(&ok(&mut services).await?), "+s");
    Ok(())
}

#[tokio::test]
async fn a_trickle_is_slow_and_loses_nothing() -> Result<()> {
    let scene = Scene::new().await?;
    let mut maps = scene.maps().await?;
    let pause = Duration::from_millis(2);
    scene.cluster.faults().trickle(Kind::ConfigMap, 16, pause);
    let begun = Instant::now();
    scene.put_map("x")?;
    assert_eq!(short(&ok(&mut maps).await?), "+x");
    assert!(
        begun.elapsed() >= 8 * pause,
        "an event has more than eight pieces"
    );
    scene.cluster.faults().end_trickle(Kind::ConfigMap);
    scene.put_map("y")?;
    assert_eq!(short(&ok(&mut maps).await?), "+y");
    Ok(())
}

#[tokio::test]
async fn forgotten_versions_are_gone_in_either_way() -> Result<()> {
    let scene = Scene::new().await?;
    let old = scene.put_map("x")?.revision.to_string();
    let maps: Api<ConfigMap> = Api::all(scene.client.clone());
    let params = WatchParams::default();
    let mut open = scene.maps().await?;
    scene.cluster.faults().expire_history(Kind::ConfigMap);
    let mut events = Box::pin(maps.watch(&params, &old).await?);
    assert_eq!(short(&ok(&mut events).await?), "!410");
    assert!(next(&mut events).await?.is_none());
    scene.cluster.faults().gone_as_status(true);
    assert_eq!(code(maps.watch(&params, &old).await.map(|_| ())), 410);
    let mut fresh = scene.maps().await?;
    scene.put_map("y")?;
    assert_eq!(short(&ok(&mut fresh).await?), "+y");
    assert_eq!(short(&ok(&mut open).await?), "+y", "an open stream stays");
    scene.cluster.faults().expire_streams(Kind::ConfigMap);
    assert_eq!(short(&ok(&mut open).await?), "!410");
    assert!(next(&mut open).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn requests_are_refused_on_demand() -> Result<()> {
    let scene = Scene::new().await?;
    let maps: Api<ConfigMap> = Api::namespaced(scene.client.clone(), "a");
    scene.put_map("x")?;
    for status in [429, 500, 503] {
        scene.cluster.faults().answer(Kind::ConfigMap, status, 2);
        scene.put_service("s")?;
        let services: Api<Service> = Api::all(scene.client.clone());
        services.list(&ListParams::default()).await?;
        for _ in 0..2 {
            assert_eq!(code(scene.lists().await), status);
        }
        assert_eq!(scene.lists().await?, 1);
    }
    scene.cluster.faults().forbid(Kind::ConfigMap, true);
    assert_eq!(code(maps.get("x").await), 403);
    assert_eq!(code(scene.lists().await), 403);
    scene.cluster.faults().heal()?;
    maps.get("x").await?;
    let delay = Duration::from_millis(30);
    scene.cluster.faults().slow_answers(Kind::ConfigMap, delay);
    let begun = Instant::now();
    maps.get("x").await?;
    assert!(begun.elapsed() >= delay);
    Ok(())
}

#[tokio::test]
async fn the_log_has_every_request() -> Result<()> {
    let scene = Scene::new().await?;
    scene.cluster.forget_requests();
    let _events = scene.services().await?;
    scene.lists().await?;
    let requests = scene.cluster.requests();
    let [watch, list] = requests.as_slice() else {
        bail!("{requests:?}")
    };
    assert!(watch.is("watch", Kind::Service) && list.is("list", Kind::ConfigMap));
    assert_eq!(watch.parameter("allowWatchBookmarks"), "true");
    assert_eq!(
        (list.method.as_str(), list.path.as_str()),
        ("GET", "/api/v1/configmaps")
    );
    assert!(list.at >= watch.at);
    scene.cluster.forget_requests();
    assert!(scene.cluster.requests().is_empty());
    Ok(())
}
