//! The rules of the source tree: who may name which crate, where `unsafe` may stand, how a
//! file opens and how long it may be.
//!
//! Pure: a path and a text in, violations out. Called by `check`.

use std::{fmt, path::Path};

use super::tokens::{Token, tokens};

/// A file longer than this is split by the decision it makes.
const MOST_LINES: usize = 600;

/// A crate that only part of the tree may name.
struct Fence {
    /// The crate, and those whose names begin with it and an underscore.
    krate: &'static str,
    /// Where the fence stands; outside of these the crate is free.
    within: &'static [&'static str],
    /// Who may name it.
    allowed: &'static [&'static str],
}

const FENCES: [Fence; 2] = [
    Fence {
        krate: "aya",
        within: &["balancer-user/", "balancer-common/", "xtask/"],
        // The bench looks at the maps of an agent from outside, as any user of aya would.
        allowed: &[
            "balancer-user/src/kernel/",
            "xtask/src/bench/sync/kernel.rs",
        ],
    },
    Fence {
        krate: "kube",
        within: &["balancer-user/", "balancer-common/", "xtask/"],
        allowed: &["balancer-user/src/source/kubernetes"],
    },
];

/// Where `unsafe` may stand: at the kernel's two sides, at the C library's allocator, and in tests
/// that need a system call.
const UNSAFE_ALLOWED: [&str; 5] = [
    "balancer-common/src/atomic.rs",
    "balancer-user/src/heap.rs",
    "balancer-user/src/kernel/",
    "balancer-ebpf/",
    "tests/",
];

/// Calls that change which frontend leads where. A crude sign of writing configuration:
/// records in shared memory are written by plain stores, which no token tells apart.
const CONFIGURATION_WRITES: [&str; 2] = ["put_frontend", "remove_frontend"];

/// Who may make them: the one that decides, and the one that carries it out.
const WRITERS: [&str; 2] = ["balancer-user/src/reconcile/", "balancer-user/src/kernel/"];

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    path: String,
    line: usize,
    rule: Rule,
}

#[derive(Debug, PartialEq, Eq)]
enum Rule {
    Fenced {
        krate: &'static str,
        allowed: &'static [&'static str],
    },
    Unsafe,
    WritesConfiguration,
    TooLong {
        lines: usize,
    },
    NoHeader,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.path, self.line)?;
        match &self.rule {
            Rule::Fenced { krate, allowed } => write!(
                f,
                "names the crate {krate}, which only {} may; go through its types",
                allowed.join(", ")
            ),
            Rule::Unsafe => write!(
                f,
                "unsafe outside of {}; move it there or do without",
                UNSAFE_ALLOWED.join(", ")
            ),
            Rule::WritesConfiguration => write!(
                f,
                "writes a configuration map, which only {} may; change the desired state instead",
                WRITERS.join(", ")
            ),
            Rule::TooLong { lines } => {
                write!(
                    f,
                    "{lines} lines, more than {MOST_LINES}; split it by decision"
                )
            }
            Rule::NoHeader => write!(
                f,
                "does not open with a `//!` header; say what the file owns, refuses, and who calls it"
            ),
        }
    }
}

/// Every rule that the file at `path`, relative to the repository's root, breaks.
pub(super) fn violations(path: &Path, text: &str) -> Vec<Violation> {
    let path = path.to_string_lossy().replace('\\', "/");
    let tokens = tokens(text);
    fenced(&path, &tokens)
        .into_iter()
        .chain(misplaced_unsafe(&path, &tokens))
        .chain(written_configuration(&path, &tokens))
        .chain(too_long(text))
        .chain(no_header(text))
        .map(|(line, rule)| Violation {
            path: path.clone(),
            line,
            rule,
        })
        .collect()
}

fn fenced(path: &str, tokens: &[Token]) -> Vec<(usize, Rule)> {
    FENCES
        .iter()
        .filter(|fence| {
            begins_with_any(path, fence.within) && !begins_with_any(path, fence.allowed)
        })
        .flat_map(|fence| {
            crates_named(tokens)
                .filter(|token| is_of_family(&token.text, fence.krate))
                .map(|token| {
                    let Fence { krate, allowed, .. } = *fence;
                    (token.line, Rule::Fenced { krate, allowed })
                })
        })
        .collect()
}

/// Words where a crate can stand: at the head of a path, or after `use` or `extern crate`.
fn crates_named(tokens: &[Token]) -> impl Iterator<Item = &Token> {
    let text = |at: Option<usize>| {
        at.and_then(|at| tokens.get(at))
            .map_or("", |token| token.text.as_str())
    };
    tokens.iter().enumerate().filter_map(move |(at, token)| {
        let before = text(at.checked_sub(1));
        let heads_path = text(Some(at + 1)) == ":"
            && text(Some(at + 2)) == ":"
            // `crate::aya::…` is a module; a leading `::` as in `::aya::…` is the crate.
            && !(before == ":" && is_identifier(text(at.checked_sub(3))));
        let imported = matches!(before, "use" | "crate");
        (heads_path || imported).then_some(token)
    })
}

fn is_identifier(text: &str) -> bool {
    let word = text.starts_with(|c: char| c.is_alphabetic() || c == '_');
    word && !matches!(
        text,
        "use" | "pub" | "in" | "as" | "return" | "dyn" | "impl" | "mut"
    )
}

