//! How many may wait, and for how long; what happens to those who may not.

#![forbid(unsafe_code)]

use std::{
    io::{ErrorKind, Read},
    net::TcpStream,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::errno::Errno;
use serde_json::json;
use tests::{
    agent::Agent,
    crowd::{Crowd, ask, assert_no_slot_astray, dial, frontend_address, service, settle},
    exact::{ExactServer, Request},
    scene::{SOON, Scene, errno},
    service::Service,
    wait::eventually_eq,
};

/// By default.
const WAITING_TIME: Duration = Duration::from_millis(100);

#[test]
fn a_waiter_for_whom_no_slot_comes_is_refused_after_its_time_and_soon() -> Result<()> {
    const TRIES: u32 = 5;
    // The clocks on both sides may differ by a tick of the kernel's.
    const TICK: Duration = Duration::from_millis(1);
    const BEFORE: Duration = Duration::from_millis(150);
    let scene = Scene::arranged(1, 1, defaults)?;
    let held = scene.connection()?;
    let mut best = Duration::MAX;
    for _ in 0..TRIES {
        let begun = Instant::now();
        let waiter = scene.dial()?;
        assert_reset(waiter);
        let waited = begun.elapsed();
        assert!(waited >= WAITING_TIME - TICK, "only {waited:?}");
        best = best.min(waited);
    }
    assert!(best < BEFORE, "at best after {best:?}");
    let queue = scene.queue();
    assert_eq!(queue.refused_for("queue-timeout"), u64::from(TRIES));
    drop(held);
    scene.finish()
}

#[test]
fn one_too_many_is_refused_at_once_and_those_who_wait_go_on_waiting() -> Result<()> {
    let scene = Scene::arranged(1, 1, |service| {
        service.with("queue", json!({"size": 2, "timeout": "30s"}))
    })?;
    let held = scene.connection()?;
    let waiters = [scene.dial()?, scene.dial()?];
    scene.wait_waiters(2);
    for _ in 0..3 {
        assert_reset(scene.dial()?);
    }
    eventually_eq(SOON, 3, || scene.queue().refused_for("queue-full"));
    assert_eq!(scene.waiters(), 2);
    drop(held);
    for waiter in waiters {
        let (_, pod) = scene.accept_any()?;
        drop((waiter, pod));
    }
    scene.finish()
}

#[test]
fn a_queue_of_size_nought_lets_nobody_wait() -> Result<()> {
    let scene = Scene::arranged(1, 1, |service| service.with("queue", json!({"size": 0})))?;
    let held = scene.connection()?;
    assert_reset(scene.dial()?);
    eventually_eq(SOON, 1, || scene.queue().refused_for("queue-full"));
    drop(held);
    let direct = scene.connection()?;
    drop(direct);
    scene.finish()
}

#[test]
fn a_waiting_time_of_nought_lets_nobody_wait_either() -> Result<()> {
    let scene = Scene::arranged(1, 1, |service| {
        service.with("queue", json!({"timeout": "0ms"}))
    })?;
    let held = scene.connection()?;
    assert_reset(scene.dial()?);
    eventually_eq(SOON, 1, || scene.queue().refused_for("queue-timeout"));
    drop(held);
    scene.finish()
}

#[test]
fn the_kernel_refuses_what_finds_the_queue_full_if_it_is_told_to() -> Result<()> {
    let scene = Scene::arranged(1, 1, |service| {
        let queue = json!({"size": 2, "timeout": "30s", "refuse": "kernel"});
        service.with("queue", queue)
    })?;
    let held = scene.connection()?;
    let waiters = [scene.dial()?, scene.dial()?];
    scene.wait_waiters(2);
    eventually_eq(SOON, 2, || scene.queue().accepted);
    for _ in 0..20 {
        assert_eq!(errno(scene.dial()), Errno::ECONNREFUSED);
    }
    let queue = scene.queue();
    assert_eq!(queue.accepted, 2, "the agent was bothered: {queue:?}");
    assert_eq!(queue.refused_for("queue-full"), 20, "{queue:?}");
    // There is room again.
    let [leaving, staying] = waiters;
    drop(leaving);
    scene.wait_waiters(1);
    let third = scene.dial()?;
    scene.wait_waiters(2);
    drop(held);
    for waiter in [staying, third] {
        let (_, pod) = scene.accept_any()?;
        drop((waiter, pod));
    }
    scene.finish()
}

#[test]
fn a_service_without_backends_refuses_at_once() -> Result<()> {
    let scene = Scene::arranged(1, 1, |service| {
        service.with("queue", json!({"timeout": "30s"}))
    })?;
    let mut service = scene.service();
    service.backends.clear();
    scene.agent().reload(&[service])?;
    assert_reset(scene.dial()?);
    eventually_eq(SOON, 1, || scene.queue().refused_for("no-backends"));
    scene.agent().reload(&[scene.service()])?;
    drop(scene.connection()?);
    scene.finish()
}

#[test]
fn size_and_time_can_be_changed_while_clients_wait() -> Result<()> {
    let scene = Scene::arranged(1, 1, |service| {
        service.with("queue", json!({"size": 1, "timeout": "30s"}))
    })?;
    let held = scene.connection()?;
    let patient = scene.dial()?;
    scene.wait_waiters(1);
    assert_reset(scene.dial()?);

    let change = |queue| {
        scene
            .agent()
            .reload(&[scene.service().with("queue", queue)])
    };
    change(json!({"size": 3, "timeout": "30s"}))?;
    let second = scene.dial()?;
    scene.wait_waiters(2);
    change(json!({"size": 3, "timeout": "50ms"}))?;
    assert_reset(scene.dial()?);
    eventually_eq(SOON, 1, || scene.queue().refused_for("queue-timeout"));
    assert_eq!(scene.waiters(), 2, "those who came earlier may wait longer");
    // Smaller than what waits already: they stay, and nobody joins them.
    change(json!({"size": 1, "timeout": "30s"}))?;
    assert_reset(scene.dial()?);
    assert_eq!(scene.waiters(), 2);
    drop(held);
    for waiter in [patient, second] {
        let (_, pod) = scene.accept_any()?;
        drop((waiter, pod));
    }
    scene.finish()
}

#[test]
fn a_hundred_short_requests_at_once_lose_only_those_for_whom_there_is_no_room() -> Result<()> {
    // Ten are served and ten wait; every 5 ms ten more may be served. What is refused is refused
    // because it found ten waiting.
    let stage = Stage::new(10, 1, Duration::from_millis(5), defaults)?;
    let served = stage.crowd_in(100)?;
    assert!(served >= 20, "only {served} of 100 were served");
    let queue = stage.agent.queue("service-0")?;
    let refused = queue.refused_for("queue-full") + queue.refused_for("queue-timeout");
    assert_eq!(u64::from(100 - served), refused, "{queue:?}");
    assert_eq!(queue.refused_in_all(), refused, "{queue:?}");
    stage.finish()
}

#[test]
fn a_hundred_short_requests_at_once_are_all_served_by_a_queue_that_is_large_enough() -> Result<()> {
    let stage = Stage::new(10, 1, Duration::from_millis(5), |service| {
        service.with("queue", json!({"size": 100, "timeout": "10s"}))
    })?;
    assert_eq!(stage.crowd_in(100)?, 100);
    stage.finish()
}

#[test]
fn a_hundred_at_once_on_ten_pods_with_five_slots_are_all_served() -> Result<()> {
    let stage = Stage::new(10, 5, Duration::from_millis(5), |service| {
        service.with("queue", json!({"size": 50, "timeout": "10s"}))
    })?;
    assert_eq!(stage.crowd_in(100)?, 100);
    stage.finish()
}

#[test]
fn a_hundred_at_once_on_ten_pods_with_five_slots_are_mostly_served_by_the_default_queue()
-> Result<()> {
    const ROUNDS: u32 = 10;
    let stage = Stage::new(10, 5, Duration::ZERO, defaults)?;
    let mut best = 0;
    for _ in 0..ROUNDS {
        let served = stage.crowd_in(100)?;
        // Fifty are served and ten wait, however close together they come. The others depend on
        // slots that come free before that, and so on whom the machine lets run first.
        assert!(served >= 60, "only {served} of 100 were served");
        best = best.max(served);
        settle(&stage.agent, &stage.servers);
    }
    assert!(best > 80, "at best {best} of 100 were served");
    stage.finish()
}

#[test]
fn an_adaptive_queue_grows_with_the_load_and_shrinks_after_it() -> Result<()> {
    const WAITERS: u64 = 100;
    let scene = Scene::arranged(1, 1, |service| {
        let queue = json!({"size": 10, "timeout": "30s", "adaptive": true});
        service.with("queue", queue)
    })?;
    let held = scene.connection()?;
    let mut waiters = Vec::new();
    for number in 1..=WAITERS {
        waiters.push(scene.dial()?);
        scene.wait_waiters(number);
    }
    eventually_eq(SOON, 100, || scene.queue().size);
    assert_reset(scene.dial()?);
    eventually_eq(SOON, 1, || scene.queue().refused_for("queue-full"));
    drop(waiters);
    eventually_eq(SOON, 10, || scene.queue().size);
    drop(held);
    scene.finish()
}

#[test]
fn waiters_of_a_service_that_is_removed_leave_nothing_to_the_next_service() -> Result<()> {
    let scene = Scene::arranged(1, 1, |service| {
        service.with("queue", json!({"size": 100, "timeout": "2s"}))
    })?;
    let held = scene.connection()?;
    let waiters: Vec<_> = (0..5).map(|_| scene.dial()).collect::<Result<_, _>>()?;
    scene.wait_waiters(5);
    scene.agent().reload(&[])?;
    // In its place, and with its number in the kernel as soon as that is free.
    let mut next = scene.service();
    next.name = "next".to_owned();
    scene.agent().reload(&[next])?;
    waiters.into_iter().for_each(assert_ended);
    drop(held);
    scene.wait_inflight(0);
    scene.agent().wait_nobody_waits();
    // The pod's slot is granted once the last connection of the service before is seen to be over.
    eventually_eq(SOON, vec![Some(1)], || {
        let backends = scene.backends().into_iter();
        backends.map(|backend| backend.granted).collect()
    });
    let direct = scene.connection()?;
    assert_eq!(scene.agent().queue("next")?.accepted, 0);
    drop(direct);
    scene.agent().reload(&[scene.service()])?;
    scene.finish()
}

#[test]
fn an_agent_that_is_stopped_ends_its_waiters_and_leaves_no_count_behind() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let server = crowd.serve(0, 1, Duration::ZERO)?;
    let patient = |service: Service| service.with("queue", json!({"timeout": "2m"}));
    let mut agent = Agent::start(&crowd.netns, &crowd.cgroup, &[patient(service(0, 1, [0]))])?;
    for end in [Agent::terminate, Agent::kill] {
        let held = crowd.dial(frontend_address(0))?;
        let waiters: Vec<_> = (0..5)
            .map(|_| crowd.dial(frontend_address(0)))
            .collect::<Result<_, _>>()?;
        eventually_eq(SOON, 5, || waiting_at(&agent));
        end(&mut agent)?;
        waiters.into_iter().for_each(assert_ended);
        drop(held);
        agent.restart()?;
        agent.wait_nobody_waits();
        settle(&agent, [&server]);
        let direct = crowd.dial(frontend_address(0))?;
        assert_eq!(agent.inflight()?, 1);
        assert_eq!(agent.queue("service-0")?.accepted, 0);
        drop(direct);
        settle(&agent, [&server]);
    }
    assert_no_slot_astray(&agent)?;
    agent.stop()
}

