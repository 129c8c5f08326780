//! The command line: `idlefirst agent` and the commands that look at a running one.
//!
//! Owns the arguments, the exit codes (0 fine, 1 failed, 2 usage) and what is printed where:
//! results on standard output, errors on standard error. The looking goes through the admin API
//! alone, so whatever a person sees a program can get. Called by `main`.

mod address;
mod audit;
mod check;
mod client;
mod drain;
mod list;
mod queues;
mod service;
mod status;
mod table;
mod uninstall;

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use clap_complete::Shell;
use tokio::runtime;

use crate::{
    agent,
    config::{self, AdminAddress, DEFAULT_PATH, LogFormat, LogLevel, Metrics, Overrides},
    privileges,
};
use client::Client;

/// Idlefirst: steers each new connection to an idle backend, in the kernel.
#[derive(Debug, Parser)]
#[command(
    name = "idlefirst",
    version,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    /// Admin API of the agent: unix:PATH, http://HOST:PORT or IP:PORT. May be repeated: commands
    /// take the first that answers, the agent listens on all. Instead of IDLEFIRST_ADMIN (entries
    /// separated by commas) or the built-in unix:/run/idlefirst/admin.sock and 127.0.0.1:9090
    #[arg(long, global = true, value_name = "ADDRESS")]
    admin: Vec<String>,
    /// File with the token for changes over TCP: commands send what it holds, the agent asks for it.
    /// Instead of IDLEFIRST_ADMIN_TOKEN_FILE
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs: what the admin API answers
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Balance this machine's connections until SIGTERM or Ctrl-C
    Agent(AgentArguments),
    /// End steering: detach the programs of an agent that has ended, and remove what it has pinned
    Uninstall(UninstallArguments),
    /// Show whether the agent steers, and by which configuration; exits with 1 if it does not
    Status,
    /// List the services, or show one
    Services {
        /// NAME or NAMESPACE/NAME
        name: Option<String>,
    },
    /// List the backends
    Backends,
    /// List the overflow queues: who waits, and who was refused
    Queues,
    /// Give a backend nothing new: it keeps what it has
    Drain {
        /// IP:PORT, as `idlefirst backends` shows it
        address: SocketAddr,
    },
    /// Let a drained backend take part again
    Undrain {
        /// IP:PORT, as `idlefirst backends` shows it
        address: SocketAddr,
    },
    /// Count the live connections anew, and correct counts that are wrong; exits with 1 if one
    /// cannot be corrected
    Audit,
    /// List the steered connections that are alive
    Connections {
        /// Only those of this service: NAME or NAMESPACE/NAME
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// So many at most
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// List the BPF maps, or show what is in one
    Maps {
        /// For example BACKENDS; in either case
        name: Option<String>,
        /// So many entries at most
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Log more or less from now on
    LogLevel {
        /// error, warn, info, debug or trace
        #[arg(value_parser = word::<LogLevel>)]
        level: LogLevel,
    },
    /// Check a configuration, or print one to start from
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with a configuration file; exits with 1 if anything is
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print every key with its default and its meaning
    Defaults,
}

#[derive(Debug, clap::Args)]
struct UninstallArguments {
    /// The configuration file of the agent, which says where it pins
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Where it pins, whatever the configuration says
    #[arg(long, value_name = "PATH")]
    pin_path: Option<PathBuf>,
    /// Stay afterwards, until SIGTERM or Ctrl-C: where whoever started it would start it again
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, clap::Args)]
struct AgentArguments {
    /// Instead of starting, end steering: the same as `uninstall`
    #[arg(long)]
    cleanup: bool,
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// The cgroup whose processes are balanced [default: the root of the unified hierarchy]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Directory on a BPF file system where maps are pinned
    #[arg(long, value_name = "PATH")]
    pin_path: Option<PathBuf>,
    /// Where metrics are served besides the admin API: IP:PORT or none
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<Metrics>,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", value_parser = word::<LogLevel>)]
    log_level: Option<LogLevel>,
    /// text or json
    #[arg(long, value_name = "FORMAT", value_parser = word::<LogFormat>)]
    log_format: Option<LogFormat>,
}

/// How to reach an agent.
struct Given {
    admin: Vec<String>,
    token_file: Option<PathBuf>,
}

impl Given {
    /// The file with the token, if one is named. An empty variable counts as unset.
    fn token_file(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os(config::ADMIN_TOKEN_FILE).filter(|it| !it.is_empty());
        self.token_file
            .clone()
            .or_else(|| variable().map(Into::into))
    }
}

/// What a command has to say.
struct Report {
    text: String,
    /// Whether all is well.
    fine: bool,
}

impl Report {
    fn fine(text: String) -> Self {
        Self { text, fine: true }
    }
}

