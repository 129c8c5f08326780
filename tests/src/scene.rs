//! What a test of one connection begins with: pods that listen, one service in front of them, an
//! agent and a client; and ends with: every slot free, and free to be taken.
//!
//! The pods accept only when the test says so, and the test holds both ends of each connection, so
//! it ends them in whatever order it likes and needs no timing.

use std::{
    cell::RefCell,
    fmt::Debug,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use serde_json::json;
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    agent::{Agent, BackendState},
    cgroup::Cgroup,
    netns::Netns,
    overflow::Queue,
    place::Place,
    service::Service,
    topology::Topology,
    wait::{eventually_eq, within},
};

/// What clients of an IPv4 service dial. Nothing in a topology has this address.
pub const FRONTEND_V4: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), FRONTEND_PORT);
/// What clients of an IPv6 service dial.
pub const FRONTEND_V6: SocketAddr = SocketAddr::new(
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10)),
    FRONTEND_PORT,
);

/// For whatever has to happen without a test's further doing.
pub const SOON: Duration = Duration::from_secs(8);

/// The name of the service.
pub const NAME: &str = "hello";

const FRONTEND_PORT: u16 = 80;
const POD_PORT: u16 = 8080;

/// How to set a scene.
#[derive(Clone, Copy, Debug)]
pub struct SceneOptions {
    /// How many pods.
    pub pods: usize,
    /// How many clients.
    pub clients: usize,
    /// Slots of each pod; 0: unlimited.
    pub max_inflight: u32,
    /// The service's frontend, whose family the pods have.
    pub frontend: SocketAddr,
    /// Further settings of the service; without, what finds no slot is refused in `connect()`.
    pub arrange: Option<fn(Service) -> Service>,
    /// What its pods speak; without, TCP. They are not probed unless `arrange` says so.
    pub protocol: Option<&'static str>,
}

/// A service `default/hello`, its pods, its agent and its clients.
#[derive(Debug)]
pub struct Scene {
    // In this order: the agent leaves its cgroup before that goes.
    agent: Agent,
    cgroup: Cgroup,
    pods: Vec<Pod>,
    waiting: RefCell<Vec<Accepted>>,
    topology: Topology,
    options: SceneOptions,
}

#[derive(Debug)]
struct Pod {
    address: SocketAddr,
    listener: Option<TcpListener>,
}

/// A connection that was accepted before a test asked for it.
#[derive(Debug)]
struct Accepted {
    pod: usize,
    client: SocketAddr,
    stream: TcpStream,
}

impl Default for SceneOptions {
    fn default() -> Self {
        Self {
            pods: 1,
            clients: 1,
            max_inflight: 1,
            frontend: FRONTEND_V4,
            arrange: None,
            protocol: None,
        }
    }
}

impl SceneOptions {
    /// Sets it.
    pub fn start(self) -> Result<Scene> {
        let topology = Topology::new(self.pods, self.clients)?;
        let pods = topology
            .pods
            .iter()
            .map(|pod| {
                let address = match self.frontend {
                    SocketAddr::V4(_) => pod.at_v4(POD_PORT),
                    SocketAddr::V6(_) => pod.at_v6(POD_PORT),
                };
                Pod::open(&pod.netns, address)
            })
            .collect::<Result<Vec<_>>>()?;
        let cgroup = Cgroup::threaded("scene")?;
        let service = service(self, &pods);
        Ok(Scene {
            agent: Agent::start(&topology.node, &cgroup, &[service])?,
            cgroup,
            pods,
            waiting: RefCell::default(),
            topology,
            options: self,
        })
    }
}

impl Scene {
    /// One client and this many IPv4 pods with this many slots each.
    pub fn new(pods: usize, max_inflight: u32) -> Result<Self> {
        let options = SceneOptions {
            pods,
            max_inflight,
            ..SceneOptions::default()
        };
        options.start()
    }

    /// [`Scene::new`] with further settings of the service.
    pub fn arranged(
        pods: usize,
        max_inflight: u32,
        arrange: fn(Service) -> Service,
    ) -> Result<Self> {
        let options = SceneOptions {
            pods,
            max_inflight,
            arrange: Some(arrange),
            ..SceneOptions::default()
        };
        options.start()
    }

    /// The agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The namespaces.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Whose sockets are steered.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The service as it stands in the configuration.
    pub fn service(&self) -> Service {
        service(self.options, &self.pods)
    }

    /// What clients dial.
    pub fn frontend(&self) -> SocketAddr {
        self.options.frontend
    }

    /// A pod's address.
    pub fn pod(&self, index: usize) -> SocketAddr {
        self.pods[index].address
    }

