//! What was found, one line each, printed as soon as it is known.

use std::fmt::Display;

use runtime::exit::Exit;
use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// A run works, though not as well or not with everything.
    Warn,
    /// A run would fail.
    Fail,
}

#[derive(Debug, Serialize)]
struct Finding {
    status: Status,
    what: String,
    detail: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

/// All findings so far.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Report {
        Report {
            json,
            findings: Vec::new(),
        }
    }

    pub(crate) fn ok(&mut self, what: &str, detail: impl Display) {
        self.add(Status::Ok, what, detail, "");
    }

    pub(crate) fn warn(&mut self, what: &str, detail: impl Display, remedy: impl Display) {
        self.add(Status::Warn, what, detail, remedy);
    }

    pub(crate) fn fail(&mut self, what: &str, detail: impl Display, remedy: impl Display) {
        self.add(Status::Fail, what, detail, remedy);
    }

    fn add(&mut self, status: Status, what: &str, detail: impl Display, remedy: impl Display) {
        let finding = Finding {
            status,
            what: what.to_owned(),
            detail: detail.to_string(),
            remedy: remedy.to_string(),
        };
        if !self.json {
            finding.print();
        }
        self.findings.push(finding);
    }

    /// Prints the end of the report; the exit code says whether anything failed.
    pub(crate) fn finish(self) -> Exit {
        let count = |status| {
            let of_it = self.findings.iter().filter(|f| f.status == status);
            of_it.count()
        };
        let (failed, warned) = (count(Status::Fail), count(Status::Warn));
        if self.json {
            let report = serde_json::json!({
                "checks": self.findings, "failed": failed, "warned": warned,
            });
            println!("{report:#}");
        } else {
            let total = self.findings.len();
            println!("\n{failed} of {total} failed, {warned} with a warning");
        }
        match failed {
            0 => Exit::Success,
            _ => Exit::Failure,
        }
    }
}

impl Finding {
    fn print(&self) {
        let status = match self.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        println!("{status:<5} {:<26} {}", self.what, self.detail);
        if !self.remedy.is_empty() {
            println!("{:<32} -> {}", "", self.remedy);
        }
    }
}
