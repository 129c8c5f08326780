//! One simulation: a load goes through the code that selects backends in the kernel, in virtual
//! time. Pure: nothing sleeps, and the same ground and load always come to the same.
//!
//! A connection arrives and takes a slot, or else waits in the overflow queue, or is refused, as
//! the programs and the agent have it: while anyone waits, newcomers join the queue, and a slot
//! that is given back goes to the oldest waiter. Called by `cases`.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use anyhow::{Context, Result, ensure};
use balancer_common::{
    atomic,
    plain::Plain,
    response,
    select::{self, Taken},
    service::{Service, Strategy, Tables},
    slot::Side,
    waiting,
};

use super::{
    figures::{Figures, Tally},
    ground::{Ground, SERVICE},
    load::{Arrival, Load},
};

/// Virtual time begins here, since 0 means "never" in the records.
const BEGIN_NS: u64 = 1_000_000_000;

/// The first of so many parts of the requests is not counted: backends are empty at the beginning.
const PARTS: u64 = 5;

/// Sends a load through a ground. Fails if a limit is exceeded, or a slot or a waiter lost.
pub(super) fn simulate(ground: &Ground, load: &Load) -> Result<Figures> {
    let mut run = Run::new(ground, load)?;
    let mut last_ns = 0;
    for (number, arrival) in (0..).zip(load.arrivals()) {
        last_ns = arrival.at_ns;
        let at_ns = BEGIN_NS + arrival.at_ns;
        run.advance(at_ns)?;
        run.arrive(Request {
            number,
            at_ns,
            arrival,
        })?;
    }
    run.advance(u64::MAX)?;
    run.check_that_all_is_given_back()?;
    Ok(run.tally.figures(ground, last_ns))
}

struct Run<'g> {
    ground: &'g Ground,
    plain: Plain,
    now_ns: u64,
    /// When each lane of each backend is free.
    free_at: Vec<BinaryHeap<Reverse<u64>>>,
    /// Slots that we know to be taken, to check the records by.
    held: Vec<u32>,
    /// By time, then in the order in which they were arranged.
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    arranged: u64,
    waiters: VecDeque<Request>,
    tally: Tally,
}

/// A request under way.
#[derive(Clone, Copy)]
struct Request {
    number: u64,
    at_ns: u64,
    arrival: Arrival,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A backend has answered, and the slot is given back.
    Answered {
        backend: u32,
        /// Which half of the slot word counts it.
        by_agent: bool,
        steered_at_ns: u64,
    },
    /// A waiter's patience ends, if it still waits.
    GaveUp { number: u64 },
}

impl<'g> Run<'g> {
    fn new(ground: &'g Ground, load: &Load) -> Result<Self> {
        let lanes = |count: u32| (0..count).map(|_| Reverse(0)).collect::<BinaryHeap<_>>();
        Ok(Self {
            plain: ground.records(),
            now_ns: BEGIN_NS,
            free_at: ground.backends.iter().map(|b| lanes(b.lanes)).collect(),
            held: vec![0; ground.backends.len()],
            events: BinaryHeap::new(),
            arranged: 0,
            waiters: VecDeque::new(),
            tally: Tally::new(ground.backends.len(), load.requests / PARTS)?,
            ground,
        })
    }

    fn service(&self) -> &Service {
        self.plain.service(SERVICE).expect("there is one service")
    }

    /// Lets everything happen that is due by then.
    fn advance(&mut self, until_ns: u64) -> Result<()> {
        while let Some(Reverse((at_ns, ..))) = self.events.peek()
            && *at_ns <= until_ns
        {
            let Some(Reverse((at_ns, _, event))) = self.events.pop() else {
                break;
            };
            self.set_now(at_ns);
            match event {
                Event::Answered {
                    backend,
                    by_agent,
                    steered_at_ns,
                } => self.answered(backend, by_agent, steered_at_ns)?,
                Event::GaveUp { number } => self.gave_up(number),
            }
        }
        Ok(())
    }

    fn set_now(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.plain.set_now(now_ns);
    }

