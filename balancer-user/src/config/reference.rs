//! Documentation that cannot drift: the reference and the commented defaults, from one table.
//!
//! Called by the CLI (`config defaults`) and by the test that holds `docs/configuration.md`
//! against the code.

use std::borrow::Cow;
use std::fmt::{self, Write};

use super::key::{Key, Section};
use super::keys::SECTIONS;
use super::problem;
use super::raw::MAX_FILE_BYTES;
use crate::model::{
    MAX_BACKENDS, MAX_BACKENDS_PER_SERVICE, MAX_FRONTENDS_PER_SERVICE, MAX_SERVICES,
    MAX_SERVICES_PER_BACKEND,
};

/// Columns in a comment of the defaults.
const WIDTH: usize = 92;

/// A configuration file with every key at its default, and a comment on each.
///
/// It is itself a good configuration, and means the same as none of its keys being set.
pub fn defaults_yaml() -> String {
    let mut out = String::from(
        "# Every key of Idlefirst's configuration with its default.\n\
         # Keys that may repeat (functions, services, backends) are shown as comments.\n",
    );
    for section in SECTIONS {
        let rendered = match section.path {
            "" => top(&mut out, section),
            "functions.NAME" => {
                let opening = &["functions:", "  hello:"];
                repeating(&mut out, section, "\nfunctions: {}\n", opening)
            }
            "services[]" => repeating(&mut out, section, "\nservices: []\n", &["services:", "  -"]),
            "services[].backends[]" => {
                repeating(&mut out, section, "", &["    backends:", "      -"])
            }
            path => match path.rsplit_once('.') {
                Some((outer, name)) if has_key(outer, name) => Ok(()),
                Some((_, name)) => mapping(&mut out, section, name, 1),
                None => mapping(&mut out, section, path, 0),
            },
        };
        rendered.expect("writing to a String cannot fail");
    }
    out
}

/// Whether the section at `path` has this key: then its default is no mapping.
fn has_key(path: &str, name: &str) -> bool {
    let mut keys = SECTIONS
        .iter()
        .filter(|section| section.path == path)
        .flat_map(|section| section.keys);
    keys.any(|key| key.name == name)
}

fn top(out: &mut String, section: &Section) -> fmt::Result {
    section.keys.iter().try_for_each(|key| {
        writeln!(out)?;
        live_key(out, key, "")
    })
}

fn mapping(out: &mut String, section: &Section, name: &str, depth: usize) -> fmt::Result {
    let outer = "  ".repeat(depth);
    let inner = "  ".repeat(depth + 1);
    writeln!(out)?;
    comment(out, &outer, section.meaning)?;
    writeln!(out, "{outer}{name}:")?;
    let long = section.keys.iter().filter(|key| key.short_for.is_none());
    for key in long {
        live_key(out, key, &inner)?;
    }
    Ok(())
}

fn live_key(out: &mut String, key: &Key, indent: &str) -> fmt::Result {
    comment(out, indent, &about(key))?;
    writeln!(out, "{indent}{}: {}", key.name, key.default)
}

/// A section whose mapping may be there any number of times: none is, and one is shown, as
/// comments. A key whose list is a section of its own is left to that section.
fn repeating(out: &mut String, section: &Section, empty: &str, opening: &[&str]) -> fmt::Result {
    out.push_str(empty);
    let last = opening.last().map_or("", |line| line);
    let depth = last.len() - last.trim_start().len() + 2;
    let indent = format!("# {}", " ".repeat(depth));
    for line in opening {
        writeln!(out, "# {line}")?;
    }
    comment(out, &indent, section.meaning)?;
    let has_section = |key: &&Key| {
        let path = format!("{}.{}[]", section.path, key.name);
        SECTIONS.iter().any(|section| section.path == path)
    };
    for key in section.keys.iter().filter(|key| !has_section(key)) {
        live_key(out, key, &indent)?;
    }
    Ok(())
}

