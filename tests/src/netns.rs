//! Anonymous network namespaces, and work done inside them.
//!
//! A namespace lives as long as its [`Netns`] (and sockets and processes in it): the kernel takes
//! it away even when the owner is killed, so there is nothing to sweep. Threads enter namespaces,
//! processes never do: the caller's own thread stays where it is unless it calls [`Netns::enter`].

use std::{
    fs::File,
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace.
#[derive(Debug)]
pub struct Netns {
    handle: File,
}

impl Netns {
    /// A new one, with loopback up and addresses usable at once (no duplicate address detection).
    pub fn new() -> Result<Self> {
        let netns = Self::unshared()?;
        netns.run(|| -> Result<()> {
            for scope in ["all", "default"] {
                set_sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
                set_sysctl(&format!("net/ipv6/conf/{scope}/accept_ra"), "0")?;
            }
            // Many short connections from one address: all ports, and again after a second.
            set_sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
            set_sysctl("net/ipv4/tcp_tw_reuse", "1")
        })?;
        netns.ip_batch("link set lo up\n")?;
        Ok(netns)
    }

    /// The one that the calling thread is in.
    pub fn current() -> Result<Self> {
        let handle = File::open("/proc/thread-self/ns/net")
            .context("cannot open this thread's network namespace: is /proc mounted?")?;
        Ok(Self { handle })
    }

    /// Another handle to the same namespace.
    pub fn share(&self) -> Result<Self> {
        let handle = self
            .handle
            .try_clone()
            .context("cannot duplicate a namespace's descriptor")?;
        Ok(Self { handle })
    }

    fn unshared() -> Result<Self> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context(
                "cannot make a network namespace: this needs root (CAP_SYS_ADMIN); run it with sudo",
            )?;
            Self::current()
        })
    }

    /// A path that other processes can open while this value lives, as for `nsenter --net=PATH`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.handle.as_raw_fd()
        ))
    }

    /// Moves the calling thread in, for good.
    pub fn enter(&self) -> Result<()> {
        setns(&self.handle, CloneFlags::CLONE_NEWNET)
            .context("cannot enter a network namespace: this needs root (CAP_SYS_ADMIN)")
    }

    /// Runs `work` inside, on a thread of its own, and waits for it. A panic goes on here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_thread(|| {
            self.enter().expect("a namespace of ours can be entered");
            work()
        })
    }

    /// A TCP listener inside. Its port can be 0.
    pub fn listen(&self, address: SocketAddr) -> Result<TcpListener> {
        self.run(|| listen_here(address))
    }

    /// A TCP connection from inside.
    pub fn connect(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        self.run(|| TcpStream::connect(address))
    }

    /// Sets a kernel parameter of this namespace: one below `net/`.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| set_sysctl(key, value))
    }

    /// One of its counters in `netstat`: of a group like `TcpExt`, by name.
    pub fn counter(&self, group: &str, name: &str) -> Result<u64> {
        let text = self.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat"));
        let text = text.context("cannot read netstat")?;
        counter_in(&text, group, name).with_context(|| format!("netstat has no {group} {name}"))
    }

    /// TCP sockets inside that are connected, or on their way to it or from it; those that only wait
    /// for stray segments (TIME_WAIT) hold nothing.
    pub fn open_sockets(&self) -> Result<usize> {
        const TIME_WAIT: &str = "06";
        const LISTEN: &str = "0A";
        let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
        let read = || tables.map(std::fs::read_to_string);
        let mut count = 0;
        for table in self.run(read) {
            let table = table.context("cannot list TCP sockets")?;
            let states = table.lines().skip(1);
            let states = states.filter_map(|line| line.split_ascii_whitespace().nth(3));
            count += states
                .filter(|state| ![TIME_WAIT, LISTEN].contains(state))
                .count();
        }
        Ok(count)
    }

    /// Runs `ip -batch` inside with these commands, one a line.
    pub fn ip_batch(&self, commands: &str) -> Result<()> {
        self.run(|| run_batch("ip", &["-batch", "-"], commands))
            .map(drop)
    }

    /// Runs `nft` inside with these commands, and gives what it prints.
    pub fn nft(&self, commands: &str) -> Result<String> {
        self.run(|| run_batch("nft", &["-f", "-"], commands))
    }
}

/// A listener whose queue is long enough for bursts (std's 128 would drop SYNs, which then take a
/// second to be sent again), with `SO_REUSEADDR` set.
fn listen_here(address: SocketAddr) -> Result<TcpListener> {
    let listen = || -> std::io::Result<TcpListener> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        Ok(socket.into())
    };
    listen().with_context(|| format!("cannot listen on {address} in its namespace"))
}

/// Runs a system tool that takes commands on its standard input.
fn run_batch(program: &str, arguments: &[&str], commands: &str) -> Result<String> {
    // `su` and some sudoers leave the directories of system tools out.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut child = Command::new(program)
        .env("PATH", path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| {
            format!("cannot run {program}: install the packages iproute2 and nftables")
        })?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin
        .write_all(commands.as_bytes())
        .with_context(|| format!("cannot write to {program}"))?;
    drop(stdin);
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot wait for {program}"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{program} failed ({}): {}\nits input was:\n{commands}",
            output.status,
            complaint.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sets a kernel parameter in the calling thread's network namespace.
///
/// Only parameters below `net/`: those belong to the namespace, others to the whole machine.
fn set_sysctl(key: &str, value: &str) -> Result<()> {
    ensure!(
        key.starts_with("net/"),
        "{key} is not a parameter of a network namespace"
    );
    let path = format!("/proc/sys/{key}");
    std::fs::write(&path, value).with_context(|| format!("cannot write {value:?} to {path}"))
}

/// A group is a line of names, then a line of values.
fn counter_in(netstat: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = netstat
        .lines()
        .filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    value.parse().ok()
}

/// Runs `work` on a fresh thread, so that what it does to its thread ends with it.
fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
