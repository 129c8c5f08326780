//! Services, their leaves of positions, and backends, as they lie in maps.
//!
//! A service's backends stand at *positions* 0..4096. Sixty-four positions make
//! a *leaf*; a service names its leaves. Positions are stable: adding or
//! removing a backend touches one position and leaves all others alone, so an
//! endpoint change costs the same in a service of ten backends and of
//! thousands, and nothing is ever swapped under a running program.
//!
//! Backends that are near the clients of this node stand in leaves of their own,
//! so that a mask of leaves is all that locality needs.
//!
//! SERVICES, LEAVES and BACKENDS are mapped into the agent's memory, so every
//! field is an atomic. Each says who writes it: *agent* means `reconcile`,
//! *slots* means whoever takes or gives back a slot (kernel and agent). Their sizes are held in
//! `layout`.

use crate::{
    address::{Address, Port},
    atomic::{AtomicU32, AtomicU64, load, load32},
    index::{Found, Index},
    maps::{MAX_BACKENDS_PER_SERVICE, MAX_MEMBERSHIPS},
    select::{Attempt, By, Heir, Load, Search, Taker},
    slot::{Side, Want},
};

/// Positions in a leaf.
pub const LEAF_POSITIONS: usize = 64;
/// Leaves of a service at most.
pub const SERVICE_LEAVES: usize = MAX_BACKENDS_PER_SERVICE / LEAF_POSITIONS;

/// No backend stands at this position, or no leaf covers these positions.
/// Otherwise such a field holds the id plus one, so zeroed memory is empty.
pub const NONE: u32 = 0;

const _: () = assert!(SERVICE_LEAVES == 64, "a service's summary is one word");

/// Two bitmaps, as hints: a set bit may be stale and is checked by whoever
/// follows it; a clear bit is never wrong for longer than a running update.
#[repr(C)]
#[derive(Debug, Default)]
pub struct IndexWords {
    /// Idle backends that are available. Writer: slots.
    pub idle: AtomicU64,
    /// Available backends. Writer: slots.
    pub available: AtomicU64,
}

/// Value of SERVICES.
#[repr(C)]
#[derive(Debug)]
pub struct Service {
    /// Bits of `SERVICE_*`. Writer: agent.
    pub flags: AtomicU32,
    /// How a backend is chosen: [`Strategy`]. Writer: agent.
    pub strategy: AtomicU32,
    /// When a slot is held: [`Admission`]. Writer: agent.
    pub admission: AtomicU32,
    /// Highest position in use, plus one. Writer: agent.
    pub positions: AtomicU32,
    /// Backends at all positions. Writer: agent.
    pub backends: AtomicU32,
    /// Position last chosen; the next search starts behind it. Writer: slots,
    /// racily: a lost update only costs some fairness.
    pub cursor: AtomicU32,
    /// Counts the services this id has stood for. Writer: agent.
    pub generation: AtomicU32,
    /// How many may wait for a slot. Writer: agent (its queue, which may grow and shrink).
    pub queue_size: AtomicU32,
    /// Who waits: see [`crate::waiting`]. Writers: the connect programs and `sock_ops` (low
    /// half), agent (its queue).
    pub waiting: AtomicU64,
    /// Which leaves have a bit set. Bit i stands for `leaves[i]`.
    pub summary: IndexWords,
    /// Backends that breakers keep out. Writers: see [`crate::breaker`].
    pub ejected: AtomicU64,
    // Up to here is one cache line, and all that an ordinary connect looks at but for a leaf's id.
    /// When a connect last found no backend available and was sent to the agent, on the
    /// monotonic clock. Writers: the connect programs.
    pub sent_at_ns: AtomicU64,
    /// From one token of the rate limit to the next; 0: no limit. Writer: agent.
    pub rate_interval_ns: AtomicU64,
    /// How far ahead of the clock `rate_full_at_ns` may be for a token to be given. Writer: agent.
    pub rate_ahead_ns: AtomicU64,
    /// When the token bucket is full again, on the monotonic clock. Writers: takers of tokens.
    pub rate_full_at_ns: AtomicU64,
    /// How long a backend stays ejected before a trial. Writer: agent.
    pub breaker_open_ns: AtomicU64,
    /// When to look for an ejected backend to try. Writers: see [`crate::breaker`].
    pub trial_at_ns: AtomicU64,
    /// Consecutive failures that eject a backend; 0: none do. Writer: agent.
    pub breaker_failures: AtomicU32,
    /// Position at which the next look begins. Writers: see [`crate::breaker`].
    pub trial_cursor: AtomicU32,
    /// Turns taken of a weighted turn. Writers: slots.
    pub turn: AtomicU64,
    /// Who leads: see [`crate::select::leader`]. Writers: whoever elects, kernel and agent.
    pub leader: AtomicU64,
    /// Since when the service has been without the leader that it had before, on the monotonic
    /// clock; 0: it is not. Writers: whoever elects; the first connection that stands ends it.
    pub leaderless_since_ns: AtomicU64,
    /// How long a client without connections stays bound to its backend. Writer: agent.
    pub affinity_ns: AtomicU64,
    /// Leaves of near backends, from the nearest circle to the widest; each circle includes the
    /// one before. Bit i stands for `leaves[i]`. Writer: agent.
    pub near: [AtomicU64; CIRCLES],
    /// Leaf id plus one, or [`NONE`]. Writer: agent.
    pub leaves: [AtomicU32; SERVICE_LEAVES],
}

