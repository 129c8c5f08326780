//! One request: a slot, attempts at backends, and the answer.

use std::{convert::Infallible, io, sync::Arc, time::Instant};

use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::Incoming,
    header::{ALLOW, HeaderValue, SET_COOKIE},
    upgrade::OnUpgrade,
};
use tokio::time::timeout_at;
use tracing::{Instrument, Span, debug};

use super::{
    Proxy,
    body::{Answer, Upload},
    cookie,
    head::{self, Malformed},
    identify,
    link::{Download, Link, Lost, Upgoing},
    session::Session,
    tunnel,
    watch::{Begun, Kept},
    wire::Fault,
};
use crate::overflow::{Change, Reason, Slot, Token, View, Visit, refuse};

/// Said of a backend that was asked and did not answer.
const BROKEN: &str = "the backend broke off; whether it did what it was asked is not known";
/// Said of a client that did not send all it announced.
const INCOMPLETE: &str = "the request's body is incomplete or malformed";

/// Serves one request. The future is moved about before it is polled, so it holds little: whatever
/// can be done at once is done before.
pub(super) fn answer(
    session: &Arc<Session>,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Answer>, Infallible>> + use<> {
    let begun = session.watch.begin();
    let client = hyper::upgrade::on(&mut request);
    let (mut head, body) = request.into_parts();
    let view = session.queue.view();
    let identity = identify::identify(&mut head, session.source, &view, &session.queue);
    let prepared = match head::prepare(&mut head, &session.client, &session.host) {
        Ok(facts) => {
            let exchange = Exchange {
                visit: Visit::of_request(session.queue.clone()).by(identity),
                is_secure: identify::is_secure(&head, &view),
                view,
                session: session.clone(),
                begun,
                client,
                is_idempotent: is_idempotent(&head.method),
                sends: 0,
                silent: Vec::new(),
                is_http2: head.version == Version::HTTP_2,
            };
            let request = Upgoing::new(head, Upload::from(body), &facts);
            let span = exchange.span(&facts.id);
            Ok((exchange.run(request).instrument(span), facts.id))
        }
        Err(fault) => Err((fault, head::id_of(&mut head.headers))),
    };
    async {
        Ok(match prepared {
            Ok((exchange, id)) => {
                let mut response = exchange.await;
                head::name(response.headers_mut(), id);
                response
            }
            Err((fault, id)) => {
                let mut refusal = malformed(fault);
                head::name(refusal.headers_mut(), id);
                refusal
            }
        })
    }
}

/// The answer to a request that is not passed on to any backend.
fn malformed(fault: Malformed) -> Response<Answer> {
    debug!(%fault, "a request is malformed");
    let mut refusal = refuse::problem(fault.status(), &fault.to_string());
    if let Some(allowed) = fault.allowed() {
        refusal.headers_mut().insert(ALLOW, allowed);
    }
    refusal.map(Answer::from)
}

/// How often a request is sent at most: one that makes backends fail must not go round all of them.
const MAX_SENDS: u32 = 3;

/// A request that is not answered yet, but for the request itself.
struct Exchange {
    session: Arc<Session>,
    view: Arc<View>,
    begun: Begun,
    visit: Visit,
    client: OnUpgrade,
    /// Whether a second time has the same effect as the first.
    is_idempotent: bool,
    /// How often it has been sent to a backend.
    sends: u32,
    /// Backends that took it and did not answer, by id.
    silent: Vec<u32>,
    /// Whether it shares its connection with others.
    is_http2: bool,
    /// Whether a cookie given for it is for encrypted connections only.
    is_secure: bool,
}

/// Why a request has no answer from a backend.
#[derive(Debug)]
enum Failure {
    /// It got no slot, or no backend could be connected to.
    Refused(Reason),
    /// The backend did not answer as it should, and nobody can tell what it has done.
    Backend,
    /// The client broke off.
    Client,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
    }
}

