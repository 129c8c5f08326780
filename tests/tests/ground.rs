//! The test ground itself: what other tests rely on when they believe its counts and its walls.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tests::{
    cgroup::Cgroup,
    function::{Function, FunctionOptions, Work},
    netns::Netns,
    place::Place,
    process::Process,
    raw::{Behaviour, RawServer},
    server::Seen,
    topology::Topology,
    wait::{eventually, eventually_eq},
};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn every_pod_answers_at_once_on_both_families() -> Result<()> {
    let topology = Topology::new(16, 2)?;
    for pod in &topology.pods {
        for address in [pod.at_v4(8080), pod.at_v6(8080)] {
            let function = Function::start(&pod.netns, address, FunctionOptions::default())?;
            for client in &topology.clients {
                let stream = client
                    .netns
                    .connect(address)
                    .with_context(|| address.to_string())?;
                assert_eq!(get(stream, "/")?, 200);
            }
            assert_eq!(function.seen().served, 2);
        }
    }
    Ok(())
}

#[test]
fn namespaces_cannot_see_each_other() -> Result<()> {
    let one = Netns::new()?;
    let other = Netns::new()?;
    let listener = one.listen("127.0.0.1:0".parse()?)?;
    let address = listener.local_addr()?;
    one.connect(address)?;
    let refused = other.connect(address).expect_err("nobody listens there");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    Ok(())
}

#[test]
fn a_function_refuses_what_is_beyond_its_limit_and_counts_it() -> Result<()> {
    let (netns, function) = function_with(2, Duration::from_millis(300))?;
    let working: Vec<_> = (0..2)
        .map(|_| -> Result<TcpStream> {
            let mut stream = netns.connect(function.address())?;
            send(&mut stream, "/", "close")?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    eventually_eq(SOON, 2, || function.seen().current);

    assert_eq!(get(netns.connect(function.address())?, "/")?, 429);
    assert_eq!(get(netns.connect(function.address())?, "/_/health")?, 200);
    for stream in working {
        assert_eq!(status_of_only_answer(stream)?, 200);
    }
    let expected = Seen {
        current: 0,
        peak: 2,
        served: 2,
        over_limit: 1,
        accepted: 4,
    };
    assert_eq!(function.seen(), expected);

    function.reset();
    assert_eq!(function.seen(), Seen::default());
    Ok(())
}

#[test]
fn a_function_counts_a_request_out_before_it_answers() -> Result<()> {
    let (netns, function) = function_with(1, Duration::ZERO)?;
    for _ in 0..300 {
        let mut stream = netns.connect(function.address())?;
        send(&mut stream, "/", "close")?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        assert_eq!(function.seen().current, 0, "the answer has begun");
    }
    assert_eq!(function.seen().over_limit, 0);
    Ok(())
}

#[test]
fn a_function_keeps_connections_alive_and_lets_requests_set_their_work() -> Result<()> {
    let (netns, function) = function_with(1, Duration::from_secs(3600))?;
    let mut stream = netns.connect(function.address())?;
    for request in 1..=3 {
        send(&mut stream, "/?work_us=500", "keep-alive")?;
        assert_eq!(read_head(&mut stream)?, 200);
        assert_eq!(function.seen().served, request);
    }
    assert_eq!(function.seen().accepted, 1);
    send(&mut stream, "/?work_us=soon", "close")?;
    assert_eq!(status_of_only_answer(stream)?, 400);
    Ok(())
}

#[test]
fn a_client_that_gives_up_is_counted_out() -> Result<()> {
    let (netns, function) = function_with(1, Duration::from_secs(3600))?;
    let mut stream = netns.connect(function.address())?;
    send(&mut stream, "/", "close")?;
    eventually_eq(SOON, 1, || function.seen().current);
    drop(stream);
    eventually_eq(SOON, 0, || function.seen().current);
    assert_eq!(function.seen().served, 0);
    Ok(())
}

#[test]
fn raw_servers_end_connections_as_told() -> Result<()> {
    let netns = Netns::new()?;
    let dial = |behaviour| -> Result<(RawServer, std::io::Result<TcpStream>)> {
        let server = RawServer::start(&netns, "127.0.0.1:0".parse()?, behaviour, 0)?;
        let stream = netns.connect(server.address());
        if let Ok(stream) = &stream {
            stream.set_read_timeout(Some(SOON))?;
        }
        Ok((server, stream))
    };
    let after = Duration::from_millis(20);

    let (server, stream) = dial(Behaviour::Hold)?;
    let stream = stream?;
    eventually_eq(SOON, 1, || server.seen().current);
    drop(stream);
    eventually_eq(SOON, (0, 1), || {
        (server.seen().current, server.seen().served)
    });

    let (server, stream) = dial(Behaviour::CloseAfter(after))?;
    assert_eq!(stream?.read(&mut [0])?, 0);
    eventually_eq(SOON, 0, || server.seen().current);

    let (server, stream) = dial(Behaviour::HalfCloseAfter(after))?;
    let mut stream = stream?;
    assert_eq!(stream.read(&mut [0])?, 0);
    stream.write_all(b"the other half still works")?;
    assert_eq!(server.seen().current, 1);
    drop(stream);
    eventually_eq(SOON, 0, || server.seen().current);

    let (_server, stream) = dial(Behaviour::ResetAfter(after))?;
    let reset = stream?.read(&mut [0]).expect_err("reset");
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);

    let (_server, stream) = dial(Behaviour::Refuse)?;
    assert_eq!(
        stream.expect_err("refused").kind(),
        ErrorKind::ConnectionRefused
    );
    Ok(())
}

#[test]
fn an_answering_server_counts_exactly() -> Result<()> {
    let netns = Netns::new()?;
    let answer = Behaviour::Answer {
        after: Duration::ZERO,
    };
    let server = RawServer::start(&netns, "127.0.0.1:0".parse()?, answer, 1)?;
    for _ in 0..500 {
        let mut stream = netns.connect(server.address())?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])?;
    }
    let seen = server.seen();
    assert_eq!(
        (seen.current, seen.peak, seen.served, seen.over_limit),
        (0, 1, 500, 0)
    );
    Ok(())
}

