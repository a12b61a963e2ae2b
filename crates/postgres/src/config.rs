//! How to reach a server: `postgres://user:password@host:5432/database?sslmode=verify-full`.

use std::{fmt, path::PathBuf, time::Duration};

use percent_encoding::percent_decode_str;
use url::Url;

use crate::Error;

/// How to reach a database. `Debug` hides the password.
#[derive(Clone)]
pub struct Config {
    /// A name, an address, or the folder of a Unix socket (begins with `/`).
    pub host: String,
    /// The port.
    pub port: u16,
    /// Who we are.
    pub user: String,
    /// The password, if one is needed.
    pub password: Option<String>,
    /// Which database.
    pub database: String,
    /// Whether the connection is encrypted, and what is checked.
    pub ssl_mode: SslMode,
    /// PEM file with the authorities to trust instead of the system's.
    pub root_cert: Option<PathBuf>,
    /// PEM file with our certificate.
    pub client_cert: Option<PathBuf>,
    /// PEM file with its key.
    pub client_key: Option<PathBuf>,
    /// The name that `pg_stat_activity` shows.
    pub application_name: String,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

/// Whether a connection is encrypted: libpq's modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server can; nothing is checked.
    Prefer,
    /// Always; the certificate is checked only where a root certificate is given.
    Require,
    /// Always, and the certificate's authority is checked, but not its name.
    VerifyCa,
    /// Always, and everything is checked.
    VerifyFull,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Config({self}, {:?})", self.ssl_mode)
    }
}

/// Without the password.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config {
            host,
            port,
            user,
            database,
            ..
        } = self;
        write!(f, "postgres://{user}@{host}:{port}/{database}")
    }
}

impl Config {
    /// Whether a text is meant as the URL of a PostgreSQL server.
    pub fn is_url(text: &str) -> bool {
        text.starts_with("postgres://") || text.starts_with("postgresql://")
    }

    /// Reads a URL. What it leaves open is as in libpq: port 5432, the database called like the user,
    /// `sslmode=prefer`.
    ///
    /// # Errors
    /// When it is no such URL; the message does not repeat a password.
    pub fn parse(text: &str) -> Result<Config, Error> {
        let refuse = |reason: String| {
            Error::Config(format!(
                "the URL of the PostgreSQL server makes no sense: {reason}; write it as \
                 postgres://user@host:5432/database"
            ))
        };
        if !Config::is_url(text) {
            return Err(refuse("it does not begin with postgres://".to_owned()));
        }
        let url = Url::parse(text).map_err(|error| refuse(error.to_string()))?;
        let decoded = |part: &str| -> Result<String, Error> {
            let decoded = percent_decode_str(part).decode_utf8();
            decoded
                .map(|text| text.into_owned())
                .map_err(|_| refuse("a part of it is not UTF-8".to_owned()))
        };
        let user = decoded(url.username())?;
        let mut config = Config {
            host: decoded(url.host_str().unwrap_or_default())?,
            port: url.port().unwrap_or(5432),
            password: url.password().map(decoded).transpose()?,
            database: decoded(url.path().trim_start_matches('/'))?,
            user,
            ssl_mode: SslMode::Prefer,
            root_cert: None,
            client_cert: None,
            client_key: None,
            application_name: "syncline".to_owned(),
            connect_timeout: Duration::from_secs(10),
        };
        for (key, value) in url.query_pairs() {
            config.set(&key, value.into_owned()).map_err(&refuse)?;
        }
        if config.host.is_empty() {
            return Err(refuse("it names no host".to_owned()));
        }
        if config.user.is_empty() {
            return Err(refuse("it names no user".to_owned()));
        }
        if config.database.is_empty() {
            config.database = config.user.clone();
        }
        Ok(config)
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "host" => self.host = value,
            "port" => self.port = value.parse().map_err(|_| format!("port={value}"))?,
            "user" => self.user = value,
            "password" => self.password = Some(value),
            "dbname" => self.database = value,
            "sslrootcert" if value == "system" => {}
            "sslrootcert" => self.root_cert = Some(value.into()),
            "sslcert" => self.client_cert = Some(value.into()),
            "sslkey" => self.client_key = Some(value.into()),
            "application_name" => self.application_name = value,
            "connect_timeout" => {
                let seconds = value
                    .parse()
                    .map_err(|_| format!("connect_timeout={value}"))?;
                self.connect_timeout = Duration::from_secs(seconds);
            }
            "sslmode" => {
                self.ssl_mode = match value.as_str() {
                    "disable" => SslMode::Disable,
                    "allow" | "prefer" => SslMode::Prefer,
                    "require" => SslMode::Require,
                    "verify-ca" => SslMode::VerifyCa,
                    "verify-full" => SslMode::VerifyFull,
                    other => {
                        return Err(format!(
                            "sslmode={other} is none of disable, prefer, require, verify-ca, verify-full"
                        ));
                    }
                }
            }
            other => return Err(format!("it has a parameter {other:?}, which is not known")),
        }
        Ok(())
    }

    /// The same server, another of its databases.
    pub fn with_database(&self, database: &str) -> Config {
        Config {
            database: database.to_owned(),
            ..self.clone()
        }
    }

    /// Where it is, for messages.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_everything_or_what_libpq_would_assume() {
        let config = Config::parse(
            "postgres://u%40x:p%2Fw@db.example:6432/shop?sslmode=verify-full&sslrootcert=/ca.pem",
        )
        .unwrap();
        assert_eq!(config.to_string(), "postgres://u@x@db.example:6432/shop");
        assert_eq!(config.password.as_deref(), Some("p/w"));
        assert_eq!(config.ssl_mode, SslMode::VerifyFull);
        assert_eq!(config.root_cert, Some("/ca.pem".into()));
        let config = Config::parse("postgresql://me@localhost").unwrap();
        assert_eq!(config.to_string(), "postgres://me@localhost:5432/me");
        let config = Config::parse("postgres://me@localhost/x?host=/var/run/postgresql").unwrap();
        assert_eq!(config.host, "/var/run/postgresql");
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_the_password() {
        for url in [
            "http://u:secret@h/d",
            "postgres://u:secret@h/d?sslmode=maybe",
            "postgres://u:secret@h/d?what=ever",
            "postgres://:secret@h/d",
            "postgres://u:secret@h:port/d",
        ] {
            let error = Config::parse(url).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
