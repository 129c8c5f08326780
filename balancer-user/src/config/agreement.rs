//! What settings say together: contradictions, and settings that come to nothing.
//!
//! Owns the rules between settings of one service. A rule is applied to what is in force, so that
//! a layer above may mend what one below says; and `defaults` are judged by themselves, so that
//! they are not complained of once for each service. Called by `config` and by `services`.

use super::problem::{Findings, Place, Spot};
use super::settings::{Layer, Places};
use super::value::Time;
use crate::model::{
    Admission, HashKey, Locality, MAX_ADAPTIVE_QUEUE_SIZE, Origin, Probe, Protocol, Setting,
    Settings, Strategy,
};

/// Checks what `defaults:` and the environment say together.
pub(crate) fn of_defaults(layer: &Layer, findings: &mut Findings) {
    let rules = Rules {
        layer,
        label: "defaults",
        least: Origin::Defaults,
        otherwise: Place::WholeFile,
    };
    rules.apply(findings);
}

/// Checks what is in force for the service called `label`, which stands at `spot`.
pub(crate) fn of_service(layer: &Layer, label: &str, spot: Spot, findings: &mut Findings) {
    let rules = Rules {
        layer,
        label,
        least: Origin::Service,
        otherwise: spot.into(),
    };
    rules.apply(findings);
    rules.requests_need_http(findings);
    rules.cookies_need_requests(findings);
    rules.hashing_needs_its_place(findings);
    rules.health_needs_a_probe(findings);
}

struct Rules<'a> {
    layer: &'a Layer,
    label: &'a str,
    /// Settings of a lower origin are another judgement's.
    least: Origin,
    /// Where to point if no setting at fault is of `least` or above.
    otherwise: Place,
}

