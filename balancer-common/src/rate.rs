//! A service's rate limit: a token bucket in one word.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A): the word holds the
//! time at which the bucket would be full again. The kernel's connect programs
//! and the agent's request path draw on the same word.

use crate::{
    atomic::{compare_exchange, load, load32},
    service::{SERVICE_RATE_LIMITED, Service},
};

/// Tries of the compare-and-swap: each one lost means that another token went.
const TRIES: u32 = 32;

/// Whether the service has a rate limit.
#[inline(always)]
pub fn is_limited(service: &Service) -> bool {
    load32(&service.flags) & SERVICE_RATE_LIMITED != 0
}

/// Takes a token. Says whether there was one.
#[inline(always)]
pub fn admit(service: &Service, now_ns: u64) -> bool {
    if !is_limited(service) {
        return true;
    }
    let interval = load(&service.rate_interval_ns);
    let most_ahead = load(&service.rate_ahead_ns);
    let mut tries = 0;
    while tries < TRIES {
        let full_at = load(&service.rate_full_at_ns);
        let from = if full_at > now_ns { full_at } else { now_ns };
        if from - now_ns > most_ahead {
            return false;
        }
        if compare_exchange(&service.rate_full_at_ns, full_at, from + interval) {
            return true;
        }
        tries += 1;
    }
    // Many took tokens meanwhile; under such a rush one more must not slip by.
    false
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::{
        atomic::{store, store32},
        plain::Plain,
        service::Tables,
    };

    const SECOND_NS: u64 = 1_000_000_000;

    fn limited(per_second: u64, burst: u64) -> Plain {
        let plain = Plain::one_service(&[1]);
        let service = plain.service(0).unwrap();
        let interval = SECOND_NS / per_second;
        store(&service.rate_ahead_ns, (burst - 1) * interval);
        store(&service.rate_interval_ns, interval);
        store32(&service.flags, SERVICE_RATE_LIMITED);
        plain
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_goes_by_the_rate() {
        let plain = limited(10, 3);
        let service = plain.service(0).unwrap();
        let given = |from_ns: u64, to_ns: u64| {
            let moments = (from_ns..to_ns).step_by(1_000_000);
            moments.filter(|now_ns| admit(service, *now_ns)).count()
        };
        let start = 1_000 * SECOND_NS;
        assert_eq!((0..5).filter(|_| admit(service, start)).count(), 3);
        assert_eq!(given(start, start + 2 * SECOND_NS), 20 - 1);
        // After a long rest the burst is there again, and no more than that.
        let later = start + 100 * SECOND_NS;
        assert_eq!((0..5).filter(|_| admit(service, later)).count(), 3);
    }

    #[test]
    fn a_service_without_a_limit_gives_always() {
        let plain = Plain::one_service(&[1]);
        let service = plain.service(0).unwrap();
        assert!(!is_limited(service));
        assert!((0..1000).all(|_| admit(service, 0)));
    }

    #[test]
    fn threads_together_get_no_more_than_the_burst() {
        let plain = limited(1, 100);
        let given = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        if admit(plain.service(0).unwrap(), SECOND_NS) {
                            given.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(given.into_inner(), 100);
    }
}
