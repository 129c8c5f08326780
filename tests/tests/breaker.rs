//! A backend that fails is left alone, by the kernel itself: the agent is stalled wherever it is not
//! needed. After a while one connection tries whether the backend is well again.
//!
//! Backends fail by the firewall in their namespaces, which also counts who tried.

#![forbid(unsafe_code)]

use std::{
    io::{self, ErrorKind},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use socket2::{Domain, Socket};
use tests::{
    agent::BackendState,
    scene::{FRONTEND_V4, SOON, Scene, errno},
    service::Service,
    wait::eventually,
};

/// Consecutive failures that shut a backend out.
const FAILURES: u64 = 5;
/// What a wall does: as a closed port does, or nothing.
const REJECT: &str = "reject with tcp reset";
const DROP: &str = "drop";
/// Of each pod: enough for all who fail at once.
const SLOTS: u32 = 5;
/// For how long, in tests that wait for the end of it.
const OPEN: Duration = Duration::from_millis(500);
/// How long a client must have waited for its giving up to count.
const PATIENCE: Duration = Duration::from_secs(1);

#[test]
fn a_backend_that_refuses_is_out_after_five_failures_without_the_agents_help() -> Result<()> {
    let scene = Scene::arranged(2, SLOTS, for_long)?;
    let wall = Wall::around(&scene, 0, REJECT)?;
    let stalled = scene.agent().stall()?;
    let mut refused = 0;
    for _ in 0..40 {
        match scene.dial() {
            Ok(client) => assert_eq!(scene.accept(&client)?.0, 1),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                refused += 1;
            }
        }
    }
    assert_eq!((refused, wall.tries()?), (FAILURES, FAILURES));
    drop(stalled);
    assert_eq!(state(&scene, 0), "ejected");
    assert_eq!(state(&scene, 1), "idle");
    assert_eq!(ejected(&scene)?, 1);
    drop(wall);
    finish(scene)
}

#[test]
fn while_it_is_half_open_a_single_connection_tries() -> Result<()> {
    let scene = Scene::arranged(2, SLOTS, for_a_moment)?;
    let wall = Wall::around(&scene, 0, REJECT)?;
    let stalled = scene.agent().stall()?;
    eject(&scene, &wall)?;

    // One that fails keeps it out for as long again.
    let (failed, fine) = dial_for(&scene, OPEN + OPEN / 2)?;
    let tries = wall.tries()? - FAILURES;
    assert_eq!(tries, failed);
    assert!(
        (1..=2).contains(&tries),
        "{tries} tried, and {fine} did not"
    );
    assert!(fine >= 10, "only {fine} were steered to the other");

    // Neither does one that is under way let another in, before as much time has passed again.
    wall.change(DROP)?;
    let trial = until_under_way(&scene)?;
    let begun = Instant::now();
    let mut unanswered = 0;
    for _ in 0..20 {
        let (socket, _) = start_dialling(&scene)?;
        unanswered += u32::from(!is_answered(&socket)?);
    }
    let allowed = begun.elapsed().as_millis() / OPEN.as_millis() + 1;
    assert!(u128::from(unanswered) <= allowed, "{unanswered} tried");
    drop((trial, wall, stalled));
    finish(scene)
}

#[test]
fn a_trial_that_succeeds_lets_the_backend_take_part_again() -> Result<()> {
    let scene = Scene::arranged(2, SLOTS, for_a_moment)?;
    let wall = Wall::around(&scene, 0, REJECT)?;
    let stalled = scene.agent().stall()?;
    eject(&scene, &wall)?;
    drop(wall);
    let mut visited = [0, 0];
    eventually(SOON, || -> Result<()> {
        let (pod, _) = scene.accept(&scene.dial()?)?;
        visited[pod] += 1;
        ensure!(visited[0] >= 1, "still out: {visited:?}");
        Ok(())
    });
    assert!(visited[1] > 0, "not out at all: {visited:?}");
    // In turn, as idle ones are.
    let mut served = [0, 0];
    for _ in 0..20 {
        let (pod, ends) = steered(&scene)?;
        served[pod] += 1;
        drop(ends);
    }
    assert_eq!(served, [10, 10]);
    drop(stalled);
    assert_eq!(ejected(&scene)?, 0);
    assert_eq!(backend(&scene, 0).failures, 0);
    finish(scene)
}

#[test]
fn at_most_half_of_the_backends_are_out() -> Result<()> {
    const PODS: usize = 5;
    let scene = Scene::arranged(PODS, SLOTS, for_long)?;
    let walls = (0..PODS)
        .map(|pod| Wall::around(&scene, pod, "reject with tcp reset"))
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..100 {
        assert_eq!(errno(scene.dial()), Errno::ECONNREFUSED);
    }
    assert_eq!(ejected(&scene)?, 2);
    drop(walls);
    // Those that are not out are used, as they have to be.
    for _ in 0..20 {
        drop(scene.accept(&scene.dial()?)?);
    }
    assert_eq!(ejected(&scene)?, 2);
    finish(scene)
}