#[test]
fn a_place_holds_threads_and_processes_but_not_the_test() -> Result<()> {
    let netns = Netns::new()?;
    let cgroup = Cgroup::threaded("place")?;
    let place = Place::new(&netns, &cgroup);
    let name = cgroup
        .path()
        .file_name()
        .context("a cgroup has a name")?
        .to_string_lossy()
        .into_owned();

    let of_thread = place.run(own_cgroup)?;
    assert!(of_thread.ends_with(&name), "{of_thread}");
    assert!(!own_cgroup()?.ends_with(&name));

    let namespace_of = |path: &Path| std::fs::read_link(path);
    let inside = place.run(|| namespace_of(Path::new("/proc/thread-self/ns/net")))?;
    let mut command = place.command("sleep");
    command.arg("600").stdout(Stdio::null());
    let sleeper = Process::start(command)?;
    let of_sleeper = format!("/proc/{}", sleeper.pid());
    eventually(SOON, || -> Result<()> {
        let cgroup = unified_of(&std::fs::read_to_string(format!("{of_sleeper}/cgroup"))?)?;
        ensure!(cgroup.ends_with(&name), "the child is in {cgroup}");
        let netns = namespace_of(Path::new(&format!("{of_sleeper}/ns/net")))?;
        ensure!(netns == inside, "the child is in {}", netns.display());
        Ok(())
    });
    drop(sleeper);

    // Servers started from inside must not hold the cgroup.
    let address: SocketAddr = "127.0.0.1:0".parse()?;
    let server = place.run(|| RawServer::start(&netns, address, Behaviour::Hold, 0))?;
    let stream = place.run(|| TcpStream::connect(server.address()))?;
    eventually_eq(SOON, 1, || server.seen().current);
    cgroup.remove()?;
    drop(stream);
    Ok(())
}

fn function_with(max_inflight: u32, work: Duration) -> Result<(Netns, Function)> {
    let netns = Netns::new()?;
    let options = FunctionOptions {
        max_inflight,
        work: Work::Fixed(work),
        ..FunctionOptions::default()
    };
    let function = Function::start(&netns, "127.0.0.1:0".parse()?, options)?;
    Ok((netns, function))
}

fn get(mut stream: TcpStream, path: &str) -> Result<u16> {
    send(&mut stream, path, "close")?;
    status_of_only_answer(stream)
}

fn send(stream: &mut TcpStream, path: &str, connection: &str) -> Result<()> {
    stream.set_read_timeout(Some(SOON))?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: function\r\nConnection: {connection}\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .context("cannot send a request")
}

/// Reads until the server closes.
fn status_of_only_answer(mut stream: TcpStream) -> Result<u16> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    status(&answer)
}

/// Reads one answer whose body is `done\n`, and leaves the connection open.
fn read_head(stream: &mut TcpStream) -> Result<u16> {
    let mut answer = Vec::new();
    while !answer.ends_with(b"done\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.extend(byte);
    }
    status(&String::from_utf8(answer)?)
}

fn status(answer: &str) -> Result<u16> {
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    status.with_context(|| format!("no status in {answer:?}"))
}

fn own_cgroup() -> Result<String> {
    unified_of(&std::fs::read_to_string("/proc/thread-self/cgroup")?)
}

fn unified_of(memberships: &str) -> Result<String> {
    let line = memberships
        .lines()
        .find_map(|line| line.strip_prefix("0::"));
    line.map(str::to_owned).context("no unified hierarchy")
}
