//! The roles that `check --privileges` prints are enough, and each privilege in them is needed.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use testkit::{NatsOptions, NatsServer, SearchNode, unique_name, wait_until};

use crate::support::{PASSWORD, Pair, assert_equal, index, service, syncline};

const WITHIN: Duration = Duration::from_secs(60);
const FOR_SETTINGS: &str = "indices:admin/settings/update";

/// A role as `check --privileges` prints it for an index.
async fn printed(role: &str, index: &str) -> Result<Value> {
    let run = syncline([
        "check",
        "--privileges",
        "--json",
        &format!("--indices={index}"),
    ])
    .await?
    .ended(0);
    let mut page: Value = serde_json::from_str(&run.out)?;
    Ok(page["opensearch"][role].take())
}

/// The role without one privilege after the other, and which one.
fn reduced(role: &Value) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for pointer in [
        "/cluster_permissions",
        "/index_permissions/0/allowed_actions",
    ] {
        let privileges = role.pointer(pointer).unwrap().as_array().unwrap();
        for (at, privilege) in privileges.iter().enumerate() {
            let mut less = role.clone();
            less.pointer_mut(pointer)
                .unwrap()
                .as_array_mut()
                .unwrap()
                .remove(at);
            all.push((privilege.as_str().unwrap().to_owned(), less));
        }
    }
    all
}

#[tokio::test]
async fn the_printed_source_role_is_enough_to_copy() -> Result<()> {
    let pair = Pair::start().await;
    let name = index(pair.secured, "least").await?;
    let user = pair.user(&printed("syncline-source", &name).await?).await?;
    let mut flags = pair.login("source", &user, PASSWORD);
    flags.push(format!("--indices={name}"));
    let check = ["check".into(), format!("--source={}", pair.secured.url())];
    syncline(check.into_iter().chain(flags.clone()))
        .await?
        .ended(0);
    let sync = ["sync".into(), pair.secured.url(), pair.plain.url()];
    syncline(sync.into_iter().chain(flags)).await?.ended(0);
    assert_equal(pair.secured, pair.plain, &name).await
}

#[tokio::test]
async fn the_printed_target_role_is_enough_to_write_new_fields_into_new_and_old_indices()
-> Result<()> {
    let pair = Pair::start().await;
    let name = index(pair.plain, "least").await?;
    let user = pair.user(&printed("syncline-target", &name).await?).await?;
    let flags = pair.login("target", &user, PASSWORD);
    let both = || {
        let check = [
            "check".into(),
            format!("--source={}", pair.plain.url()),
            format!("--target={}", pair.secured.url()),
            format!("--indices={name}"),
        ];
        syncline(check.into_iter().chain(flags.clone()))
    };
    let copy = || {
        let sync = [
            "sync".into(),
            pair.plain.url(),
            pair.secured.url(),
            format!("--indices={name}"),
        ];
        syncline(sync.into_iter().chain(flags.clone()))
    };
    let run = both().await?.ended(0);
    assert!(run.out.contains("will be created"), "{run:#?}");
    copy().await?.ended(0);
    assert_equal(pair.plain, pair.secured, &name).await?;

    // The target's mapping has to grow with the bulk.
    let http = pair.plain.http();
    http.index_documents(&name, [("new", json!({"unheard": {"of": "two"}}))])
        .await?;
    let run = both().await?.ended(0);
    assert!(run.out.contains("may be written"), "{run:#?}");
    copy().await?.ended(0);
    assert_equal(pair.plain, pair.secured, &name).await
}

