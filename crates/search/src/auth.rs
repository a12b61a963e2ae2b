//! Puts our identity on a request, and names it in errors.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use reqwest::{
    Method,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use url::Url;

use crate::{Auth, Error, sigv4::Signer};

/// What makes requests ours.
#[derive(Debug)]
pub(crate) enum Credentials {
    /// The same header on every request, or none.
    Header(Option<HeaderValue>),
    /// A signature over each.
    Signer(Box<Signer>),
}

/// How errors call us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    Nobody,
    User(String),
    ApiKey,
    Bearer,
    Aws,
}

impl Identity {
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Identity::Nobody => {
                "it wants authentication; give a user and password, an API key or a token"
            }
            Identity::User(_) => "wrong user or password; check both",
            Identity::ApiKey => "the key is wrong, expired or revoked; create a new one",
            Identity::Bearer => "the token is wrong or expired; get a new one",
            Identity::Aws => "check the region, the service and that the credentials are current",
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Nobody => f.write_str("a client without credentials"),
            Identity::User(name) => write!(f, "user {name:?}"),
            Identity::ApiKey => f.write_str("the API key"),
            Identity::Bearer => f.write_str("the bearer token"),
            Identity::Aws => f.write_str("the AWS credentials"),
        }
    }
}

impl Credentials {
    /// The identity of the configuration for one host; `user:password@` in the host's URL is taken
    /// out of it.
    pub(crate) async fn new(auth: &Auth, host: &mut Url) -> Result<(Identity, Credentials), Error> {
        let from_url = take_user(host);
        let (identity, header) = match (auth, from_url) {
            (Auth::None, None) => (Identity::Nobody, None),
            (Auth::None, Some((user, password))) => {
                let header = basic(&user, &password);
                (Identity::User(user), Some(header))
            }
            (_, Some(_)) => {
                return Err(Error::Config(format!(
                    "the URL of host {host} carries a user while another authentication is \
                     configured; remove one of the two"
                )));
            }
            (Auth::Basic { user, password }, None) => {
                (Identity::User(user.clone()), Some(basic(user, password)))
            }
            (Auth::ApiKey(key), None) => (Identity::ApiKey, Some(format!("ApiKey {key}"))),
            (Auth::Bearer(token), None) => (Identity::Bearer, Some(format!("Bearer {token}"))),
            (
                Auth::SigV4 {
                    region,
                    service,
                    profile,
                },
                None,
            ) => {
                let signer = Signer::from_chain(region, *service, profile.as_deref()).await;
                return Ok((Identity::Aws, Credentials::Signer(Box::new(signer))));
            }
        };
        let header = header.map(|text| secret_header(&text)).transpose()?;
        Ok((identity, Credentials::Header(header)))
    }

    /// Adds what shows who we are to the headers of a request.
    pub(crate) async fn apply(
        &self,
        headers: &mut HeaderMap,
        method: &Method,
        url: &Url,
        body: &Bytes,
    ) -> Result<(), Error> {
        match self {
            Credentials::Header(None) => {}
            Credentials::Header(Some(value)) => {
                headers.insert(AUTHORIZATION, value.clone());
            }
            Credentials::Signer(signer) => signer.sign(headers, method, url, body).await?,
        }
        Ok(())
    }
}

fn basic(user: &str, password: &str) -> String {
    format!(
        "Basic {}",
        BASE64_STANDARD.encode(format!("{user}:{password}"))
    )
}

fn secret_header(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Error::Config(
            "the API key or token contains characters that no HTTP header can carry".into(),
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn take_user(host: &mut Url) -> Option<(String, String)> {
    if host.username().is_empty() && host.password().is_none() {
        return None;
    }
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let user = decode(host.username());
    let password = decode(host.password().unwrap_or_default());
    // These fail only for URLs without a host, which have no user either.
    host.set_username("").ok()?;
    host.set_password(None).ok()?;
    Some((user, password))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn header(auth: &Auth, host: &str) -> (Url, Result<Option<String>, String>) {
        let mut url = Url::parse(host).unwrap();
        let header = match Credentials::new(auth, &mut url).await {
            Ok((_, Credentials::Header(header))) => {
                Ok(header.map(|value| value.to_str().unwrap().to_owned()))
            }
            Ok(_) => unreachable!(),
            Err(error) => Err(error.to_string()),
        };
        (url, header)
    }

    #[tokio::test]
    async fn a_user_in_the_url_is_taken_out_and_becomes_basic_authentication() {
        let (url, header) = header(&Auth::None, "https://ann:p%40ss@es.example:9200/x").await;
        assert_eq!(url.as_str(), "https://es.example:9200/x");
        assert_eq!(header.unwrap().unwrap(), "Basic YW5uOnBAc3M=");
    }

    #[tokio::test]
    async fn two_identities_at_once_are_refused_without_showing_the_password() {
        let (_, header) = header(&Auth::Bearer("t".into()), "http://ann:secret@es:9200").await;
        let error = header.unwrap_err();
        assert!(
            error.contains("remove one") && !error.contains("secret"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn keys_and_tokens_have_their_schemes() {
        let key = header(&Auth::ApiKey("a2V5".into()), "http://es").await.1;
        assert_eq!(key.unwrap().unwrap(), "ApiKey a2V5");
        let token = header(&Auth::Bearer("t".into()), "http://es").await.1;
        assert_eq!(token.unwrap().unwrap(), "Bearer t");
        let broken = header(&Auth::Bearer("t\n".into()), "http://es").await.1;
        assert!(broken.unwrap_err().contains("no HTTP header"));
    }
}
