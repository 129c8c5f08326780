//! One request: a slot, attempts at backends, and the answer.

use std::{convert::Infallible, io, sync::Arc, time::Instant};

use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::ALLOW,
    http::request,
    upgrade::OnUpgrade,
};
use tokio::time::timeout_at;
use tracing::{Instrument, Span, debug};

use super::{
    Proxy,
    body::{Answer, Go, Progress, Upload},
    head::{self, Facts},
    link::{Link, Version},
    session::Session,
    tunnel,
    watch::Begun,
};
use crate::overflow::{Change, Reason, Slot, View, Visit, refuse};

/// Said of a backend that was asked and did not answer.
const BROKEN: &str = "the backend broke off; whether it did what it was asked is not known";
/// Said of a client that did not send all it announced.
const INCOMPLETE: &str = "the request's body is incomplete or malformed";

/// Serves one request.
pub(super) async fn answer(
    session: Arc<Session>,
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let begun = session.watch.begin();
    let client = hyper::upgrade::on(&mut request);
    let (mut head, body) = request.into_parts();
    let facts = match head::prepare(&mut head, &session.client, &session.host) {
        Ok(facts) => facts,
        Err(fault) => {
            debug!(%fault, "a request is malformed");
            let mut refusal = refuse::problem(fault.status(), &fault.to_string());
            if let Some(allowed) = fault.allowed() {
                refusal.headers_mut().insert(ALLOW, allowed);
            }
            return Ok(refusal.map(Answer::from));
        }
    };
    let view = session.queue.view();
    let span = tracing::debug_span!(
        "request",
        id = facts.id.to_str().unwrap_or_default(),
        service = %view.name,
    );
    let id = facts.id.clone();
    let (exchange, request) = Exchange::new(session, view, begun, facts, head, body);
    let mut response = exchange.run(request, client).instrument(span).await;
    head::name(response.headers_mut(), id);
    Ok(response)
}

/// A request that is not answered yet, but for the request itself.
struct Exchange {
    session: Arc<Session>,
    view: Arc<View>,
    begun: Begun,
    visit: Visit,
    version: Version,
    is_upgrade: bool,
    /// Whether a second time has the same effect as the first (RFC 9110, 9.2.2).
    is_idempotent: bool,
    /// How its body goes; `None` if it has none.
    progress: Option<Arc<Progress>>,
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
    Unreachable(Request<Upload>, io::Error),
    /// Nothing else may be tried.
    Final(Failure),
}

