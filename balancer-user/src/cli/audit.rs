//! `audit`: has the agent recount live connections, and says which counts were wrong.

use super::{
    Output, Report,
    client::Client,
    table::{self, Column::Left, Column::Right, or_dash},
};
use crate::audit::Audit;

const PATH: &str = "/v1/audit";

pub(super) async fn audit(client: &Client, output: Output) -> anyhow::Result<Report> {
    let body = client.post(PATH).await?;
    let audit: Audit = client.decode(PATH, &body)?;
    Ok(Report {
        text: match output {
            Output::Json => body + "\n",
            Output::Table => told(&audit),
        },
        fine: audit.drift.iter().all(|finding| finding.repaired),
    })
}

fn told(audit: &Audit) -> String {
    let Audit {
        connections,
        backends_checked,
        ..
    } = audit;
    let looked = format!("{connections} slots held, {backends_checked} backends checked: ");
    if audit.drift.is_empty() {
        return looked + "every count is right\n";
    }
    let columns = [
        Left("ADDRESS"),
        Left("SERVICE"),
        Right("COUNTED"),
        Right("HELD"),
        Left("REPAIRED"),
    ];
    let rows = audit.drift.iter().map(|finding| {
        vec![
            finding.address.to_string(),
            or_dash(finding.service.as_ref()),
            finding.counted.to_string(),
            finding.found.to_string(),
            if finding.repaired { "yes" } else { "no" }.to_owned(),
        ]
    });
    let wrong = audit.drift.len();
    format!("{looked}{wrong} wrong\n{}", table::render(&columns, rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Finding;

    #[test]
    fn a_count_that_was_wrong_is_a_line() {
        let mut audit = Audit {
            connections: 7,
            backends_checked: 2,
            drift: Vec::new(),
            drift_total: 0,
        };
        assert_eq!(
            told(&audit),
            "7 slots held, 2 backends checked: every count is right\n"
        );
        audit.drift.push(Finding {
            address: "10.1.0.2:8080".parse().unwrap(),
            service: None,
            counted: 3,
            found: 2,
            repaired: true,
        });
        let text = told(&audit);
        let lines: Vec<Vec<_>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0].last(), Some(&"wrong"));
        assert_eq!(lines[2], ["10.1.0.2:8080", "-", "3", "2", "yes"]);
    }
}
