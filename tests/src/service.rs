//! Services as tests write them into the agent's configuration.

use std::net::SocketAddr;

use serde::Serialize;
use serde_json::Value;

/// A service as it stands in the configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `IP:PORT` each.
    pub frontends: Vec<String>,
    /// Slots of each backend; 0: unlimited.
    pub max_inflight: u32,
    /// The pods.
    pub backends: Vec<Backend>,
    /// Any other settings, by name.
    #[serde(flatten)]
    pub settings: serde_json::Map<String, Value>,
}

/// A backend as it stands in the configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Backend {
    /// `IP:PORT`.
    pub address: String,
    /// Any settings of its own, by name.
    #[serde(flatten)]
    pub settings: serde_json::Map<String, Value>,
}

impl Backend {
    /// One without settings of its own.
    pub fn at(address: impl ToString) -> Self {
        Self {
            address: address.to_string(),
            settings: serde_json::Map::new(),
        }
    }
}

impl Service {
    /// A service in the namespace `default`. What finds no slot is refused in `connect()`; see
    /// [`Service::with`] for queues.
    pub fn new<'a>(
        name: &str,
        frontends: impl IntoIterator<Item = &'a str>,
        max_inflight: u32,
        backends: impl IntoIterator<Item = SocketAddr>,
    ) -> Self {
        let backends = backends.into_iter().map(Backend::at);
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            frontends: frontends.into_iter().map(str::to_owned).collect(),
            max_inflight,
            backends: backends.collect(),
            settings: serde_json::Map::new(),
        }
        .with("queue", serde_json::json!({"size": 0, "refuse": "kernel"}))
    }

    /// The same with a setting over what it had.
    #[must_use]
    pub fn with(mut self, setting: &str, value: Value) -> Self {
        self.settings.insert(setting.to_owned(), value);
        self
    }

    /// The same with a setting of one of its backends over what that had.
    #[must_use]
    pub fn with_backend(mut self, index: usize, setting: &str, value: Value) -> Self {
        let settings = &mut self.backends[index].settings;
        settings.insert(setting.to_owned(), value);
        self
    }

    /// The same, chosen by this strategy.
    #[must_use]
    pub fn by(self, strategy: &str) -> Self {
        self.with("strategy", strategy.into())
    }
}
