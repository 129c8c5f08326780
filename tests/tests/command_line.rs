//! The commands beside `agent`: what they print for people and for programs, their exit codes, and
//! what they say when something is wrong.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    agent::{self, Agent},
    crowd::{Crowd, frontend_address, pod_address, service},
    exact::ExactServer,
    run_dir::RunDir,
};

const FINE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;

/// An agent with a service of two pods, to one of which a connection is held.
struct Stage {
    agent: Agent,
    _servers: Vec<ExactServer>,
    crowd: Crowd,
}

impl Stage {
    fn new() -> Result<Self> {
        let crowd = Crowd::new(2)?;
        let servers = (0..2)
            .map(|pod| crowd.serve(pod, 1, Duration::ZERO))
            .collect::<Result<_>>()?;
        let agent = Agent::start(&crowd.netns, &crowd.cgroup, &[service(0, 1, [0, 1])])?;
        Ok(Self {
            agent,
            _servers: servers,
            crowd,
        })
    }

    /// A command that asks this agent.
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = command(arguments)?;
        command.env("IDLEFIRST_ADMIN", self.agent.admin().to_string());
        Ok(command)
    }

    /// What a command prints that must succeed and complain of nothing.
    fn prints(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments)?.output()?;
        let said = Said::from(output);
        ensure!(
            said.code == Some(FINE) && said.stderr.is_empty(),
            "{arguments:?}: {said:?}"
        );
        ensure!(
            said.stdout.ends_with('\n'),
            "the last line does not end: {said:?}"
        );
        Ok(said.stdout)
    }

    fn prints_json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.prints(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{arguments:?}: {text}"))
    }
}

#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A command of a user who has set nothing.
fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(agent::binary()?);
    command.args(arguments).stdin(Stdio::null());
    for variable in ["IDLEFIRST_ADMIN", "RUST_LOG", "IDLEFIRST_LOG"] {
        command.env_remove(variable);
    }
    Ok(command)
}

fn run(arguments: &[&str]) -> Result<Said> {
    Ok(command(arguments)?.output()?.into())
}

/// Checks an exit code, that nothing was printed as a result, and words of the complaint.
#[track_caller]
fn assert_complains(said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, Some(code), "{said:?}");
    assert_eq!(said.stdout, "", "{said:?}");
    for word in words {
        assert!(said.stderr.contains(word), "no {word:?} in {}", said.stderr);
    }
    assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
}

/// The cells of each line of a table, its header first.
fn cells(table: &str) -> Vec<Vec<&str>> {
    let lines = table.lines();
    lines
        .map(|line| line.split_whitespace().collect())
        .collect()
}

