//! Agents that take over from others, whatever moment those were killed at.

use super::*;
use crate::reconcile::{op::Op, restore::Found};

impl Ground {
    /// Plans for a state, but makes only the first operations, and is killed then.
    fn die_on_the_way_to(&mut self, desired: DesiredState, part: f64) {
        let ops = self.plan(&desired, self.changed(&desired));
        let made = (ops.len() as f64 * part) as usize;
        for op in &ops[..made] {
            op.apply(self).unwrap();
        }
        self.desired = desired;
    }

    /// Another agent takes over, and learns that this is wanted.
    fn take_over(&mut self, desired: DesiredState) {
        let here = self.assignment.here.clone();
        let names = self.names.borrow();
        let found = Found {
            tables: &self.tables,
            names: names
                .iter()
                .map(|(id, it)| (*id, it.parse().unwrap()))
                .collect(),
            frontends: self
                .frontends
                .borrow()
                .iter()
                .map(|(at, to)| (*at, *to))
                .collect(),
        };
        let (assignment, repairs) = found.restore(here, self.now);
        drop(names);
        for op in &repairs {
            op.apply(self).unwrap();
        }
        self.assignment = assignment;
        let mut names = self
            .assignment
            .services
            .keys()
            .cloned()
            .collect::<BTreeSet<_>>();
        names.extend(desired.services.keys().cloned());
        let ops = self.plan(&desired, names);
        for op in &ops {
            op.apply(self).unwrap();
        }
        self.desired = desired;
    }

    fn changed(&self, desired: &DesiredState) -> BTreeSet<ServiceName> {
        let changed = desired.since(&self.desired);
        changed.map(|difference| difference.name.clone()).collect()
    }

    fn plan(&mut self, desired: &DesiredState, names: BTreeSet<ServiceName>) -> Vec<Op> {
        let changes: Vec<_> = names
            .iter()
            .map(|name| (name, desired.service(name)))
            .collect();
        let (mut ops, held) = (Vec::new(), self.held());
        let mut take = |batch: &mut Vec<Op>| ops.append(batch);
        let postponed = plan(&mut self.assignment, &changes, self.now, &held, &mut take);
        assert_eq!(postponed, []);
        ops
    }
}

proptest! {
    #[test]
    fn whatever_moment_it_was_killed_at_the_next_agent_ends_exactly_where_it_should(
        states in states(),
        parts in prop::collection::vec(0.0..=1.0f64, 12),
        holds in prop::collection::vec(0..4usize, 12),
    ) {
        let mut ground = Ground::new();
        let mut held = Vec::new();
        for (step, pair) in states.chunks_exact(2).enumerate() {
            held.extend(ground.take_of_first(holds[step]));
            ground.die_on_the_way_to(pair[0].clone(), parts[step]);
            ground.take_over(pair[1].clone());
            ground.pass(GRACE);
            ground.assert_exact();
        }
        ground.give_all_back(held);
    }
}

#[test]
fn what_has_not_changed_keeps_its_ids_and_its_counts() {
    let mut ground = Ground::new();
    let desired = state([
        service("a", &[1], 2, [1, 2]),
        service("b", &[2, 3], 0, 2..200),
    ]);
    ground.advance(desired.clone());
    let ids = |ground: &Ground| -> BTreeMap<SocketAddr, u32> {
        let backends = ground.assignment.backends.iter();
        backends
            .map(|(address, backend)| (*address, backend.id))
            .collect()
    };
    let before = ids(&ground);
    let taken = ground.take("a").unwrap().backend;
    ground.take_over(desired.clone());
    ground.assert_exact();
    assert_eq!(ids(&ground), before);
    assert_eq!(ground.inflight(taken), 1);
    // And again with a newcomer, who gets a number of its own.
    ground.take_over(state([
        service("a", &[1], 2, [1, 2, 300]),
        service("b", &[2, 3], 0, 2..200),
    ]));
    ground.assert_exact();
    let now = ids(&ground);
    assert!(
        before
            .iter()
            .all(|(address, id)| now.get(address) == Some(id))
    );
    assert_eq!(now.len(), before.len() + 1);
}

#[test]
fn who_drains_goes_on_draining() {
    let mut ground = Ground::new();
    let desired = state([service("s", &[1], 1, [1])]);
    ground.advance(desired.clone());
    let address = backend(1).address;
    let (mark_as, is_set) = (Mark::Draining, true);
    let marking = Marking {
        address,
        mark: mark_as,
        is_set,
    };
    for op in mark(&mut ground.assignment, marking, ground.now) {
        op.apply(&ground).unwrap();
    }
    ground.take_over(desired);
    assert!(ground.take("s").is_none());
    let marking = Marking {
        is_set: false,
        ..marking
    };
    for op in mark(&mut ground.assignment, marking, ground.now) {
        op.apply(&ground).unwrap();
    }
    assert!(ground.take("s").is_some());
}

#[test]
fn a_service_that_nobody_can_name_ends() {
    let mut ground = Ground::new();
    ground.advance(state([service("s", &[1], 1, [1])]));
    ground.names.borrow_mut().clear();
    ground.take_over(state([service("s", &[1], 1, [1])]));
    ground.pass(Duration::from_secs(2));
    ground.assert_exact();
}
