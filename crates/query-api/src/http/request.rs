//! What a request carries: the key, the index, the parameters, the body.

use std::{sync::Arc, time::Instant};

use axum::{
    body::{Body, Bytes, HttpBody, to_bytes},
    extract::Request,
    http::{HeaderMap, header, request::Parts},
};
use percent_encoding::percent_decode_str;

use super::{Api, shown_key};
use crate::{
    compile::Forced,
    keys::Key,
    problem::{Kind, Problem},
    query::{Query, body, url},
    schema::{Schema, ScopedSchema},
};

/// A request by a valid key that has not used up its rate.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) parts: Parts,
    pub(super) key: Arc<Key>,
}

/// An index as the key sees it, with what the key forces on it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) key: Arc<Key>,
    pub(super) schema: Arc<Schema>,
    pub(super) forced: Forced,
}

impl Target {
    pub(super) fn of(api: &Api, key: &Arc<Key>, name: &str) -> Result<Target, Problem> {
        let schema = api.catalogue.find(name, key)?;
        let forced = Forced::of(&key.forced, &schema)?;
        Ok(Target {
            key: Arc::clone(key),
            schema,
            forced,
        })
    }

    pub(super) fn scoped(&self) -> ScopedSchema<'_> {
        ScopedSchema {
            schema: &self.schema,
            scope: &self.key.fields,
        }
    }
}

impl Asked {
    pub(super) fn of(api: &Api, request: Request) -> Result<Asked, Problem> {
        Ok(Asked::with_body(api, request)?.0)
    }

    pub(super) fn with_body(api: &Api, request: Request) -> Result<(Asked, Body), Problem> {
        let (parts, body) = request.into_parts();
        let key = api.keys.find(shown_key(&parts.headers))?;
        if let Some(bucket) = &key.bucket {
            bucket.take(Instant::now())?;
        }
        Ok((Asked { parts, key }, body))
    }

    /// The index and what comes behind it in the path, decoded.
    pub(super) fn path(&self) -> Result<Vec<String>, Problem> {
        let parts = self.parts.uri.path().split('/').skip(2);
        let decoded = parts.map(|part| {
            let text = percent_decode_str(part).decode_utf8();
            text.map(|text| text.into_owned())
                .map_err(|_| Problem::new(Kind::BadParameter, "the path is not UTF-8"))
        });
        decoded.collect()
    }

    pub(super) fn target(&self, api: &Api) -> Result<Target, Problem> {
        let path = self.path()?;
        Target::of(api, &self.key, path.first().map_or("", String::as_str))
    }

    pub(super) fn pairs(&self) -> Result<Vec<(String, String)>, Problem> {
        let text = self.parts.uri.query().unwrap_or_default();
        let spaced = text.replace('+', " ");
        let mut pairs = Vec::new();
        for pair in spaced.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |text: &str| match percent_decode_str(text).decode_utf8() {
                Ok(text) => Ok(text.into_owned()),
                Err(_) => Err(Problem::new(Kind::BadParameter, "a parameter is not UTF-8")),
            };
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(pairs)
    }

    /// The search in the URL.
    pub(super) fn query_of_url(&self) -> Result<Query, Problem> {
        self.with_header(url::read(&self.pairs()?)?)
    }

    /// The search in the body.
    pub(super) async fn query_of_body(&self, api: &Api, body: Body) -> Result<Query, Problem> {
        let bytes = self.json(api, body).await?;
        self.no_parameters()?;
        self.with_header(body::read(&bytes)?)
    }

    /// A body says everything; a parameter beside it would be overlooked.
    pub(super) fn no_parameters(&self) -> Result<(), Problem> {
        match self.pairs()?.first() {
            Some((name, _)) => Err(Problem::of(
                Kind::BadParameter,
                name,
                "a search in a body has no parameters in the URL",
            )),
            None => Ok(()),
        }
    }

    /// The body, if it is said to be JSON and not too large.
    pub(super) async fn json(&self, api: &Api, body: Body) -> Result<Bytes, Problem> {
        let kind = self.parts.headers.get(header::CONTENT_TYPE);
        let kind = kind
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let detail = "send JSON, with Content-Type: application/json";
            return Err(Problem::new(Kind::UnsupportedMediaType, detail));
        }
        let most = api.edge.max_body;
        let too_large = || {
            let detail = format!("the body has more than {most} bytes");
            Problem::new(Kind::BodyTooLarge, detail)
        };
        if body.size_hint().lower() > most as u64 {
            runtime::body::discard(&self.parts.headers, body).await;
            return Err(too_large());
        }
        to_bytes(body, most).await.map_err(|_| too_large())
    }

    /// A position can also come as a header, so that a client can add it to every request.
    fn with_header(&self, mut query: Query) -> Result<Query, Problem> {
        if query.position.is_none() {
            query.position = position(&self.parts.headers)?;
        }
        Ok(query)
    }
}

fn position(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let text = |name: &str| {
        let value = headers
            .get(name)
            .map(|value| value.to_str().map(str::to_owned));
        value
            .transpose()
            .map_err(|_| Problem::of(Kind::BadParameter, name, "it is no text"))
    };
    match text("syncline-min-lsn")? {
        Some(lsn) => Ok(Some(url::lsn(&lsn))),
        None => text("syncline-min-position"),
    }
}
