//! Where connects go: to an idle pod, in turn; to a shared one when none is idle; nowhere when
//! nothing is available, and then `connect()` itself says so.

#![forbid(unsafe_code)]

use std::{collections::BTreeMap, net::TcpStream};

use anyhow::Result;
use nix::errno::Errno;
use socket2::Domain;
use tests::{
    scene::{FRONTEND_V4, FRONTEND_V6, Scene, SceneOptions, dial, errno, mapped},
    service::Service,
};

#[test]
fn connects_one_after_another_rotate_over_all_idle_pods() -> Result<()> {
    const PODS: usize = 5;
    const ROUNDS: usize = 4;
    let scene = Scene::new(PODS, 1)?;
    let mut served = BTreeMap::<usize, usize>::new();
    for _ in 0..PODS * ROUNDS {
        let (pod, _ends) = steered(&scene)?;
        *served.entry(pod).or_default() += 1;
    }
    let each_in_turn = (0..PODS).map(|pod| (pod, ROUNDS)).collect();
    assert_eq!(served, each_in_turn);
    scene.finish()
}

#[test]
fn connects_that_stay_each_get_an_idle_pod_and_the_next_is_refused() -> Result<()> {
    const PODS: usize = 5;
    let scene = Scene::new(PODS, 1)?;
    let mut held = BTreeMap::new();
    for _ in 0..PODS {
        let (pod, ends) = steered(&scene)?;
        let earlier = held.insert(pod, ends);
        assert!(earlier.is_none(), "pod {pod} was not idle");
    }
    for backend in scene.backends() {
        assert_eq!((&*backend.state, backend.inflight), ("full", 1));
    }
    scene.assert_full();

    // Only one is idle: it is found, wherever it is.
    for pod in [3, 0, 4] {
        held.remove(&pod);
        scene.wait_inflight(PODS as u64 - 1);
        let (found, ends) = steered(&scene)?;
        assert_eq!(found, pod);
        held.insert(found, ends);
    }
    drop(held);
    scene.finish()
}

#[test]
fn when_none_is_idle_pods_are_shared_up_to_their_limit() -> Result<()> {
    const PODS: usize = 3;
    const SLOTS: usize = 4;
    let scene = Scene::new(PODS, SLOTS as u32)?;
    let mut held: BTreeMap<usize, Vec<Ends>> = BTreeMap::new();
    for connects in 1..=PODS * SLOTS {
        let (pod, ends) = steered(&scene)?;
        held.entry(pod).or_default().push(ends);
        if connects == PODS {
            assert_eq!(held.len(), PODS, "each idle pod comes before any busy one");
        }
    }
    let loads: Vec<_> = held.values().map(Vec::len).collect();
    assert_eq!(loads, [SLOTS; PODS]);
    scene.assert_full();

    // An idle pod comes before those that have a slot left.
    for ends in held.values_mut() {
        ends.truncate(1);
    }
    held.remove(&1);
    scene.wait_inflight(PODS as u64 - 1);
    let (pod, ends) = steered(&scene)?;
    assert_eq!(pod, 1, "the idle one");
    drop((held, ends));
    scene.finish()
}

#[test]
fn nothing_available_is_refused_inside_connect_in_every_form() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let held = scene.dial()?;
    let six = mapped(FRONTEND_V4);
    for (domain, frontend) in [(Domain::IPV4, FRONTEND_V4), (Domain::IPV6, six)] {
        for nonblocking in [false, true] {
            let socket = scene.socket(domain)?;
            socket.set_nonblocking(nonblocking)?;
            let failed = errno(socket.connect(&frontend.into()));
            assert_eq!(failed, Errno::ECONNREFUSED, "{frontend} {nonblocking}");
            assert_eq!(socket.take_error()?.map(|error| error.kind()), None);
        }
    }
    assert_eq!(scene.steered(), 1);
    drop(held);

    // A socket that was refused is as good as new.
    let socket = scene.socket(Domain::IPV4)?;
    let held = scene.dial()?;
    let failed = errno(socket.connect(&FRONTEND_V4.into()));
    assert_eq!(failed, Errno::ECONNREFUSED);
    drop(held);
    socket.connect(&FRONTEND_V4.into())?;
    scene.assert_full();
    drop(socket);
    scene.finish()
}

