//! How the backends of a service are probed.
//!
//! A backend that several services name is probed once, by the settings of the first of them that
//! probes at all, in the order of their names; the shortest of their intervals holds.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use super::{Protocol, Setting, strategy::words};

words! {
    /// What a probe does.
    Probe, "health.probe" {
        /// Sends `GET` and takes 200 for healthy, 429 for busy (and alive).
        #[default]
        Http = "http",
        /// Connects.
        Tcp = "tcp",
        /// Nothing: the backend counts as healthy.
        None = "none",
    }
}

/// The probes of a service's backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSettings {
    /// What a probe does. Unset, it follows the protocol: see [`HealthSettings::probe`].
    pub probe: Option<Setting<Probe>>,
    /// What an HTTP probe asks for.
    pub path: Setting<Arc<str>>,
    /// From one probe to the next.
    pub interval: Setting<Duration>,
    /// How long a probe may take.
    pub timeout: Setting<Duration>,
    /// Consecutive failures that make a backend unhealthy, 1 or more.
    pub failures: Setting<u32>,
}

impl HealthSettings {
    /// The path that function pods answer at.
    pub const DEFAULT_PATH: &'static str = "/_/health";

    /// The probe in force. HTTP services are probed over HTTP. Others are not unless they ask for
    /// it: a pod that serves one connection at a time would take a probe for a client.
    pub fn probe(&self, protocol: Protocol) -> Setting<Probe> {
        self.probe.unwrap_or(match protocol {
            Protocol::Http => Setting::built_in(Probe::Http),
            Protocol::Tcp => Setting::built_in(Probe::None),
        })
    }
}

/// One text for all services that name no path of their own.
static DEFAULT_PATH: LazyLock<Arc<str>> = LazyLock::new(|| HealthSettings::DEFAULT_PATH.into());

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            probe: None,
            path: Setting::built_in(DEFAULT_PATH.clone()),
            interval: Setting::built_in(Duration::from_secs(5)),
            timeout: Setting::built_in(Duration::from_millis(500)),
            failures: Setting::built_in(3),
        }
    }
}
