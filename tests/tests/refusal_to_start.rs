//! An agent that cannot do its work says why, where and what to do, ends with 1 and leaves nothing
//! behind.

use std::{
    fmt::Write as _,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::Signal,
};
use tests::{
    admin::Admin,
    crowd::{SOON, frontend_address, pod_address},
    name,
    process::Process,
    refusal::{LEAST, START, Stage, assert_says, assert_steered},
    run_dir::RunDir,
    wait::eventually,
};

#[test]
fn malformed_yaml_names_the_line() -> Result<()> {
    let stage = Stage::new()?;
    let said = stage.refused(&(stage.config() + "   - name: [\n"))?;
    assert_says(&said, &["config.yaml:9:", "not valid YAML", "indentation"]);
    let said = stage.refused("")?;
    assert_says(&said, &["config.yaml: ", "sets nothing", "write at least"]);
    Ok(())
}

#[test]
fn an_unknown_key_names_the_line_and_the_known_ones() -> Result<()> {
    let stage = Stage::new()?;
    let config = stage.config().replace("  pin_path:", "  pin_paths:");
    let said = stage.refused(&config)?;
    assert_says(
        &said,
        &[
            "config.yaml:4:",
            "unknown key \"pin_paths\"",
            "known here",
            "pin_path",
        ],
    );
    Ok(())
}

#[test]
fn duplicate_frontends_name_both_lines() -> Result<()> {
    let stage = Stage::new()?;
    let second = format!(
        "- {{name: second, frontends: [\"{}\"]}}\n",
        frontend_address(0)
    );
    let said = stage.refused(&(stage.config() + &second))?;
    let words = [
        "config.yaml:9:",
        "10.96.0.1:80",
        "default/second",
        "default/hello",
        "line 8",
    ];
    assert_says(&said, &words);
    assert_says(&said, &["give each frontend to one service"]);
    Ok(())
}

#[test]
fn a_frontend_that_is_a_backend_names_both_lines() -> Result<()> {
    let stage = Stage::new()?;
    let second = format!("- {{name: second, frontends: [\"{}\"]}}\n", pod_address(0));
    let said = stage.refused(&(stage.config() + &second))?;
    let words = [
        "config.yaml:9:",
        "10.111.1.1:8080",
        "also a backend of default/hello",
        "line 8",
    ];
    assert_says(&said, &words);
    assert_says(&said, &["no pod listens on"]);
    Ok(())
}

#[test]
fn too_many_backends_are_counted() -> Result<()> {
    let stage = Stage::new()?;
    let mut config = stage.config();
    config += "- name: big\n  frontends: [\"10.96.0.9:80\"]\n  backends:\n";
    for backend in 0..5000 {
        let (high, low) = (backend / 250, backend % 250 + 1);
        writeln!(config, "  - {{address: \"10.112.{high}.{low}:80\"}}")?;
    }
    let said = stage.refused(&config)?;
    let words = [
        "config.yaml:12:",
        "default/big has 5000 backends",
        "at most 4096",
        "split",
    ];
    assert_says(&said, &words);
    Ok(())
}

#[test]
fn a_max_inflight_beyond_the_field_is_refused() -> Result<()> {
    let stage = Stage::new()?;
    for (limit, words) in [
        ("1000001", "max_inflight 1000001 is above 1000000"),
        ("4294967296", "max_inflight 4294967296 is above 1000000"),
        ("99999999999999999999999", "is above 1000000"),
        ("-1", "max_inflight -1 is negative"),
        ("1e3", "is not a whole number"),
    ] {
        let config = stage.config();
        let config = config.replace("max_inflight: 1,", &format!("max_inflight: {limit},"));
        let said = stage.refused(&config)?;
        assert_says(&said, &["config.yaml:8:", words, "from 0 to 1000000"]);
    }
    Ok(())
}

#[test]
fn a_file_that_is_not_there_is_named() -> Result<()> {
    let stage = Stage::new()?;
    let said = stage.refused_with(&[], &stage.path("nowhere.yaml"))?;
    let words = [
        "nowhere.yaml",
        "cannot be read",
        "No such file",
        "--config",
        "config defaults",
    ];
    assert_says(&said, &words);
    stage.assert_nothing_left()
}