#[test]
fn tables_show_what_the_api_says() -> Result<()> {
    let stage = Stage::new()?;
    let held = stage.crowd.dial(frontend_address(0))?;
    let (busy, client) = (held.peer_addr()?, held.local_addr()?.to_string());
    assert_eq!(busy, frontend_address(0), "the pod stays hidden");

    let services = stage.prints(&["services"])?;
    let lines = cells(&services);
    assert_eq!(lines.len(), 2, "{services}");
    let names = "NAMESPACE NAME FRONTENDS STRATEGY MAX_INFLIGHT BACKENDS IDLE AVAILABLE UNHEALTHY INFLIGHT WAITERS";
    assert_eq!(lines[0].join(" "), names);
    let row = "default service-0 10.96.0.1:80 idle-first 1 2 1 1 0 1 0";
    assert_eq!(lines[1].join(" "), row);

    let backends = stage.prints(&["backends"])?;
    let lines = cells(&backends);
    assert_eq!(lines.len(), 3, "{backends}");
    let states: Vec<_> = lines[1..]
        .iter()
        .map(|cells| (cells[1], cells[2]))
        .collect();
    assert!(
        states.contains(&("full", "1")) && states.contains(&("idle", "0")),
        "{backends}"
    );
    for pod in 0..2 {
        assert!(
            backends.contains(&pod_address(pod).to_string()),
            "{backends}"
        );
    }

    let connections = stage.prints(&["connections"])?;
    for word in [&*client, "10.96.0.1:80", "default/service-0", "held"] {
        assert!(connections.contains(word), "no {word} in {connections}");
    }
    for service in ["service-0", "default/service-0"] {
        let same = stage.prints(&["connections", "--service", service])?;
        assert!(same.contains(&client), "{same}");
    }

    let maps = stage.prints(&["maps"])?;
    for name in [
        "FRONTENDS",
        "SERVICES",
        "BACKENDS",
        "CONNECTIONS",
        "COUNTERS",
        "AGENT",
    ] {
        assert!(maps.contains(name), "no {name} in {maps}");
        let dump = stage.prints(&["maps", &name.to_lowercase()])?;
        assert!(dump.lines().count() >= 2, "{name}: {dump}");
    }
    let one = stage.prints(&["maps", "BACKENDS", "--limit", "1"])?;
    assert!(one.contains("1 of 2 shown"), "{one}");

    let one = stage.prints(&["services", "service-0"])?;
    for word in [
        "default/service-0",
        "max_inflight",
        "idle-first",
        "built-in",
        "full",
        "INFLIGHT",
    ] {
        assert!(one.contains(word), "no {word} in {one}");
    }
    let status = stage.prints(&["status"])?;
    let file = stage.agent.config_path().display().to_string();
    for word in [
        &*file,
        "in force",
        "1 idle, 1 full",
        env!("CARGO_PKG_VERSION"),
    ] {
        assert!(status.contains(word), "no {word} in {status}");
    }
    drop(held);
    stage.agent.stop()
}

#[test]
fn json_is_what_the_api_answers() -> Result<()> {
    let stage = Stage::new()?;
    let _held = stage.crowd.dial(frontend_address(0))?;
    for (arguments, path) in [
        (&["services"][..], "/v1/services"),
        (&["services", "service-0"], "/v1/services/default/service-0"),
        (&["backends"], "/v1/backends"),
        (&["queues"], "/v1/queues"),
        (&["maps"], "/v1/maps"),
        (&["maps", "frontends"], "/v1/maps/FRONTENDS"),
        (
            &["maps", "backends", "--limit", "1"],
            "/v1/maps/BACKENDS?limit=1",
        ),
    ] {
        let expected = stage.agent.admin().get_json(path)?;
        assert_eq!(stage.prints_json(arguments)?, expected, "{arguments:?}");
    }
    let connections = stage.prints_json(&["connections", "--service", "service-0"])?;
    assert_eq!(connections["total"], 1);
    assert_eq!(connections["connections"][0]["holds_slot"], true);
    let status = stage.prints_json(&["status"])?;
    assert_eq!(status["ready"], true);
    assert_eq!(status["inflight"], 1);
    assert_eq!(status["backends"], json!({"full": 1, "idle": 1}));
    assert_eq!(status["overflow"]["is_alive"], true);
    assert_eq!(
        (&status["waiters"], &status["refused"]),
        (&json!(0), &json!(0))
    );
    stage.agent.stop()
}

#[test]
fn a_rejected_change_is_in_the_status() -> Result<()> {
    let stage = Stage::new()?;
    stage
        .agent
        .reload_expecting_rejection("source: file\nservice: []\n")?;
    let status = stage.prints(&["status"])?;
    let place = format!("rejected: {}:2:1: ", stage.agent.config_path().display());
    assert!(status.contains(&place), "{status}");
    assert!(status.contains("unknown key \"service\""), "{status}");
    assert!(status.contains("1 rejected so far"), "{status}");
    stage.agent.stop()
}

#[test]
fn the_log_level_can_be_set() -> Result<()> {
    let stage = Stage::new()?;
    assert!(stage.prints(&["log-level", "debug"])?.contains("debug"));
    assert_eq!(
        stage.prints_json(&["log-level", "warn"])?,
        json!({"level": "warn"})
    );
    let level = stage.agent.admin().get_json("/v1/log-level")?;
    assert_eq!(level, json!({"level": "warn"}));
    stage.agent.stop()
}

