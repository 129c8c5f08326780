//! The Lease that makes one agent of the cluster the publisher.
//!
//! The usual rules of leader election by Lease: whoever holds it renews it, anyone may take one
//! that has not been renewed for its whole duration. How old it is goes by what this agent has
//! seen itself, so that clocks that differ between nodes do no harm.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};

/// The Lease's name, in the agent's own namespace.
const NAME: &str = "idlefirst-publisher";

/// How long the Lease outlives its holder.
pub(super) const DURATION: Duration = Duration::from_secs(15);

/// How often its holder renews it.
const RENEWAL: Duration = Duration::from_secs(2);

/// How often at most those look at it who do not hold it: there may be a thousand of them. It is
/// taken this long after it has run out at the latest.
const LOOK: Duration = Duration::from_secs(10);

/// This agent's part in the election.
pub(super) struct Election {
    leases: Api<Lease>,
    record: Record,
}

impl Election {
    /// `identity` tells this agent from all others.
    pub(super) fn new(client: Client, identity: String) -> Self {
        Self {
            leases: Api::default_namespaced(client),
            record: Record::new(identity),
        }
    }

    /// Whether this agent may publish: it holds the Lease, and nobody else can have taken it yet.
    pub(super) fn is_won(&self) -> bool {
        self.record.is_won(Instant::now())
    }

    /// How long from one time that this agent stands to the next.
    pub(super) fn pause(&self) -> Duration {
        // Not all at once, even if all have been started at once.
        let look = LOOK.mul_f64(fastrand::f64().mul_add(0.4, 0.6));
        self.record.pause(look, Instant::now())
    }

    /// Takes the Lease if it is free, renews it if it is held.
    ///
    /// # Errors
    /// What the API says. A Lease that is held stays so until it runs out.
    pub(super) async fn stand(&mut self) -> Result<(), kube::Error> {
        // Before the request: the others count from when they see it, which is later.
        let now = Instant::now();
        let lease = self.leases.get_opt(NAME).await?;
        let spec = lease.as_ref().map(|it| it.spec.clone().unwrap_or_default());
        let Some(next) = self.record.next(spec.as_ref(), now) else {
            return Ok(());
        };
        let params = PostParams::default();
        let answer = match lease {
            Some(lease) => {
                let lease = Lease {
                    spec: Some(next),
                    // With its version: if anyone was faster, it is theirs.
                    metadata: lease.metadata,
                };
                self.leases.replace(NAME, &params, &lease).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(NAME.to_owned()),
                    ..ObjectMeta::default()
                };
                let spec = Some(next);
                let lease = Lease { metadata, spec };
                self.leases.create(&params, &lease).await
            }
        };
        match answer {
            Ok(_) => self.record.renewed = Some(now),
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => self.record.renewed = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Gives the Lease up, so that another agent need not wait for it to run out.
    pub(super) async fn step_down(&mut self) -> Result<(), kube::Error> {
        if self.record.renewed.take().is_none() {
            return Ok(());
        }
        let Some(mut lease) = self.leases.get_opt(NAME).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if self.record.is_ours(spec) {
            spec.holder_identity = None;
            self.leases
                .replace(NAME, &PostParams::default(), &lease)
                .await?;
        }
        Ok(())
    }
}

/// What this agent knows of the Lease. Pure.
#[derive(Debug)]
struct Record {
    identity: String,
    /// The Lease as it was seen last, and since when it has been so. Only this agent's own
    /// monotonic clock says how old that is: the times in the Lease are told apart, never compared
    /// with a clock.
    seen: Option<(LeaseSpec, Instant)>,
    /// When this agent last renewed it.
    renewed: Option<Instant>,
}

impl Record {
    fn new(identity: String) -> Self {
        Self {
            identity,
            seen: None,
            renewed: None,
        }
    }

    fn is_won(&self, now: Instant) -> bool {
        self.renewed
            .is_some_and(|at| now.duration_since(at) < DURATION.mul_f64(2.0 / 3.0))
    }

    fn is_ours(&self, spec: &LeaseSpec) -> bool {
        spec.holder_identity.as_ref() == Some(&self.identity)
    }

    /// How long until this agent should look again: while it holds the Lease, to renew it; else in
    /// time to find it run out.
    fn pause(&self, look: Duration, now: Instant) -> Duration {
        if self.renewed.is_some() {
            return RENEWAL;
        }
        let Some((seen, since)) = &self.seen else {
            return look;
        };
        let left = duration(seen).saturating_sub(now.duration_since(*since));
        match left.is_zero() {
            // It was not taken when it had run out: somebody else was faster, or the API is away.
            true => look,
            false => look.min(left),
        }
    }

    /// What to write, if this agent may: the Lease is free, run out, or its own.
    fn next(&mut self, found: Option<&LeaseSpec>, now: Instant) -> Option<LeaseSpec> {
        let Some(found) = found else {
            return Some(self.spec(None));
        };
        if self.is_ours(found) {
            return Some(self.spec(Some(found)));
        }
        // Whatever else becomes of it, it is not this agent's now.
        self.renewed = None;
        self.has_run_out(found, now).then(|| self.spec(Some(found)))
    }

