//! Why the API server refuses a request, as the `Status` object that clients get.

use serde_json::{Value, json};

use super::Kind;

/// A request that is refused, by the reaction that a client should have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// 404: there is no such object.
    #[error("{kind} \"{name}\" not found")]
    NotFound {
        /// The kind asked for.
        kind: Kind,
        /// The name asked for.
        name: String,
    },
    /// 404: nothing is at this path.
    #[error("the server could not find the requested resource: {path}")]
    NoSuchPath {
        /// The path asked for.
        path: String,
    },
    /// 409: it is there already.
    #[error("{kind} \"{name}\" already exists")]
    AlreadyExists {
        /// The kind to be created.
        kind: Kind,
        /// The name to be given.
        name: String,
    },
    /// 409: the object has changed since the client read it.
    #[error(
        "operation cannot be fulfilled on {kind} \"{name}\": it is at version {now}, \
         the request is about {asked}; read it again"
    )]
    Conflict {
        /// The object's kind.
        kind: Kind,
        /// The object's name.
        name: String,
        /// Its version.
        now: u64,
        /// The version, or uid, that the request names.
        asked: String,
    },
    /// 409: another field manager applied another value.
    #[error("apply failed with conflicts with {manager:?}: {}", fields.join(", "))]
    FieldConflict {
        /// Who owns the fields.
        manager: String,
        /// Their paths.
        fields: Vec<String>,
    },
    /// 410: the version asked for is no longer known.
    #[error("too old resource version: {asked} ({oldest} is the oldest known)")]
    Expired {
        /// The version asked for.
        asked: u64,
        /// The oldest from which a watch can begin.
        oldest: u64,
    },
    /// 504: the version asked for is one that the server has not come to.
    #[error("Too large resource version: {asked}, current: {now}")]
    TooLarge {
        /// The version asked for.
        asked: u64,
        /// The newest.
        now: u64,
    },
    /// 410: the list to be continued is no longer known.
    #[error("the provided continue parameter is too old; list again from the start")]
    ContinueExpired,
    /// 400: the request makes no sense.
    #[error("{0}")]
    BadRequest(#[from] BadRequest),
    /// 422: the object makes no sense.
    #[error("{kind} \"{name}\" is invalid: {field}: {problem}")]
    Invalid {
        /// The object's kind.
        kind: Kind,
        /// The object's name.
        name: String,
        /// The field's path.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// 405: not with this path.
    #[error("{method} is not supported on this path")]
    MethodNotAllowed {
        /// The method.
        method: String,
    },
    /// 415: a kind of patch that this server has not learnt.
    #[error("the body of the request was in an unknown format: {content_type}")]
    UnsupportedMediaType {
        /// The body's type.
        content_type: String,
    },
    /// 403, on demand.
    #[error("{kind} is forbidden: the test said so")]
    Forbidden {
        /// The forbidden kind.
        kind: Kind,
    },
    /// Any status, on demand.
    #[error("status {code}: the test said so")]
    OnDemand {
        /// The HTTP status.
        code: u16,
    },
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The body is neither JSON nor YAML.
    #[error("the body cannot be read as an object: {problem}")]
    Body {
        /// The parser's message.
        problem: String,
    },
    /// The connection broke inside of the body.
    #[error("the body did not arrive")]
    BodyCut,
    /// `apiVersion` and `kind` name nothing that is known, or not what the path names.
    #[error("apiVersion {api_version:?} and kind {kind:?} do not fit this path")]
    Kind {
        /// As in the object.
        api_version: String,
        /// As in the object.
        kind: String,
    },
    /// A field of the object contradicts the path.
    #[error("{field} is {in_object:?} in the object and {in_path:?} in the path")]
    Differs {
        /// The field's path.
        field: &'static str,
        /// As in the object.
        in_object: String,
        /// As in the path.
        in_path: String,
    },
    /// A query parameter cannot be read.
    #[error("query parameter {name} cannot be {value:?}")]
    Query {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// The parameter that says who applies is missing.
    #[error("fieldManager is required for apply patch")]
    NoFieldManager,
    /// An apply may not bring these along.
    #[error("metadata.managedFields must be nil")]
    ManagedFields,
}

impl Refused {
    /// The HTTP status.
    pub fn code(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::Forbidden { .. } => 403,
            Self::NotFound { .. } | Self::NoSuchPath { .. } => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::AlreadyExists { .. } | Self::Conflict { .. } | Self::FieldConflict { .. } => 409,
            Self::Expired { .. } | Self::ContinueExpired => 410,
            Self::UnsupportedMediaType { .. } => 415,
            Self::Invalid { .. } => 422,
            Self::TooLarge { .. } => 504,
            Self::OnDemand { code } => *code,
        }
    }

    /// What `reason` says.
    pub fn reason(&self) -> &'static str {
        match (self, self.code()) {
            (Self::AlreadyExists { .. }, _) => "AlreadyExists",
            (_, 400) => "BadRequest",
            (_, 401) => "Unauthorized",
            (_, 403) => "Forbidden",
            (_, 404) => "NotFound",
            (_, 405) => "MethodNotAllowed",
            (_, 409) => "Conflict",
            (_, 410) => "Expired",
            (_, 415) => "UnsupportedMediaType",
            (_, 422) => "Invalid",
            (_, 429) => "TooManyRequests",
            (_, 500) => "InternalError",
            (_, 503) => "ServiceUnavailable",
            (_, 504) => "Timeout",
            _ => "",
        }
    }

    /// Seconds after which the client may ask again, for the `Retry-After` header.
    pub(super) fn retry_after_seconds(&self) -> Option<u32> {
        (self.code() == 429).then_some(1)
    }

    /// The `Status` object.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.to_string(),
            "reason": self.reason(),
            "code": self.code(),
        });
        let about = match self {
            Self::NotFound { kind, name }
            | Self::AlreadyExists { kind, name }
            | Self::Conflict { kind, name, .. } => {
                json!({"name": name, "group": kind.group(), "kind": kind.plural()})
            }
            Self::Invalid {
                kind,
                name,
                field,
                problem,
            } => json!({
                "name": name,
                "group": kind.group(),
                "kind": kind.name(),
                "causes": [{"reason": "FieldValueInvalid", "message": problem, "field": field}],
            }),
            Self::Forbidden { kind } => json!({"group": kind.group(), "kind": kind.plural()}),
            Self::FieldConflict { fields, manager } => json!({
                "causes": fields.iter().map(|field| json!({
                    "reason": "FieldManagerConflict",
                    "message": format!("conflict with {manager:?}"),
                    "field": field,
                })).collect::<Vec<_>>(),
            }),
            Self::TooLarge { .. } => json!({
                "causes": [{
                    "reason": "ResourceVersionTooLarge",
                    "message": "Too large resource version",
                }],
                "retryAfterSeconds": 1,
            }),
            _ => return status,
        };
        status["details"] = about;
        status
    }
}
