//! A node whose pods say who they are, for tests that ask who gets which connect: one service
//! `default/roll`, an agent, and clients in namespaces of their own.
//!
//! A *call* is a connection that asks its pod for its number and is closed before the next, so that
//! calls of one client one after another find every pod idle.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    agent::{Agent, AgentOptions, BackendState},
    cgroup::Cgroup,
    crowd::assert_no_slot_astray,
    numbered::Numbered,
    place::Place,
    scene::{SOON, dial},
    service::Service,
    topology::Topology,
    wait::{eventually, eventually_eq},
};

/// What clients dial. Nothing in a topology has this address.
pub const FRONTEND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20)), 80);

const NAME: &str = "roll";
const POD_PORT: u16 = 8080;

/// The node.
#[derive(Debug)]
pub struct RollCall {
    // In this order: the agent leaves its cgroup before that goes.
    agent: Agent,
    cgroup: Cgroup,
    pods: Vec<Option<Numbered>>,
    topology: Topology,
    max_inflight: u32,
}

/// A connection that stays, and the pod that it is to.
#[derive(Debug)]
pub struct Held {
    /// The pod's number.
    pub pod: usize,
    /// The client's end.
    pub stream: TcpStream,
}

impl RollCall {
    /// So many pods with so many slots each (0: unlimited), and so many clients.
    pub fn new(pods: usize, clients: usize, max_inflight: u32) -> Result<Self> {
        Self::with_environment(pods, clients, max_inflight, &[])
    }

    /// The same, with further environment variables for the agent.
    pub fn with_environment(
        pods: usize,
        clients: usize,
        max_inflight: u32,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let topology = Topology::new(pods, clients)?;
        let servers = (0..pods)
            .map(|pod| serve(&topology, pod).map(Some))
            .collect::<Result<Vec<_>>>()?;
        let cgroup = Cgroup::threaded("roll")?;
        let mut options = AgentOptions::new(&topology.node, &cgroup);
        options.environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let agent = options.start(&[service(&topology, max_inflight)])?;
        Ok(Self {
            agent,
            cgroup,
            pods: servers,
            topology,
            max_inflight,
        })
    }

    /// The agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The agent, to be killed and started again.
    pub fn agent_mut(&mut self) -> &mut Agent {
        &mut self.agent
    }

    /// Whose sockets are steered.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The namespaces.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// A pod's server.
    #[track_caller]
    pub fn pod(&self, pod: usize) -> &Numbered {
        self.pods[pod].as_ref().expect("the pod is open")
    }

    /// The service without further settings, with all pods, as it stands in the configuration.
    pub fn service(&self) -> Service {
        service(&self.topology, self.max_inflight)
    }

    /// Puts a service in its place and waits until that is in force.
    pub fn arrange(&self, service: Service) -> Result<()> {
        self.agent.reload(&[service])
    }

