//! Gathers the values of every metric from the kernel, the configuration and the agent.

use std::{net::SocketAddr, time::UNIX_EPOCH};

use balancer_common::{
    atomic::{load, load32},
    histogram,
    maps::ABI,
    response,
    service::{NONE, Tables},
    waiting,
};
use prometheus::proto::MetricFamily;

use super::{
    MAX_SHOWN, definition as metric,
    family::Family,
    requests::{self, Requests},
    strategies::{self, Chosen},
    upkeep,
};
use crate::{
    admin::{Context, DecisionTimes, MapName, Tallies, Tally, kernel_release, strategy_in_force},
    health::OTHER,
    kernel::{Kernel, KernelError},
    model::{ServiceName, Strategy},
    occupancy::{BackendIds, BackendState, Names, Occupancy, granted, members},
    source::kubernetes::Watched,
    state::Snapshot,
};

/// Every metric that has a value, in the order of the definitions.
pub(super) fn families(
    context: &Context,
    snapshot: &Snapshot,
) -> Result<Vec<MetricFamily>, KernelError> {
    let kernel = &*context.kernel;
    let (names, ids) = {
        let assignment = context.progress.assignment();
        (Names::of(&assignment), BackendIds::of(&assignment))
    };
    let shown = Shown::of(kernel.memory(), &names, &ids);
    let tallies = Tallies::new(context, &names);
    let services = shown.services.iter();
    let tallied = services
        .map(|service| tallies.of(&service.name))
        .collect::<Result<Vec<_>, _>>()?;
    let decisions = kernel.decision_time()?;
    let requests = shown
        .services
        .iter()
        .zip(&tallied)
        .map(|(service, tally)| Requests {
            name: &service.name,
            tally,
            queue_size: service.queue_size,
        });
    let (openfaas, requests) =
        requests::Families::of(requests, &DecisionTimes::new(&decisions)).split();
    let failovers = context.journal.failovers();
    let chosen = shown.services.iter().map(|service| Chosen {
        name: &service.name,
        strategy: service.strategy,
        failovers: failovers.of(&service.name),
    });
    let before = about_agent(context)
        .into_iter()
        .chain(about_all(&shown))
        .chain(openfaas)
        .filter_map(Family::finish);
    let after = about_services(&shown.services, &tallied)
        .into_iter()
        .chain(strategies::families(chosen))
        .chain(requests)
        .chain(about_backends(&shown))
        .chain(upkeep::families(context))
        .chain(about_programs(kernel, &decisions)?)
        .chain(about_maps(kernel, &shown)?)
        .chain(about_configuration(snapshot, context.progress.generation()))
        .chain([about_watches(&context.watched), omitted(&shown)])
        .filter_map(Family::finish);
    // Probes keep their histogram themselves, with buckets and labels of its own.
    Ok(before
        .chain(context.probes.durations())
        .chain(after)
        .collect())
}

/// What is read from memory, without a system call.
struct Shown {
    services: Vec<ShownService>,
    backends: Vec<ShownBackend>,
    all_services: usize,
    all_backends: usize,
    /// Services that have a table of positions.
    tables: usize,
    /// Backends in no service any more whose ids are not free yet.
    leaving: usize,
    leaves: u32,
    states: [u32; BackendState::ALL.len()],
    /// Services for which anyone waits.
    active_queues: u32,
    /// Of the backends that are not shown and have a limit: slots taken, and slots granted.
    other_slots: (u64, u64),
}

struct ShownService {
    name: ServiceName,
    inflight: u64,
    queue_size: u32,
    /// The one in force.
    strategy: Option<Strategy>,
    states: [u32; BackendState::ALL.len()],
}

struct ShownBackend {
    address: SocketAddr,
    inflight: u64,
    granted: Option<u32>,
    steered: u64,
    /// In nanoseconds; none if it was never measured.
    response_time_ns: Option<u64>,
}

