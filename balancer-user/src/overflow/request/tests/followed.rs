//! A request's whole way can be followed in the log, by its id.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use tracing_subscriber::fmt::MakeWriter;

use super::ground::{Backend, Front, Nobody};

/// Takes what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn each_step_of_a_request_is_logged_with_its_id() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let backend = Backend::echo().await;
    let nobody = Nobody::new();
    let front = Front::new(&[nobody.address, backend.address]).await;
    // Other tests log too, and to nobody; what was decided for them is decided again.
    front.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    front.settled().await;
    tracing::callsite::rebuild_interest_cache();
    let held = [front.hold().await, front.hold().await];
    let mut client = front.dial().await;
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: follow-me\r\n\r\n")
        .await;
    front.waiting(1).await;
    // The one that nobody listens at comes first.
    for slot in held {
        drop(slot);
        tokio::task::yield_now().await;
    }
    assert_eq!(client.message().await.unwrap().status(), 200);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let way: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("follow-me"))
        .collect();
    for step in [
        "waits for a slot",
        "has a slot",
        "cannot connect",
        "has a slot",
        "answers",
        "is done",
    ] {
        assert!(way.iter().any(|line| line.contains(step)), "{step}: {log}");
    }
    let answer = way.iter().find(|line| line.contains("answers")).unwrap();
    assert!(answer.contains(&backend.address.to_string()), "{answer}");
    assert!(
        answer.contains("default/hello") && answer.contains("elapsed"),
        "{answer}"
    );
}