#[test]
fn a_missing_capability_is_named() -> Result<()> {
    let stage = Stage::new()?;
    let without = |dropped: &str, words: &[&str]| -> Result<()> {
        let dropped = format!("--bounding-set={dropped}");
        let said = stage.refused_under(&["setpriv", &dropped, "--"], &stage.config())?;
        assert_says(&said, words);
        assert_says(
            &said,
            &[
                "cannot load eBPF programs",
                "is missing",
                "run as root, or grant",
            ],
        );
        Ok(())
    };
    without("-sys_admin,-bpf", &["capability CAP_BPF is missing"])?;
    without("-net_admin", &["capability CAP_NET_ADMIN is missing"])?;
    without("-all", &["CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"])
}

/// What cannot be loaded is not half loaded: what an earlier agent has left goes on, and without one
/// connections go where they would go anyway.
#[test]
fn programs_that_cannot_be_loaded_change_nothing() -> Result<()> {
    const LAUNCHER: [&str; 3] = ["setpriv", "--bounding-set=-sys_admin,-perfmon", "--"];
    const WORDS: [&str; 2] = ["cannot load eBPF programs", "CAP_PERFMON"];
    let stage = Stage::new()?;
    let _server = stage.crowd.serve(0, 1, Duration::ZERO)?;
    assert_says(&stage.refused_under(&LAUNCHER, &stage.config())?, &WORDS);
    let unsteered = stage.crowd.dial(frontend_address(0));
    let unsteered = unsteered.expect_err("nothing is routed there");
    ensure!(
        unsteered.kind() == ErrorKind::NetworkUnreachable,
        "{unsteered}"
    );

    let file = stage.path("config.yaml");
    fs::write(&file, stage.config())?;
    let mut process = Process::start(stage.command(&[], &file)?)?;
    eventually(START, || assert_steered(&stage.crowd));
    process.kill()?;
    assert_says(&stage.refused_with(&LAUNCHER, &file)?, &WORDS);
    for _ in 0..10 {
        assert_steered(&stage.crowd)?;
    }
    let mut process = Process::start(stage.command(&[], &file)?)?;
    eventually(START, || -> Result<()> {
        let said = process.stderr();
        ensure!(said.contains("taken over"), "{said}");
        assert_steered(&stage.crowd)
    });
    process.signal(Signal::SIGTERM)?;
    process.wait(SOON)?;
    stage.uninstall(&file)?;
    Ok(())
}

#[test]
fn the_capabilities_that_are_asked_for_are_enough() -> Result<()> {
    let stage = Stage::new()?;
    let _server = stage.crowd.serve(0, 1, Duration::ZERO)?;
    let file = stage.path("config.yaml");
    fs::write(&file, stage.config())?;
    let mut process = Process::start(stage.command(&LEAST, &file)?)?;
    eventually(START, || -> Result<()> {
        if let Some(status) = process.ended()? {
            panic!("it ended with {status}: {}", process.stderr());
        }
        assert_steered(&stage.crowd)
    });
    let admin = Admin::Unix(stage.path("admin.sock"));
    let document = admin.get_json("/openapi.json")?;
    // That one does not end.
    const EVENTS: &str = "/v1/events";
    drop(admin.follow("")?);
    for (path, methods) in document["paths"].as_object().context("paths")? {
        if path == EVENTS || methods["get"].is_null() {
            continue;
        }
        let path = path.replace("{namespace}", "default");
        let path = path.replace("services/default/{name}", "services/default/hello");
        let path = path.replace("maps/{name}", "maps/CONNECTIONS");
        let answer = admin.get(&path)?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
    }
    process.signal(Signal::SIGTERM)?;
    let status = process.wait(SOON)?;
    ensure!(status.success(), "{status}: {}", process.stderr());
    // Another with as little can take over, and end it.
    let mut process = Process::start(stage.command(&LEAST, &file)?)?;
    eventually(START, || -> Result<()> {
        ensure!(
            process.stderr().contains("taken over"),
            "{}",
            process.stderr()
        );
        assert_steered(&stage.crowd)
    });
    process.signal(Signal::SIGTERM)?;
    let status = process.wait(SOON)?;
    ensure!(status.success(), "{status}: {}", process.stderr());
    stage.uninstall(&file)?;
    fs::remove_file(&file)?;
    stage.assert_nothing_left()
}

