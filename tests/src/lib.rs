//! The test ground: real network namespaces, cgroups, function servers and an agent under
//! control, for the integration tests, the demo and the benchmarks.
//!
//! It owns everything that touches the machine (namespaces, cgroups, mounts, processes) and takes
//! it away again: each thing is a value whose drop removes it, and [`residue`] proves it or, after
//! a kill, does it. It refuses to change the host's own network namespace or the root cgroup's
//! programs, and it needs root.
//!
//! A test usually reads like this:
//!
//! ```no_run
//! # use std::{io::Read, net::TcpStream, time::Duration};
//! # use tests::{agent::Agent, cgroup::Cgroup, function::{Function, FunctionOptions},
//! #             place::Place, service::Service, topology::Topology, wait::eventually};
//! # fn main() -> anyhow::Result<()> {
//! let topology = Topology::new(3, 1)?;
//! let functions = topology.functions(8080, &FunctionOptions::default())?;
//! let cgroup = Cgroup::threaded("steer")?;
//! let service = Service::new("hello", ["10.96.0.10:8080"], 1, functions.iter().map(Function::address));
//! let agent = Agent::start(&topology.node, &cgroup, &[service])?;
//! let client = Place::new(&topology.clients[0].netns, &cgroup);
//! let stream = client.run(|| TcpStream::connect("10.96.0.10:8080"))?;
//! drop(stream);
//! eventually(Duration::from_secs(2), || match agent.inflight()? {
//!     0 => Ok(()),
//!     n => Err(anyhow::anyhow!("{n} slots still taken")),
//! });
//! agent.stop()
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod admin;
pub mod agent;
pub mod cgroup;
pub mod clock;
pub mod cluster;
pub mod crowd;
pub mod events;
pub mod exact;
pub mod function;
pub mod http;
pub mod kubepods;
pub mod kubernetes;
pub mod name;
pub mod netns;
pub mod numbered;
pub mod overflow;
pub mod place;
pub mod process;
pub mod raw;
pub mod refusal;
pub mod residue;
pub mod roll_call;
pub mod run_dir;
pub mod run_time;
pub mod scene;
pub mod server;
pub mod service;
pub mod shares;
pub mod soak;
pub mod topology;
pub mod wait;
