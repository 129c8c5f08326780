//! Those who wait: never out of sight, and never left waiting while a slot is free.

use std::sync::atomic::Ordering::Relaxed;

use models::{
    atomic::{AtomicU64, as_agent},
    explore::{Extent, every_order},
    rig::Rig,
    select::{choose, give_back},
    slot::Side,
    waiting,
};

/// A service whose one slot comes back while someone comes for it.
struct Scene {
    rig: Rig,
    /// How often the ring buffer told the agent of a free slot.
    told: AtomicU64,
    /// How many waiters got a slot at once.
    served: AtomicU64,
}

impl Scene {
    /// A program holds the only slot.
    fn begin() -> Self {
        let scene = Self {
            rig: Rig::with(&[1]),
            told: AtomicU64::new(0),
            served: AtomicU64::new(0),
        };
        assert!(choose(&scene.rig, 0, 0, Side::Kernel).is_ok());
        scene
    }

    fn waiting(&self) -> &models::atomic::AtomicU64 {
        &self.rig.only_service().waiting
    }

    /// As `slot_freed` does in the programs.
    fn tell_whoever_waits(&self) {
        if waiting::queued(self.waiting()) != 0 {
            self.told.fetch_add(1, Relaxed);
        }
    }

    fn give_back(&self) {
        assert!(give_back(&self.rig, 0, Side::Kernel).is_some());
    }

    /// As the agent's queue does for whoever stands first.
    fn serve(&self) -> bool {
        let is_served = choose(&self.rig, 0, 0, Side::Agent).is_ok();
        if is_served {
            self.served.fetch_add(1, Relaxed);
        }
        is_served
    }

    fn assert_nobody_waits_in_vain(&self) {
        let (told, served) = (self.told.load(Relaxed), self.served.load(Relaxed));
        let is_free = self.rig.backend_of(0).inflight() == 0;
        let waits = waiting::queued(self.waiting()) != 0;
        assert!(!(is_free && waits) || told != 0, "left waiting in vain");
        assert_eq!(waits, served == 0);
    }
}

/// A connection ends, as `release` in `balancer-ebpf` does it.
fn release(scene: &Scene) {
    scene.give_back();
    scene.tell_whoever_waits();
}

/// A client comes to the agent's queue.
fn enter(scene: &Scene) {
    as_agent(|| {
        if scene.serve() {
            return;
        }
        waiting::join(scene.waiting());
        if scene.serve() {
            waiting::leave(scene.waiting());
        }
    });
}

#[test]
fn who_joins_while_a_slot_comes_back_sees_it_or_is_told() {
    every_order(
        Extent::Interruptions(4),
        Scene::begin,
        &[release, enter],
        Scene::assert_nobody_waits_in_vain,
    );
}

#[test]
#[should_panic(expected = "left waiting in vain")]
fn joining_without_another_look_is_caught() {
    fn careless(scene: &Scene) {
        as_agent(|| {
            if !scene.serve() {
                waiting::join(scene.waiting());
            }
        });
    }
    every_order(
        Extent::All,
        Scene::begin,
        &[release, careless],
        Scene::assert_nobody_waits_in_vain,
    );
}

#[test]
#[should_panic(expected = "left waiting in vain")]
fn telling_before_giving_back_is_caught() {
    fn careless(scene: &Scene) {
        scene.tell_whoever_waits();
        scene.give_back();
    }
    every_order(
        Extent::All,
        Scene::begin,
        &[careless, enter],
        Scene::assert_nobody_waits_in_vain,
    );
}

/// The agent looks after the index, as it does in a sweep and after it changed a grant or a state.
/// What it hides for a moment it shows again, and whoever came in that moment has to hear of it.
fn look_and_tell(scene: &Scene) {
    as_agent(|| {
        (scene.rig.refresh)(&scene.rig, 0);
        scene.tell_whoever_waits();
    });
}

#[test]
fn who_joins_while_the_agent_looks_after_the_index_sees_a_slot_or_is_told() {
    every_order(
        Extent::Interruptions(3),
        Scene::begin,
        &[release, look_and_tell, enter],
        Scene::assert_nobody_waits_in_vain,
    );
}

#[test]
#[should_panic(expected = "left waiting in vain")]
fn looking_after_the_index_without_telling_is_caught() {
    fn careless(scene: &Scene) {
        as_agent(|| (scene.rig.refresh)(&scene.rig, 0));
    }
    every_order(
        Extent::Interruptions(4),
        Scene::begin,
        &[release, careless, enter],
        Scene::assert_nobody_waits_in_vain,
    );
}

/// A client that connects while nobody waits, and soon closes.
fn connect_and_close(scene: &Scene) {
    let may_choose = waiting::count(scene.waiting()) == 0;
    if may_choose && choose(&scene.rig, 0, 0, Side::Kernel).is_ok() {
        release(scene);
    }
}

#[test]
fn a_newcomer_hides_no_slot_from_who_joins() {
    // Who sees no old values has few enough orders for all of them.
    fn attentive_release(scene: &Scene) {
        as_agent(|| release(scene));
    }
    fn attentive_connect(scene: &Scene) {
        as_agent(|| connect_and_close(scene));
    }
    every_order(
        Extent::Interruptions(2),
        Scene::begin,
        &[attentive_release, attentive_connect, enter],
        Scene::assert_nobody_waits_in_vain,
    );
    every_order(
        Extent::First(5_000),
        Scene::begin,
        &[release, connect_and_close, enter],
        Scene::assert_nobody_waits_in_vain,
    );
}

/// One whom a program sent arrives at the agent, joins the queue, and is off its way by that.
fn arrive(scene: &Scene) {
    as_agent(|| {
        waiting::join(scene.waiting());
        waiting::unsend(scene.waiting());
    });
}

/// Another comes and goes.
fn visit(scene: &Scene) {
    waiting::send(scene.waiting());
    waiting::unsend(scene.waiting());
}

fn look_for_waiters(scene: &Scene) {
    assert_ne!(waiting::count(scene.waiting()), 0, "out of sight");
}

fn with_one_sent() -> Scene {
    let scene = Scene::begin();
    waiting::send(scene.waiting());
    scene
}

#[test]
fn who_arrives_is_never_out_of_sight_and_all_are_counted() {
    every_order(
        Extent::All,
        with_one_sent,
        &[arrive, visit, look_for_waiters],
        |scene| {
            assert_eq!(waiting::count(scene.waiting()), 1);
            assert_eq!(waiting::queued(scene.waiting()), 1);
            waiting::leave(scene.waiting());
            assert_eq!(waiting::count(scene.waiting()), 0);
        },
    );
}

#[test]
#[should_panic(expected = "out of sight")]
fn being_off_the_way_before_joining_is_caught() {
    fn careless(scene: &Scene) {
        as_agent(|| {
            waiting::unsend(scene.waiting());
            waiting::join(scene.waiting());
        });
    }
    every_order(
        Extent::All,
        with_one_sent,
        &[careless, look_for_waiters],
        |_| {},
    );
}