/// A copy brings the documents without it, and says what it could not do.
#[tokio::test]
async fn settings_follow_with_the_printed_target_role_and_not_without_the_privilege_for_it()
-> Result<()> {
    let pair = Pair::start().await;
    let name = index(pair.plain, "following").await?;
    let role = printed("syncline-target", &name).await?;
    let copy = async |role: &Value| {
        let user = pair.user(role).await?;
        let (from, to) = (pair.plain.url(), pair.secured.url());
        let sync = ["sync".into(), from, to, format!("--indices={name}")];
        let flags = pair.login("target", &user, PASSWORD);
        syncline(sync.into_iter().chain(flags)).await
    };
    let set = async |interval: &str| {
        let settings = json!({ "index": { "refresh_interval": interval } });
        let path = format!("/{name}/_settings");
        pair.plain.http().put_json(&path, &settings).await
    };
    let there = async || {
        let path = format!("/{name}/_settings");
        let settings = pair.secured.http().get_json(&path).await?;
        let interval = &settings[&name]["settings"]["index"]["refresh_interval"];
        Ok::<Value, anyhow::Error>(interval.clone())
    };
    set("7s").await?;
    copy(&role).await?.ended(0);
    assert_eq!(there().await?, "7s", "it was created with it");
    set("9s").await?;
    copy(&role).await?.ended(0);
    assert_eq!(there().await?, "9s");

    set("11s").await?;
    let lacking = reduced(&role)
        .into_iter()
        .find(|(privilege, _)| privilege == FOR_SETTINGS);
    let run = copy(&lacking.unwrap().1).await?.ended(0);
    assert!(run.err.contains(FOR_SETTINGS), "{run:#?}");
    assert_eq!(there().await?, "9s");
    assert_equal(pair.plain, pair.secured, &name).await
}

#[tokio::test]
async fn the_printed_roles_are_enough_for_watcher_and_writer() -> Result<()> {
    let pair = Pair::start().await;
    for (source, target) in [(pair.secured, pair.plain), (pair.plain, pair.secured)] {
        let name = index(source, "services").await?;
        let access = async |node: &SearchNode, role: &str| -> Result<Vec<String>> {
            let mut flags = vec![format!("--es-hosts={}", node.url())];
            if node.product().is_secured() {
                let user = pair.user(&printed(role, &name).await?).await?;
                flags.extend(pair.login("es", &user, PASSWORD));
            }
            Ok(flags)
        };
        let nats = NatsServer::start(NatsOptions::default()).await?;
        let folder = tempfile::tempdir()?;
        let common = [
            format!("--nats-url={}", nats.url()),
            "--admin-disabled".into(),
        ];
        let mut watcher = vec![
            "es-watcher".to_owned(),
            format!("--index-patterns={name}"),
            format!("--checkpoint-path={}", folder.path().display()),
        ];
        watcher.extend(access(source, "syncline-source").await?);
        let mut writer = vec!["es-writer".to_owned()];
        writer.extend(access(target, "syncline-target").await?);
        let _watcher = service(watcher.iter().chain(&common))?;
        let _writer = service(writer.iter().chain(&common))?;
        let (here, there) = (source.http(), target.http());
        let arrived = async || there.count(&name).await.is_ok_and(|count| count == 52);
        wait_until("the documents have arrived", WITHIN, arrived).await?;
        here.index_documents(&name, [("new", json!({"field": "new"}))])
            .await?;
        let arrived = async || {
            let found = there.get_json(&format!("/{name}/_doc/new")).await;
            found.is_ok_and(|found| found["_source"]["field"] == "new")
        };
        wait_until("the change has arrived", WITHIN, arrived).await?;
        here.delete(&format!("/{name}/_doc/new")).await?;
        let gone = async || {
            let path = format!("/{name}/_doc/new");
            let found = there.request("GET".parse().unwrap(), &path, "").await;
            found.is_ok_and(|(status, _)| status == 404)
        };
        wait_until("the delete has arrived", WITHIN, gone).await?;
    }
    Ok(())
}

