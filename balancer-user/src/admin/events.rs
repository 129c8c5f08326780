//! `/v1/events`: what happens, as it happens.

use std::time::Duration;

use axum::{
    Extension,
    extract::{Query, State, rejection::QueryRejection},
    response::{
        IntoResponse, Response, Sse,
        sse::{self, KeepAlive},
    },
};
use futures_util::stream;
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::IntoParams;

use super::{Context, Problem, problem::Refusal, serve::Peer};
use crate::{
    journal::{Event, Filter, Heard, Kind, Listener},
    model::ServiceName,
    reconcile::Progress,
};

/// How often something is sent although nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often a reader to whom nothing is told is looked for: one that has gone would hold its
/// place until the next sign of life.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    /// Only these kinds, separated by commas: `failover`, `ejection`, `readmission`, `refusal`,
    /// `drift`, `config-error`, `health`, `steer`. All but `steer` if not given.
    kind: Option<String>,
    /// Only what concerns this service: `NAME` or `NAMESPACE/NAME`.
    service: Option<String>,
}

impl Parameters {
    pub(super) fn filter(self) -> Result<Filter, Refusal> {
        let kinds = self.kind.as_deref().map(kinds).transpose()?;
        let service = self.service.map(|name| {
            name.parse::<ServiceName>()
                .map_err(|fault| Refusal::BadName { name, fault })
        });
        Ok(Filter {
            kinds,
            service: service.transpose()?,
        })
    }
}

fn kinds(list: &str) -> Result<Vec<Kind>, Refusal> {
    let words = list.split(',').map(str::trim);
    words
        .map(|word| Kind::from_word(word).ok_or_else(|| Refusal::BadKind(word.to_owned())))
        .collect()
}

/// What happens from now on, as server-sent events.
///
/// The name of each is its `kind`, and its data one line of JSON. Refusals are summed up by
/// service and reason, over 100 ms or more. An event `missed`, with data `{"count": N}`, says that the
/// reader was too slow.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "follow_events", tag = "events", params(Parameters),
    responses(
        (status = 200, description = "A stream that does not end", body = Event,
         content_type = "text/event-stream"),
        (status = 400, response = Problem),
        (status = 503, response = Problem),
        (status = "default", response = Problem),
    )
)]
pub(super) async fn follow(
    State(context): State<Context>,
    peer: Option<Extension<Peer>>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(parameters) = parameters?;
    let filter = parameters.filter()?;
    context
        .read(|context, _| context.refusals.begin(context))
        .await??;
    let service = filter.service.clone();
    let stream = Stream {
        listener: context.journal.subscribe(filter)?,
        progress: context.progress,
        service,
        peer: peer.map(|Extension(peer)| peer),
    };
    let events = stream::unfold(stream, async |mut stream| {
        let heard = stream.next().await?;
        Some((message(&heard), stream))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

/// One reader.
struct Stream {
    listener: Listener,
    progress: Progress,
    service: Option<ServiceName>,
    peer: Option<Peer>,
}

impl Stream {
    /// What there is to tell; nothing once the reader has gone.
    async fn next(&mut self) -> Option<Heard> {
        loop {
            let Ok(heard) = timeout(LOOK_EVERY, self.listener.next()).await else {
                if self.peer.as_ref().is_some_and(Peer::is_gone) {
                    return None;
                }
                continue;
            };
            if self.is_concerned(&heard) {
                return Some(heard);
            }
        }
    }

    /// Whether it is about the service that was asked for: what names a backend only may not be.
    fn is_concerned(&self, heard: &Heard) -> bool {
        let (Some(service), Heard::Event(event)) = (&self.service, heard) else {
            return true;
        };
        let (None, Some(backend)) = (&event.service, &event.backend) else {
            return true;
        };
        let assignment = self.progress.assignment();
        let service = assignment.service(service);
        service.is_some_and(|service| service.members.contains_key(backend))
    }
}

fn message(heard: &Heard) -> Result<sse::Event, axum::Error> {
    let message = sse::Event::default();
    match heard {
        Heard::Event(event) => message
            .id(event.id.to_string())
            .event(event.kind.as_str())
            .json_data(&**event),
        Heard::Missed(count) => message
            .event("missed")
            .json_data(serde_json::json!({ "count": count })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(kind: Option<&str>, service: Option<&str>) -> Result<Filter, Refusal> {
        let parameters = Parameters {
            kind: kind.map(str::to_owned),
            service: service.map(str::to_owned),
        };
        parameters.filter()
    }

    #[test]
    fn kinds_and_services_are_read_or_refused() {
        let read = filter(Some("ejection, config-error"), Some("ns/hello")).unwrap();
        assert_eq!(read.kinds, Some(vec![Kind::Ejection, Kind::ConfigError]));
        assert_eq!(read.service.unwrap().to_string(), "ns/hello");
        assert_eq!(filter(None, None).unwrap().kinds, None);
        for list in ["", "steers", "steer,,health"] {
            let refusal = filter(Some(list), None).unwrap_err();
            assert!(matches!(refusal, Refusal::BadKind(_)), "{list:?}");
        }
        let refusal = filter(None, Some("No/Such")).unwrap_err();
        assert!(matches!(refusal, Refusal::BadName { .. }));
    }

    #[test]
    fn a_reader_of_a_service_hears_of_its_backends_only() {
        let journal = crate::journal::Journal::default();
        let stream = Stream {
            listener: journal.subscribe(Filter::default()).unwrap(),
            progress: Progress::default(),
            service: Some("hello".parse().unwrap()),
            peer: None,
        };
        let event = |service: Option<&str>, backend: Option<&str>| {
            Heard::Event(std::sync::Arc::new(Event {
                id: 1,
                at: 0.0,
                kind: Kind::Health,
                service: service.map(str::to_owned),
                backend: backend.map(|backend| backend.parse().unwrap()),
                client: None,
                reason: None,
                detail: None,
                count: 1,
            }))
        };
        assert!(stream.is_concerned(&event(Some("default/hello"), None)));
        assert!(stream.is_concerned(&Heard::Missed(1)));
        // It has no backends.
        assert!(!stream.is_concerned(&event(None, Some("10.1.0.2:80"))));
    }
}
