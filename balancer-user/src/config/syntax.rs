//! The YAML library's errors in this project's words.
//!
//! Owns only the translation: position, what is wrong, what to do. Called by `raw`.

use serde_saphyr::Error;
use serde_saphyr::budget::BudgetBreach;

use super::problem::{Place, Problem, Spot};

/// The problem that `error` tells of, found in `text`.
pub(crate) fn problem_of(error: &Error, text: &str) -> Problem {
    let innermost = innermost(error);
    let place = innermost
        .location()
        .or_else(|| error.location())
        .map_or(Place::WholeFile, |at| {
            Place::Spot(Spot::new(at.line(), at.column()))
        });
    let (message, hint) = say(innermost, line_of(text, error));
    Problem::new(place, message, hint)
}

/// Without the wrappers that tell of snippets and aliases.
fn innermost(error: &Error) -> &Error {
    match error {
        Error::AliasError { error, .. } | Error::WithSnippet { error, .. } => innermost(error),
        error => error,
    }
}

fn line_of<'a>(text: &'a str, error: &Error) -> &'a str {
    let line = error.location().map_or(0, |at| at.line());
    let index = usize::try_from(line).unwrap_or(0).saturating_sub(1);
    text.lines().nth(index).unwrap_or("")
}

fn say(error: &Error, line: &str) -> (String, String) {
    match error {
        Error::SerdeUnknownField {
            field, expected, ..
        } => (
            format!("unknown key {field:?}"),
            format!("the keys known here are: {}", expected.join(", ")),
        ),
        Error::DuplicateMappingKey { key, .. } => (
            match key {
                Some(key) => format!("the key {key:?} is there twice"),
                None => "a key is there twice".to_owned(),
            },
            "keep one of them".to_owned(),
        ),
        Error::Unexpected { expected, .. } => wrong_shape(expected),
        Error::SerdeInvalidType { expected, .. } => (
            "a list or a mapping is here where it means nothing".to_owned(),
            format!("write a single value, or {expected}"),
        ),
        Error::NullIntoString { .. } => (
            "a value is missing here".to_owned(),
            "write one, or remove the entry".to_owned(),
        ),
        Error::MultipleDocuments { .. }
        | Error::Budget {
            breach: BudgetBreach::Documents { .. },
            ..
        } => (
            "a second document begins here".to_owned(),
            "keep everything in one document: remove this `---`".to_owned(),
        ),
        Error::UnknownAnchor { .. } => (
            "this alias names no anchor above it".to_owned(),
            "define the anchor (`&name`) before using it, or put the value in quotes".to_owned(),
        ),
        Error::UnsupportedTag { tag, .. } => (
            format!("the tag {tag:?} means nothing here"),
            "remove it, or put the value in quotes".to_owned(),
        ),
        Error::Budget { breach, .. } => (
            over_budget(breach),
            "write a smaller or simpler file".to_owned(),
        ),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::RecursiveReferencesRequireWeakTypes { .. } => (
            "the aliases here unfold into too much".to_owned(),
            "write the values out instead of repeating them by alias".to_owned(),
        ),
        other => (
            format!("not valid YAML: {}", without_position(other)),
            syntax_hint(line),
        ),
    }
}

fn wrong_shape(expected: &str) -> (String, String) {
    let (message, hint) = match expected {
        "string scalar" => (
            "a single value belongs here, not a list or a mapping",
            "write one value; an IPv6 address needs quotes: \"[fd00::1]:8080\"",
        ),
        "sequence start" => (
            "a list belongs here",
            "write `[a, b]`, or one `- a` a line; also for a single entry",
        ),
        "mapping start" => (
            "keys with values belong here",
            "write `key: value`, one a line, indented below this key",
        ),
        other => return (format!("a {other} belongs here"), "write that".to_owned()),
    };
    (message.to_owned(), hint.to_owned())
}

fn over_budget(breach: &BudgetBreach) -> String {
    match breach {
        BudgetBreach::Depth { .. } => "lists and mappings are nested too deeply".to_owned(),
        BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. } => {
            "the file holds too many values".to_owned()
        }
        breach => format!("the file is beyond a limit of the reader ({breach:?})"),
    }
}

/// The library's own words for an error, without the position that it puts at the end.
fn without_position(error: &Error) -> String {
    let text = match error {
        Error::Message { msg, .. } | Error::ExternalMessage { msg, .. } => msg.clone(),
        other => other.to_string(),
    };
    let end = text.rfind(" at line ").unwrap_or(text.len());
    text[..end].to_owned()
}

/// What a person most often did when a line like this does not parse.
fn syntax_hint(line: &str) -> String {
    let hint = if line.contains("[:") || line.contains("]:") {
        "put an IPv6 address in quotes: \"[fd00::1]:8080\""
    } else if line.trim_start_matches(' ').starts_with('\t') {
        "indent with spaces, not with tabs"
    } else {
        "look here and just above for indentation, a missing quote, bracket or colon"
    };
    hint.to_owned()
}
