//! Shapes of values that the YAML library's derived readers do not have.
//!
//! Owns long lists, of which only so much is kept, and places where a single value or something
//! larger may stand. Knows no keys. Only `raw` builds on it.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};

/// A list of which at most `MOST` entries are kept, however long it is in the file.
#[derive(Debug)]
pub(crate) struct Bounded<T, const MOST: usize> {
    /// The first entries.
    pub(crate) items: Vec<T>,
    /// How many entries there are in the file.
    pub(crate) total: usize,
}

impl<T, const MOST: usize> Default for Bounded<T, MOST> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            total: 0,
        }
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Bounded<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T, const MOST: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Entries<T, MOST> {
            type Value = Bounded<T, MOST>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut bounded = Bounded::default();
                while bounded.items.len() < MOST {
                    let Some(item) = list.next_element()? else {
                        break;
                    };
                    bounded.items.push(item);
                }
                bounded.total = bounded.items.len();
                while list.next_element::<IgnoredAny>()?.is_some() {
                    bounded.total += 1;
                }
                Ok(bounded)
            }
        }

        deserializer.deserialize_seq(Entries(PhantomData))
    }
}

/// A single value, or the list or mapping that `T` is.
#[derive(Debug)]
pub(crate) enum WordOr<T> {
    Word(Box<str>),
    Other(T),
}

/// What may stand where a single value may stand as well. (A derived mapping would take a list for
/// its values in order.)
pub(crate) trait Other<'de>: Deserialize<'de> {
    /// What it is, for messages.
    const SHAPE: &'static str;
    const IS_LIST: bool;
}

impl<'de, T: Other<'de>> Deserialize<'de> for WordOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<T> Either<T> {
            fn word<E: Error>(word: impl fmt::Display) -> Result<WordOr<T>, E> {
                Ok(WordOr::Word(word.to_string().into()))
            }
        }

        impl<'de, T: Other<'de>> Visitor<'de> for Either<T> {
            type Value = WordOr<T>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "a single value, or {}", T::SHAPE)
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Self::Value, E> {
                Self::word(word)
            }

            fn visit_bool<E: Error>(self, word: bool) -> Result<Self::Value, E> {
                Self::word(word)
            }

            fn visit_i64<E: Error>(self, word: i64) -> Result<Self::Value, E> {
                Self::word(word)
            }

            fn visit_u64<E: Error>(self, word: u64) -> Result<Self::Value, E> {
                Self::word(word)
            }

            fn visit_i128<E: Error>(self, word: i128) -> Result<Self::Value, E> {
                Self::word(word)
            }

            fn visit_u128<E: Error>(self, word: u128) -> Result<Self::Value, E> {
                Self::word(word)
            }

            fn visit_f64<E: Error>(self, word: f64) -> Result<Self::Value, E> {
                Self::word(word)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                if !T::IS_LIST {
                    return Err(A::Error::invalid_type(Unexpected::Seq, &T::SHAPE));
                }
                T::deserialize(SeqAccessDeserializer::new(list)).map(WordOr::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                if T::IS_LIST {
                    return Err(A::Error::invalid_type(Unexpected::Map, &T::SHAPE));
                }
                T::deserialize(MapAccessDeserializer::new(map)).map(WordOr::Other)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}
