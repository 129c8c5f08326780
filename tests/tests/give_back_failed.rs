//! A connect that fails gives its slot back: refused, unanswered, given up, or not even begun for
//! want of a route or a port; and the same socket may try again, there or elsewhere.
//!
//! Each test has one pod with one slot. A pod's refusal and the kernel's look alike to the client;
//! the count of steered connects tells them apart.

#![forbid(unsafe_code)]

use std::{
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use nix::errno::Errno;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::connect_unspec,
};
use socket2::{Domain, Socket};
use tests::scene::{SOON, Scene, errno};

#[test]
fn the_pod_refuses() -> Result<()> {
    let mut scene = Scene::new(1, 1)?;
    scene.close_port(0);
    for tries in 1..=3 {
        let socket = scene.socket(Domain::IPV4)?;
        assert_eq!(errno(dial(&socket, &scene)), Errno::ECONNREFUSED);
        assert_eq!(
            scene.inflight(),
            0,
            "given back before the socket is closed"
        );
        assert_eq!(scene.steered(), tries, "the pod refused, not the kernel");
    }
    scene.finish()
}

#[test]
fn the_pod_refuses_and_the_same_socket_tries_again() -> Result<()> {
    let mut scene = Scene::new(1, 1)?;
    let socket = scene.socket(Domain::IPV4)?;
    scene.close_port(0);
    for tries in 1..=3 {
        assert_eq!(errno(dial(&socket, &scene)), Errno::ECONNREFUSED);
        assert_eq!(scene.steered(), tries, "the pod refused, not the kernel");
    }
    scene.open_port(0)?;
    dial(&socket, &scene)?;
    let (_, _pod) = scene.accept(&socket)?;
    scene.assert_full();
    drop(socket);
    scene.finish()
}

#[test]
fn the_pod_refuses_a_socket_that_does_not_block() -> Result<()> {
    let mut scene = Scene::new(1, 1)?;
    scene.close_port(0);
    let socket = scene.socket(Domain::IPV4)?;
    socket.set_nonblocking(true)?;
    for tries in 1..=3 {
        // Veth delivers the pod's reset before connect() returns, or a moment later.
        let failed = match errno(dial(&socket, &scene)) {
            Errno::EINPROGRESS => {
                wait_writable(&socket)?;
                socket.take_error()?.and_then(|error| error.raw_os_error())
            }
            at_once => Some(at_once as i32),
        };
        assert_eq!(failed, Some(libc::ECONNREFUSED));
        scene.wait_inflight(0);
        assert_eq!(scene.steered(), tries, "the pod refused, not the kernel");
        // The socket says once more that it failed, and may then be used again (connect(2)).
        let _ = connect_unspec(&socket);
    }
    scene.open_port(0)?;
    drop(socket);
    scene.finish()
}

#[test]
fn nobody_answers_until_the_time_is_over() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    silence(&scene)?;
    let socket = scene.socket(Domain::IPV4)?;
    socket.set_tcp_user_timeout(Some(Duration::from_millis(100)))?;
    socket.set_nonblocking(true)?;
    assert_eq!(errno(dial(&socket, &scene)), Errno::EINPROGRESS);
    scene.assert_full();

    wait_writable(&socket)?;
    let failed = socket.take_error()?.and_then(|error| error.raw_os_error());
    assert_eq!(failed, Some(libc::ETIMEDOUT));
    scene.wait_inflight(0);
    answer_again(&scene)?;
    scene.assert_free()?;
    drop(socket);
    scene.finish()
}

#[test]
fn nobody_answers_and_the_client_closes() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let socket = unanswered(&scene)?;
    drop(socket);
    assert_eq!(scene.inflight(), 0, "a close gives back at once");
    answer_again(&scene)?;
    scene.finish()
}

#[test]
fn nobody_answers_and_the_client_shuts_down() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let socket = unanswered(&scene)?;
    // Whatever it says (shutdown(2) leaves this case open), nothing is in flight afterwards.
    let _ = socket.shutdown(Shutdown::Both);
    scene.wait_inflight(0);
    answer_again(&scene)?;
    scene.assert_free()?;
    drop(socket);
    scene.finish()
}

#[test]
fn nobody_answers_and_the_client_dissolves_and_connects_again() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let socket = unanswered(&scene)?;
    connect_unspec(&socket)?;
    assert_eq!(scene.inflight(), 0, "dissolving gives back at once");
    answer_again(&scene)?;
    socket.set_nonblocking(false)?;
    dial(&socket, &scene)?;
    scene.assert_full();
    drop(socket);
    scene.finish()
}

#[test]
fn no_route_then_close() -> Result<()> {
    for block in NO_ROUTE {
        let scene = Scene::new(1, 1)?;
        block.begin(&scene)?;
        let socket = scene.socket(Domain::IPV4)?;
        assert_eq!(errno(dial(&socket, &scene)), block.errno);
        assert_eq!(scene.steered(), 1, "the slot had been taken");
        drop(socket);
        assert_eq!(scene.inflight(), 0, "a close gives back at once");
        block.end(&scene)?;
        scene.finish()?;
    }
    Ok(())
}

#[test]
fn no_route_then_another_try_on_the_same_socket() -> Result<()> {
    for block in NO_ROUTE {
        let scene = Scene::new(1, 1)?;
        block.begin(&scene)?;
        let socket = scene.socket(Domain::IPV4)?;
        for tries in 1..=3 {
            assert_eq!(errno(dial(&socket, &scene)), block.errno);
            assert_eq!(scene.steered(), tries, "its own slot stood in its way");
        }
        block.end(&scene)?;
        dial(&socket, &scene)?;
        let (_, _pod) = scene.accept(&socket)?;
        scene.assert_full();
        drop(socket);
        scene.finish()?;
    }
    Ok(())
}

