//! `queues`: who waits for which service, and who was refused.

use super::{
    Output, Report,
    client::Client,
    list::json,
    table::{self, Column::Left, Column::Right, age, or_dash},
};
use crate::admin::QueueRow;

pub(super) const PATH: &str = "/v1/queues";

pub(super) async fn queues(client: &Client, output: Output) -> anyhow::Result<Report> {
    let body = client.get(PATH).await?;
    if output == Output::Json {
        return Ok(json(body));
    }
    let queues: Vec<QueueRow> = client.decode(PATH, &body)?;
    if queues.is_empty() {
        return Ok(Report::fine(
            "No queues. The agent's configuration names no services.\n".to_owned(),
        ));
    }
    Ok(Report::fine(queues_table(&queues)))
}

fn queues_table(queues: &[QueueRow]) -> String {
    let columns = [
        Left("NAMESPACE"),
        Left("NAME"),
        Right("WAITERS"),
        Right("SIZE"),
        Right("TIMEOUT"),
        Right("OLDEST"),
        Right("ACCEPTED"),
        Right("QUEUED"),
        Right("RETRIED"),
        Left("REFUSED"),
    ];
    let rows = queues.iter().map(|queue| {
        vec![
            queue.namespace.clone(),
            queue.name.clone(),
            queue.waiters.to_string(),
            queue.size.to_string(),
            or_dash(queue.timeout_ms.map(age)),
            or_dash(queue.oldest_ms.map(age)),
            queue.accepted.to_string(),
            queue.queued.to_string(),
            queue.retried.to_string(),
            refused([queue]),
        ]
    });
    table::render(&columns, rows)
}

/// How many were refused for which reasons, those left out for which nobody was.
pub(super) fn refused<'q>(queues: impl IntoIterator<Item = &'q QueueRow>) -> String {
    let mut sum = std::collections::BTreeMap::<&str, u64>::new();
    for (reason, count) in queues.into_iter().flat_map(|queue| &queue.refused) {
        *sum.entry(reason).or_default() += count;
    }
    let some = sum.iter().filter(|(_, count)| **count > 0);
    let some: Vec<_> = some
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    match some.is_empty() {
        true => "0".to_owned(),
        false => some.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(refused: &[(&str, u64)]) -> QueueRow {
        let refused = refused.iter();
        QueueRow {
            namespace: "default".to_owned(),
            name: "hello".to_owned(),
            waiters: 2,
            size: 10,
            timeout_ms: Some(100),
            oldest_ms: None,
            accepted: 7,
            queued: 5,
            retried: 1,
            refused: refused
                .map(|(reason, count)| ((*reason).to_owned(), *count))
                .collect(),
        }
    }

    #[test]
    fn a_queue_is_a_line() {
        let text = queues_table(&[queue(&[("queue-full", 3), ("rate-limited", 0)])]);
        let line: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        let expected = [
            "default",
            "hello",
            "2",
            "10",
            "100ms",
            "-",
            "7",
            "5",
            "1",
            "3",
            "queue-full",
        ];
        assert_eq!(line, expected);
    }

    #[test]
    fn refusals_of_several_queues_add_up() {
        let queues = [
            queue(&[("queue-full", 3), ("agent-gone", 1)]),
            queue(&[("queue-full", 2)]),
        ];
        assert_eq!(refused(&queues), "1 agent-gone, 5 queue-full");
        assert_eq!(refused(&[queue(&[("queue-full", 0)])]), "0");
    }
}
