//! Leaders: for one vacancy there is one election, whoever finds it and however many.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use models::{
    atomic::{as_agent, load, load32, store, store32},
    explore::{Extent, every_order},
    plain::Plain,
    rig::Rig,
    select::{Leader, leader_of},
    service::{STATE_UNHEALTHY, Strategy, Tables},
    slot::Side,
    table::{Kind, words},
};

/// In the word of an election: the leader is new.
const ELECTED: u64 = 1 << 63;

/// A service of three backends, ranked as they stand.
struct Realm {
    rig: Rig,
    /// Bit i: backend i was elected. Its threads only add to it.
    elected: AtomicU64,
    elections: AtomicU64,
}

impl Realm {
    fn vacant() -> Self {
        let mut plain = Plain::one_service(&[1, 1, 1]);
        plain.set_table(0, words(Kind::Ranking, &[0, 1, 2]));
        let rig = Rig::from(plain);
        store32(&rig.only_service().strategy, Strategy::Leader as u32);
        Self {
            rig,
            elected: AtomicU64::new(0),
            elections: AtomicU64::new(0),
        }
    }

    /// Backend 0 led, and is unhealthy.
    fn bereft() -> Self {
        let realm = Self::vacant();
        assert_eq!(realm.elect(Side::Agent), Some(0));
        realm.elected.store(0, SeqCst);
        realm.elections.store(0, SeqCst);
        store32(&realm.rig.backend_of(0).state, STATE_UNHEALTHY);
        realm
    }

    fn elect(&self, side: Side) -> Option<u32> {
        let word = Tables::elect(&self.rig, 0, side);
        let leader = Leader::from_word(word)?;
        if word & ELECTED != 0 {
            self.elections.fetch_add(1, Relaxed);
            self.elected.fetch_or(1 << leader.id, Relaxed);
        }
        Some(leader.id)
    }

    fn leader(&self) -> Option<u32> {
        leader_of(&self.rig, 0).map(|leader| leader.id)
    }

    fn assert_one_election_of(&self, id: u32) {
        assert_eq!(self.elections.load(SeqCst), 1, "elections");
        assert_eq!(self.elected.load(SeqCst), 1 << id);
        assert_eq!(self.leader(), Some(id));
    }
}

/// Whoever asks is told the same.
fn program<const LEADER: u32>(realm: &Realm) {
    assert_eq!(realm.elect(Side::Kernel), Some(LEADER));
}

fn agent<const LEADER: u32>(realm: &Realm) {
    as_agent(|| assert_eq!(realm.elect(Side::Agent), Some(LEADER)));
}

#[test]
fn a_service_that_never_had_a_leader_gets_one() {
    every_order(
        Extent::All,
        Realm::vacant,
        &[program::<0>, agent::<0>, program::<0>],
        |realm| realm.assert_one_election_of(0),
    );
}

#[test]
fn a_leader_that_goes_is_followed_by_one() {
    every_order(
        Extent::All,
        Realm::bereft,
        &[program::<1>, agent::<1>, program::<1>],
        |realm| {
            realm.assert_one_election_of(1);
            let since_ns = load(&realm.rig.only_service().leaderless_since_ns);
            assert_ne!(since_ns, 0, "the failover is timed");
        },
    );
}

/// Someone asks, and takes what comes.
fn ask(realm: &Realm) {
    realm.elect(Side::Kernel);
}

#[test]
fn while_backends_come_and_go_there_are_as_many_elections_as_leaders() {
    fn first_heir_goes_and_the_former_leader_returns(realm: &Realm) {
        as_agent(|| {
            store32(&realm.rig.backend_of(1).state, STATE_UNHEALTHY);
            store32(&realm.rig.backend_of(0).state, 0);
        });
    }
    every_order(
        Extent::Interruptions(4),
        Realm::bereft,
        &[ask, ask, first_heir_goes_and_the_former_leader_returns],
        |realm| {
            let leader = realm.elect(Side::Agent).expect("two could lead");
            assert_eq!(realm.leader(), Some(leader));
            assert_eq!(load32(&realm.rig.backend_of(leader).state), 0);
            let elected = realm.elected.load(SeqCst).count_ones();
            assert_eq!(
                realm.elections.load(SeqCst),
                u64::from(elected),
                "elections"
            );
        },
    );
}

#[test]
#[should_panic(expected = "elections")]
fn electing_without_comparing_is_caught() {
    fn careless(rig: &Rig, service: u32, _: Side) -> u64 {
        let record = rig.only_service();
        let before = load(&record.leader);
        if leader_of(rig, service).is_some() {
            return before;
        }
        let former = Leader::from_word(before).map_or(0, |leader| leader.id + 1);
        let heir = rig.successor(service, former);
        let leader = Leader {
            id: heir.id,
            generation: 0,
        };
        store(&record.leader, leader.into_word());
        leader.into_word() | ELECTED
    }
    every_order(
        Extent::All,
        || {
            let realm = Realm::bereft();
            Realm {
                rig: Rig {
                    elect: careless,
                    ..realm.rig
                },
                ..realm
            }
        },
        &[program::<1>, agent::<1>],
        |realm| realm.assert_one_election_of(1),
    );
}