/// The service exists. Without it a frontend that points here is not steered.
pub const SERVICE_PRESENT: u32 = 1;
/// Newcomers may take a free slot before those who wait.
pub const SERVICE_OVERTAKING: u32 = 2;
/// What finds the queue full is refused by the programs, not by the agent.
pub const SERVICE_REFUSE_IN_KERNEL: u32 = 4;
/// While the agent is gone, what it would get is refused instead of admitted over the limit.
pub const SERVICE_REFUSE_WITHOUT_AGENT: u32 = 8;
/// The service has a rate limit.
pub const SERVICE_RATE_LIMITED: u32 = 16;
/// Clients are bound to the backend that they had last.
pub const SERVICE_AFFINITY: u32 = 32;
/// Near backends come first.
pub const SERVICE_LOCAL: u32 = 64;
/// The response times of its backends are measured.
pub const SERVICE_MEASURED: u32 = 128;

/// Its backends may be warming up.
pub const SERVICE_WARMS_UP: u32 = 256;

/// Circles of near backends: those on the client's node, those in its zone.
pub const CIRCLES: usize = 2;
/// A mask of all leaves.
pub const ALL_LEAVES: u64 = u64::MAX;

/// When a slot of a service is held.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// While a connection lasts: the programs take it.
    Connection = 0,
    /// While a request is in flight: every connection goes to the agent, which takes it.
    Request = 1,
}

/// How a service chooses among its backends.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// An idle backend, or else the least loaded that constant time can find.
    IdleFirst = 0,
    /// The backend with the fewest slots taken.
    LeastConnections = 1,
    /// The next in turn.
    RoundRobin = 2,
    /// The next in a smooth turn by weight.
    WeightedRoundRobin = 3,
    /// Any, uniformly.
    Random = 4,
    /// The less loaded of two random ones.
    TwoChoices = 5,
    /// The one with the lowest expected response time.
    LeastResponseTime = 6,
    /// By the client's identity.
    ConsistentHash = 7,
    /// The one leader.
    Leader = 8,
}

impl Strategy {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::IdleFirst,
        Self::LeastConnections,
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::Random,
        Self::TwoChoices,
        Self::LeastResponseTime,
        Self::ConsistentHash,
        Self::Leader,
    ];

    /// The strategy with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        if (number as usize) < Self::ALL.len() {
            return Some(Self::ALL[number as usize]);
        }
        None
    }
}

/// Value of LEAVES: 64 positions of one service.
#[repr(C)]
#[derive(Debug)]
pub struct Leaf {
    /// Bit i stands for `backends[i]`.
    pub index: IndexWords,
    /// Backend id plus one, or [`NONE`]. Writer: agent.
    pub backends: [AtomicU32; LEAF_POSITIONS],
}

/// Value of BACKENDS.
#[repr(C)]
#[derive(Debug)]
pub struct Backend {
    /// Slots taken: see [`crate::slot`]. Writer: slots.
    pub inflight: AtomicU64,
    /// How many slots this node may hand out; `u32::MAX`: unlimited. Writer: agent.
    pub granted: AtomicU32,
    /// Bits of `STATE_*`; 0: usable. Writer: agent.
    pub state: AtomicU32,
    /// Counts the addresses this id has stood for. Writer: agent, only while no
    /// slot is taken.
    pub generation: AtomicU32,
    /// Share for weighted strategies. Writer: agent.
    pub weight: AtomicU32,
    /// Where connects are steered, as [`Address`] words. Writer: agent, with `generation`.
    pub address: [AtomicU32; 4],
    /// Port in network order. Writer: agent, with `generation`.
    pub port: AtomicU32,
    /// Consecutive connect failures. Writers: see [`crate::breaker`].
    pub failures: AtomicU32,
    /// Until when a breaker keeps the backend out, on the monotonic clock; 0: it does not.
    /// Writers: see [`crate::breaker`].
    pub ejected_until_ns: AtomicU64,
    /// When the backend takes its full share, on the monotonic clock; 0: it does. Writer: agent.
    pub warm_at_ns: AtomicU64,
    // Up to here is one cache line, and all that an ordinary connect looks at.
    /// Since when the share of a backend that warms up grows. Writer: agent.
    pub cold_at_ns: AtomicU64,
    /// When the first of `failures` was. Writers: see [`crate::breaker`].
    pub failing_since_ns: AtomicU64,
    /// Moving average of the response time: see [`crate::response`].
    pub response_time_ns: AtomicU64,
    /// When `response_time_ns` was last updated.
    pub response_time_at_ns: AtomicU64,
    /// Responses that are awaited, in halves like `inflight`. Writers: see [`crate::response`].
    pub awaiting: AtomicU64,
    /// Since when at least one is, without a break. Writers: as above.
    pub awaiting_since_ns: AtomicU64,
    /// Slots ever taken since the id stands for this address; raised after each. Writer: slots.
    pub steered: AtomicU64,
    /// The positions where this backend stands: [`Membership`] words; 0: none.
    /// Writer: agent.
    pub memberships: [AtomicU64; MAX_MEMBERSHIPS],
}

