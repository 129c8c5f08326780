//! Every family and every way to call connect: steered alike, counted alike, and named by the
//! frontend that was dialled.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, ensure};
use io_uring::{IoUring, opcode, types};
use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockAddr, Socket};
use tests::scene::{FRONTEND_V4, FRONTEND_V6, SOON, Scene, SceneOptions, errno, mapped};

/// What is dialled, and the service's frontend behind it.
const FORMS: [(Form, SocketAddr); 3] = [
    (Form::Plain, FRONTEND_V4),
    (Form::Mapped, FRONTEND_V4),
    (Form::Plain, FRONTEND_V6),
];

#[derive(Clone, Copy, Debug)]
enum Form {
    Plain,
    Mapped,
}

#[test]
fn a_blocking_connect_is_steered_and_named() -> Result<()> {
    for_every_form(|scene, dialled| {
        let socket = scene.socket(Domain::for_address(dialled))?;
        socket.connect(&dialled.into())?;
        assert_steered(scene, socket, dialled)
    })
}

#[test]
fn a_nonblocking_connect_is_steered_and_named() -> Result<()> {
    for_every_form(|scene, dialled| {
        let socket = scene.socket(Domain::for_address(dialled))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&dialled.into()) {
            Ok(()) => {}
            under_way => {
                assert_eq!(errno(under_way), Errno::EINPROGRESS);
                scene.assert_full();
                wait_writable(&socket)?;
                assert_eq!(socket.take_error()?.map(|error| error.kind()), None);
                // Linux says once that it is done, and then that it was (net/ipv4/af_inet.c).
                socket.connect(&dialled.into())?;
            }
        }
        assert_eq!(errno(socket.connect(&dialled.into())), Errno::EISCONN);
        socket.set_nonblocking(false)?;
        assert_steered(scene, socket, dialled)
    })
}

#[test]
fn an_asynchronous_connect_is_steered_and_named() -> Result<()> {
    for_every_form(|scene, dialled| {
        let stream = scene.client().run(|| -> Result<TcpStream> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()?;
            let stream = runtime.block_on(tokio::net::TcpStream::connect(dialled))?;
            Ok(stream.into_std()?)
        })?;
        stream.set_nonblocking(false)?;
        assert_steered(scene, stream.into(), dialled)
    })
}

#[test]
fn a_connect_by_io_uring_is_steered_and_named() -> Result<()> {
    for_every_form(|scene, dialled| {
        let socket = scene.socket(Domain::for_address(dialled))?;
        connect_by_io_uring(&socket, dialled)?;
        let refused = scene.socket(Domain::for_address(dialled))?;
        let failed = connect_by_io_uring(&refused, dialled);
        assert_eq!(errno(failed), Errno::ECONNREFUSED);
        assert_steered(scene, socket, dialled)
    })
}

#[test]
fn a_socket_bound_to_a_port_keeps_it() -> Result<()> {
    for_every_form(|scene, dialled| {
        let socket = scene.socket(Domain::for_address(dialled))?;
        let any = match dialled {
            SocketAddr::V4(_) => "0.0.0.0:34567",
            SocketAddr::V6(_) => "[::]:34567",
        };
        socket.bind(&any.parse::<SocketAddr>()?.into())?;
        socket.connect(&dialled.into())?;
        let local = socket.local_addr()?.as_socket();
        assert_eq!(local.map(|address| address.port()), Some(34567));
        assert_steered(scene, socket, dialled)
    })
}