#[test]
fn an_automatic_waiting_time_follows_the_service_time() -> Result<()> {
    let scene = Scene::arranged(1, 1, |service| {
        service.with("queue", json!({"timeout": "auto"}))
    })?;
    let waited = |scene: &Scene| -> Result<Duration> {
        let held = scene.connection()?;
        let begun = Instant::now();
        assert_reset(scene.dial()?);
        drop(held);
        scene.wait_inflight(0);
        Ok(begun.elapsed())
    };
    // Connections that last long: whoever waits has reason to be patient.
    let before = waited(&scene)?;
    for _ in 0..5 {
        let held = scene.connection()?;
        thread::sleep(Duration::from_millis(300));
        drop(held);
    }
    eventually_eq(SOON, true, || {
        let after = waited(&scene).expect("a waiter is refused in the end");
        after > before + Duration::from_millis(20)
    });
    scene.finish()
}

#[test]
fn a_drained_pod_is_not_given_to_those_who_wait() -> Result<()> {
    let scene = Scene::arranged(2, 1, |service| {
        service.with("queue", json!({"timeout": "30s"}))
    })?;
    let held = [scene.connection()?, scene.connection()?];
    let waiter = scene.dial()?;
    scene.wait_waiters(1);
    let drain = |what: &str| {
        let path = format!(
            "/v1/services/default/hello/backends/{}/{what}",
            scene.pod(0)
        );
        let answer = scene.agent().admin().send("POST", &path, "")?;
        anyhow::ensure!(answer.status < 300, "{answer:?}");
        Ok(())
    };
    drain("drain")?;
    // Which of them is on the drained pod does not matter: both slots come free.
    drop(held);
    let (pod, end) = scene.accept_any()?;
    assert_eq!(pod, 1);
    drain("undrain")?;
    drop((waiter, end));
    scene.finish()
}