/// Probes found the backend unhealthy.
pub const STATE_UNHEALTHY: u32 = 1;
/// The backend keeps what it has and gets nothing new.
pub const STATE_DRAINING: u32 = 2;
/// The backend left its last service; its id waits until all slots are back.
pub const STATE_RETIRED: u32 = 8;

/// One position of one service: service id plus one in the high half, position
/// in the low half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership(pub u64);

impl Membership {
    /// The word for a position.
    pub const fn new(service: u32, position: u32) -> Self {
        Self((service as u64 + 1) << 32 | position as u64)
    }

    /// Service id and position, if the word names any.
    #[inline(always)]
    pub const fn parts(self) -> Option<(u32, u32)> {
        match (self.0 >> 32) as u32 {
            0 => None,
            service => Some((service - 1, self.0 as u32)),
        }
    }
}

impl Service {
    /// Id of the leaf that covers `position`.
    #[inline(always)]
    pub fn leaf(&self, position: u32) -> Option<u32> {
        let number = (position as usize / LEAF_POSITIONS) & (SERVICE_LEAVES - 1);
        decode(load32(&self.leaves[number]))
    }
}

impl Leaf {
    /// Id of the backend at `position` (only its low six bits count).
    #[inline(always)]
    pub fn backend(&self, position: u32) -> Option<u32> {
        decode(load32(
            &self.backends[position as usize & (LEAF_POSITIONS - 1)],
        ))
    }
}

impl Backend {
    /// Where connects are steered.
    #[inline(always)]
    pub fn address(&self) -> (Address, Port) {
        let [a, b, c, d] = &self.address;
        (
            Address([load32(a), load32(b), load32(c), load32(d)]),
            Port(load32(&self.port) as u16),
        )
    }

    /// Whether anything but its slots keeps the backend from being chosen.
    #[inline(always)]
    pub fn is_usable(&self) -> bool {
        load32(&self.state) == 0 && load(&self.ejected_until_ns) == 0
    }

    /// Whether the backend belongs to the service.
    #[inline(always)]
    pub fn is_in(&self, service: u32) -> bool {
        let mut place = 0;
        while place < MAX_MEMBERSHIPS {
            match Membership(load(&self.memberships[place])).parts() {
                Some((id, _)) if id == service => return true,
                Some(_) => {}
                None => return false,
            }
            place += 1;
        }
        false
    }

    /// Slots taken, by the kernel and by the agent.
    #[inline(always)]
    pub fn inflight(&self) -> u64 {
        crate::slot::total(load(&self.inflight))
    }
}

#[inline(always)]
const fn decode(id_plus_one: u32) -> Option<u32> {
    match id_plus_one {
        NONE => None,
        id => Some(id - 1),
    }
}

/// Where selection finds its records: BPF maps in the kernel, the same memory
/// mapped into the agent, or plain vectors in tests. `None` for an id that is
/// out of range.
pub trait Tables {
    /// The service with this id.
    fn service(&self, id: u32) -> Option<&Service>;
    /// The leaf with this id.
    fn leaf(&self, id: u32) -> Option<&Leaf>;
    /// The backend with this id.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// One word of the service's table of positions, if it has one that long: see
    /// [`crate::table`].
    fn table_word(&self, service: u32, index: u32) -> Option<u64>;
    /// Thirty-two random bits.
    fn random(&self) -> u32;
    /// The monotonic clock, good to a scheduler tick.
    fn now_ns(&self) -> u64;

    // The steps of selection are methods so that the kernel can override them
    // with functions of its own, which the verifier looks at once instead of at
    // every call.

