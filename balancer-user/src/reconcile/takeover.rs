//! Taking over from an agent that is no more, while its programs go on steering.
//!
//! What only that agent could end is ended: its half of every count, whom it let wait, and whom it
//! had claimed on their way. (Whoever is still on the way is refused by the kernel, and counted out by
//! the programs.) Then its assignment is restored. Called once, before the first plan and before there
//! are listeners.

use std::{
    collections::HashMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use balancer_common::{
    index,
    maps::{MAX_BACKENDS, MAX_SERVICES},
    service::Tables,
    slot, waiting,
};

use super::{Here, assignment::Assignment, op::Op, restore::Found};
use crate::{
    kernel::{Kernel, KernelError, Kind, Memory},
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
    forget_claimed(kernel, &whole)?;
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

/// Counts out those whom the earlier agent had claimed, so that the programs leave them to it, and did
/// not count out any more. They are counted as on their way, and are not among the connections that
/// are published. Programs at work can look the same for a microsecond, so the least that several looks
/// show is taken.
fn forget_claimed(kernel: &Kernel, whole: &Memory) -> Result<(), KernelError> {
    const LOOKS: usize = 8;
    const PAUSE: Duration = Duration::from_millis(1);
    let sent = |id| whole.service(id).map_or(0, |it| waiting::sent(&it.waiting));
    let mut claimed: HashMap<u32, u32> = (0..MAX_SERVICES)
        .map(|id| (id, sent(id)))
        .filter(|(_, count)| *count != 0)
        .collect();
    for _ in 0..LOOKS {
        if claimed.is_empty() {
            return Ok(());
        }
        let before: HashMap<_, _> = claimed.keys().map(|id| (*id, sent(*id))).collect();
        let mut published = HashMap::<u32, u32>::new();
        for (_, target) in kernel.flows()? {
            *published.entry(target.service).or_default() += 1;
        }
        claimed.retain(|id, least| {
            let counted = sent(*id).min(before[id]);
            let rest = counted.saturating_sub(published.get(id).copied().unwrap_or_default());
            *least = rest.min(*least);
            *least != 0
        });
        thread::sleep(PAUSE);
    }
    for (id, lost) in claimed {
        if let Some(service) = whole.service(id) {
            waiting::forget_sent(&service.waiting, lost);
        }
    }
    Ok(())
}