/// Why an attempt at a backend brought no answer.
enum Miss {
    /// There is no connection. The request has not been sent.
    Unreachable(io::Error),
    /// The request has not been sent, or was and may be sent again; nothing came back.
    Unanswered(Fault),
    /// Nothing else may be tried.
    Final(Failure),
}

impl Exchange {
    fn span(&self, id: &HeaderValue) -> Span {
        tracing::debug_span!(
            "request",
            id = id.to_str().unwrap_or_default(),
            service = %self.view.name,
        )
    }

    async fn run(mut self, mut request: Upgoing) -> Response<Answer> {
        let failure = match self.attempt(&mut request).await {
            Ok((slot, head, download)) => return self.pass_on(slot, head, download),
            Err(failure) => failure,
        };
        debug!(?failure, elapsed = ?self.visit.began().elapsed(), "is not served");
        match failure {
            Failure::Refused(reason) => refuse::response(reason, &self.view),
            Failure::Backend => {
                judge(&self.session, &self.view, true);
                refuse::problem(StatusCode::BAD_GATEWAY, BROKEN)
            }
            Failure::Client => refuse::problem(StatusCode::BAD_REQUEST, INCOMPLETE),
        }
        .map(Answer::from)
    }

    /// Slots and backends, one after the other, until one answers.
    async fn attempt(
        &mut self,
        request: &mut Upgoing,
    ) -> Result<(Slot, Response<()>, Download), Failure> {
        self.admit()?;
        loop {
            let slot = self.visit.slot().await?;
            if self.silent.contains(&slot.backend().0) {
                // It has had its chance, and there is no other.
                return Err(Failure::Backend);
            }
            debug!(backend = %slot.address(), elapsed = ?self.visit.began().elapsed(), "has a slot");
            match self.ask(&slot, request).await {
                Ok((head, download)) => {
                    self.visit.served();
                    return Ok((slot, head, download));
                }
                Err(Miss::Final(failure)) => return Err(failure),
                Err(Miss::Unreachable(error)) => {
                    debug!(backend = %slot.address(), %error, elapsed = ?self.visit.began().elapsed(), "cannot connect");
                    self.visit.failed(slot, &error).await?;
                }
                Err(Miss::Unanswered(fault)) => {
                    debug!(backend = %slot.address(), %fault, elapsed = ?self.visit.began().elapsed(), "has not answered");
                    self.silent.push(slot.backend().0);
                    self.visit.again(slot).await?;
                }
            }
        }
    }

    /// Whether it may ask for a slot at all.
    fn admit(&self) -> Result<(), Reason> {
        let queue = &self.session.queue;
        // In this order, so that the one request that tries a shut service is not lost to the rate
        // limit.
        if !queue.admits_rate() {
            return Err(self.visit.refused(Reason::RateLimited));
        }
        if !queue.breaker().admits(&self.view.breaker) {
            return Err(self.visit.refused(Reason::BreakerOpen));
        }
        Ok(())
    }

    /// Asks one backend: over a warm connection, if there is one that still works.
    async fn ask(
        &mut self,
        slot: &Slot,
        request: &mut Upgoing,
    ) -> Result<(Response<()>, Download), Miss> {
        let version = request.version();
        let _awaiting = slot.ask();
        let mut began = Instant::now();
        if let Some(link) = self.session.proxy.pool.take(version.key(slot)) {
            self.sends += 1;
            match link.ask(request).await {
                Ok(answer) => {
                    slot.answered(began.elapsed());
                    return Ok(answer);
                }
                Err(Lost::Unsent(fault)) => debug!(%fault, "a warm connection was closed"),
                Err(Lost::Unanswered(fault)) if self.may_repeat() => {
                    debug!(%fault, "a warm connection broke");
                }
                Err(Lost::Unanswered(fault) | Lost::Final(fault)) => return Err(blame(&fault)),
            }
        }
        began = Instant::now();
        // In a box, since it is rare, and large.
        let connecting = Box::pin(Link::open(slot.address(), version));
        let link = match timeout_at(self.visit.ends().into(), connecting).await {
            Ok(result) => result.map_err(Miss::Unreachable)?,
            Err(_) => return Err(Miss::Unreachable(io::ErrorKind::TimedOut.into())),
        };
        slot.connected();
        self.sends += 1;
        let answer = link.ask(request).await.map_err(|lost| match lost {
            Lost::Unsent(fault) => Miss::Unanswered(fault),
            Lost::Unanswered(fault) if self.may_repeat() => Miss::Unanswered(fault),
            Lost::Unanswered(fault) | Lost::Final(fault) => blame(&fault),
        })?;
        slot.answered(began.elapsed());
        Ok(answer)
    }