#[tokio::test]
async fn without_the_privilege_to_look_up_a_delete_ends_the_run_with_the_way_around_it()
-> Result<()> {
    let pair = Pair::start().await;
    let name = index(pair.secured, "lookup").await?;
    let role = printed("syncline-source", &name).await?;
    let lacking = reduced(&role)
        .into_iter()
        .find(|(privilege, _)| privilege == "indices:data/read/mget");
    let user = pair.user(&lacking.unwrap().1).await?;
    let folder = tempfile::tempdir()?;
    let mut sync = vec![
        "sync".to_owned(),
        pair.secured.url(),
        pair.plain.url(),
        format!("--indices={name}"),
        format!("--checkpoint-path={}", folder.path().display()),
    ];
    sync.extend(pair.login("source", &user, PASSWORD));
    syncline(&sync).await?.ended(0);
    let path = format!("/{name}/_doc/id 1").replace(' ', "%20");
    pair.secured.http().delete(&path).await?;
    let says = [&user, "indices:data/read/mget", "--deletes off"];
    syncline(&sync).await?.failed_saying(&says);
    sync.push("--deletes=off".to_owned());
    syncline(&sync).await?.ended(0);
    Ok(())
}

#[tokio::test]
async fn check_names_each_privilege_that_a_source_lacks() -> Result<()> {
    let pair = Pair::start().await;
    let name = index(pair.secured, "lacking").await?;
    let role = printed("syncline-source", &name).await?;
    for (privilege, role) in reduced(&role) {
        let user = pair.user(&role).await?;
        let mut args = vec![
            "check".to_owned(),
            format!("--source={}", pair.secured.url()),
            format!("--indices={name}"),
        ];
        args.extend(pair.login("source", &user, PASSWORD));
        let run = syncline(&args).await?.ended(1);
        let failures = run.failures();
        assert!(
            failures.len() == 1 && failures[0].contains(privilege.trim_end_matches(']')),
            "without {privilege}: {run:#?}"
        );
        assert!(failures[0].contains(&user), "{failures:?}");
    }
    Ok(())
}

#[tokio::test]
async fn check_names_each_privilege_that_a_target_lacks_whether_the_index_is_there_or_not()
-> Result<()> {
    let pair = Pair::start().await;
    let name = index(pair.secured, "lacking").await?;
    let role = printed("syncline-target", &name).await?;
    let before = pair
        .secured
        .http()
        .get_json(&format!(
            "/{name}/_stats?level=shards&filter_path=**.seq_no"
        ))
        .await?;
    for (privilege, role) in reduced(&role) {
        let user = pair.user(&role).await?;
        let mut args = vec![
            "check".to_owned(),
            format!("--target={}", pair.secured.url()),
            format!("--indices={name}"),
        ];
        args.extend(pair.login("target", &user, PASSWORD));
        let run = syncline(&args).await?;
        if privilege == FOR_SETTINGS {
            // A run can do without.
            let run = run.ended(0);
            let mut lines = run.out.lines();
            let told = lines.any(|line| line.starts_with("warn") && line.contains(&privilege));
            assert!(told, "without {privilege}: {run:#?}");
            continue;
        }
        let run = run.ended(1);
        let failures = run.failures();
        assert!(
            failures.len() == 1 && failures[0].contains(&privilege),
            "without {privilege}: {run:#?}"
        );
    }
    let after = pair
        .secured
        .http()
        .get_json(&format!(
            "/{name}/_stats?level=shards&filter_path=**.seq_no"
        ))
        .await?;
    assert_eq!(before, after, "check has written something");

    let absent = unique_name("absent");
    let role = printed("syncline-target", &absent).await?;
    let lacking = reduced(&role)
        .into_iter()
        .find(|(privilege, _)| privilege == "indices:admin/create");
    let user = pair.user(&lacking.unwrap().1).await?;
    let mut args = vec![
        "check".to_owned(),
        format!("--target={}", pair.secured.url()),
        format!("--indices={absent}"),
    ];
    args.extend(pair.login("target", &user, PASSWORD));
    let failures = syncline(&args).await?.ended(1).failures();
    assert!(
        failures.len() == 1 && failures[0].contains("indices:admin/create"),
        "{failures:?}"
    );
    let (status, _) = pair
        .secured
        .http()
        .request("GET".parse()?, &format!("/{absent}"), "")
        .await?;
    assert_eq!(status, 404, "check has created an index");
    Ok(())
}

