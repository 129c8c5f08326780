//! The breaker of a backend: opened by connect failures in a row, closed by a trial.
//!
//! Works without the agent: the programs count failures where they see them,
//! shut the backend out, and let one connection through when its time is up. The
//! agent counts its own upstream connects by the same code.
//!
//! A backend is ejected while `ejected_until_ns` is not 0. Once that time has
//! passed, whoever moves it on by compare-and-swap has the one trial; until that
//! trial succeeds the backend stays out, and another may try when the new time
//! is up.

use crate::{
    atomic::{compare_exchange, fetch_add, load, load32, store, store32, swap},
    maps::MAX_MEMBERSHIPS,
    service::{Backend, LEAF_POSITIONS, Membership, Service, Tables},
    slot::{self, Side},
};

/// How often a service with ejected backends looks for one whose time is up.
const LOOK_EVERY_NS: u64 = 1_000_000;

/// What a failure led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It was counted.
    Counted,
    /// It was one too many: the backend is out from now on.
    Ejected,
    /// The trial failed: the backend stays out.
    TrialFailed,
}

/// Counts a failed connect to a backend, for a service whose settings hold.
#[inline(always)]
pub fn failed<T: Tables>(tables: &T, service_id: u32, id: u32, now_ns: u64) -> Failure {
    let (Some(service), Some(backend)) = (tables.service(service_id), tables.backend(id)) else {
        return Failure::Counted;
    };
    let most = load32(&service.breaker_failures);
    let failures = load32(&backend.failures).saturating_add(1);
    if failures == 1 {
        store(&backend.failing_since_ns, now_ns);
    }
    // Two at once may count as one; the next one makes up for it.
    store32(&backend.failures, failures);
    if is_ejected(backend) {
        return Failure::TrialFailed;
    }
    if most == 0 || failures < most || !claim_places(tables, backend) {
        return Failure::Counted;
    }
    let until = now_ns + load(&service.breaker_open_ns);
    if !compare_exchange(&backend.ejected_until_ns, 0, until) {
        release_places(tables, backend);
        return Failure::Counted;
    }
    tables.refresh(id);
    Failure::Ejected
}

/// A connect to a backend succeeded. Says whether that ended an ejection.
#[inline(always)]
pub fn succeeded<T: Tables>(tables: &T, id: u32) -> bool {
    let Some(backend) = tables.backend(id) else {
        return false;
    };
    if load32(&backend.failures) != 0 {
        store32(&backend.failures, 0);
    }
    readmit(tables, id)
}

/// Ends a backend's ejection, if it is ejected. Says whether it was.
#[inline(always)]
pub fn readmit<T: Tables>(tables: &T, id: u32) -> bool {
    let Some(backend) = tables.backend(id) else {
        return false;
    };
    if !is_ejected(backend) || swap(&backend.ejected_until_ns, 0) == 0 {
        return false;
    }
    release_places(tables, backend);
    tables.refresh(id);
    true
}

/// Whether the breaker keeps the backend out.
#[inline(always)]
pub fn is_ejected(backend: &Backend) -> bool {
    load(&backend.ejected_until_ns) != 0
}

/// Whether it is time to look for a trial: see [`trial`].
#[inline(always)]
pub fn may_try(service: &Service, now_ns: u64) -> bool {
    load(&service.ejected) != 0 && now_ns >= load(&service.trial_at_ns)
}

/// [`trial`], as often as is worth it.
#[inline(always)]
pub fn trial_if_due<T: Tables>(tables: &T, service_id: u32, side: Side) -> Option<u32> {
    let now_ns = tables.now_ns();
    if !may_try(tables.service(service_id)?, now_ns) {
        return None;
    }
    trial(tables, service_id, now_ns, side)
}

