//! Names that many objects share, kept once.
//!
//! Pure; called by `kinds`. What no object uses any more is dropped in time, so that a cluster whose
//! nodes come and go costs no more than one whose nodes stay.

use std::collections::HashSet;
use std::sync::Arc;

/// Texts of which few different ones occur many times: names of nodes, zones, ports.
#[derive(Debug, Default)]
pub(super) struct Texts {
    known: HashSet<Arc<str>>,
    /// How many there were when those that nobody uses any more were last dropped.
    used: usize,
}

/// Texts that are kept before it is looked for unused ones.
const TEXTS: usize = 4096;

impl Texts {
    pub(super) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= TEXTS.max(2 * self.used) {
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.used = self.known.len();
        }
        let text: Arc<str> = text.into();
        self.known.insert(text.clone());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_nobody_uses_any_more_do_not_pile_up() {
        let mut texts = Texts::default();
        let kept: Vec<_> = (0..100)
            .map(|it| texts.get(&format!("kept-{it}")))
            .collect();
        for node in 0..20 * TEXTS {
            texts.get(&format!("node-{node}"));
        }
        assert!(texts.known.len() <= TEXTS, "{}", texts.known.len());
        for (it, text) in kept.iter().enumerate() {
            assert!(Arc::ptr_eq(text, &texts.get(&format!("kept-{it}"))));
        }
    }
}
