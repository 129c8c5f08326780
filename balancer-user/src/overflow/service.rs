//! Setting the overflow path up, and what it needs of the rest of the agent.

use std::{collections::HashMap, sync::Arc, thread::JoinHandle, time::Duration};

use balancer_common::counter::ServiceCounter;
use tokio::{sync::watch, time::MissedTickBehavior};

use super::{
    Departures, Directory, Pulses, Queues, Sent, View,
    gate::Gate,
    notices::{Listener, Notices},
    workers::{self, Listeners, OverflowError, Ports},
};
use crate::{
    kernel::{Kernel, KernelError},
    reconcile::Progress,
    state::Snapshot,
};

/// How often sizes and service times are brought up to date.
const SETTLE_EVERY: Duration = Duration::from_millis(200);
/// After this a connection on its way is lost: the second and third tries of its first packet,
/// after 1 and 3 s, are over (RFC 6298).
const LOST_AFTER: Duration = Duration::from_secs(5);
/// Of these, every so many-th updates the service times.
const SERVICE_TIME_EVERY: u32 = 5;

/// The running overflow path. Ends when it is dropped, or by [`Overflow::stop`].
pub struct Overflow {
    queues: Arc<Queues>,
    ports: Ports,
    pulses: Pulses,
    stop: watch::Sender<Option<Duration>>,
    workers: Vec<JoinHandle<()>>,
    /// One of a group, which stands for all of it. As long as it is open the programs know that the
    /// agent lives, though nobody may listen any more.
    sign: Listeners,
}

impl Overflow {
    /// Opens the listeners and starts so many workers. No connection reaches them before
    /// [`Overflow::publish`].
    ///
    /// # Errors
    /// If a listener or a thread cannot be had.
    pub fn start(
        kernel: &Arc<Kernel>,
        queues: Arc<Queues>,
        workers: usize,
        listener: Listener,
    ) -> Result<Self, OverflowError> {
        let (listeners, ports) = workers::listen(workers)?;
        let departures = Departures::default();
        let stop = watch::Sender::new(None);
        let mut notices = Some(Notices {
            kernel: kernel.clone(),
            queues: queues.clone(),
            departures: departures.clone(),
            listener,
        });
        let pulses = Pulses::new(listeners.len());
        let sign = listeners[0].share()?;
        let mut running = Vec::new();
        for (number, listeners) in listeners.into_iter().enumerate() {
            let (kernel, queues) = (kernel.clone(), queues.clone());
            let departures = departures.clone();
            let gate = move |proxy, shutdown| Gate {
                kernel,
                queues,
                departures,
                proxy,
                shutdown,
            };
            // One of them hears what the programs report: on its own thread a waiter wakes fastest.
            let notices = notices.take();
            running.push(workers::start(
                number,
                listeners,
                gate,
                notices,
                pulses.clone(),
                stop.subscribe(),
            )?);
        }
        Ok(Self {
            queues,
            ports,
            pulses,
            stop,
            workers: running,
            sign,
        })
    }

    /// Lets connections reach the listeners, and the programs see that the agent lives. Until they know
    /// its ports they must know that it is closed.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn publish(&self, kernel: &Kernel) -> Result<(), KernelError> {
        self.sign.publish(kernel)
    }

    /// The ports that the programs send connections to.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Whether its threads are alive.
    pub fn pulses(&self) -> &Pulses {
        &self.pulses
    }

    /// The queues.
    pub fn queues(&self) -> &Arc<Queues> {
        &self.queues
    }

    /// Ends it. What is in flight may finish within `patience`, and those who wait may still get a
    /// slot. The programs must have been told to send nothing more.
    pub async fn stop(mut self, patience: Duration) {
        self.stop.send_replace(Some(patience));
        let workers = std::mem::take(&mut self.workers);
        let joined = tokio::task::spawn_blocking(move || {
            for worker in workers {
                if worker.join().is_err() {
                    tracing::error!("an overflow thread panicked");
                }
            }
        });
        let _ = joined.await;
    }
}

/// Keeps sizes and service times up to date, for as long as the runtime lives.
pub async fn settle(kernel: Arc<Kernel>, queues: Arc<Queues>) {
    let mut ticks = tokio::time::interval(SETTLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut service_times = ServiceTimes::default();
    for number in 0u32.. {
        ticks.tick().await;
        queues.settle();
        if number.is_multiple_of(SERVICE_TIME_EVERY) {
            service_times.settle(&kernel, &queues);
            if let Err(error) = withdraw_lost(&kernel, &queues) {
                tracing::warn!(%error, "connections that got lost on their way stay counted");
            }
        }
    }
}

/// Withdraws connections that were sent long ago and never came: their packets are dropped
/// somewhere. Their clients go on trying for a while, and are refused then.
fn withdraw_lost(kernel: &Kernel, queues: &Arc<Queues>) -> Result<(), KernelError> {
    let now = kernel.now();
    for (client, target) in kernel.flows()? {
        let sent_at = Duration::from_nanos(target.steered_at_ns);
        if now.saturating_sub(sent_at) < LOST_AFTER {
            continue;
        }
        if let Some(target) = kernel.claim_flow(client)? {
            drop(Sent::new(queues.clone(), target.service));
            tracing::warn!(%client, "a connection sent to the agent never came; is its network namespace kept from the address of agent.overflow?");
        }
    }
    Ok(())
}

/// What the programs had counted at the last look: slots given back, and for how long they had
/// been held.
#[derive(Debug, Default)]
struct ServiceTimes(HashMap<u32, (u64, u64)>);

impl ServiceTimes {
    fn settle(&mut self, kernel: &Kernel, queues: &Queues) {
        let mut now = HashMap::new();
        for queue in queues.all() {
            let Ok(counters) = kernel.counters(queue.service()) else {
                continue;
            };
            let counted = (
                counters[ServiceCounter::Released as usize],
                counters[ServiceCounter::HeldNs as usize],
            );
            let before = self.0.get(&queue.service()).copied().unwrap_or(counted);
            queue.figures().settle_service_time(
                counted.0.saturating_sub(before.0),
                Duration::from_nanos(counted.1.saturating_sub(before.1)),
            );
            now.insert(queue.service(), counted);
        }
        self.0 = now;
    }
}

/// Services as the reconciler has numbered them, with the settings in force.
pub struct Services {
    /// What stands under which id.
    pub progress: Progress,
    /// What is wanted.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl Directory for Services {
    fn generation(&self) -> u64 {
        self.snapshots.borrow().generation
    }

    fn look_up(&self, service: u32) -> Option<View> {
        let snapshot = self.snapshots.borrow().clone();
        let assignment = self.progress.assignment();
        let name = assignment.name_of(service)?;
        snapshot.desired.service(name).map(View::from)
    }
}
