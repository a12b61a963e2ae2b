//! Signs requests for Amazon's services with the official signer and credential chain.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, SharedCredentialsProvider},
};
use aws_sigv4::{
    http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use bytes::Bytes;
use reqwest::{
    Method,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use tokio::sync::Mutex;
use url::Url;

use crate::{AwsService, Error, client::innermost};

/// Credentials are renewed this long before they expire.
const MARGIN: Duration = Duration::from_secs(300);

/// Credentials that never expire are read again this often, because files may change.
const LIFETIME: Duration = Duration::from_secs(900);

/// Signs for one region and service.
pub(crate) struct Signer {
    region: String,
    service: &'static str,
    /// Whether the body's digest is a header too, as Serverless wants.
    digest_header: bool,
    chain: Option<SharedCredentialsProvider>,
    current: Mutex<Option<(Credentials, SystemTime)>>,
}

impl Signer {
    /// With the usual credential chain. Nothing is looked up yet.
    pub(crate) async fn from_chain(
        region: &str,
        service: AwsService,
        profile: Option<&str>,
    ) -> Signer {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::rustls(CryptoMode::Ring))
            .build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(region.to_owned()));
        if let Some(profile) = profile {
            loader = loader.profile_name(profile);
        }
        Signer {
            region: region.to_owned(),
            service: service.name(),
            digest_header: service == AwsService::Aoss,
            chain: loader.load().await.credentials_provider(),
            current: Mutex::new(None),
        }
    }

    /// Adds the signature's headers.
    pub(crate) async fn sign(
        &self,
        headers: &mut HeaderMap,
        method: &Method,
        url: &Url,
        body: &Bytes,
    ) -> Result<(), Error> {
        let now = SystemTime::now();
        let credentials = self.credentials(now).await?;
        self.sign_with(credentials, now, headers, method, url, body)
            .map_err(|reason| Error::Credentials { reason })
    }

    async fn credentials(&self, now: SystemTime) -> Result<Credentials, Error> {
        let mut current = self.current.lock().await;
        if let Some((credentials, until)) = &*current
            && now < *until
        {
            return Ok(credentials.clone());
        }
        let failed = |reason| Error::Credentials { reason };
        let chain = self
            .chain
            .as_ref()
            .ok_or_else(|| failed("there is no credential chain".into()))?;
        let fresh = chain
            .provide_credentials()
            .await
            .map_err(|e| failed(innermost(&e)))?;
        let until = fresh
            .expiry()
            .map_or(now + LIFETIME, |expiry| expiry - MARGIN);
        *current = Some((fresh.clone(), until));
        Ok(fresh)
    }

    fn sign_with(
        &self,
        credentials: Credentials,
        time: SystemTime,
        headers: &mut HeaderMap,
        method: &Method,
        url: &Url,
        body: &Bytes,
    ) -> Result<(), String> {
        let mut settings = SigningSettings::default();
        if self.digest_header {
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        }
        let identity = credentials.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service)
            .time(time)
            .settings(settings)
            .build()
            .map_err(|e| e.to_string())?
            .into();
        let request = SignableRequest::new(
            method.as_str(),
            url.as_str(),
            std::iter::empty(),
            SignableBody::Bytes(body),
        )
        .map_err(|e| e.to_string())?;
        let (instructions, _) = sign(request, &params)
            .map_err(|e| e.to_string())?
            .into_parts();
        for header in instructions.into_parts().0 {
            let name = HeaderName::from_static(header.name());
            let mut value = HeaderValue::from_str(header.value()).map_err(|e| e.to_string())?;
            value.set_sensitive(header.sensitive());
            headers.insert(name, value);
        }
        Ok(())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({}, {})", self.region, self.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of AWS's published test suite for the signature.
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const TIME: u64 = 1_440_938_160; // 2015-08-30T12:36:00Z

    fn signed(
        signer: &Signer,
        token: Option<&str>,
        method: Method,
        url: &str,
        body: &'static [u8],
    ) -> HeaderMap {
        let token = token.map(str::to_owned);
        let credentials = Credentials::new("AKIDEXAMPLE", SECRET, token, None, "test");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(TIME);
        let mut headers = HeaderMap::new();
        let url = Url::parse(url).unwrap();
        signer
            .sign_with(
                credentials,
                time,
                &mut headers,
                &method,
                &url,
                &Bytes::from_static(body),
            )
            .unwrap();
        headers
    }

    fn signer(region: &str, service: &'static str, digest_header: bool) -> Signer {
        Signer {
            region: region.to_owned(),
            service,
            digest_header,
            chain: None,
            current: Mutex::new(None),
        }
    }

    #[test]
    fn the_signature_is_that_of_the_published_vector_get_vanilla() {
        let signer = signer("us-east-1", "service", false);
        let headers = signed(
            &signer,
            None,
            Method::GET,
            "https://example.amazonaws.com/",
            b"",
        );
        assert_eq!(
            headers["authorization"],
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        assert_eq!(headers["x-amz-date"], "20150830T123600Z");
    }

    /// The expected value was computed by hand from the specification: body digest and session
    /// token signed, the path encoded twice, the query encoded once.
    #[test]
    fn serverless_gets_the_bodys_digest_and_paths_and_queries_are_encoded_as_specified() {
        let signer = signer("eu-central-1", "aoss", true);
        let headers = signed(
            &signer,
            Some("TOKEN"),
            Method::POST,
            "https://x.eu-central-1.aoss.amazonaws.com/a%20b/_bulk?filter_path=errors,items.*.status",
            b"{}\n",
        );
        assert_eq!(headers["x-amz-security-token"], "TOKEN");
        assert_eq!(
            headers["x-amz-content-sha256"],
            "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"
        );
        let authorization = headers["authorization"].to_str().unwrap();
        let expected = "5c12e8410b195d6268d52bc1e0a517c58ccce00b4819c405f54b3001ef21daa7";
        assert!(authorization.ends_with(expected), "{authorization}");
        assert!(
            authorization.contains(
                "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token,"
            ),
            "{authorization}"
        );
    }
}
