//! Changes to lines of JSON that leave them JSON: bytes flipped at random hardly ever do.
//!
//! Lines are moved, doubled, dropped and turned into deletions; values are replaced by others that
//! stand elsewhere in the input, or that mean something to the agent. Called by the target
//! `kubernetes`.

use fastrand::Rng;
use serde_json::{Value, json};

/// Names, addresses and values, good and bad ones, that objects have in common.
const WORDS: [&str; 44] = [
    "",
    "a",
    "b",
    "c",
    "fn",
    "true",
    "false",
    "None",
    "TCP",
    "UDP",
    "http",
    "10.96.0.1",
    "10.96.0.2",
    "10.1.0.1",
    "10.1.0.2",
    "127.0.0.1",
    "224.0.0.1",
    "0.0.0.0",
    "fd00::1",
    "fd00::2",
    "::ffff:10.1.0.1",
    "fe80::1",
    "ExternalName",
    "ClusterIP",
    "Local",
    "leader",
    "idle-first",
    "consistent-hash",
    "request",
    "connection",
    "pods",
    "max_inflight",
    "1",
    "0",
    "-1",
    "4294967296",
    "30s",
    "1ms",
    "node-1",
    "zone-1",
    "Ready",
    "True",
    "2026-01-01T00:00:00Z",
    "Succeeded",
];

/// Names of fields that decide something.
const FIELDS: [&str; 22] = [
    "idlefirst.dev/enabled",
    "idlefirst.dev/strategy",
    "idlefirst.dev/max-inflight",
    "idlefirst.dev/publish-leader",
    "idlefirst.dev/intercept",
    "idlefirst.dev/admission",
    "idlefirst.dev/queue-size",
    "idlefirst.dev/affinity",
    "idlefirst.dev/rate-limit",
    "idlefirst.dev/slow-start",
    "idlefirst.dev/hash",
    "faas_function",
    "kubernetes.io/service-name",
    "endpointslice.kubernetes.io/managed-by",
    "deletionTimestamp",
    "clusterIP",
    "addresses",
    "uid",
    "terminating",
    "serving",
    "optional",
    "internalTrafficPolicy",
];

/// The input with something changed; none if that is left to the fuzzer, which flips bytes.
pub fn mutated(data: &[u8], seed: u32) -> Option<Vec<u8>> {
    let random = &mut Rng::with_seed(seed.into());
    if random.u8(..16) == 0 {
        return None;
    }
    let text = std::str::from_utf8(data).ok()?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return None;
    }
    for _ in 0..=random.usize(..3) {
        change(&mut lines, random);
    }
    Some(lines.join("\n").into_bytes())
}

fn change(lines: &mut Vec<String>, random: &mut Rng) {
    let (at, other) = (random.usize(..lines.len()), random.usize(..lines.len()));
    match random.u8(..16) {
        0 => lines.swap(at, other),
        1 => lines.insert(other, lines[at].clone()),
        2 if lines.len() > 1 => drop(lines.remove(at)),
        3 => lines.insert(other, "relist".to_owned()),
        4 => {
            lines[at] = match lines[at].strip_prefix('-') {
                Some(line) => line.to_owned(),
                None => format!("-{}", lines[at]),
            }
        }
        _ => {
            let (sign, line) = match lines[at].strip_prefix('-') {
                Some(line) => ("-", line),
                None => ("", lines[at].as_str()),
            };
            let Ok(mut object) = serde_json::from_str(line) else {
                return;
            };
            let source = lines[other].trim_start_matches('-');
            let source = serde_json::from_str(source).unwrap_or(Value::Null);
            change_value(&mut object, &source, random);
            lines[at] = format!("{sign}{object}");
        }
    }
}

/// Changes something somewhere in a value.
fn change_value(value: &mut Value, source: &Value, random: &mut Rng) {
    let is_here = random.u8(..5) == 0;
    match value {
        Value::Object(fields) if !fields.is_empty() && !is_here => {
            let names: Vec<_> = fields.keys().cloned().collect();
            let name = &names[random.usize(..names.len())];
            match random.u8(..12) {
                0 => drop(fields.shift_remove(name)),
                1 => drop(fields.insert(random_of(&FIELDS, random).into(), scalar(random))),
                _ => change_value(
                    &mut fields[name],
                    source.get(name).unwrap_or(source),
                    random,
                ),
            }
        }
        Value::Array(items) if !items.is_empty() && !is_here => {
            let at = random.usize(..items.len());
            match random.u8(..8) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => change_value(&mut items[at], source.get(0).unwrap_or(source), random),
            }
        }
        _ => {
            *value = match random.u8(..8) {
                0 | 1 => source.clone(),
                2 => json!([scalar(random)]),
                3 => json!({random_of(&FIELDS, random): scalar(random)}),
                _ => scalar(random),
            }
        }
    }
}

fn scalar(random: &mut Rng) -> Value {
    match random.u8(..12) {
        0 => Value::Null,
        1 => random.bool().into(),
        2 => random.u16(..).into(),
        3 => json!([-1, 0, 80, 8080, 65_535, 65_536, i64::MAX][random.usize(..7)]),
        _ => random_of(&WORDS, random).into(),
    }
}

fn random_of(words: &'static [&'static str], random: &mut Rng) -> &'static str {
    words[random.usize(..words.len())]
}