    /// As the connect programs do it, and behind them the agent with what they send it.
    fn arrive(&mut self, request: Request) -> Result<()> {
        self.set_now(request.at_ns);
        let is_first = waiting::ahead(self.service(), self.now_ns) == 0;
        if is_first && self.take(request, Side::Kernel)? {
            return Ok(());
        }
        let Some(queue) = self.ground.queue else {
            self.tally.refuse(request.number);
            return Ok(());
        };
        if self.waiters.len() >= queue.size {
            self.tally.refuse(request.number);
            return Ok(());
        }
        waiting::join(&self.service().waiting);
        self.waiters.push_back(request);
        // Nobody's patience is endless, but virtual time can end before it.
        let until_ns = self.now_ns.saturating_add(queue.patience_ns);
        if until_ns < u64::MAX {
            let number = request.number;
            self.arrange(until_ns, Event::GaveUp { number });
        }
        Ok(())
    }

    /// Takes a slot, if there is one.
    fn take(&mut self, request: Request, side: Side) -> Result<bool> {
        let client = request.arrival.client;
        match select::choose(&self.plain, SERVICE, client, side) {
            Ok(taken) => self.begin(request, taken, side).map(|()| true),
            Err(_) => {
                self.tally.note_missed(self.could_have_served());
                Ok(false)
            }
        }
    }

    /// Whether a backend that the strategy may use has a slot left.
    fn could_have_served(&self) -> bool {
        let used = self.ground.used_backends();
        let mut all = used.iter().zip(&self.held);
        all.any(|(backend, held)| *held < backend.granted(self.ground.limit))
    }

    fn begin(&mut self, request: Request, taken: Taken, side: Side) -> Result<()> {
        let place = taken.backend as usize;
        let backend = self.ground.backends[place];
        self.held[place] += 1;
        let (held, granted) = (self.held[place], backend.granted(self.ground.limit));
        ensure!(
            held <= granted,
            "backend {place} has {held} slots taken of {granted}"
        );
        if self.is_measured() {
            let record = self
                .plain
                .backend(taken.backend)
                .context("an unknown backend")?;
            response::asked(record, side, self.now_ns);
        }
        let lanes = &mut self.free_at[place];
        let Reverse(free_ns) = lanes.pop().context("a backend without lanes")?;
        let begins_ns = free_ns.max(self.now_ns);
        let ends_ns = begins_ns + request.arrival.work_ns * u64::from(backend.slowness);
        lanes.push(Reverse(ends_ns));
        let (wait_ns, response_ns) = (begins_ns - request.at_ns, ends_ns - request.at_ns);
        self.tally
            .serve(request.number, place, wait_ns, response_ns);
        let answered = Event::Answered {
            backend: taken.backend,
            by_agent: side == Side::Agent,
            steered_at_ns: self.now_ns,
        };
        self.arrange(ends_ns, answered);
        Ok(())
    }

    fn is_measured(&self) -> bool {
        self.ground.strategy == Strategy::LeastResponseTime
    }

    fn answered(&mut self, id: u32, by_agent: bool, steered_at_ns: u64) -> Result<()> {
        let side = if by_agent { Side::Agent } else { Side::Kernel };
        if self.is_measured() {
            let backend = self.plain.backend(id).context("an unknown backend")?;
            response::settled(backend, side);
            response::record(backend, self.now_ns - steered_at_ns, self.now_ns);
        }
        select::give_back(&self.plain, id, side)
            .with_context(|| format!("backend {id} held no slot to give back"))?;
        self.held[id as usize] -= 1;
        while let Some(oldest) = self.waiters.front().copied()
            && self.take(oldest, Side::Agent)?
        {
            self.leave_queue();
        }
        Ok(())
    }

    /// All are equally patient: who gives up is the oldest, or has been served before.
    fn gave_up(&mut self, number: u64) {
        if self.waiters.front().map(|oldest| oldest.number) == Some(number) {
            self.leave_queue();
            self.tally.refuse(number);
        }
    }

    fn leave_queue(&mut self) {
        self.waiters.pop_front();
        waiting::leave(&self.service().waiting);
    }

    fn arrange(&mut self, at_ns: u64, event: Event) {
        self.arranged += 1;
        self.events.push(Reverse((at_ns, self.arranged, event)));
    }

    fn check_that_all_is_given_back(&self) -> Result<()> {
        let waiting = atomic::load(&self.service().waiting);
        ensure!(
            waiting == 0 && self.waiters.is_empty(),
            "all have left, but the word that counts who waits is {waiting:#x}"
        );
        for id in 0..self.held.len() as u32 {
            let backend = self.plain.backend(id).context("an unknown backend")?;
            let word = atomic::load(&backend.inflight);
            ensure!(
                word == 0,
                "all have ended, but backend {id}'s slot word is {word:#x}"
            );
        }
        Ok(())
    }
}
