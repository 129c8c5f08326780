//! Keeps each service's count of ejected backends true while its backends change.
//!
//! Breakers count a backend in all services that it is in when it is ejected, and out of those it
//! is in when it comes back; when its services change in between, the count is off. It is a guard
//! against ejecting too many, so being right a little later is enough.

use std::collections::{BTreeMap, BTreeSet};

use balancer_common::{
    atomic::{compare_exchange, load},
    breaker,
    service::Tables,
};

use super::Assignment;

/// Counts that were found wrong, to be corrected if they still are at the next look: what a
/// breaker is just changing looks wrong for a moment.
#[derive(Debug, Default)]
pub(super) struct Ejections {
    suspected: BTreeMap<u32, Suspicion>,
}

/// What a service's record says, and what it should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Suspicion {
    counted: u64,
    actual: u64,
}

impl Ejections {
    pub(super) fn recount<T: Tables>(&mut self, tables: &T, assignment: &Assignment) {
        let ejected: BTreeSet<_> = assignment
            .backends()
            .filter(|(_, backend)| tables.backend(backend.id).is_some_and(breaker::is_ejected))
            .map(|(address, _)| *address)
            .collect();
        let mut suspected = BTreeMap::new();
        for (_, assigned) in assignment.services() {
            let Some(service) = tables.service(assigned.id) else {
                continue;
            };
            let counted = load(&service.ejected);
            let out = ejected
                .iter()
                .filter(|address| assigned.members.contains_key(address));
            let suspicion = Suspicion {
                counted,
                actual: out.count() as u64,
            };
            if suspicion.counted == suspicion.actual {
                continue;
            }
            if self.suspected.get(&assigned.id) == Some(&suspicion) {
                compare_exchange(&service.ejected, counted, suspicion.actual);
            } else {
                suspected.insert(assigned.id, suspicion);
            }
        }
        self.suspected = suspected;
    }
}
