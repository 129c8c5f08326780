//! Loading and attaching the programs, in an order that never leaves a slot
//! without someone to give it back.

use std::{fs::File, io, path::Path};

use super::KernelError;
use aya::{
    Btf, Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkbAttachType, Iter, Program, ProgramError,
        cgroup_skb::CgroupSkbLink,
    },
};

/// Programs on the cgroup, trackers first and takers last.
const ON_CGROUP: [&str; 6] = [
    "idle_release",
    "idle_track",
    "idle_name4",
    "idle_name6",
    "idle_connect4",
    "idle_connect6",
];

/// What sees the first bytes of responses: attached while a service needs it.
const MEASURING: &str = "idle_answered";

/// The look-up of listeners in the agent's network namespace.
const ON_NETNS: &str = "idle_admit";

/// The iterator over steered sockets.
pub(super) const DUMP: &str = "idle_dump";

/// Every program of the object.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    ON_CGROUP.into_iter().chain([ON_NETNS, MEASURING, DUMP])
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

/// Attaches the programs to the agent's network namespace and to the cgroup.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    netns: &File,
    cgroup: &File,
    path: &Path,
) -> Result<(), KernelError> {
    let result = match program(ebpf, ON_NETNS)? {
        Program::SkLookup(program) => program.attach(netns).map(drop),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    result.map_err(|source| KernelError::AttachNetns {
        program: ON_NETNS,
        source: Box::new(source),
    })?;
    for name in ON_CGROUP {
        let result = match program(ebpf, name)? {
            Program::CgroupSockAddr(program) => program.attach(cgroup, MODE).map(drop),
            Program::CgroupSock(program) => program.attach(cgroup, MODE).map(drop),
            Program::SockOps(program) => program.attach(cgroup, MODE).map(drop),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        result.map_err(|error| explain(name, path, error))?;
    }
    Ok(())
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
    result.map_err(|error| explain(MEASURING, path, error))
}

/// Takes the programs off the cgroup, takers first, so that no slot is taken
/// any more while the trackers still give them back.
pub(super) fn detach(ebpf: &mut Ebpf) {
    for name in ON_CGROUP.into_iter().rev().chain([ON_NETNS]) {
        let result = match program(ebpf, name) {
            Ok(Program::SkLookup(program)) => program.unload(),
            Ok(Program::CgroupSockAddr(program)) => program.unload(),
            Ok(Program::CgroupSock(program)) => program.unload(),
            Ok(Program::SockOps(program)) => program.unload(),
            _ => Ok(()),
        };
        if let Err(error) = result
            && !matches!(error, ProgramError::NotLoaded)
        {
            tracing::warn!(program = name, %error, "could not detach");
        }
    }
}

/// The iterator program.
pub(super) fn dump_program(ebpf: &Ebpf) -> Result<&Iter, KernelError> {
    match ebpf.program(DUMP) {
        Some(Program::Iter(program)) => Ok(program),
        _ => Err(KernelError::Missing {
            what: "program",
            name: DUMP,
        }),
    }
}

fn program<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut Program, KernelError> {
    ebpf.program_mut(name).ok_or(KernelError::Missing {
        what: "program",
        name,
    })
}

fn explain(program: &'static str, path: &Path, error: ProgramError) -> KernelError {
    let path = path.to_owned();
    match error {
        ProgramError::SyscallError(error)
            if error.io_error.kind() == io::ErrorKind::PermissionDenied =>
        {
            KernelError::AttachDenied {
                program,
                path,
                source: error.io_error,
            }
        }
        error => KernelError::Attach {
            program,
            path,
            source: Box::new(error),
        },
    }
}
