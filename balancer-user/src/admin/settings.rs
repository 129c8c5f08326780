//! The settings of a service as `/v1/services/{namespace}/{name}` shows them: each with where it
//! came from, and durations in milliseconds.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{
    self, Admission, Intercept, Locality, OnAgentLoss, Probe, Protocol, QueueTimeout, Refuse,
    Service, Setting, Strategy,
};

/// The settings of a service.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Settings {
    /// What is spoken over its connections.
    #[schema(value_type = WordSetting)]
    pub protocol: Setting<Protocol>,
    /// What takes a slot.
    #[schema(value_type = WordSetting)]
    pub admission: Setting<Admission>,
    /// How a backend is picked.
    #[schema(value_type = WordSetting)]
    pub strategy: Setting<Strategy>,
    /// What strategy `consistent-hash` hashes.
    #[schema(value_type = HashSetting)]
    pub hash: Setting<HashKey>,
    /// What keeps a client with its backend; null: nothing.
    #[schema(value_type = AffinitySetting)]
    pub affinity: Setting<Option<Affinity>>,
    /// Which backends come first: `none`, `prefer-node` or `prefer-zone`.
    #[schema(value_type = WordSetting)]
    pub locality: Setting<Locality>,
    /// How long a new backend gets less than its share; 0: not at all.
    #[schema(value_type = NumberSetting)]
    pub slow_start_ms: Setting<u64>,
    /// Whether the own addresses of backends are steered too: `service` or `pods`.
    #[schema(value_type = WordSetting)]
    pub intercept: Setting<Intercept>,
    /// Slots of each backend; 0: no limit.
    #[schema(value_type = NumberSetting)]
    pub max_inflight: Setting<u32>,
    /// Where what finds no available backend waits.
    pub queue: Queueing,
    /// What is refused beyond a rate; null: nothing.
    #[schema(value_type = RateLimitSetting)]
    pub rate_limit: Setting<Option<RateLimit>>,
    /// What happens to overflow while the agent is gone.
    #[schema(value_type = WordSetting)]
    pub on_agent_loss: Setting<OnAgentLoss>,
    /// How backends are probed.
    pub health: HealthChecks,
    /// When a backend is shut out for failing.
    pub breaker: Breaker,
}

/// What is hashed: the word `client`, or an object that names a header or a cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HashKey {
    /// Where the client connects from.
    Client,
    /// The value of this request header.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
}

/// Sticky sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Affinity {
    /// How long a backend is remembered after its client's last use of it.
    pub timeout_ms: u64,
    /// The cookie that the agent issues; null: clients go by where they connect from.
    pub cookie: Option<String>,
}

/// A queue's settings.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Queueing {
    /// Waiters at most; 0: nobody waits.
    #[schema(value_type = NumberSetting)]
    pub size: Setting<u32>,
    /// Waiting time at most; `auto`: as the service time suggests.
    #[schema(value_type = MillisSetting)]
    pub timeout_ms: Setting<Millis>,
    /// Attempts at an upstream connection at most.
    #[schema(value_type = NumberSetting)]
    pub attempts: Setting<u32>,
    /// How often waiters look for a slot unasked.
    #[schema(value_type = NumberSetting)]
    pub tick_ms: Setting<u64>,
    /// Whether newcomers may take a free slot before those who wait.
    #[schema(value_type = SwitchSetting)]
    pub overtaking: Setting<bool>,
    /// Who refuses what finds the queue full: `agent` or `kernel`.
    #[schema(value_type = WordSetting)]
    pub refuse: Setting<Refuse>,
    /// Whether the size follows the load.
    #[schema(value_type = SwitchSetting)]
    pub adaptive: Setting<bool>,
}

/// Milliseconds, or `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Millis {
    /// So many.
    Fixed(u64),
    /// As many as fit what is measured.
    Auto(Auto),
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    /// As many as fit what is measured.
    Auto,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RateLimit {
    /// Tokens a second.
    pub per_second: u32,
    /// Tokens that can be saved up.
    pub burst: u32,
}

