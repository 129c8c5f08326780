//! A setting's value together with where it came from.
//!
//! The admin API shows the origin beside each value, so that nobody has to guess which of five
//! places won. Sources set it; nothing decides by it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value and its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Setting<T> {
    /// What is in force.
    pub value: T,
    /// Who said so.
    pub origin: Origin,
}

impl<T> Setting<T> {
    /// A value from `origin`.
    pub const fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }

    /// A value that nobody chose.
    pub const fn built_in(value: T) -> Self {
        Self::new(value, Origin::BuiltIn)
    }

    /// Puts `value` in force, if there is one.
    pub fn put(&mut self, value: Option<T>, origin: Origin) {
        if let Some(value) = value {
            *self = Self::new(value, origin);
        }
    }

    /// This, or `below` if nobody chose this.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        match self.origin {
            Origin::BuiltIn => below,
            _ => self,
        }
    }
}

/// The built-in value of a setting whose type has one that fits every such setting.
impl<T: Default> Default for Setting<T> {
    fn default() -> Self {
        Self::built_in(T::default())
    }
}

/// Where a setting's value came from, in rising precedence.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Nobody set it: the program's own default.
    #[default]
    BuiltIn,
    /// The key under `defaults:`.
    Defaults,
    /// An environment variable (which stands in for the key under `defaults:`).
    Environment,
    /// The service's own key.
    Service,
    /// The key under `functions:`.
    Function,
    /// The environment of the containers of the function's Deployment.
    Deployment,
    /// An annotation on the Service or on its Deployment.
    Annotation,
}

impl Origin {
    /// The word for it in the admin API and the CLI.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BuiltIn => "built-in",
            Self::Defaults => "defaults",
            Self::Environment => "environment",
            Self::Service => "service",
            Self::Function => "function",
            Self::Deployment => "deployment",
            Self::Annotation => "annotation",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_value_leaves_value_and_origin() {
        let mut setting = Setting::built_in(1);
        setting.put(None, Origin::Service);
        assert_eq!(setting, Setting::built_in(1));
        setting.put(Some(2), Origin::Service);
        assert_eq!(setting, Setting::new(2, Origin::Service));
    }

    #[test]
    fn what_somebody_chose_lies_over_the_rest() {
        let below = Setting::new(1, Origin::Defaults);
        assert_eq!(Setting::built_in(2).over(below), below);
        let chosen = Setting::new(2, Origin::Service);
        assert_eq!(chosen.over(below), chosen);
    }
}
