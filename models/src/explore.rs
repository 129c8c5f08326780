//! How a model is explored: threads that run the code under test, in every order that matters.
//!
//! Called by each test of this crate.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use loom::{model::Builder, thread};

/// What a model does at once, beside the thread that starts it.
pub type Part<S> = fn(&S);

/// How much of a model is explored.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// Every order.
    All,
    /// Every order in which no more than so many threads are interrupted.
    Interruptions(usize),
    /// So many orders, where all would take days: those that differ from each other in the last
    /// steps, and in the old values that are seen there.
    First(usize),
}

/// Runs `parts` at once on what `begin` makes, and then `end`, for every order of their steps that
/// `extent` asks for.
///
/// # Panics
/// If one of them does, in any order; or if there is but one, since such a model shows nothing.
pub fn every_order<S: Send + Sync + 'static>(
    extent: Extent,
    begin: impl Fn() -> S + Send + Sync + 'static,
    parts: &'static [Part<S>],
    end: impl Fn(&S) + Send + Sync + 'static,
) {
    let mut builder = Builder::new();
    // A look at a leaf's worth of positions is many steps.
    builder.max_branches = 20_000;
    match extent {
        Extent::All => {}
        Extent::Interruptions(most) => builder.preemption_bound = Some(most),
        Extent::First(many) => builder.max_permutations = Some(many),
    }
    let orders = Arc::new(AtomicU64::new(0));
    let count = orders.clone();
    builder.check(move || {
        count.fetch_add(1, Relaxed);
        run(Arc::new(begin()), parts, &end);
    });
    let orders = orders.load(Relaxed);
    println!("{orders} orders explored");
    assert!(orders > 1, "the parts of the model have nothing in common");
}

fn run<S: Send + Sync + 'static>(shared: Arc<S>, parts: &'static [Part<S>], end: &impl Fn(&S)) {
    let (here, others) = parts.split_last().expect("a model has parts");
    let others: Vec<_> = others
        .iter()
        .map(|part| {
            let shared = shared.clone();
            thread::spawn(move || part(&shared))
        })
        .collect();
    here(&shared);
    for other in others {
        other.join().expect("a part that panics ends the model");
    }
    end(&shared);
}