#[test]
fn what_the_agent_does_not_know_fails_and_is_named() -> Result<()> {
    let stage = Stage::new()?;
    for (arguments, words) in [
        (
            &["services", "none"][..],
            &["default/none", "/v1/services lists them"][..],
        ),
        (&["services", "team/none"], &["team/none"]),
        (&["services", "No Name"], &["No Name", "NAMESPACE/NAME"]),
        (&["connections", "--service", "none"], &["default/none"]),
        (&["maps", "none"], &["no map", "BACKENDS"]),
        (&["maps", "../version"], &["../version", "idlefirst maps"]),
    ] {
        let said = Said::from(stage.command(arguments)?.output()?);
        assert_complains(&said, FAILED, &["error: "]);
        assert_complains(&said, FAILED, words);
    }
    stage.agent.stop()
}

#[test]
fn without_an_agent_it_says_where_it_looked_and_what_to_do() -> Result<()> {
    let dir = RunDir::new("no-agent")?;
    let socket = format!("unix:{}", dir.path().join("admin.sock").display());
    for arguments in [
        &["status"][..],
        &["services"],
        &["services", "hello"],
        &["backends"],
        &["connections"],
        &["maps"],
        &["maps", "BACKENDS"],
        &["log-level", "info"],
    ] {
        for output in ["table", "json"] {
            let admin = ["--admin", &socket, "--admin", "127.0.0.1:1", "-o", output];
            let said = run(&[arguments, &admin].concat())?;
            let words = [
                "no agent answers",
                &socket,
                "127.0.0.1:1",
                "idlefirst agent",
                "--admin",
            ];
            assert_complains(&said, FAILED, &words);
        }
    }
    Ok(())
}

#[test]
fn the_first_agent_that_answers_is_asked() -> Result<()> {
    let stage = Stage::new()?;
    let admin = stage.agent.admin().to_string();
    let said = run(&["services", "--admin", "127.0.0.1:1", "--admin", &admin])?;
    assert_eq!(said.code, Some(FINE), "{said:?}");
    assert!(said.stdout.contains("service-0"), "{said:?}");
    stage.agent.stop()
}

#[test]
fn wrong_usage_is_told_from_failure() -> Result<()> {
    for (arguments, words) in [
        (&[][..], &["Usage:", "agent", "status"][..]),
        (&["--nonsense"], &["--nonsense"]),
        (&["serve"], &["serve"]),
        (&["status", "-o", "xml"], &["xml", "table, json"]),
        (&["status", "--admin", "nowhere"], &["nowhere", "unix:PATH"]),
        (
            &["agent", "--admin", "unix:here"],
            &["unix:here", "unix:/ABSOLUTE/PATH"],
        ),
        (&["agent", "--metrics", "9102"], &["9102"]),
        (
            &["log-level", "loud"],
            &["loud", "error, warn, info, debug, trace"],
        ),
        (&["log-level"], &["LEVEL"]),
        (&["config", "check"], &["FILE"]),
        (&["connections", "--limit", "-1"], &["-1"]),
        (&["completions", "ksh"], &["ksh", "bash"]),
    ] {
        let said = run(arguments)?;
        assert_complains(&said, USAGE, words);
    }
    Ok(())
}

#[test]
fn help_is_there_for_every_command() -> Result<()> {
    let help = run(&["--help"])?;
    assert_eq!(help.code, Some(FINE));
    for name in [
        "agent",
        "status",
        "services",
        "backends",
        "queues",
        "drain",
        "undrain",
        "connections",
        "maps",
        "config",
        "completions",
    ] {
        assert!(help.stdout.contains(name), "no {name} in {}", help.stdout);
        let own = run(&[name, "--help"])?;
        assert_eq!((own.code, &*own.stderr), (Some(FINE), ""), "{name}");
        assert!(own.stdout.contains("Usage: "), "{name}: {}", own.stdout);
    }
    let version = run(&["--version"])?;
    assert_eq!(
        version.stdout,
        format!("idlefirst {}\n", env!("CARGO_PKG_VERSION"))
    );
    Ok(())
}

