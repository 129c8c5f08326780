//! The log of what clients asked for.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::Kind;

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it had arrived as a whole.
    pub at: Instant,
    /// The HTTP method.
    pub method: String,
    /// The path, without its query.
    pub path: String,
    /// Parameters of the query, decoded, in order.
    pub query: Vec<(String, String)>,
    /// Size of the body.
    pub body_bytes: usize,
    /// What it asks for, in the words of RBAC: `get`, `list`, `watch`, `create`, `update`,
    /// `patch`, `delete` or `deletecollection`; empty for paths without objects.
    pub verb: &'static str,
    /// The kind it is about.
    pub kind: Option<Kind>,
    /// Its namespace, if the path has one.
    pub namespace: Option<String>,
    /// The object's name, if the path has one.
    pub name: Option<String>,
    /// What the client calls itself.
    pub user_agent: String,
}

impl Request {
    /// A parameter of the query; empty if it is not there.
    pub fn parameter(&self, name: &str) -> &str {
        self.query
            .iter()
            .find_map(|(key, value)| (key == name).then_some(value.as_str()))
            .unwrap_or_default()
    }

    /// Whether it is `verb` about `kind`.
    pub fn is(&self, verb: &str, kind: Kind) -> bool {
        self.verb == verb && self.kind == Some(kind)
    }
}

#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Vec<Request>>);

impl Log {
    pub(super) fn add(&self, request: Request) {
        self.lock().push(request);
    }

    pub(super) fn all(&self) -> Vec<Request> {
        self.lock().clone()
    }

    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Request>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
