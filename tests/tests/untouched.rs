//! What is not for the balancer passes as if it were not there: neither steered, nor counted, nor
//! recorded, nor renamed.
//!
//! Here the node has the frontend's own address and listens on it, so that whatever is not steered
//! arrives there.

#![forbid(unsafe_code)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Stdio,
};

use anyhow::{Context, Result};
use nix::errno::Errno;
use rustix::net::connect_unspec;
use serde_json::Value;
use socket2::{Domain, Socket};
use tests::{
    place,
    process::Process,
    scene::{FRONTEND_V4, FRONTEND_V6, SOON, Scene, SceneOptions, dial, errno, mapped},
    wait::eventually,
};

#[test]
fn a_pods_own_address_even_when_it_is_full() -> Result<()> {
    for (frontend, domain) in [(FRONTEND_V4, Domain::IPV4), (FRONTEND_V6, Domain::IPV6)] {
        let scene = scene(frontend)?;
        let held = scene.dial()?;
        let rows = scene.connections().len();
        let direct = scene.socket(domain)?;
        direct.connect(&scene.pod(0).into())?;
        let (_, _end) = scene.accept(&direct)?;
        assert_eq!(peer(&direct)?, scene.pod(0));
        assert_eq!((scene.inflight(), scene.steered()), (1, 1));
        assert_eq!(scene.connections().len(), rows);
        drop(direct);
        assert_eq!(scene.inflight(), 1);
        drop(held);
        scene.finish()?;
    }
    Ok(())
}

#[test]
fn another_port_of_the_frontends_address() -> Result<()> {
    for frontend in [FRONTEND_V4, FRONTEND_V6] {
        let scene = scene(frontend)?;
        let beside = SocketAddr::new(frontend.ip(), frontend.port() + 1);
        let listener = listen_on_node(&scene, beside)?;
        let client = scene.client().run(|| dial(beside))?;
        assert_arrived(&scene, &listener, &client, beside)?;
        scene.finish()?;
    }
    Ok(())
}

#[test]
fn another_address_dialled_as_mapped() -> Result<()> {
    let scene = scene(FRONTEND_V4)?;
    let address = "10.111.0.1:80".parse()?;
    let listener = listen_on_node(&scene, address)?;
    let client = scene.client().run(|| dial(mapped(address)))?;
    assert_arrived(&scene, &listener, &client, mapped(address))?;
    scene.finish()
}

#[test]
fn a_thread_outside_the_cgroup() -> Result<()> {
    for frontend in [FRONTEND_V4, FRONTEND_V6] {
        let scene = scene(frontend)?;
        let listener = listen_on_node(&scene, frontend)?;
        let client = scene.topology().clients[0].netns.run(|| dial(frontend))?;
        assert_arrived(&scene, &listener, &client, frontend)?;
        scene.finish()?;
    }
    Ok(())
}