/// Takes a slot on an ejected backend whose time is up, for the one connection
/// that tries it. Looks at one leaf's worth of positions; the next call looks at
/// the next.
#[inline(always)]
pub fn trial<T: Tables>(tables: &T, service_id: u32, now_ns: u64, side: Side) -> Option<u32> {
    let service = tables.service(service_id)?;
    let first = load32(&service.trial_cursor);
    let first = if first < load32(&service.positions) {
        first
    } else {
        0
    };
    store32(&service.trial_cursor, first + LEAF_POSITIONS as u32);
    store(&service.trial_at_ns, now_ns + LOOK_EVERY_NS);
    let mut further = 0;
    while further < LEAF_POSITIONS as u32 {
        let tried = tables.try_position(service_id, first + further, now_ns, side);
        if tried.is_some() {
            return tried;
        }
        further += 1;
    }
    None
}

/// Takes a slot on the backend at a position, if it is ejected and its time is
/// up. Gives its id.
#[inline(always)]
pub fn try_position<T: Tables>(
    tables: &T,
    service_id: u32,
    position: u32,
    now_ns: u64,
    side: Side,
) -> Option<u32> {
    let service = tables.service(service_id)?;
    let leaf = tables.leaf(service.leaf(position)?)?;
    let id = leaf.backend(position)?;
    let backend = tables.backend(id)?;
    let until = load(&backend.ejected_until_ns);
    let is_full = backend.inflight() >= load32(&backend.granted) as u64;
    if until == 0 || until > now_ns || load32(&backend.state) != 0 || is_full {
        return None;
    }
    let next = now_ns + load(&service.breaker_open_ns);
    let is_ours = compare_exchange(&backend.ejected_until_ns, until, next);
    if !is_ours || slot::take_for_trial(backend, side).is_err() {
        return None;
    }
    fetch_add(&backend.steered, 1);
    Some(id)
}

/// Counts the backend as ejected in each of its services, unless that would
/// leave one of them with more than half of its backends out.
#[inline(always)]
fn claim_places<T: Tables>(tables: &T, backend: &Backend) -> bool {
    let mut number = 0;
    while number < MAX_MEMBERSHIPS {
        if let Some(service) = service_of(tables, backend, number) {
            let out = fetch_add(&service.ejected, 1) + 1;
            if 2 * out > load32(&service.backends) as u64 {
                fetch_add(&service.ejected, 1u64.wrapping_neg());
                release_first(tables, backend, number);
                return false;
            }
        }
        number += 1;
    }
    true
}

#[inline(always)]
fn release_places<T: Tables>(tables: &T, backend: &Backend) {
    release_first(tables, backend, MAX_MEMBERSHIPS);
}

#[inline(always)]
fn release_first<T: Tables>(tables: &T, backend: &Backend, many: usize) {
    let mut number = 0;
    while number < MAX_MEMBERSHIPS {
        if number < many
            && let Some(service) = service_of(tables, backend, number)
        {
            fetch_add(&service.ejected, 1u64.wrapping_neg());
        }
        number += 1;
    }
}

