//! Selection as the programs run it: where its records lie, and each of its steps as a function
//! that the verifier looks at by itself.
//!
//! Global functions are checked once, for any arguments, and not again at every call. They take
//! and return plain words for that.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use balancer_common::{
    affinity::Bound,
    breaker::{self, Failure},
    index::{self, Found, Index},
    select::{self, Attempt, By, Heir, Load, Search, Taker},
    service::{Backend, Leaf, Service, Tables},
    slot::{Side, Want},
};

use crate::maps::{BACKENDS, LEAVES, SERVICES, TABLES};

/// The records of selection, as BPF maps.
pub struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn service(&self, id: u32) -> Option<&Service> {
        SERVICES.get(id)
    }

    #[inline(always)]
    fn leaf(&self, id: u32) -> Option<&Leaf> {
        LEAVES.get(id)
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        BACKENDS.get(id)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn table_word(&self, service: u32, index: u32) -> Option<u64> {
        let table = TABLES.get(service)?;
        table.get(index).copied()
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn refresh(&self, backend: u32) {
        idle_refresh(backend);
    }

    #[inline(always)]
    fn place_of_set_bit(&self, word: u64, number: u64) -> u32 {
        idle_place(word, number) as u32
    }

    #[inline(always)]
    fn draw_by_count(&self, service: u32, index: Index, summary: u64) -> Found {
        match u32::try_from(idle_count_draw(service, index.into_number(), summary)) {
            Ok(position) => Found::At(position),
            Err(_) => Found::Stale,
        }
    }

    #[inline(always)]
    fn leaf_word(&self, service: u32, number: u32, index: Index) -> u64 {
        idle_leaf(service, number, index.into_number())
    }

    #[inline(always)]
    fn within(&self, service: u32, client: u64, leaves: u64, taker: Taker) -> Attempt {
        Attempt::from_word(idle_within(service, client, leaves, taker.luck))
    }

    #[inline(always)]
    fn take_next(&self, search: &Search) -> Attempt {
        Attempt::from_word(idle_take_next(
            search.service,
            search.from,
            search.want.into_number(),
            search.taker.luck,
            search.leaves,
        ))
    }

    #[inline(always)]
    fn take_at(&self, service: u32, position: u32, want: Want, taker: Taker) -> Attempt {
        let want = want.into_number();
        Attempt::from_word(idle_take_at(service, position, want, taker.luck))
    }

    #[inline(always)]
    fn draw(&self, service: u32, leaves: u64) -> Option<u32> {
        u32::try_from(idle_draw(service, leaves)).ok()
    }

    #[inline(always)]
    fn next_available(&self, service: u32, from: u32, leaves: u64) -> Option<u32> {
        u32::try_from(idle_next(service, from, leaves)).ok()
    }

    #[inline(always)]
    fn best(&self, service: u32, by: By, leaves: u64, luck: u32) -> Option<u32> {
        u32::try_from(idle_best(service, by.into_number(), leaves, luck)).ok()
    }

    #[inline(always)]
    fn best_in_leaf(&self, service: u32, number: u32, start: u32, by: By, luck: u32) -> u64 {
        idle_best_of(service, number, start, by.into_number(), luck)
    }

    #[inline(always)]
    fn score(&self, leaf: u32, place: u32, by: By, now_ns: u64, luck: u32) -> u64 {
        idle_score(leaf, place, by.into_number(), now_ns, luck)
    }

    #[inline(always)]
    fn load_at(&self, service: u32, position: u32) -> Load {
        Load::from_word(idle_load(service, position))
    }

    #[inline(always)]
    fn elect(&self, service: u32, _: Side) -> u64 {
        idle_elect(service)
    }

    #[inline(always)]
    fn successor(&self, service: u32, former: u32) -> Heir {
        Heir::from_word(idle_successor(service, former))
    }

    #[inline(always)]
    fn heir(&self, service: u32, place: u32, former: u32) -> u64 {
        idle_heir(service, place, former)
    }

    #[inline(always)]
    fn readmit(&self, backend: u32) -> bool {
        idle_readmit(backend) != 0
    }

    #[inline(always)]
    fn usable_in_leaf(&self, service: u32, number: u32) -> Option<u32> {
        u32::try_from(idle_usable(service, number)).ok()
    }

    #[inline(always)]
    fn dead_in_leaf(&self, service: u32, number: u32) -> Option<u32> {
        u32::try_from(idle_dead(service, number)).ok()
    }

    #[inline(always)]
    fn trial(&self, service: u32, _: Side) -> Option<u32> {
        u32::try_from(idle_trial(service)).ok()
    }

    #[inline(always)]
    fn try_position(&self, service: u32, position: u32, now_ns: u64, _: Side) -> Option<u32> {
        u32::try_from(idle_try(service, position, now_ns)).ok()
    }
}

/// An option as a word, in which form it crosses a function of the kernel's own.
#[inline(always)]
fn word(number: Option<u32>) -> u64 {
    match number {
        Some(number) => number as u64,
        None => u64::MAX,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_refresh(backend: u32) -> u64 {
    index::refresh(&Maps, backend);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_take_next(service: u32, from: u32, want: u32, luck: u32, leaves: u64) -> u64 {
    let search = Search {
        service,
        from,
        want: Want::from_number(want),
        taker: taker(luck),
        leaves,
    };
    select::take_next(&Maps, &search).into_word()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_take_at(service: u32, position: u32, want: u32, luck: u32) -> u64 {
    let want = Want::from_number(want);
    select::take_at(&Maps, service, position, want, taker(luck)).into_word()
}

#[inline(always)]
fn taker(luck: u32) -> Taker {
    Taker {
        luck,
        side: Side::Kernel,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_place(word: u64, number: u64) -> u64 {
    index::place_of_set_bit(word, number) as u64
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_count_draw(service: u32, index: u32, summary: u64) -> u64 {
    match index::draw_by_count(&Maps, service, Index::from_number(index), summary) {
        Found::At(position) => position as u64,
        _ => u64::MAX,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_leaf(service: u32, number: u32, index: u32) -> u64 {
    index::leaf_word_of(&Maps, service, number, Index::from_number(index))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_draw(service: u32, leaves: u64) -> u64 {
    word(select::draw(&Maps, service, leaves))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_next(service: u32, from: u32, leaves: u64) -> u64 {
    word(select::next_available(&Maps, service, from, leaves))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_best(service: u32, by: u32, leaves: u64, luck: u32) -> u64 {
    word(select::best(
        &Maps,
        service,
        By::from_number(by),
        leaves,
        luck,
    ))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_best_of(service: u32, number: u32, start: u32, by: u32, luck: u32) -> u64 {
    select::best_in_leaf(&Maps, service, number, start, By::from_number(by), luck)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_score(leaf: u32, place: u32, by: u32, now_ns: u64, luck: u32) -> u64 {
    select::score(&Maps, leaf, place, By::from_number(by), now_ns, luck)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_load(service: u32, position: u32) -> u64 {
    select::load_at(&Maps, service, position).into_word()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_elect(service: u32) -> u64 {
    select::elect(&Maps, service, Side::Kernel)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_successor(service: u32, former: u32) -> u64 {
    select::successor(&Maps, service, former).into_word()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_heir(service: u32, place: u32, former: u32) -> u64 {
    select::heir(&Maps, service, place, former)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_usable(service: u32, number: u32) -> u64 {
    word(select::usable_in_leaf(&Maps, service, number))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_dead(service: u32, number: u32) -> u64 {
    word(select::dead_in_leaf(&Maps, service, number))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_try(service: u32, position: u32, now_ns: u64) -> u64 {
    word(breaker::try_position(
        &Maps,
        service,
        position,
        now_ns,
        Side::Kernel,
    ))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_choose(service: u32, client: u64) -> u64 {
    select::attempt(&Maps, service, client, Side::Kernel).into_word()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_within(service: u32, client: u64, leaves: u64, luck: u32) -> u64 {
    select::within(&Maps, service, client, leaves, taker(luck)).into_word()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_bound(service: u32, backend: u32, generation: u32) -> u64 {
    select::take_bound(&Maps, service, backend, generation, Side::Kernel).into_word()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_over_admit(service: u32) -> u64 {
    word(select::over_admit(&Maps, service, Side::Kernel))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_reclaim(service: u32) -> u64 {
    word(select::reclaim(&Maps, service, Side::Kernel))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_trial(service: u32) -> u64 {
    word(breaker::trial_if_due(&Maps, service, Side::Kernel))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_failed(service: u32, backend: u32) -> u64 {
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    match breaker::failed(&Maps, service, backend, now_ns) {
        Failure::Counted => 0,
        Failure::Ejected => 1,
        Failure::TrialFailed => 2,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_readmit(backend: u32) -> u64 {
    breaker::readmit(&Maps, backend) as u64
}

/// See [`select::choose`].
#[inline(always)]
pub fn choose(service: u32, client: u64) -> Attempt {
    Attempt::from_word(idle_choose(service, client))
}

/// See [`select::take_bound`].
#[inline(always)]
pub fn take_bound(service: u32, bound: &Bound) -> Attempt {
    Attempt::from_word(idle_bound(service, bound.backend, bound.generation))
}

/// See [`select::over_admit`].
#[inline(always)]
pub fn over_admit(service: u32) -> Option<u32> {
    u32::try_from(idle_over_admit(service)).ok()
}

/// See [`select::reclaim`].
#[inline(always)]
pub fn reclaim(service: u32) -> Option<u32> {
    u32::try_from(idle_reclaim(service)).ok()
}

/// See [`breaker::failed`].
#[inline(always)]
pub fn failed(service: u32, backend: u32) -> Failure {
    match idle_failed(service, backend) {
        0 => Failure::Counted,
        1 => Failure::Ejected,
        _ => Failure::TrialFailed,
    }
}

/// See [`breaker::readmit`].
#[inline(always)]
pub fn readmit(backend: u32) -> bool {
    idle_readmit(backend) != 0
}
