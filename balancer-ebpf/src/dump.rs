//! Listing every steered socket to the agent, and counting those that hold slots,
//! through BPF iterators over the records. It costs the connection path nothing.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_seq_write;
use balancer_common::{
    atomic::{load, load32},
    connection::{Connection, HELD_SLOT},
    service::Tables,
};

use crate::{maps, tables::Maps};

/// `struct bpf_iter_meta`, as far as used (include/linux/bpf.h, v6.1).
#[repr(C)]
struct IterMeta {
    seq: *mut c_void,
}

/// `struct bpf_iter__bpf_sk_storage_map` (net/core/bpf_sk_storage.c, v6.1).
#[repr(C)]
struct SkStorageIter {
    meta: *const IterMeta,
    map: *const c_void,
    socket: *const c_void,
    value: *const Connection,
}

/// Writes one record, as it lies in the map, to the reader of the iterator.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn idle_dump(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<SkStorageIter>();
    // SAFETY: the kernel passes this structure; `value` is null at the end.
    unsafe {
        let value = (*ctx).value;
        if !value.is_null() {
            let seq = (*(*ctx).meta).seq;
            bpf_seq_write(seq.cast(), value.cast(), size_of::<Connection>() as u32);
        }
    }
    0
}

/// Counts the connection for its backend if it holds a slot of it.
///
/// Why not by listing: a list is read in portions of some hundred records, and
/// between two portions the kernel finds its place again by the number of records
/// before it (net/core/bpf_sk_storage.c, v6.1, `bpf_sk_storage_map_seq_find_next`).
/// Where sockets come and go meanwhile, some are left out and some listed twice.
/// Without anything to read it is one portion, and each record is seen once.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
extern "C" fn idle_recount(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<SkStorageIter>();
    // SAFETY: as in `idle_dump`; the record lives while the program runs.
    let Some(connection) = (unsafe { (*ctx).value.as_ref() }) else {
        return 0;
    };
    if load(&connection.held) != HELD_SLOT {
        return 0;
    }
    let id = connection.backend;
    if let Some(backend) = Maps.backend(id)
        && load32(&backend.generation) == connection.generation
    {
        maps::recount(id);
    }
    0
}
