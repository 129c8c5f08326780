//! `config check`: what the agent would say of a file.

use std::path::Path;

use anyhow::bail;
use serde_json::json;

use super::{Output, Report};
use crate::config::{Config, ConfigError, Problem, process_environment};

pub(super) fn check(path: &Path, output: Output) -> anyhow::Result<Report> {
    let file = path.display().to_string();
    let (problems, warnings) = match Config::load(path, &process_environment) {
        Ok(loaded) => (Vec::new(), loaded.warnings),
        Err(ConfigError::Invalid { problems, .. }) => (problems, Vec::new()),
        Err(unreadable) => bail!(unreadable),
    };
    let text = match output {
        Output::Table => lines(&file, &problems, &warnings),
        Output::Json => {
            let value = json!({
                "file": file, "ok": problems.is_empty(),
                "problems": problems, "warnings": warnings,
            });
            format!("{value}\n")
        }
    };
    Ok(Report {
        text,
        fine: problems.is_empty(),
    })
}

fn lines(file: &str, problems: &[Problem], warnings: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        text.push_str(&format!("{}\n", problem.in_file(file)));
    }
    for warning in warnings {
        text.push_str(&format!("warning: {}\n", warning.in_file(file)));
    }
    if problems.is_empty() {
        text.push_str(&format!("{file}: no problems\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> (Vec<Problem>, Vec<Problem>) {
        match Config::parse(text, "f.yaml", &|_| None) {
            Ok(loaded) => (Vec::new(), loaded.warnings),
            Err(error) => (error.problems().to_vec(), Vec::new()),
        }
    }

    #[test]
    fn problems_are_lines_that_begin_with_their_place() {
        let (problems, warnings) = loaded("source: file\nagent:\n  cgroup: here\n");
        let text = lines("f.yaml", &problems, &warnings);
        assert!(text.starts_with("f.yaml:3:11: "), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_good_file_is_said_to_be_good_after_its_warnings() {
        let (problems, warnings) = loaded("functions: {a: {max_retries: 3}}\n");
        let text = lines("f.yaml", &problems, &warnings);
        assert!(text.starts_with("warning: f.yaml:1:"), "{text}");
        assert!(text.ends_with("\nf.yaml: no problems\n"), "{text}");
    }
}