impl Shown {
    fn of<T: Tables>(tables: &T, names: &Names, ids: &BackendIds) -> Self {
        let records = |ids: &[(SocketAddr, u32)]| {
            let found = ids.iter();
            found
                .filter_map(|(address, id)| Some((*address, tables.backend(*id)?)))
                .collect()
        };
        let assigned: Vec<_> = records(&ids.assigned);
        let leaving: Vec<_> = records(&ids.leaving);
        let draining = leaving.iter().filter(|(_, record)| record.inflight() > 0);
        let states = assigned.iter().map(|(_, record)| BackendState::of(record));
        let others = assigned.iter().skip(MAX_SHOWN);
        let others = others.filter_map(|(_, record)| Some((record.inflight(), granted(record)?)));
        let by_name = names.by_name();
        let waits = |id| {
            let record = tables.service(id);
            record.is_some_and(|record| waiting::count(&record.waiting) != 0)
        };
        Self {
            all_services: names.len(),
            all_backends: assigned.len(),
            tables: by_name
                .iter()
                .filter(|(id, _)| tables.table_word(*id, 0).is_some())
                .count(),
            leaving: leaving.len(),
            leaves: by_name.iter().map(|(id, _)| leaves(tables, *id)).sum(),
            states: tally(states.chain(draining.map(|_| BackendState::Draining))),
            active_queues: by_name.iter().filter(|(id, _)| waits(*id)).count() as u32,
            other_slots: others.fold((0, 0), |(taken, all), (inflight, granted)| {
                (taken + inflight, all + u64::from(granted))
            }),
            services: by_name
                .into_iter()
                .take(MAX_SHOWN)
                .map(|(id, named)| ShownService {
                    name: named.name.clone(),
                    inflight: Occupancy::of(tables, id).inflight,
                    queue_size: tables
                        .service(id)
                        .map_or(0, |record| load32(&record.queue_size)),
                    strategy: strategy_in_force(tables, id),
                    states: tally(members(tables, id).map(BackendState::of)),
                })
                .collect(),
            backends: assigned
                .into_iter()
                .take(MAX_SHOWN)
                .map(|(address, record)| ShownBackend {
                    address,
                    inflight: record.inflight(),
                    granted: granted(record),
                    steered: load(&record.steered),
                    response_time_ns: match response::read(record) {
                        (_, 0) => None,
                        (average_ns, _) => Some(average_ns),
                    },
                })
                .collect(),
        }
    }
}

fn leaves<T: Tables>(tables: &T, service: u32) -> u32 {
    let record = tables.service(service);
    let present = record.into_iter().flat_map(|record| &record.leaves);
    present.filter(|leaf| load32(leaf) != NONE).count() as u32
}

fn tally(states: impl Iterator<Item = BackendState>) -> [u32; BackendState::ALL.len()] {
    let mut counts = [0; BackendState::ALL.len()];
    for state in states {
        counts[state as usize] += 1;
    }
    counts
}

fn about_agent(context: &Context) -> Vec<Family> {
    let mut build = Family::new(metric::BUILD_INFO);
    build.push(
        &[
            env!("CARGO_PKG_VERSION"),
            &ABI.to_string(),
            &kernel_release(),
        ],
        1.0,
    );
    let ready = *context.ready.borrow() && context.progress.generation() > 0;
    vec![
        build,
        Family::single(metric::READY, f64::from(u8::from(ready))),
        Family::single(metric::UPTIME, context.started.elapsed().as_secs_f64()),
    ]
}

fn about_all(shown: &Shown) -> Vec<Family> {
    let mut backends = Family::new(metric::BACKENDS);
    for (state, count) in BackendState::ALL.iter().zip(shown.states) {
        backends.push(&[state.as_str()], f64::from(count));
    }
    vec![
        Family::single(metric::SERVICES, shown.all_services as f64),
        backends,
        Family::single(metric::ACTIVE_QUEUES, f64::from(shown.active_queues)),
    ]
}

fn about_services(services: &[ShownService], tallied: &[Tally]) -> Vec<Family> {
    let mut backends = Family::new(metric::SERVICE_BACKENDS);
    let mut inflight = Family::new(metric::SERVICE_INFLIGHT);
    let mut connects = Family::new(metric::CONNECTS);
    let mut failures = Family::new(metric::CONNECT_FAILURES);
    let mut ejections = Family::new(metric::EJECTIONS);
    let mut released = Family::new(metric::SLOTS_RELEASED);
    for (service, tally) in services.iter().zip(tallied) {
        let (namespace, name) = (service.name.namespace.as_ref(), service.name.name.as_ref());
        for (state, count) in BackendState::ALL.iter().zip(service.states) {
            backends.push(&[namespace, name, state.as_str()], f64::from(count));
        }
        inflight.push(&[namespace, name], service.inflight as f64);
        let counts = tally.counts;
        for (result, count) in [
            ("idle", counts.idle),
            ("shared", counts.shared),
            ("trial", counts.trials),
            ("over_admitted", counts.over_admitted),
            ("sent", counts.sent),
            ("queue_full", counts.queue_full),
            ("rate_limited", counts.rate_limited),
            ("agent_gone", counts.agent_gone),
            ("no_backends", counts.no_backends),
        ] {
            connects.push(&[namespace, name, result], count as f64);
        }
        failures.push(&[namespace, name], counts.connect_failures as f64);
        ejections.push(&[namespace, name], counts.ejections as f64);
        released.push(&[namespace, name], counts.released as f64);
    }
    vec![backends, inflight, connects, failures, ejections, released]
}

