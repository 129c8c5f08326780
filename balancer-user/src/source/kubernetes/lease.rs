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

/// How often it is renewed, or looked at by those who do not hold it.
pub(super) const RENEWAL: Duration = Duration::from_secs(2);

/// This agent's part in the election.
pub(super) struct Election {
    leases: Api<Lease>,
    identity: String,
    /// The holder and the renewal seen last, and since when nothing newer has been.
    seen: Option<(Option<String>, Option<MicroTime>, Instant)>,
    /// When this agent last renewed it.
    renewed: Option<Instant>,
}

impl Election {
    /// `identity` tells this agent from all others.
    pub(super) fn new(client: Client, identity: String) -> Self {
        Self {
            leases: Api::default_namespaced(client),
            identity,
            seen: None,
            renewed: None,
        }
    }

    /// Whether this agent may publish: it holds the Lease, and nobody else can have taken it yet.
    pub(super) fn is_won(&self) -> bool {
        self.renewed
            .is_some_and(|at| at.elapsed() < DURATION.mul_f64(2.0 / 3.0))
    }

    /// Takes the Lease if it is free, renews it if it is held.
    ///
    /// # Errors
    /// What the API says. A Lease that is held stays so until it runs out.
    pub(super) async fn stand(&mut self) -> Result<(), kube::Error> {
        let now = Instant::now();
        let Some(lease) = self.leases.get_opt(NAME).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(None)),
            };
            return self.settle(
                self.leases.create(&PostParams::default(), &lease).await,
                now,
            );
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let is_ours = spec.holder_identity.as_ref() == Some(&self.identity);
        if !is_ours && !self.has_run_out(&spec, now) {
            self.renewed = None;
            return Ok(());
        }
        let next = Lease {
            spec: Some(self.spec(Some(&spec))),
            // With its version: if anyone was faster, it is theirs.
            metadata: lease.metadata,
        };
        let answer = self
            .leases
            .replace(NAME, &PostParams::default(), &next)
            .await;
        self.settle(answer, now)
    }

    /// Gives the Lease up, so that another agent need not wait for it to run out.
    pub(super) async fn step_down(&mut self) -> Result<(), kube::Error> {
        if self.renewed.take().is_none() {
            return Ok(());
        }
        let Some(mut lease) = self.leases.get_opt(NAME).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() == Some(&self.identity) {
            spec.holder_identity = None;
            self.leases
                .replace(NAME, &PostParams::default(), &lease)
                .await?;
        }
        Ok(())
    }

    /// Whether its holder has let it run out, or it has none.
    fn has_run_out(&mut self, spec: &LeaseSpec, now: Instant) -> bool {
        if spec.holder_identity.as_deref().is_none_or(str::is_empty) {
            return true;
        }
        let current = (spec.holder_identity.clone(), spec.renew_time.clone());
        match &self.seen {
            Some((holder, renewal, since)) if (holder, renewal) == (&current.0, &current.1) => {
                let seconds = spec.lease_duration_seconds.unwrap_or_default();
                let duration = u64::try_from(seconds).map_or(DURATION, Duration::from_secs);
                now.duration_since(*since) >= duration
            }
            _ => {
                self.seen = Some((current.0, current.1, now));
                false
            }
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let held = before.filter(|it| it.holder_identity.as_ref() == Some(&self.identity));
        let transitions = before.map_or(0, |it| it.lease_transitions.unwrap_or(0));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: held
                .and_then(|it| it.acquire_time.clone())
                .or(Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions + i32::from(before.is_some() && held.is_none())),
            ..LeaseSpec::default()
        }
    }

    fn settle(
        &mut self,
        answer: Result<Lease, kube::Error>,
        at: Instant,
    ) -> Result<(), kube::Error> {
        match answer {
            Ok(_) => self.renewed = Some(at),
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => self.renewed = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
