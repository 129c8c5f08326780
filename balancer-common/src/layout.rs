//! How large the records of the mapped arrays are, and what shares their first cache line.
//!
//! Apart from the records themselves, whose code the `models` crate compiles with other atomics.
//! Checked by the compiler; nobody calls this.

use core::mem::offset_of;

use crate::service::{Backend, Leaf, Service};

const _: () = assert!(size_of::<Service>() == 424);
const _: () = assert!(offset_of!(Service, sent_at_ns) == 64);
const _: () = assert!(size_of::<Leaf>() == 272);
const _: () = assert!(size_of::<Backend>() == 184);
const _: () = assert!(offset_of!(Backend, cold_at_ns) == 64);
