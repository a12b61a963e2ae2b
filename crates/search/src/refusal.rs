//! Reads an HTTP error: which of ours it is, in whose words.
//!
//! The clusters answer `{"error": {"type", "reason", …}, "status"}`, their security plugins and
//! Amazon's front ends a bare sentence or `{"Message": …}`, proxies a page.

use reqwest::StatusCode;
use serde::Deserialize;

use crate::{Error, auth::Identity, request::Request};

/// What a server said about its refusal.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Its name for it, such as `mapper_parsing_exception`; may be empty.
    pub(crate) kind: String,
    /// Its sentence.
    pub(crate) reason: String,
    /// The index it names.
    pub(crate) index: Option<String>,
}

#[derive(Deserialize)]
struct Body {
    error: Option<serde_json::Value>,
    #[serde(alias = "Message")]
    message: Option<String>,
}

impl Refusal {
    pub(crate) fn from_body(body: &[u8]) -> Refusal {
        match serde_json::from_slice(body) {
            Ok(Body {
                error: Some(error), ..
            }) => Refusal::from_error(&error),
            Ok(Body {
                message: Some(message),
                ..
            }) => Refusal::sentence(&message),
            _ => Refusal::sentence(&String::from_utf8_lossy(body)),
        }
    }

    /// From the value under `error`, of an answer or of an item.
    pub(crate) fn from_error(error: &serde_json::Value) -> Refusal {
        if let Some(sentence) = error.as_str() {
            return Refusal::sentence(sentence);
        }
        let text = |key: &str| error[key].as_str().map(str::to_owned);
        Refusal {
            kind: text("type").unwrap_or_default(),
            reason: Refusal::deepest_reason(error),
            index: text("index"),
        }
    }

    /// An outer reason such as `all shards failed` says nothing; the cause does.
    fn deepest_reason(error: &serde_json::Value) -> String {
        let mut reasons: Vec<&str> = Vec::new();
        let mut next = Some(error);
        while let Some(here) = next {
            if let Some(reason) = here["reason"].as_str()
                && !reasons.iter().any(|known| known.contains(reason))
            {
                reasons.push(reason);
            }
            next = here.get("caused_by");
        }
        if let Some(root) = error["root_cause"][0]["reason"].as_str()
            && !reasons.iter().any(|known| known.contains(root))
        {
            reasons.push(root);
        }
        reasons.join(": ")
    }

    fn sentence(text: &str) -> Refusal {
        const MAX_CHARS: usize = 300;
        Refusal {
            reason: text.trim().chars().take(MAX_CHARS).collect(),
            ..Refusal::default()
        }
    }
}

/// Turns an answer with an error status into the error it is.
pub(crate) fn error(
    host: &str,
    who: &Identity,
    request: &Request,
    status: StatusCode,
    body: &[u8],
) -> Error {
    let refusal = Refusal::from_body(body);
    let host = host.to_owned();
    let reason = match refusal.reason.is_empty() {
        true => status.canonical_reason().unwrap_or("no reason").to_owned(),
        false => refusal.reason,
    };
    match status.as_u16() {
        401 => Error::Unauthorized {
            host,
            who: who.to_string(),
            remedy: who.remedy(),
        },
        403 if refusal.kind != "cluster_block_exception" => forbidden(who, request.name(), &reason),
        403 | 429 => Error::Busy {
            host,
            request: request.name(),
            reason,
        },
        404 if refusal.kind == "index_not_found_exception" => Error::IndexNotFound {
            index: refusal.index.unwrap_or(reason),
        },
        400 if refusal.kind == "index_closed_exception" => Error::IndexClosed {
            index: refusal.index.unwrap_or(reason),
        },
        413 => Error::TooLarge {
            host,
            request: request.name(),
            bytes: request.body.len(),
        },
        status @ (408 | 500..) => Error::Unavailable {
            host,
            request: request.name(),
            status,
            reason,
        },
        status => Error::Rejected {
            request: request.name(),
            status,
            kind: refusal.kind,
            reason,
        },
    }
}

/// What it means that one item of a request was forbidden: so are all like it, until a role changes.
pub(crate) fn forbidden_item(request: String, reason: &str) -> Error {
    let who = match refused_user(reason) {
        Some(user) => Identity::User(user.to_owned()).to_string(),
        None => "the user of this connection".to_owned(),
    };
    forbidden(&who, request, reason)
}

