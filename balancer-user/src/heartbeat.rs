//! The agent's signs of life: what the programs know of it, kept up to date.
//!
//! While they are fresh the programs send connections to the agent. Also notices when the cgroup
//! is gone, with which the kernel detaches the programs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use balancer_common::{
    address::{Address, Port},
    connection::{AgentState, SWITCH_LOG, SWITCH_STEER_EVENTS},
    maps::ABI,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{
    config,
    journal::Journal,
    kernel::{Kernel, KernelError},
    overflow::{NodeAddresses, Overflow, Ports, Pulses},
    telemetry::LogControl,
};

/// How often the kernel is told that the agent lives.
const EVERY: Duration = Duration::from_millis(500);
/// Of these, every so many-th looks whether the node's addresses have changed.
const ADDRESSES_EVERY: u32 = 10;

/// Writes the signs of life.
pub struct Heartbeat {
    kernel: Arc<Kernel>,
    log: LogControl,
    journal: Journal,
    configured: config::Overflow,
    addresses: NodeAddresses,
    ports: Ports,
    pulses: Pulses,
    is_stuck: bool,
}

impl Heartbeat {
    /// Finds the node's addresses for overflow, as configured.
    pub fn new(
        kernel: Arc<Kernel>,
        log: LogControl,
        journal: Journal,
        configured: config::Overflow,
        overflow: &Overflow,
    ) -> Self {
        let addresses = NodeAddresses::find(&configured);
        say(addresses);
        Self {
            kernel,
            log,
            journal,
            configured,
            addresses,
            ports: overflow.ports(),
            pulses: overflow.pulses().clone(),
            is_stuck: false,
        }
    }

    /// Writes one sign of life.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn beat(&self) -> Result<(), KernelError> {
        let mut switches = 0;
        if self.log.shows_trace() {
            switches |= SWITCH_LOG;
        }
        if self.journal.wants_steer() {
            switches |= SWITCH_STEER_EVENTS;
        }
        let NodeAddresses { v4, v6 } = self.addresses;
        self.kernel.change_agent_state(|state| {
            *state = AgentState {
                heartbeat_ns: self.kernel.now().as_nanos() as u64,
                abi: ABI,
                switches,
                netns_cookie: self.kernel.netns_cookie(),
                overflow_v4: v4.map_or(Address::default(), |v4| {
                    Address::from(std::net::IpAddr::V4(v4))
                }),
                overflow_v6: v6.map_or(Address::default(), |v6| {
                    Address::from(std::net::IpAddr::V6(v6))
                }),
                port_v4: Port::from(self.ports.v4),
                port_v6: self.ports.v6.map_or(Port(0), Port::from),
                // What `bypass` says.
                ..*state
            };
        })
    }

    /// Goes on for as long as the runtime lives. Takes readiness away if the cgroup is gone, or the
    /// programs are not attached to it any more.
    pub async fn run(mut self, ready: Arc<watch::Sender<bool>>) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticked_at = Instant::now();
        for number in 1u32.. {
            ticks.tick().await;
            // If this task was late, so were all others, which have to be given a moment.
            let was_late = ticked_at.elapsed() >= EVERY * 2;
            ticked_at = Instant::now();
            if *ready.borrow() && !self.is_steered() {
                ready.send_replace(false);
            }
            if number.is_multiple_of(ADDRESSES_EVERY) {
                self.look_for_addresses();
            }
            if !was_late && self.is_stuck() {
                continue;
            }
            if let Err(error) = self.beat() {
                tracing::error!(%error, "the programs cannot be told that the agent lives");
            }
        }
    }

    /// Whether connections are steered, as they were when the agent started. Says so if not.
    fn is_steered(&self) -> bool {
        let cgroup = self.kernel.cgroup_path().display();
        if !self.kernel.has_cgroup() {
            tracing::error!(%cgroup, "the cgroup is gone, and nothing is steered any more; make it again if it is not there, and restart the agent");
            return false;
        }
        if !self.kernel.is_attached() {
            tracing::error!(%cgroup, "somebody has removed the pins in agent.pin_path or detached programs, and not every connection is steered any more; restart the agent");
            return false;
        }
        true
    }

    /// Whether a part of the data path is stuck: then there is no sign of life, and the programs
    /// go on without the agent. Says so when it changes.
    fn is_stuck(&mut self) -> bool {
        let stuck = self.pulses.stuck();
        match stuck {
            Some(worker) if !self.is_stuck => {
                tracing::error!(
                    worker,
                    "an overflow thread is stuck; connections go on without the agent until it moves again"
                );
            }
            None if self.is_stuck => tracing::info!("the overflow threads move again"),
            _ => {}
        }
        self.is_stuck = stuck.is_some();
        self.is_stuck
    }

    fn look_for_addresses(&mut self) {
        let found = NodeAddresses::find(&self.configured);
        if found != self.addresses {
            self.addresses = found;
            say(found);
        }
    }
}

fn say(NodeAddresses { v4, v6 }: NodeAddresses) {
    tracing::info!(
        ?v4,
        ?v6,
        "clients in other network namespaces reach the agent here"
    );
}