    /// Where the first client is.
    pub fn client(&self) -> Place<'_> {
        Place::new(&self.topology.clients[0].netns, &self.cgroup)
    }

    /// Where a client in the agent's own namespace is.
    pub fn local_client(&self) -> Place<'_> {
        Place::new(&self.topology.node, &self.cgroup)
    }

    /// A TCP socket of the client's. It stays in the client's namespace and cgroup, whoever uses it.
    pub fn socket(&self, domain: Domain) -> Result<Socket> {
        let made = self
            .client()
            .run(|| Socket::new(domain, Type::STREAM, None));
        bounded(made?)
    }

    /// Dials the frontend from the client, as most programs do.
    pub fn dial(&self) -> io::Result<TcpStream> {
        let frontend = self.frontend();
        self.client().run(|| dial(frontend))
    }

    /// Waits for a connection at its pod. Gives the pod's index and its end.
    pub fn accept(&self, client: &impl AsFd) -> Result<(usize, TcpStream)> {
        let local = SockRef::from(client).local_addr()?.as_socket();
        let local = canonical(local.context("a TCP socket has an address")?);
        let accepted = within(SOON, || {
            self.accept_all()?;
            let mut waiting = self.waiting.borrow_mut();
            let found = waiting.iter().position(|accepted| accepted.client == local);
            let found = found.with_context(|| format!("no pod has a connection from {local}"))?;
            anyhow::Ok(waiting.swap_remove(found))
        });
        let Accepted { pod, stream, .. } = accepted.map_err(|late| anyhow::anyhow!("{late:#}"))?;
        stream.set_read_timeout(Some(SOON))?;
        Ok((pod, stream))
    }

    /// Waits for any connection at any pod, such as the agent's. Gives the pod's index and its end.
    pub fn accept_any(&self) -> Result<(usize, TcpStream)> {
        let accepted = within(SOON, || {
            let accepted = self.try_accept()?;
            accepted.context("no pod has a connection")
        });
        accepted.map_err(|late| anyhow::anyhow!("{late:#}"))
    }

    /// The same, if there is one by now.
    pub fn try_accept(&self) -> Result<Option<(usize, TcpStream)>> {
        self.accept_all()?;
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            return Ok(None);
        }
        let Accepted { pod, stream, .. } = waiting.remove(0);
        stream.set_read_timeout(Some(SOON))?;
        Ok(Some((pod, stream)))
    }

    /// Checks that no pod has a connection that was not accepted yet.
    #[track_caller]
    pub fn assert_no_arrival(&self) {
        self.accept_all().expect("pods can accept");
        let waiting = self.waiting.borrow();
        assert!(waiting.is_empty(), "arrived: {waiting:?}");
    }

    /// Closes a pod's port: connects to it are refused.
    pub fn close_port(&mut self, pod: usize) {
        self.pods[pod].listener = None;
    }

    /// Opens it again.
    pub fn open_port(&mut self, pod: usize) -> Result<()> {
        let opened = Pod::open(&self.topology.pods[pod].netns, self.pods[pod].address)?;
        self.pods[pod] = opened;
        Ok(())
    }

    /// The service's queue.
    #[track_caller]
    pub fn queue(&self) -> Queue {
        let queue = self.agent.queue(NAME);
        queue.expect("the agent lists its queues")
    }

    /// Those who wait, and those on their way to the queue.
    #[track_caller]
    pub fn waiters(&self) -> u64 {
        let services = self.agent.admin().get_json("/v1/services");
        let services = services.expect("the agent lists its services");
        services[0]["waiters"]
            .as_u64()
            .expect("a number of waiters")
    }

    /// Waits until so many wait.
    #[track_caller]
    pub fn wait_waiters(&self, expected: u64) {
        eventually_eq(SOON, expected, || self.waiters());
    }

    /// Slots taken, over all pods, as the kernel counts them.
    #[track_caller]
    pub fn inflight(&self) -> u64 {
        self.agent.inflight().expect("the agent lists its backends")
    }

    /// Waits until so many slots are taken.
    #[track_caller]
    pub fn wait_inflight(&self, expected: u64) {
        eventually_eq(SOON, expected, || self.inflight());
    }

    /// Connects ever steered to a pod.
    #[track_caller]
    pub fn steered(&self) -> u64 {
        self.backends().iter().map(|backend| backend.steered).sum()
    }

    /// The pods as the admin API lists them: by address.
    #[track_caller]
    pub fn backends(&self) -> Vec<BackendState> {
        self.agent.backends().expect("the agent lists its backends")
    }

    /// The rows of `/v1/connections`.
    #[track_caller]
    pub fn connections(&self) -> Vec<serde_json::Value> {
        let listed = self.agent.admin().get_json("/v1/connections");
        let listed = listed.expect("the agent lists connections");
        let rows = listed["connections"].as_array();
        rows.expect("a list of connections").clone()
    }

    /// Waits until no connection is listed.
    #[track_caller]
    pub fn wait_forgotten(&self) {
        eventually_eq(SOON, Vec::new(), || self.connections());
    }

    /// A connection, both of its ends: the client's, the pod's.
    pub fn connection(&self) -> Result<(TcpStream, TcpStream)> {
        let client = self.dial()?;
        let (_, pod) = self.accept(&client)?;
        Ok((client, pod))
    }

    /// Checks that every slot is taken, and that the kernel refuses a newcomer by itself.
    #[track_caller]
    pub fn assert_full(&self) {
        let slots = self.slots();
        assert_eq!(self.inflight(), slots, "slots taken");
        let steered = self.steered();
        assert_eq!(errno(self.dial()), Errno::ECONNREFUSED);
        assert_eq!(self.steered(), steered, "the newcomer was steered");
        assert_eq!(self.inflight(), slots, "slots taken after the refusal");
    }

    /// Waits until no slot is taken, and checks that each one can be, and be given back again.
    ///
    /// All ports must be open and every service limited.
    pub fn assert_free(&self) -> Result<()> {
        self.wait_inflight(0);
        let held: Vec<_> = (0..self.slots())
            .map(|slot| self.dial().with_context(|| format!("slot {slot} is lost")))
            .collect::<Result<_>>()?;
        self.assert_full();
        drop(held);
        self.wait_inflight(0);
        Ok(())
    }

    /// Checks that nothing is left over: the counts come to 0, nobody waits, every slot there is
    /// can be taken again, and no record stays. Then stops the agent.
    ///
    /// The client's sockets must be closed or have given their slots back.
    pub fn finish(mut self) -> Result<()> {
        self.wait_inflight(0);
        self.agent.wait_nobody_waits();
        if self.options.arrange.take().is_some() {
            self.agent.reload(&[self.service()])?;
        }
        let closed: Vec<usize> = (0..self.pods.len())
            .filter(|pod| self.pods[*pod].listener.is_none())
            .collect();
        for pod in closed {
            self.open_port(pod)?;
        }
        if self.options.max_inflight != 0 {
            self.assert_free()?;
        }
        self.wait_forgotten();
        self.assert_no_fault()?;
        self.agent.stop()
    }

    /// The programs count what they could not do; here they could do all.
    fn assert_no_fault(&self) -> Result<()> {
        let dump = self.agent.admin().get_json("/v1/maps/FAULTS")?;
        let faults = dump["entries"].as_array();
        let faults = faults.with_context(|| format!("no faults are listed: {dump}"))?;
        ensure!(!faults.is_empty(), "no faults are counted: {dump}");
        let seen: Vec<_> = faults.iter().filter(|fault| fault["count"] != 0).collect();
        ensure!(seen.is_empty(), "faults: {seen:?}");
        Ok(())
    }

    fn slots(&self) -> u64 {
        self.pods.len() as u64 * u64::from(self.options.max_inflight)
    }

    fn accept_all(&self) -> Result<()> {
        let open = self.pods.iter().enumerate();
        let open = open.filter_map(|(index, pod)| Some((index, pod.listener.as_ref()?)));
        for (pod, listener) in open {
            loop {
                match listener.accept() {
                    Ok((stream, client)) => {
                        let client = canonical(client);
                        let accepted = Accepted {
                            pod,
                            client,
                            stream,
                        };
                        self.waiting.borrow_mut().push(accepted);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => bail!("a pod cannot accept: {error}"),
                }
            }
        }
        Ok(())
    }
}