    fn may_repeat(&self) -> bool {
        self.is_idempotent && self.sends < MAX_SENDS && Instant::now() < self.visit.ends()
    }

    /// Lets the client have the answer.
    fn pass_on(self, slot: Slot, response: Response<()>, download: Download) -> Response<Answer> {
        let (mut head, ()) = response.into_parts();
        debug!(backend = %slot.address(), status = head.status.as_u16(), elapsed = ?self.visit.began().elapsed(), "answers");
        judge(&self.session, &self.view, head.status.is_server_error());
        head::prepare_answer(head.status, &mut head.headers);
        if let Some((name, affinity)) = identify::sticky_cookie(&self.view) {
            let token = Token::of(&self.view.name, slot.address());
            let cookie = cookie::issue(name, token, affinity.timeout, self.is_secure);
            head.headers.append(SET_COOKIE, cookie);
        }
        let in_flight = InFlight {
            slot,
            session: self.session,
            view: self.view,
            _begun: self.begun,
            span: Span::current(),
        };
        let answer = if head.status == StatusCode::SWITCHING_PROTOCOLS {
            in_flight.session.watch.switch();
            if let Some(backend) = download.into_stream() {
                tunnel::start(self.client, backend, in_flight);
            }
            Answer::Over
        } else if download.is_over() {
            in_flight.finish(download.into_link());
            Answer::Over
        } else if self.is_http2 {
            let watch = in_flight.session.watch.clone();
            let kept = Kept::new(Box::new((download, in_flight)));
            watch.keep(&kept);
            Answer::Beside(kept, watch)
        } else {
            Answer::Backend(Box::new((download, in_flight)))
        };
        Response::from_parts(head, answer)
    }
}

/// Who broke an exchange.
fn blame(fault: &Fault) -> Miss {
    debug!(%fault, "no answer");
    Miss::Final(match fault {
        Fault::Client => Failure::Client,
        _ => Failure::Backend,
    })
}

/// What a request that is being answered holds: its slot, above all.
#[derive(Debug)]
pub(super) struct InFlight {
    slot: Slot,
    session: Arc<Session>,
    view: Arc<View>,
    _begun: Begun,
    span: Span,
}

impl InFlight {
    /// The answer is complete: its connection is kept warm, if it can be, and the slot given back.
    pub(super) fn finish(self, link: Option<Link>) {
        debug!(parent: &self.span, "is done");
        if let Some(link) = link {
            let key = link.version().key(&self.slot);
            self.session.proxy.pool.put(key, link);
        }
    }

    /// The backend broke off in the middle of its answer.
    pub(super) fn broke(self, fault: &Fault) {
        debug!(parent: &self.span, %fault, "broke off");
        judge(&self.session, &self.view, true);
    }

    /// What the connections of the worker share.
    pub(super) fn proxy(&self) -> &Proxy {
        &self.session.proxy
    }

    /// The span of the request.
    pub(super) fn span(&self) -> &Span {
        &self.span
    }
}

/// Lets the service's breaker know how a request went.
fn judge(session: &Session, view: &View, is_error: bool) {
    match session.queue.breaker().answered(is_error, &view.breaker) {
        Change::None => {}
        Change::Opened => {
            tracing::warn!(service = %view.name, "refused for a while: it answers with errors only");
        }
        Change::Closed => tracing::info!(service = %view.name, "served again: it has recovered"),
    }
}

/// RFC 9110, 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
    ]
    .contains(method)
}
