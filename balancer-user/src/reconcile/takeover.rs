//! Taking over from an agent that is no more, while its programs go on steering.
//!
//! What only that agent could end is ended: its half of every count, and whom it let wait. (Whoever
//! was on the way to it is refused by the kernel, and counted out by the programs.) Then its
//! assignment is restored. Called once, before the first plan.

use std::{net::SocketAddr, time::Instant};

use balancer_common::{
    index,
    maps::{MAX_BACKENDS, MAX_SERVICES},
    service::Tables,
    slot, waiting,
};

use super::{Here, assignment::Assignment, op::Op, restore::Found};
use crate::{
    kernel::{Kernel, KernelError, Kind},
    model::ServiceName,
};

/// Gives the restored assignment, and the operations that repair what the earlier agent left
/// unfinished.
pub(super) fn take_over(kernel: &Kernel, here: Here) -> Result<(Assignment, Vec<Op>), KernelError> {
    let whole = kernel.memory().whole()?;
    for id in 0..MAX_SERVICES {
        if let Some(service) = whole.service(id) {
            waiting::forget_queued(&service.waiting);
        }
    }
    for id in 0..MAX_BACKENDS {
        if let Some(backend) = whole.backend(id) {
            slot::forget_agent(backend);
        }
    }
    let names = kernel.names()?;
    let names = names
        .into_iter()
        .filter_map(|(id, name)| Some((id, name.parse::<ServiceName>().ok()?)));
    let frontends = kernel.frontends()?.into_iter();
    let found = Found {
        tables: &whole,
        names: names.collect(),
        frontends: frontends
            .map(|(key, leads_to)| (key.socket_addr(), leads_to))
            .collect::<Vec<(SocketAddr, _)>>(),
    };
    let (assignment, ops) = found.restore(here, Instant::now());
    for (kind, len) in [
        (Kind::Service, assignment.service_high_water()),
        (Kind::Leaf, assignment.leaf_high_water()),
        (Kind::Backend, assignment.backend_high_water()),
    ] {
        for id in 0..len {
            kernel.memory().make_room(kind, id)?;
        }
    }
    for id in 0..assignment.backend_high_water() {
        index::refresh(kernel.memory(), id);
    }
    tracing::info!(
        services = assignment.services.len(),
        backends = assignment.backends.len(),
        "taken over from an earlier agent"
    );
    Ok((assignment, ops))
}
