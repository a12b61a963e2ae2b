//! The source, where it is a PostgreSQL server.

use pg_watcher::{Grade, SourceOptions};

use super::report::Report;

pub(crate) async fn look(report: &mut Report, options: &SourceOptions) {
    for finding in pg_watcher::examine(options).await {
        match finding.grade {
            Grade::Good => report.ok(&finding.what, finding.detail),
            Grade::Warning => report.warn(&finding.what, finding.detail, finding.remedy),
            Grade::Failure => report.fail(&finding.what, finding.detail, finding.remedy),
        }
    }
}
