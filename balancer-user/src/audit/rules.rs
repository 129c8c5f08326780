//! What can be said of a count that changes while one looks at it.
//!
//! Pure. A slot is counted before the connection's record says that it holds one, and counted out
//! after the record says that it does not; so records never say more than the count, but for a moment
//! less. And the kernel counts what it takes right after taking it. What a program does between these
//! steps looks like a lost slot, in one look: only what all of several looks show is drift.

/// What the slot word and the count of takes said at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// What the id stands for.
    pub(super) generation: u32,
    /// Slots counted in the kernel's half.
    pub(super) counted: u32,
    /// Slots ever taken, by either side. Must be read before `counted` of the earlier of two readings,
    /// and after that of the later.
    pub(super) taken: u64,
}

/// A backend at a glance, which takes a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) before: Reading,
    /// Live connections that hold a slot, seen one by one between the readings.
    pub(super) holders: u64,
    pub(super) after: Reading,
}

/// What is wrong with a count, at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drift {
    /// So many slots are counted that no connection holds.
    Lost(u32),
    /// So many are held that are not counted.
    Uncounted(u32),
}

impl Look {
    /// What this look shows; `None` also if the id came to mean another backend meanwhile.
    pub(super) fn drift(&self) -> Option<Drift> {
        if self.before.generation != self.after.generation {
            return None;
        }
        let (first, last) = (
            u64::from(self.before.counted),
            u64::from(self.after.counted),
        );
        let takes = self.after.taken.saturating_sub(self.before.taken);
        let give_backs = (first + takes).saturating_sub(last);
        // Whoever held a slot all the while was seen; nobody was seen twice.
        let (least, most) = (first.saturating_sub(give_backs), first + takes);
        let number = |slots| u32::try_from(slots).unwrap_or(u32::MAX);
        match self.holders {
            holders if holders < least => Some(Drift::Lost(number(least - holders))),
            holders if holders > most => Some(Drift::Uncounted(number(holders - most))),
            _ => None,
        }
    }
}

impl Drift {
    /// What both of two looks at the same backend show.
    pub(super) fn and(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Lost(one), Self::Lost(other)) => Some(Self::Lost(one.min(other))),
            (Self::Uncounted(one), Self::Uncounted(other)) => Some(Self::Uncounted(one.min(other))),
            _ => None,
        }
    }

    /// Slots that the count is off by.
    pub(super) const fn slots(self) -> u32 {
        match self {
            Self::Lost(slots) | Self::Uncounted(slots) => slots,
        }
    }

    /// What the count should have been, for what it was.
    pub(super) const fn corrected(self, counted: u32) -> u32 {
        match self {
            Self::Lost(slots) => counted.saturating_sub(slots),
            Self::Uncounted(slots) => counted.saturating_add(slots),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(first: (u32, u64), holders: u64, last: (u32, u64)) -> Look {
        let reading = |(counted, taken)| Reading {
            generation: 1,
            counted,
            taken,
        };
        Look {
            before: reading(first),
            holders,
            after: reading(last),
        }
    }

    #[test]
    fn at_rest_every_difference_shows() {
        for (holders, drift) in [
            (0, Some(Drift::Lost(3))),
            (2, Some(Drift::Lost(1))),
            (3, None),
            (5, Some(Drift::Uncounted(2))),
        ] {
            assert_eq!(look((3, 9), holders, (3, 9)).drift(), drift, "{holders}");
        }
    }

    #[test]
    fn whoever_came_or_went_meanwhile_may_have_been_seen_or_not() {
        // Two came, three went.
        for (holders, drift) in [
            (0, Some(Drift::Lost(1))),
            (1, None),
            (6, None),
            (7, Some(Drift::Uncounted(1))),
        ] {
            assert_eq!(look((4, 9), holders, (3, 11)).drift(), drift, "{holders}");
        }
    }

    #[test]
    fn an_id_that_came_to_mean_another_backend_shows_nothing() {
        let mut look = look((3, 9), 0, (3, 9));
        look.after.generation = 2;
        assert_eq!(look.drift(), None);
    }

    #[test]
    fn two_looks_show_what_both_show() {
        let (lost, uncounted) = (Drift::Lost, Drift::Uncounted);
        assert_eq!(lost(1).and(lost(3)), Some(lost(1)));
        assert_eq!(uncounted(4).and(uncounted(2)), Some(uncounted(2)));
        assert_eq!(lost(1).and(uncounted(1)), None);
    }

    #[test]
    fn a_count_is_corrected_by_what_is_wrong_with_it() {
        assert_eq!(Drift::Lost(2).corrected(3), 1);
        assert_eq!(Drift::Uncounted(2).corrected(3), 5);
    }

    /// What happens between the readings of a look.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Take,
        GiveBack(usize),
        /// The next connection of those that were there at first is looked at.
        See,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Take),
            any::<usize>().prop_map(Step::GiveBack),
            Just(Step::See),
        ]
    }

    proptest! {
        /// Never more than what is wrong, however much is going on; and at rest all of it.
        #[test]
        fn no_look_shows_more_than_there_is(
            held in 0..6usize,
            wrong in -4..5i64,
            steps in prop::collection::vec(step(), 0..30),
        ) {
            // Connections by number; `true` while they hold a slot.
            let mut connections = vec![true; held];
            let to_see = held;
            let (mut taken, mut seen, mut holders) = (7u64, 0, 0);
            let counted = |connections: &[bool]| {
                let held = connections.iter().filter(|holds| **holds).count() as i64;
                u32::try_from(held + wrong).ok()
            };
            let (Some(first), mut at_rest) = (counted(&connections), true) else {
                return Ok(());
            };
            let first = (first, taken);
            for step in steps {
                match step {
                    Step::Take => {
                        connections.push(true);
                        taken += 1;
                        at_rest = false;
                    }
                    Step::GiveBack(which) if !connections.is_empty() => {
                        let which = which % connections.len();
                        at_rest &= !connections[which];
                        connections[which] = false;
                    }
                    Step::See if seen < to_see => {
                        holders += u64::from(connections[seen]);
                        seen += 1;
                    }
                    Step::GiveBack(_) | Step::See => {}
                }
            }
            holders += connections[seen..to_see].iter().filter(|holds| **holds).count() as u64;
            let Some(last) = counted(&connections) else {
                return Ok(());
            };
            let shown = look(first, holders, (last, taken)).drift();
            let (most_lost, most_uncounted) = (wrong.max(0), (-wrong).max(0));
            match shown {
                Some(Drift::Lost(slots)) => prop_assert!(i64::from(slots) <= most_lost),
                Some(Drift::Uncounted(slots)) => prop_assert!(i64::from(slots) <= most_uncounted),
                None => prop_assert!(!at_rest || wrong == 0),
            }
        }
    }
}
