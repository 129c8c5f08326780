//! A node for many connections in little time: everything in one namespace, pods as addresses of
//! its loopback device. Frontends have no route, so a connect that is not steered fails as such.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    agent::Agent,
    cgroup::Cgroup,
    exact::{ExactServer, Request},
    netns::Netns,
    place::Place,
    service::Service,
    wait::eventually,
};

/// For whatever has to happen without a test's further doing, on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);

/// A namespace with pods' addresses, and a cgroup for clients.
#[derive(Debug)]
pub struct Crowd {
    /// Where everything is.
    pub netns: Netns,
    /// Whose sockets are steered.
    pub cgroup: Cgroup,
}

/// How an exchange with a frontend went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server ended it as asked.
    Served,
    /// The connect was refused.
    Refused,
    /// The connect was not steered: nothing is routed to a frontend.
    Unsteered,
}

impl Crowd {
    /// A node that can have so many pods.
    pub fn new(pods: u8) -> Result<Self> {
        let netns = Netns::new()?;
        let addresses: String = (0..pods)
            .map(|pod| format!("address add {}/32 dev lo\n", pod_address(pod).ip()))
            .collect();
        netns.ip_batch(&addresses)?;
        let cgroup = Cgroup::threaded("crowd")?;
        Ok(Self { netns, cgroup })
    }

    /// Where clients stand.
    pub fn place(&self) -> Place<'_> {
        Place::new(&self.netns, &self.cgroup)
    }

    /// Starts the server of a pod.
    pub fn serve(&self, pod: u8, limit: u32, work: Duration) -> Result<ExactServer> {
        ExactServer::start(&self.netns, pod_address(pod), limit, work)
    }

    /// A connection from where clients stand, held by the caller.
    pub fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.place().run(|| dial(address))
    }
}

/// A pod's address.
pub fn pod_address(pod: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 111, 1, pod + 1).into(), 8080)
}

/// A frontend's address, to which nothing is routed.
pub fn frontend_address(service: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 96, 0, service + 1).into(), 80)
}

/// A service of these pods, as it stands in the configuration.
pub fn service(service: u8, max_inflight: u32, pods: impl IntoIterator<Item = u8>) -> Service {
    let frontend = frontend_address(service).to_string();
    let pods = pods.into_iter().map(pod_address);
    Service::new(
        &format!("service-{service}"),
        [&*frontend],
        max_inflight,
        pods,
    )
}

/// Slots taken at a pod, under each id that it has or had.
pub fn slots_taken(agent: &Agent, pod: u8) -> Result<Vec<u64>> {
    let pod = pod_address(pod).to_string();
    let rows = agent
        .backends()?
        .into_iter()
        .filter(|row| row.address == pod);
    Ok(rows.map(|row| row.inflight).collect())
}

/// A connection whose reads do not hang for ever.
pub fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

/// Dials, asks and takes the end. Anything that a steered connection must not do is an error.
pub fn exchange(frontend: SocketAddr, request: Request) -> Result<Outcome> {
    let stream = match dial(frontend) {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => return Ok(Outcome::Refused),
            ErrorKind::NetworkUnreachable => return Ok(Outcome::Unsteered),
            _ => return Err(error).with_context(|| format!("connect to {frontend}")),
        },
    };
    ask(&stream, request).with_context(|| format!("connection to {frontend}"))?;
    Ok(Outcome::Served)
}

/// Asks over an established connection and checks that it ends as asked.
pub fn ask(mut stream: &TcpStream, request: Request) -> Result<()> {
    stream.write_all(&[request as u8]).context("cannot ask")?;
    let mut answer = [0];
    let read = stream.read(&mut answer);
    match (request, read) {
        (Request::Answer, Ok(1)) => ensure!(answer[0] == request as u8, "another's answer"),
        (Request::Close | Request::HalfClose, Ok(0)) => {}
        (Request::Reset, Err(error)) if error.kind() == ErrorKind::ConnectionReset => {}
        (_, Ok(0)) => {
            let ended = io::Error::from(ErrorKind::UnexpectedEof);
            return Err(ended).with_context(|| format!("asked for {request:?}"));
        }
        (_, Ok(bytes)) => anyhow::bail!("asked for {request:?}, got {bytes} bytes"),
        (_, Err(error)) => return Err(error).with_context(|| format!("asked for {request:?}")),
    }
    Ok(())
}

/// Waits until no slot is taken and no server serves, and checks that no server ever served more
/// than it should.
pub fn settle<'a>(agent: &Agent, servers: impl IntoIterator<Item = &'a ExactServer> + Clone) {
    eventually(SOON, || -> Result<()> {
        let backends = agent.backends()?;
        let taken: Vec<_> = backends.iter().filter(|row| row.inflight != 0).collect();
        ensure!(taken.is_empty(), "slots still taken: {taken:?}");
        for server in servers.clone() {
            let tally = server.tally();
            ensure!(tally.current == 0, "{} has {tally:?}", server.address());
        }
        Ok(())
    });
    for server in servers {
        let tally = server.tally();
        assert_eq!(tally.breaches, 0, "{} saw {tally:?}", server.address());
    }
}

/// Checks that the programs lost and invented no slot.
pub fn assert_no_slot_astray(agent: &Agent) -> Result<()> {
    let faults = agent.admin().get_json("/v1/maps/FAULTS")?;
    let faults = faults["entries"].as_array().context("a list of faults")?;
    let of = |name: &str| {
        let found = faults.iter().find(|fault| fault["fault"] == name);
        found.with_context(|| format!("{name} is not among {faults:?}"))
    };
    for name in [
        "stale_generation",
        "underflow",
        "no_service",
        "no_connection",
        "no_callbacks",
    ] {
        let fault = of(name)?;
        ensure!(fault["count"] == 0, "the programs counted {fault}");
    }
    Ok(())
}
