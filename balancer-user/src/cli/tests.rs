//! The arguments, and how errors are told.

use std::io;

use anyhow::Context as _;

use super::*;

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn admin_is_taken_before_and_after_the_command() {
    for line in [
        "idlefirst --admin a:1 status",
        "idlefirst status --admin a:1",
    ] {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        assert_eq!(cli.admin, ["a:1"], "{line}");
    }
}

#[test]
fn the_agents_flags_stand_in_for_keys() {
    let line = "idlefirst agent --config f.yaml --cgroup /c --pin-path /p --admin unix:/a.sock \
                --admin 127.0.0.1:1 --metrics none --log-level debug --log-format json --token-file /t";
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    let Command::Agent(arguments) = cli.command else {
        panic!("{line} is not agent")
    };
    let (file, overrides) = arguments.resolve(&cli.admin, cli.token_file);
    assert_eq!(file, PathBuf::from("f.yaml"));
    let expected = Overrides {
        cgroup: Some("/c".into()),
        pin_path: Some("/p".into()),
        admin_token_file: Some("/t".into()),
        admin: Some(vec![
            AdminAddress::Unix("/a.sock".into()),
            AdminAddress::Tcp("127.0.0.1:1".parse().unwrap()),
        ]),
        metrics: Some(Metrics::Off),
        log_level: Some(LogLevel::Debug),
        log_format: Some(LogFormat::Json),
    };
    assert_eq!(overrides, expected);
}

#[test]
fn an_agent_without_flags_overrides_nothing() {
    let cli = Cli::try_parse_from(["idlefirst", "agent"]).unwrap();
    let Command::Agent(arguments) = cli.command else {
        panic!("not agent")
    };
    let (file, overrides) = arguments.resolve(&cli.admin, cli.token_file);
    assert_eq!(
        (file, overrides),
        (PathBuf::from(DEFAULT_PATH), Overrides::default())
    );
}

#[test]
fn wrong_arguments_are_usage_errors() {
    for line in [
        "idlefirst",
        "idlefirst nonsense",
        "idlefirst agent --log-level loud",
        "idlefirst agent --metrics here",
        "idlefirst log-level",
        "idlefirst status -o xml",
        "idlefirst completions csh",
    ] {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn every_shell_has_a_completion_script() {
    for shell in Shell::value_variants() {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Cli::command(), "idlefirst", &mut script);
        assert!(
            String::from_utf8(script).unwrap().contains("log-level"),
            "{shell}"
        );
    }
}

#[test]
fn a_cause_that_is_told_already_is_not_told_again() {
    let cause = || io::Error::other("it is gone");
    let embedding = anyhow::Error::new(cause()).context("cannot open x: it is gone");
    assert_eq!(told_once(&embedding), "cannot open x: it is gone");
    let plain = Err::<(), _>(cause()).context("cannot open x").unwrap_err();
    assert_eq!(told_once(&plain), "cannot open x: it is gone");
}
