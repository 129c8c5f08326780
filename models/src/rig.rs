//! Records in memory, like a map's, of which single steps can be replaced by wrong ones.
//!
//! Called by each test of this crate: as it is for what must hold, and with a step replaced to see
//! that the checker would notice.

use crate::{
    breaker,
    index::{self, Index},
    plain::Plain,
    select::{self, Attempt, Taker},
    service::{Backend, LEAF_POSITIONS, Leaf, Membership, Service, Tables},
    slot::{Side, Want},
};

/// The records and the steps.
#[derive(Debug)]
pub struct Rig {
    /// The records.
    pub plain: Plain,
    /// See [`index::refresh`].
    pub refresh: fn(&Self, u32),
    /// See [`select::take_at`].
    pub take_at: fn(&Self, u32, u32, Want, Taker) -> Attempt,
    /// See [`select::elect`].
    pub elect: fn(&Self, u32, Side) -> u64,
    /// See [`breaker::try_position`].
    pub try_position: fn(&Self, u32, u32, u64, Side) -> Option<u32>,
}

impl From<Plain> for Rig {
    fn from(plain: Plain) -> Self {
        Self {
            plain,
            refresh: index::refresh,
            take_at: select::take_at,
            elect: select::elect,
            try_position: breaker::try_position,
        }
    }
}

impl Rig {
    /// Service 0, whose backend i stands at position i with so many slots as `granted[i]` says.
    pub fn with(granted: &[u32]) -> Self {
        Plain::one_service(granted).into()
    }

    /// Service 0.
    ///
    /// # Panics
    /// Never: it is always there.
    pub fn only_service(&self) -> &Service {
        self.plain.service(0).expect("the rig has a service")
    }

    /// The backend with this id.
    ///
    /// # Panics
    /// If there is none.
    pub fn backend_of(&self, id: u32) -> &Backend {
        self.plain.backend(id).expect("the rig has this backend")
    }

    /// Takes a slot of a backend, as a connect program does that follows a bit of the index.
    pub fn take_of(&self, id: u32, side: Side) -> bool {
        let (_, position) = self.place_of(id);
        let taker = Taker { luck: 0, side };
        Tables::take_at(self, 0, position, Want::Available, taker).is_taken()
    }

    /// Gives it back.
    pub fn give_back_of(&self, id: u32, side: Side) -> bool {
        select::give_back(self, id, side).is_some()
    }

    /// Whether the index shows a backend: whoever searches from the top would come to it.
    pub fn shows(&self, id: u32, index: Index) -> bool {
        let (leaf, position) = self.place_of(id);
        let number = position as usize / LEAF_POSITIONS;
        let (summary, words) = (&self.only_service().summary, &leaf.index);
        let (summary, word) = match index {
            Index::Idle => (&summary.idle, &words.idle),
            Index::Available => (&summary.available, &words.available),
        };
        let bit = position as usize % LEAF_POSITIONS;
        crate::atomic::load(summary) >> number & 1 != 0 && crate::atomic::load(word) >> bit & 1 != 0
    }

    /// The leaf where a backend stands, and its position.
    ///
    /// # Panics
    /// If it stands nowhere.
    pub fn place_of(&self, id: u32) -> (&Leaf, u32) {
        let word = crate::atomic::load(&self.backend_of(id).memberships[0]);
        let (_, position) = Membership(word).parts().expect("it has a place");
        let leaf = self.only_service().leaf(position);
        let leaf = leaf.and_then(|leaf| self.plain.leaf(leaf));
        (leaf.expect("its place has a leaf"), position)
    }
}

impl Tables for Rig {
    fn service(&self, id: u32) -> Option<&Service> {
        self.plain.service(id)
    }

    fn leaf(&self, id: u32) -> Option<&Leaf> {
        self.plain.leaf(id)
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.plain.backend(id)
    }

    fn table_word(&self, service: u32, index: u32) -> Option<u64> {
        self.plain.table_word(service, index)
    }

    fn random(&self) -> u32 {
        self.plain.random()
    }

    fn now_ns(&self) -> u64 {
        self.plain.now_ns()
    }

    fn refresh(&self, backend: u32) {
        (self.refresh)(self, backend);
    }

    fn take_at(&self, service: u32, position: u32, want: Want, taker: Taker) -> Attempt {
        (self.take_at)(self, service, position, want, taker)
    }

    fn elect(&self, service: u32, side: Side) -> u64 {
        (self.elect)(self, service, side)
    }

    fn try_position(&self, service: u32, position: u32, now_ns: u64, side: Side) -> Option<u32> {
        (self.try_position)(self, service, position, now_ns, side)
    }
}