/// Comment lines that begin at `indent`, broken between words.
fn comment(out: &mut String, indent: &str, text: &str) -> fmt::Result {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent.len() + line.len() + word.len() + 3 > WIDTH {
            writeln!(out, "{indent}#{line}")?;
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
    }
    writeln!(out, "{indent}#{line}")
}

/// A sentence or two on a key, as plain text.
fn about(key: &Key) -> String {
    let mut about = format!("{} Values: {}.", meaning(key), key.values).replace('`', "");
    if let Some(variable) = key.variable {
        about.push_str(&format!(" Environment: {variable}."));
    }
    about
}

fn meaning(key: &Key) -> Cow<'static, str> {
    match key.short_for {
        Some(long) => format!("Another name for `{long}`.").into(),
        None => key.meaning.into(),
    }
}

/// The reference of the configuration: `docs/configuration.md`.
pub fn reference_markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    for section in SECTIONS {
        section_markdown(&mut out, section).expect("writing to a String cannot fail");
    }
    limits_markdown(&mut out).expect("writing to a String cannot fail");
    out
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated from balancer-user/src/config/keys.rs and reference.rs. To change it, change those,
then run: UPDATE_DOCS=1 cargo test -p balancer-user config -->

One YAML file: the one given by `--config`, or `/etc/idlefirst/config.yaml`.
`idlefirst config defaults` prints every key with its default; `idlefirst config check FILE` says
what is wrong with a file. Examples are in [examples](examples/).

Environment variables win over the file, flags over both. An empty variable counts as unset.
A variable stands in for exactly one key of the file, named below; in `IDLEFIRST_ADMIN` the
entries are separated by commas.

A time is a whole number and its unit (ms, s, m or h), as in `100ms` or `5s`. Variables in `_MS` and
`_SEC`, and short names in `_ms`, hold a bare number of that unit.

A setting of a service comes from the first of these that has it: its entry under `functions:`,
the service's own key, the environment, `defaults:`, the built-in default. The admin API shows
which one it was.

A file with a syntax error, an unknown key, a bad value or a contradiction is refused as a whole.
All bad values are reported at once, each as

    FILE:LINE:COLUMN: what is wrong; what to do

An agent that runs keeps what it had.
";

fn section_markdown(out: &mut String, section: &Section) -> fmt::Result {
    let title = if section.path.is_empty() {
        "Top level".to_owned()
    } else {
        format!("`{}`", section.path)
    };
    writeln!(out, "\n## {title}\n\n{}\n", section.meaning)?;
    writeln!(out, "| key | values | default | environment | meaning |")?;
    writeln!(out, "|---|---|---|---|---|")?;
    for key in section.keys {
        let default = match key.default {
            _ if key.required => "required".to_owned(),
            "null" => "unset".to_owned(),
            default => format!("`{default}`"),
        };
        let variable = key
            .variable
            .map_or(String::new(), |name| format!("`{name}`"));
        writeln!(
            out,
            "| `{}` | {} | {default} | {variable} | {} |",
            key.name,
            key.values,
            meaning(key)
        )?;
    }
    Ok(())
}

fn limits_markdown(out: &mut String) -> fmt::Result {
    let limits = [
        ("services", MAX_SERVICES),
        ("distinct backends", MAX_BACKENDS),
        ("backends of one service", MAX_BACKENDS_PER_SERVICE),
        ("services of one backend", MAX_SERVICES_PER_BACKEND),
        ("frontends of one service", MAX_FRONTENDS_PER_SERVICE),
        (
            "problems and warnings shown of one file",
            problem::MAX_SHOWN,
        ),
    ];
    writeln!(out, "\n## Limits\n\n| what | at most |\n|---|---|")?;
    for (what, most) in limits {
        writeln!(out, "| {what} | {most} |")?;
    }
    writeln!(
        out,
        "| size of the file | {} MiB |",
        MAX_FILE_BYTES / (1024 * 1024)
    )
}
