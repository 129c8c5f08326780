//! What is said of a key of the configuration: the form in which `keys` lists them all.
//!
//! Owns no key and checks nothing. Read by `reference`, which renders them, and `annotations`.

/// A mapping of the file, with its keys in the order of the documentation.
pub(crate) struct Section {
    /// The path of the mapping: empty for the top, `NAME` and `[]` for what repeats.
    pub(crate) path: &'static str,
    pub(crate) meaning: &'static str,
    pub(crate) keys: &'static [Key],
}

/// One key.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// What may be written.
    pub(crate) values: &'static str,
    /// The default as YAML; for a required key, an example.
    pub(crate) default: &'static str,
    pub(crate) required: bool,
    pub(crate) variable: Option<&'static str>,
    /// Empty if it is another key's.
    pub(crate) meaning: &'static str,
    /// The path below a service's settings of which this is another name.
    pub(crate) short_for: Option<&'static str>,
}

/// One that may be left out.
pub(crate) const fn key(
    name: &'static str,
    values: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        name,
        values,
        default,
        required: false,
        variable: None,
        meaning,
        short_for: None,
    }
}

/// One that may not.
pub(crate) const fn required(
    name: &'static str,
    values: &'static str,
    example: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        required: true,
        ..key(name, values, example, meaning)
    }
}

/// Another name of the setting at `long`.
pub(crate) const fn short(name: &'static str, values: &'static str, long: &'static str) -> Key {
    Key {
        short_for: Some(long),
        ..key(name, values, "null", "")
    }
}

impl Key {
    /// The same, for which this variable stands in.
    pub(crate) const fn or_variable(self, name: &'static str) -> Self {
        Self {
            variable: Some(name),
            ..self
        }
    }
}