/// Pods of one service, each with its server.
struct Stage {
    agent: Agent,
    servers: Vec<ExactServer>,
    crowd: Crowd,
}

impl Stage {
    fn new(pods: u8, slots: u32, work: Duration, arrange: fn(Service) -> Service) -> Result<Self> {
        let crowd = Crowd::new(pods)?;
        let servers = (0..pods)
            .map(|pod| crowd.serve(pod, slots, work))
            .collect::<Result<Vec<_>>>()?;
        let service = arrange(service(0, slots, 0..pods));
        Ok(Self {
            agent: Agent::start(&crowd.netns, &crowd.cgroup, &[service])?,
            servers,
            crowd,
        })
    }

    /// So many clients at once, each with one request. Says how many were served.
    fn crowd_in(&self, clients: usize) -> Result<u32> {
        let start = Barrier::new(clients);
        let served = thread::scope(|scope| {
            let clients: Vec<_> = (0..clients)
                .map(|_| {
                    scope.spawn(|| {
                        let entered = self.crowd.place().enter();
                        start.wait();
                        entered?;
                        request()
                    })
                })
                .collect();
            let served = clients
                .into_iter()
                .map(|client| client.join().expect("a client does not panic"));
            served.collect::<Result<Vec<_>>>()
        })?;
        Ok(served.into_iter().map(u32::from).sum())
    }

