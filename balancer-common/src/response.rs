//! A backend's response time: a moving average that follows peaks at once and forgets in time.
//!
//! The average is that of peak EWMA (Finagle's `PeakEwma` load metric): a sample above it replaces
//! it, a sample below it counts by how long ago the one before was. What nobody has measured for a
//! while halves every [`HALF_LIFE_NS`], so that a backend that was slow once gets another chance;
//! but not while it owes responses.

use crate::{
    atomic::{fetch_add, load, store},
    service::Backend,
    slot::Side,
};

/// Age at which a measurement counts half: 2^32 ns, 4.3 s.
pub const HALF_LIFE_NS: u64 = 1 << 32;
/// Of a sample below the average, at least one part in so many counts.
const LEAST_SHARE: u64 = 16;
/// Longest response time that is told apart: 2^38 ns, 4.6 min.
const LONGEST_NS: u64 = 1 << 38;

/// Takes a sample into account. Two at once may count as one.
#[inline(always)]
pub fn record(backend: &Backend, sample_ns: u64, now_ns: u64) {
    let sample = if sample_ns < LONGEST_NS {
        sample_ns
    } else {
        LONGEST_NS
    };
    let (average, at) = read(backend);
    let next = if at == 0 || sample >= average {
        sample
    } else {
        let above = average - sample;
        let kept = halve(above, now_ns.saturating_sub(at));
        let most = above - above / LEAST_SHARE;
        sample + if kept < most { kept } else { most }
    };
    // At least 1, since 0 is for what was never measured.
    store(&backend.response_time_ns, if next == 0 { 1 } else { next });
    store(&backend.response_time_at_ns, now_ns);
}

/// A request went to the backend, and its response is awaited: see [`settled`].
#[inline(always)]
pub fn asked(backend: &Backend, side: Side, now_ns: u64) {
    if fetch_add(&backend.awaiting, side.one()) == 0 {
        store(&backend.awaiting_since_ns, now_ns);
    }
}

/// What [`asked`] counted has its response, or will never have one. Exactly once for each.
#[inline(always)]
pub fn settled(backend: &Backend, side: Side) {
    fetch_add(&backend.awaiting, side.one().wrapping_neg());
}

/// What a further request can expect, with so many in flight already: the average times the
/// requests that would share the backend.
///
/// A backend of which nothing is known is worth trying while nobody else does. One that owes
/// responses is as slow as it has been silent, at least, so that one that hangs draws nobody.
#[inline(always)]
pub fn expected_ns(backend: &Backend, inflight: u64, now_ns: u64) -> u64 {
    let (average, at) = read(backend);
    if at == 0 {
        return if inflight == 0 {
            0
        } else {
            LONGEST_NS * inflight
        };
    }
    let one = if load(&backend.awaiting) == 0 {
        halve(average, now_ns.saturating_sub(at))
    } else {
        let since = load(&backend.awaiting_since_ns);
        let silent = now_ns.saturating_sub(if at > since { at } else { since });
        if average > silent { average } else { silent }
    };
    let one = if one < LONGEST_NS { one } else { LONGEST_NS };
    (one + 1) * (inflight + 1)
}

/// The average and when it was last updated; zeros if there is none.
#[inline(always)]
pub fn read(backend: &Backend) -> (u64, u64) {
    (
        load(&backend.response_time_ns),
        load(&backend.response_time_at_ns),
    )
}

/// `value` × 2^(−age / half-life), linear between the powers.
#[inline(always)]
fn halve(value: u64, age_ns: u64) -> u64 {
    let halvings = age_ns / HALF_LIFE_NS;
    if halvings >= 38 {
        return 0;
    }
    let part = (age_ns % HALF_LIFE_NS) >> 12;
    let whole = value >> halvings;
    whole - (((whole >> 1) * (part >> 10)) >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plain::Plain, service::Tables};

    const MS: u64 = 1_000_000;

    #[test]
    fn halving_is_exact_at_powers_and_falls_between() {
        let value = 1000 * MS;
        assert_eq!(halve(value, 0), value);
        assert_eq!(halve(value, HALF_LIFE_NS), value / 2);
        assert_eq!(halve(value, 3 * HALF_LIFE_NS), value / 8);
        let middle = halve(value, HALF_LIFE_NS / 2);
        assert!(middle.abs_diff(value * 3 / 4) < value / 1000, "{middle}");
        assert_eq!(halve(value, 100 * HALF_LIFE_NS), 0);
    }

    #[test]
    fn peaks_count_at_once_and_better_times_little_by_little() {
        let plain = Plain::one_service(&[1]);
        let backend = plain.backend(0).unwrap();
        record(backend, 10 * MS, 1);
        assert_eq!(read(backend).0, 10 * MS);
        record(backend, 50 * MS, 2);
        assert_eq!(read(backend).0, 50 * MS);
        record(backend, 10 * MS, 3);
        assert_eq!(read(backend).0, 10 * MS + 40 * MS / 16 * 15);
        for step in 0..200 {
            record(backend, 10 * MS, 4 + step);
        }
        assert!(read(backend).0 < 11 * MS);
    }

    #[test]
    fn who_owes_responses_is_not_forgiven_for_being_silent() {
        let plain = Plain::one_service(&[1]);
        let backend = plain.backend(0).unwrap();
        record(backend, 10 * MS, 1);
        asked(backend, Side::Kernel, 1_000 * MS);
        let expected = |now_ns| expected_ns(backend, 0, now_ns);
        assert_eq!(expected(1_001 * MS), 10 * MS + 1, "not forgotten");
        assert_eq!(expected(1_000 * MS + HALF_LIFE_NS), HALF_LIFE_NS + 1);
        // A second one does not make the first look younger.
        asked(backend, Side::Agent, 5_000 * MS);
        assert_eq!(expected(9_000 * MS), 8_000 * MS + 1);
        settled(backend, Side::Kernel);
        settled(backend, Side::Agent);
        assert!(expected(9_000 * MS) < 10 * MS, "then it is");
        assert_eq!(load(&backend.awaiting), 0);
    }

    #[test]
    fn what_is_not_measured_is_forgotten_in_time() {
        let plain = Plain::one_service(&[1]);
        let backend = plain.backend(0).unwrap();
        assert_eq!(
            expected_ns(backend, 0, 1),
            0,
            "unknown and idle: worth a try"
        );
        assert!(
            expected_ns(backend, 1, 1) >= LONGEST_NS,
            "unknown and tried"
        );
        record(backend, 1000 * MS, 1);
        let fresh = expected_ns(backend, 0, 2);
        assert!(fresh > 990 * MS);
        assert!(expected_ns(backend, 3, 2) > 3 * fresh);
        assert!(expected_ns(backend, 0, 10 * HALF_LIFE_NS) < fresh / 1000);
    }
}
