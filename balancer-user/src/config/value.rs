//! Checks of single values: a word, a number, an address, a path.
//!
//! Each takes the text and its place, reports what is wrong to the findings, and gives the checked
//! value or nothing. None of them knows the keys around it: those are for `agent` and `services`.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use super::problem::{Findings, Place};
use super::raw::Text;
use crate::model::{AddressFault, UnknownWord, parse_address};

/// A text to check, and where it stands: in the file or in the environment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written<'a> {
    pub(crate) text: &'a str,
    pub(crate) place: Place,
}

impl<'a> From<&'a Text> for Written<'a> {
    fn from(text: &'a Text) -> Self {
        Self {
            text: &text.value,
            place: text.spot.into(),
        }
    }
}

/// A word of `T`. One that this version cannot act on is rejected, yet given, so that further
/// checks can go by it.
pub(crate) fn word<T>(written: Written<'_>, supported: &[T], findings: &mut Findings) -> Option<T>
where
    T: FromStr<Err = UnknownWord> + Display + PartialEq,
{
    let Written { text, place } = written;
    match text.parse::<T>() {
        Ok(word) => {
            if !supported.contains(&word) {
                findings.reject(
                    place,
                    format!(
                        "{word:?} is not supported by this version",
                        word = word.to_string()
                    ),
                    format!("supported: {}", listed(supported)),
                );
            }
            Some(word)
        }
        Err(UnknownWord {
            word,
            setting,
            valid,
        }) => {
            let words = valid.join(", ");
            findings.reject(
                place,
                format!("{word:?} is no {setting}"),
                format!("write one of: {words}"),
            );
            None
        }
    }
}

/// A whole number called `what` within `range`, counted in `unit` (which may be empty).
pub(crate) fn number(
    written: Written<'_>,
    what: &str,
    unit: &str,
    range: RangeInclusive<u32>,
    findings: &mut Findings,
) -> Option<u32> {
    let Written { text, place } = written;
    let (low, high) = (*range.start(), *range.end());
    let of_unit = if unit.is_empty() {
        String::new()
    } else {
        format!(" of {unit}")
    };
    let wrong = match whole(text) {
        Some(number) if range.contains(&number) => return Some(number),
        Some(number) if number < low => format!("{what} {number} is below {low}"),
        Some(number) => format!("{what} {number} is above {high}"),
        None if text.strip_prefix('-').and_then(whole).is_some() => {
            format!("{what} {text} is negative")
        }
        None if is_digits(text) => format!("{what} {text} is above {high}"),
        None => format!("{what} {text:?} is not a whole number{of_unit}"),
    };
    findings.reject(
        place,
        wrong,
        format!("write a number{of_unit} from {low} to {high}, digits only"),
    );
    None
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn whole(text: &str) -> Option<u32> {
    is_digits(text).then(|| text.parse().ok()).flatten()
}

/// An address that passes `check`; `what` is the word for it.
pub(crate) fn address(
    written: Written<'_>,
    what: &str,
    check: fn(SocketAddr) -> Result<(), AddressFault>,
    findings: &mut Findings,
) -> Option<SocketAddr> {
    let Written { text, place } = written;
    let checked = parse_address(text).and_then(|address| check(address).map(|()| address));
    checked
        .map_err(|fault| {
            findings.reject(
                place,
                format!("{text:?} cannot be a {what}: {fault}"),
                "write the IP address of one host and a port: \
                 10.1.0.2:8080 or \"[fd00::2]:8080\"",
            );
        })
        .ok()
}

/// An absolute path in its plain form.
pub(crate) fn path(written: Written<'_>, what: &str, findings: &mut Findings) -> Option<PathBuf> {
    let Written { text, place } = written;
    let path = Path::new(text);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && plain && !text.contains('\0') {
        return Some(path.to_owned());
    }
    findings.reject(
        place,
        format!("{what} {text:?} is not an absolute path"),
        "write the whole path, beginning with '/' and without '..'",
    );
    None
}

/// For hints: the words, with commas.
pub(crate) fn listed<T: Display>(words: &[T]) -> String {
    let words: Vec<String> = words.iter().map(T::to_string).collect();
    words.join(", ")
}
