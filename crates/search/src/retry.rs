//! Which failures pass by themselves.

use crate::Error;

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Try again after a pause: the same request can succeed unchanged.
    Retry,
    /// Trying again changes nothing: somebody has to act, and the error says how.
    Fatal,
}

/// Decides about a failed request. A round that lost its copy or a shard counts as a retry: of the
/// round, from its beginning.
pub fn classify(error: &Error) -> Decision {
    match error {
        Error::Connect { .. }
        | Error::Interrupted { .. }
        | Error::Timeout { .. }
        | Error::Busy { .. }
        | Error::Unavailable { .. }
        | Error::Shards { .. }
        | Error::CopyGone { .. }
        | Error::ScrollGone { .. }
        | Error::Credentials { .. } => Decision::Retry,
        Error::Config(_)
        | Error::Certificate { .. }
        | Error::Tls { .. }
        | Error::Unauthorized { .. }
        | Error::Forbidden { .. }
        | Error::IndexNotFound { .. }
        | Error::IndexClosed { .. }
        | Error::TooLarge { .. }
        | Error::AnswerTooLarge { .. }
        | Error::Rejected { .. }
        | Error::Malformed { .. }
        | Error::NoScroll { .. }
        | Error::NoSource { .. }
        | Error::NoIndex { .. }
        | Error::Incompatible { .. } => Decision::Fatal,
    }
}

/// Decides about one refused item of a bulk by its status and the kind of its error. A version
/// conflict (409) is fatal here: it is the caller's to explain.
pub fn classify_item(status: u16, kind: &str) -> Decision {
    match (status, kind) {
        (408 | 429 | 500.., _) => Decision::Retry,
        // A read-only block, such as that of a full disk, is lifted by the cluster or its operator.
        (403, "cluster_block_exception") => Decision::Retry,
        // A closed index can be opened again.
        (_, "index_closed_exception") => Decision::Retry,
        _ => Decision::Fatal,
    }
}

/// Whether another host of the same cluster may do better at once.
pub(crate) fn another_host(error: &Error) -> bool {
    matches!(
        error,
        Error::Connect { .. }
            | Error::Interrupted { .. }
            | Error::Tls { .. }
            | Error::Unavailable {
                status: 502..=504,
                ..
            }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn unavailable(status: u16) -> Error {
        Error::Unavailable {
            host: String::new(),
            request: String::new(),
            status,
            reason: String::new(),
        }
    }

    #[test]
    fn what_passes_by_itself_is_tried_again_and_what_needs_a_person_is_not() {
        let (host, request, reason) = (String::new, String::new, String::new);
        let cases = [
            (
                Error::Connect {
                    host: host(),
                    reason: reason(),
                },
                Decision::Retry,
                true,
            ),
            (
                Error::Interrupted {
                    host: host(),
                    request: request(),
                    reason: reason(),
                },
                Decision::Retry,
                true,
            ),
            (
                Error::Timeout {
                    host: host(),
                    request: request(),
                    after: Duration::ZERO,
                },
                Decision::Retry,
                false,
            ),
            (
                Error::Busy {
                    host: host(),
                    request: request(),
                    reason: reason(),
                },
                Decision::Retry,
                false,
            ),
            (unavailable(500), Decision::Retry, false),
            (unavailable(502), Decision::Retry, true),
            (unavailable(503), Decision::Retry, true),
            (unavailable(504), Decision::Retry, true),
            (
                Error::CopyGone {
                    index: String::new(),
                    node: String::new(),
                },
                Decision::Retry,
                false,
            ),
            (
                Error::Tls {
                    host: host(),
                    problem: String::new(),
                    remedy: "",
                },
                Decision::Fatal,
                true,
            ),
            (
                Error::Unauthorized {
                    host: host(),
                    who: String::new(),
                    remedy: "",
                },
                Decision::Fatal,
                false,
            ),
            (
                Error::TooLarge {
                    host: host(),
                    request: request(),
                    bytes: 1,
                },
                Decision::Fatal,
                false,
            ),
            (
                Error::Rejected {
                    request: request(),
                    status: 400,
                    kind: String::new(),
                    reason: reason(),
                },
                Decision::Fatal,
                false,
            ),
        ];
        for (error, decision, elsewhere) in cases {
            assert_eq!(classify(&error), decision, "{error:?}");
            assert_eq!(another_host(&error), elsewhere, "{error:?}");
        }
    }

    #[test]
    fn an_item_is_tried_again_when_the_cluster_was_busy_or_the_index_blocked() {
        let cases = [
            (429, "es_rejected_execution_exception", Decision::Retry),
            (503, "unavailable_shards_exception", Decision::Retry),
            (403, "cluster_block_exception", Decision::Retry),
            (400, "index_closed_exception", Decision::Retry),
            (403, "security_exception", Decision::Fatal),
            (409, "version_conflict_engine_exception", Decision::Fatal),
            (400, "mapper_parsing_exception", Decision::Fatal),
            (404, "index_not_found_exception", Decision::Fatal),
        ];
        for (status, kind, decision) in cases {
            assert_eq!(classify_item(status, kind), decision, "{status} {kind}");
        }
    }
}