#[test]
fn a_socket_for_ipv6_only_is_steered_and_named() -> Result<()> {
    let scene = scene(FRONTEND_V6)?;
    let socket = scene.socket(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    socket.connect(&FRONTEND_V6.into())?;
    assert_steered(&scene, socket, FRONTEND_V6)?;
    scene.finish()
}

#[test]
fn plain_and_mapped_share_one_count() -> Result<()> {
    let options = SceneOptions {
        max_inflight: 2,
        ..SceneOptions::default()
    };
    let scene = options.start()?;
    let plain = scene.socket(Domain::IPV4)?;
    let six = scene.socket(Domain::IPV6)?;
    plain.connect(&FRONTEND_V4.into())?;
    assert_eq!(scene.inflight(), 1);
    six.connect(&mapped(FRONTEND_V4).into())?;
    scene.assert_full();
    let third = scene.socket(Domain::IPV6)?;
    let failed = errno(third.connect(&mapped(FRONTEND_V4).into()));
    assert_eq!(failed, Errno::ECONNREFUSED);
    drop(plain);
    assert_eq!(scene.inflight(), 1);
    third.connect(&mapped(FRONTEND_V4).into())?;
    scene.assert_full();
    drop((six, third));
    scene.finish()
}

#[test]
fn a_fast_open_is_steered_and_named() -> Result<()> {
    for (form, frontend) in FORMS {
        let mut scene = scene(frontend)?;
        // Data in the SYN, on both sides and without a cookie (ip-sysctl, tcp_fastopen).
        let client = scene.topology().clients[0].netns.share()?;
        client.set_sysctl("net/ipv4/tcp_fastopen", "5")?;
        scene.close_port(0);
        let pod = &scene.topology().pods[0].netns;
        pod.set_sysctl("net/ipv4/tcp_fastopen", "1538")?;
        scene.open_port(0)?;

        let dialled = form.of(frontend);
        let socket = scene.socket(Domain::for_address(dialled))?;
        let sent = socket.send_to_with_flags(b"?", &dialled.into(), libc::MSG_FASTOPEN)?;
        assert_eq!(sent, 1);
        scene.assert_full();
        let (_, mut end) = scene.accept(&socket)?;
        end.read_exact(&mut [0])?;
        assert_eq!(peer(&socket)?, dialled);
        assert_eq!(client.counter("TcpExt", "TCPFastOpenActive")?, 1);
        drop(socket);
        assert_eq!(scene.inflight(), 0);

        let held = scene.dial()?;
        let socket = scene.socket(Domain::for_address(dialled))?;
        let failed = socket.send_to_with_flags(b"?", &dialled.into(), libc::MSG_FASTOPEN);
        assert_eq!(errno(failed), Errno::ECONNREFUSED);
        drop((held, socket));
        scene.finish()?;
    }
    Ok(())
}

impl Form {
    fn of(self, frontend: SocketAddr) -> SocketAddr {
        match self {
            Self::Plain => frontend,
            Self::Mapped => mapped(frontend),
        }
    }
}

/// One pod with one slot.
fn scene(frontend: SocketAddr) -> Result<Scene> {
    let options = SceneOptions {
        frontend,
        ..SceneOptions::default()
    };
    options.start()
}

fn for_every_form(test: impl Fn(&Scene, SocketAddr) -> Result<()>) -> Result<()> {
    for (form, frontend) in FORMS {
        let scene = scene(frontend)?;
        let dialled = form.of(frontend);
        test(&scene, dialled).with_context(|| format!("{form:?} {frontend}"))?;
        scene.finish()?;
    }
    Ok(())
}

/// Checks that the connection is steered, counted, named by what was dialled, and carries bytes;
/// closes it, and checks that that was counted too.
fn assert_steered(scene: &Scene, socket: Socket, dialled: SocketAddr) -> Result<()> {
    scene.assert_full();
    assert_eq!(peer(&socket)?, dialled);
    let (_, mut end) = scene.accept(&socket)?;
    let mut client = TcpStream::from(socket);
    client.write_all(b"?")?;
    end.read_exact(&mut [0])?;
    end.write_all(b"!")?;
    client.read_exact(&mut [0])?;
    drop(client);
    assert_eq!(scene.inflight(), 0);
    Ok(())
}

fn peer(socket: &Socket) -> Result<SocketAddr> {
    let peer = socket.peer_addr()?.as_socket();
    peer.context("a TCP socket has an address")
}

fn wait_writable(socket: &Socket) -> Result<()> {
    let deadline = Timespec::try_from(SOON)?;
    let mut wanted = [PollFd::new(socket, PollFlags::OUT)];
    let ready = poll(&mut wanted, Some(&deadline))?;
    ensure!(ready == 1, "nothing became of a connect");
    Ok(())
}

fn connect_by_io_uring(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let address = SockAddr::from(address);
    let mut ring = IoUring::new(1)?;
    let descriptor = types::Fd(socket.as_raw_fd());
    let connect = opcode::Connect::new(descriptor, address.as_ptr().cast(), address.len());
    // SAFETY: the descriptor and the address outlive the operation, which has ended when the wait
    // below returns.
    unsafe { ring.submission().push(&connect.build()) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let ended = ring.completion().next().expect("one operation has ended");
    match ended.result() {
        0 => Ok(()),
        negative => Err(io::Error::from_raw_os_error(-negative)),
    }
}
