//! Which backend a client gets a slot on: its own, if the service keeps clients, or the one that
//! the strategy chooses.
//!
//! The programs do the same for the connections that they steer, by the same records and bindings.
//! A backend that is full or gone breaks the bond: the strategy chooses, and the client is bound
//! anew. Called by `ledger`.

use balancer_common::{
    affinity::{self, Binding, Bound},
    atomic::load32,
    select::{self, Taken},
    service::{Service, Strategy, Tables},
    slot::Side,
};

use super::{
    identity::{Bond, Identity},
    ledger::Books,
};

/// How many slots are taken, beyond those on backends to be avoided, in search of one on another.
const FURTHER_TRIES: usize = 7;

/// Takes a slot of the service for a client; `None` if none is free. Backends to be avoided, by id,
/// are taken only if no other has a slot.
pub(super) fn take<B: Books>(
    books: &B,
    service: u32,
    identity: &Identity,
    avoid: &[u32],
) -> Option<Taken> {
    let tables = books.tables();
    let record = tables.service(service)?;
    let binding = binding(record, service, identity.bond);
    let own = match identity.bond {
        Bond::Number(_) => binding.and_then(|binding| bound(books, record, binding)),
        Bond::Cookie(named) => named,
    };
    let own = own
        .filter(|(id, _)| !avoid.contains(id))
        .and_then(|(id, generation)| {
            let attempt = select::take_bound(tables, service, id, generation, Side::Agent);
            attempt.result().ok()
        });
    let taken = match own {
        Some(taken) => taken,
        None => by_strategy(tables, service, record, identity.hashed, avoid)?,
    };
    if let (Some(binding), Some(backend)) = (binding, tables.backend(taken.backend)) {
        let bound = Bound {
            used_at_ns: now_ns(books),
            backend: taken.backend,
            generation: load32(&backend.generation),
        };
        books.bind(binding, bound);
    }
    Some(taken)
}

/// Under what the client is bound, if the service binds clients and knows this one by a number.
fn binding(record: &Service, service: u32, bond: Bond) -> Option<Binding> {
    match bond {
        Bond::Number(client) if client != 0 && affinity::is_on(record) => Some(Binding {
            client,
            service,
            generation: load32(&record.generation),
        }),
        _ => None,
    }
}

/// The backend that the client is bound to, by id and generation.
fn bound<B: Books>(books: &B, record: &Service, binding: Binding) -> Option<(u32, u32)> {
    let bound = books.bound(binding)?;
    affinity::holds(record, &bound, now_ns(books)).then_some((bound.backend, bound.generation))
}

/// A slot by the service's strategy, on none of the backends to be avoided if any other has one.
fn by_strategy<T: Tables>(
    tables: &T,
    service: u32,
    record: &Service,
    hashed: u64,
    avoid: &[u32],
) -> Option<Taken> {
    // Each time on behalf of another client, since one and the same would get the same backend.
    let choose = |further: usize| {
        let client = hashed.wrapping_add(further as u64);
        select::choose(tables, service, client, Side::Agent).ok()
    };
    let first = choose(0)?;
    let has_one_choice = load32(&record.strategy) == Strategy::Leader as u32;
    if !avoid.contains(&first.backend) || has_one_choice {
        return Some(first);
    }
    // Held while we look further, so that the search offers others.
    let mut set_aside = Vec::new();
    let mut better = None;
    for further in 1..=avoid.len() + FURTHER_TRIES {
        match choose(further) {
            Some(taken) if avoid.contains(&taken.backend) => set_aside.push(taken),
            other => {
                better = other;
                break;
            }
        }
    }
    for taken in set_aside {
        select::give_back(tables, taken.backend, Side::Agent);
    }
    let Some(better) = better else {
        return Some(first);
    };
    select::give_back(tables, first.backend, Side::Agent);
    Some(better)
}

fn now_ns<B: Books>(books: &B) -> u64 {
    books.now().as_nanos() as u64
}
