//! Which connections probes use again.

use std::time::Duration;

use super::{
    ground::{Ground, service, until},
    server::{Manner, Server},
};
use crate::{
    config::ProbeConfig,
    health::{Health, Outcome, pool::PoolLimits},
    model::{Probe, Service, Setting},
};

fn probed(server: &Server) -> Vec<Service> {
    vec![service("a", Probe::Http, &[server.address])]
}

fn with_limits(server: &Server, limits: PoolLimits) -> Ground {
    Ground::with(probed(server), ProbeConfig::default(), limits)
}

#[tokio::test]
async fn many_probes_go_over_one_connection() {
    for manner in [
        Manner::Answer(200),
        Manner::Answer(500),
        Manner::Body(60_000),
    ] {
        let server = Server::start(manner).await;
        let ground = Ground::start(probed(&server));
        until("twenty probes", || server.requests() >= 20).await;
        until("the connection idle", || ground.figures.pool().size == 1).await;
        // One probe in twenty may find the answer before it still unread on a busy machine.
        assert!(server.connections() <= 2);
        let figures = ground.figures.pool();
        assert_eq!(figures.create_count, figures.miss_count);
        assert!(
            figures.hit_count >= 18 && figures.hit_rate >= 0.9,
            "{figures:?}"
        );
    }
}

#[tokio::test]
async fn a_connection_that_the_server_closed_meanwhile_is_no_failure() {
    let server = Server::start(Manner::AnswerAndClose(200)).await;
    let mut ground = Ground::start(probed(&server));
    ground.expect(server.address, Health::Healthy).await;
    until("twenty probes", || server.requests() >= 20).await;
    assert_eq!(ground.figures.failures(), 0);
    ground.expect_no_more();
}

#[tokio::test]
async fn a_reused_connection_that_fails_without_an_answer_is_followed_by_a_new_one() {
    let server = Server::start(Manner::Answer(200)).await;
    let ground = Ground::start(probed(&server));
    for _ in 0..5 {
        until("an idle connection", || ground.figures.pool().size == 1).await;
        let connections = server.connections();
        server.behave(Manner::CloseOnce);
        until("a new connection", || server.connections() > connections).await;
    }
    until("the last outcome", || {
        let report = ground.handle.health_of(server.address).unwrap();
        report.last.is_some_and(|last| last.outcome == Outcome::Ok)
    })
    .await;
    assert_eq!(ground.figures.failures(), 0);
}

#[tokio::test]
async fn connections_are_given_up_when_they_are_old() {
    let server = Server::start(Manner::Answer(200)).await;
    let limits = PoolLimits {
        lifetime: Duration::from_millis(100),
        ..PoolLimits::default()
    };
    let ground = with_limits(&server, limits);
    until("four connections", || server.connections() >= 4).await;
    let figures = ground.figures.pool();
    assert!(figures.eviction_count >= 3, "{figures:?}");
    assert!(figures.hit_count > 0, "{figures:?}");
    assert_eq!(ground.figures.failures(), 0);
}

#[tokio::test]
async fn connections_are_given_up_when_they_are_idle_for_long() {
    let server = Server::start(Manner::Answer(200)).await;
    let limits = PoolLimits {
        idle: Duration::from_millis(50),
        ..PoolLimits::default()
    };
    let mut services = probed(&server);
    services[0].health.interval = Setting::built_in(Duration::from_secs(3600));
    // It is probed soon, and then not for an hour.
    let mut ground = Ground::running(ProbeConfig::default(), limits).await;
    ground.put(services);
    ground.expect(server.address, Health::Healthy).await;
    until("the connection given up", || {
        ground.figures.pool().eviction_count == 1
    })
    .await;
    assert_eq!(ground.figures.pool().size, 0);
}

#[tokio::test]
async fn connections_with_endless_answers_are_not_used_again() {
    for manner in [Manner::Body(100_000), Manner::NoBody] {
        let server = Server::start(manner).await;
        let limits = PoolLimits {
            request_timeout: Duration::from_millis(10),
            ..PoolLimits::default()
        };
        let mut ground = with_limits(&server, limits);
        ground.expect(server.address, Health::Healthy).await;
        until("five probes", || server.requests() >= 5).await;
        assert!(server.connections() >= server.requests());
        assert_eq!(ground.figures.pool().hit_count, 0);
        assert_eq!(ground.figures.failures(), 0);
    }
}
