//! Services as tests write them into the agent's configuration, and whether the agent has them.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::agent::{number, text};

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
}

impl Service {
    /// A service in the namespace `default`.
    pub fn new<'a>(
        name: &str,
        frontends: impl IntoIterator<Item = &'a str>,
        max_inflight: u32,
        backends: impl IntoIterator<Item = SocketAddr>,
    ) -> Self {
        let backends = backends.into_iter().map(|address| Backend {
            address: address.to_string(),
        });
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            frontends: frontends.into_iter().map(str::to_owned).collect(),
            max_inflight,
            backends: backends.collect(),
            settings: serde_json::Map::new(),
        }
    }
}

/// What a reload is compared by.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceShape {
    namespace: String,
    name: String,
    frontends: BTreeSet<SocketAddr>,
    max_inflight: u64,
    backends: BTreeSet<SocketAddr>,
}

impl ServiceShape {
    pub(crate) fn wanted(service: &Service) -> Result<Self> {
        Ok(Self {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            frontends: service
                .frontends
                .iter()
                .map(|text| parse_address(text))
                .collect::<Result<_>>()?,
            max_inflight: service.max_inflight.into(),
            backends: service
                .backends
                .iter()
                .map(|backend| parse_address(&backend.address))
                .collect::<Result<_>>()?,
        })
    }

    pub(crate) fn listed(service: &Value, detail: &Value) -> Result<Self> {
        let strings = |value: &Value| -> Result<BTreeSet<SocketAddr>> {
            let list = value
                .as_array()
                .with_context(|| format!("no list: {value}"))?;
            list.iter()
                .map(|item| parse_address(item.as_str().unwrap_or_default()))
                .collect()
        };
        let backends = detail["backends"]
            .as_array()
            .with_context(|| format!("no backends in {detail}"))?;
        // What is leaving is listed until its last connection has ended.
        let staying = backends
            .iter()
            .filter(|backend| backend["state"] != "draining");
        Ok(Self {
            namespace: text(service, "namespace")?.to_owned(),
            name: text(service, "name")?.to_owned(),
            frontends: strings(&service["frontends"])?,
            max_inflight: number(service, "max_inflight")?,
            backends: staying
                .map(|backend| parse_address(text(backend, "address")?))
                .collect::<Result<_>>()?,
        })
    }
}

fn parse_address(text: &str) -> Result<SocketAddr> {
    text.parse()
        .with_context(|| format!("{text:?} is not IP:PORT"))
}