/// The settings of probes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HealthChecks {
    /// What a probe does: `http`, `tcp` or `none`.
    #[schema(value_type = WordSetting)]
    pub probe: Setting<Probe>,
    /// What an HTTP probe asks for.
    #[schema(value_type = WordSetting)]
    pub path: Setting<String>,
    /// From one probe to the next.
    #[schema(value_type = NumberSetting)]
    pub interval_ms: Setting<u64>,
    /// How long a probe may take.
    #[schema(value_type = NumberSetting)]
    pub timeout_ms: Setting<u64>,
    /// Consecutive failures that make a backend unhealthy.
    #[schema(value_type = NumberSetting)]
    pub failures: Setting<u32>,
}

/// The settings of backends' breakers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Breaker {
    /// Consecutive failures that shut a backend out; 0: none do.
    #[schema(value_type = NumberSetting)]
    pub failures: Setting<u32>,
    /// How long it is out before a trial.
    #[schema(value_type = NumberSetting)]
    pub open_ms: Setting<u64>,
}

/// Describes the origin of a [`Setting`] of each kind in the OpenAPI document.
macro_rules! described {
    ($($(#[$doc:meta])* $name:ident: $value:ty,)*) => {
        $(
            $(#[$doc])*
            #[derive(ToSchema)]
            #[allow(dead_code, reason = "describes Setting in the OpenAPI document")]
            struct $name {
                /// What is in force.
                value: $value,
                /// `built-in`, `defaults`, `environment`, `service` or `function`.
                origin: String,
            }
        )*
    };
}

described! {
    /// A word and where it came from.
    WordSetting: String,
    /// A number and where it came from.
    NumberSetting: u64,
    /// A switch and where it came from.
    SwitchSetting: bool,
    /// Milliseconds, or `auto`, and where that came from.
    MillisSetting: Millis,
    /// What is hashed, and where that came from.
    HashSetting: HashKey,
    /// Sticky sessions, or none, and where that came from.
    AffinitySetting: Option<Affinity>,
    /// A rate limit, or none, and where it came from.
    RateLimitSetting: Option<RateLimit>,
}

impl From<&Service> for Settings {
    fn from(service: &Service) -> Self {
        Self {
            protocol: service.protocol,
            admission: service.admission,
            strategy: service.strategy,
            hash: shown(&service.hash, |key| HashKey::from(key)),
            affinity: shown(&service.affinity, |affinity| {
                affinity.as_ref().map(Affinity::from)
            }),
            locality: service.locality,
            slow_start_ms: shown(&service.slow_start, millis),
            intercept: service.intercept,
            max_inflight: service.max_inflight,
            queue: queue(&service.queue),
            rate_limit: shown(&service.rate_limit, |limit| {
                limit.map(|limit| RateLimit {
                    per_second: limit.per_second,
                    burst: limit.burst,
                })
            }),
            on_agent_loss: service.on_agent_loss,
            health: HealthChecks {
                probe: service.health.probe(service.protocol.value),
                path: shown(&service.health.path, |path| path.to_string()),
                interval_ms: shown(&service.health.interval, millis),
                timeout_ms: shown(&service.health.timeout, millis),
                failures: service.health.failures,
            },
            breaker: Breaker {
                failures: service.breaker.failures,
                open_ms: shown(&service.breaker.open, millis),
            },
        }
    }
}

impl From<&model::HashKey> for HashKey {
    fn from(key: &model::HashKey) -> Self {
        match key {
            model::HashKey::Client => Self::Client,
            model::HashKey::Header(name) => Self::Header(name.to_string()),
            model::HashKey::Cookie(name) => Self::Cookie(name.to_string()),
        }
    }
}

impl From<&model::Affinity> for Affinity {
    fn from(affinity: &model::Affinity) -> Self {
        Self {
            timeout_ms: millis(&affinity.timeout),
            cookie: affinity.cookie.as_ref().map(ToString::to_string),
        }
    }
}

fn queue(queue: &model::QueueSettings) -> Queueing {
    Queueing {
        size: queue.size,
        timeout_ms: shown(&queue.timeout, |timeout| match timeout {
            QueueTimeout::Fixed(timeout) => Millis::Fixed(millis(timeout)),
            QueueTimeout::Auto => Millis::Auto(Auto::Auto),
        }),
        attempts: queue.attempts,
        tick_ms: shown(&queue.tick, millis),
        overtaking: queue.overtaking,
        refuse: queue.refuse,
        adaptive: queue.adaptive,
    }
}

fn millis(duration: &Duration) -> u64 {
    duration.as_millis() as u64
}

/// The setting with its value in another form.
fn shown<T, U>(setting: &Setting<T>, form: impl FnOnce(&T) -> U) -> Setting<U> {
    Setting::new(form(&setting.value), setting.origin)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Origin;

    #[test]
    fn settings_show_values_in_milliseconds_and_where_they_came_from() {
        let mut service = Service::named("hello".parse().unwrap());
        service.protocol = Setting::new(Protocol::Http, Origin::Service);
        service.queue.timeout = Setting::new(QueueTimeout::Auto, Origin::Environment);
        service.rate_limit.value = Some(model::RateLimit {
            per_second: 100,
            burst: 10,
        });
        service.health.interval = Setting::new(Duration::from_millis(1500), Origin::Function);
        let hash = model::HashKey::Header("X-User".parse().unwrap());
        service.hash = Setting::new(hash, Origin::Service);
        service.affinity.value = Some(model::Affinity {
            timeout: Duration::from_secs(60),
            cookie: Some("session".parse().unwrap()),
        });
        service.locality = Setting::new(Locality::PreferZone, Origin::Defaults);
        service.slow_start = Setting::new(Duration::from_secs(30), Origin::Function);
        service.intercept = Setting::new(Intercept::Pods, Origin::Annotation);
        let shown = serde_json::to_value(Settings::from(&service)).unwrap();
        for (pointer, value, origin) in [
            ("/max_inflight", json!(0), "built-in"),
            ("/strategy", json!("idle-first"), "built-in"),
            ("/hash", json!({"header": "x-user"}), "service"),
            (
                "/affinity",
                json!({"timeout_ms": 60_000, "cookie": "session"}),
                "built-in",
            ),
            ("/locality", json!("prefer-zone"), "defaults"),
            ("/slow_start_ms", json!(30_000), "function"),
            ("/intercept", json!("pods"), "annotation"),
            ("/queue/size", json!(10), "built-in"),
            ("/queue/timeout_ms", json!("auto"), "environment"),
            ("/queue/tick_ms", json!(10), "built-in"),
            ("/queue/refuse", json!("agent"), "built-in"),
            (
                "/rate_limit",
                json!({"per_second": 100, "burst": 10}),
                "built-in",
            ),
            ("/on_agent_loss", json!("over-admit"), "built-in"),
            ("/health/probe", json!("http"), "built-in"),
            ("/health/path", json!("/_/health"), "built-in"),
            ("/health/interval_ms", json!(1500), "function"),
            ("/breaker/failures", json!(5), "built-in"),
            ("/breaker/open_ms", json!(30_000), "built-in"),
        ] {
            let setting = shown.pointer(pointer).unwrap();
            assert_eq!(
                *setting,
                json!({"value": value, "origin": origin}),
                "{pointer}"
            );
        }
    }

    #[test]
    fn settings_are_read_back() {
        let affinity = model::Affinity {
            timeout: model::Affinity::DEFAULT_TIMEOUT,
            cookie: None,
        };
        for (timeout, hash, affinity) in [
            (QueueTimeout::Auto, model::HashKey::Client, None),
            (
                QueueTimeout::Fixed(Duration::from_millis(250)),
                model::HashKey::Cookie("session".parse().unwrap()),
                Some(affinity),
            ),
        ] {
            let mut service = Service::named("hello".parse().unwrap());
            service.queue.timeout.value = timeout;
            service.hash.value = hash;
            service.affinity.value = affinity;
            let shown = Settings::from(&service);
            let text = serde_json::to_string(&shown).unwrap();
            let read: Settings = serde_json::from_str(&text).unwrap();
            assert_eq!(read.queue.timeout_ms, shown.queue.timeout_ms);
            assert_eq!(read.hash, shown.hash);
            assert_eq!(read.affinity, shown.affinity);
        }
    }
}
