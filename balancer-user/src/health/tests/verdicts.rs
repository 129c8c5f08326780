//! What makes a backend healthy or unhealthy.

use std::{net::SocketAddr, time::Duration};

use super::{
    ground::{Ground, service, until},
    server::{Manner, Server},
};
use crate::{
    config::ProbeConfig,
    health::{Health, Outcome, pool::PoolLimits},
    model::{Probe, Service, Setting},
};

const HTTP: Probe = Probe::Http;

/// How the last probe of a backend ended.
fn last(ground: &Ground, address: SocketAddr) -> Option<Outcome> {
    ground
        .handle
        .health_of(address)?
        .last
        .map(|last| last.outcome)
}

#[tokio::test]
async fn a_backend_that_dies_is_unhealthy_until_it_answers_again() {
    for probe in [Probe::Http, Probe::Tcp] {
        let server = Server::start(Manner::Answer(200)).await;
        let address = server.address;
        let mut ground = Ground::start(vec![service("a", probe, &[address])]);
        ground.expect(address, Health::Healthy).await;
        drop(server);
        ground.expect(address, Health::Unhealthy).await;
        assert_eq!(last(&ground, address), Some(Outcome::Refused));
        let report = ground.handle.health_of(address).unwrap();
        assert!(report.consecutive_failures >= 3, "{report:?}");
        let _server = Server::at(address, Manner::Answer(200)).await;
        ground.expect(address, Health::Healthy).await;
        ground.expect_no_more();
    }
}

#[tokio::test]
async fn only_200_and_429_are_signs_of_life() {
    let server = Server::start(Manner::Answer(429)).await;
    let address = server.address;
    let mut ground = Ground::start(vec![service("a", HTTP, &[address])]);
    ground.expect(address, Health::Healthy).await;
    assert_eq!(last(&ground, address), Some(Outcome::Busy));
    for status in [500, 503, 204, 301, 404] {
        server.behave(Manner::Answer(status));
        ground.expect(address, Health::Unhealthy).await;
        assert_eq!(last(&ground, address), Some(Outcome::Status(status)));
        server.behave(Manner::Answer(200));
        ground.expect(address, Health::Healthy).await;
        assert_eq!(last(&ground, address), Some(Outcome::Ok));
    }
    server.behave(Manner::Close);
    ground.expect(address, Health::Unhealthy).await;
    assert_eq!(last(&ground, address), Some(Outcome::NoAnswer));
    assert!(ground.figures.successes() >= 6 && ground.figures.failures() >= 18);
    assert_eq!(ground.figures.faults(), 0);
}

