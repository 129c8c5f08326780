//! What can fail around a node, and what clients may notice of it.

use std::time::Instant;

use anyhow::Result;
use rand::rngs::SmallRng;

use super::{Failure, Kind, Soak, agents, exhaustion, network, pods};

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The agent is killed, and started again a while later.
    AgentKilled,
    /// The agent ends in order, and another build takes over.
    AgentReplaced,
    /// The agent is killed once a second for a minute.
    AgentKilledOften,
    /// The agent does nothing for longer than the programs wait for it.
    AgentStalled,
    /// The agent has no descriptor left.
    NoDescriptors,
    /// The agent needs more memory than its cgroup may have, and is killed and started again.
    NoMemory,
    /// The agent's wall clock jumps.
    ClockSteps,
    /// A backend is killed, and started again.
    BackendKilled,
    /// A backend's namespace goes, and comes again.
    NamespaceDeleted,
    /// Clients are killed with SIGKILL while they are served.
    ClientsKilled,
    /// Clients connect and reset, without asking for anything.
    ResetStorm,
    /// Packets between clients and backends are dropped.
    PacketsDropped,
    /// Packets between clients and backends are delayed.
    PacketsDelayed,
    /// Clients have no port left to connect from.
    NoPorts,
    /// FRONTENDS has no room for another service's.
    FrontendsFull,
    /// OVERFLOW_FLOWS has no room for connections on their way.
    FlowsFull,
    /// More happens than EVENTS can hold.
    EventsOverrun,
}

/// What clients may notice while it lasts, and within a second after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// Nothing.
    Nothing,
    /// What was begun before the agent ended, and passes it, may fail, cleanly; and what finds no slot.
    InFlight,
    /// What passes the agent may fail, cleanly.
    Forwarded,
    /// Anything may fail.
    Anything,
}

impl Fault {
    /// Every one that may come at any time.
    pub const ALL: [Self; 16] = [
        Self::AgentKilled,
        Self::AgentReplaced,
        Self::AgentStalled,
        Self::NoDescriptors,
        Self::NoMemory,
        Self::ClockSteps,
        Self::BackendKilled,
        Self::NamespaceDeleted,
        Self::ClientsKilled,
        Self::ResetStorm,
        Self::PacketsDropped,
        Self::PacketsDelayed,
        Self::NoPorts,
        Self::FrontendsFull,
        Self::FlowsFull,
        Self::EventsOverrun,
    ];

    /// In a few words, as docs/operations.md has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AgentKilled => "agent killed",
            Self::AgentReplaced => "agent replaced",
            Self::AgentKilledOften => "agent killed every second",
            Self::AgentStalled => "agent stalled",
            Self::NoDescriptors => "agent out of descriptors",
            Self::NoMemory => "agent out of memory",
            Self::ClockSteps => "clock steps",
            Self::BackendKilled => "backend killed",
            Self::NamespaceDeleted => "backend namespace deleted",
            Self::ClientsKilled => "clients killed",
            Self::ResetStorm => "reset storm",
            Self::PacketsDropped => "packets dropped",
            Self::PacketsDelayed => "packets delayed",
            Self::NoPorts => "clients out of ports",
            Self::FrontendsFull => "FRONTENDS full",
            Self::FlowsFull => "OVERFLOW_FLOWS full",
            Self::EventsOverrun => "EVENTS overrun",
        }
    }

    /// What clients may notice.
    pub const fn tolerance(self) -> Tolerance {
        match self {
            Self::ClockSteps | Self::ClientsKilled | Self::ResetStorm | Self::FrontendsFull => {
                Tolerance::Nothing
            }
            Self::AgentKilled | Self::AgentReplaced | Self::AgentKilledOften | Self::NoMemory => {
                Tolerance::InFlight
            }
            Self::AgentStalled | Self::NoDescriptors | Self::FlowsFull | Self::EventsOverrun => {
                Tolerance::Forwarded
            }
            Self::BackendKilled
            | Self::NamespaceDeleted
            | Self::PacketsDropped
            | Self::PacketsDelayed
            | Self::NoPorts => Tolerance::Anything,
        }
    }

    /// Whether a failure is no more than may be. The agent has ended at these moments.
    pub(super) fn tolerates(self, failure: &Failure, ended: &[Instant]) -> bool {
        let is_forwarded = failure.kind != Kind::Connection && failure.is_clean;
        match self.tolerance() {
            Tolerance::Nothing => false,
            Tolerance::InFlight => {
                // There may be no slot left, and nobody to wait with.
                let is_refused = failure.kind == Kind::Scarce;
                let is_in_flight = ended.iter().any(|moment| failure.begun <= *moment);
                is_forwarded && (is_refused || is_in_flight)
            }
            Tolerance::Forwarded => is_forwarded,
            Tolerance::Anything => true,
        }
    }

    /// Begins, lasts a moment, and ends.
    pub(super) fn happen(self, soak: &mut Soak, random: &mut SmallRng) -> Result<()> {
        match self {
            Self::AgentKilled => agents::killed(soak, random),
            Self::AgentReplaced => agents::replaced(soak),
            Self::AgentKilledOften => agents::killed_every_second(soak),
            Self::AgentStalled => agents::stalled(soak),
            Self::NoDescriptors => exhaustion::descriptors(soak),
            Self::NoMemory => exhaustion::memory(soak),
            Self::ClockSteps => agents::clock_steps(soak),
            Self::BackendKilled => pods::killed(soak, random),
            Self::NamespaceDeleted => pods::namespace_deleted(soak, random),
            Self::ClientsKilled => pods::clients_killed(soak),
            Self::ResetStorm => network::reset_storm(soak),
            Self::PacketsDropped => network::dropped(soak),
            Self::PacketsDelayed => network::delayed(soak),
            Self::NoPorts => exhaustion::ports(soak),
            Self::FrontendsFull => exhaustion::frontends(soak),
            Self::FlowsFull => exhaustion::flows(soak),
            Self::EventsOverrun => exhaustion::events(soak),
        }
    }
}
