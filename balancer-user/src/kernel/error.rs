//! Why the kernel side could not be set up or used.

use std::{io, path::PathBuf};

use balancer_common::maps::ABI;

/// Everything here but `Map` is fatal at start-up: nothing has been changed yet.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// `uname` says less than the oldest kernel supported.
    #[error(
        "this kernel is {found}, and the eBPF programs need {needed} or newer; \
         boot a newer kernel (Debian 12 and later have one)"
    )]
    TooOld {
        /// What `uname` reports.
        found: String,
        /// Oldest version supported.
        needed: &'static str,
    },
    /// The process lacks a capability.
    #[error(
        "cannot load eBPF programs: capability {missing} is missing; \
         run as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    Capability {
        /// Names, comma separated.
        missing: String,
    },
    /// `/proc` could not tell about this process.
    #[error("cannot read {path}: {source}; is /proc mounted?")]
    Proc {
        /// The file.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// No unified hierarchy is mounted.
    #[error(
        "no cgroup2 hierarchy is mounted; \
         mount one (mount -t cgroup2 none /sys/fs/cgroup) or set agent.cgroup"
    )]
    NoUnifiedHierarchy,
    /// The configured cgroup is none.
    #[error(
        "agent.cgroup is {path}, which is not a directory of a cgroup2 hierarchy{hint}; \
         name one, or leave agent.cgroup out to have it found"
    )]
    NotACgroup {
        /// As configured.
        path: PathBuf,
        /// What it is instead, starting with a space or empty.
        hint: &'static str,
    },
    /// A file or directory could not be opened.
    #[error("cannot open {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pin path is not on a BPF file system.
    #[error(
        "the pin path (agent.pin_path, --pin-path) is {path}, which is not on a BPF file system; \
         mount one (mount -t bpf bpf /sys/fs/bpf) or name a directory on one"
    )]
    NoBpffs {
        /// As configured.
        path: PathBuf,
    },
    /// Another agent works here.
    #[error(
        "another idlefirst agent is already running on {path}, or below it; \
         stop it first, or give this one a cgroup and a pin path of its own"
    )]
    InUse {
        /// The cgroup or pin path that both want.
        path: PathBuf,
    },
    /// The agent still works whose pins are to go.
    #[error("an idlefirst agent is running that pins in {path}; stop it first")]
    AtWork {
        /// Where it pins.
        path: PathBuf,
    },
    /// Another agent's programs already see this cgroup's connections.
    #[error(
        "another idlefirst agent already balances cgroup {path}: it works on {by}, above it; \
         two would count every connection twice: stop the other one"
    )]
    AlreadyBalanced {
        /// The cgroup.
        path: PathBuf,
        /// That of the other agent.
        by: PathBuf,
    },
    /// A program of someone else forbids ours.
    #[error(
        "cannot attach {program} to cgroup {path}: {source}; a program attached there or above \
         allows no other beside it (see `bpftool cgroup tree`): re-attach that one with the multi flag"
    )]
    AttachDenied {
        /// Our program.
        program: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// From the kernel.
        source: io::Error,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to cgroup {path}: {source}")]
    Attach {
        /// Our program.
        program: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An earlier agent with other pins steers the cgroup.
    #[error(
        "programs of an earlier agent, pinned in {pins}, still steer cgroup {cgroup}; set \
         agent.pin_path to that directory to take over from it, or end it with `idlefirst \
         uninstall --pin-path {pins}`"
    )]
    PinnedElsewhere {
        /// The cgroup.
        cgroup: PathBuf,
        /// Where they are pinned, as that agent saw it.
        pins: PathBuf,
    },
    /// The programs of an earlier agent steer another cgroup.
    #[error(
        "the programs that an earlier agent has pinned in {pins} steer another cgroup than {cgroup}; \
         set agent.cgroup as it was to take over from it, or end it with `idlefirst uninstall \
         --pin-path {pins}`"
    )]
    OtherCgroup {
        /// Where they are pinned.
        pins: PathBuf,
        /// As configured.
        cgroup: PathBuf,
    },
    /// The programs of an earlier agent know another network namespace.
    #[error(
        "an earlier agent, whose programs are pinned in {pins}, ran in another network namespace; \
         start this one there to take over from it, or end it with `idlefirst uninstall --pin-path \
         {pins}`"
    )]
    OtherNetns {
        /// Where they are pinned.
        pins: PathBuf,
    },
    /// Not all is there that an earlier agent has pinned.
    #[error(
        "programs pinned in {path} steer connections, but the map {map} is not pinned there (any more, \
         or not by that version): end steering with `idlefirst uninstall --pin-path {path}` and start \
         again; live connections are not counted then"
    )]
    PinMissing {
        /// As configured.
        path: PathBuf,
        /// The map's name.
        map: &'static str,
    },
    /// What an earlier agent has pinned is laid out otherwise.
    #[error(
        "{path} holds what another version of the agent has pinned{}, and connections go by it; \
         let that version run, or end steering with `idlefirst uninstall` and start this one: it \
         needs layout {ABI}, and live connections are not counted then",
        found.map_or_else(String::new, |found| format!(" in layout {found}"))
    )]
    OtherLayout {
        /// As configured.
        path: PathBuf,
        /// The layout, if that much can be told.
        found: Option<u32>,
    },
    /// What an earlier agent has pinned cannot be looked at.
    #[error(
        "cannot take over what is pinned in {path}: {source}; end it with `idlefirst uninstall`"
    )]
    Pins {
        /// As configured.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A program could not be attached to the agent's network namespace.
    #[error("cannot attach {program} to the agent's network namespace: {source}")]
    AttachNetns {
        /// Our program.
        program: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A program could not be loaded.
    #[error("the kernel does not accept program {program}: {source}")]
    Load {
        /// Our program.
        program: &'static str,
        /// From aya, with the verifier's log.
        source: Box<aya::programs::ProgramError>,
    },
    /// The object could not be loaded.
    #[error("cannot load the eBPF object: {0}")]
    Object(#[from] Box<aya::EbpfError>),
    /// The kernel's type information is missing.
    #[error(
        "cannot read the kernel's BTF (/sys/kernel/btf/vmlinux): {0}; \
         the kernel needs CONFIG_DEBUG_INFO_BTF"
    )]
    Btf(#[from] Box<aya_obj::btf::BtfError>),
    /// The object lacks something this agent needs.
    #[error("the eBPF object has no {what} {name} (layout version {ABI}); it is of another build")]
    Missing {
        /// `map` or `program`.
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A map could not be read or written.
    #[error("cannot {what} map {map}: {source}")]
    Map {
        /// The operation.
        what: &'static str,
        /// The map.
        map: &'static str,
        /// From aya.
        source: Box<aya::maps::MapError>,
    },
    /// A system call failed.
    #[error("{what} failed: {source}")]
    System {
        /// The operation.
        what: &'static str,
        /// From the kernel.
        source: io::Error,
    },
    /// A pin could not be made or removed.
    #[error("cannot pin {name} at {path}: {source}")]
    Pin {
        /// The map.
        name: &'static str,
        /// Where.
        path: PathBuf,
        /// From aya.
        source: Box<aya::pin::PinError>,
    },
}

impl KernelError {
    /// For errors of a map operation.
    pub(super) fn map(
        what: &'static str,
        map: &'static str,
    ) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self::Map {
            what,
            map,
            source: Box::new(source),
        }
    }

    /// For errors of a system call.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
