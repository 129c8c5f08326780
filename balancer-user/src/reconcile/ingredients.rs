//! What a service's table is made of, by its strategy.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use balancer_common::service::Strategy;

use super::{
    assignment::{AssignedService, Assignment},
    near::Circle,
    tables::Candidate,
    writer::Ingredients,
};
use crate::model::{self, Readiness, Service};

/// The ingredients of the table that a service needs.
pub(super) fn of(
    assignment: &Assignment,
    assigned: &AssignedService,
    service: &Service,
) -> Ingredients {
    match assigned.settings.strategy() {
        Strategy::WeightedRoundRobin => Ingredients::Turns(turns(assignment, assigned, service)),
        Strategy::ConsistentHash => Ingredients::Maglev(candidates(assigned, service).collect()),
        Strategy::Leader => Ingredients::Ranking(ranked(assignment, assigned, service).collect()),
        _ => Ingredients::Nothing,
    }
}

/// By what a leader is chosen, the least first: what the source says of a backend, which is the
/// same on every node; then what this agent has seen itself.
pub(super) type Rank = (bool, Option<Arc<Readiness>>, Instant);

/// The backends that can lead. Whoever is marked cannot, and takes a new place when it is well
/// again.
fn ranked<'a>(
    assignment: &'a Assignment,
    assigned: &'a AssignedService,
    service: &'a Service,
) -> impl Iterator<Item = (Rank, SocketAddr, u16)> {
    let is_usable = |backend: &&model::Backend| assignment.marks.state(&backend.address) == 0;
    let usable = service.backends.iter().filter(is_usable);
    usable.filter_map(|wanted| {
        let candidate = candidate(wanted, *assigned.members.get(&wanted.address)?);
        let seen = assignment.backend(&wanted.address)?.ready_since;
        let rank = (wanted.ready.is_none(), wanted.ready.clone(), seen);
        Some((rank, candidate.address, candidate.position))
    })
}

/// Every backend that has a position, with its weight in this service. Those that cannot be used
/// now are among them: a client that is hashed to one of them comes back to it.
fn candidates<'a>(
    assigned: &'a AssignedService,
    service: &'a Service,
) -> impl Iterator<Item = Candidate> {
    service.backends.iter().filter_map(|backend| {
        let position = *assigned.members.get(&backend.address)?;
        Some(candidate(backend, position))
    })
}

/// The backends that take turns: the usable ones of the nearest circle that has any. When they are
/// full, it is the others' turn, without weights.
fn turns(assignment: &Assignment, assigned: &AssignedService, service: &Service) -> Vec<Candidate> {
    let circle_of =
        |backend: &model::Backend| -> Circle { assignment.here.circle(backend, service.prefers()) };
    let is_usable = |backend: &&model::Backend| assignment.marks.state(&backend.address) == 0;
    let usable = service.backends.iter().filter(is_usable);
    let nearest = usable.map(circle_of).min();
    let Some(nearest) = nearest else {
        return candidates(assigned, service).collect();
    };
    let chosen = service
        .backends
        .iter()
        .filter(is_usable)
        .filter(|backend| circle_of(backend) == nearest);
    chosen
        .filter_map(|backend| {
            let position = *assigned.members.get(&backend.address)?;
            Some(candidate(backend, position))
        })
        .collect()
}

fn candidate(backend: &model::Backend, position: u32) -> Candidate {
    Candidate {
        address: backend.address,
        weight: backend.weight,
        // Positions are below 4,096.
        position: position as u16,
    }
}
