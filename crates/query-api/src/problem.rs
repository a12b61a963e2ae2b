//! What a caller is told when there is no answer: a problem document of RFC 9457.
//!
//! A problem names the parameter it is about. It never repeats what the search cluster said, which can
//! contain names of indices, queries and stack traces; that goes to the log.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

/// The kinds of problem there are. Each has one status and one title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    BadParameter,
    BadBody,
    UnknownField,
    UnknownOperator,
    BadValue,
    BadCursor,
    TooCostly,
    Unauthorized,
    Forbidden,
    UnknownIndex,
    UnknownDocument,
    UnknownPath,
    MethodNotAllowed,
    BodyTooLarge,
    UrlTooLong,
    UnsupportedMediaType,
    TooManyRequests,
    NotReached,
    Busy,
    Unavailable,
    Timeout,
    Internal,
}

impl Kind {
    /// Every kind, for the generated description of the interface.
    pub(crate) const ALL: [Kind; 22] = [
        Kind::BadParameter,
        Kind::BadBody,
        Kind::UnknownField,
        Kind::UnknownOperator,
        Kind::BadValue,
        Kind::BadCursor,
        Kind::TooCostly,
        Kind::Unauthorized,
        Kind::Forbidden,
        Kind::UnknownIndex,
        Kind::UnknownDocument,
        Kind::UnknownPath,
        Kind::MethodNotAllowed,
        Kind::BodyTooLarge,
        Kind::UrlTooLong,
        Kind::UnsupportedMediaType,
        Kind::TooManyRequests,
        Kind::NotReached,
        Kind::Busy,
        Kind::Unavailable,
        Kind::Timeout,
        Kind::Internal,
    ];

    /// Status, name in the URN, title.
    const fn parts(self) -> (u16, &'static str, &'static str) {
        match self {
            Kind::BadParameter => (400, "bad-parameter", "A parameter cannot be used"),
            Kind::BadBody => (400, "bad-body", "The body cannot be read"),
            Kind::UnknownField => (400, "unknown-field", "There is no such field"),
            Kind::UnknownOperator => (400, "unknown-operator", "The field has no such operator"),
            Kind::BadValue => (400, "bad-value", "A value is not of the field's type"),
            Kind::BadCursor => (
                400,
                "bad-cursor",
                "The cursor does not belong to this search",
            ),
            Kind::TooCostly => (400, "too-costly", "The request asks for too much at once"),
            Kind::Unauthorized => (401, "unauthorized", "A valid API key is needed"),
            Kind::Forbidden => (403, "forbidden", "The API key does not allow this"),
            Kind::UnknownIndex => (404, "unknown-index", "There is no such index"),
            Kind::UnknownDocument => (404, "unknown-document", "There is no such document"),
            Kind::UnknownPath => (404, "unknown-path", "There is nothing under this path"),
            Kind::MethodNotAllowed => (405, "method-not-allowed", "The path has no such method"),
            Kind::BodyTooLarge => (413, "body-too-large", "The body is too large"),
            Kind::UrlTooLong => (414, "url-too-long", "The URL is too long"),
            Kind::UnsupportedMediaType => (
                415,
                "unsupported-media-type",
                "The body is not said to be JSON",
            ),
            Kind::TooManyRequests => (429, "too-many-requests", "Too many requests"),
            Kind::NotReached => (504, "position-not-reached", "The index is not that far yet"),
            Kind::Busy => (503, "busy", "Too many requests are being answered"),
            Kind::Unavailable => (503, "unavailable", "The search cluster cannot answer now"),
            Kind::Timeout => (504, "timeout", "The search took too long"),
            Kind::Internal => (500, "internal", "The answer could not be made"),
        }
    }

    /// The HTTP status.
    pub(crate) const fn status(self) -> u16 {
        self.parts().0
    }

    /// The last part of the problem's type, and its label in the metrics.
    pub(crate) const fn name(self) -> &'static str {
        self.parts().1
    }
}

/// One problem, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) detail: String,
    pub(crate) parameter: Option<String>,
    pub(crate) retry_after: Option<u64>,
    pub(crate) allow: Option<String>,
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Problem {
        Problem {
            kind,
            detail: detail.into(),
            parameter: None,
            retry_after: None,
            allow: None,
        }
    }

    /// About one parameter: a name of the query string, or a pointer into the body.
    pub(crate) fn of(kind: Kind, parameter: &str, detail: impl Into<String>) -> Problem {
        Problem {
            parameter: Some(parameter.to_owned()),
            ..Problem::new(kind, detail)
        }
    }

    /// With the pause after which trying again makes sense, in seconds.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Problem {
        self.retry_after = Some(seconds);
        self
    }

    /// As JSON, also for one search among several.
    pub(crate) fn to_json(&self) -> Value {
        let (status, name, title) = self.kind.parts();
        let mut body = json!({
            "type": format!("urn:syncline:problem:{name}"),
            "title": title,
            "status": status,
            "detail": self.detail,
        });
        if let Some(parameter) = &self.parameter {
            body["parameter"] = parameter.as_str().into();
        }
        body
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, self.to_json().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::Unauthorized {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"syncline\""),
            );
        }
        if let Some(allow) = self
            .allow
            .as_deref()
            .and_then(|a| HeaderValue::from_str(a).ok())
        {
            headers.insert(header::ALLOW, allow);
        }
        response.extensions_mut().insert(self.kind);
        response
    }
}