fn is_of_family(name: &str, krate: &str) -> bool {
    name.strip_prefix(krate)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

fn misplaced_unsafe(path: &str, tokens: &[Token]) -> Vec<(usize, Rule)> {
    if begins_with_any(path, &UNSAFE_ALLOWED) {
        return Vec::new();
    }
    tokens
        .iter()
        .filter(|token| token.text == "unsafe")
        .map(|token| (token.line, Rule::Unsafe))
        .collect()
}

fn written_configuration(path: &str, tokens: &[Token]) -> Vec<(usize, Rule)> {
    if !path.starts_with("balancer-user/src/") || begins_with_any(path, &WRITERS) {
        return Vec::new();
    }
    tokens
        .windows(2)
        .filter(|pair| CONFIGURATION_WRITES.contains(&&*pair[0].text) && pair[1].text == "(")
        .map(|pair| (pair[0].line, Rule::WritesConfiguration))
        .collect()
}

fn too_long(text: &str) -> Option<(usize, Rule)> {
    let lines = text.lines().count();
    (lines > MOST_LINES).then_some((lines, Rule::TooLong { lines }))
}

fn no_header(text: &str) -> Option<(usize, Rule)> {
    (!text.starts_with("//!")).then_some((1, Rule::NoHeader))
}

fn begins_with_any(path: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(path: &str, code: &str) -> Vec<(usize, Rule)> {
        violations(Path::new(path), &format!("//! A header.\n{code}"))
            .into_iter()
            .map(|violation| (violation.line, violation.rule))
            .collect()
    }

    fn names(path: &str, code: &str, krate: &str) -> bool {
        broken(path, code)
            .iter()
            .any(|(_, rule)| matches!(rule, Rule::Fenced { krate: found, .. } if *found == krate))
    }

    #[test]
    fn aya_is_named_only_in_kernel() {
        for code in [
            "use aya::maps::Array;",
            "use aya;",
            "extern crate aya;",
            "pub use ::aya::Ebpf;",
            "fn f(e: &aya::Ebpf) {}",
            "use {std::fs, aya::Ebpf};",
            "aya_log::EbpfLogger::init();",
            "use aya_obj::Object as Parsed;",
        ] {
            assert!(names("balancer-user/src/agent.rs", code, "aya"), "{code}");
            assert!(
                !names("balancer-user/src/kernel/load.rs", code, "aya"),
                "{code}"
            );
            assert!(!names("tests/tests/steer.rs", code, "aya"), "{code}");
        }
    }

    #[test]
    fn what_only_looks_like_a_crate_is_free() {
        for code in [
            "// use aya::maps;",
            "let s = \"aya::maps\";",
            "let aya = 1; f(aya);",
            "use crate::aya::Thing;",
            "use ayatana::Thing;",
        ] {
            assert!(!names("balancer-user/src/agent.rs", code, "aya"), "{code}");
        }
    }

    #[test]
    fn kube_is_named_only_in_its_source() {
        let code = "use kube::Client;";
        assert!(names("balancer-user/src/state.rs", code, "kube"));
        assert!(names("balancer-user/src/source/file.rs", code, "kube"));
        for path in ["kubernetes.rs", "kubernetes/watch.rs"] {
            assert!(!names(
                &format!("balancer-user/src/source/{path}"),
                code,
                "kube"
            ));
        }
    }

    #[test]
    fn unsafe_stands_only_where_it_may() {
        let code = "fn f() { unsafe { g() } }";
        assert_eq!(
            broken("balancer-user/src/agent.rs", code),
            [(2, Rule::Unsafe)]
        );
        assert_eq!(broken("xtask/src/test.rs", code), [(2, Rule::Unsafe)]);
        for path in [
            "balancer-user/src/kernel/map.rs",
            "balancer-ebpf/src/main.rs",
            "tests/src/raw.rs",
        ] {
            assert_eq!(broken(path, code), []);
        }
        assert_eq!(broken("xtask/src/test.rs", "#![forbid(unsafe_code)]"), []);
    }

    #[test]
    fn only_reconcile_writes_configuration() {
        let code = "fn f(k: &Kernel) { k.put_frontend(key, 1); }";
        assert_eq!(
            broken("balancer-user/src/agent.rs", code),
            [(2, Rule::WritesConfiguration)]
        );
        for path in ["reconcile/op.rs", "kernel/load.rs"] {
            assert_eq!(broken(&format!("balancer-user/src/{path}"), code), []);
        }
    }

    #[test]
    fn files_open_with_a_header_and_end_in_time() {
        let path = Path::new("tests/src/lib.rs");
        let rule = |text: &str| violations(path, text).pop().map(|found| found.rule);
        assert_eq!(rule("fn f() {}"), Some(Rule::NoHeader));
        let of_lines = |lines| format!("//! A header.\n{}", "\n".repeat(lines - 1));
        assert_eq!(rule(&of_lines(MOST_LINES)), None);
        let lines = MOST_LINES + 1;
        assert_eq!(rule(&of_lines(lines)), Some(Rule::TooLong { lines }));
    }

    #[test]
    fn a_violation_says_where_what_and_what_to_do() {
        let found = violations(
            Path::new("xtask/src/x.rs"),
            "//! A header.\n\nuse aya::Ebpf;",
        );
        assert_eq!(
            found[0].to_string(),
            "xtask/src/x.rs:3: names the crate aya, which only balancer-user/src/kernel/, \
             xtask/src/bench/sync/kernel.rs may; go through its types"
        );
    }
}
