//! Setting the kernel side up and taking it down, and typed access to its maps.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf},
    programs::{Program, cgroup_skb::CgroupSkbLink},
};
use balancer_common::{
    address::{FrontendKey, LeadsTo},
    affinity::{Binding, Bound},
    connection::{AgentState, FlowTarget},
    counter::{FAULTS, ServiceCounters},
    histogram, maps,
};

use super::{
    Cgroup, Events, KernelError, LiveConnection, Memory, attach,
    attached::{self, Attached},
    bypass::BypassMap,
    cgroup, connections, lock, log, mark,
    names::NamesMap,
    overflow::{self, OverflowMaps},
    pins::Pins,
    preflight,
    record::Record,
    recount::{self, Recount},
    syscall,
    tables::{self, StrategyMaps},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/idlefirst.bpf.o"));

/// Where to work.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cgroup whose processes are balanced; found if unset.
    pub cgroup: Option<PathBuf>,
    /// Directory on a BPF file system for the agent's pins.
    pub pin_path: PathBuf,
}

/// A program as `/version` and the metrics show it.
#[derive(Clone, Debug)]
pub struct ProgramInfo {
    /// Its name.
    pub name: &'static str,
    /// The kernel's id for it.
    pub id: u32,
    /// Hash of its instructions, as `bpftool` shows it.
    pub tag: String,
    /// Time spent in it; zero unless `kernel.bpf_stats_enabled` is set.
    pub run_time: Duration,
    /// Runs counted in that time.
    pub run_count: u64,
}

/// The loaded kernel side. Once it is attached it outlives this value and the agent; see
/// [`super::uninstall`].
pub struct Kernel {
    memory: Memory,
    recount: Recount,
    frontends: Mutex<HashMap<MapData, [u32; 5], u32>>,
    counters: Mutex<PerCpuArray<MapData, ServiceCounters>>,
    faults: PerCpuArray<MapData, u64>,
    decision_time: PerCpuArray<MapData, u64>,
    agent: Mutex<Array<MapData, Record<AgentState>>>,
    overflow: OverflowMaps,
    strategies: StrategyMaps,
    bypass: BypassMap,
    names: NamesMap,
    events: Mutex<Option<RingBuf<MapData>>>,
    ebpf: Mutex<Ebpf>,
    /// What sees responses, while it is attached.
    measuring: Mutex<Option<CgroupSkbLink>>,
    /// Possible CPUs: values of a per-CPU map.
    cpus: usize,
    cgroup_path: PathBuf,
    cgroup: File,
    netns: File,
    netns_cookie: u64,
    _locks: Vec<File>,
    pins: Mutex<Pins>,
    attached: Attached,
}

