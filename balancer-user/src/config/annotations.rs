//! Settings written as annotations: `idlefirst.dev/queue.timeout: 200ms`.
//!
//! Owns how an annotation's name stands for a key of the configuration, and reads each setting by
//! itself, so that a bad one leaves the others and its own last good value in force. The values
//! are checked by what checks those of the file. Pure; called by the Kubernetes source.

use std::collections::BTreeMap;

use super::Config;
use super::agreement;
use super::key::Section;
use super::keys::SECTIONS;
use super::problem::{Findings, Problem, Spot};
use super::raw;
use super::settings::{self, Layer};
use crate::model::{Origin, Probe, Protocol, ServiceName, Setting, Settings};

/// What the names of annotations begin with.
pub const PREFIX: &str = "idlefirst.dev/";

/// Annotations that are no settings of the configuration.
pub const SWITCHES: &[&str] = &["enabled", "publish-leader"];

/// Keys whose parts are one setting together: a mapping in one annotation, or one annotation for
/// each part.
const MAPPINGS: &[&str] = &["affinity", "hash", "rate_limit"];

/// Bytes in an annotation's value at most: many times what any setting needs.
const MAX_VALUE_BYTES: usize = 4096;

/// The settings in the annotations of one object, and the last good value of each.
#[derive(Debug, Clone, Default)]
pub struct Annotated {
    /// By the setting's own name, not a short one.
    settings: BTreeMap<String, Remembered>,
}

/// One setting as it was annotated.
#[derive(Debug, Clone)]
struct Remembered {
    /// As it is written now.
    written: Written,
    /// The last that was good.
    good: Option<Layer>,
    problems: Vec<Problem>,
}

/// How one setting is written in annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Written {
    /// The name of the setting, which may be a short one.
    name: String,
    parts: Parts,
    /// The spellings of the annotations.
    spellings: Vec<String>,
    /// Two annotations that say the same thing.
    doubled: Option<[String; 2]>,
}

/// The parts of one setting and their values; the only one of most has no name.
type Parts = BTreeMap<Option<String>, String>;

impl Written {
    /// Takes in an annotation.
    fn add(&mut self, name: String, part: Option<String>, spelling: &str, value: &str) {
        let is_other = !self.name.is_empty() && self.name != name;
        if (is_other || self.parts.contains_key(&part)) && self.doubled.is_none() {
            let same =
                |other: &&String| is_other || other.replace('-', "_") == spelling.replace('-', "_");
            if let Some(other) = self.spellings.iter().find(same) {
                self.doubled = Some([other.clone(), spelling.to_owned()]);
            }
        }
        self.spellings.push(spelling.to_owned());
        self.name = name;
        self.parts.insert(part, value.to_owned());
    }

    /// Reads it. Of two annotations that say the same thing neither holds.
    fn read(&self) -> Result<Layer, Vec<Problem>> {
        match &self.doubled {
            None => read(&self.name, &self.parts),
            Some([one, other]) => Err(vec![Problem::of_whole_file(
                format!("{PREFIX}{one} and {PREFIX}{other} are the same setting"),
                "keep one of them",
            )]),
        }
    }
}

/// The setting that a short name stands for; any other name stands for itself.
fn long_name(name: &str) -> &str {
    let in_section = |section: &Section| match section.path.strip_prefix("defaults.") {
        Some(mapping) => name.strip_prefix(mapping)?.strip_prefix('.'),
        None => Some(name),
    };
    let keys = SECTIONS.iter().filter_map(|section| {
        let inner = in_section(section)?;
        section.keys.iter().find(|key| key.name == inner)
    });
    let mut long = keys.filter_map(|key| key.short_for);
    long.next().unwrap_or(name)
}

