//! Runs external commands whose output nobody watches: keeps what they printed, reports
//! elapsed time while they are silent, and turns a failure into one readable message.
//!
//! Refuses standard input: a command that asks a question fails instead of hanging.
//! Called by every other module here, and by `xtask` for its own installs.

use std::{
    collections::VecDeque,
    error::Error,
    fmt,
    io::{self, BufRead, BufReader, Read},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

/// Where one-line progress reports go.
pub type Progress<'a> = &'a dyn Fn(&str);

/// A command is reported as still running this often.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Lines of a failed command's output that are kept for the message.
const KEPT_LINES: usize = 200;

/// An external command that could not be started or ended badly.
#[derive(Debug)]
pub struct Failure {
    command_line: String,
    outcome: Outcome,
    output: String,
    remedy: String,
}

#[derive(Debug)]
enum Outcome {
    NotStarted(io::Error),
    Ended(ExitStatus),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "command failed: {}", self.command_line)?;
        match &self.outcome {
            Outcome::NotStarted(error) => writeln!(f, "it could not be started: {error}")?,
            Outcome::Ended(status) => writeln!(f, "it ended with {status}")?,
        }
        if !self.output.is_empty() {
            writeln!(f, "its last output:\n{}", self.output)?;
        }
        write!(f, "what to do: {}", self.remedy)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.outcome {
            Outcome::NotStarted(error) => Some(error),
            Outcome::Ended(_) => None,
        }
    }
}

/// Runs `command` to its end and returns the last lines it printed, on both streams.
///
/// `title` names the step in progress lines; `remedy` tells the reader of a failure what to do.
pub fn run(
    command: &mut Command,
    title: &str,
    remedy: &str,
    progress: Progress<'_>,
) -> Result<String, Failure> {
    let command_line = shown(command);
    let fail = |outcome, output| Failure {
        command_line: command_line.clone(),
        outcome,
        output,
        remedy: remedy.to_owned(),
    };

    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| fail(Outcome::NotStarted(error), String::new()))?;

    let (lines, received) = mpsc::channel();
    for stream in [
        child.stdout.take().map(boxed),
        child.stderr.take().map(boxed),
    ]
    .into_iter()
    .flatten()
    {
        let lines = lines.clone();
        thread::spawn(move || forward(stream, &lines));
    }
    drop(lines);

    let mut kept = VecDeque::with_capacity(KEPT_LINES);
    let started = Instant::now();
    let mut next_report = started + REPORT_EVERY;
    loop {
        match received.recv_timeout(next_report.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
            Err(RecvTimeoutError::Timeout) => {
                next_report += REPORT_EVERY;
                let last = kept.back().map_or("", |line: &String| line.trim());
                progress(&format!(
                    "{title}: {} s  {last}",
                    started.elapsed().as_secs()
                ));
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }

    let output = Vec::from(kept).join("\n");
    match child.wait() {
        Ok(status) if status.success() => Ok(output),
        Ok(status) => Err(fail(Outcome::Ended(status), output)),
        Err(error) => Err(fail(Outcome::NotStarted(error), output)),
    }
}

/// The standard output of a short query, or `None` if it could not be had for any reason.
pub(crate) fn query(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as a person would type it, with the variables that it sets.
pub fn shown(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| {
        Some(format!(
            "{}={}",
            name.to_string_lossy(),
            quoted(&value?.to_string_lossy())
        ))
    });
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quoted(&word.to_string_lossy()));
    let line = set.chain(words).collect::<Vec<_>>().join(" ");
    match command.get_current_dir() {
        Some(directory) => format!("cd {} && {line}", quoted(&directory.to_string_lossy())),
        None => line,
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        // The unit separator stands between encoded compiler flags and is invisible.
        format!("'{}'", word.replace('\'', r"'\''").replace('\x1f', " "))
    }
}

fn boxed(stream: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(stream)
}

fn forward(stream: Box<dyn Read + Send>, lines: &Sender<String>) {
    for line in BufReader::new(stream).split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line);
        if lines.send(line.trim_end_matches('\r').to_owned()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(_: &str) {}

    #[test]
    fn failure_names_the_command_the_status_the_output_and_the_remedy() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let message = run(&mut command, "step", "look at the lines above", &silent)
            .unwrap_err()
            .to_string();
        for part in [
            "sh -c 'echo one;",
            "exit status: 3",
            "one",
            "two",
            "look at the lines above",
        ] {
            assert!(message.contains(part), "{part:?} is missing in:\n{message}");
        }
    }

    #[test]
    fn a_command_that_does_not_exist_is_a_failure_with_its_cause() {
        let failure = run(
            &mut Command::new("/nonexistent/tool"),
            "step",
            "install it",
            &silent,
        )
        .unwrap_err();
        assert!(failure.source().is_some());
        assert!(failure.to_string().contains("/nonexistent/tool"));
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "i=0; while [ $i -lt 500 ]; do echo line-$i; i=$((i+1)); done",
        ]);
        let output = run(&mut command, "step", "none", &silent).unwrap();
        assert_eq!(output.lines().count(), KEPT_LINES);
        assert!(output.ends_with("line-499"));
    }

    #[test]
    fn shown_quotes_what_a_shell_would_split() {
        let mut command = Command::new("cargo");
        command.arg("a b").env("FLAGS", "-C\x1flto");
        assert_eq!(shown(&command), "FLAGS='-C lto' cargo 'a b'");
    }
}