    /// See [`crate::index::refresh`].
    #[inline(always)]
    fn refresh(&self, backend: u32)
    where
        Self: Sized,
    {
        crate::index::refresh(self, backend);
    }
    /// See [`crate::index::place_of_set_bit`].
    #[inline(always)]
    fn place_of_set_bit(&self, word: u64, number: u64) -> u32 {
        crate::index::place_of_set_bit(word, number)
    }
    /// See [`crate::index::draw_by_count`].
    #[inline(always)]
    fn draw_by_count(&self, service: u32, index: Index, summary: u64) -> Found
    where
        Self: Sized,
    {
        crate::index::draw_by_count(self, service, index, summary)
    }
    /// See [`crate::index::leaf_word_of`].
    #[inline(always)]
    fn leaf_word(&self, service: u32, number: u32, index: Index) -> u64
    where
        Self: Sized,
    {
        crate::index::leaf_word_of(self, service, number, index)
    }
    /// See [`crate::select::within`].
    #[inline(always)]
    fn within(&self, service: u32, client: u64, leaves: u64, taker: Taker) -> Attempt
    where
        Self: Sized,
    {
        crate::select::within(self, service, client, leaves, taker)
    }
    /// See [`crate::select::take_next`].
    #[inline(always)]
    fn take_next(&self, search: &Search) -> Attempt
    where
        Self: Sized,
    {
        crate::select::take_next(self, search)
    }
    /// See [`crate::select::take_at`].
    #[inline(always)]
    fn take_at(&self, service: u32, position: u32, want: Want, taker: Taker) -> Attempt
    where
        Self: Sized,
    {
        crate::select::take_at(self, service, position, want, taker)
    }
    /// See [`crate::select::draw`].
    #[inline(always)]
    fn draw(&self, service: u32, leaves: u64) -> Option<u32>
    where
        Self: Sized,
    {
        crate::select::draw(self, service, leaves)
    }
    /// See [`crate::select::next_available`].
    #[inline(always)]
    fn next_available(&self, service: u32, from: u32, leaves: u64) -> Option<u32>
    where
        Self: Sized,
    {
        crate::select::next_available(self, service, from, leaves)
    }
    /// See [`crate::select::best`].
    #[inline(always)]
    fn best(&self, service: u32, by: By, leaves: u64, luck: u32) -> Option<u32>
    where
        Self: Sized,
    {
        crate::select::best(self, service, by, leaves, luck)
    }
    /// See [`crate::select::best_in_leaf`].
    #[inline(always)]
    fn best_in_leaf(&self, service: u32, number: u32, start: u32, by: By, luck: u32) -> u64
    where
        Self: Sized,
    {
        crate::select::best_in_leaf(self, service, number, start, by, luck)
    }
    /// See [`crate::select::score`].
    #[inline(always)]
    fn score(&self, leaf: u32, place: u32, by: By, now_ns: u64, luck: u32) -> u64
    where
        Self: Sized,
    {
        crate::select::score(self, leaf, place, by, now_ns, luck)
    }
    /// See [`crate::select::load_at`].
    #[inline(always)]
    fn load_at(&self, service: u32, position: u32) -> Load
    where
        Self: Sized,
    {
        crate::select::load_at(self, service, position)
    }
    /// See [`crate::select::elect`].
    #[inline(always)]
    fn elect(&self, service: u32, side: Side) -> u64
    where
        Self: Sized,
    {
        crate::select::elect(self, service, side)
    }
    /// See [`crate::select::successor`].
    #[inline(always)]
    fn successor(&self, service: u32, former: u32) -> Heir
    where
        Self: Sized,
    {
        crate::select::successor(self, service, former)
    }
    /// See [`crate::select::heir`].
    #[inline(always)]
    fn heir(&self, service: u32, place: u32, former: u32) -> u64
    where
        Self: Sized,
    {
        crate::select::heir(self, service, place, former)
    }
    /// See [`crate::breaker::readmit`].
    #[inline(always)]
    fn readmit(&self, backend: u32) -> bool
    where
        Self: Sized,
    {
        crate::breaker::readmit(self, backend)
    }
    /// See [`crate::select::usable_in_leaf`].
    #[inline(always)]
    fn usable_in_leaf(&self, service: u32, number: u32) -> Option<u32>
    where
        Self: Sized,
    {
        crate::select::usable_in_leaf(self, service, number)
    }
    /// See [`crate::select::dead_in_leaf`].
    #[inline(always)]
    fn dead_in_leaf(&self, service: u32, number: u32) -> Option<u32>
    where
        Self: Sized,
    {
        crate::select::dead_in_leaf(self, service, number)
    }
    /// See [`crate::breaker::trial`].
    #[inline(always)]
    fn trial(&self, service: u32, side: Side) -> Option<u32>
    where
        Self: Sized,
    {
        crate::breaker::trial_if_due(self, service, side)
    }
    /// See [`crate::breaker::try_position`].
    #[inline(always)]
    fn try_position(&self, service: u32, position: u32, now_ns: u64, side: Side) -> Option<u32>
    where
        Self: Sized,
    {
        crate::breaker::try_position(self, service, position, now_ns, side)
    }
}
