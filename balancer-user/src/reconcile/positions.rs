//! The positions of a service, by circle: a leaf holds backends of one circle only.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use balancer_common::{
    maps::MAX_BACKENDS_PER_SERVICE,
    service::{CIRCLES, LEAF_POSITIONS, SERVICE_LEAVES},
};

use super::{ids::Pool, near::Circle};

const PER_LEAF: u32 = LEAF_POSITIONS as u32;

/// The positions `0..4096` of one service.
#[derive(Clone, Debug)]
pub struct Positions {
    circles: [InCircle; CIRCLES + 1],
    /// Leaves that belong to a circle.
    leaves: u32,
}

/// Places of one circle, counted from 0, and the numbers of the leaves that they lie in.
#[derive(Clone, Debug)]
struct InCircle {
    places: Pool,
    leaves: Vec<u32>,
}

impl Positions {
    /// All positions free.
    pub fn new() -> Self {
        Self {
            circles: std::array::from_fn(|_| InCircle {
                places: Pool::new(MAX_BACKENDS_PER_SERVICE as u32),
                leaves: Vec::new(),
            }),
            leaves: 0,
        }
    }

    /// Positions of which these are in use, in leaves of these circles.
    pub fn restore(circles: &BTreeMap<u32, Circle>, used: &BTreeSet<u32>, now: Instant) -> Self {
        let mut positions = Self::new();
        positions.leaves = circles.keys().last().map_or(0, |last| last + 1);
        for (circle, in_circle) in positions.circles.iter_mut().enumerate() {
            let leaves = circles.iter().filter(|(_, of)| **of == circle);
            in_circle.leaves = leaves.map(|(number, _)| *number).collect();
            let mut places = BTreeSet::new();
            for (place, number) in (0..).step_by(LEAF_POSITIONS).zip(&in_circle.leaves) {
                let first = number * PER_LEAF;
                let in_leaf = used.range(first..first + PER_LEAF);
                places.extend(in_leaf.map(|position| place + position - first));
            }
            in_circle.places = Pool::restore(MAX_BACKENDS_PER_SERVICE as u32, &places, now);
        }
        positions
    }

    /// A free position for a backend of this circle that has rested; `None` if there is none.
    pub fn take(&mut self, circle: Circle, now: Instant) -> Option<u32> {
        let place = self.circles[circle].places.take(now)?;
        self.settle(circle, place, now)
    }

    /// Like [`Positions::take`], but rather one that has not rested than none.
    pub fn take_at_once(&mut self, circle: Circle, now: Instant) -> Option<u32> {
        let place = self.circles[circle].places.take_at_once(now)?;
        self.settle(circle, place, now)
    }

    /// Gives a position back.
    pub fn free(&mut self, position: u32, now: Instant) {
        let number = position / PER_LEAF;
        for circle in &mut self.circles {
            if let Some(leaf) = circle.leaves.iter().position(|one| *one == number) {
                let place = leaf as u32 * PER_LEAF + position % PER_LEAF;
                circle.places.free(place, now);
            }
        }
    }

    /// The circle of a position that was given out.
    pub fn circle(&self, position: u32) -> Option<Circle> {
        let number = position / PER_LEAF;
        self.circles
            .iter()
            .position(|circle| circle.leaves.contains(&number))
    }

    /// All positions ever given out are below this one.
    pub fn high_water(&self) -> u32 {
        let of_circle = |circle: &InCircle| {
            let places = circle.places.high_water();
            let last = circle
                .leaves
                .get(places.checked_sub(1)? as usize / LEAF_POSITIONS)?;
            Some(last * PER_LEAF + (places - 1) % PER_LEAF + 1)
        };
        self.circles.iter().filter_map(of_circle).max().unwrap_or(0)
    }

    /// The position of a place, in a leaf that becomes the circle's if need be.
    fn settle(&mut self, circle: Circle, place: u32, now: Instant) -> Option<u32> {
        let leaf = place as usize / LEAF_POSITIONS;
        let in_circle = &mut self.circles[circle];
        if leaf >= in_circle.leaves.len() {
            if self.leaves as usize == SERVICE_LEAVES {
                in_circle.places.free(place, now);
                return None;
            }
            in_circle.leaves.push(self.leaves);
            self.leaves += 1;
        }
        Some(in_circle.leaves[leaf] * PER_LEAF + place % PER_LEAF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::{ids::GRACE, near::FAR};

    #[test]
    fn without_locality_positions_count_up_from_0_to_the_last() {
        let now = Instant::now();
        let mut positions = Positions::new();
        for expected in 0..MAX_BACKENDS_PER_SERVICE as u32 {
            assert_eq!(positions.take(FAR, now), Some(expected));
        }
        assert_eq!(positions.high_water(), MAX_BACKENDS_PER_SERVICE as u32);
        assert_eq!(positions.take(FAR, now), None);
        positions.free(77, now);
        assert_eq!(positions.take_at_once(FAR, now), Some(77));
    }

    #[test]
    fn no_leaf_is_shared_by_two_circles() {
        let now = Instant::now();
        let mut positions = Positions::new();
        let taken: Vec<_> = (0..300)
            .map(|number| (number % 3, positions.take(number % 3, now).unwrap()))
            .collect();
        for (circle, position) in &taken {
            assert_eq!(positions.circle(*position), Some(*circle));
            for (other, elsewhere) in &taken {
                assert!(circle == other || position / 64 != elsewhere / 64);
            }
        }
        let highest = taken.iter().map(|(_, position)| *position).max().unwrap();
        assert_eq!(positions.high_water(), highest + 1);
        let (circle, position) = taken[100];
        positions.free(position, now);
        assert_eq!(positions.take(circle, now + GRACE), Some(position));
    }
}