#[test]
fn a_configuration_can_be_checked_without_an_agent() -> Result<()> {
    let dir = RunDir::new("check")?;
    let file = dir.path().join("f.yaml");
    let name = file.display().to_string();
    let check = |text: &str, output: &str| -> Result<Said> {
        fs::write(&file, text)?;
        run(&["config", "check", &name, "-o", output])
    };
    let good = "services: [{name: a, frontends: [\"10.96.0.1:80\"]}]\n";
    let said = check(good, "table")?;
    assert_eq!(said.stdout, format!("{name}: no problems\n"));
    assert_eq!((said.code, &*said.stderr), (Some(FINE), ""));
    let said: Value = serde_json::from_str(&check(good, "json")?.stdout)?;
    assert_eq!(
        said,
        json!({"file": name, "ok": true, "problems": [], "warnings": []})
    );

    let said = check("functions: {a: {max_retries: 3}}\n", "table")?;
    assert_eq!(said.code, Some(FINE));
    assert!(
        said.stdout.contains(&format!("warning: {name}:1:")),
        "{said:?}"
    );

    let bad = "source: file\nagent:\n  cgroup: here\n  metrics: 9102\n";
    let said = check(bad, "table")?;
    assert_eq!(
        (said.code, said.stdout.lines().count()),
        (Some(FAILED), 2),
        "{said:?}"
    );
    for (line, place) in said.stdout.lines().zip([":3:", ":4:"]) {
        assert!(line.starts_with(&format!("{name}{place}")), "{line}");
        assert!(line.contains("; "), "what to do: {line}");
    }
    let said = check(bad, "json")?;
    assert_eq!(said.code, Some(FAILED));
    let found: Value = serde_json::from_str(&said.stdout)?;
    assert_eq!(
        (&found["ok"], &found["problems"][0]["line"]),
        (&json!(false), &json!(3))
    );

    let said = run(&["config", "check", "/nowhere.yaml"])?;
    assert_complains(
        &said,
        FAILED,
        &["/nowhere.yaml", "cannot be read", "No such file"],
    );
    Ok(())
}

#[test]
fn the_defaults_are_a_good_configuration() -> Result<()> {
    let defaults = run(&["config", "defaults"])?;
    assert_eq!((defaults.code, &*defaults.stderr), (Some(FINE), ""));
    for key in [
        "pin_path:",
        "admin:",
        "strategy: idle-first",
        "max_inflight: 0",
    ] {
        assert!(
            defaults.stdout.contains(key),
            "no {key} in {}",
            defaults.stdout
        );
    }
    let dir = RunDir::new("defaults")?;
    let file = dir.path().join("defaults.yaml");
    fs::write(&file, &defaults.stdout)?;
    let checked = run(&["config", "check", &file.display().to_string()])?;
    assert_eq!(checked.stdout, format!("{}: no problems\n", file.display()));
    Ok(())
}

#[test]
fn completions_name_the_commands() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let said = run(&["completions", shell])?;
        assert_eq!((said.code, &*said.stderr), (Some(FINE), ""), "{shell}");
        for word in ["idlefirst", "backends", "completions"] {
            assert!(said.stdout.contains(word), "no {word} for {shell}");
        }
    }
    Ok(())
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let mut many = service(0, 1, []);
    // More than a pipe holds.
    many.backends = (0..2000)
        .map(|n| format!("10.112.{}.{}:8080", n / 250, n % 250 + 1))
        .map(tests::service::Backend::at)
        .collect();
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &[many])?;
    for output in ["table", "json"] {
        let mut command = command(&["backends", "-o", output])?;
        command.env("IDLEFIRST_ADMIN", agent.admin().to_string());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("it is piped")?;
        let first = BufReader::with_capacity(64, stdout).split(b' ').next();
        assert!(first.is_some(), "nothing was printed");
        let said = Said::from(child.wait_with_output()?);
        assert_eq!((said.code, &*said.stderr), (Some(FINE), ""), "-o {output}");

        let mut command = self::command(&["backends", "-o", output])?;
        command.env("IDLEFIRST_ADMIN", agent.admin().to_string());
        command.stdout(File::options().write(true).open("/dev/full")?);
        let said = Said::from(command.output()?);
        assert_complains(&said, FAILED, &["error: ", "No space left"]);
    }
    agent.stop()
}