impl Exchange {
    fn new(
        session: Arc<Session>,
        view: Arc<View>,
        begun: Begun,
        facts: Facts,
        head: request::Parts,
        body: Incoming,
    ) -> (Self, Request<Upload>) {
        let version = match facts.is_grpc {
            true => Version::Http2,
            false => Version::Http1,
        };
        let is_idempotent = is_idempotent(&head.method);
        let progress = (!body.is_end_stream()).then(Arc::<Progress>::default);
        let upload = match &progress {
            Some(progress) => Upload::new(body, begun.watch().clone(), progress.clone()),
            None => Upload::empty(),
        };
        let mut request = version.request(head, upload);
        if facts.awaits_continue && progress.is_some() {
            let go = Go::default();
            request.body_mut().wait_for(go.clone());
            hyper::ext::on_informational(&mut request, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    go.give();
                }
            });
        }
        let exchange = Self {
            visit: Visit::of_request(session.queue.clone()),
            session,
            view,
            begun,
            version,
            is_upgrade: facts.is_upgrade,
            is_idempotent,
            progress,
        };
        (exchange, request)
    }

    async fn run(mut self, request: Request<Upload>, client: OnUpgrade) -> Response<Answer> {
        let failure = match self.attempt(request).await {
            Ok((slot, link, response)) => return self.pass_on(slot, link, response, client),
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
        mut request: Request<Upload>,
    ) -> Result<(Slot, Link, Response<Incoming>), Failure> {
        self.admit()?;
        loop {
            let slot = self.visit.slot().await?;
            debug!(backend = %slot.address(), elapsed = ?self.visit.began().elapsed(), "has a slot");
            match self.ask(&slot, request).await {
                Ok((_, response)) if !self.is_expected(&response) => {
                    return Err(Failure::Backend);
                }
                Ok((link, response)) => return Ok((slot, link, response)),
                Err(Miss::Final(failure)) => return Err(failure),
                Err(Miss::Unreachable(unsent, error)) => {
                    debug!(backend = %slot.address(), %error, elapsed = ?self.visit.began().elapsed(), "cannot connect");
                    request = unsent;
                    self.visit.failed(slot).await?;
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
        &self,
        slot: &Slot,
        mut request: Request<Upload>,
    ) -> Result<(Link, Response<Incoming>), Miss> {
        if let Some(mut link) = self.session.proxy.pool.take(self.version.key(slot)) {
            let spare = self.spare(&request);
            let mut error = match link.ask(request).await {
                Ok(response) => return Ok((link, response)),
                Err(error) => error,
            };
            debug!(error = %error.error(), "a warm connection is broken");
            // Not sent at all, or it makes no difference whether it was.
            request = match error.take_message().or(spare) {
                Some(request) => request,
                None => return Err(Miss::Final(self.blame())),
            };
        }
        let connecting = Link::open(slot.address(), self.version);
        let mut link = match timeout_at(self.visit.ends().into(), connecting).await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => return Err(Miss::Unreachable(request, error)),
            Err(_) => return Err(Miss::Unreachable(request, io::ErrorKind::TimedOut.into())),
        };
        slot.connected();
        match link.ask(request).await {
            Ok(response) => Ok((link, response)),
            Err(mut error) => {
                debug!(error = %error.error(), "the backend broke off");
                Err(match error.take_message() {
                    Some(request) => {
                        Miss::Unreachable(request, io::ErrorKind::ConnectionReset.into())
                    }
                    None => Miss::Final(self.blame()),
                })
            }
        }
    }

    /// The same request once more, if it may be sent a second time.
    fn spare(&self, request: &Request<Upload>) -> Option<Request<Upload>> {
        let may_repeat =
            self.is_idempotent && self.progress.is_none() && Instant::now() < self.visit.ends();
        may_repeat.then(|| {
            let mut spare = Request::new(Upload::empty());
            *spare.method_mut() = request.method().clone();
            *spare.uri_mut() = request.uri().clone();
            *spare.version_mut() = request.version();
            *spare.headers_mut() = request.headers().clone();
            spare
        })
    }

    /// Who broke the exchange.
    fn blame(&self) -> Failure {
        match &self.progress {
            Some(progress) if progress.is_broken() => Failure::Client,
            _ => Failure::Backend,
        }
    }

    /// Whether the backend switches protocols only if the client asked for that.
    fn is_expected(&self, response: &Response<Incoming>) -> bool {
        self.is_upgrade || response.status() != StatusCode::SWITCHING_PROTOCOLS
    }

    /// Lets the client have the answer.
    fn pass_on(
        self,
        slot: Slot,
        link: Link,
        mut response: Response<Incoming>,
        client: OnUpgrade,
    ) -> Response<Answer> {
        let status = response.status();
        debug!(backend = %slot.address(), status = status.as_u16(), elapsed = ?self.visit.began().elapsed(), "answers");
        judge(&self.session, &self.view, status.is_server_error());
        let backend = hyper::upgrade::on(&mut response);
        let (mut head, body) = response.into_parts();
        head::prepare_answer(&mut head);
        let in_flight = InFlight {
            link,
            slot,
            session: self.session,
            view: self.view,
            progress: self.progress,
            _begun: self.begun,
            span: Span::current(),
        };
        let answer = if status == StatusCode::SWITCHING_PROTOCOLS {
            in_flight.session.watch.switch();
            tunnel::start(client, backend, in_flight);
            Answer::Own(None)
        } else if body.is_end_stream() {
            in_flight.finish();
            Answer::Own(None)
        } else {
            Answer::Backend(body, Some(in_flight))
        };
        Response::from_parts(head, answer)
    }
}

/// What a request that is being answered holds: its slot, above all. Dropped before its end, it
/// closes the upstream connection.
#[derive(Debug)]
pub(super) struct InFlight {
    // In this order: by the time the slot goes to the next, the connection is closed.
    link: Link,
    slot: Slot,
    session: Arc<Session>,
    view: Arc<View>,
    progress: Option<Arc<Progress>>,
    _begun: Begun,
    span: Span,
}

impl InFlight {
    /// The answer is complete: the connection is kept warm, and the slot given back.
    pub(super) fn finish(self) {
        debug!(parent: &self.span, "is done");
        let key = self.link.version().key(&self.slot);
        // While a body still goes up, the connection is not free.
        if self.progress.is_none_or(|progress| progress.is_over()) {
            self.session.proxy.pool.put(key, self.link);
        }
    }

    /// The backend broke off in the middle of its answer.
    pub(super) fn broke(self, error: &hyper::Error) {
        debug!(parent: &self.span, %error, "broke off");
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