fn about_backends(shown: &Shown) -> Vec<Family> {
    let mut inflight = Family::new(metric::BACKEND_INFLIGHT);
    let mut granted = Family::new(metric::BACKEND_GRANTED);
    let mut utilisation = Family::new(metric::BACKEND_UTILISATION);
    let mut steered = Family::new(metric::BACKEND_STEERED);
    let mut response_time = Family::new(metric::BACKEND_RESPONSE_TIME);
    for backend in &shown.backends {
        let address = backend.address.to_string();
        inflight.push(&[&address], backend.inflight as f64);
        if let Some(slots) = backend.granted {
            granted.push(&[&address], f64::from(slots));
            utilisation.push(&[&address], ratio(backend.inflight, u64::from(slots)));
        }
        steered.push(&[&address], backend.steered as f64);
        if let Some(average_ns) = backend.response_time_ns {
            response_time.push(&[&address], average_ns as f64 * 1e-9);
        }
    }
    let (taken, all) = shown.other_slots;
    if all != 0 {
        utilisation.push(&[OTHER], ratio(taken, all));
    }
    vec![inflight, granted, utilisation, steered, response_time]
}

/// A part of a whole; of no whole, everything.
fn ratio(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 1.0,
        _ => part as f64 / whole as f64,
    }
}

fn about_programs(kernel: &Kernel, decisions: &[u64]) -> Result<Vec<Family>, KernelError> {
    let mut faults = Family::new(metric::FAULTS);
    for (reason, count) in kernel.faults()? {
        faults.push(&[reason], count as f64);
    }
    let mut seconds = Family::new(metric::PROGRAM_RUN_SECONDS);
    let mut runs = Family::new(metric::PROGRAM_RUNS);
    for program in kernel.programs() {
        seconds.push(&[program.name], program.run_time.as_secs_f64());
        runs.push(&[program.name], program.run_count as f64);
    }
    Ok(vec![faults, decision(decisions), seconds, runs])
}

/// One bound per power of two, of the four that the kernel tells apart.
pub(super) fn decision(counts: &[u64]) -> Family {
    const NANOSECOND: f64 = 1e-9;
    let mut buckets = Vec::new();
    let (mut cumulative, mut above, mut sum_ns) = (0, 0, 0.0);
    for (index, count) in (0u32..).zip(counts) {
        let from = histogram::lower_bound_ns(index);
        if index + 1 == histogram::BUCKETS {
            above = *count;
            sum_ns += *count as f64 * from as f64;
            break;
        }
        // Durations are whole nanoseconds, so the highest one in the bucket is one below the next.
        let highest = histogram::lower_bound_ns(index + 1) - 1;
        cumulative += count;
        sum_ns += *count as f64 * (from + highest) as f64 / 2.0;
        let next = highest + 1;
        if next.is_power_of_two() && next >= 64 {
            buckets.push((next as f64 * NANOSECOND, cumulative));
        }
    }
    let mut family = Family::new(metric::DECISION);
    family.push_histogram(&[], &buckets, cumulative + above, sum_ns * NANOSECOND);
    family
}

fn about_maps(kernel: &Kernel, shown: &Shown) -> Result<Vec<Family>, KernelError> {
    let mut entries = Family::new(metric::MAP_ENTRIES);
    let mut capacity = Family::new(metric::MAP_CAPACITY);
    for (map, used) in [
        (MapName::Frontends, kernel.frontends()?.len()),
        (MapName::Services, shown.all_services),
        (MapName::Leaves, shown.leaves as usize),
        (MapName::Backends, shown.all_backends + shown.leaving),
        (MapName::Tables, shown.tables),
        (MapName::Affinity, kernel.bindings()?.len()),
        (MapName::OverflowFlows, kernel.flows()?.len()),
    ] {
        entries.push(&[map.as_str()], used as f64);
        capacity.push(
            &[map.as_str()],
            map.capacity().map_or(f64::INFINITY, f64::from),
        );
    }
    Ok(vec![entries, capacity])
}

fn about_configuration(snapshot: &Snapshot, in_kernel: u64) -> Vec<Family> {
    let mut generation = Family::new(metric::CONFIG_GENERATION);
    generation.push(&["accepted"], snapshot.generation as f64);
    generation.push(&["in_kernel"], in_kernel as f64);
    let since_1970 = snapshot
        .accepted_at
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    vec![
        generation,
        Family::single(metric::CONFIG_ACCEPTED, since_1970.as_secs_f64()),
        Family::single(metric::CONFIG_REJECTED, snapshot.rejected as f64),
    ]
}

pub(super) fn about_watches(watched: &Watched) -> Family {
    let mut up = Family::new(metric::API_WATCH_UP);
    for (kind, is_up) in watched.by_kind() {
        up.push(&[kind], f64::from(u8::from(is_up)));
    }
    up
}

fn omitted(shown: &Shown) -> Family {
    let mut omitted = Family::new(metric::OMITTED);
    omitted.push(
        &["service"],
        (shown.all_services - shown.services.len()) as f64,
    );
    omitted.push(
        &["backend"],
        (shown.all_backends - shown.backends.len()) as f64,
    );
    omitted
}
