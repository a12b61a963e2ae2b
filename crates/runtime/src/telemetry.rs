//! Structured logs on standard error: text for a person, JSON for a machine.
//!
//! Standard output is never written to; it belongs to what a command prints.

use std::{fmt, io::IsTerminal, str::FromStr};

use tracing_subscriber::{
    EnvFilter, filter::LevelFilter, fmt::MakeWriter, util::SubscriberInitExt,
};

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One readable line, in colour where the terminal and `NO_COLOR` allow.
    Text,
    /// One JSON object.
    Json,
}

impl FromStr for LogFormat {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, TelemetryError> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(TelemetryError::Format {
                format: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why there are no logs.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is no filter.
    #[error(
        "log level `{level}` is not understood: {reason}; use error, warn, info, debug or trace, or a filter such as info,bus=debug"
    )]
    Level {
        /// What was given.
        level: String,
        /// What the parser says.
        reason: String,
    },
    /// The format is none of the three.
    #[error("log format `{format}` is not known; use auto, text or json")]
    Format {
        /// What was given.
        format: String,
    },
}

/// Starts logging. A second call changes nothing: tests share one process.
///
/// # Errors
/// When `level` is neither a level nor a filter.
pub fn init(level: &str, format: LogFormat) -> Result<(), TelemetryError> {
    init_through(level, format, std::io::stderr)
}

/// The same, each line through a writer that knows what else is on the terminal: bars, say.
///
/// # Errors
/// When `level` is neither a level nor a filter.
pub fn init_through<W>(level: &str, format: LogFormat, writer: W) -> Result<(), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = filter(level)?;
    let terminal = std::io::stderr().is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = format == LogFormat::Text || format == LogFormat::Auto && terminal;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    let started = if text {
        lines
            .with_ansi(colour)
            .with_target(false)
            .finish()
            .try_init()
    } else {
        lines
            .with_ansi(false)
            .json()
            .flatten_event(true)
            .finish()
            .try_init()
    };
    // The only error there is: somebody else was first.
    started.ok();
    Ok(())
}

/// `EnvFilter` reads a mistyped level as the name of a module and then says nothing at all, so a
/// lone word has to be a level.
fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let level = level.trim();
    let refused = |reason: String| TelemetryError::Level {
        level: level.to_owned(),
        reason,
    };
    for part in level
        .split(',')
        .filter(|part| !part.contains(['=', '[', ']', '{', '}']))
    {
        // The parser takes nothing for `error`.
        if part.trim().is_empty() {
            return Err(refused("it has an empty part".to_owned()));
        }
        if let Err(error) = part.trim().parse::<LevelFilter>() {
            return Err(refused(format!("`{part}`: {error}")));
        }
    }
    let directives = match level.parse::<LevelFilter>() {
        // A lone level is meant for this program: the NATS client tells of every connection what
        // `bus` has said already.
        Ok(lone) if lone <= LevelFilter::INFO => format!("{level},async_nats=warn"),
        _ => level.to_owned(),
    };
    EnvFilter::try_new(directives).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_changes_nothing_and_does_not_panic() {
        init("info", LogFormat::Json).unwrap();
        init("debug,bus=trace", LogFormat::Text).unwrap();
    }

    #[test]
    fn levels_and_filters_are_accepted_and_slips_are_not() {
        for level in [
            "info",
            "WARN",
            "off",
            "info,bus=debug",
            "warn,search[request]=trace",
        ] {
            filter(level).unwrap();
        }
        for level in ["inof", "", "info,verbose", "info,bus=loud"] {
            let error = filter(level).expect_err(level).to_string();
            assert!(error.contains("use error, warn, info"), "{level}: {error}");
        }
    }

    #[test]
    fn formats_are_shown_as_they_are_read() {
        for format in [LogFormat::Auto, LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse::<LogFormat>().unwrap(), format);
        }
        assert!(
            "xml"
                .parse::<LogFormat>()
                .unwrap_err()
                .to_string()
                .contains("auto, text or json")
        );
    }
}