#[test]
fn a_cgroup_that_is_none_is_told_from_others() -> Result<()> {
    let stage = Stage::new()?;
    let refused = |path: &Path, words: &[&str]| -> Result<()> {
        let said = stage.refused(&stage.config_for(path, &stage.pins()))?;
        let path = path.display().to_string();
        assert_says(
            &said,
            &[
                "agent.cgroup",
                &path,
                "not a directory of a cgroup2 hierarchy",
            ],
        );
        assert_says(&said, words);
        Ok(())
    };
    refused(
        Path::new("/tmp"),
        &["leave agent.cgroup out to have it found"],
    )?;
    refused(Path::new("/etc/passwd"), &["it is not a directory"])?;
    let gone = stage.crowd.cgroup.path().join("gone");
    refused(&gone, &["it does not exist"])?;
    let first_version = FirstVersion::find_or_mount()?;
    refused(&first_version.path, &["it is a cgroup v1 controller"])
}

/// A cgroup v1 hierarchy: one that is there, or one of our own without controllers.
struct FirstVersion {
    path: PathBuf,
    own: Option<RunDir>,
}

impl FirstVersion {
    fn find_or_mount() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let found = mounts.lines().find(|line| line.contains(" - cgroup "));
        if let Some(path) = found.and_then(|line| line.split(' ').nth(4)) {
            let path = path.into();
            return Ok(Self { path, own: None });
        }
        let own = RunDir::new("v1")?;
        let path = own.path().join("v1");
        fs::create_dir(&path)?;
        let hierarchy = format!("none,name={}", name::unique("v1"));
        let flags = MsFlags::empty();
        mount(
            Some("cgroup"),
            &path,
            Some("cgroup"),
            flags,
            Some(&*hierarchy),
        )
        .context("cannot mount a cgroup v1 hierarchy")?;
        let own = Some(own);
        Ok(Self { path, own })
    }
}

impl Drop for FirstVersion {
    fn drop(&mut self) {
        if self.own.is_some()
            && let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH)
        {
            eprintln!("cannot unmount {}: {error}", self.path.display());
        }
    }
}

#[test]
fn without_any_cgroup2_it_says_how_to_mount_one() -> Result<()> {
    let stage = Stage::new()?;
    let config = stage.config();
    let own = format!("  cgroup: {}\n", stage.crowd.cgroup.path().display());
    let unmount = "umount --lazy --all --types cgroup2 && exec \"$@\"";
    let launcher = ["unshare", "--mount", "sh", "-c", unmount, "sh"];
    let said = stage.refused_under(&launcher, &config.replace(&own, ""))?;
    assert_says(
        &said,
        &[
            "no cgroup2 hierarchy is mounted",
            "mount -t cgroup2",
            "agent.cgroup",
        ],
    );
    Ok(())
}

#[test]
fn pins_need_a_bpffs() -> Result<()> {
    let stage = Stage::new()?;
    let plain = stage.path("plain/pins");
    let said = stage.refused(&stage.config_for(stage.crowd.cgroup.path(), &plain))?;
    let plain = plain.display().to_string();
    assert_says(
        &said,
        &[
            "agent.pin_path",
            &plain,
            "not on a BPF file system",
            "mount -t bpf",
        ],
    );
    Ok(())
}

#[test]
fn an_old_kernel_is_named_with_what_is_needed() -> Result<()> {
    let stage = Stage::new()?;
    let said = stage.refused_under(&["setarch", "--uname-2.6", "--"], &stage.config())?;
    assert_says(
        &said,
        &[
            "this kernel is 2.6.",
            "need 6.1 or newer",
            "boot a newer kernel",
        ],
    );
    Ok(())
}

#[test]
fn an_admin_address_in_use_is_named() -> Result<()> {
    let stage = Stage::new()?;
    let taken = stage.crowd.netns.listen("127.0.0.1:0".parse()?)?;
    let address = taken.local_addr()?.to_string();
    let config = stage.config();
    let admin = config.replace("admin: [", &format!("admin: [\"{address}\", "));
    let said = stage.refused(&admin)?;
    assert_says(
        &said,
        &[
            &address,
            "(agent.admin)",
            "in use",
            "free the address",
            "--admin",
        ],
    );

    let metrics = config.replace("metrics: none", &format!("metrics: \"{address}\""));
    let said = stage.refused(&metrics)?;
    assert_says(
        &said,
        &[
            &address,
            "(agent.metrics)",
            "in use",
            "free the address",
            "--metrics",
        ],
    );
    Ok(())
}