impl Kernel {
    /// Checks the ground, claims cgroup and pin path, loads programs and maps.
    /// Nothing is attached yet: see [`Kernel::attach`].
    ///
    /// # Errors
    /// Each says what is missing and what to do; nothing is left behind.
    pub fn load(options: &Options) -> Result<Self, KernelError> {
        preflight::check()?;
        let cgroup_path = match &options.cgroup {
            Some(path) => path.clone(),
            None => cgroup::find_unified()?,
        };
        let cgroup = cgroup::open(&cgroup_path)?;
        let locks = lock::hierarchy(&cgroup, &cgroup_path)?;
        let pins = Pins::claim(&options.pin_path)?;
        mark::check(&cgroup_path, &options.pin_path)?;
        let netns = overflow::own_netns()?;
        attach::check_places(&pins, &netns, &cgroup, &cgroup_path)?;

        let multipath = u8::from(preflight::has_multipath());
        let mut loader = EbpfLoader::new();
        loader.override_global("MULTIPATH", &multipath, true);
        pins.bind(&mut loader);
        let mut ebpf = loader.load(OBJECT).map_err(Box::new)?;
        attach::load(&mut ebpf)?;
        log::start(&mut ebpf);
        let fd = |name| map_data(&ebpf, name).map(|data| data.fd().as_fd());
        let duplicate = |name| {
            fd(name)?
                .try_clone_to_owned()
                .map_err(KernelError::system("duplicating the descriptor of a map"))
        };
        let memory = Memory::of(
            duplicate(maps::SERVICES)?,
            duplicate(maps::LEAVES)?,
            duplicate(maps::BACKENDS)?,
        );
        let recount = Recount::of(duplicate(maps::RECOUNT)?);
        let (tables, affinity) = (duplicate(maps::TABLES)?, duplicate(maps::AFFINITY)?);
        Ok(Self {
            memory,
            recount,
            frontends: Mutex::new(typed(take(&mut ebpf, maps::FRONTENDS)?, maps::FRONTENDS)?),
            counters: Mutex::new(typed(take(&mut ebpf, maps::COUNTERS)?, maps::COUNTERS)?),
            faults: typed(take(&mut ebpf, maps::FAULTS)?, maps::FAULTS)?,
            decision_time: typed(take(&mut ebpf, maps::DECISION_TIME)?, maps::DECISION_TIME)?,
            agent: Mutex::new(typed(take(&mut ebpf, maps::AGENT)?, maps::AGENT)?),
            overflow: OverflowMaps {
                flows: Mutex::new(typed(
                    take(&mut ebpf, maps::OVERFLOW_FLOWS)?,
                    maps::OVERFLOW_FLOWS,
                )?),
                listeners: Mutex::new(typed(
                    take(&mut ebpf, maps::OVERFLOW_SOCK)?,
                    maps::OVERFLOW_SOCK,
                )?),
            },
            strategies: StrategyMaps {
                tables,
                listed: Mutex::new(tables::another(affinity)?),
                affinity: Mutex::new(typed(take(&mut ebpf, maps::AFFINITY)?, maps::AFFINITY)?),
            },
            bypass: BypassMap(Mutex::new(typed(
                take(&mut ebpf, maps::BYPASS)?,
                maps::BYPASS,
            )?)),
            names: NamesMap(Mutex::new(typed(
                take(&mut ebpf, maps::NAMES)?,
                maps::NAMES,
            )?)),
            events: Mutex::new(Some(typed(take(&mut ebpf, maps::EVENTS)?, maps::EVENTS)?)),
            ebpf: Mutex::new(ebpf),
            measuring: Mutex::new(None),
            cpus: aya::util::nr_cpus()
                .map_err(|(_, error)| KernelError::system("counting CPUs")(error))?,
            cgroup_path,
            cgroup,
            netns,
            netns_cookie: overflow::own_netns_cookie().map_err(KernelError::system(
                "reading the network namespace's cookie",
            ))?,
            _locks: locks,
            pins: Mutex::new(pins),
            attached: Attached::default(),
        })
    }

    /// Whether an earlier agent's programs have been steering all the while, and its maps are in
    /// use.
    pub fn takes_over(&self) -> bool {
        held(&self.pins).is_earlier
    }

    /// Attaches the programs, in place of an earlier agent's if there are any: from here on connects
    /// are steered, whether the agent lives or not.
    ///
    /// # Errors
    /// If the kernel or a program of someone else forbids it.
    pub fn attach(&self) -> Result<(), KernelError> {
        let mut pins = held(&self.pins);
        attach::attach(
            &held(&self.ebpf),
            &pins,
            &self.netns,
            &self.cgroup,
            &self.cgroup_path,
        )?;
        pins.keep();
        let ebpf = held(&self.ebpf);
        self.attached.note(&ebpf);
        let program = ebpf.program(attach::CONNECT).map(Program::info);
        if let Some(Ok(info)) = program {
            mark::put(&self.cgroup, pins.path(), info.id());
        }
        Ok(())
    }

    /// The clock by which the programs note times.
    pub fn now(&self) -> Duration {
        syscall::monotonic_time()
    }

