//! Only connections that the programs steered to the agent reach it: whoever dials its overflow
//! address is told that nobody listens there.

#![forbid(unsafe_code)]

use std::{
    io::Read,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::errno::Errno;
use serde_json::json;
use socket2::{Domain, SockRef, Socket, Type};
use tests::{
    overflow::listeners,
    scene::{FRONTEND_V4, FRONTEND_V6, SOON, Scene, SceneOptions, dial, errno, mapped},
    service::Service,
};

/// A second address of the node.
const SECOND: &str = "address add 10.111.0.2/16 dev br0\n";

#[test]
fn a_stranger_is_refused_from_wherever_it_dials() -> Result<()> {
    let scene = scene(FRONTEND_V4)?;
    assert_refused_everywhere(&scene)?;
    // Those who may come in open the door for nobody else.
    let held = scene.connection()?;
    let waiters = [
        scene.dial()?,
        scene.local_client().run(|| dial(FRONTEND_V4))?,
    ];
    scene.wait_waiters(2);
    assert_refused_everywhere(&scene)?;
    assert_eq!(scene.queue().accepted, 2);
    drop((held, waiters));
    // They may have had the slot before they left.
    scene.wait_inflight(0);
    scene.finish()
}

#[test]
fn a_stranger_is_refused_while_connections_are_on_their_way() -> Result<()> {
    let scene = scene(FRONTEND_V6)?;
    let held = scene.connection()?;
    let stalled = scene.agent().stall()?;
    let on_their_way = [
        scene.dial()?,
        scene.local_client().run(|| dial(FRONTEND_V6))?,
    ];
    assert_eq!(scene.agent().flows()?, 2);
    assert_refused_everywhere(&scene)?;
    drop(stalled);
    scene.wait_waiters(2);
    drop((held, on_their_way));
    scene.wait_inflight(0);
    scene.finish()
}

#[test]
fn the_port_of_one_who_waits_lets_no_other_in() -> Result<()> {
    let scene = scene(FRONTEND_V4)?;
    scene.topology().node.ip_batch(SECOND)?;
    let held = scene.connection()?;
    let waiter = bound(&scene, 0)?;
    waiter.connect(&FRONTEND_V4.into())?;
    scene.wait_waiters(1);
    let port = local_port(&waiter)?;
    // The same client's address and port, to another address of the agent's: another connection.
    let stranger = bound(&scene, port)?;
    let elsewhere = SocketAddr::new("10.111.0.2".parse()?, overflow_port(&scene, false)?);
    assert_eq!(
        errno(stranger.connect(&elsewhere.into())),
        Errno::ECONNREFUSED
    );
    assert_eq!(scene.waiters(), 1);
    drop((held, waiter));
    scene.wait_inflight(0);
    scene.finish()
}

#[test]
fn the_port_of_one_who_was_served_lets_no_other_in() -> Result<()> {
    let scene = scene(FRONTEND_V4)?;
    let held = scene.connection()?;
    let served = bound(&scene, 0)?;
    served.connect(&FRONTEND_V4.into())?;
    scene.wait_waiters(1);
    let port = local_port(&served)?;
    drop(held);
    let (_, mut pod) = scene.accept_any()?;
    // By a reset, so that the port is free at once.
    served.set_linger(Some(Duration::ZERO))?;
    drop(served);
    pod.read(&mut [0]).expect_err("it was reset");
    scene.wait_inflight(0);
    for address in overflow_addresses(&scene, FRONTEND_V4)? {
        let stranger = bound(&scene, port)?;
        assert_eq!(
            errno(stranger.connect(&address.into())),
            Errno::ECONNREFUSED
        );
    }
    // The port is as good as any other for a client.
    let held = scene.connection()?;
    let client = bound(&scene, port)?;
    client.connect(&FRONTEND_V4.into())?;
    scene.wait_waiters(1);
    drop(held);
    let (_, pod) = scene.accept_any()?;
    drop((client, pod));
    scene.finish()
}

#[test]
fn a_client_that_gave_up_on_its_way_leaves_no_door_open() -> Result<()> {
    let scene = scene(FRONTEND_V4)?;
    let held = scene.connection()?;
    // The agent answers nothing: connects stay on their way.
    let node = &scene.topology().node;
    node.nft(
        "add table inet gate; add chain inet gate in { type filter hook input priority 0; }; \
              add rule inet gate in tcp flags & (syn | ack) == syn drop",
    )?;
    let leaving = bound(&scene, 0)?;
    leaving.set_nonblocking(true)?;
    assert_eq!(
        errno(leaving.connect(&FRONTEND_V4.into())),
        Errno::EINPROGRESS
    );
    let port = local_port(&leaving)?;
    assert_eq!(scene.waiters(), 1);
    drop(leaving);
    scene.agent().wait_nobody_waits();
    node.nft("delete table inet gate")?;
    for address in overflow_addresses(&scene, FRONTEND_V4)? {
        let stranger = bound(&scene, port)?;
        assert_eq!(
            errno(stranger.connect(&address.into())),
            Errno::ECONNREFUSED
        );
    }
    drop(held);
    scene.finish()
}

/// One pod with one slot; waiters are patient.
fn scene(frontend: SocketAddr) -> Result<Scene> {
    let options = SceneOptions {
        clients: 2,
        frontend,
        arrange: Some(|service: Service| service.with("queue", json!({"timeout": "30s"}))),
        ..SceneOptions::default()
    };
    options.start()
}

/// Strangers dial every overflow address from every namespace, in the cgroup and outside of it.
#[track_caller]
fn assert_refused_everywhere(scene: &Scene) -> Result<()> {
    let topology = scene.topology();
    let ports = [overflow_port(scene, false)?, overflow_port(scene, true)?];
    for (is_v6, port) in [(false, ports[0]), (true, ports[1])] {
        let node = topology_address(is_v6);
        let loopback = match is_v6 {
            true => IpAddr::V6(Ipv6Addr::LOCALHOST),
            false => "127.0.0.1".parse()?,
        };
        let address = SocketAddr::new(node, port);
        for client in &topology.clients {
            for address in [address, mapped(address)] {
                assert_refused(client.netns.connect(address), address);
            }
        }
        assert_refused(topology.pods[0].netns.connect(address), address);
        assert_refused(scene.client().run(|| TcpStream::connect(address)), address);
        for address in [address, SocketAddr::new(loopback, port)] {
            assert_refused(topology.node.connect(address), address);
            assert_refused(
                scene.local_client().run(|| TcpStream::connect(address)),
                address,
            );
        }
    }
    Ok(())
}

#[track_caller]
fn assert_refused(dialled: std::io::Result<TcpStream>, address: SocketAddr) {
    assert_eq!(errno(dialled), Errno::ECONNREFUSED, "{address}");
}

/// Where clients in other namespaces are sent.
fn overflow_addresses(scene: &Scene, frontend: SocketAddr) -> Result<Vec<SocketAddr>> {
    let is_v6 = frontend.is_ipv6();
    let port = overflow_port(scene, is_v6)?;
    Ok(vec![SocketAddr::new(topology_address(is_v6), port)])
}

fn topology_address(is_v6: bool) -> IpAddr {
    match is_v6 {
        true => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x111, 0, 0, 0, 0, 0, 1)),
        false => IpAddr::V4([10, 111, 0, 1].into()),
    }
}

fn overflow_port(scene: &Scene, is_v6: bool) -> Result<u16> {
    let listeners = listeners(&scene.topology().node)?;
    let mut of_family = listeners.iter().filter(|at| at.is_ipv6() == is_v6);
    let listener = of_family.next();
    let listener = listener.with_context(|| format!("no such listener: {listeners:?}"))?;
    Ok(listener.port())
}

/// A client's socket that others may share the port with.
fn bound(scene: &Scene, port: u16) -> Result<Socket> {
    let own = SocketAddr::new(scene.topology().clients[0].v4.into(), port);
    let bind = || -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_write_timeout(Some(SOON))?;
        socket.bind(&own.into())?;
        Ok(socket)
    };
    let socket = scene.client().run(bind);
    socket.with_context(|| format!("cannot bind {own}"))
}

fn local_port(socket: &Socket) -> Result<u16> {
    let local = SockRef::from(socket).local_addr()?.as_socket();
    Ok(local.context("a TCP socket has an address")?.port())
}
