use anyhow::Result;
use testkit::Security;

use crate::support::{Pair, assert_equal, index, syncline};

#[tokio::test]
async fn a_copy_out_of_and_into_the_secured_server_is_equal() -> Result<()> {
    let pair = Pair::start().await;
    let (user, password) = Security::ADMIN;
    let out = index(pair.secured, "out").await?;
    let flags = pair.login("source", user, password);
    let urls = [
        "sync".into(),
        pair.secured.url(),
        pair.plain.url(),
        format!("--indices={out}"),
    ];
    syncline(urls.into_iter().chain(flags)).await?.ended(0);
    assert_equal(pair.secured, pair.plain, &out).await?;

    let into = index(pair.plain, "into").await?;
    let flags = pair.login("target", user, password);
    let urls = [
        "sync".into(),
        pair.plain.url(),
        pair.secured.url(),
        format!("--indices={into}"),
    ];
    syncline(urls.into_iter().chain(flags)).await?.ended(0);
    assert_equal(pair.plain, pair.secured, &into).await
}

#[tokio::test]
async fn a_wrong_password_is_one_sentence_that_names_user_and_host_and_not_the_password()
-> Result<()> {
    let pair = Pair::start().await;
    let host = pair.secured.url();
    let sides = [
        ("source", pair.secured.url(), pair.plain.url()),
        ("target", pair.plain.url(), pair.secured.url()),
    ];
    for (side, source, target) in sides {
        let flags = pair.login(side, "admin", "not-the-password");
        let run = syncline(
            ["sync".into(), source.clone(), target.clone()]
                .into_iter()
                .chain(flags.clone()),
        );
        let run =
            run.await?
                .failed_saying(&[side, &host, "user \"admin\"", "wrong user or password"]);
        assert!(!run.err.contains("not-the-password"), "{run:?}");

        let url = format!("--{side}={host}");
        let run = syncline(["check".to_owned(), url].into_iter().chain(flags))
            .await?
            .ended(1);
        let failures = run.failures();
        assert_eq!(failures.len(), 1, "{run:#?}");
        assert!(
            failures[0].contains(&host) && failures[0].contains("user \"admin\""),
            "{failures:?}"
        );
        assert!(!run.out.contains("not-the-password"), "{run:?}");
    }
    Ok(())
}

#[tokio::test]
async fn no_credentials_at_all_are_told_from_wrong_ones() -> Result<()> {
    let pair = Pair::start().await;
    let args = ["sync".into(), pair.secured.url(), pair.plain.url()];
    let run = syncline(args.into_iter().chain(pair.trust("source"))).await?;
    run.failed_saying(&["without credentials", "user and password"]);
    Ok(())
}

#[tokio::test]
async fn a_password_can_come_from_a_file_and_a_user_without_any_is_refused() -> Result<()> {
    let pair = Pair::start().await;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("password");
    std::fs::write(&file, "admin\n")?;
    let mut args = vec![
        "check".to_owned(),
        format!("--source={}", pair.secured.url()),
    ];
    args.extend(pair.trust("source"));
    args.push("--source-user=admin".into());
    let run = syncline(&args).await?.ended(2);
    assert!(run.err.contains("\"admin\" has no password"), "{run:?}");
    let name = index(pair.secured, "file").await?;
    args.extend([
        format!("--source-password-file={}", file.display()),
        format!("--indices={name}"),
    ]);
    syncline(&args).await?.ended(0);
    Ok(())
}