#[inline(always)]
fn service_of<'t, T: Tables>(
    tables: &'t T,
    backend: &Backend,
    number: usize,
) -> Option<&'t Service> {
    let word = load(&backend.memberships[number & (MAX_MEMBERSHIPS - 1)]);
    let (service, _) = Membership(word).parts()?;
    tables.service(service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{atomic::AtomicU64, plain::Plain, select, slot::Side};
    use std::sync::atomic::Ordering::Relaxed;

    const OPEN_NS: u64 = 30_000_000_000;

    /// One service of so many one-slot backends, whose breaker opens after three failures.
    fn service_of(backends: usize) -> Plain {
        let plain = Plain::one_service(&vec![1; backends]);
        let service = plain.service(0).unwrap();
        store32(&service.breaker_failures, 3);
        store(&service.breaker_open_ns, OPEN_NS);
        plain
    }

    fn fail(plain: &Plain, id: u32, times: u32, now_ns: u64) -> Failure {
        let failures = (0..times).map(|_| failed(plain, 0, id, now_ns));
        failures.last().unwrap()
    }

    fn ejected(plain: &Plain) -> u64 {
        load(&plain.service(0).unwrap().ejected)
    }

    #[test]
    fn failures_in_a_row_eject_and_an_ejected_backend_is_not_chosen() {
        let plain = service_of(2);
        assert_eq!(fail(&plain, 0, 2, 1), Failure::Counted);
        assert!(!succeeded(&plain, 0), "nothing was ejected");
        assert_eq!(fail(&plain, 0, 2, 1), Failure::Counted);
        assert_eq!(fail(&plain, 0, 1, 1), Failure::Ejected);
        for _ in 0..3 {
            let taken = select::choose(&plain, 0, 0, Side::Kernel).unwrap();
            assert_eq!(taken.backend, 1);
            select::give_back(&plain, 1, Side::Kernel);
        }
    }

    #[test]
    fn at_most_half_of_a_service_is_ejected() {
        for (backends, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4)] {
            let plain = service_of(backends);
            for id in 0..backends as u32 {
                fail(&plain, id, 5, 1);
            }
            assert_eq!(ejected(&plain), most, "of {backends}");
        }
    }

    #[test]
    fn one_connection_tries_once_the_time_is_up() {
        let plain = service_of(2);
        fail(&plain, 0, 3, 1);
        assert_eq!(trial(&plain, 0, OPEN_NS, Side::Kernel), None, "too early");
        let now_ns = OPEN_NS + 1;
        assert_eq!(trial(&plain, 0, now_ns, Side::Kernel), Some(0));
        assert_eq!(
            trial(&plain, 0, now_ns, Side::Kernel),
            None,
            "one is enough"
        );
        // It fails: the backend stays out for as long again.
        assert_eq!(fail(&plain, 0, 1, now_ns), Failure::TrialFailed);
        select::give_back(&plain, 0, Side::Kernel);
        assert_eq!(trial(&plain, 0, now_ns + OPEN_NS - 1, Side::Kernel), None);
        assert_eq!(trial(&plain, 0, now_ns + OPEN_NS, Side::Kernel), Some(0));
        assert!(succeeded(&plain, 0));
        assert_eq!(ejected(&plain), 0);
        select::give_back(&plain, 0, Side::Kernel);
        let chosen: Vec<_> = (0..2)
            .map(|_| select::choose(&plain, 0, 0, Side::Kernel).unwrap().backend)
            .collect();
        assert!(chosen.contains(&0), "{chosen:?}");
    }

    #[test]
    fn a_backend_beyond_the_first_leaf_is_found_by_later_looks() {
        let plain = service_of(200);
        fail(&plain, 150, 3, 1);
        let looks = (0..4u64).map(|look| trial(&plain, 0, OPEN_NS * (look + 2), Side::Agent));
        assert_eq!(looks.flatten().collect::<Vec<_>>(), [150]);
    }

    #[test]
    fn of_many_threads_one_tries() {
        for _ in 0..50 {
            let plain = service_of(2);
            fail(&plain, 1, 3, 1);
            let tried = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        if trial(&plain, 0, OPEN_NS + 1, Side::Kernel).is_some() {
                            tried.fetch_add(1, Relaxed);
                        }
                    });
                }
            });
            assert_eq!(tried.into_inner(), 1);
        }
    }

    #[test]
    fn ejecting_and_readmitting_at_once_leaves_the_count_right() {
        let plain = service_of(4);
        std::thread::scope(|scope| {
            for id in [0, 0, 1, 1, 2, 3] {
                let plain = &plain;
                scope.spawn(move || {
                    for _ in 0..2000 {
                        fail(plain, id, 3, 1);
                        succeeded(plain, id);
                    }
                });
            }
        });
        for id in 0..4 {
            succeeded(&plain, id);
        }
        assert_eq!(ejected(&plain), 0);
    }
}
