//! A request before it has a host.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;

/// Everything but what RFC 3986 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Makes a name fit for one segment of a path or one value of a query.
pub fn encode(name: &str) -> Cow<'_, str> {
    utf8_percent_encode(name, RESERVED).into()
}

/// What is sent to a cluster, whichever host takes it. It may be sent to several, so it has to be
/// harmless to do twice, unless it says that it goes [`once`](Request::once).
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Bytes,
    pub(crate) content_type: &'static str,
    pub(crate) timeout: Option<Duration>,
    pub(crate) answer_limit: usize,
    pub(crate) once: bool,
}

impl Request {
    fn new(method: Method, path: String) -> Request {
        Request {
            method,
            path,
            body: Bytes::new(),
            content_type: "application/json",
            timeout: None,
            answer_limit: usize::MAX,
            once: false,
        }
    }

    /// `GET` of a path such as `/_cluster/health?local=true`, already encoded.
    pub fn get(path: impl Into<String>) -> Request {
        Request::new(Method::GET, path.into())
    }

    /// `POST` to a path, already encoded.
    pub fn post(path: impl Into<String>) -> Request {
        Request::new(Method::POST, path.into())
    }

    /// `PUT` to a path, already encoded.
    pub fn put(path: impl Into<String>) -> Request {
        Request::new(Method::PUT, path.into())
    }

    /// `DELETE` of a path, already encoded.
    pub fn delete(path: impl Into<String>) -> Request {
        Request::new(Method::DELETE, path.into())
    }

    /// With a JSON body.
    pub fn json(mut self, body: impl Into<Bytes>) -> Request {
        self.body = body.into();
        self
    }

    /// With lines of JSON as body.
    pub fn ndjson(mut self, body: impl Into<Bytes>) -> Request {
        self.content_type = "application/x-ndjson";
        self.body = body.into();
        self
    }

    /// With a limit of its own instead of the client's.
    pub fn timeout(mut self, timeout: Option<Duration>) -> Request {
        self.timeout = timeout;
        self
    }

    /// With an answer of at most so many bytes; a larger one is not taken.
    pub fn answer_limit(mut self, bytes: usize) -> Request {
        self.answer_limit = bytes;
        self
    }

    /// To be carried out at most once: another host takes it only where no connection was made.
    pub fn once(mut self) -> Request {
        self.once = true;
        self
    }

    /// How errors call it: method and path without the query.
    pub(crate) fn name(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{} {path}", self.method)
    }
}

/// Joins index names into path segments, each short enough that a URL stays below the 4 KiB that
/// servers accept as a request line.
pub(crate) fn index_lists<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    const MAX_BYTES: usize = 3_500;
    let mut lists: Vec<String> = Vec::new();
    for name in names {
        let name = encode(name);
        match lists.last_mut() {
            Some(list) if list.len() + 1 + name.len() <= MAX_BYTES => {
                list.push(',');
                list.push_str(&name);
            }
            _ => lists.push(name.into_owned()),
        }
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_any_text_become_one_segment() {
        assert_eq!(encode("a b/é?"), "a%20b%2F%C3%A9%3F");
        assert_eq!(encode(".ds-logs_2024.01"), ".ds-logs_2024.01");
    }

    #[test]
    fn a_long_list_of_indices_is_cut_into_short_ones_that_miss_none() {
        let names: Vec<String> = (0..1_000)
            .map(|n| format!("index-with-é-{n:0>200}"))
            .collect();
        let lists = index_lists(names.iter().map(String::as_str));
        assert!(lists.len() > 10);
        assert!(lists.iter().all(|list| list.len() <= 3_500));
        let joined = lists.join(",");
        let back: Vec<_> = joined
            .split(',')
            .map(|n| percent_encoding::percent_decode_str(n).decode_utf8_lossy())
            .collect();
        assert_eq!(back, names);
        assert!(index_lists(std::iter::empty()).is_empty());
    }
}
