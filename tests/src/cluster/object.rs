//! One version of one object, kept as the bytes that go over the wire.
//!
//! A thousand streams and lists share these bytes; only what selectors look at is kept beside
//! them. Called by `shelf`.

use std::{collections::BTreeMap, io::Write as _};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::Kind;

/// One version of one object.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) kind: Kind,
    /// Empty for kinds without.
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) revision: u64,
    pub(super) labels: BTreeMap<String, String>,
    /// What field selectors know besides name and namespace.
    pub(super) fields: Vec<(&'static str, String)>,
    /// A line of a watch that says that the object came or changed; the object is inside.
    line: Bytes,
    /// Where in the line the object begins.
    begin: usize,
    /// Length of `{"apiVersion":…,"kind":…,`.
    head_len: usize,
}

/// What happened to an object, in a watch's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

impl Object {
    /// Keeps a complete object. `change` is what its own line will say.
    pub(super) fn new(
        kind: Kind,
        change: Change,
        revision: u64,
        mut value: Map<String, Value>,
    ) -> Self {
        value.remove("apiVersion");
        value.remove("kind");
        let metadata = &value["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let labels = metadata["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
        let fields = selectable(kind, &value);
        let mut line = opening(change);
        let begin = line.len();
        let _ = write!(
            line,
            r#"{{"apiVersion":"{}","kind":"{}","#,
            kind.api_version(),
            kind.name()
        );
        let head_len = line.len() - begin;
        let brace = line.len();
        serde_json::to_writer(&mut line, &value).expect("a value can be written as JSON");
        // The rest's own opening brace: the head has one.
        line.remove(brace);
        line.extend_from_slice(b"}\n");
        Self {
            kind,
            namespace,
            name,
            uid,
            revision,
            labels,
            fields,
            line: line.into(),
            begin,
            head_len,
        }
    }

    /// The object.
    pub(super) fn json(&self) -> Bytes {
        self.line.slice(self.begin..self.line.len() - 2)
    }

    /// The object without its opening brace, `apiVersion` and `kind`, which lists leave out.
    pub(super) fn tail(&self) -> &[u8] {
        &self.line[self.begin + self.head_len..self.line.len() - 2]
    }

    /// The object, taken apart.
    pub(super) fn value(&self) -> Map<String, Value> {
        serde_json::from_slice(&self.json()).expect("what was written as JSON can be read")
    }

    /// A watch's line about it.
    pub(super) fn line(&self, change: Change) -> Bytes {
        let mut line = opening(change);
        if self.line.starts_with(&line) {
            return self.line.clone();
        }
        line.extend_from_slice(&self.line[self.begin..]);
        line.into()
    }
}

fn opening(change: Change) -> Vec<u8> {
    format!(r#"{{"type":"{}","object":"#, change.name()).into_bytes()
}

/// Fields that selectors may name, as the API server has them for each kind.
fn selectable(kind: Kind, value: &Map<String, Value>) -> Vec<(&'static str, String)> {
    let names: &[&'static str] = match kind {
        Kind::Pod => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        Kind::Service => &["spec.clusterIP", "spec.type"],
        Kind::Node => &["spec.unschedulable"],
        Kind::Namespace => &["status.phase"],
        Kind::CoreEvent => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "reason",
            "type",
        ],
        Kind::Event => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "reason",
            "type",
        ],
        _ => &[],
    };
    let text = |path: &str| {
        let found = path
            .split('.')
            .try_fold(None, |at: Option<&Value>, part| match at {
                None => value.get(part).map(Some),
                Some(at) => at.get(part).map(Some),
            });
        match found.flatten() {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        }
    };
    names.iter().map(|&name| (name, text(name))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Object {
        let value = json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "a", "namespace": "b", "labels": {"k": "v"}},
            "spec": {"nodeName": "n"},
        });
        let Value::Object(value) = value else {
            unreachable!()
        };
        Object::new(Kind::Pod, Change::Added, 7, value)
    }

    #[test]
    fn one_copy_of_the_bytes_serves_lines_lists_and_gets() {
        let pod = pod();
        let object: Value = serde_json::from_slice(&pod.json()).expect("JSON");
        assert_eq!(object["kind"], "Pod");
        assert_eq!(object["spec"]["nodeName"], "n");
        for change in [Change::Added, Change::Modified, Change::Deleted] {
            let line = pod.line(change);
            assert_eq!(line.last(), Some(&b'\n'));
            let line: Value = serde_json::from_slice(&line).expect("JSON");
            assert_eq!(line, json!({"type": change.name(), "object": object}));
        }
        let item: Value =
            serde_json::from_slice(&[b"{", pod.tail()].concat()).expect("JSON of an item");
        assert!(item.get("kind").is_none());
        assert_eq!(item["metadata"], object["metadata"]);
    }

    #[test]
    fn selectors_find_what_they_look_at() {
        let pod = pod();
        assert_eq!(pod.labels["k"], "v");
        assert!(pod.fields.contains(&("spec.nodeName", "n".to_owned())));
        assert!(pod.fields.contains(&("status.phase", String::new())));
    }
}
