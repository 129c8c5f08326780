//! What the overflow path knows of a service: the part of its settings that it goes by.

use crate::model::{
    Admission, Affinity, BreakerSettings, HashKey, Protocol, QueueSettings, Service, ServiceName,
    Setting,
};

/// A service's settings, as they were when it was last looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its name.
    pub name: ServiceName,
    /// What is spoken over its connections.
    pub protocol: Setting<Protocol>,
    /// What takes a slot.
    pub admission: Setting<Admission>,
    /// What keeps a client with its backend; `None`: nothing.
    pub affinity: Option<Affinity>,
    /// What is hashed of a client.
    pub hash: HashKey,
    /// Its queue.
    pub queue: QueueSettings,
    /// Its breakers.
    pub breaker: BreakerSettings,
}

impl From<&Service> for View {
    fn from(service: &Service) -> Self {
        Self {
            name: service.name.clone(),
            protocol: service.protocol,
            admission: service.admission,
            affinity: service.sticks(),
            hash: service.hashes(),
            queue: service.queue,
            breaker: service.breaker,
        }
    }
}
