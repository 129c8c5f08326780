//! Preferences for near backends that come to nothing, because nothing says what is near.
//!
//! Owns only these warnings. A preference that many services have from `defaults` is warned of
//! once, and only if it comes to nothing for all of them. Called by `services`.

use super::problem::{Findings, Place, Spot};
use super::settings::Layer;
use crate::model::{Backend, Locality, Origin, Strategy};

/// What is known of the services read so far.
pub(crate) struct Near {
    zone_is_known: bool,
    /// Why the preference under `defaults` comes to nothing for the services read so far; the
    /// inner `None`: it does not, for one of them at least.
    inherited: Option<Option<Nowhere>>,
}

/// Why no backend is near.
#[derive(Clone, Copy)]
enum Nowhere {
    NoNodes,
    NoZones,
    OwnZoneUnknown,
}

impl Near {
    /// Nothing is known yet but whether `agent.zone` is set.
    pub(crate) fn new(zone_is_known: bool) -> Self {
        Self {
            zone_is_known,
            inherited: None,
        }
    }

    /// Takes the service called `label` into account, which stands at `spot`.
    pub(crate) fn service(
        &mut self,
        layer: &Layer,
        (label, spot): (&str, Spot),
        backends: &[Backend],
        findings: &mut Findings,
    ) {
        let (settings, locality) = (&layer.settings, &layer.settings.locality);
        let applies = !matches!(
            settings.strategy.value,
            Strategy::Leader | Strategy::ConsistentHash
        );
        if locality.value == Locality::None || !applies || backends.is_empty() {
            return;
        }
        let nowhere = self.nowhere(locality.value, backends);
        if locality.origin < Origin::Service {
            let inherited = self.inherited.get_or_insert(nowhere);
            *inherited = inherited.and(nowhere);
        } else if let Some(nowhere) = nowhere {
            let place = layer.places.locality.unwrap_or(spot.into());
            nowhere.warn(place, label, locality.value, findings);
        }
    }

    /// Warns of the preference under `defaults` if it came to nothing for all that have it.
    pub(crate) fn conclude(&self, defaults: &Layer, findings: &mut Findings) {
        if let Some(Some(nowhere)) = self.inherited {
            let place = defaults.places.locality.unwrap_or(Place::WholeFile);
            let locality = defaults.settings.locality.value;
            nowhere.warn(place, "defaults", locality, findings);
        }
    }

    fn nowhere(&self, locality: Locality, backends: &[Backend]) -> Option<Nowhere> {
        match locality {
            Locality::None => None,
            Locality::PreferNode => {
                let located = backends.iter().any(|backend| backend.node.is_some());
                (!located).then_some(Nowhere::NoNodes)
            }
            Locality::PreferZone => {
                let located = backends.iter().any(|backend| backend.zone.is_some());
                let unknown = (!self.zone_is_known).then_some(Nowhere::OwnZoneUnknown);
                if located {
                    unknown
                } else {
                    Some(Nowhere::NoZones)
                }
            }
        }
    }
}

impl Nowhere {
    fn warn(self, place: Place, label: &str, locality: Locality, findings: &mut Findings) {
        let (why, hint) = match self {
            Self::NoNodes => (
                "no backend has a node",
                "give backends their `node`, or remove `locality`",
            ),
            Self::NoZones => (
                "no backend has a zone",
                "give backends their `zone`, or remove `locality`",
            ),
            Self::OwnZoneUnknown => (
                "the agent's own zone is not known",
                "set `agent.zone`, or remove `locality`",
            ),
        };
        let message = format!("{label}: locality {locality} has no effect, because {why}");
        findings.warn(place, message, hint);
    }
}