/// The user in a security plugin's sentence: `… for user [U] …` (Elasticsearch), `… and User [name=U,
/// …` (OpenSearch).
fn refused_user(reason: &str) -> Option<&str> {
    let (_, user) = reason
        .split_once("User [name=")
        .or_else(|| reason.split_once("for user ["))?;
    let end = user.find([',', ']'])?;
    Some(&user[..end])
}

fn forbidden(who: &impl ToString, request: String, reason: &str) -> Error {
    let action = refused_action(reason);
    let remedy = match granted_by(reason) {
        Some(privileges) => format!("grant one of {privileges} to its role"),
        None => "grant it to its role".to_owned(),
    };
    Error::Forbidden {
        who: who.to_string(),
        request,
        action: action.map_or_else(|| format!("it asks for ({reason})"), str::to_owned),
        remedy,
    }
}

/// The action in a security plugin's sentence: `action [A] is unauthorized for user …`
/// (Elasticsearch), `no permissions for [A] and User …` (OpenSearch), `… is not authorized to
/// perform: A …` (Amazon).
fn refused_action(reason: &str) -> Option<&str> {
    // An action can end in brackets of its own: `[indices:data/write/bulk[s]] and User …`.
    for (before, after) in [
        ("action [", "] "),
        ("no permissions for [", "] "),
        ("not authorized to perform: ", " "),
    ] {
        if let Some((_, rest)) = reason.split_once(before) {
            return rest.split(after).next();
        }
    }
    None
}

/// The privileges that Elasticsearch says would have been enough.
fn granted_by(reason: &str) -> Option<&str> {
    let (_, rest) = reason.split_once("granted by the ")?;
    rest.split_once('[')?.1.split(']').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_action_is_found_in_every_products_words() {
        let elastic = "action [indices:admin/refresh] is unauthorized for user [reader] with \
            effective roles [r] on indices [a], this action is granted by the index privileges \
            [maintenance,manage,all]";
        assert_eq!(refused_action(elastic), Some("indices:admin/refresh"));
        assert_eq!(granted_by(elastic), Some("maintenance,manage,all"));
        let open = "no permissions for [indices:admin/refresh] and User [name=reader, \
            backend_roles=[], requestedTenant=null]";
        assert_eq!(refused_action(open), Some("indices:admin/refresh"));
        assert_eq!(granted_by(open), None);
        let bracketed = "no permissions for [indices:data/write/bulk[s]] and User [name=x]";
        assert_eq!(
            refused_action(bracketed),
            Some("indices:data/write/bulk[s]")
        );
        let amazon = "User: arn:aws:iam::1:user/x is not authorized to perform: es:ESHttpGet \
            because no identity-based policy allows it";
        assert_eq!(refused_action(amazon), Some("es:ESHttpGet"));
        assert_eq!(refused_action("Forbidden"), None);
    }

    #[test]
    fn an_item_that_is_refused_names_the_user_where_the_server_does() {
        let open = "no permissions for [indices:data/read/mget[shard]] and User [name=reader, \
            backend_roles=[], requestedTenant=null]";
        let elastic = "action [indices:data/read/mget[shard]] is unauthorized for user [reader] with \
            effective roles [r]";
        for reason in [open, elastic] {
            let error = forbidden_item("POST /a/_mget".to_owned(), reason).to_string();
            assert!(error.starts_with("user \"reader\" may not do"), "{error}");
        }
        let error = forbidden_item("POST /a/_mget".to_owned(), "no").to_string();
        assert!(error.starts_with("the user of this connection"), "{error}");
    }

    #[test]
    fn a_refusal_is_read_from_a_cluster_a_plugin_amazon_and_a_proxy() {
        let cluster = br#"{"error":{"root_cause":[{"type":"x","reason":"no such shard"}],
            "type":"search_phase_execution_exception","reason":"all shards failed","index":"i"},"status":400}"#;
        assert_eq!(
            Refusal::from_body(cluster),
            Refusal {
                kind: "search_phase_execution_exception".into(),
                reason: "all shards failed: no such shard".into(),
                index: Some("i".into()),
            }
        );
        for (body, reason) in [
            (&b"Unauthorized"[..], "Unauthorized"),
            (
                br#"{"Message":"Your request: '/' is not allowed."}"#,
                "Your request: '/' is not allowed.",
            ),
            (
                br#"{"error":"Incorrect HTTP method","status":405}"#,
                "Incorrect HTTP method",
            ),
            (b"", ""),
        ] {
            assert_eq!(Refusal::from_body(body).reason, reason);
        }
    }
}