/// Something wrong with one annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnotationProblem {
    /// The annotation as it is named in full, as far as it can be told.
    pub annotation: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl Annotated {
    /// Takes in what the object's annotations say now: names without [`PREFIX`], and values.
    /// Unchanged ones cost nothing.
    pub fn update<'a>(&mut self, annotations: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let mut wanted: BTreeMap<String, Written> = BTreeMap::new();
        for (spelling, value) in annotations {
            if SWITCHES.contains(&spelling) {
                continue;
            }
            let name = spelling.replace('-', "_");
            let (setting, part) = match name.split_once('.') {
                Some((mapping, part)) if MAPPINGS.contains(&mapping) => {
                    (mapping.to_owned(), Some(part.to_owned()))
                }
                _ => (name, None),
            };
            let written = wanted.entry(long_name(&setting).to_owned()).or_default();
            written.add(setting, part, spelling, value.trim());
        }
        self.settings.retain(|name, _| wanted.contains_key(name));
        for (setting, written) in wanted {
            let before = self.settings.get(&setting);
            if before.is_some_and(|before| before.written == written) {
                continue;
            }
            let good = before.and_then(|before| before.good.clone());
            let remembered = match written.read() {
                Ok(layer) => Remembered {
                    written,
                    good: Some(layer),
                    problems: Vec::new(),
                },
                Err(problems) => Remembered {
                    written,
                    good,
                    problems,
                },
            };
            self.settings.insert(setting, remembered);
        }
    }

    /// What is wrong with them.
    pub fn problems(&self) -> impl Iterator<Item = AnnotationProblem> {
        self.settings.iter().flat_map(|(setting, remembered)| {
            let name = match remembered.written.doubled {
                None => &remembered.written.name,
                Some(_) => setting,
            };
            let annotation = format!("{PREFIX}{}", name.replace('_', "-"));
            remembered
                .problems
                .iter()
                .map(move |problem| AnnotationProblem {
                    annotation: annotation.clone(),
                    message: problem.message.clone(),
                    hint: problem.hint.clone(),
                })
        })
    }

    fn layer(&self) -> Layer {
        let good = self.settings.values().filter_map(|each| each.good.as_ref());
        good.fold(Layer::default(), |below, layer| layer.over(&below))
    }
}

/// Where the settings of a service of the Kubernetes API come from, the highest first.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The annotations of its Service.
    pub service: &'a Annotated,
    /// The annotations of its Deployment.
    pub deployment: Option<&'a Annotated>,
    /// What the environment of the Deployment's containers says of `max_inflight`.
    pub environment: Option<u32>,
    /// Whether it is a function, which speaks HTTP and answers probes.
    pub is_function: bool,
}

impl Config {
    /// The settings of a service of the Kubernetes API.
    ///
    /// # Errors
    /// What settings contradict each other, or the service; then none of them is to be used.
    pub fn settings_of(
        &self,
        name: &ServiceName,
        sources: &Sources<'_>,
    ) -> Result<Settings, Vec<Problem>> {
        let of_file = self.functions.of(name, preset(sources, &self.below));
        let mut of_environment = Layer::default();
        of_environment
            .settings
            .max_inflight
            .put(sources.environment, Origin::Deployment);
        let mut layer = of_environment.over(&of_file);
        if let Some(deployment) = sources.deployment {
            layer = deployment.layer().over(&layer);
        }
        layer = sources.service.layer().over(&layer);
        let mut findings = Findings::default();
        agreement::of_service(&layer, &name.to_string(), Spot::new(0, 0), &mut findings);
        match findings.conclude("") {
            Ok(_) => Ok(layer.settings),
            Err(error) => Err(error.problems().to_vec()),
        }
    }
}

/// What holds for a service of the API about which nobody says anything. Whether a pod is ready is
/// for the kubelet to say; functions besides answer probes of ours.
fn preset(sources: &Sources<'_>, defaults: &Layer) -> Layer {
    let mut layer = Layer::default();
    if sources.is_function {
        // Its label says so, whatever holds for others.
        layer.settings.protocol = Setting::new(Protocol::Http, Origin::Service);
        return layer.over(defaults);
    }
    layer.settings.health.probe = Some(Setting::built_in(Probe::None));
    defaults.over(&layer)
}

