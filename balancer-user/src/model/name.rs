//! Names of services: two DNS labels, as Kubernetes has them.
//!
//! Refuses anything that could not be a Kubernetes name, so that a configuration can move between
//! sources, and so that a name can stand in a path of the admin API and in a metric label as is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::MAX_NAME_BYTES;

/// A service's name. Shown as `namespace/name`, ordered the same way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// The namespace: a DNS label.
    pub namespace: Arc<str>,
    /// The name within the namespace: a DNS label; for a further port of a Kubernetes Service a
    /// colon and the port's name follow.
    pub name: Arc<str>,
}

impl ServiceName {
    /// The namespace of a service that gives none.
    pub const DEFAULT_NAMESPACE: &'static str = "default";

    /// A name from its two parts, both checked by [`check_label`].
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameFault> {
        check_label(namespace)?;
        let (service, port) = name.split_once(':').unwrap_or((name, "0"));
        check_label(service)?;
        check_label(port)?;
        Ok(Self {
            namespace: namespace.into(),
            name: name.into(),
        })
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for ServiceName {
    type Err = NameFault;

    /// Reads `namespace/name`, or `name` in the default namespace.
    fn from_str(text: &str) -> Result<Self, NameFault> {
        match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::new(Self::DEFAULT_NAMESPACE, text),
        }
    }
}

/// Why a word cannot be (part of) a service's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// Nothing is there.
    #[error("it is empty")]
    Empty,
    /// More bytes than a DNS label may have.
    #[error("it has {0} bytes, and a name has at most {MAX_NAME_BYTES}")]
    TooLong(usize),
    /// A character that a DNS label cannot hold.
    #[error("it contains {0:?}, and a name has only a-z, 0-9 and '-'")]
    Character(char),
    /// A dash at an end.
    #[error("it begins or ends with '-'")]
    Dash,
}

/// Checks that `text` is a DNS label: 1 to 63 of `a-z`, `0-9` and `-`, with no `-` at an end.
pub fn check_label(text: &str) -> Result<(), NameFault> {
    let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
    if text.is_empty() {
        return Err(NameFault::Empty);
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(NameFault::TooLong(text.len()));
    }
    if let Some(character) = text.chars().find(|c| !allowed(c)) {
        return Err(NameFault::Character(character));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(NameFault::Dash);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_and_read_back() {
        assert!(ServiceName::new("default", "hello:admin").is_ok());
        for bad in ["hello:", ":admin", "hello:a:b", "hello:A"] {
            assert!(ServiceName::new("default", bad).is_err(), "{bad}");
        }
        let name = ServiceName::new("default", "hello").unwrap();
        assert_eq!(name.to_string(), "default/hello");
        assert_eq!("default/hello".parse(), Ok(name.clone()));
        assert_eq!("hello".parse(), Ok(name));
    }

    #[test]
    fn names_that_are_not_dns_labels_are_refused() {
        let long = "a".repeat(64);
        for (text, fault) in [
            ("", NameFault::Empty),
            (long.as_str(), NameFault::TooLong(64)),
            ("Hello", NameFault::Character('H')),
            ("a_b", NameFault::Character('_')),
            ("a/b", NameFault::Character('/')),
            ("naïve", NameFault::Character('ï')),
            ("-a", NameFault::Dash),
            ("a-", NameFault::Dash),
        ] {
            assert_eq!(check_label(text), Err(fault), "{text}");
        }
        for text in ["a", "0", "a-b", &"a".repeat(63)] {
            assert_eq!(check_label(text), Ok(()), "{text}");
        }
    }
}