#[test]
fn a_service_without_backends_refuses() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let empty = |name: &str, frontend: &str| Service::new(name, [frontend], 1, []);
    let services = [
        scene.service(),
        empty("empty4", "10.96.0.11:80"),
        empty("empty6", "[fd00:96::11]:80"),
    ];
    scene.agent().reload(&services)?;
    for frontend in [
        "10.96.0.11:80",
        "[::ffff:10.96.0.11]:80",
        "[fd00:96::11]:80",
    ] {
        for nonblocking in [false, true] {
            let frontend = frontend.parse::<std::net::SocketAddr>()?;
            let socket = scene.socket(Domain::for_address(frontend))?;
            socket.set_nonblocking(nonblocking)?;
            let failed = errno(socket.connect(&frontend.into()));
            assert_eq!(failed, Errno::ECONNREFUSED, "{frontend} {nonblocking}");
        }
    }
    assert_eq!(scene.steered(), 0);
    scene.finish()
}

#[test]
fn without_a_limit_every_connect_is_let_in_and_counted() -> Result<()> {
    const CONNECTS: u64 = 200;
    let scene = Scene::new(2, 0)?;
    let held: Vec<_> = (0..CONNECTS)
        .map(|_| scene.dial())
        .collect::<std::io::Result<_>>()?;
    assert_eq!(scene.inflight(), CONNECTS);
    for backend in scene.backends() {
        assert_ne!(backend.inflight, 0, "{}", backend.address);
        assert_eq!(backend.state, "busy");
    }
    drop(held);
    scene.finish()
}

#[test]
fn a_pod_behind_two_services_has_one_count() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let mut other = scene.service();
    other.name = "other".to_owned();
    other.frontends = vec!["10.96.0.11:80".to_owned()];
    scene.agent().reload(&[scene.service(), other])?;
    let dial_other = || {
        scene
            .client()
            .run(|| dial("10.96.0.11:80".parse().expect("an address")))
    };
    let held = scene.dial()?;
    assert_eq!(errno(dial_other()), Errno::ECONNREFUSED);
    assert_eq!(scene.backends().len(), 1);
    drop(held);
    let held = dial_other()?;
    scene.assert_full();
    drop(held);
    scene.finish()
}

#[test]
fn frontends_of_one_service_share_its_slots() -> Result<()> {
    let scene = Scene::new(2, 1)?;
    let mut service = scene.service();
    service.frontends.push("10.96.0.11:8080".to_owned());
    scene.agent().reload(&[service])?;
    let dial_second = || {
        scene
            .client()
            .run(|| dial("10.96.0.11:8080".parse().expect("an address")))
    };
    let held = (scene.dial()?, dial_second()?);
    scene.assert_full();
    assert_eq!(errno(dial_second()), Errno::ECONNREFUSED);
    drop(held);
    scene.finish()
}

#[test]
fn a_second_client_is_steered_too() -> Result<()> {
    let options = SceneOptions {
        pods: 2,
        clients: 2,
        frontend: FRONTEND_V6,
        ..SceneOptions::default()
    };
    let scene = options.start()?;
    let second = &scene.topology().clients[1];
    let place = tests::place::Place::new(&second.netns, scene.cgroup());
    let held = (scene.dial()?, place.run(|| dial(FRONTEND_V6))?);
    assert_eq!(held.1.local_addr()?.ip(), second.v6);
    scene.assert_full();
    drop(held);
    scene.finish()
}

/// Both ends of a connection; open while held.
type Ends = (TcpStream, TcpStream);

/// Dials, and says to which pod that led.
fn steered(scene: &Scene) -> Result<(usize, Ends)> {
    let client = scene.dial()?;
    let (pod, end) = scene.accept(&client)?;
    Ok((pod, (client, end)))
}
