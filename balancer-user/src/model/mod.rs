//! The words of this program as types: what a person wants balanced, and how.
//!
//! Owns the desired state, its settings and their limits. Pure: no I/O, no clock, no kernel, no
//! YAML; it refuses nothing by itself except malformed names and words, because a `Config` (or
//! another source) has checked the rest before it builds one of these. Sources build a
//! [`DesiredState`]; the planner, the admin API and the CLI read it.

mod address;
mod client;
mod health;
mod limit;
mod name;
mod overflow;
mod service;
mod setting;
mod settings;
mod strategy;

pub use address::{AddressFault, canonical, check_backend, check_frontend, parse_address};
pub use client::{Affinity, CookieName, HashKey, HeaderName, TokenFault};
pub use health::{HealthSettings, Probe};
pub use limit::{
    MAX_ADAPTIVE_QUEUE_SIZE, MAX_BACKENDS, MAX_BACKENDS_PER_SERVICE, MAX_FRONTENDS,
    MAX_FRONTENDS_PER_SERVICE, MAX_INFLIGHT, MAX_NAME_BYTES, MAX_QUEUE_SIZE, MAX_RATE_BURST,
    MAX_RATE_PER_SECOND, MAX_SERVICES, MAX_SERVICES_PER_BACKEND, MAX_WEIGHT,
};
pub use name::{NameFault, ServiceName, check_label};
pub use overflow::{BreakerSettings, OnAgentLoss, QueueSettings, QueueTimeout, RateLimit, Refuse};
pub use service::{Backend, DesiredState, Difference, Readiness, Service};
pub use setting::{Origin, Setting};
pub use settings::Settings;
pub(crate) use strategy::words;
pub use strategy::{Admission, Intercept, Locality, Protocol, Strategy, UnknownWord};