/// Reads one setting.
fn read(setting: &str, parts: &Parts) -> Result<Layer, Vec<Problem>> {
    let too_long = parts.values().any(|value| value.len() > MAX_VALUE_BYTES);
    if too_long {
        return Err(vec![Problem::of_whole_file(
            format!("its value is longer than {MAX_VALUE_BYTES} bytes"),
            "write what docs/configuration.md says of this setting",
        )]);
    }
    let raw = raw::read_settings(&document(setting, parts)).map_err(|problem| vec![problem])?;
    let mut findings = Findings::default();
    let layer = settings::read(&raw, Origin::Annotation, &mut findings);
    match findings.conclude("") {
        Ok(_) => Ok(layer),
        Err(error) => Err(error.problems().to_vec()),
    }
}

/// The setting as a configuration file would have it.
fn document(setting: &str, parts: &Parts) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let value = |value: &String| match value.trim_start().starts_with(['{', '[']) {
        true => value.clone(),
        false => quoted(value),
    };
    let named: Vec<_> = parts
        .iter()
        .filter_map(|(part, written)| {
            Some(format!("{}: {}", quoted(part.as_ref()?), value(written)))
        })
        .collect();
    let inner = match parts.get(&None) {
        Some(written) if named.is_empty() => value(written),
        // Two of the same name: the reader says so.
        Some(written) => format!(
            "{}, {}: {{{}}}",
            value(written),
            quoted(setting),
            named.join(", ")
        ),
        None => format!("{{{}}}", named.join(", ")),
    };
    let keys = setting.split('.');
    let open: String = keys
        .clone()
        .map(|key| format!("{{{}: ", quoted(key)))
        .collect();
    format!("{open}{inner}{}", "}".repeat(keys.count()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{QueueTimeout, Strategy};
    use std::time::Duration;

    fn config(text: &str) -> Config {
        Config::parse(text, "config.yaml", &|_| None)
            .unwrap()
            .config
    }

    fn annotated(annotations: &[(&str, &str)]) -> Annotated {
        let mut annotated = Annotated::default();
        annotated.update(annotations.iter().copied());
        annotated
    }

    fn settings(config: &Config, service: &Annotated) -> Settings {
        let sources = Sources {
            service,
            deployment: None,
            environment: Some(3),
            is_function: true,
        };
        let name = "default/hello".parse().unwrap();
        config.settings_of(&name, &sources).unwrap()
    }

    #[test]
    fn annotations_lie_over_environment_functions_and_defaults() {
        let config = config(
            "source: kubernetes\ndefaults: {max_inflight: 1, queue: {size: 5}}\n\
             functions: {hello: {max_inflight: 2, max_retries: 4}}\n",
        );
        let none = annotated(&[]);
        let all = settings(&config, &none);
        assert_eq!(all.max_inflight, Setting::new(3, Origin::Deployment));
        assert_eq!(all.queue.size, Setting::new(5, Origin::Defaults));
        assert_eq!(all.queue.attempts, Setting::new(4, Origin::Function));
        assert_eq!(all.protocol, Setting::new(Protocol::Http, Origin::Service));
        let own = annotated(&[
            ("enabled", "true"),
            ("max-inflight", "7"),
            ("queue.timeout", "200ms"),
            ("strategy", "round_robin"),
            ("affinity.client", "true"),
            ("affinity.timeout", "5m"),
            ("rate-limit", "{per_second: 100, burst: 20}"),
        ]);
        assert_eq!(Vec::from_iter(own.problems()), []);
        let all = settings(&config, &own);
        assert_eq!(all.max_inflight, Setting::new(7, Origin::Annotation));
        assert_eq!(all.strategy.value, Strategy::RoundRobin);
        let timeout = QueueTimeout::Fixed(Duration::from_millis(200));
        assert_eq!(all.queue.timeout.value, timeout);
        let affinity = all.affinity.value.unwrap();
        assert_eq!(affinity.timeout, Duration::from_secs(300));
        assert_eq!(all.rate_limit.value.unwrap().burst, 20);
    }

    #[test]
    fn a_bad_value_is_told_and_the_last_good_one_stays() {
        let config = config("source: kubernetes\n");
        let mut own = annotated(&[("max-inflight", "2"), ("strategy", "random")]);
        own.update([
            ("max-inflight", "many"),
            ("strategy", "p2c"),
            ("qeue.size", "1"),
        ]);
        let all = settings(&config, &own);
        assert_eq!(all.max_inflight.value, 2);
        assert_eq!(all.strategy.value, Strategy::P2c);
        let problems: Vec<_> = own.problems().collect();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert_eq!(problems[0].annotation, "idlefirst.dev/max-inflight");
        assert!(problems[0].message.contains("many"), "{problems:?}");
        assert!(problems[1].message.contains("qeue"), "{problems:?}");
        own.update([("strategy", "p2c")]);
        assert_eq!(Vec::from_iter(own.problems()), []);
        assert_eq!(settings(&config, &own).max_inflight.value, 3);
    }

    #[test]
    fn white_space_around_a_value_is_none_of_it() {
        let own = annotated(&[("max-inflight", " 5 "), ("queue.timeout", "\t200ms\n")]);
        assert_eq!(Vec::from_iter(own.problems()), []);
        let all = settings(&config("source: kubernetes\n"), &own);
        assert_eq!(all.max_inflight.value, 5);
    }

    #[test]
    fn a_setting_that_is_written_twice_is_told_and_the_last_good_one_stays() {
        let config = config("source: kubernetes\n");
        for [one, other] in [
            [("max-inflight", "2"), ("max_inflight", "3")],
            [("queue.timeout", "2s"), ("queue-timeout-ms", "3000")],
            [("queue.retries", "2"), ("queue.attempts", "3")],
            [
                ("rate-limit.per-second", "3"),
                ("rate_limit.per_second", "4"),
            ],
        ] {
            let mut own = annotated(&[one]);
            let before = settings(&config, &own);
            own.update([one, other]);
            let problems: Vec<_> = own.problems().collect();
            let [problem] = &problems[..] else {
                panic!("{one:?}, {other:?}: {problems:?}");
            };
            assert!(problem.message.contains(one.0), "{problem:?}");
            assert!(problem.message.contains(other.0), "{problem:?}");
            assert_eq!(settings(&config, &own), before);
            own.update([other]);
            assert_eq!(Vec::from_iter(own.problems()), []);
        }
    }

    #[test]
    fn nonsense_of_any_shape_is_a_problem_and_nothing_worse() {
        for (name, value) in [
            ("queue", "{size: 3"),
            ("queue", "[1, 2]"),
            ("affinity", "}{"),
            ("", "x"),
            ("...", "x"),
            ("queue.", "x"),
            ("strategy", "{strategy: random}"),
            ("strategy", "\u{0}"),
            ("affinity.client", "[[[[[[[["),
            ("max-inflight", ""),
            ("max-inflight", "-1"),
            ("max-inflight", &"9".repeat(5000)),
        ] {
            let own = annotated(&[(name, value)]);
            assert!(own.problems().count() > 0, "{name}: {value}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let config = config("source: kubernetes\n");
        let own = annotated(&[("admission", "request"), ("protocol", "tcp")]);
        let sources = Sources {
            service: &own,
            deployment: None,
            environment: None,
            is_function: false,
        };
        let name = "default/hello".parse().unwrap();
        let problems = config.settings_of(&name, &sources).unwrap_err();
        assert!(
            problems[0].message.contains("admission request"),
            "{problems:?}"
        );
    }
}
