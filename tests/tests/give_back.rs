//! Every way in which a connection that came up can end gives its slot back, once.
//!
//! Each test has one pod with one slot, so a slot that is lost, or given back too early or twice,
//! shows in what the kernel admits next. Connects that never come up are in `give_back_failed`.

#![forbid(unsafe_code)]

use std::{
    io::{ErrorKind, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::{Shutdown, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, connect_unspec, recvmsg, sendmsg,
    },
};
use socket2::{Domain, SockRef};
use tests::{
    process::Process,
    scene::{SOON, Scene},
    wait::eventually,
};

#[test]
fn the_client_closes() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let (client, mut pod) = scene.connection()?;
    scene.assert_full();
    drop(client);
    assert_eq!(scene.inflight(), 0, "a close gives back at once");
    assert_eq!(pod.read(&mut [0])?, 0);
    drop(pod);
    scene.finish()
}

#[test]
fn the_client_closes_with_bytes_unread() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let (client, mut pod) = scene.connection()?;
    pod.write_all(b"never read")?;
    client.peek(&mut [0])?;
    scene.assert_full();
    drop(client);
    assert_eq!(scene.inflight(), 0, "a close gives back at once");
    let reset = pod
        .read(&mut [0])
        .expect_err("what is unread becomes a reset");
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    scene.finish()
}

#[test]
fn the_pod_closes_first() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let (mut client, pod) = scene.connection()?;
    scene.assert_full();
    drop(pod);
    scene.assert_free()?;
    assert_eq!(client.read(&mut [0])?, 0);
    drop(client);
    scene.finish()
}

#[test]
fn the_pod_closes_its_half_and_the_client_keeps_its_own() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let (mut client, mut pod) = scene.connection()?;
    scene.assert_full();
    pod.shutdown(Shutdown::Write)?;
    scene.assert_free()?;
    assert_eq!(client.read(&mut [0])?, 0);
    client.write_all(b"!")?;
    pod.read_exact(&mut [0])?;
    drop(client);
    scene.finish()
}

#[test]
fn the_client_closes_its_half() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let (mut client, mut pod) = scene.connection()?;
    scene.assert_full();
    client.shutdown(Shutdown::Write)?;
    scene.assert_free()?;
    pod.write_all(b"!")?;
    client.read_exact(&mut [0])?;
    drop(client);
    scene.finish()
}

#[test]
fn the_pod_resets() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let (mut client, pod) = scene.connection()?;
    scene.assert_full();
    SockRef::from(&pod).set_linger(Some(Duration::ZERO))?;
    drop(pod);
    scene.assert_free()?;
    let reset = client.read(&mut [0]).expect_err("it was reset");
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    drop(client);
    scene.finish()
}

#[test]
fn the_client_resets() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let (client, mut pod) = scene.connection()?;
    scene.assert_full();
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    drop(client);
    assert_eq!(scene.inflight(), 0, "a reset gives back at once");
    let reset = pod.read(&mut [0]).expect_err("it was reset");
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    scene.finish()
}

#[test]
fn the_pod_falls_silent_and_the_client_gives_up_waiting() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let (mut client, _pod) = scene.connection()?;
    let pod = &scene.topology().pods[0].netns;
    let route = format!("{}/32", scene.topology().clients[0].v4);
    pod.ip_batch(&format!("route add blackhole {route}\n"))?;
    SockRef::from(&client).set_tcp_user_timeout(Some(Duration::from_millis(200)))?;
    client.write_all(b"?")?;
    assert_eq!(scene.inflight(), 1);
    let silent = client.read(&mut [0]).expect_err("nothing can answer");
    assert_eq!(silent.kind(), ErrorKind::TimedOut);
    scene.wait_inflight(0);
    pod.ip_batch(&format!("route del blackhole {route}\n"))?;
    scene.assert_free()?;
    drop(client);
    scene.finish()
}

#[test]
fn the_client_dissolves_it_and_connects_again() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let socket = scene.socket(Domain::IPV4)?;
    for _ in 0..3 {
        socket.connect(&scene.frontend().into())?;
        let (_, _pod) = scene.accept(&socket)?;
        scene.assert_full();
        connect_unspec(&socket)?;
        assert_eq!(scene.inflight(), 0, "dissolving gives back at once");
        scene.assert_free()?;
    }
    drop(socket);
    scene.finish()
}

#[test]
fn the_client_is_killed() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let mut command = scene.client().command("bash");
    let (address, port) = (scene.frontend().ip(), scene.frontend().port());
    command
        .arg("-c")
        .arg(format!(
            "exec 3<>/dev/tcp/{address}/{port} && exec sleep 600"
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut client = Process::start(command)?;
    eventually(SOON, || match (scene.inflight(), client.ended()) {
        (1, _) => Ok(()),
        (slots, ended) => Err(format!("{slots} slots; {ended:?}: {}", client.stderr())),
    });
    scene.assert_full();
    client.kill()?;
    scene.assert_free()?;
    scene.finish()
}

#[test]
fn a_child_keeps_the_slot_until_it_ends_too() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let (client, mut pod) = scene.connection()?;
    let mut command = scene.client().command("sleep");
    command
        .arg("600")
        .stdin(OwnedFd::from(client.try_clone()?))
        .stdout(Stdio::null());
    let mut child = Process::start(command)?;
    drop(client);
    scene.assert_full();
    pod.set_read_timeout(Some(Duration::from_millis(20)))?;
    let open = pod.read(&mut [0]).expect_err("the child has it open");
    assert_eq!(open.kind(), ErrorKind::WouldBlock);

    child.kill()?;
    scene.assert_free()?;
    scene.finish()
}

#[test]
fn a_duplicate_keeps_the_slot_until_it_is_closed_too() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let (client, _pod) = scene.connection()?;
    let duplicate = client.try_clone()?;
    drop(client);
    scene.assert_full();
    drop(duplicate);
    assert_eq!(scene.inflight(), 0, "the last close gives back at once");
    scene.finish()
}

#[test]
fn a_descriptor_in_a_letter_keeps_the_slot() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let (client, mut pod) = scene.connection()?;
    let (sender, receiver) = UnixStream::pair()?;
    send_descriptor(&sender, &client)?;
    drop(client);
    scene.assert_full();

    let mut client = TcpStream::from(receive_descriptor(&receiver)?);
    scene.assert_full();
    client.write_all(b"!")?;
    pod.read_exact(&mut [0])?;
    drop(client);
    scene.wait_inflight(0);
    scene.finish()
}

#[test]
fn a_descriptor_in_a_letter_that_nobody_opens_gives_the_slot_back() -> Result<()> {
    let scene = Scene::new(1, 1)?;
    let (client, _pod) = scene.connection()?;
    let (sender, receiver) = UnixStream::pair()?;
    send_descriptor(&sender, &client)?;
    drop(client);
    scene.assert_full();
    drop((sender, receiver));
    scene.assert_free()?;
    scene.finish()
}

fn send_descriptor(sender: &UnixStream, descriptor: &impl AsFd) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    ensure!(
        control.push(SendAncillaryMessage::ScmRights(&descriptors)),
        "one descriptor fits"
    );
    sendmsg(
        sender,
        &[IoSlice::new(b"!")],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(())
}

fn receive_descriptor(receiver: &UnixStream) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        receiver,
        &mut [IoSliceMut::new(&mut [0])],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.context("the letter holds a descriptor")
}
