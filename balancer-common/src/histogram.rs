//! A log-linear histogram of durations: four buckets per power of two.
//!
//! The relative width of a bucket is at most 25 %, enough for a median.

/// Number of buckets: durations up to 2^17 ns (131 µs) are told apart; all
/// longer ones share the last bucket.
pub const BUCKETS: u32 = 64;

/// The bucket that counts a duration of `ns`.
#[inline(always)]
pub const fn bucket(ns: u64) -> u32 {
    if ns < 8 {
        return ns as u32;
    }
    let exponent = ns.ilog2();
    let quarter = (ns >> (exponent - 2)) as u32 & 3;
    let index = (exponent - 1) * 4 + quarter;
    if index < BUCKETS { index } else { BUCKETS - 1 }
}

/// The smallest duration in ns that falls in bucket `index`.
pub const fn lower_bound_ns(index: u32) -> u64 {
    if index < 8 {
        return index as u64;
    }
    let exponent = index / 4 + 1;
    (4 + (index % 4) as u64) << (exponent - 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_starts_where_it_says() {
        for index in 0..BUCKETS {
            assert_eq!(bucket(lower_bound_ns(index)), index);
            if index > 0 {
                assert_eq!(bucket(lower_bound_ns(index) - 1), index - 1);
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