impl Rules<'_> {
    fn apply(&self, findings: &mut Findings) {
        self.adaptive_needs_room(findings);
        self.probes_end_before_the_next(findings);
        self.modifiers_fit_the_strategy(findings);
    }

    /// Of two settings, where the one stands that was laid on last: the one to mend. None if both
    /// are another judgement's.
    fn latest<T, U>(
        &self,
        (one, at): (&Setting<T>, Option<Place>),
        (other, other_at): (&Setting<U>, Option<Place>),
    ) -> Option<Place> {
        let (origin, place) = if other.origin > one.origin {
            (other.origin, other_at)
        } else {
            (one.origin, at)
        };
        (origin >= self.least).then_some(place.unwrap_or(self.otherwise))
    }

    fn parts(&self) -> (&Settings, &Places) {
        (&self.layer.settings, &self.layer.places)
    }

    fn requests_need_http(&self, findings: &mut Findings) {
        let (settings, places) = self.parts();
        let (admission, protocol) = (&settings.admission, &settings.protocol);
        if admission.value != Admission::Request || protocol.value == Protocol::Http {
            return;
        }
        let place = self.latest((admission, places.admission), (protocol, places.protocol));
        findings.reject(
            place.unwrap_or(self.otherwise),
            format!(
                "admission request counts HTTP requests, but the protocol of {} is {}",
                self.label, protocol.value
            ),
            "set `protocol: http`, or `admission: connection`",
        );
    }

    /// A cookie that comes from `defaults` is for the services that it fits.
    fn cookies_need_requests(&self, findings: &mut Findings) {
        let (settings, places) = self.parts();
        let (affinity, admission) = (&settings.affinity, &settings.admission);
        let issued = affinity
            .value
            .as_ref()
            .and_then(|each| each.cookie.as_ref());
        let Some(cookie) = issued.filter(|_| affinity.origin >= self.least) else {
            return;
        };
        if admission.value == Admission::Request {
            return;
        }
        let place = self.latest((affinity, places.affinity), (admission, places.admission));
        findings.reject(
            place.unwrap_or(self.otherwise),
            format!(
                "the affinity cookie {cookie} can only be issued where the agent reads requests, \
                 but the admission of {} is {}",
                self.label, admission.value
            ),
            "set `admission: request` and `protocol: http`, or remove the cookie",
        );
    }

    /// A header or cookie that comes from `defaults` is for the services that it fits.
    fn hashing_needs_its_place(&self, findings: &mut Findings) {
        let (settings, places) = self.parts();
        let (hash, strategy, admission) = (&settings.hash, &settings.strategy, &settings.admission);
        if hash.value == HashKey::Client || hash.origin < self.least {
            return;
        }
        let at = (hash, places.hash);
        let (place, wrong, hint) = if strategy.value != Strategy::ConsistentHash {
            (
                self.latest(at, (strategy, places.strategy)),
                format!(
                    "only strategy consistent-hash hashes a {}, but the strategy of {} is {}",
                    hash.value, self.label, strategy.value
                ),
                "set `strategy: consistent-hash`, or remove `hash`",
            )
        } else if admission.value != Admission::Request {
            (
                self.latest(at, (admission, places.admission)),
                format!(
                    "a {} can only be hashed where the agent reads requests, but the admission of \
                     {} is {}",
                    hash.value, self.label, admission.value
                ),
                "set `admission: request` and `protocol: http`, or `hash: client`",
            )
        } else {
            return;
        };
        findings.reject(place.unwrap_or(self.otherwise), wrong, hint);
    }

    /// Rejects modifiers that stand beside a strategy to which they cannot apply. One that was
    /// inherited just does not apply.
    fn modifiers_fit_the_strategy(&self, findings: &mut Findings) {
        let (settings, places) = self.parts();
        let strategy = &settings.strategy;
        let beside = |origin: Origin| origin == strategy.origin && origin >= self.least;
        let leader = strategy.value == Strategy::Leader;
        let (locality, slow_start) = (&settings.locality, &settings.slow_start);
        if (leader || strategy.value == Strategy::ConsistentHash)
            && locality.value != Locality::None
            && beside(locality.origin)
        {
            findings.reject(
                places.locality.unwrap_or(self.otherwise),
                format!(
                    "{}: strategy {} picks the same backend on every node, so locality {} cannot \
                     hold",
                    self.label, strategy.value, locality.value
                ),
                "remove `locality`, or set another strategy",
            );
        }
        if leader && !slow_start.value.is_zero() && beside(slow_start.origin) {
            findings.reject(
                places.slow_start.unwrap_or(self.otherwise),
                format!(
                    "{}: a leader takes over whole, so slow_start {} cannot hold",
                    self.label,
                    Time(slow_start.value)
                ),
                "remove `slow_start`, or set another strategy",
            );
        }
        if leader && settings.affinity.value.is_some() && beside(settings.affinity.origin) {
            findings.warn(
                places.affinity.unwrap_or(self.otherwise),
                format!(
                    "{}: every client is with the leader, so affinity has no effect",
                    self.label
                ),
                "remove `affinity`, or set another strategy",
            );
        }
    }

    fn adaptive_needs_room(&self, findings: &mut Findings) {
        let (settings, places) = self.parts();
        let queue = &settings.queue;
        if !queue.adaptive.value {
            return;
        }
        let Some(place) = self.latest(
            (&queue.adaptive, places.queue_adaptive),
            (&queue.size, places.queue_size),
        ) else {
            return;
        };
        let size = queue.size.value;
        if size == 0 {
            findings.reject(
                place,
                format!("{}: the queue is adaptive, but its size is 0", self.label),
                "set `size` to 1 or more, which can be doubled, or `adaptive: false`",
            );
        } else if size >= MAX_ADAPTIVE_QUEUE_SIZE {
            findings.warn(
                place,
                format!(
                    "{}: the queue is adaptive, but its size is {size}, and an adaptive one \
                     grows to {MAX_ADAPTIVE_QUEUE_SIZE} only",
                    self.label
                ),
                "set a smaller `size`, or `adaptive: false`",
            );
        }
    }

    fn probes_end_before_the_next(&self, findings: &mut Findings) {
        let (settings, places) = self.parts();
        let health = &settings.health;
        let (interval, timeout) = (health.interval.value, health.timeout.value);
        if timeout <= interval {
            return;
        }
        let Some(place) = self.latest(
            (&health.timeout, places.health_timeout),
            (&health.interval, places.health_interval),
        ) else {
            return;
        };
        findings.warn(
            place,
            format!(
                "{}: a probe may take {}, but is due every {}: a slow one delays the next",
                self.label,
                Time(timeout),
                Time(interval)
            ),
            "set health.timeout to health.interval or less",
        );
    }

    /// Warns of a service that says how it is to be probed, but is not, because of its protocol.
    fn health_needs_a_probe(&self, findings: &mut Findings) {
        let (settings, places) = self.parts();
        let health = &settings.health;
        let probe = health.probe(settings.protocol.value);
        if probe.value != Probe::None || probe.origin != Origin::BuiltIn {
            return;
        }
        let origins = [
            (health.path.origin, places.health_path),
            (health.interval.origin, places.health_interval),
            (health.timeout.origin, places.health_timeout),
            (health.failures.origin, places.health_failures),
        ];
        let own = origins.iter().find(|(origin, _)| *origin >= self.least);
        if let Some((_, place)) = own {
            findings.warn(
                place.unwrap_or(self.otherwise),
                format!(
                    "{} is not probed, so this has no effect: without `protocol: http` a service \
                     is probed only if it asks for it",
                    self.label
                ),
                "set `health: {probe: tcp}` or `{probe: http}`, or `protocol: http`",
            );
        }
    }
}
