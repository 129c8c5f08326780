//! The token that lets its bearer change things over the admin API: read from a file, compared,
//! sent, and shown nowhere.
//!
//! Owns what a token may look like, and that it never leaves by way of a log, an error or a debug
//! print. A file is all it comes from: configurations, environments and command lines are seen by
//! too many. Read by `admin` for comparison, by `cli` to send it.

use std::{
    fs::File,
    io::{self, Read as _},
    ops::RangeInclusive,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret as _, SecretString, zeroize::Zeroizing};
use subtle::ConstantTimeEq as _;

/// Characters of a token. With fewer it could be guessed.
const LENGTHS: RangeInclusive<usize> = 16..=1024;

/// Permissions that let others than owner and group read, or others than the owner write.
const TOO_OPEN: u32 = 0o026;

/// A token. Its debug form does not show it, and its memory is cleared.
#[derive(Clone, Debug)]
pub struct Token(SecretString);

/// Why a file holds no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error(
        "cannot read the token file {path}: {source}; it must be readable for the user that asks, \
         without CAP_DAC_OVERRIDE"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a pipe, a device or a directory.
    #[error("the token file {path} is not a regular file")]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// It holds too little, or too much.
    #[error(
        "the token in {path} has {length} characters, and one has {least} to {most}; make one with: \
         openssl rand -hex 32",
        least = LENGTHS.start(),
        most = LENGTHS.end()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// What it has, without what surrounds it; at most one more than it may.
        length: usize,
    },
    /// It holds what no header can.
    #[error(
        "the token in {path} has characters other than visible ASCII; make one with: \
         openssl rand -hex 32"
    )]
    Characters {
        /// The file.
        path: PathBuf,
    },
}

impl Token {
    /// Reads it as the agent does, at its start and whenever one is offered: so from a regular file
    /// only. A pipe would keep it waiting, and be empty the next time.
    ///
    /// # Errors
    /// If the file holds no token.
    pub fn read_regular(path: &Path) -> Result<Self, TokenError> {
        if path.metadata().is_ok_and(|file| !file.is_file()) {
            return Err(TokenError::NotRegular {
                path: path.to_owned(),
            });
        }
        Self::read(path)
    }

    /// Reads it; white space around it is not part of it.
    ///
    /// # Errors
    /// If the file holds no token.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let unreadable = |source| TokenError::Unreadable {
            path: path.to_owned(),
            source,
        };
        // White space may surround it, but no more than as much again.
        let most = 2 * LENGTHS.end();
        // Never moved, so that no copy is left behind.
        let mut text = Zeroizing::new(Vec::with_capacity(most + 1));
        let file = File::open(path).map_err(unreadable)?;
        file.take(most as u64)
            .read_to_end(&mut text)
            .map_err(unreadable)?;
        Self::parse(text.trim_ascii(), path)
    }

    fn parse(token: &[u8], path: &Path) -> Result<Self, TokenError> {
        let path = || path.to_owned();
        if !LENGTHS.contains(&token.len()) {
            let length = token.len().min(LENGTHS.end() + 1);
            return Err(TokenError::Length {
                path: path(),
                length,
            });
        }
        let visible = token.iter().all(u8::is_ascii_graphic);
        match std::str::from_utf8(token) {
            Ok(token) if visible => Ok(Self(token.into())),
            _ => Err(TokenError::Characters { path: path() }),
        }
    }

    /// Whether this is it, found out in a time that tells nothing but whether the lengths differ.
    pub fn is(&self, offered: &[u8]) -> bool {
        self.0.expose_secret().as_bytes().ct_eq(offered).into()
    }

    /// For sending, and nothing else.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// The permissions of a token file, if more people than its owner and group may read it, or more
/// than its owner write it.
pub fn too_open(path: &Path) -> Option<u32> {
    let mode = path.metadata().ok()?.permissions().mode() & 0o777;
    (mode & TOO_OPEN != 0).then_some(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "0123456789abcdef";

    fn parse(text: &str) -> Result<Token, TokenError> {
        Token::parse(text.as_bytes(), Path::new("/t"))
    }

    #[test]
    fn only_the_very_same_is_the_token() {
        let token = parse(GOOD).unwrap();
        assert!(token.is(GOOD.as_bytes()));
        for other in [
            "",
            "0123456789abcdeF",
            "0123456789abcde",
            "0123456789abcdef0",
        ] {
            assert!(!token.is(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn it_is_not_printed() {
        let token = parse(GOOD).unwrap();
        assert!(!format!("{token:?}").contains(GOOD));
        let error = parse("0123456789\u{e4}bcdef").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("01234"), "{error}");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let said = |text: &str| parse(text).unwrap_err().to_string();
        assert!(said("").contains("has 0 characters"), "{}", said(""));
        assert!(said("short").contains("has 5 characters, and one has 16 to 1024"));
        assert!(said(&"x".repeat(1025)).contains("has 1025 characters"));
        assert!(said("0123456789 abcdef").contains("other than visible ASCII"));
        assert!(parse(&"x".repeat(1024)).is_ok());
    }

    #[test]
    fn it_is_read_without_what_surrounds_it() {
        let path = std::env::temp_dir().join(format!("idlefirst-token-{}", std::process::id()));
        std::fs::write(&path, format!("\n {GOOD}\r\n")).unwrap();
        let read = Token::read(&path);
        let mode = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            too_open(&path)
        };
        let modes = [
            mode(0o400),
            mode(0o440),
            mode(0o600),
            mode(0o644),
            mode(0o660),
        ];
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        let of_pipe = Token::read_regular(&path).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(of_pipe.contains("not a regular file"), "{of_pipe}");
        assert!(read.unwrap().is(GOOD.as_bytes()));
        assert_eq!(modes, [None, None, None, Some(0o644), Some(0o660)]);
        assert!(matches!(
            Token::read(&path),
            Err(TokenError::Unreadable { .. })
        ));
    }
}
