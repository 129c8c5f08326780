//! The ring buffer: entries of any bytes, each of which is an event or nothing.
//!
//! Reads every field once more by its place in the record, as the programs write it, so that a
//! layout that has changed on one side only is found.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use balancer_common::event::{Event, EventKind};
use balancer_user::{
    fuzzing,
    journal::{Filter, Heard, Journal, Kind, Listener},
};

/// Bytes of a record.
const LENGTH: usize = 56;

/// Takes in the input as one entry, and as entries one after the other.
pub fn check(data: &[u8]) {
    assert_eq!(fuzzing::event(data).is_some(), data.len() == LENGTH);
    let journal = Journal::default();
    let filter = Filter {
        kinds: Some(Kind::ALL.to_vec()),
        ..Filter::default()
    };
    let mut listener = journal.subscribe(filter).expect("nobody else listens");
    for entry in data.chunks_exact(LENGTH) {
        let event = fuzzing::event(entry).expect("it has the length of a record");
        check_fields(entry, &event);
        check_told(&event, &journal, &mut listener);
    }
}

fn check_fields(entry: &[u8], event: &Event) {
    let u64_at = |at: usize| u64::from_ne_bytes(entry[at..at + 8].try_into().expect("8 bytes"));
    let u32_at = |at: usize| u32::from_ne_bytes(entry[at..at + 4].try_into().expect("4 bytes"));
    assert_eq!([event.at_ns, event.steered_at_ns], [0, 8].map(u64_at));
    let words = [event.kind, event.service, event.backend, event.generation];
    assert_eq!(words, [16, 20, 24, 28].map(u32_at));
    let octets: [u8; 16] = entry[32..48].try_into().expect("16 bytes");
    let port = u16::from_be_bytes([entry[48], entry[49]]);
    let ip = IpAddr::from(Ipv6Addr::from(octets)).to_canonical();
    let at = Duration::from_nanos(event.steered_at_ns);
    assert_eq!(fuzzing::gone(event), (SocketAddr::new(ip, port), at));
}

/// Whatever is told can be written down, and only a known kind is told.
fn check_told(event: &Event, journal: &Journal, listener: &mut Listener) {
    let Some(kind) = EventKind::from_number(event.kind) else {
        return;
    };
    assert_eq!(kind as u32, event.kind);
    fuzzing::tell(journal, kind, event);
    let is_told = match kind {
        EventKind::SlotFreed | EventKind::ClientGone => false,
        EventKind::Elected => event.steered_at_ns != 0,
        _ => true,
    };
    let mut next = pin!(listener.next());
    match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Heard::Event(told)) => {
            assert!(is_told, "{kind:?} is told as {told:?}");
            serde_json::to_string(&*told).expect("what is told can be written down");
        }
        Poll::Ready(Heard::Missed(count)) => panic!("{count} events are missed"),
        Poll::Pending => assert!(!is_told, "{kind:?} is not told"),
    }
}
