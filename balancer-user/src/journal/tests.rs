//! Who hears what, on a paused clock.

use std::time::Duration;

use tokio::time::timeout;

use super::*;

fn name(name: &str) -> ServiceName {
    name.parse().unwrap()
}

fn of_kinds(kinds: &[Kind]) -> Filter {
    Filter {
        kinds: Some(kinds.to_vec()),
        ..Filter::default()
    }
}

/// The next event; nothing if none comes within a second of the paused clock.
async fn next(listener: &mut Listener) -> Option<Arc<Event>> {
    match timeout(Duration::from_secs(1), listener.next()).await {
        Ok(Heard::Event(event)) => Some(event),
        Ok(Heard::Missed(missed)) => panic!("{missed} missed"),
        Err(_) => None,
    }
}

#[tokio::test(start_paused = true)]
async fn listeners_hear_the_kinds_and_the_service_that_they_asked_for() {
    let journal = Journal::default();
    let mut all = journal.subscribe(Filter::default()).unwrap();
    let mut ejections = journal.subscribe(of_kinds(&[Kind::Ejection])).unwrap();
    let mut of_other = journal
        .subscribe(Filter {
            service: Some(name("other")),
            ..Filter::default()
        })
        .unwrap();
    let address: SocketAddr = "10.1.0.2:8080".parse().unwrap();
    let ejected = Happening::new(Kind::Ejection).service(name("hello"));
    journal.publish(ejected.backend(address).reason("connect-failures"));
    journal.publish(Happening::new(Kind::ConfigError).detail("bad"));
    journal.publish(Happening::new(Kind::Steer).service(name("other")));
    journal.publish(Happening::new(Kind::Readmission).service(name("other")));

    let kinds = async |listener: &mut Listener| {
        let mut kinds = Vec::new();
        while let Some(event) = next(listener).await {
            kinds.push(event.kind);
        }
        kinds
    };
    let expected = [Kind::Ejection, Kind::ConfigError, Kind::Readmission];
    assert_eq!(kinds(&mut all).await, expected);
    assert_eq!(kinds(&mut ejections).await, [Kind::Ejection]);
    assert_eq!(kinds(&mut of_other).await, [Kind::Readmission]);
    assert_eq!(journal.count(Kind::Steer), 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_says_what_was_published() {
    let journal = Journal::default();
    let mut listener = journal.subscribe(Filter::default()).unwrap();
    let backend = "10.1.0.2:8080".parse().unwrap();
    let happening = Happening::refusals("queue-full", 7).service(name("ns/hello"));
    journal.publish(happening.backend(backend).detail("more"));
    let event = next(&mut listener).await.unwrap();
    assert_eq!(event.id, 1);
    assert!(event.at > 1.6e9);
    let json = serde_json::to_value(&*event).unwrap();
    for (field, value) in [
        ("kind", "refusal"),
        ("service", "ns/hello"),
        ("backend", "10.1.0.2:8080"),
        ("reason", "queue-full"),
        ("detail", "more"),
    ] {
        assert_eq!(json[field], value, "{json}");
    }
    assert_eq!(event.count, 7);
    assert_eq!(journal.count(Kind::Refusal), 7);
}

#[tokio::test(start_paused = true)]
async fn what_the_programs_report_is_told_in_words() {
    let journal = Journal::default();
    let kinds = Kind::ALL.to_vec();
    let mut listener = journal.subscribe(of_kinds(&kinds)).unwrap();
    let reports = [
        (EventKind::SlotFreed, None),
        (EventKind::ClientGone, None),
        (EventKind::Elected, None),
        (EventKind::FailedOver, None),
        (
            EventKind::Ejected,
            Some((Kind::Ejection, Some("connect-failures"))),
        ),
        (
            EventKind::TrialFailed,
            Some((Kind::Ejection, Some("trial-failed"))),
        ),
        (
            EventKind::Readmitted,
            Some((Kind::Readmission, Some("trial-succeeded"))),
        ),
        (EventKind::Steered, Some((Kind::Steer, None))),
    ];
    for (report, expected) in reports {
        journal.reported(report, Some(name("hello")), None);
        let told = next(&mut listener).await;
        let told = told.map(|event| (event.kind, event.reason.clone()));
        let expected = expected.map(|(kind, reason)| (kind, reason.map(Cow::Borrowed)));
        assert_eq!(told, expected, "{report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_is_told_when_it_is_elected_and_when_it_serves() {
    let journal = Journal::default();
    let mut listener = journal.subscribe(Filter::default()).unwrap();
    let (service, backend) = (name("hello"), "10.1.0.2:8080".parse().unwrap());
    journal.elected(Some(service.clone()), Some(backend));
    let elected = next(&mut listener).await.unwrap();
    assert_eq!(elected.reason.as_deref(), Some("elected"));
    assert_eq!(journal.failovers().of(&service), None);

    let after = Duration::from_micros(12_700);
    journal.failed_over(Some(service.clone()), Some(backend), after);
    let serving = next(&mut listener).await.unwrap();
    assert_eq!(serving.kind, Kind::Failover);
    assert_eq!(serving.service.as_deref(), Some("default/hello"));
    assert_eq!(serving.backend, Some(backend));
    assert_eq!(serving.reason.as_deref(), Some("serving"));
    assert_eq!(serving.detail.as_deref(), Some("after 12.7 ms"));
    let figures = journal.failovers().of(&service).unwrap();
    assert_eq!((figures.count, figures.last), (1, after));
}

#[tokio::test(start_paused = true)]
async fn who_listens_too_slowly_is_told_how_much_was_missed() {
    let journal = Journal::default();
    let mut listener = journal.subscribe(Filter::default()).unwrap();
    for _ in 0..BACKLOG + 5 {
        journal.publish(Happening::new(Kind::Drift));
    }
    assert_eq!(listener.next().await, Heard::Missed(5));
    assert_eq!(next(&mut listener).await.unwrap().id, 6);
}

#[tokio::test(start_paused = true)]
async fn steering_is_wanted_only_while_someone_asks_for_it_and_floods_nobody_else() {
    let journal = Journal::default();
    assert!(!journal.wants_steer());
    let mut other = journal.subscribe(Filter::default()).unwrap();
    assert!(!journal.wants_steer());
    let mut steer = journal.subscribe(of_kinds(&[Kind::Steer])).unwrap();
    assert!(journal.wants_steer());
    journal.publish(Happening::new(Kind::Drift));
    for _ in 0..BACKLOG * 2 {
        journal.publish(Happening::new(Kind::Steer));
    }
    assert_eq!(next(&mut other).await.unwrap().kind, Kind::Drift);
    assert_eq!(steer.next().await, Heard::Missed(BACKLOG as u64));
    drop(steer);
    assert!(!journal.wants_steer());
}

#[test]
fn listeners_are_bounded_and_their_places_come_back() {
    let journal = Journal::default();
    assert!(!journal.is_watched());
    let listen = || journal.subscribe(Filter::default());
    let mut listeners: Vec<_> = (0..MAX_LISTENERS).map(|_| listen().unwrap()).collect();
    assert_eq!(listen().unwrap_err(), Crowded);
    listeners.pop();
    assert!(listen().is_ok());
    drop(listeners);
    assert!(!journal.is_watched());
}

#[test]
fn every_kind_is_read_back_from_its_word() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_word(kind.as_str()), Some(kind));
        let json = serde_json::to_value(kind).unwrap();
        assert_eq!(json, kind.as_str());
    }
    assert_eq!(Kind::from_word("config_error"), None);
}