#[tokio::test]
async fn the_printed_verify_role_is_enough_to_find_a_difference_and_no_privilege_of_it_can_go()
-> Result<()> {
    let pair = Pair::start().await;
    let name = index(pair.secured, "verified").await?;
    let copy = [
        "sync".into(),
        pair.secured.url(),
        pair.plain.url(),
        format!("--indices={name}"),
    ];
    let admin = pair.login("source", "admin", "admin");
    syncline(copy.into_iter().chain(admin)).await?.ended(0);
    let role = printed("syncline-verify", &name).await?;
    let verify = async |role: &Value| {
        let user = pair.user(role).await?;
        let urls = [
            "verify".into(),
            pair.plain.url(),
            pair.secured.url(),
            format!("--indices={name}"),
        ];
        syncline(
            urls.into_iter()
                .chain(pair.login("target", &user, PASSWORD)),
        )
        .await
    };
    let run = verify(&role).await?.ended(0);
    assert!(run.out.contains("equal: yes (52 documents"), "{run:#?}");

    let other = pair.plain.http();
    other
        .index_documents(&name, [("id 7", json!({"n": -7}))])
        .await?;
    other.delete(&format!("/{name}/_doc/id%208")).await?;
    let run = verify(&role).await?.ended(3);
    assert!(
        run.out.contains("equal: NO") && run.out.contains("id 7"),
        "{run:#?}"
    );
    // Nothing scrolls over so few documents.
    let needed = reduced(&role).into_iter();
    let needed = needed.filter(|(privilege, _)| !privilege.starts_with(SCROLL));
    for (privilege, role) in needed {
        let says = privilege.trim_end_matches(']');
        verify(&role).await?.failed_saying(&["target", says]);
    }
    Ok(())
}

/// How the privileges begin without which a comparison goes another way.
const SCROLL: &str = "indices:data/read/scroll";

