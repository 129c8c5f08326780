//! How many may wait in a queue: a fixed number, or one that follows the load.

use crate::model::QueueSettings;

/// The size that an adaptive queue grows to.
const MOST: u32 = 100;
/// Load factors, waiters over size: in hundredths.
const GROW_ABOVE: u32 = 80;
const SHRINK_BELOW: u32 = 30;

/// The size of one queue.
#[derive(Debug)]
pub(super) struct Size {
    base: u32,
    now: u32,
    is_adaptive: bool,
    /// The most that waited since the last look.
    peak: u32,
    has_grown: bool,
}

impl Size {
    pub(super) fn new(settings: &QueueSettings) -> Self {
        Self {
            base: settings.size.value,
            now: settings.size.value,
            is_adaptive: settings.adaptive.value,
            peak: 0,
            has_grown: false,
        }
    }

    pub(super) fn now(&self) -> u32 {
        self.now
    }

    pub(super) fn set_base(&mut self, settings: &QueueSettings) {
        let most = settings.size.value.max(MOST);
        self.is_adaptive = settings.adaptive.value;
        self.now = match self.is_adaptive {
            true if self.base == settings.size.value => self.now.min(most),
            _ => settings.size.value,
        };
        self.base = settings.size.value;
    }

    /// Whether one more may wait beside so many; grows first, if that is due.
    pub(super) fn admits(&mut self, waiters: u32) -> bool {
        let waiting = waiters + 1;
        self.peak = self.peak.max(waiting);
        let most = self.base.max(MOST);
        if self.is_adaptive && self.now < most && waiting * 100 > self.now * GROW_ABOVE {
            self.now = (self.now * 2).clamp(1, most);
            self.has_grown = true;
        }
        waiting <= self.now
    }

    /// Whether the size has grown since this was asked last.
    pub(super) fn grown(&mut self) -> bool {
        std::mem::take(&mut self.has_grown)
    }

    /// Shrinks if too few have waited since the last call. Says whether it did.
    pub(super) fn settle(&mut self, waiters: u32) -> bool {
        let peak = std::mem::replace(&mut self.peak, waiters);
        if !self.is_adaptive || self.now <= self.base || peak * 100 >= self.now * SHRINK_BELOW {
            return false;
        }
        self.now = (self.now / 2).max(self.base);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Setting;

    fn size(base: u32, is_adaptive: bool) -> Size {
        Size::new(&QueueSettings {
            size: Setting::built_in(base),
            adaptive: Setting::built_in(is_adaptive),
            ..QueueSettings::default()
        })
    }

    #[test]
    fn a_fixed_size_admits_so_many_and_no_more() {
        let mut size = size(2, false);
        assert!(size.admits(0) && size.admits(1) && !size.admits(2));
        assert!(!size.settle(0));
        assert_eq!(size.now(), 2);
        let mut none = self::size(0, false);
        assert!(!none.admits(0));
    }

    #[test]
    fn an_adaptive_size_doubles_under_load_up_to_a_hundred_and_halves_down_to_its_base() {
        let mut size = size(10, true);
        let mut seen = vec![size.now()];
        for waiters in 0..100 {
            assert!(size.admits(waiters), "{waiters} of {}", size.now());
            if seen.last() != Some(&size.now()) {
                seen.push(size.now());
            }
        }
        assert_eq!(seen, [10, 20, 40, 80, 100]);
        assert!(!size.admits(100));
        assert!(!size.settle(0), "the peak was at its limit");
        while size.settle(0) {
            seen.push(size.now());
        }
        assert_eq!(seen[5..], [50, 25, 12, 10]);
    }
}
