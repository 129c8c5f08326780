//! A node in miniature: a namespace with a bridge, and pods and clients attached to it by veth
//! pairs, each in a namespace of its own with an IPv4 and an IPv6 address.
//!
//! Every topology uses the same addresses, since none can see another. Nothing is routed to or
//! from the host.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{
    function::{Function, FunctionOptions},
    netns::Netns,
    wait::within,
};

/// For the kernel to take away what is not used any more.
const CLEAN_UP: Duration = Duration::from_secs(5);

/// Most pods, and most clients, that one topology may have.
pub const ENDPOINTS_AT_MOST: usize = 250;

/// A node with its pods and clients.
#[derive(Debug)]
pub struct Topology {
    /// Where the agent runs: has the bridge, `10.111.0.1` and `fd00:111::1`.
    pub node: Netns,
    /// `10.111.1.1…`, `fd00:111::1:1…`
    pub pods: Vec<Endpoint>,
    /// `10.111.2.1…`, `fd00:111::2:1…`
    pub clients: Vec<Endpoint>,
}

/// A namespace on the bridge.
#[derive(Debug)]
pub struct Endpoint {
    /// Its namespace.
    pub netns: Netns,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

#[derive(Clone, Copy)]
enum Role {
    Pod = 1,
    Client = 2,
}

impl Topology {
    /// Brings one up. Everything answers when this returns.
    pub fn new(pods: usize, clients: usize) -> Result<Self> {
        ensure!(
            pods <= ENDPOINTS_AT_MOST && clients <= ENDPOINTS_AT_MOST,
            "a topology has at most {ENDPOINTS_AT_MOST} pods and as many clients, not {pods} and {clients}"
        );
        let node = Netns::new()?;
        let pods = endpoints(Role::Pod, pods)?;
        let clients = endpoints(Role::Client, clients)?;
        node.ip_batch(&wiring(&pods, &clients))?;
        for endpoint in pods.iter().chain(&clients) {
            endpoint.bring_up()?;
        }
        Ok(Self {
            node,
            pods,
            clients,
        })
    }

    /// Takes a pod's namespace away, with everything in it that is not held from outside.
    pub fn delete_pod(&mut self, index: usize) -> Result<()> {
        self.pods[index] = Endpoint::new(Role::Pod, index)?;
        Ok(())
    }

    /// Puts a new namespace where one was deleted, with the same addresses.
    pub fn restore_pod(&self, index: usize) -> Result<()> {
        let pod = &self.pods[index];
        let wiring = plug(pod, &format!("pod{index}"));
        // The kernel takes the other end of the old one's wire away, but a moment later.
        let wired = within(CLEAN_UP, || self.node.ip_batch(&wiring));
        wired.map_err(|late| anyhow::anyhow!("{late:#}"))?;
        pod.bring_up()?;
        // The same address is at another device now.
        for endpoint in self.clients.iter().chain(&self.pods) {
            endpoint.netns.ip_batch("neighbour flush dev eth0\n")?;
        }
        self.node.ip_batch("neighbour flush dev br0\n")
    }

    /// One function server in every pod, on its IPv4 address.
    pub fn functions(&self, port: u16, options: &FunctionOptions) -> Result<Vec<Function>> {
        self.pods
            .iter()
            .zip(0..)
            .map(|(pod, index)| {
                let own = FunctionOptions {
                    seed: options.seed.wrapping_add(index),
                    ..options.clone()
                };
                Function::start(&pod.netns, pod.at_v4(port), own)
            })
            .collect()
    }
}

impl Endpoint {
    fn new(role: Role, index: usize) -> Result<Self> {
        let host = u16::try_from(index + 1).expect("ENDPOINTS_AT_MOST fits");
        Ok(Self {
            netns: Netns::new()?,
            v4: Ipv4Addr::new(10, 111, role as u8, u8::try_from(host)?),
            v6: Ipv6Addr::new(0xfd00, 0x111, 0, 0, 0, 0, role as u16, host),
        })
    }

    /// Its IPv4 address with a port.
    pub fn at_v4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.v4), port)
    }

    /// Its IPv6 address with a port.
    pub fn at_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.v6), port)
    }

    fn bring_up(&self) -> Result<()> {
        let Self { v4, v6, .. } = self;
        self.netns.ip_batch(&format!(
            "address add {v4}/16 dev eth0\n\
             address add {v6}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 10.111.0.1\n\
             route add ::/0 via fd00:111::1\n"
        ))
    }
}

/// Namespaces are made by a few threads at once: the kernel takes milliseconds for each.
fn endpoints(role: Role, count: usize) -> Result<Vec<Endpoint>> {
    const MAKERS: usize = 4;
    thread::scope(|scope| {
        let makers: Vec<_> = (0..MAKERS)
            .map(|maker| {
                scope.spawn(move || -> Result<Vec<_>> {
                    (maker..count)
                        .step_by(MAKERS)
                        .map(|index| Ok((index, Endpoint::new(role, index)?)))
                        .collect()
                })
            })
            .collect();
        let mut made = Vec::with_capacity(count);
        for maker in makers {
            made.extend(maker.join().expect("making a namespace does not panic")?);
        }
        made.sort_by_key(|(index, _)| *index);
        Ok(made.into_iter().map(|(_, endpoint)| endpoint).collect())
    })
}

/// What `ip` has to do inside the node.
fn wiring(pods: &[Endpoint], clients: &[Endpoint]) -> String {
    let mut commands = String::from(
        "link add name br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         address add 10.111.0.1/16 dev br0\n\
         address add fd00:111::1/64 dev br0 nodad\n\
         link set br0 up\n",
    );
    let named = pods
        .iter()
        .zip(0..)
        .map(|(pod, n)| (pod, format!("pod{n}")));
    let named = named.chain(
        clients
            .iter()
            .zip(0..)
            .map(|(client, n)| (client, format!("client{n}"))),
    );
    for (endpoint, name) in named {
        commands += &plug(endpoint, &name);
    }
    commands
}

/// What `ip` has to do inside the node to connect one.
fn plug(endpoint: &Endpoint, name: &str) -> String {
    let path = endpoint.netns.path();
    let path = path.display();
    format!(
        "link add name {name} type veth peer name eth0 netns {path}\n\
         link set {name} master br0 up\n"
    )
}
