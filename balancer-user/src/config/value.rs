//! Checks of single values: a word, a number, a duration, an address, a path.
//!
//! Each takes the text and its place, reports what is wrong to the findings, and gives the checked
//! value or nothing. None of them knows the keys around it: those are for `agent` and `services`.

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

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
fn number(
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

/// A whole number of things called `what` within `range`.
pub(crate) fn count(
    written: Written<'_>,
    what: &str,
    range: RangeInclusive<u32>,
    findings: &mut Findings,
) -> Option<u32> {
    number(written, what, "", range, findings)
}

/// `true` or `false`.
pub(crate) fn switch(written: Written<'_>, what: &str, findings: &mut Findings) -> Option<bool> {
    let Written { text, place } = written;
    let switch = text.parse().ok();
    if switch.is_none() {
        let wrong = format!("{what} {text:?} is neither true nor false");
        findings.reject(place, wrong, "write true or false");
    }
    switch
}

/// A time called `what` within `range`, as a number of milliseconds without a unit.
pub(crate) fn milliseconds(
    written: Written<'_>,
    what: &str,
    range: RangeInclusive<Duration>,
    findings: &mut Findings,
) -> Option<Duration> {
    let most = |time: &Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let range = most(range.start())..=most(range.end());
    let number = number(written, what, "milliseconds", range, findings)?;
    Some(Duration::from_millis(number.into()))
}

/// A time called `what` within `range`, as a number of seconds without a unit.
pub(crate) fn seconds(
    written: Written<'_>,
    what: &str,
    range: RangeInclusive<Duration>,
    findings: &mut Findings,
) -> Option<Duration> {
    let most = |time: &Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let range = most(range.start())..=most(range.end());
    let number = number(written, what, "seconds", range, findings)?;
    Some(Duration::from_secs(number.into()))
}

/// A time called `what` within `range`: a whole number and its unit, without a space.
pub(crate) fn duration(
    written: Written<'_>,
    what: &str,
    range: RangeInclusive<Duration>,
    findings: &mut Findings,
) -> Option<Duration> {
    duration_or(written, what, range, "", findings)
}

/// A time where a word may stand as well; `or` adds it to the hint.
pub(crate) fn duration_or(
    written: Written<'_>,
    what: &str,
    range: RangeInclusive<Duration>,
    or: &str,
    findings: &mut Findings,
) -> Option<Duration> {
    let Written { text, place } = written;
    let (low, high) = (Time(*range.start()), Time(*range.end()));
    let wrong = match parse_duration(text) {
        Ok(time) if range.contains(&time) => return Some(time),
        Ok(time) if time < low.0 => format!("{what} {text} is below {low}"),
        Ok(_) => format!("{what} {text} is above {high}"),
        Err(DurationFault::NoUnit) => format!("{what} {text} has no unit"),
        Err(DurationFault::Shape) => format!("{what} {text:?} is not a time"),
    };
    let hint = format!(
        "write a whole number and its unit (ms, s, m or h), as in 100ms or 5s, from {low} to {high}{or}"
    );
    findings.reject(place, wrong, hint);
    None
}

/// Why a text is no time.
enum DurationFault {
    /// Only digits.
    NoUnit,
    /// Anything else.
    Shape,
}

/// The units of times, the largest first, with their milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A time that is too long for the type is as long as the type can say.
fn parse_duration(text: &str) -> Result<Duration, DurationFault> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(DurationFault::Shape);
    }
    if unit.is_empty() {
        return Err(DurationFault::NoUnit);
    }
    let unit = UNITS.iter().find(|(word, _)| *word == unit);
    let (_, milliseconds) = unit.ok_or(DurationFault::Shape)?;
    let number = number.parse::<u64>().unwrap_or(u64::MAX);
    Ok(Duration::from_millis(number.saturating_mul(*milliseconds)))
}

/// Shows a time of whole milliseconds as it may be written.
pub(crate) struct Time(pub(crate) Duration);

impl Display for Time {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let fits = |unit: &&(&str, u64)| milliseconds > 0 && milliseconds % unit.1 == 0;
        let (word, unit) = UNITS.iter().find(fits).unwrap_or(&("ms", 1));
        write!(out, "{}{word}", milliseconds / unit)
    }
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

/// Bytes in the name of a node or a zone at most: what a DNS name may have.
const MAX_LOCATION_BYTES: usize = 253;

/// The name of a node or a zone. It is only ever compared, so any visible ASCII will do.
pub(crate) fn location(
    written: Written<'_>,
    what: &str,
    findings: &mut Findings,
) -> Option<Arc<str>> {
    let Written { text, place } = written;
    let wrong = if text.is_empty() {
        format!("{what} is empty")
    } else if text.len() > MAX_LOCATION_BYTES {
        let length = text.len();
        format!("{what} has {length} bytes, and such a name has at most {MAX_LOCATION_BYTES}")
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        format!("{what} {text:?} contains what is no visible ASCII character")
    } else {
        return Some(text.into());
    };
    findings.reject(
        place,
        wrong,
        "write a name as in node-1 or eu-central-1a, or remove the key",
    );
    None
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

/// The path of a cgroup: absolute, or below the root of the hierarchy.
pub(crate) fn cgroup(written: Written<'_>, findings: &mut Findings) -> Option<PathBuf> {
    let Written { text, place } = written;
    let path = Path::new(text);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !text.is_empty() && plain && !text.contains('\0') {
        return Some(path.to_owned());
    }
    findings.reject(
        place,
        format!("{text:?} is not the path of a cgroup"),
        "write the whole path, or one below the root of the hierarchy: system.slice/a.service",
    );
    None
}

/// Bytes in a request target at most.
const MAX_TARGET_BYTES: usize = 1024;

/// The path, and perhaps the query, that an HTTP request asks for.
pub(crate) fn request_target(
    written: Written<'_>,
    what: &str,
    findings: &mut Findings,
) -> Option<Arc<str>> {
    let Written { text, place } = written;
    let wrong = if text.len() > MAX_TARGET_BYTES {
        let length = text.len();
        format!("{what} has {length} bytes, and a path has at most {MAX_TARGET_BYTES} here")
    } else if !text.starts_with('/') {
        format!("{what} {text:?} does not begin with '/'")
    } else if !is_request_target(text) {
        format!("{what} {text:?} contains what no request can ask for")
    } else {
        return Some(text.into());
    };
    findings.reject(
        place,
        wrong,
        "write a path, as in /_/health, without spaces and '#', other than ASCII as %XX",
    );
    None
}

/// Whether a request for `text` would go out with just that.
fn is_request_target(text: &str) -> bool {
    let uri = text.parse::<hyper::Uri>();
    let as_is = |uri: hyper::Uri| uri.path_and_query().is_some_and(|target| target == text);
    text.bytes().all(|byte| byte.is_ascii_graphic()) && uri.is_ok_and(as_is)
}

/// For hints: the words, with commas.
pub(crate) fn listed<T: Display>(words: &[T]) -> String {
    let words: Vec<String> = words.iter().map(T::to_string).collect();
    words.join(", ")
}