    /// Whether the cgroup is still there, and not another of its name.
    pub fn has_cgroup(&self) -> bool {
        attached::is_at(&self.cgroup, &self.cgroup_path)
    }

    /// Whether all programs are still attached to it: their pins may have been removed, or they
    /// themselves detached.
    pub fn is_attached(&self) -> bool {
        self.attached.are_on(&self.cgroup)
    }

    /// The cgroup that the programs are attached to.
    pub fn cgroup_path(&self) -> &std::path::Path {
        &self.cgroup_path
    }

    /// Services, leaves and backends, shared with the programs.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Lets a frontend lead to a service, replacing where it led before.
    ///
    /// # Errors
    /// If the map is full or cannot be written.
    pub fn put_frontend(
        &self,
        frontend: FrontendKey,
        leads_to: LeadsTo,
    ) -> Result<(), KernelError> {
        held(&self.frontends)
            .insert(frontend.0, leads_to.0, 0)
            .map_err(KernelError::map("write to", maps::FRONTENDS))
    }

    /// Stops steering a frontend; fine if it was not steered.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn remove_frontend(&self, frontend: FrontendKey) -> Result<(), KernelError> {
        match held(&self.frontends).remove(&frontend.0) {
            Err(error) if !overflow::is_absent(&error) => {
                Err(KernelError::map("remove from", maps::FRONTENDS)(error))
            }
            _ => Ok(()),
        }
    }

    /// Notes what a service's id stands for.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn put_name(&self, service: u32, name: &str) -> Result<(), KernelError> {
        self.names.put(service, name)
    }

    /// What services' ids stand for, or stood for last.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn names(&self) -> Result<Vec<(u32, String)>, KernelError> {
        self.names.all()
    }

    /// Every frontend and where it leads.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn frontends(&self) -> Result<Vec<(FrontendKey, LeadsTo)>, KernelError> {
        held(&self.frontends)
            .iter()
            .map(|entry| entry.map(|(key, leads_to)| (FrontendKey(key), LeadsTo(leads_to))))
            .collect::<Result<_, _>>()
            .map_err(KernelError::map("read", maps::FRONTENDS))
    }

    /// A service's counters, summed over CPUs.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counters(&self, service: u32) -> Result<ServiceCounters, KernelError> {
        let rows = held(&self.counters)
            .get(&service, 0)
            .map_err(KernelError::map("read", maps::COUNTERS))?;
        let mut sum = ServiceCounters::default();
        for row in rows.iter() {
            for (total, count) in sum.iter_mut().zip(row) {
                *total += count;
            }
        }
        Ok(sum)
    }

    /// Starts a service's counters at 0.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn reset_counters(&self, service: u32) -> Result<(), KernelError> {
        let zeros = PerCpuValues::try_from(vec![ServiceCounters::default(); self.cpus])
            .map_err(KernelError::system("counting CPUs"))?;
        held(&self.counters)
            .set(service, zeros, 0)
            .map_err(KernelError::map("write to", maps::COUNTERS))
    }

    /// Every fault's name and count.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn faults(&self) -> Result<Vec<(&'static str, u64)>, KernelError> {
        FAULTS
            .iter()
            .map(|(fault, name)| Ok((*name, sum(&self.faults, *fault as u32, maps::FAULTS)?)))
            .collect()
    }

    /// Counts of the decision-time histogram, by [`histogram::bucket`].
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn decision_time(&self) -> Result<Vec<u64>, KernelError> {
        (0..histogram::BUCKETS)
            .map(|bucket| sum(&self.decision_time, bucket, maps::DECISION_TIME))
            .collect()
    }

    /// Changes what the programs know about the agent.
    ///
    /// # Errors
    /// If the map cannot be read or written.
    pub fn change_agent_state(
        &self,
        change: impl FnOnce(&mut AgentState),
    ) -> Result<(), KernelError> {
        let mut agent = held(&self.agent);
        let Record(mut state) = agent
            .get(&0, 0)
            .map_err(KernelError::map("read", maps::AGENT))?;
        change(&mut state);
        agent
            .set(0, Record(state), 0)
            .map_err(KernelError::map("write to", maps::AGENT))
    }

    /// Has connections from these cgroups, and from those below, left alone; and from no others.
    /// Cgroups that the programs have no room for, or that are too deep, are given back.
    ///
    /// # Errors
    /// If the maps cannot be written.
    pub fn bypass(&self, cgroups: &BTreeSet<Cgroup>) -> Result<Vec<Cgroup>, KernelError> {
        let (levels, left_out) = self.bypass.put(cgroups)?;
        self.change_agent_state(|state| state.bypass_levels = levels)?;
        Ok(left_out)
    }

    /// The ids of the cgroups whose connections are left alone.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn bypassing(&self) -> Result<Vec<u64>, KernelError> {
        self.bypass.ids()
    }

    /// What the programs know about the agent.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn agent_state(&self) -> Result<AgentState, KernelError> {
        let state = held(&self.agent)
            .get(&0, 0)
            .map_err(KernelError::map("read", maps::AGENT))?;
        Ok(*state)
    }

    /// The cookie of the network namespace that the agent works in.
    pub fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    /// Lets connections that the programs send to the agent arrive at this listening socket. It
    /// must be in the agent's network namespace, and is forgotten when it is closed.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn set_listener(&self, is_v4: bool, listener: &impl AsRawFd) -> Result<(), KernelError> {
        self.overflow.set_listener(is_v4, listener)
    }

    /// Takes over a connection that the programs sent to the agent, by its client's address.
    /// `None` if they did not, or if the client is gone already. The caller has its count in the
    /// service's `waiting` word from here on.
    ///
    /// # Errors
    /// If the map cannot be used.
    pub fn claim_flow(&self, client: SocketAddr) -> Result<Option<FlowTarget>, KernelError> {
        self.overflow.claim(client)
    }

    /// Every connection that is on its way to the agent: where it comes from, what it dialled, and
    /// when.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn flows(&self) -> Result<Vec<(SocketAddr, FlowTarget)>, KernelError> {
        self.overflow.flows()
    }

    /// Gives services their tables of positions, in place of those they had. Each swap is atomic.
    ///
    /// Slow: the kernel waits until no program can still see the old table.
    ///
    /// # Errors
    /// If the kernel has no memory for them.
    pub fn put_tables(&self, tables: Vec<(u32, Vec<u64>)>) -> Result<(), KernelError> {
        self.strategies.put(&tables)?;
        for (service, words) in tables {
            self.memory.keep_table(service, words);
        }
        Ok(())
    }

    /// What a client is bound to, lapsed or not.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn bound(&self, binding: Binding) -> Result<Option<Bound>, KernelError> {
        self.strategies.bound(binding)
    }

    /// Binds a client to a backend.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn bind(&self, binding: Binding, bound: Bound) -> Result<(), KernelError> {
        self.strategies.bind(binding, bound)
    }

    /// Every client that is bound to a backend, lapsed or not.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn bindings(&self) -> Result<Vec<(Binding, Bound)>, KernelError> {
        self.strategies.bindings()
    }

    /// Has the programs see first bytes of responses, or not.
    ///
    /// # Errors
    /// If the kernel or a program of someone else forbids it.
    pub fn measure(&self, is_on: bool) -> Result<(), KernelError> {
        let mut link = held(&self.measuring);
        if !is_on {
            *link = None;
        } else if link.is_none() {
            let mut ebpf = held(&self.ebpf);
            *link = Some(attach::measure(&mut ebpf, &self.cgroup, &self.cgroup_path)?);
        }
        Ok(())
    }

    /// What the programs tell, for the one who asks first; `None` for anyone else.
    ///
    /// # Errors
    /// If the ring buffer cannot be waited for. Must be called inside a runtime.
    pub fn events(&self) -> Result<Option<Events>, KernelError> {
        held(&self.events).take().map(Events::new).transpose()
    }

    /// Every steered socket that is alive, in every network namespace.
    ///
    /// # Errors
    /// If the kernel refuses the iterator.
    pub fn connections(&self) -> Result<Vec<LiveConnection>, KernelError> {
        connections::read(self.iterate(attach::DUMP)?)
            .map_err(KernelError::system("reading the iterator over CONNECTIONS"))
    }

    /// How many live connections hold a slot of each of these backends, in every network namespace.
    /// Who takes or gives back a slot meanwhile may or may not be counted; all others are, once.
    ///
    /// # Errors
    /// If the kernel refuses the iterator.
    pub fn recount(&self, backends: &[u32]) -> Result<Vec<u64>, KernelError> {
        self.recount
            .count(backends, || self.iterate(attach::RECOUNT))
    }

    /// Waits until every program has ended that runs now: no slot is taken, or given back, half any
    /// more that was at the call.
    pub fn let_programs_end(&self) {
        recount::let_programs_end();
    }

    fn iterate(&self, program: &'static str) -> Result<File, KernelError> {
        let ebpf = held(&self.ebpf);
        let fd = attach::iterator(&ebpf, program)?.fd();
        let fd = fd.map_err(|source| KernelError::Load {
            program,
            source: Box::new(source),
        })?;
        let map = map_data(&ebpf, maps::CONNECTIONS)?;
        syscall::iterate_map(fd.as_fd(), map.fd().as_fd())
            .map_err(KernelError::system("opening the iterator over CONNECTIONS"))
    }

    /// The programs, with their tags and run times.
    pub fn programs(&self) -> Vec<ProgramInfo> {
        let ebpf = held(&self.ebpf);
        attach::all()
            .filter_map(|name| program_info(name, ebpf.program(name)?))
            .collect()
    }
}

