//! Objects of the API as the watches read them: their names, and of their bodies only what is
//! needed.
//!
//! Owns the tolerance for bad objects: one whose body cannot be read is told by its name, and
//! fails nothing but itself. (With the API's own types one odd object fails a whole list.)

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::NamespaceResourceScope;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What names an object within its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

impl Key {
    /// The key of something else in the same namespace.
    pub(super) fn beside(&self, name: &str) -> Self {
        Self {
            namespace: self.namespace.clone(),
            name: name.into(),
        }
    }
}

/// A kind of object that is watched, and what is read of it.
pub(super) trait Body:
    DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static
{
    const GROUP: &'static str;
    const VERSION: &'static str;
    const KIND: &'static str;
    const PLURAL: &'static str;
}

/// An object as a watch reads it.
#[derive(Debug, Clone)]
pub(super) struct Seen<B> {
    /// Name, namespace, uid and version only.
    pub(super) meta: ObjectMeta,
    /// What is needed of it, or why it cannot be read.
    pub(super) body: Result<B, Arc<serde_json::Error>>,
}

impl<B> Seen<B> {
    pub(super) fn key(&self) -> Key {
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        Key {
            namespace: text(&self.meta.namespace),
            name: text(&self.meta.name),
        }
    }
}

/// The part of an object's metadata that every kind needs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
}

impl<'de, B: Body> Deserialize<'de> for Seen<B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        forget_nulls(&mut value);
        let metadata = value.get("metadata").unwrap_or(&Value::Null);
        let metadata = Metadata::deserialize(metadata).map_err(D::Error::custom)?;
        Ok(Self {
            meta: ObjectMeta {
                name: metadata.name,
                namespace: metadata.namespace,
                uid: metadata.uid,
                resource_version: metadata.resource_version,
                ..ObjectMeta::default()
            },
            body: B::deserialize(&value).map_err(Arc::new),
        })
    }
}

/// Takes what is null for absent, as the API does: whoever writes with Go says `null` of an empty
/// list or mapping.
fn forget_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(forget_nulls);
        }
        Value::Array(items) => {
            items.retain(|item| !item.is_null());
            items.iter_mut().for_each(forget_nulls);
        }
        _ => {}
    }
}

/// Nothing is ever written with this type.
impl<B> Serialize for Seen<B> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.meta.serialize(serializer)
    }
}

impl<B: Body> kube::Resource for Seen<B> {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        B::KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        B::GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        B::VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        B::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
