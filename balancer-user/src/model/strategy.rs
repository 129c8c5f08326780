//! The words that a service's settings may be: strategy, locality, admission, protocol.
//!
//! Knows every word of the contract, whether or not this version can act on it: what is supported
//! is the configuration's to say, so that a later version opens a word up in one place.

/// A word that is none of those a setting may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no {setting}; one of: {}", valid.join(", "))]
pub struct UnknownWord {
    /// What was written.
    pub word: String,
    /// Which setting it was written for.
    pub setting: &'static str,
    /// What may be written.
    pub valid: Vec<&'static str>,
}

/// Declares an enum of words: parse, display and list come from one table. `_` is read as `-`.
/// The literal after the name is the setting's name in errors.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $setting:literal {
        $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default,
            serde::Serialize, serde::Deserialize,
        )]
        #[serde(rename_all = "kebab-case")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every one of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its word in configuration, API and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::model::UnknownWord;

            fn from_str(text: &str) -> Result<Self, $crate::model::UnknownWord> {
                let word = text.replace('_', "-");
                Self::ALL
                    .iter()
                    .copied()
                    .find(|candidate| candidate.as_str() == word)
                    .ok_or_else(|| $crate::model::UnknownWord {
                        word: text.to_owned(),
                        setting: $setting,
                        valid: Self::ALL.iter().map(|each| each.as_str()).collect(),
                    })
            }
        }
    };
}

pub(crate) use words;

words! {
    /// How a backend is picked among the available ones.
    Strategy, "strategy" {
        /// An idle one, in fair rotation; else the least loaded of a few.
        #[default]
        IdleFirst = "idle-first",
        /// The one with the fewest slots taken.
        LeastConnections = "least-connections",
        /// The next in turn.
        RoundRobin = "round-robin",
        /// The next in a turn that is smooth and goes by weight.
        WeightedRoundRobin = "weighted-round-robin",
        /// Any, uniformly.
        Random = "random",
        /// The less loaded of two random ones.
        P2c = "p2c",
        /// The one with the lowest expected response time.
        LeastResponseTime = "least-response-time",
        /// By the client's identity, from a table that is the same on every node.
        ConsistentHash = "consistent-hash",
        /// The one leader.
        Leader = "leader",
        /// Whichever of the others fits what is measured.
        Adaptive = "adaptive",
    }
}

words! {
    /// Which backends come first among the available ones; the others serve what these cannot.
    Locality, "locality" {
        /// None.
        #[default]
        None = "none",
        /// Those on the agent's own node.
        PreferNode = "prefer-node",
        /// Those in the agent's own zone.
        PreferZone = "prefer-zone",
    }
}

words! {
    /// What clients dial that is steered to the service.
    Intercept, "intercept" {
        /// Its frontends.
        #[default]
        Service = "service",
        /// Its frontends, and the own addresses of its backends, where a pod dials them.
        Pods = "pods",
    }
}

words! {
    /// What takes a slot.
    Admission, "admission" {
        /// A connection, from `connect()` until it ends.
        #[default]
        Connection = "connection",
        /// One HTTP request in flight.
        Request = "request",
        /// A connection while a request is outstanding on it.
        Activity = "activity",
    }
}

words! {
    /// What is spoken over a service's connections.
    Protocol, "protocol" {
        /// Any byte stream.
        #[default]
        Tcp = "tcp",
        /// HTTP.
        Http = "http",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_back_with_dashes_and_with_underscores() {
        for strategy in Strategy::ALL {
            assert_eq!(strategy.as_str().parse(), Ok(*strategy));
            assert_eq!(strategy.as_str().replace('-', "_").parse(), Ok(*strategy));
        }
        for admission in Admission::ALL {
            assert_eq!(admission.as_str().parse(), Ok(*admission));
        }
        for locality in Locality::ALL {
            assert_eq!(locality.as_str().parse(), Ok(*locality));
            assert_eq!(locality.as_str().replace('-', "_").parse(), Ok(*locality));
        }
        for protocol in Protocol::ALL {
            assert_eq!(protocol.as_str().parse(), Ok(*protocol));
        }
        for intercept in Intercept::ALL {
            assert_eq!(intercept.as_str().parse(), Ok(*intercept));
        }
    }

    #[test]
    fn serialised_words_are_the_words_of_the_configuration() {
        for strategy in Strategy::ALL {
            let json = serde_json::to_string(strategy).unwrap();
            assert_eq!(json, format!("{:?}", strategy.as_str()));
        }
    }

    #[test]
    fn an_unknown_word_lists_the_known_ones() {
        let fault = "fastest".parse::<Strategy>().unwrap_err().to_string();
        assert!(
            fault.contains("\"fastest\" is no strategy; one of: idle-first, "),
            "{fault}"
        );
    }
}