fn program_info(name: &'static str, program: &Program) -> Option<ProgramInfo> {
    let info = program.info().ok()?;
    let fd = program.fd().ok()?.as_fd().as_raw_fd();
    // aya does not show run times; the descriptor's own file does (proc(5)).
    let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let number = |key| {
        fdinfo_field(&fdinfo, key)
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    };
    Some(ProgramInfo {
        name,
        id: info.id(),
        tag: fdinfo_field(&fdinfo, "prog_tag:")
            .unwrap_or_default()
            .to_owned(),
        run_time: Duration::from_nanos(number("run_time_ns:")),
        run_count: number("run_cnt:"),
    })
}

fn fdinfo_field<'f>(fdinfo: &'f str, key: &str) -> Option<&'f str> {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .map(str::trim)
}

fn sum(
    map: &PerCpuArray<MapData, u64>,
    index: u32,
    name: &'static str,
) -> Result<u64, KernelError> {
    let values = map.get(&index, 0).map_err(KernelError::map("read", name))?;
    Ok(values.iter().sum())
}

fn map_data<'e>(ebpf: &'e Ebpf, name: &'static str) -> Result<&'e MapData, KernelError> {
    match ebpf.map(name) {
        Some(
            Map::Array(data)
            | Map::SkStorage(data)
            | Map::ArrayOfMaps(data)
            | Map::LruHashMap(data),
        ) => Ok(data),
        _ => Err(KernelError::Missing { what: "map", name }),
    }
}

fn typed<T: TryFrom<Map, Error = MapError>>(
    map: Map,
    name: &'static str,
) -> Result<T, KernelError> {
    T::try_from(map).map_err(KernelError::map("use", name))
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, KernelError> {
    ebpf.take_map(name)
        .ok_or(KernelError::Missing { what: "map", name })
}

pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves these handles usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