#[test]
fn no_port_left_then_close() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let occupied = occupy_ports(&scene)?;
    let socket = scene.socket(Domain::IPV4)?;
    assert_eq!(errno(dial(&socket, &scene)), Errno::EADDRNOTAVAIL);
    assert_eq!(scene.steered(), 1, "the slot had been taken");
    drop(socket);
    assert_eq!(scene.inflight(), 0, "a close gives back at once");
    free_ports(&scene, occupied)?;
    scene.finish()
}

#[test]
fn no_port_left_then_another_try_on_the_same_socket() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let occupied = occupy_ports(&scene)?;
    let socket = scene.socket(Domain::IPV4)?;
    for tries in 1..=3 {
        assert_eq!(errno(dial(&socket, &scene)), Errno::EADDRNOTAVAIL);
        assert_eq!(scene.steered(), tries, "its own slot stood in its way");
    }
    free_ports(&scene, occupied)?;
    dial(&socket, &scene)?;
    let (_, _pod) = scene.accept(&socket)?;
    scene.assert_full();
    drop(socket);
    scene.finish()
}

#[test]
fn after_a_failure_the_same_socket_dials_something_else() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let elsewhere = scene
        .topology()
        .node
        .listen("10.111.0.1:7000".parse::<SocketAddr>()?)?;
    let block = NO_ROUTE[0];
    block.begin(&scene)?;
    let socket = scene.socket(Domain::IPV4)?;
    assert_eq!(errno(dial(&socket, &scene)), block.errno);
    block.end(&scene)?;

    socket.connect(&elsewhere.local_addr()?.into())?;
    assert_eq!(scene.inflight(), 0, "the next connect gives back at once");
    let named = socket.peer_addr()?.as_socket();
    assert_eq!(named, Some(elsewhere.local_addr()?));
    scene.wait_forgotten();
    scene.assert_free()?;
    drop(socket);
    scene.finish()
}

#[test]
fn after_a_failure_the_same_socket_listens() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let block = NO_ROUTE[0];
    block.begin(&scene)?;
    let socket = scene.socket(Domain::IPV4)?;
    assert_eq!(errno(dial(&socket, &scene)), block.errno);
    block.end(&scene)?;

    socket.listen(1)?;
    scene.assert_free()?;
    drop(socket);
    scene.finish()
}

/// A way in which the client has no route to the pods, and what connect() says then.
#[derive(Clone, Copy)]
struct NoRoute {
    begin: &'static str,
    end: &'static str,
    errno: Errno,
}

const NO_ROUTE: [NoRoute; 2] = [
    NoRoute {
        begin: "route add unreachable 10.111.1.0/24\n",
        end: "route del unreachable 10.111.1.0/24\n",
        errno: Errno::EHOSTUNREACH,
    },
    NoRoute {
        begin: "route del default\nroute del 10.111.0.0/16\n",
        end: "route add 10.111.0.0/16 dev eth0\nroute add default via 10.111.0.1\n",
        errno: Errno::ENETUNREACH,
    },
];

impl NoRoute {
    fn begin(self, scene: &Scene) -> Result<()> {
        scene.topology().clients[0].netns.ip_batch(self.begin)
    }

    fn end(self, scene: &Scene) -> Result<()> {
        scene.topology().clients[0].netns.ip_batch(self.end)
    }
}

fn dial(socket: &Socket, scene: &Scene) -> std::io::Result<()> {
    socket.connect(&scene.frontend().into())
}

/// A connect that is under way and stays so, holding the slot.
fn unanswered(scene: &Scene) -> Result<Socket> {
    silence(scene)?;
    let socket = scene.socket(Domain::IPV4)?;
    socket.set_nonblocking(true)?;
    assert_eq!(errno(dial(&socket, scene)), Errno::EINPROGRESS);
    scene.assert_full();
    Ok(socket)
}

/// The pod drops what it would answer.
fn silence(scene: &Scene) -> Result<()> {
    let pod = &scene.topology().pods[0].netns;
    pod.ip_batch("route add blackhole 10.111.2.0/24\n")
}

fn answer_again(scene: &Scene) -> Result<()> {
    let pod = &scene.topology().pods[0].netns;
    pod.ip_batch("route del blackhole 10.111.2.0/24\n")
}

fn wait_writable(socket: &Socket) -> Result<()> {
    let deadline = Timespec::try_from(SOON)?;
    let mut wanted = [PollFd::new(socket, PollFlags::OUT)];
    let ready = poll(&mut wanted, Some(&deadline))?;
    anyhow::ensure!(ready == 1, "nothing became of a connect");
    Ok(())
}

const PORT_RANGE: &str = "net/ipv4/ip_local_port_range";

/// Takes every port from which the client could connect.
fn occupy_ports(scene: &Scene) -> Result<Vec<Socket>> {
    const PORTS: [u16; 2] = [40_000, 40_001];
    let netns = &scene.topology().clients[0].netns;
    netns.set_sysctl(PORT_RANGE, &format!("{} {}", PORTS[0], PORTS[1]))?;
    let occupy = |port| -> Result<Socket> {
        let socket = scene.socket(Domain::IPV4)?;
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
        Ok(socket)
    };
    PORTS.into_iter().map(occupy).collect()
}

fn free_ports(scene: &Scene, occupied: Vec<Socket>) -> Result<()> {
    drop(occupied);
    let netns = &scene.topology().clients[0].netns;
    netns.set_sysctl(PORT_RANGE, "1024 65535")
}
