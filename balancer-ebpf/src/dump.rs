//! Listing every steered socket to the agent, through a BPF iterator over the
//! records. It costs the connection path nothing.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_seq_write;
use balancer_common::connection::Connection;

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
