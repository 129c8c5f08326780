//! What a test sees of overflow from outside: each service's queue, connections on their way to the
//! agent, and the agent's listeners.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use serde::Deserialize;

use crate::{agent::Agent, netns::Netns, wait::eventually};

/// A queue as `/v1/queues` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Queue {
    /// The service's name.
    pub name: String,
    /// Those who wait, and those on their way to the queue.
    pub waiters: u32,
    /// How many may wait.
    pub size: u32,
    /// How long the one who came first has waited.
    pub oldest_ms: Option<u64>,
    /// Those who came to the agent.
    pub accepted: u64,
    /// Those of them who had to wait.
    pub queued: u64,
    /// Attempts at upstream connections after the first.
    pub retried: u64,
    /// Refusals by reason.
    pub refused: BTreeMap<String, u64>,
}

impl Queue {
    /// Refusals for one reason; it must be one that the API knows.
    #[track_caller]
    pub fn refused_for(&self, reason: &str) -> u64 {
        let refused = self.refused.get(reason).copied();
        refused.unwrap_or_else(|| panic!("{reason} is not among {:?}", self.refused))
    }

    /// All refusals.
    pub fn refused_in_all(&self) -> u64 {
        self.refused.values().sum()
    }
}

impl Agent {
    /// The queue of a service in the namespace `default`.
    pub fn queue(&self, service: &str) -> Result<Queue> {
        let listed = self.admin().get_json("/v1/queues")?;
        let queues: Vec<Queue> =
            serde_json::from_value(listed).context("GET /v1/queues: not in the shape expected")?;
        let mut queues = queues.into_iter().filter(|queue| queue.name == service);
        queues
            .next()
            .with_context(|| format!("{service} has no queue"))
    }

    /// Connections that the programs published and that have not arrived at the agent.
    pub fn flows(&self) -> Result<usize> {
        /// The key and the value of OVERFLOW_FLOWS, which nobody takes apart here.
        type Flows = HashMap<MapData, [u8; 20], [u8; 24]>;
        let path = self.pin_path().join("OVERFLOW_FLOWS");
        let pinned = MapData::from_pin(&path)
            .with_context(|| format!("cannot open the map at {}", path.display()))?;
        let flows: Flows = Map::from_map_data(pinned)
            .and_then(HashMap::try_from)
            .context("OVERFLOW_FLOWS is not the map expected")?;
        flows
            .keys()
            .try_fold(0, |count, key| key.map(|_| count + 1))
            .context("cannot read OVERFLOW_FLOWS")
    }

    /// Waits until nobody waits and nobody is on the way, by the kernel's own count.
    #[track_caller]
    pub fn wait_nobody_waits(&self) {
        eventually(crate::scene::SOON, || -> Result<()> {
            let dump = self.admin().get_json("/v1/maps/SERVICES")?;
            let services = dump["entries"].as_array().context("a list of services")?;
            for service in services {
                ensure!(service["waiters"] == 0, "{service}");
            }
            let flows = self.flows()?;
            ensure!(flows == 0, "{flows} flows are published");
            Ok(())
        });
    }
}

/// The addresses on loopback on which anything listens in a namespace: there, the agent for
/// overflow, and nothing else as long as its admin API has only its unix socket.
pub fn listeners(netns: &Netns) -> Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for name in ["tcp", "tcp6"] {
        let path = format!("/proc/thread-self/net/{name}");
        let text = netns
            .run(|| std::fs::read_to_string(&path))
            .with_context(|| format!("cannot read {path}"))?;
        let addresses = text.lines().skip(1).filter_map(listener);
        found.extend(addresses.filter(|address| address.ip().is_loopback()));
    }
    // Its threads have one each, on the same address.
    found.dedup();
    Ok(found)
}

/// The address in a line of `/proc/net/tcp`, if it is a listener's.
fn listener(line: &str) -> Option<SocketAddr> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words in the machine's own order of memory that in the network's.
    let words: Vec<[u8; 4]> = (0..address.len() / 8)
        .map(|word| u32::from_str_radix(&address[word * 8..][..8], 16))
        .map(|word| word.map(u32::to_ne_bytes))
        .collect::<Result<_, _>>()
        .ok()?;
    let address = match words.concat().as_slice() {
        v4 if v4.len() == 4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(v4).ok()?)),
        v6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(v6).ok()?)),
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn listeners_are_told_from_connections() {
        let line = |local: &str, state: &str| {
            format!("   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000")
        };
        let v4 = listener(&line("0100007F:1F90", "0A"));
        assert_eq!(v4, Some("127.0.0.1:8080".parse().expect("an address")));
        let v6 = listener(&line("00000000000000000000000001000000:0050", "0A"));
        assert_eq!(v6, Some("[::1]:80".parse().expect("an address")));
        assert_eq!(listener(&line("0100007F:1F90", "01")), None);
    }
}
