//! The few system calls that neither std nor aya offers.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr::NonNull,
    time::Duration,
};

use aya_obj::generated::{
    BPF_F_INNER_MAP, BPF_F_MMAPABLE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info,
    bpf_link_type, bpf_map_type,
};

/// `uname -r`.
pub(super) fn kernel_release() -> String {
    let mut name = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: `uname` fills the structure; it cannot fail for a valid pointer.
    let name = unsafe {
        libc::uname(name.as_mut_ptr());
        name.assume_init()
    };
    // SAFETY: the kernel ends the field with a zero.
    unsafe { CStr::from_ptr(name.release.as_ptr()) }
        .to_string_lossy()
        .into_owned()
}

/// CLOCK_MONOTONIC, which `bpf_ktime_get_ns` reads.
pub(super) fn monotonic_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The magic number of the file system that `path` is on (statfs(2)).
pub(super) fn file_system_magic(path: &Path) -> io::Result<i64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: both pointers are valid for the call.
    if unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the structure is filled.
    Ok(unsafe { stat.assume_init() }.f_type)
}

/// Maps a part of a file for reading and writing, shared. It begins at the start of a page.
pub(super) fn map_shared(
    file: BorrowedFd<'_>,
    offset: usize,
    len: usize,
) -> io::Result<NonNull<u8>> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            offset,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap returned address 0"))
}

/// # Safety
/// `base` and `len` must be those of one mapping of [`map_shared`] that nothing
/// refers to any more.
pub(super) unsafe fn unmap(base: NonNull<u8>, len: usize) {
    // SAFETY: the caller vouches for the mapping.
    unsafe { libc::munmap(base.as_ptr().cast(), len) };
}

/// Makes an array of 64-bit words that can be mapped into memory, and put in an array of maps
/// whatever its length.
pub(super) fn mappable_array(len: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    // SAFETY: integers of a union that is zero otherwise.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    create.key_size = size_of::<u32>() as u32;
    create.value_size = size_of::<u64>() as u32;
    create.max_entries = len;
    create.map_flags = BPF_F_INNER_MAP | BPF_F_MMAPABLE;
    bpf_fd(bpf_cmd::BPF_MAP_CREATE, &mut attr)
}

/// Puts arrays in an array of maps, all with one call, after which the kernel waits once until no
/// program can see what was there before (`bpf_map_do_batch`, v6.18).
pub(super) fn put_maps(map: BorrowedFd<'_>, keys: &[u32], arrays: &[OwnedFd]) -> io::Result<()> {
    let values: Vec<_> = arrays
        .iter()
        .map(|array| array.as_raw_fd() as u32)
        .collect();
    let mut attr = zeroed_attr();
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.values = values.as_ptr() as u64;
    attr.batch.count = keys.len() as u32;
    attr.batch.map_fd = map.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr).map(drop)
}

/// Writes words to the start of a mappable array.
pub(super) fn fill(array: BorrowedFd<'_>, words: &[u64]) -> io::Result<()> {
    let len = size_of_val(words);
    let base = map_shared(array, 0, len)?;
    // SAFETY: the mapping is at least as long as `words`, and nobody else knows of it.
    unsafe {
        std::ptr::copy_nonoverlapping(words.as_ptr(), base.cast().as_ptr(), words.len());
        unmap(base, len);
    }
    Ok(())
}

/// Opens a BPF iterator over the elements of `map`, which aya cannot (it passes
/// no map to `BPF_LINK_CREATE`).
pub(super) fn iterate_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<File> {
    // `union bpf_iter_link_info`, whose first member is the map's descriptor.
    let info: [u32; 4] = [map.as_raw_fd() as u32, 0, 0, 0];
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
    attr.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info = info.as_ptr() as u64;
    attr.link_create
        .__bindgen_anon_3
        .__bindgen_anon_1
        .iter_info_len = size_of_val(&info) as u32;
    let link = bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)?;

    let mut attr = zeroed_attr();
    attr.iter_create.link_fd = link.as_raw_fd() as u32;
    bpf_fd(bpf_cmd::BPF_ITER_CREATE, &mut attr).map(File::from)
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkTarget {
    /// The cgroup with this id.
    Cgroup(u64),
    /// The network namespace with this inode.
    Netns(u32),
    /// Something that no link of ours is attached to.
    Other,
}

/// Attaches a program.
pub(super) fn create_link(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_fd = target.as_raw_fd() as u32;
    attr.link_create.attach_type = attach_type as u32;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Puts another program behind a link, in one step.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_update.link_fd = link.as_raw_fd() as u32;
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Takes a link off what it is attached to.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// The ids of the programs that are attached to a cgroup itself for this.
pub(super) fn attached_programs(
    cgroup: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
) -> io::Result<Vec<u32>> {
    // A cgroup takes no more for one type (include/linux/bpf-cgroup-defs.h, v6.1).
    let mut ids = [0; 64];
    let mut attr = zeroed_attr();
    attr.query.__bindgen_anon_1.target_fd = cgroup.as_raw_fd() as u32;
    attr.query.attach_type = attach_type as u32;
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = ids.len() as u32;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: the kernel has filled the count.
    let count = unsafe { attr.query.__bindgen_anon_2.prog_cnt };
    Ok(ids.into_iter().take(count as usize).collect())
}

/// What a link is attached to; `None` if that is gone.
pub(super) fn link_target(link: BorrowedFd<'_>) -> io::Result<Option<LinkTarget>> {
    // SAFETY: integers alone, for which zero is valid.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = link.as_raw_fd() as u32;
    attr.info.info_len = size_of_val(&info) as u32;
    attr.info.info = (&raw mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: the type says which member of the union the kernel has filled.
    let (target, id) = unsafe {
        let kinds = info.__bindgen_anon_1;
        if info.type_ == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 {
            let id = kinds.cgroup.cgroup_id;
            (LinkTarget::Cgroup(id), id)
        } else if info.type_ == bpf_link_type::BPF_LINK_TYPE_NETNS as u32 {
            let inode = kinds.netns.netns_ino;
            (LinkTarget::Netns(inode), u64::from(inode))
        } else {
            (LinkTarget::Other, 1)
        }
    };
    // A link that has lost its cgroup or network namespace says 0.
    Ok((id != 0).then_some(target))
}

/// Pins a map, program or link.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.bpf_fd = object.as_raw_fd() as u32;
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens what is pinned.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// The cookie of the network namespace that a socket is in (`SO_NETNS_COOKIE`, Linux 5.14).
pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointers are valid for the call, and `len` is that of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

fn zeroed_attr() -> bpf_attr {
    // SAFETY: the union is plain integers; the kernel wants unused bytes zero.
    unsafe { std::mem::zeroed() }
}

fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the command returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` is valid for its whole size, and what it points to outlives
    // the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as u32, attr, size_of::<bpf_attr>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