#[test]
fn a_client_that_gives_up_soon_does_not_blame_the_backend() -> Result<()> {
    let scene = Scene::arranged(2, SLOTS, for_long)?;
    let busy = only_the_first_has_slots(&scene)?;
    let wall = Wall::around(&scene, 0, DROP)?;
    for _ in 0..2 * FAILURES {
        let impatient = under_way(&scene)?;
        // That it is soon is what this is about.
        thread::sleep(Duration::from_millis(50));
        drop(impatient);
    }
    assert_eq!(backend(&scene, 0).failures, 0);
    assert_eq!(ejected(&scene)?, 0);
    drop((busy, wall));
    finish(scene)
}

#[test]
fn a_backend_that_does_not_answer_is_out_when_five_have_lost_patience() -> Result<()> {
    let scene = Scene::arranged(2, SLOTS, for_long)?;
    let busy = only_the_first_has_slots(&scene)?;
    let wall = Wall::around(&scene, 0, DROP)?;
    let patient: Vec<_> = (0..FAILURES)
        .map(|_| under_way(&scene))
        .collect::<Result<_>>()?;
    thread::sleep(PATIENCE + Duration::from_millis(100));
    assert_eq!(backend(&scene, 0).failures, 0);
    drop(patient);
    assert_eq!(u64::from(backend(&scene, 0).failures), FAILURES);
    assert_eq!(state(&scene, 0), "ejected");
    drop((busy, wall));
    finish(scene)
}

#[test]
fn a_success_between_them_forgives_all_failures() -> Result<()> {
    let scene = Scene::arranged(2, SLOTS, for_long)?;
    for _ in 0..3 {
        let busy = only_the_first_has_slots(&scene)?;
        let wall = Wall::around(&scene, 0, REJECT)?;
        for _ in 1..FAILURES {
            assert_eq!(errno(scene.dial()), Errno::ECONNREFUSED);
        }
        assert_eq!(u64::from(backend(&scene, 0).failures), FAILURES - 1);
        drop(wall);
        let (pod, ends) = steered(&scene)?;
        assert_eq!(pod, 0);
        assert_eq!(backend(&scene, 0).failures, 0);
        drop((busy, ends));
        scene.wait_inflight(0);
    }
    assert_eq!(ejected(&scene)?, 0);
    finish(scene)
}

#[test]
fn a_breaker_that_is_switched_off_never_opens() -> Result<()> {
    let scene = Scene::arranged(2, SLOTS, |service| {
        service.with("breaker", json!({"failures": 0}))
    })?;
    let wall = Wall::around(&scene, 0, REJECT)?;
    let mut refused = 0;
    for _ in 0..40 {
        refused += u64::from(scene.dial().is_err());
    }
    assert_eq!(refused, 20);
    assert_eq!(ejected(&scene)?, 0);
    drop(wall);
    finish(scene)
}

#[test]
fn failures_that_the_agent_sees_count_as_well() -> Result<()> {
    // Each waiter that finds the first pod dead goes on to the second.
    const WAITERS: u64 = 8;
    let scene = Scene::arranged(2, 1, |service| {
        let queue = json!({"size": 100, "timeout": "30s"});
        for_long(service).with("queue", queue)
    })?;
    let held = [scene.connection()?, scene.connection()?];
    let waiters: Vec<_> = (0..WAITERS)
        .map(|_| scene.dial())
        .collect::<Result<_, _>>()?;
    scene.wait_waiters(WAITERS);
    let wall = Wall::around(&scene, 0, REJECT)?;
    drop(held);
    for _ in &waiters {
        let (pod, end) = scene.accept_any()?;
        assert_eq!(pod, 1);
        drop(end);
    }
    assert_eq!(state(&scene, 0), "ejected");
    assert_eq!(wall.tries()?, FAILURES);
    let queue = scene.queue();
    assert_eq!(queue.retried, FAILURES, "{queue:?}");
    assert_eq!(queue.refused_in_all(), 0, "{queue:?}");
    drop((waiters, wall));
    finish(scene)
}

/// Both ends of a connection; open while held.
type Ends = (TcpStream, TcpStream);

/// A firewall rule in a pod's namespace for what comes to its port. It goes on drop.
struct Wall<'a> {
    scene: &'a Scene,
    pod: usize,
}

impl<'a> Wall<'a> {
    fn around(scene: &'a Scene, pod: usize, verdict: &str) -> Result<Self> {
        let wall = Self { scene, pod };
        wall.nft(&format!(
            "add table inet wall\n\
             add counter inet wall tries\n\
             add chain inet wall in {{ type filter hook input priority 0; }}\n\
             add rule inet wall in tcp dport 8080 tcp flags & (syn | ack) == syn \
             counter name tries {verdict}\n"
        ))?;
        Ok(wall)
    }