    fn finish(self) -> Result<()> {
        settle(&self.agent, &self.servers);
        self.agent.wait_nobody_waits();
        assert_no_slot_astray(&self.agent)?;
        self.agent.stop()
    }
}

/// Whether a request is served; it may only be refused otherwise.
fn request() -> Result<bool> {
    let stream = dial(frontend_address(0)).context("who may not wait is reset, not refused")?;
    match ask(&stream, Request::Answer) {
        Ok(()) => Ok(true),
        Err(error) => match error.downcast_ref::<std::io::Error>() {
            Some(error) if is_reset(error) => Ok(false),
            _ => Err(error),
        },
    }
}

fn is_reset(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

/// Who waits for the first service.
#[track_caller]
fn waiting_at(agent: &Agent) -> u32 {
    let queue = agent.queue("service-0");
    queue.expect("the agent lists its queues").waiters
}

/// Nothing but the default queue.
fn defaults(mut service: Service) -> Service {
    service.settings.remove("queue");
    service
}

/// The connection is reset before a byte comes.
#[track_caller]
fn assert_reset(mut client: TcpStream) {
    let reset = client.read(&mut [0]).expect_err("it must be refused");
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset, "{reset}");
}

/// The connection ends, in whatever way, before a byte comes.
#[track_caller]
fn assert_ended(mut client: TcpStream) {
    match client.read(&mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        read => panic!("not ended: {read:?}"),
    }
}
