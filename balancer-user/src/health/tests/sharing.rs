//! Backends of several services, many backends, and backends that come and go.

use std::{net::SocketAddr, sync::atomic::Ordering::SeqCst, time::Duration};

use super::{
    ground::{Ground, service, until},
    server::{Manner, Server},
};
use crate::{
    config::ProbeConfig,
    health::{Health, pool::PoolLimits},
    model::{Probe, Setting},
};

const HTTP: Probe = Probe::Http;

#[tokio::test]
async fn a_shared_backend_is_probed_once() {
    let shared = Server::start(Manner::Answer(200)).await;
    let witness = Server::start(Manner::Answer(200)).await;
    let names = ["a", "b", "c", "d"];
    let mut services: Vec<_> = names
        .map(|name| service(name, HTTP, &[shared.address]))
        .into();
    services[1].health.path = Setting::built_in("/other".into());
    services.push(service("e", HTTP, &[witness.address]));
    let _ground = Ground::start(services);
    until("thirty probes of another", || witness.requests() >= 30).await;
    let requests = shared.requests();
    assert!(requests >= 15, "{requests}");
    assert!(requests <= 60, "{requests} probes where 30 are expected");
    let heads = shared.heads();
    assert_eq!(heads.len(), 1, "{heads:?}");
    assert!(heads[0].starts_with("GET /_/health "), "{heads:?}");
}

#[tokio::test]
async fn a_fresh_result_is_taken_when_another_service_comes() {
    let server = Server::start(Manner::Answer(200)).await;
    let slow = |name: &str, interval_seconds: u64| {
        let mut service = service(name, HTTP, &[server.address]);
        service.health.interval = Setting::built_in(Duration::from_secs(interval_seconds));
        service
    };
    let mut ground = Ground::running(ProbeConfig::default(), PoolLimits::default()).await;
    ground.put(vec![slow("a", 3600)]);
    ground.expect(server.address, Health::Healthy).await;
    let before = ground.figures.cache().hit_count;
    ground.put(vec![slow("a", 3600), slow("b", 1800)]);
    until("a look at the result", || {
        ground.figures.cache().hit_count > before
    })
    .await;
    assert_eq!(server.requests(), 1);

    // A result of another kind does not do.
    let mut other = slow("a", 3600);
    other.health.path = Setting::built_in("/other".into());
    ground.put(vec![other]);
    until("another probe", || server.requests() == 2).await;
}

#[tokio::test]
async fn a_removed_backend_is_forgotten_and_probed_no_more() {
    let leaving = Server::start(Manner::Answer(500)).await;
    let staying = Server::start(Manner::Answer(200)).await;
    let both = vec![service("a", HTTP, &[leaving.address, staying.address])];
    let alone = vec![service("a", HTTP, &[staying.address])];
    let mut ground = Ground::start(both.clone());
    ground
        .expect_all(&[
            (staying.address, Health::Healthy),
            (leaving.address, Health::Unhealthy),
        ])
        .await;
    ground.put(alone);
    ground.expect_forgotten(leaving.address).await;
    let (left, stayed) = (leaving.requests(), staying.requests());
    until("ten more probes of the other", || {
        staying.requests() >= stayed + 10
    })
    .await;
    // One may just have been on its way.
    assert!(leaving.requests() <= left + 1);

    // Back again, it starts anew, so its verdict is told again.
    ground.put(both);
    ground.expect(leaving.address, Health::Unhealthy).await;
}

#[tokio::test]
async fn a_new_backend_is_probed_soon_however_long_its_interval() {
    let first = Server::start(Manner::Answer(200)).await;
    let second = Server::start(Manner::Answer(200)).await;
    let services = |backends: &[SocketAddr]| {
        let mut service = service("a", HTTP, backends);
        service.health.interval = Setting::built_in(Duration::from_secs(3600));
        vec![service]
    };
    let mut ground = Ground::running(ProbeConfig::default(), PoolLimits::default()).await;
    for backends in [&[first.address][..], &[first.address, second.address]] {
        ground.put(services(backends));
        ground
            .expect(backends[backends.len() - 1], Health::Healthy)
            .await;
    }
    assert_eq!((first.requests(), second.requests()), (1, 1));
}

#[tokio::test]
async fn no_more_probes_than_allowed_are_under_way() {
    let manner = Manner::After(Duration::from_millis(10), 200);
    let server = Server::at("0.0.0.0:0".parse().unwrap(), manner).await;
    let port = server.address.port();
    let backends: Vec<_> = (1..=20u8)
        .map(|host| ([127, 0, 0, host], port).into())
        .collect();
    let config = ProbeConfig {
        at_once: 3,
        ..ProbeConfig::default()
    };
    let services = vec![service("a", HTTP, &backends)];
    let ground = Ground::with(services, config, PoolLimits::default());
    let is_known = |address: &SocketAddr| {
        let report = ground.handle.health_of(*address);
        report.is_some_and(|report| report.health == Some(Health::Healthy))
    };
    until("a verdict on each", || backends.iter().all(is_known)).await;
    until("two hundred probes", || server.requests() >= 200).await;
    assert_eq!(server.seen.most_at_once.load(SeqCst), 3);
}

#[tokio::test]
async fn a_hundred_thousand_backends_are_scheduled() {
    let server = Server::start(Manner::Answer(200)).await;
    let address = |index: u32| SocketAddr::from(((0x0a00_0000 + index).to_be_bytes(), 80));
    let many: Vec<_> = (0..100_000).map(address).collect();
    let mut idle = service("a", HTTP, &many);
    idle.health.interval = Setting::built_in(Duration::from_secs(1_000_000));
    let mut ground = Ground::start(vec![idle.clone()]);
    until("all of them", || {
        ground.handle.health_of(many[99_999]).is_some()
    })
    .await;
    ground.put(vec![idle, service("b", HTTP, &[server.address])]);
    ground.expect(server.address, Health::Healthy).await;
}
