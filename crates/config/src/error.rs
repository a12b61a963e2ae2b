//! What can be wrong with a configuration, and how it is said.

use std::{fmt, io, path::PathBuf};

use crate::secret::mask_urls;

/// Why there is no resolved configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is wrong, or it asked for help or the version.
    #[error("{}", usage_text(.error, .notes))]
    Usage {
        /// What clap says.
        error: Box<clap::Error>,
        /// Where the values came from that clap took for flags.
        notes: Vec<String>,
    },
    /// The file cannot be read.
    #[error("configuration file {} cannot be read: {source}; check --config", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no YAML document.
    #[error("{}:{line}:{column}: not valid YAML: {reason}; check indentation and quotes around here", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser found.
        reason: String,
    },
    /// Settings are unknown, doubled or have a wrong value: all of them.
    #[error("{}", .0.iter().map(Issue::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Issue>),
}

impl Error {
    /// Whether this is no error but the answer to `--help` or `--version`.
    pub fn is_help(&self) -> bool {
        matches!(self, Self::Usage { error, .. } if !error.use_stderr())
    }

    /// Tells the user, on the stream where it belongs, and returns the exit code: 0 after help, 2
    /// after an error.
    pub fn report(&self) -> u8 {
        match self {
            Self::Usage { error, .. } if self.is_help() => {
                // A closed pipe (`--help | head`) is no reason to fail.
                error.print().ok();
                return 0;
            }
            Self::Usage { .. } => eprintln!("{self}"),
            Self::Invalid(issues) => {
                for issue in issues {
                    eprintln!("error: {issue}");
                }
            }
            Self::Read { .. } | Self::Syntax { .. } => eprintln!("error: {self}"),
        }
        2
    }
}

/// One wrong setting: `file.yaml:LINE: key `section.key`: reason; remedy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Orders the issues of one file; 0 for what stands in no file.
    pub(crate) line: usize,
    pub(crate) place: String,
    pub(crate) reason: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, mask_urls(&self.reason))
    }
}

fn usage_text(error: &clap::Error, notes: &[String]) -> String {
    let mut text = mask_urls(error.render().to_string().trim_end());
    for note in notes {
        text.push_str("\nnote: ");
        text.push_str(note);
    }
    text
}