    fn change(&self, verdict: &str) -> Result<()> {
        self.nft(&format!(
            "flush chain inet wall in\n\
             add rule inet wall in tcp dport 8080 tcp flags & (syn | ack) == syn \
             counter name tries {verdict}\n"
        ))
        .map(drop)
    }

    /// Connects that came, each with every time that it was tried again.
    fn tries(&self) -> Result<u64> {
        let listed = self.nft("list counter inet wall tries\n")?;
        let mut words = listed.split_ascii_whitespace();
        words.find(|word| *word == "packets");
        let packets = words.next().context("a counter counts packets")?;
        Ok(packets.parse()?)
    }

    fn nft(&self, commands: &str) -> Result<String> {
        self.scene.topology().pods[self.pod].netns.nft(commands)
    }
}

impl Drop for Wall<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.nft("delete table inet wall\n") {
            eprintln!("{error:#}");
        }
    }
}

fn for_long(service: Service) -> Service {
    service.with("breaker", json!({"failures": FAILURES, "open": "1h"}))
}

fn for_a_moment(service: Service) -> Service {
    let open = format!("{}ms", OPEN.as_millis());
    service.with("breaker", json!({"failures": FAILURES, "open": open}))
}

/// Checks that nothing is left over, once the backends have come back: they do as new ones.
fn finish(scene: Scene) -> Result<()> {
    scene.wait_inflight(0);
    scene.agent().reload(&[])?;
    scene.finish()
}

/// Dials until the walled pod is out.
fn eject(scene: &Scene, wall: &Wall<'_>) -> Result<()> {
    eventually(SOON, || -> Result<()> {
        let dialled = scene.dial();
        ensure!(wall.tries()? == FAILURES, "not enough: {dialled:?}");
        Ok(())
    });
    Ok(())
}

/// Dials over and over for a while. Says how many failed, and how many did not.
fn dial_for(scene: &Scene, time: Duration) -> Result<(u64, u64)> {
    let (mut failed, mut fine) = (0, 0);
    let begun = Instant::now();
    while begun.elapsed() < time {
        match scene.dial() {
            Ok(client) => {
                scene.accept(&client)?;
                fine += 1;
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => failed += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok((failed, fine))
}

/// Dials without waiting.
fn start_dialling(scene: &Scene) -> Result<(Socket, io::Result<()>)> {
    let socket = scene.socket(Domain::IPV4)?;
    socket.set_nonblocking(true)?;
    let outcome = socket.connect(&FRONTEND_V4.into());
    Ok((socket, outcome))
}

/// A connect that gets no answer.
fn under_way(scene: &Scene) -> Result<Socket> {
    let (socket, outcome) = start_dialling(scene)?;
    assert_eq!(errno(outcome), Errno::EINPROGRESS);
    Ok(socket)
}

/// Dials until one gets no answer.
fn until_under_way(scene: &Scene) -> Result<Socket> {
    let begun = Instant::now();
    loop {
        let (socket, _) = start_dialling(scene)?;
        let answered = is_answered(&socket)?;
        if !answered {
            return Ok(socket);
        }
        ensure!(begun.elapsed() < SOON, "all were answered");
    }
}

/// Whether the connect is over within a moment.
fn is_answered(socket: &Socket) -> Result<bool> {
    let mut polled = [PollFd::new(socket, PollFlags::OUT)];
    let moment = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    Ok(poll(&mut polled, Some(&moment))? == 1)
}

/// Takes every slot of the second pod, so that all that comes goes to the first.
fn only_the_first_has_slots(scene: &Scene) -> Result<Vec<Ends>> {
    let mut held = (0..2 * SLOTS)
        .map(|_| steered(scene))
        .collect::<Result<Vec<_>>>()?;
    held.retain(|(pod, _)| *pod == 1);
    scene.wait_inflight(SLOTS.into());
    Ok(held.into_iter().map(|(_, ends)| ends).collect())
}

fn steered(scene: &Scene) -> Result<(usize, Ends)> {
    let client = scene.dial()?;
    let (pod, end) = scene.accept(&client)?;
    Ok((pod, (client, end)))
}

#[track_caller]
fn backend(scene: &Scene, pod: usize) -> BackendState {
    let address = scene.pod(pod).to_string();
    let mut backends = scene.backends().into_iter();
    let found = backends.find(|backend| backend.address == address);
    found.expect("every pod is listed")
}

#[track_caller]
fn state(scene: &Scene, pod: usize) -> String {
    backend(scene, pod).state
}

/// How many backends are out.
fn ejected(scene: &Scene) -> Result<usize> {
    let backends = scene.backends();
    Ok(backends
        .iter()
        .filter(|backend| backend.state == "ejected")
        .count())
}
