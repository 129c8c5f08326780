//! The strategies as the demo shows them: what each needs to be seen at work, and what to expect.
//!
//! Knows nothing of how they choose: the configuration has their words. Called by `options`.

use std::fmt;

use clap::ValueEnum;

/// How pods are chosen; the words of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Strategy {
    IdleFirst,
    LeastConnections,
    RoundRobin,
    WeightedRoundRobin,
    Random,
    P2c,
    LeastResponseTime,
    ConsistentHash,
    Leader,
    Adaptive,
}

/// Of the pods in turn, where weights apply.
const WEIGHTS: [u32; 3] = [1, 2, 3];
/// Namespaces that clients are spread over, where it matters who they are.
const CLIENTS: usize = 20;
/// Where a full pod would hide what the strategy does.
const AMPLE_SLOTS: u32 = 10;

impl Strategy {
    /// As it stands in the configuration.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::IdleFirst => "idle-first",
            Self::LeastConnections => "least-connections",
            Self::RoundRobin => "round-robin",
            Self::WeightedRoundRobin => "weighted-round-robin",
            Self::Random => "random",
            Self::P2c => "p2c",
            Self::LeastResponseTime => "least-response-time",
            Self::ConsistentHash => "consistent-hash",
            Self::Leader => "leader",
            Self::Adaptive => "adaptive",
        }
    }

    /// The weight of a pod by its number.
    pub(super) fn weight(self, number: usize) -> u32 {
        match self {
            Self::WeightedRoundRobin => WEIGHTS[number % WEIGHTS.len()],
            _ => 1,
        }
    }

    /// Slots of each of so many pods, if the user says nothing.
    pub(super) fn max_inflight(self, pods: u16) -> u32 {
        match self {
            Self::WeightedRoundRobin | Self::ConsistentHash => AMPLE_SLOTS,
            // The one leader has to do what all do otherwise.
            Self::Leader => pods.into(),
            _ => 1,
        }
    }

    /// How many of so many pods serve at a time.
    pub(super) fn serving(self, pods: u16) -> u16 {
        match self {
            Self::Leader => 1,
            _ => pods,
        }
    }

    /// Client namespaces.
    pub(super) fn clients(self) -> usize {
        match self {
            Self::ConsistentHash => CLIENTS,
            _ => 1,
        }
    }

    /// Whether the pod that serves is to fall ill half-way.
    pub(super) fn loses_its_leader(self) -> bool {
        self == Self::Leader
    }

    /// What is to be seen in the pods' shares.
    pub(super) fn expectation(self) -> String {
        match self {
            Self::IdleFirst => "the idle pods take turns: shares are about equal".to_owned(),
            Self::LeastConnections => {
                "a pod with the fewest requests, ties in turn: shares are about equal".to_owned()
            }
            Self::RoundRobin => {
                "the next that has a slot: shares are about equal".to_owned()
            }
            Self::WeightedRoundRobin => {
                format!("pods have the weights {WEIGHTS:?} in turn: shares go by them, while no pod is full")
            }
            Self::Random => "any that has a slot: shares are about equal".to_owned(),
            Self::P2c => "the less loaded of two: shares are about equal".to_owned(),
            Self::LeastResponseTime => {
                "the one that has answered soonest of late: shares go by that".to_owned()
            }
            Self::ConsistentHash => format!(
                "{CLIENTS} client namespaces, each with {} % of the requests and a pod of its own:\n\
                 shares come in these steps; each goes on to another pod only while its own is full",
                100 / CLIENTS
            ),
            Self::Leader => {
                "one pod serves all. It falls ill half-way, and another takes over: two pods have a share"
                    .to_owned()
            }
            Self::Adaptive => {
                "the agent changes between the other strategies by what it measures".to_owned()
            }
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_to_choose_from_are_those_of_the_configuration() {
        for strategy in Strategy::value_variants() {
            let choice = strategy.to_possible_value().expect("none is hidden");
            assert_eq!(choice.get_name(), strategy.word());
        }
    }
}