#[test]
fn a_process_outside_the_cgroup() -> Result<()> {
    let scene = scene(FRONTEND_V4)?;
    let listener = listen_on_node(&scene, FRONTEND_V4)?;
    let netns = &scene.topology().clients[0].netns;
    let mut command = place::command(Some(netns), None, "bash".as_ref());
    let (address, port) = (FRONTEND_V4.ip(), FRONTEND_V4.port());
    command
        .arg("-c")
        .arg(format!(
            "exec 3<>/dev/tcp/{address}/{port} && echo outside >&3"
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut process = Process::start(command)?;
    let (mut arrived, _) = listener.accept()?;
    let mut text = String::new();
    arrived.set_read_timeout(Some(SOON))?;
    arrived.read_to_string(&mut text)?;
    assert_eq!(text, "outside\n");
    let status = process.wait(SOON)?;
    assert!(status.success(), "{}", process.stderr());
    assert_untouched(&scene);
    scene.finish()
}

#[test]
fn udp_to_the_frontend() -> Result<()> {
    for (frontend, any) in [(FRONTEND_V4, "0.0.0.0:0"), (FRONTEND_V6, "[::]:0")] {
        let scene = scene(frontend)?;
        scene.topology().node.ip_batch(ON_NODE)?;
        let node = &scene.topology().node;
        let receiver = node.run(|| UdpSocket::bind(frontend))?;
        receiver.set_nonblocking(true)?;
        let sender = scene.client().run(|| UdpSocket::bind(any))?;
        sender.connect(frontend)?;
        assert_eq!(sender.peer_addr()?, frontend);
        // A datagram may be lost, the first one above all.
        eventually(SOON, || {
            sender.send(b"!")?;
            receiver.recv(&mut [0])
        });
        assert_untouched(&scene);
        drop(sender);
        scene.finish()?;
    }
    Ok(())
}

#[test]
fn names_of_listeners_and_of_what_they_accept() -> Result<()> {
    let scene = scene(FRONTEND_V4)?;
    // The client's side serves for once: its accepted sockets have no record.
    let at = SocketAddr::from((scene.topology().clients[0].v4, 7000));
    let listener = scene.client().run(|| TcpListener::bind(at))?;
    let caller = scene.topology().pods[0].netns.connect(at)?;
    let (accepted, from) = listener.accept()?;
    assert_eq!(accepted.peer_addr()?, from);
    assert_eq!(caller.local_addr()?, from);
    let unconnected = scene.socket(Domain::IPV4)?;
    assert_eq!(errno(unconnected.peer_addr()), Errno::ENOTCONN);
    assert_untouched(&scene);
    scene.finish()
}

#[test]
fn a_socket_that_was_steered_before_and_now_dials_a_pod_itself() -> Result<()> {
    for (frontend, domain) in [(FRONTEND_V4, Domain::IPV4), (FRONTEND_V6, Domain::IPV6)] {
        let scene = scene(frontend)?;
        let socket = scene.socket(domain)?;
        socket.connect(&frontend.into())?;
        assert_eq!(peer(&socket)?, frontend);
        connect_unspec(&socket)?;

        socket.connect(&scene.pod(0).into())?;
        let (_, _end) = scene.accept(&socket)?;
        assert_eq!(peer(&socket)?, scene.pod(0), "the pod was dialled");
        assert_eq!((scene.inflight(), scene.steered()), (0, 1));
        assert_eq!(scene.connections(), NONE);
        drop(socket);
        scene.finish()?;
    }
    Ok(())
}

const NONE: [Value; 0] = [];

/// Gives the node the frontends' addresses.
const ON_NODE: &str =
    "address add 10.96.0.10/32 dev lo\naddress add fd00:96::10/128 dev lo nodad\n";

fn scene(frontend: SocketAddr) -> Result<Scene> {
    let options = SceneOptions {
        frontend,
        ..SceneOptions::default()
    };
    options.start()
}

fn listen_on_node(scene: &Scene, address: SocketAddr) -> Result<TcpListener> {
    let node = &scene.topology().node;
    node.ip_batch(ON_NODE)?;
    node.listen(address)
}

fn peer(socket: &Socket) -> Result<SocketAddr> {
    let peer = socket.peer_addr()?.as_socket();
    peer.context("a TCP socket has an address")
}

/// Checks that a connection came to where it was dialled, and that the balancer knows nothing of it.
#[track_caller]
fn assert_arrived(
    scene: &Scene,
    listener: &TcpListener,
    mut client: &TcpStream,
    dialled: SocketAddr,
) -> Result<()> {
    let (mut arrived, _) = listener.accept()?;
    arrived.set_read_timeout(Some(SOON))?;
    client.write_all(b"!")?;
    arrived.read_exact(&mut [0])?;
    assert_eq!(client.peer_addr()?, dialled);
    assert_untouched(scene);
    Ok(())
}

#[track_caller]
fn assert_untouched(scene: &Scene) {
    assert_eq!((scene.inflight(), scene.steered()), (0, 0));
    assert_eq!(scene.connections(), NONE);
}
