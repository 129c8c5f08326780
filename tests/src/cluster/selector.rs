//! Label and field selectors, and which objects they select.

use super::object::Object;

/// Which objects a list, a watch or a deletion is about.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    /// `None`: all.
    pub(super) namespace: Option<String>,
    labels: Vec<LabelRule>,
    fields: Vec<FieldRule>,
}

/// A selector that cannot be read; holds the part that cannot.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {0:?}")]
pub(super) struct Unreadable(pub(super) String);

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelRule {
    Exists(String),
    Missing(String),
    In(String, Vec<String>),
    /// Also true for objects without the label.
    NotIn(String, Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRule {
    field: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// Reads both; empty strings select everything.
    pub(super) fn new(
        namespace: Option<String>,
        labels: &str,
        fields: &str,
    ) -> Result<Self, Unreadable> {
        let labels = split(labels).map(label_rule).collect::<Result<_, _>>()?;
        let fields = split(fields).map(field_rule).collect::<Result<_, _>>()?;
        Ok(Self {
            namespace,
            labels,
            fields,
        })
    }

    /// Whether the object is selected. A field that the kind does not have selects nothing.
    pub(super) fn selects(&self, object: &Object) -> bool {
        self.namespace
            .as_ref()
            .is_none_or(|namespace| *namespace == object.namespace)
            && self.labels.iter().all(|rule| rule.holds(object))
            && self.fields.iter().all(|rule| rule.holds(object))
    }

    /// Whether it selects more finely than by namespace.
    pub(super) fn is_fine(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }
}

impl LabelRule {
    fn holds(&self, object: &Object) -> bool {
        let value = |key: &str| object.labels.get(key);
        match self {
            Self::Exists(key) => value(key).is_some(),
            Self::Missing(key) => value(key).is_none(),
            Self::In(key, values) => value(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => value(key).is_none_or(|value| !values.contains(value)),
        }
    }
}

impl FieldRule {
    fn holds(&self, object: &Object) -> bool {
        let value = match self.field.as_str() {
            "metadata.name" => Some(&object.name),
            "metadata.namespace" => Some(&object.namespace),
            field => object
                .fields
                .iter()
                .find_map(|(name, value)| (*name == field).then_some(value)),
        };
        value.is_some_and(|value| (*value == self.value) == self.equal)
    }
}

/// Splits at commas that are not in parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
}

fn label_rule(part: &str) -> Result<LabelRule, Unreadable> {
    let unreadable = || Unreadable(part.to_owned());
    if let Some(values) = part.strip_suffix(')') {
        let (left, values) = values.split_once('(').ok_or_else(unreadable)?;
        let values = values.split(',').map(|v| v.trim().to_owned()).collect();
        let mut words = left.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Ok(LabelRule::In(key.to_owned(), values)),
            (Some(key), Some("notin"), None) => Ok(LabelRule::NotIn(key.to_owned(), values)),
            _ => Err(unreadable()),
        };
    }
    if let Some(key) = part.strip_prefix('!') {
        return Ok(LabelRule::Missing(key.trim().to_owned()));
    }
    let rule = match comparison(part) {
        Some((key, value, true)) => LabelRule::In(key, vec![value]),
        Some((key, value, false)) => LabelRule::NotIn(key, vec![value]),
        None if part.contains(char::is_whitespace) => return Err(unreadable()),
        None => LabelRule::Exists(part.to_owned()),
    };
    Ok(rule)
}

fn field_rule(part: &str) -> Result<FieldRule, Unreadable> {
    let (field, value, equal) = comparison(part).ok_or_else(|| Unreadable(part.to_owned()))?;
    Ok(FieldRule {
        field,
        value,
        equal,
    })
}

/// `a=b`, `a==b` and `a!=b`, and whether equal is asked for.
fn comparison(part: &str) -> Option<(String, String, bool)> {
    let (left, right) = part.split_once('=')?;
    let (left, equal) = match left.strip_suffix('!') {
        Some(left) => (left, false),
        None => (left, true),
    };
    let right = right.strip_prefix('=').unwrap_or(right);
    Some((left.trim().to_owned(), right.trim().to_owned(), equal))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::{Kind, object::Change},
        *,
    };

    #[test]
    fn rules_select_by_label_field_and_namespace() {
        let value = json!({
            "metadata": {"name": "p", "namespace": "here", "labels": {"a": "1", "x/b": ""}},
            "spec": {"nodeName": "n1"},
        });
        let Value::Object(value) = value else {
            unreachable!()
        };
        let pod = Object::new(Kind::Pod, Change::Added, 1, value);
        for (labels, fields, expected) in [
            ("", "", true),
            ("a", "", true),
            ("!a", "", false),
            ("a=1,x/b", "", true),
            ("a==1", "", true),
            ("a!=1", "", false),
            ("c!=1", "", true),
            ("a in (0, 1),!c", "", true),
            ("a notin (0,1)", "", false),
            ("c notin (0,1)", "", true),
            ("x/b=", "", true),
            ("", "spec.nodeName=n1", true),
            ("", "spec.nodeName!=n1", false),
            ("", "metadata.name=p,metadata.namespace=here", true),
            ("", "spec.unknown=1", false),
        ] {
            let selector = Selector::new(None, labels, fields).expect("a selector");
            assert_eq!(selector.selects(&pod), expected, "{labels:?} {fields:?}");
        }
        let elsewhere = Selector::new(Some("there".to_owned()), "", "").expect("a selector");
        assert!(!elsewhere.selects(&pod));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for wrong in ["a b", "a among (b)", "a in b)"] {
            let refused = Selector::new(None, wrong, "").expect_err("not a selector");
            assert_eq!(refused, Unreadable(wrong.to_owned()));
        }
        assert!(Selector::new(None, "", "spec.nodeName").is_err());
    }
}