#[tokio::test]
async fn requests_are_what_they_should_be() {
    let server = Server::start(Manner::Answer(200)).await;
    let mut asked = service("a", HTTP, &[server.address]);
    asked.health.path = Setting::built_in("/ready?deep=1".into());
    let mut ground = Ground::start(vec![asked]);
    ground.expect(server.address, Health::Healthy).await;
    let heads = server.heads();
    let [head] = &heads[..] else {
        panic!("{heads:?}")
    };
    assert!(head.starts_with("GET /ready?deep=1 HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains(&format!("host: {}\r\n", server.address)),
        "{head}"
    );
    let agent = concat!(
        "user-agent: idlefirst-health/",
        env!("CARGO_PKG_VERSION"),
        "\r\n"
    );
    assert!(head.contains(agent), "{head}");
}

#[tokio::test]
async fn a_backend_that_hangs_delays_no_other_and_fails_by_timeout() {
    let hanging = Server::start(Manner::Hang).await;
    let trickling = Server::start(Manner::NoBody).await;
    let answering = Server::start(Manner::Answer(200)).await;
    let services = |timeout: Duration| -> Vec<Service> {
        let mut hung = service("a", HTTP, &[hanging.address]);
        hung.health.timeout = Setting::built_in(timeout);
        let rest = [trickling.address, answering.address];
        vec![hung, service("b", HTTP, &rest)]
    };
    let config = ProbeConfig {
        at_once: 2,
        ..ProbeConfig::default()
    };
    let mut ground = Ground::with(
        services(Duration::from_secs(60)),
        config,
        PoolLimits::default(),
    );
    until("a request that hangs", || hanging.requests() > 0).await;
    let before = answering.requests();
    until("ten more probes of the other", || {
        answering.requests() >= before + 10
    })
    .await;
    assert_eq!(hanging.requests(), 1);
    assert_eq!(last(&ground, hanging.address), None);
    // The head was enough for this one, although its body never comes.
    assert_eq!(last(&ground, trickling.address), Some(Outcome::Ok));

    // The probe under way keeps its timeout; a path of its own ends it.
    let mut shorter = services(Duration::from_millis(30));
    shorter[0].health.path = Setting::built_in("/other".into());
    ground.put(shorter);
    until("a verdict", || {
        let report = ground.handle.health_of(hanging.address);
        report.is_some_and(|report| report.health == Some(Health::Unhealthy))
    })
    .await;
    assert_eq!(last(&ground, hanging.address), Some(Outcome::TimedOut));
    ground
        .expect_all(&[
            (trickling.address, Health::Healthy),
            (answering.address, Health::Healthy),
            (hanging.address, Health::Unhealthy),
        ])
        .await;
}

#[tokio::test]
async fn a_tcp_probe_closes_in_order_even_if_it_is_greeted() {
    let server = Server::start(Manner::Greet).await;
    let mut ground = Ground::start(vec![service("a", Probe::Tcp, &[server.address])]);
    ground.expect(server.address, Health::Healthy).await;
    let seen = &server.seen;
    let ends = || seen.orderly_ends.load(std::sync::atomic::Ordering::SeqCst);
    until("five connections that end", || ends() >= 5).await;
    assert_eq!(seen.resets.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn ipv6_backends_are_probed_too() {
    let server = Server::at("[::1]:0".parse().unwrap(), Manner::Answer(200)).await;
    let mut ground = Ground::start(vec![service("a", HTTP, &[server.address])]);
    ground.expect(server.address, Health::Healthy).await;
}

#[tokio::test]
async fn what_is_not_probed_is_healthy_and_left_alone() {
    let server = Server::start(Manner::Answer(500)).await;
    let address = server.address;
    let mut ground = Ground::start(vec![service("a", HTTP, &[address])]);
    ground.expect(address, Health::Unhealthy).await;
    ground.put(vec![service("a", Probe::None, &[address])]);
    ground.expect_forgotten(address).await;
    until("no connection kept", || ground.figures.pool().size == 0).await;

    // No more probes come, while another backend gets ten. One may just have been on its way.
    let (requests, witness) = (server.requests(), Server::start(Manner::Answer(200)).await);
    ground.put(vec![
        service("a", Probe::None, &[address]),
        service("b", HTTP, &[witness.address]),
    ]);
    until("ten probes of another", || witness.requests() >= 10).await;
    assert!(server.requests() <= requests + 1);
}

#[tokio::test]
async fn nothing_is_probed_if_probes_are_switched_off() {
    let server = Server::start(Manner::Answer(500)).await;
    let config = ProbeConfig {
        enabled: false,
        ..ProbeConfig::default()
    };
    let services = vec![service("a", HTTP, &[server.address])];
    let mut ground = Ground::with(services, config, PoolLimits::default());
    // Long enough for three probes and more.
    tokio::time::sleep(Duration::from_millis(100)).await;
    ground.expect_no_more();
    assert_eq!(ground.figures.failures() + ground.figures.successes(), 0);
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_lower_number_of_failures_holds_at_once() {
    let server = Server::start(Manner::Answer(500)).await;
    let address = server.address;
    let with_failures = |failures: u32| {
        let mut service = service("a", HTTP, &[address]);
        service.health.failures = Setting::built_in(failures);
        vec![service]
    };
    let mut ground = Ground::start(with_failures(1_000_000));
    until("some failures", || ground.figures.failures() >= 5).await;
    ground.expect_no_more();
    ground.put(with_failures(2));
    ground.expect(address, Health::Unhealthy).await;
}

#[tokio::test]
async fn durations_are_shown_by_pod_and_result() {
    let server = Server::start(Manner::Answer(200)).await;
    let mut ground = Ground::start(vec![service("a", HTTP, &[server.address])]);
    assert_eq!(ground.figures.durations().len(), 0);
    ground.expect(server.address, Health::Healthy).await;
    let families = ground.figures.durations();
    let [family] = &families[..] else {
        panic!("{families:?}")
    };
    assert_eq!(family.name(), "openfaas_health_check_duration_seconds");
    let labels = family.get_metric()[0].get_label();
    let labels: Vec<_> = labels.iter().map(|it| (it.name(), it.value())).collect();
    assert_eq!(labels, [("pod_ip", "127.0.0.1"), ("result", "success")]);

    ground.put(Vec::new());
    until("no labels", || ground.figures.durations().is_empty()).await;
    assert_eq!(ground.handle.health_of(server.address), None);
}
