//! Sets of objects' keys, of which nearly all hold one.

use std::collections::BTreeSet;

use super::object::Key;

/// A set that costs an allocation only from its second key on.
#[derive(Debug)]
pub(super) enum Keys {
    One(Key),
    Many(BTreeSet<Key>),
}

impl Keys {
    /// Adds a key to the set at a place where there may be none yet.
    pub(super) fn add(place: &mut Option<Self>, key: Key) {
        match place {
            None => *place = Some(Self::One(key)),
            Some(Self::Many(keys)) => {
                keys.insert(key);
            }
            Some(Self::One(only)) if *only == key => {}
            Some(Self::One(only)) => {
                *place = Some(Self::Many(BTreeSet::from([only.clone(), key])));
            }
        }
    }

    /// Removes a key. Gives whether the set is empty then, and so none any more.
    pub(super) fn remove(&mut self, key: &Key) -> bool {
        match self {
            Self::One(only) => only == key,
            Self::Many(keys) => {
                keys.remove(key);
                keys.is_empty()
            }
        }
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        match self {
            Self::One(only) => only == key,
            Self::Many(keys) => keys.contains(key),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(keys) => keys.len(),
        }
    }

    /// The keys, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        let (one, many) = match self {
            Self::One(only) => (Some(only), None),
            Self::Many(keys) => (None, Some(keys)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            namespace: "fn".into(),
            name: name.into(),
        }
    }

    #[test]
    fn it_is_the_set_that_a_tree_would_be() {
        let [a, b, c] = ["a", "b", "c"].map(key);
        let mut place = None;
        for added in [&b, &b, &a, &c, &a] {
            Keys::add(&mut place, added.clone());
        }
        let mut keys = place.unwrap();
        assert!(keys.iter().eq([&a, &b, &c]));
        assert!(!keys.remove(&b));
        assert!(keys.iter().eq([&a, &c]));
        assert_eq!(
            (keys.len(), keys.contains(&b), keys.contains(&c)),
            (2, false, true)
        );
        assert!(!keys.remove(&a));
        assert!(keys.remove(&c));
    }

    #[test]
    fn one_key_goes_only_by_its_own_name() {
        let [a, b] = ["a", "b"].map(key);
        let mut keys = Keys::One(a.clone());
        assert!(!keys.remove(&b));
        assert!(keys.contains(&a) && !keys.contains(&b));
        assert!(keys.remove(&a));
    }
}
