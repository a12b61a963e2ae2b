//! Values that must not be shown, and the masking of those that hide inside URLs.

use std::{convert::Infallible, fmt, io, path::Path, str::FromStr};

/// What is shown in a secret's place.
pub(crate) const MASK: &str = "***";

/// A password, key or token: neither `Debug` nor `Display` shows it.
///
/// A flag whose value is a `Secret` is also hidden in the resolved configuration and in errors.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps what must not be shown.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Reads a secret from a file, without the newline that editors put at its end.
    ///
    /// # Errors
    /// When the file cannot be read, or holds nothing.
    pub fn read(path: &Path) -> Result<Self, SecretFileError> {
        let shown = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| SecretFileError::Read {
            path: shown(),
            source,
        })?;
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            return Err(SecretFileError::Empty { path: shown() });
        }
        Ok(Self(secret.to_owned()))
    }

    /// The secret of two flags: the value that is given, or what the file holds; the value wins.
    ///
    /// # Errors
    /// When there is only a file, and it cannot be read or holds nothing.
    pub fn given<P: AsRef<Path>>(
        value: Option<&Secret>,
        file: Option<P>,
    ) -> Result<Option<Secret>, SecretFileError> {
        match (value, file) {
            (Some(value), _) => Ok(Some(value.clone())),
            (None, Some(file)) => Secret::read(file.as_ref()).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The secret itself, for the one place that has to send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Why a secret's file gave no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It is not there, not readable, or not text.
    #[error("secret file {path} cannot be read: {source}; check the path and its permissions")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is there, and holds nothing but newlines.
    #[error("secret file {path} is empty; write the secret into it")]
    Empty {
        /// The file.
        path: String,
    },
}

/// Masks the credentials of every URL in `text`: the password of `http://user:password@host`, and
/// the whole of `nats://token@host`.
///
/// When in doubt (a password with an unescaped `/`) it masks too much rather than too little.
pub fn mask_urls(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (scheme, after) = rest.split_at(at + 3);
        masked.push_str(scheme);
        match credentials(after) {
            Some(length) => {
                // In `user:password` the user may be seen; a lone part may be a token.
                match after[..length].split_once(':') {
                    Some((user, _)) => masked.push_str(&format!("{user}:{MASK}")),
                    None => masked.push_str(MASK),
                }
                rest = &after[length..];
            }
            None => rest = after,
        }
    }
    masked.push_str(rest);
    masked
}

/// The length of the `user:password` in front of the `@` of what follows a scheme.
fn credentials(after_scheme: &str) -> Option<usize> {
    let end = after_scheme
        .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`'))
        .unwrap_or(after_scheme.len());
    let end = after_scheme[..end].find("://").unwrap_or(end);
    let url = &after_scheme[..end];
    let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
    if let Some(at) = authority.rfind('@') {
        return Some(at);
    }
    // `user:pa/ss@host` is no valid URL, but somebody's password all the same; `host:9200/a@b` is
    // told from it by the port.
    let (_, port) = authority.split_once(':')?;
    let is_port = port
        .split(',')
        .next()
        .is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    if is_port { None } else { url.rfind('@') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_itself_to_nobody() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_secret_is_read_from_a_file_without_its_last_newline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "hunter 2 \r\n").unwrap();
        assert_eq!(Secret::read(&path).unwrap().expose(), "hunter 2 ");
        let value = Secret::new("given");
        let given = |value| Secret::given(value, Some(&path)).unwrap().unwrap();
        assert_eq!(given(Some(&value)), value, "a value wins over the file");
        assert_eq!(given(None).expose(), "hunter 2 ");
        assert_eq!(Secret::given(None, None::<&Path>).unwrap(), None);
        std::fs::write(&path, "\n").unwrap();
        assert!(
            Secret::read(&path)
                .unwrap_err()
                .to_string()
                .contains("is empty")
        );
        let missing = Secret::read(&folder.path().join("nowhere"))
            .unwrap_err()
            .to_string();
        assert!(missing.contains("nowhere cannot be read"), "{missing}");
    }

    #[test]
    fn credentials_in_urls_are_masked_and_nothing_else_is() {
        for (text, masked) in [
            (
                "http://elastic:pw@host:9200",
                "http://elastic:***@host:9200",
            ),
            (
                "http://a:1@x,http://b:2@y/p",
                "http://a:***@x,http://b:***@y/p",
            ),
            ("http://a:p@ss:w@x", "http://a:***@x"),
            ("http://u:pa/ss@h", "http://u:***@h"),
            ("nats://s3cr3t@host:4222", "nats://***@host:4222"),
            (
                "http://h1:9200,http://u:p@h2",
                "http://h1:9200,http://u:***@h2",
            ),
            (
                "bad value 'http://u:p@h' here@there",
                "bad value 'http://u:***@h' here@there",
            ),
            ("http://host:9200/path@x", "http://host:9200/path@x"),
            ("http://localhost:9200", "http://localhost:9200"),
            ("someone@example.org", "someone@example.org"),
        ] {
            assert_eq!(mask_urls(text), masked);
        }
    }
}