#[tokio::test]
async fn without_the_privilege_to_scroll_a_large_index_is_compared_all_the_same() -> Result<()> {
    let pair = Pair::start().await;
    let name = index(pair.secured, "large").await?;
    let many = (0..12_000).map(|n| (format!("many {n}"), json!({"n": n})));
    let secured = pair.secured.http();
    secured.index_documents(&name, many).await?;
    let indices = format!("--indices={name}");
    let copy = [
        "sync".into(),
        pair.secured.url(),
        pair.plain.url(),
        indices.clone(),
    ];
    let admin = pair.login("source", "admin", "admin");
    syncline(copy.into_iter().chain(admin)).await?.ended(0);

    let whole = printed("syncline-verify", &name).await?;
    let roles = reduced(&whole).into_iter();
    let lacking = roles.filter(|(privilege, _)| privilege.starts_with(SCROLL));
    let roles: Vec<_> = [("none".to_owned(), whole)]
        .into_iter()
        .chain(lacking)
        .collect();
    assert_eq!(roles.len(), 3);
    let search = format!("/{name}/_stats/search");
    for (lacking, role) in roles {
        let user = pair.user(&role).await?;
        let urls = [
            "verify".into(),
            pair.plain.url(),
            pair.secured.url(),
            indices.clone(),
            "--log-level=info".into(),
        ];
        let login = pair.login("target", &user, PASSWORD);
        let run = syncline(urls.into_iter().chain(login)).await?.ended(0);
        assert!(run.out.contains("equal: yes (12052 documents"), "{run:#?}");
        let is_said = run.err.contains("without scrolls the index is read");
        assert_eq!(is_said, lacking == SCROLL, "{run:#?}");
        if lacking == "none" {
            let stats = secured.get_json(&search).await?;
            let search = &stats["_all"]["total"]["search"];
            assert_eq!(
                (&search["scroll_total"], &search["scroll_current"]),
                (&json!(2), &json!(0))
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn without_the_refresh_privilege_a_run_says_so_and_offers_the_natural_way_which_works()
-> Result<()> {
    let pair = Pair::start().await;
    let name = index(pair.secured, "natural").await?;
    let role = printed("syncline-source", &name).await?;
    let lacking = reduced(&role)
        .into_iter()
        .find(|(privilege, _)| privilege == "indices:admin/refresh");
    let user = pair.user(&lacking.unwrap().1).await?;
    let login = pair.login("source", &user, PASSWORD);
    let indices = format!("--indices={name}");
    let sync = [
        "sync".into(),
        pair.secured.url(),
        pair.plain.url(),
        indices.clone(),
    ];
    let sync = || syncline(sync.iter().chain(&login));
    let says = [&user, "indices:admin/refresh", "--source-refresh natural"];
    sync().await?.failed_saying(&says);

    let nats = NatsServer::start(NatsOptions::default()).await?;
    let folder = tempfile::tempdir()?;
    let mut watch = vec![
        "es-watcher".to_owned(),
        format!("--es-hosts={}", pair.secured.url()),
        format!("--index-patterns={name}"),
        format!("--nats-url={}", nats.url()),
        format!(
            "--checkpoint-path={}",
            folder.path().join("checkpoint").display()
        ),
        "--admin-disabled".into(),
        "--log-level=error".into(),
    ];
    watch.extend(pair.login("es", &user, PASSWORD));
    let watcher = syncline(&watch).await?.ended(1);
    let last = watcher.err.lines().last().unwrap_or_default();
    assert!(says.iter().all(|part| last.contains(part)), "{watcher:#?}");

    let natural = "--source-refresh=natural".to_owned();
    let check = [
        "check".to_owned(),
        format!("--source={}", pair.secured.url()),
        indices.clone(),
    ];
    let check = |more: Option<&String>| {
        syncline(
            check
                .clone()
                .iter()
                .chain(&login)
                .chain(more)
                .cloned()
                .collect::<Vec<_>>(),
        )
    };
    let run = check(None).await?.ended(1);
    assert!(run.out.contains("--source-refresh natural"), "{run:#?}");
    check(Some(&natural)).await?.ended(0);
    let sync = [
        "sync".into(),
        pair.secured.url(),
        pair.plain.url(),
        indices.clone(),
        natural,
    ];
    syncline(sync.iter().chain(&login)).await?.ended(0);
    assert_equal(pair.secured, pair.plain, &name).await?;

    let verify = ["verify", &pair.secured.url(), &pair.plain.url(), &indices];
    let login: Vec<&str> = login.iter().map(String::as_str).collect();
    let refused = syncline(verify.iter().chain(&login)).await?;
    refused.failed_saying(&["indices:admin/refresh", "--no-refresh"]);
    let visible = syncline(verify.iter().chain(&login).chain(&["--no-refresh"])).await?;
    assert!(visible.ended(0).out.contains("equal: yes"));
    Ok(())
}

#[tokio::test]
async fn the_write_test_leaves_nothing_behind_and_says_when_the_role_does_not_cover_it()
-> Result<()> {
    let pair = Pair::start().await;
    let mut args = vec![
        "check".to_owned(),
        format!("--target={}", pair.secured.url()),
        "--write-test".into(),
        "--indices=none".into(),
    ];
    args.extend(pair.login("target", "admin", "admin"));
    let run = syncline(&args).await?.ended(0);
    assert!(
        run.out.contains("was created and written") && run.out.contains("was deleted"),
        "{run:#?}"
    );
    let (_, left) = pair
        .secured
        .http()
        .request("GET".parse()?, "/syncline-check-*", "")
        .await?;
    assert_eq!(left, json!({}));

    let user = pair
        .user(&printed("syncline-target", "none").await?)
        .await?;
    args.truncate(4);
    args.extend(pair.login("target", &user, PASSWORD));
    let failures = syncline(&args).await?.ended(1).failures();
    assert!(
        failures.len() == 1 && failures[0].contains("indices:admin/create"),
        "{failures:?}"
    );
    Ok(())
}