    /// Whether its holder has let it run out, or it has none.
    fn has_run_out(&mut self, found: &LeaseSpec, now: Instant) -> bool {
        if found.holder_identity.as_deref().is_none_or(str::is_empty) {
            return true;
        }
        match &self.seen {
            Some((seen, since)) if seen == found => now.duration_since(*since) >= duration(found),
            _ => {
                self.seen = Some((found.clone(), now));
                false
            }
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let held = before.filter(|it| self.is_ours(it));
        let transitions = before.map_or(0, |it| it.lease_transitions.unwrap_or(0));
        let taken = i32::from(before.is_some() && held.is_none());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: held
                .and_then(|it| it.acquire_time.clone())
                .or(Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions.saturating_add(taken)),
            ..LeaseSpec::default()
        }
    }
}

/// How long a Lease outlives its last renewal.
fn duration(spec: &LeaseSpec) -> Duration {
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    seconds.map_or(DURATION, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A Lease renewed at this time by its holder's clock.
    fn held(by: &str, renewed_at: i64) -> LeaseSpec {
        let at = MicroTime(Timestamp::from_second(renewed_at).unwrap());
        LeaseSpec {
            holder_identity: Some(by.to_owned()),
            lease_duration_seconds: Some(15),
            acquire_time: Some(at.clone()),
            renew_time: Some(at),
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn one_that_nobody_holds_is_taken_and_renewed() {
        let mut record = Record::new("a".to_owned());
        let begin = Instant::now();
        let first = record.next(None, begin).unwrap();
        assert_eq!(first.holder_identity.as_deref(), Some("a"));
        assert_eq!(first.lease_transitions, Some(0));
        let again = record.next(Some(&first), begin + SECOND).unwrap();
        assert_eq!(again.acquire_time, first.acquire_time);
        assert_eq!(again.lease_transitions, Some(0));
        assert!(again.renew_time >= first.renew_time);
        for nobody in [None, Some(String::new())] {
            let free = LeaseSpec {
                holder_identity: nobody,
                ..held("b", 0)
            };
            let taken = record.next(Some(&free), begin).unwrap();
            assert_eq!(taken.lease_transitions, Some(5));
            assert_ne!(taken.acquire_time, free.acquire_time);
        }
    }

    #[test]
    fn one_that_is_held_is_taken_only_when_no_renewal_was_seen_for_its_whole_duration() {
        // By the holder's clock it ran out decades ago, or will not for decades.
        for its_clock in [0, 4_000_000_000] {
            let mut record = Record::new("a".to_owned());
            let begin = Instant::now();
            let first = held("b", its_clock);
            assert!(record.next(Some(&first), begin).is_none());
            assert!(record.next(Some(&first), begin + 14 * SECOND).is_none());
            // Renewed, though its clock was set back in between.
            let renewed = held("b", its_clock - 100);
            let seen = begin + 14 * SECOND;
            assert!(record.next(Some(&renewed), seen).is_none());
            assert!(record.next(Some(&renewed), seen + 14 * SECOND).is_none());
            let taken = record.next(Some(&renewed), seen + 15 * SECOND).unwrap();
            assert_eq!(taken.holder_identity.as_deref(), Some("a"));
            assert_eq!(taken.lease_transitions, Some(5));
        }
    }

    #[test]
    fn one_that_was_lost_is_lost_at_once_and_one_that_cannot_be_renewed_before_it_runs_out() {
        let mut record = Record::new("a".to_owned());
        let begin = Instant::now();
        assert!(!record.is_won(begin));
        record.renewed = Some(begin);
        assert!(record.is_won(begin + 9 * SECOND));
        assert!(!record.is_won(begin + 10 * SECOND));
        assert!(record.next(Some(&held("b", 0)), begin + SECOND).is_none());
        assert!(!record.is_won(begin + SECOND));
    }

    #[test]
    fn whoever_does_not_hold_it_looks_seldom_and_yet_when_it_runs_out() {
        let mut record = Record::new("a".to_owned());
        let begin = Instant::now();
        assert_eq!(record.pause(LOOK, begin), LOOK);
        record.next(Some(&held("b", 0)), begin);
        assert_eq!(record.pause(LOOK, begin), LOOK);
        assert_eq!(record.pause(LOOK, begin + 10 * SECOND), 5 * SECOND);
        assert_eq!(record.pause(LOOK, begin + 15 * SECOND), LOOK);
        assert!(LOOK < DURATION);
        record.renewed = Some(begin);
        assert_eq!(record.pause(LOOK, begin), RENEWAL);
        // Also when it could not be renewed for a while.
        assert_eq!(record.pause(LOOK, begin + 14 * SECOND), RENEWAL);
        record.next(Some(&held("b", 1)), begin);
        assert_eq!(record.pause(LOOK, begin), LOOK);
    }

    #[test]
    fn a_duration_that_is_none_counts_as_ours() {
        for odd in [None, Some(0), Some(-1)] {
            let mut record = Record::new("a".to_owned());
            let begin = Instant::now();
            let lease = LeaseSpec {
                lease_duration_seconds: odd,
                ..held("b", 0)
            };
            assert!(record.next(Some(&lease), begin).is_none());
            assert!(record.next(Some(&lease), begin + 14 * SECOND).is_none());
            assert!(record.next(Some(&lease), begin + 15 * SECOND).is_some());
        }
    }
}