    /// Where a client is.
    pub fn client(&self, client: usize) -> Place<'_> {
        Place::new(&self.topology.clients[client].netns, &self.cgroup)
    }

    /// Calls of one client, one after another. Who answered them, in this order.
    pub fn calls_of(&self, client: usize, calls: usize) -> Result<Vec<usize>> {
        self.client(client)
            .run(|| (0..calls).map(|_| call()).collect())
    }

    /// Calls of the first client.
    pub fn calls(&self, calls: usize) -> Result<Vec<usize>> {
        self.calls_of(0, calls)
    }

    /// Connections of a client that stay.
    pub fn hold_of(&self, client: usize, connections: usize) -> Result<Vec<Held>> {
        self.client(client)
            .run(|| (0..connections).map(|_| hold()).collect())
    }

    /// Connections of the first client that stay.
    pub fn hold(&self, connections: usize) -> Result<Vec<Held>> {
        self.hold_of(0, connections)
    }

    /// A pod as the admin API lists it.
    pub fn backend(&self, pod: usize) -> Result<BackendState> {
        let address = self.address(pod).to_string();
        let mut rows = self.agent.backends()?.into_iter();
        rows.find(|row| row.address == address)
            .with_context(|| format!("{address} is not listed"))
    }

    /// The service as the admin API shows it.
    pub fn shown(&self) -> Result<serde_json::Value> {
        let path = format!("/v1/services/default/{NAME}");
        self.agent.admin().get_json(&path)
    }

    /// Drains a pod by hand, and waits until that is in force.
    pub fn drain(&self, pod: usize) -> Result<()> {
        self.order(pod, "drain")?;
        self.wait_state(pod, |state| state == "draining");
        Ok(())
    }

    /// Takes that back, and waits until that is in force.
    pub fn undrain(&self, pod: usize) -> Result<()> {
        self.order(pod, "undrain")?;
        self.wait_state(pod, |state| state != "draining");
        Ok(())
    }

    /// Waits until a pod is in a state.
    #[track_caller]
    pub fn wait_state(&self, pod: usize, is_it: impl Fn(&str) -> bool) {
        eventually(SOON, || -> Result<()> {
            let row = self.backend(pod)?;
            ensure!(is_it(&row.state), "{row:?}");
            Ok(())
        });
    }

    /// Closes a pod's port and its connections.
    #[track_caller]
    pub fn close(&mut self, pod: usize) {
        self.take(pod).stop();
    }

    /// Hands over a pod's server, to be stopped at another time.
    #[track_caller]
    pub fn take(&mut self, pod: usize) -> Numbered {
        self.pods[pod].take().expect("the pod is open")
    }

    /// Opens it again.
    pub fn open(&mut self, pod: usize) -> Result<()> {
        self.pods[pod] = Some(serve(&self.topology, pod)?);
        Ok(())
    }

    /// Waits until so many wait in the queue.
    #[track_caller]
    pub fn wait_waiters(&self, expected: u32) {
        eventually_eq(SOON, Some(expected), || {
            let queue = self.agent.queue(NAME).ok()?;
            Some(queue.waiters)
        });
    }

    /// Waits until so many slots are taken.
    #[track_caller]
    pub fn wait_inflight(&self, expected: u64) {
        eventually_eq(SOON, Some(expected), || self.agent.inflight().ok());
    }

    /// Checks that nothing is left over: no slot taken, none lost, nobody waits; and stops the
    /// agent. All connections must be closed and all pods open.
    pub fn finish(self) -> Result<()> {
        self.wait_inflight(0);
        self.agent.wait_nobody_waits();
        // They come back as new ones, whatever was said of them before.
        self.agent.reload(&[])?;
        self.arrange(self.service())?;
        let slots = self.pods.len() * self.max_inflight as usize;
        let held = self.hold(slots).context("a slot is lost")?;
        if slots != 0 {
            let newcomer = self.client(0).run(|| dial(FRONTEND));
            let refused = newcomer.expect_err("every slot is taken").kind();
            ensure!(refused == io::ErrorKind::ConnectionRefused, "{refused}");
        }
        drop(held);
        self.wait_inflight(0);
        assert_no_slot_astray(&self.agent)?;
        let said = self.agent.stderr();
        ensure!(!said.contains("panicked"), "{said}");
        self.agent.stop()
    }

    /// A pod's address.
    pub fn address(&self, pod: usize) -> SocketAddr {
        self.topology.pods[pod].at_v4(POD_PORT)
    }

    fn order(&self, pod: usize, what: &str) -> Result<()> {
        let address = self.address(pod);
        let path = format!("/v1/services/default/{NAME}/backends/{address}/{what}");
        let answer = self.agent.admin().send("POST", &path, "")?;
        ensure!(
            (200..300).contains(&answer.status),
            "POST {path}: status {}: {}",
            answer.status,
            answer.body
        );
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A process that another test is just starting has a copy of the descriptor for a moment,
        // and closing alone would not end the connection then.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// A call from where the calling thread is. Who answered it.
pub fn call() -> Result<usize> {
    hold().map(|held| held.pod)
}

/// A connection from there that stays.
pub fn hold() -> Result<Held> {
    let stream = dial(FRONTEND).context("a connect")?;
    let pod = ask(&stream)?;
    Ok(Held { pod, stream })
}

/// Calls over and over for a while, from where the calling thread is.
pub fn calls_during(time: Duration) -> Result<Vec<usize>> {
    let begun = std::time::Instant::now();
    let mut answered = Vec::new();
    while begun.elapsed() < time {
        answered.push(call()?);
    }
    Ok(answered)
}

/// Asks a pod for its number.
pub fn ask(mut stream: &TcpStream) -> Result<usize> {
    stream.write_all(b"?").context("cannot ask")?;
    let mut number = [0];
    stream.read_exact(&mut number).context("no answer")?;
    Ok(number[0].into())
}

fn serve(topology: &Topology, pod: usize) -> Result<Numbered> {
    let endpoint = &topology.pods[pod];
    let number = u8::try_from(pod).context("a pod's number is a byte")?;
    Numbered::start(&endpoint.netns, endpoint.at_v4(POD_PORT), number)
}

fn service(topology: &Topology, max_inflight: u32) -> Service {
    let frontend = FRONTEND.to_string();
    let pods = topology.pods.iter().map(|pod| pod.at_v4(POD_PORT));
    Service::new(NAME, [&*frontend], max_inflight, pods)
}