/// Runs the command that this process was started for.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli).and_then(|report| Ok((print(&report.text)?, report.fine))) {
        Ok(((), true)) => ExitCode::SUCCESS,
        Ok(((), false)) => ExitCode::FAILURE,
        Err(error) => {
            // Fails only if nobody reads it.
            let _ = writeln!(io::stderr(), "error: {}", told_once(&error));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<Report> {
    let output = cli.output;
    let given = Given {
        admin: cli.admin,
        token_file: cli.token_file,
    };
    match cli.command {
        Command::Uninstall(arguments) if arguments.wait => uninstall::and_wait(&arguments, output),
        Command::Uninstall(arguments) => uninstall::uninstall(&arguments, output),
        Command::Agent(arguments) if arguments.cleanup => {
            let AgentArguments {
                config, pin_path, ..
            } = arguments;
            let arguments = UninstallArguments {
                config,
                pin_path,
                wait: false,
            };
            uninstall::uninstall(&arguments, output)
        }
        Command::Agent(arguments) => {
            let (file, overrides) = arguments.resolve(&given.admin, given.token_file);
            privileges::keep_for_start()?;
            let runtime = runtime::Builder::new_multi_thread()
                .enable_all()
                .on_thread_start(privileges::begin_thread)
                .build()?;
            let outcome = runtime.block_on(agent::run(file, overrides));
            // Neither a read of the file that hangs (a dead network mount) must keep us, nor what is in
            // flight when a second signal has come.
            runtime.shutdown_background();
            outcome?;
            Ok(Report::fine(String::new()))
        }
        Command::Config(ConfigCommand::Check { file }) => check::check(&file, output),
        Command::Config(ConfigCommand::Defaults) => Ok(Report::fine(config::defaults_yaml())),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "idlefirst", &mut script);
            Ok(Report::fine(String::from_utf8(script)?))
        }
        Command::Status => ask(&given, async |client| status::status(client, output).await),
        Command::Services { name: None } => {
            ask(&given, async |client| list::services(client, output).await)
        }
        Command::Services { name: Some(name) } => ask(&given, async |client| {
            service::service(client, &name, output).await
        }),
        Command::Backends => ask(&given, async |client| list::backends(client, output).await),
        Command::Queues => ask(&given, async |client| queues::queues(client, output).await),
        Command::Drain { address } => ask(&given, async |client| {
            drain::drain(client, address, output).await
        }),
        Command::Undrain { address } => ask(&given, async |client| {
            drain::undrain(client, address, output).await
        }),
        Command::Audit => ask(&given, async |client| audit::audit(client, output).await),
        Command::Connections { service, limit } => ask(&given, async |client| {
            list::connections(client, service.as_deref(), limit, output).await
        }),
        Command::Maps { name: None, .. } => {
            ask(&given, async |client| list::maps(client, output).await)
        }
        Command::Maps {
            name: Some(name),
            limit,
        } => ask(&given, async |client| {
            list::map(client, &name, limit, output).await
        }),
        Command::LogLevel { level } => ask(&given, async |client| {
            status::log_level(client, level, output).await
        }),
    }
}

/// Runs a command against the first agent that answers.
fn ask(
    given: &Given,
    command: impl AsyncFnOnce(&Client) -> anyhow::Result<Report>,
) -> anyhow::Result<Report> {
    let addresses = std::env::var("IDLEFIRST_ADMIN").ok();
    let addresses =
        address::to_try(&given.admin, addresses.as_deref()).unwrap_or_else(|fault| usage(&fault));
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = Client::find(addresses, given.token_file()).await?;
        command(&client).await
    })
}

impl AgentArguments {
    /// The configuration file, and what stands in for its keys.
    fn resolve(self, admin: &[String], token_file: Option<PathBuf>) -> (PathBuf, Overrides) {
        let listen = |text: &String| match text.parse::<AdminAddress>() {
            Ok(address) => address,
            Err(fault) => usage(&format!(
                "--admin {text:?} cannot be an address to listen on: {fault}; \
                 write unix:/ABSOLUTE/PATH or IP:PORT"
            )),
        };
        let admin: Vec<_> = admin.iter().map(listen).collect();
        let overrides = Overrides {
            cgroup: self.cgroup,
            pin_path: self.pin_path,
            admin: (!admin.is_empty()).then_some(admin),
            admin_token_file: token_file.map(|path| std::path::absolute(&path).unwrap_or(path)),
            metrics: self.metrics,
            log_level: self.log_level,
            log_format: self.log_format,
        };
        (self.config, overrides)
    }
}

/// Parses one of the configuration's words.
fn word<T: std::str::FromStr<Err = crate::model::UnknownWord>>(
    text: &str,
) -> Result<T, crate::model::UnknownWord> {
    text.parse()
}

/// Ends the process as clap does for wrong arguments.
fn usage(fault: &impl ToString) -> ! {
    Cli::command()
        .error(ErrorKind::ValueValidation, fault.to_string())
        .exit()
}

/// Writes a result. A reader that has seen enough is no failure.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// An error with those of its causes that it does not tell itself.
fn told_once(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.is_empty() {
            told = cause;
        } else if !told.contains(&cause) {
            told.push_str(": ");
            told.push_str(&cause);
        }
    }
    told
}

#[cfg(test)]
mod tests;
