//! Keeps each service's count of ejected backends true while its backends change.
//!
//! Breakers count a backend in all services that it is in when it is ejected, and out of those it
//! is in when it comes back; when its services change in between, the count is off. It is a guard
//! against ejecting too many, so being right a little later is enough. And where so many backends
//! have left that more than half of the rest is ejected, some are let in again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use balancer_common::{
    atomic::{compare_exchange, load, load32, store32},
    breaker,
    service::{Strategy, Tables},
};

use super::Assignment;

/// Counts that were found wrong, to be corrected if they still are at the next look: what a
/// breaker is just changing looks wrong for a moment.
#[derive(Debug, Default)]
pub(super) struct Ejections {
    suspected: BTreeMap<u32, Suspicion>,
    /// Backends that were out at the last look.
    out: BTreeSet<SocketAddr>,
}

/// What a service's record says, and what it should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Suspicion {
    counted: u64,
    actual: u64,
}

impl Ejections {
    /// Corrects what is wrong, given the backends that are out now. Returns the backends that have
    /// come back since the last look.
    pub(super) fn recount<T: Tables>(
        &mut self,
        tables: &T,
        assignment: &Assignment,
        ejected: BTreeSet<SocketAddr>,
        now: Duration,
    ) -> BTreeSet<SocketAddr> {
        for address in &ejected {
            shorten(tables, assignment, address, now);
            readmit_for_succession(tables, assignment, address, now);
        }
        let back = self.out.difference(&ejected).copied().collect();
        self.out.clone_from(&ejected);
        let mut suspected = BTreeMap::new();
        for (name, assigned) in assignment.services() {
            let Some(service) = tables.service(assigned.id) else {
                continue;
            };
            let mut out: Vec<_> = ejected
                .iter()
                .filter(|address| assigned.members.contains_key(address))
                .collect();
            // The others may have left; what remains must do.
            while 2 * out.len() > assigned.members.len()
                && let Some(address) = out.pop()
            {
                tracing::info!(backend = %address, %name, "takes part again: too few are left");
                if let Some(backend) = assignment.backend(address) {
                    breaker::readmit(tables, backend.id);
                }
            }
            let counted = load(&service.ejected);
            let suspicion = Suspicion {
                counted,
                actual: out.len() as u64,
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
        back
    }
}

/// A backend that serves leader services only has no connection to try it with, as another leads
/// now. When its time is up it may stand for election again, behind all others.
fn readmit_for_succession<T: Tables>(
    tables: &T,
    assignment: &Assignment,
    address: &SocketAddr,
    now: Duration,
) {
    let Some(assigned) = assignment.backend(address) else {
        return;
    };
    let leads_only = assigned.memberships.iter().all(|membership| {
        let service = membership.parts().and_then(|(id, _)| tables.service(id));
        service.is_some_and(|service| load32(&service.strategy) == Strategy::Leader as u32)
    });
    let Some(backend) = tables.backend(assigned.id) else {
        return;
    };
    if leads_only && load(&backend.ejected_until_ns) <= now.as_nanos() as u64 {
        // Fit to lead again, until it fails once more.
        store32(
            &backend.failures,
            load32(&backend.failures).saturating_sub(1),
        );
        breaker::readmit(tables, assigned.id);
    }
}

/// Holds an ejection to the settings in force, which may be others than when it began.
fn shorten<T: Tables>(tables: &T, assignment: &Assignment, address: &SocketAddr, now: Duration) {
    let Some(assigned) = assignment.backend(address) else {
        return;
    };
    let Some(backend) = tables.backend(assigned.id) else {
        return;
    };
    let services = assigned.memberships.iter().filter_map(|membership| {
        let (service, _) = membership.parts()?;
        tables.service(service)
    });
    let longest_ns = services
        .filter(|service| load32(&service.breaker_failures) != 0)
        .map(|service| load(&service.breaker_open_ns))
        .max();
    let Some(longest_ns) = longest_ns else {
        breaker::readmit(tables, assigned.id);
        return;
    };
    let until_ns = load(&backend.ejected_until_ns);
    let latest_ns = now.as_nanos() as u64 + longest_ns;
    if until_ns > latest_ns {
        compare_exchange(&backend.ejected_until_ns, until_ns, latest_ns);
    }
}
