//! The function server: HTTP/1.1 as a function's watchdog speaks it, which counts what it serves.
//!
//! It does a set amount of work for each request, refuses with 429 what is beyond its own
//! `max_inflight`, and answers `GET /_/health` as it is told to (never counted as served). A request is counted out *before*
//! the first byte of its response is written: whatever a client does after reading its response
//! comes later than that.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::{SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution, Exp1};
use tokio::net::TcpStream;

use crate::{
    netns::Netns,
    server::{Accepting, Counts, Seen, address_of},
};

/// How long a request takes. A request may say so itself: `GET /?work_us=1500`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Always this long.
    Fixed(Duration),
    /// Exponentially distributed with this mean.
    Exponential(Duration),
}

/// How a function answers whoever asks for its health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// With 200.
    #[default]
    Healthy,
    /// With 429, as a function does that serves all it can.
    Busy,
    /// With 503.
    Sick,
    /// Not at all: the asker waits for ever.
    Silent,
}

/// What a function server does.
#[derive(Clone, Debug)]
pub struct FunctionOptions {
    /// Requests served at once; others get 429. 0: no limit.
    pub max_inflight: u32,
    /// The time for one request.
    pub work: Work,
    /// Whether the time is spent computing instead of waiting.
    pub spin: bool,
    /// Of the random work.
    pub seed: u64,
}

impl Default for FunctionOptions {
    fn default() -> Self {
        Self {
            max_inflight: 1,
            work: Work::Fixed(Duration::ZERO),
            spin: false,
            seed: 1,
        }
    }
}

/// A running function server. Its port is closed on drop.
#[derive(Debug)]
pub struct Function {
    address: SocketAddr,
    counts: Arc<Counts>,
    probed: Arc<Probed>,
    accepting: Accepting,
}

struct Server {
    options: FunctionOptions,
    random: Mutex<SmallRng>,
    counts: Arc<Counts>,
    probed: Arc<Probed>,
}

/// What is asked for and about its health.
#[derive(Debug, Default)]
struct Probed {
    health: Mutex<Health>,
    probes: AtomicU64,
}

impl Function {
    /// Starts one inside a namespace.
    pub fn start(netns: &Netns, address: SocketAddr, options: FunctionOptions) -> Result<Self> {
        let listener = netns.listen(address)?;
        let address = address_of(&listener)?;
        let counts = Arc::<Counts>::default();
        let probed = Arc::<Probed>::default();
        let server = Arc::new(Server {
            random: Mutex::new(SmallRng::seed_from_u64(options.seed)),
            options,
            counts: Arc::clone(&counts),
            probed: Arc::clone(&probed),
        });
        let accepting = Accepting::start(listener, Arc::clone(&counts), move |stream| {
            Arc::clone(&server).serve(stream)
        })?;
        Ok(Self {
            address,
            counts,
            probed,
            accepting,
        })
    }

    /// What a client dials.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen since it started or was last [`Function::reset`].
    pub fn seen(&self) -> Seen {
        self.counts.seen()
    }

    /// Counts anew.
    pub fn reset(&self) {
        self.counts.reset();
    }

    /// Changes how it answers whoever asks for its health, from now on.
    pub fn set_health(&self, health: Health) {
        *self.probed.lock() = health;
    }

    /// How often it was asked for its health.
    pub fn probes(&self) -> u64 {
        self.probed.probes.load(Relaxed)
    }

    /// Closes its port and all its connections.
    pub fn stop(mut self) {
        self.accepting.stop();
    }
}

impl Probed {
    async fn answer(&self) -> Response<Full<Bytes>> {
        self.probes.fetch_add(1, Relaxed);
        let health = *self.lock();
        match health {
            Health::Healthy => plain(StatusCode::OK, "healthy\n"),
            Health::Busy => plain(StatusCode::TOO_MANY_REQUESTS, "busy\n"),
            Health::Sick => plain(StatusCode::SERVICE_UNAVAILABLE, "sick\n"),
            Health::Silent => std::future::pending().await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(&request).await) }
        });
        // A client that goes away in the middle is the client's business.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() == "/_/health" {
            return self.probed.answer().await;
        }
        let Some(serving) = self.counts.begin(self.options.max_inflight) else {
            return plain(
                StatusCode::TOO_MANY_REQUESTS,
                "this function is serving all it can\n",
            );
        };
        let asked = request.uri().query().map_or(Ok(None), asked_work);
        let Ok(asked) = asked else {
            return plain(
                StatusCode::BAD_REQUEST,
                "work_us is not a number of microseconds\n",
            );
        };
        self.work(asked.unwrap_or_else(|| self.draw())).await;
        serving.finish();
        plain(StatusCode::OK, "done\n")
    }

    async fn work(&self, time: Duration) {
        if !self.options.spin {
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
            return;
        }
        tokio::task::block_in_place(|| {
            let begun = Instant::now();
            while begun.elapsed() < time {
                std::hint::spin_loop();
            }
        });
    }

    fn draw(&self) -> Duration {
        match self.options.work {
            Work::Fixed(time) => time,
            Work::Exponential(mean) => {
                let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
                let factor: f64 = Exp1.sample(&mut *random);
                mean.mul_f64(factor)
            }
        }
    }
}

fn asked_work(query: &str) -> Result<Option<Duration>, std::num::ParseIntError> {
    let asked = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("work_us="));
    asked
        .map(|us| us.parse().map(Duration::from_micros))
        .transpose()
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
