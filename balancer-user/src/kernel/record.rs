//! Records of `balancer-common` as keys and values of aya's maps.

use std::ops::Deref;

use balancer_common::{
    affinity::{Binding, Bound},
    connection::{AgentState, Flow, FlowTarget},
};

/// A record that aya may copy byte by byte to and from the kernel.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Record<T>(pub(super) T);

impl<T> Deref for Record<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

// SAFETY: `repr(C)` integers without padding (sizes are asserted where they are
// declared), for which every bit pattern is valid.
unsafe impl aya::Pod for Record<AgentState> {}
// SAFETY: as above.
unsafe impl aya::Pod for Record<Flow> {}
// SAFETY: as above.
unsafe impl aya::Pod for Record<FlowTarget> {}
// SAFETY: as above.
unsafe impl aya::Pod for Record<Binding> {}
// SAFETY: as above.
unsafe impl aya::Pod for Record<Bound> {}
