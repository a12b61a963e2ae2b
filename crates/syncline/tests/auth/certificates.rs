use anyhow::Result;
use testkit::{ExpiredServer, Security};

use crate::support::{Pair, Run, assert_equal, certificate, index, syncline};

/// `check` says the same sentence as `sync`, as its only failure.
#[track_caller]
fn says_the_same(check: Run, sync: &Run, side: &str) {
    let failures = check.ended(1).failures();
    assert_eq!(failures.len(), 1, "{failures:?}");
    let sentence = sync
        .err
        .trim()
        .trim_start_matches(&format!("error: {side}: "));
    assert!(
        failures[0].contains(sentence),
        "{:?} is not in {failures:?}",
        sentence
    );
}

#[tokio::test]
async fn a_client_certificate_logs_in() -> Result<()> {
    let pair = Pair::start().await;
    let name = index(pair.secured, "certified").await?;
    let mut flags = pair.trust("source");
    flags.extend(certificate("source", &pair.security.client()));
    flags.push(format!("--indices={name}"));
    let run = syncline(
        ["check".into(), format!("--source={}", pair.secured.url())]
            .into_iter()
            .chain(flags.clone()),
    );
    run.await?.ended(0);
    let urls = ["sync".into(), pair.secured.url(), pair.plain.url()];
    syncline(urls.into_iter().chain(flags)).await?.ended(0);
    assert_equal(pair.secured, pair.plain, &name).await
}

#[tokio::test]
async fn an_expired_client_certificate_is_named_with_its_day() -> Result<()> {
    let pair = Pair::start().await;
    let expired = pair.security.expired_client();
    let file = expired.certificate.display().to_string();
    let mut flags = pair.trust("source");
    flags.extend(certificate("source", &expired));
    let urls = ["sync".into(), pair.secured.url(), pair.plain.url()];
    let sync = syncline(urls.into_iter().chain(flags.clone())).await?;
    let sync = sync.failed_saying(&["expired on 2021-01-01", &file]);
    let check = syncline(
        ["check".into(), format!("--source={}", pair.secured.url())]
            .into_iter()
            .chain(flags),
    );
    says_the_same(check.await?, &sync, "source");
    Ok(())
}

#[tokio::test]
async fn an_expired_server_certificate_is_named_with_its_day() -> Result<()> {
    let pair = Pair::start().await;
    let server = ExpiredServer::start(&pair.security).await?;
    let (user, password) = Security::ADMIN;
    let flags = pair.login("target", user, password);
    let urls = ["sync".into(), pair.plain.url(), server.url()];
    let sync = syncline(urls.into_iter().chain(flags.clone())).await?;
    let sync = sync.failed_saying(&["target", "expired on 2021-01-01", "renew", &server.url()]);
    let check = syncline(
        ["check".into(), format!("--target={}", server.url())]
            .into_iter()
            .chain(flags),
    );
    says_the_same(check.await?, &sync, "target");
    Ok(())
}

#[tokio::test]
async fn an_unknown_authority_comes_with_the_flag_that_makes_it_known() -> Result<()> {
    let pair = Pair::start().await;
    let flags = ["--source-user=admin", "--source-password=admin"].map(str::to_owned);
    let urls = ["sync".into(), pair.secured.url(), pair.plain.url()];
    let sync = syncline(urls.into_iter().chain(flags.clone())).await?;
    let sync = sync.failed_saying(&["source", &pair.secured.url(), "CA file"]);
    let check = syncline(
        ["check".into(), format!("--source={}", pair.secured.url())]
            .into_iter()
            .chain(flags),
    );
    says_the_same(check.await?, &sync, "source");
    Ok(())
}