impl Pod {
    fn open(netns: &Netns, address: SocketAddr) -> Result<Self> {
        let listener = netns.listen(address)?;
        listener
            .set_nonblocking(true)
            .context("cannot make a listener non-blocking")?;
        Ok(Self {
            address,
            listener: Some(listener),
        })
    }
}

/// Dials from where the calling thread is, and gives up after [`SOON`].
pub fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // It bounds a blocking connect too (socket(7)).
    socket.set_write_timeout(Some(SOON))?;
    socket.set_read_timeout(Some(SOON))?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// An IPv4 address as a client with an IPv6 socket dials it.
pub fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Why it failed; it must have.
#[track_caller]
pub fn errno<T: Debug>(result: io::Result<T>) -> Errno {
    let error = result.expect_err("this must fail");
    match error.raw_os_error() {
        Some(code) => Errno::from_raw(code),
        None => panic!("not the kernel's error: {error}"),
    }
}

fn service(options: SceneOptions, pods: &[Pod]) -> Service {
    let frontend = options.frontend.to_string();
    let addresses = pods.iter().map(|pod| pod.address);
    let mut service = Service::new(NAME, [&*frontend], options.max_inflight, addresses);
    if let Some(protocol) = options.protocol {
        service = service
            .with("protocol", json!(protocol))
            .with("health", json!({"probe": "none"}));
    }
    match options.arrange {
        Some(arrange) => arrange(service),
        None => service,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn bounded(socket: Socket) -> Result<Socket> {
    socket.set_write_timeout(Some(SOON))?;
    socket.set_read_timeout(Some(SOON))?;
    Ok(socket)
}
