//! Loading and attaching the programs, in an order that never leaves a slot
//! without someone to give it back.

use std::{
    fs::File,
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
};

use super::{
    KernelError,
    link::{Link, LinkError, Place},
    pins::Pins,
    syscall::LinkTarget,
};
use aya::{
    Btf, Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkbAttachType, Iter, Program, ProgramError,
        cgroup_skb::CgroupSkbLink,
    },
};
use aya_obj::generated::bpf_attach_type;

/// Programs on the cgroup, trackers first and takers last.
const ON_CGROUP: [&str; 6] = [
    "idle_release",
    "idle_track",
    "idle_name4",
    "idle_name6",
    "idle_connect4",
    "idle_connect6",
];

/// How each of them is attached.
const ATTACH_TYPES: [bpf_attach_type; 6] = [
    bpf_attach_type::BPF_CGROUP_INET_SOCK_RELEASE,
    bpf_attach_type::BPF_CGROUP_SOCK_OPS,
    bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME,
    bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME,
    bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
    bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
];

/// What sees the first bytes of responses: attached while a service needs it.
const MEASURING: &str = "idle_answered";

/// The look-up of listeners in the agent's network namespace.
const ON_NETNS: &str = "idle_admit";

/// The iterator that lists steered sockets.
pub(super) const DUMP: &str = "idle_dump";

/// The iterator that counts those that hold slots.
pub(super) const RECOUNT: &str = "idle_recount";

/// The one for IPv4 connects.
pub(super) const CONNECT: &str = "idle_connect4";

/// Every program of the object.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    ON_CGROUP
        .into_iter()
        .chain([ON_NETNS, MEASURING, DUMP, RECOUNT])
}

/// Every program whose link is pinned.
pub(super) fn attached() -> impl Iterator<Item = &'static str> {
    ON_CGROUP.into_iter().chain([ON_NETNS])
}

/// The same in the order in which they are detached: takers first, so that no slot is taken
/// any more while the trackers still give them back.
pub(super) fn detach_order() -> impl Iterator<Item = &'static str> {
    ON_CGROUP.into_iter().rev().chain([ON_NETNS])
}

/// With links, the kernel adds multi semantics by itself, and any other mode is
/// an error (kernel/bpf/cgroup.c, v6.1, `cgroup_bpf_link_attach`).
const MODE: CgroupAttachMode = CgroupAttachMode::Single;

/// Has the verifier accept every program.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<(), KernelError> {
    let btf = Btf::from_sys_fs().map_err(Box::new)?;
    for name in all() {
        let result = match program(ebpf, name)? {
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::SkLookup(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            Program::Iter(program) => program.load("bpf_sk_storage_map", &btf),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        result.map_err(|source| KernelError::Load {
            program: name,
            source: Box::new(source),
        })?;
    }
    Ok(())
}

/// Whether an earlier agent's programs, if there are any, are where ours are to be. Before anything of
/// theirs is touched.
pub(super) fn check_places(
    pins: &Pins,
    netns: &File,
    cgroup: &File,
    path: &Path,
) -> Result<(), KernelError> {
    for name in attached() {
        let expected = match name {
            ON_NETNS => LinkTarget::Netns(inode(netns)? as u32),
            _ => LinkTarget::Cgroup(inode(cgroup)?),
        };
        let link = Link::pinned(&pins.link(name)).map_err(|error| pins.unusable(error))?;
        if link.is_some_and(|(_, target)| target != expected) {
            return Err(match name {
                ON_NETNS => KernelError::OtherNetns {
                    pins: pins.path().to_owned(),
                },
                _ => KernelError::OtherCgroup {
                    pins: pins.path().to_owned(),
                    cgroup: path.to_owned(),
                },
            });
        }
    }
    Ok(())
}

fn inode(file: &File) -> Result<u64, KernelError> {
    let metadata = file.metadata();
    metadata
        .map(|it| it.ino())
        .map_err(KernelError::system("looking at what to attach to"))
}

/// Attaches the programs to the agent's network namespace and to the cgroup, or puts them in the
/// places of an earlier agent's, one by one and each in one step: at no moment is a connect steered
/// by none of them, or by both.
pub(super) fn attach(
    ebpf: &Ebpf,
    pins: &Pins,
    netns: &File,
    cgroup: &File,
    path: &Path,
) -> Result<(), KernelError> {
    let place = Place {
        target: netns.as_fd(),
        is: LinkTarget::Netns(inode(netns)? as u32),
        attach_type: bpf_attach_type::BPF_SK_LOOKUP,
    };
    put(ebpf, pins, ON_NETNS, &place).map_err(|source| KernelError::AttachNetns {
        program: ON_NETNS,
        source: Box::new(source),
    })?;
    for (name, attach_type) in ON_CGROUP.into_iter().zip(ATTACH_TYPES) {
        let place = Place {
            target: cgroup.as_fd(),
            is: LinkTarget::Cgroup(inode(cgroup)?),
            attach_type,
        };
        put(ebpf, pins, name, &place).map_err(|error| explain(name, path, error))?;
    }
    Ok(())
}

/// Ids of the programs for the cgroup, each with how it is attached.
pub(super) fn on_cgroup(ebpf: &Ebpf) -> Vec<(u32, bpf_attach_type)> {
    let ids = ON_CGROUP.into_iter().zip(ATTACH_TYPES);
    ids.filter_map(|(name, attach_type)| {
        let info = ebpf.program(name)?.info().ok()?;
        Some((info.id(), attach_type))
    })
    .collect()
}

fn put(ebpf: &Ebpf, pins: &Pins, name: &'static str, place: &Place<'_>) -> Result<(), LinkError> {
    let program = ebpf.program(name).and_then(|program| program.fd().ok());
    let missing = || LinkError::Refused(io::Error::other("it is not loaded"));
    Link::put(
        &pins.link(name),
        place,
        program.ok_or_else(missing)?.as_fd(),
    )
}

/// Attaches the program that sees responses. It is off again when the link is dropped.
pub(super) fn measure(
    ebpf: &mut Ebpf,
    cgroup: &File,
    path: &Path,
) -> Result<CgroupSkbLink, KernelError> {
    let result = match program(ebpf, MEASURING)? {
        Program::CgroupSkb(program) => program
            .attach(cgroup, CgroupSkbAttachType::Ingress, MODE)
            .and_then(|link| program.take_link(link)),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    result.map_err(|error| match error {
        ProgramError::SyscallError(error) => {
            explain(MEASURING, path, LinkError::Refused(error.io_error))
        }
        error => explain(MEASURING, path, LinkError::Refused(io::Error::other(error))),
    })
}

/// [`DUMP`] or [`RECOUNT`].
pub(super) fn iterator<'e>(ebpf: &'e Ebpf, name: &'static str) -> Result<&'e Iter, KernelError> {
    match ebpf.program(name) {
        Some(Program::Iter(program)) => Ok(program),
        _ => Err(KernelError::Missing {
            what: "program",
            name,
        }),
    }
}

fn program<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut Program, KernelError> {
    ebpf.program_mut(name).ok_or(KernelError::Missing {
        what: "program",
        name,
    })
}

fn explain(program: &'static str, path: &Path, error: LinkError) -> KernelError {
    let path = path.to_owned();
    match error {
        LinkError::Refused(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            KernelError::AttachDenied {
                program,
                path,
                source,
            }
        }
        error => KernelError::Attach {
            program,
            path,
            source: Box::new(error),
        },
    }
}
