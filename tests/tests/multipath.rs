//! Multipath TCP: the client's socket is not the one that connects but one above it, and still it
//! is steered, counted and named like any other.

#![forbid(unsafe_code)]

use std::{
    io::{self, Read, Write},
    path::Path,
};

use anyhow::Result;
use nix::errno::Errno;
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use tests::scene::{FRONTEND_V4, SOON, Scene, errno};

const MULTIPATH_SWITCH: &str = "net/mptcp/enabled";

#[test]
fn the_client_closes() -> Result<()> {
    multipath(|scene, socket| {
        socket.connect(&FRONTEND_V4.into())?;
        let (_, _end) = scene.accept(&socket)?;
        scene.assert_full();
        drop(socket);
        scene.wait_inflight(0);
        Ok(())
    })
}

#[test]
fn the_pod_speaks_it_too_and_the_client_closes() -> Result<()> {
    multipath(|scene, socket| {
        scene.close_port(0);
        let pod = &scene.topology().pods[0].netns;
        pod.set_sysctl(MULTIPATH_SWITCH, "1")?;
        let listener = pod.run(multipath_socket)?;
        listener.set_reuse_address(true)?;
        listener.bind(&scene.pod(0).into())?;
        listener.listen(8)?;
        socket.connect(&FRONTEND_V4.into())?;
        let (mut end, _) = listener.accept()?;
        end.set_read_timeout(Some(SOON))?;
        let client = &scene.topology().clients[0].netns;
        assert_ne!(client.counter("MPTcpExt", "MPCapableSYNACKRX")?, 0);
        scene.assert_full();
        drop(socket);
        assert_eq!(scene.inflight(), 0, "a close gives back at once");
        assert_eq!(end.read(&mut [0])?, 0);
        Ok(())
    })
}

#[test]
fn the_pod_closes() -> Result<()> {
    multipath(|scene, socket| {
        socket.connect(&FRONTEND_V4.into())?;
        let (_, end) = scene.accept(&socket)?;
        scene.assert_full();
        drop(end);
        scene.wait_inflight(0);
        drop(socket);
        Ok(())
    })
}

#[test]
fn there_is_no_route_and_the_client_closes() -> Result<()> {
    multipath(|scene, socket| {
        let client = &scene.topology().clients[0].netns;
        client.ip_batch("route add unreachable 10.111.1.0/24\n")?;
        let failed = errno(socket.connect(&FRONTEND_V4.into()));
        assert_eq!(failed, Errno::EHOSTUNREACH);
        drop(socket);
        scene.wait_inflight(0);
        client.ip_batch("route del unreachable 10.111.1.0/24\n")
    })
}

#[test]
fn the_peer_is_the_frontend() -> Result<()> {
    multipath(|scene, socket| {
        socket.connect(&FRONTEND_V4.into())?;
        let (_, _end) = scene.accept(&socket)?;
        assert_eq!(socket.peer_addr()?.as_socket(), Some(FRONTEND_V4));
        Ok(())
    })
}

#[test]
fn it_waits_in_the_queue_and_leaves_it() -> Result<()> {
    multipath(|scene, socket| {
        let patient = json!({"timeout": "30s"});
        let service = scene.service();
        scene
            .agent()
            .reload(&[service.clone().with("queue", patient)])?;
        let held = scene.connection()?;
        let leaving = scene.client().run(multipath_socket)?;
        for waiter in [&leaving, &socket] {
            waiter.connect(&FRONTEND_V4.into())?;
            assert_eq!(waiter.peer_addr()?.as_socket(), Some(FRONTEND_V4));
        }
        scene.wait_waiters(2);
        drop(leaving);
        scene.wait_waiters(1);
        drop(held);
        let (_, mut pod) = scene.accept_any()?;
        (&socket).write_all(b"!")?;
        pod.read_exact(&mut [0])?;
        drop(socket);
        assert_eq!(pod.read(&mut [0])?, 0);
        scene.wait_inflight(0);
        scene.agent().reload(&[service])
    })
}

/// Runs a test with an MPTCP socket. Where the kernel has none, there is nothing to balance: the
/// test is then that no such socket can be made.
fn multipath(test: impl FnOnce(&mut Scene, Socket) -> Result<()>) -> Result<()> {
    let mut scene = Scene::new(1, 1)?;
    if !Path::new("/proc/sys").join(MULTIPATH_SWITCH).exists() {
        println!("does not apply: no {MULTIPATH_SWITCH}, so this kernel is built without MPTCP");
        let failed = errno(scene.client().run(multipath_socket));
        assert_eq!(failed, Errno::EPROTONOSUPPORT);
        return scene.finish();
    }
    let client = &scene.topology().clients[0].netns;
    client.set_sysctl(MULTIPATH_SWITCH, "1")?;
    let socket = scene.client().run(multipath_socket)?;
    socket.set_write_timeout(Some(SOON))?;
    test(&mut scene, socket)?;
    scene.finish()
}

fn multipath_socket() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP))
}
