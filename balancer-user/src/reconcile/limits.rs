//! What the services of one backend ask for. Written by `plan`.

use smallvec::SmallVec;

use crate::model::ServiceName;

/// The limit that each service of a backend asks for, by name; 0: none. Nearly every backend is in
/// one service, whose limit is kept in place.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits(SmallVec<[(ServiceName, u32); 1]>);

impl Limits {
    /// Notes what a service asks for from now on.
    pub(super) fn put(&mut self, service: &ServiceName, limit: u32) {
        match self.0.binary_search_by(|(name, _)| name.cmp(service)) {
            Ok(place) => self.0[place].1 = limit,
            Err(place) => self.0.insert(place, (service.clone(), limit)),
        }
    }

    /// Forgets a service.
    pub(super) fn remove(&mut self, service: &ServiceName) {
        self.0.retain(|(name, _)| name != service);
    }

    /// Whether no service is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The services, by name.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.0.iter().map(|(name, _)| name)
    }

    /// The one that holds: no service sees more requests at once than it asked for. `None`: there
    /// is no limit.
    pub(super) fn tightest(&self) -> Option<u32> {
        let limits = self.0.iter().map(|(_, limit)| *limit);
        limits.filter(|limit| *limit != 0).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_holds_while_its_service_is_there() {
        let [a, b, c] = ["a", "b", "c"].map(|name| name.parse::<ServiceName>().unwrap());
        let mut limits = Limits::default();
        for (name, limit, tightest) in [
            (&b, 0, None),
            (&c, 3, Some(3)),
            (&a, 2, Some(2)),
            (&a, 5, Some(3)),
        ] {
            limits.put(name, limit);
            assert_eq!(limits.tightest(), tightest);
        }
        assert!(limits.services().eq([&a, &b, &c]));
        limits.remove(&c);
        assert_eq!(limits.tightest(), Some(5));
        limits.remove(&a);
        limits.remove(&b);
        assert!(limits.is_empty());
    }
}
