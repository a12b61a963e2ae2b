//! `check` where nothing is secured: every product, indices that cannot be captured, NATS, folders.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use bus::{ConnectOptions, StreamSpec, stream};
use serde_json::json;
use testkit::{NatsOptions, NatsServer, Product, SearchNode, matrix};

use crate::support::{index, syncline};

#[tokio::test]
async fn every_product_passes_as_source_and_as_target_and_is_not_changed() -> Result<()> {
    for product in matrix() {
        let node = SearchNode::shared(product).await;
        let name = index(node, "preflight").await?;
        let history = format!("/{name}/_stats?level=shards&filter_path=**.seq_no.max_seq_no");
        let before = node.http().get_json(&history).await?;
        for side in ["source", "target"] {
            let url = format!("--{side}={}", node.url());
            let run = syncline(["check", &url, &format!("--indices={name}")]).await?;
            let run = run.ended(0);
            assert!(
                run.out.contains(&name) && !run.out.contains("warn "),
                "{product}: {run:#?}"
            );
        }
        assert_eq!(before, node.http().get_json(&history).await?, "{product}");
        let url = format!("--target={}", node.url());
        let run = syncline(["check", &url, "--write-test", &format!("--indices={name}")]).await?;
        assert!(run.ended(0).out.contains("was deleted"), "{product}");
    }
    Ok(())
}

#[tokio::test]
async fn an_index_that_cannot_be_captured_is_a_failure_only_when_it_is_asked_for_by_name()
-> Result<()> {
    let node = SearchNode::shared(Product::Os2).await;
    let good = index(node, "capturable").await?;
    let bad = format!("{good}-blind");
    let blind = json!({"mappings": {"_source": {"enabled": false}}});
    node.http().put_json(&format!("/{bad}"), &blind).await?;
    let url = format!("--source={}", node.url());

    let run = syncline(["check", &url, &format!("--indices={good}*")])
        .await?
        .ended(0);
    let warned = run.out.lines().find(|line| line.starts_with("warn"));
    let warned = warned.context("no warning")?;
    assert!(
        warned.contains(&bad) && warned.contains("_source"),
        "{warned}"
    );

    let run = syncline([
        "check",
        &url,
        &format!("--indices={good},{bad},no-such-index"),
    ])
    .await?;
    let failures = run.ended(1).failures();
    assert_eq!(failures.len(), 2, "{failures:?}");
    assert!(
        failures.iter().any(|line| line.contains(&bad)),
        "{failures:?}"
    );
    assert!(
        failures.iter().any(|line| line.contains("no-such-index")),
        "{failures:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_cluster_cannot_be_its_own_target() -> Result<()> {
    let node = SearchNode::shared(Product::Os2).await;
    let name = index(node, "own").await?;
    let (source, target) = (
        format!("--source={}", node.url()),
        format!("--target={}", node.url()),
    );
    let run = syncline(["check", &source, &target, &format!("--indices={name}")]).await?;
    let failures = run.ended(1).failures();
    assert!(
        failures.len() == 1 && failures[0].contains("same cluster"),
        "{failures:?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_stream_is_shown_with_its_room_and_called_nearly_full_when_it_is() -> Result<()> {
    let server = NatsServer::start(NatsOptions::default()).await?;
    let url = format!("--nats-url={}", server.url());
    let run = syncline(["check", &url]).await?.ended(0);
    assert!(
        run.out.contains("ES_CHANGES does not exist yet"),
        "{run:#?}"
    );

    let options = ConnectOptions {
        url: server.url(),
        ..ConnectOptions::default()
    };
    let bus = options.connect().await?;
    let spec = StreamSpec {
        max_bytes: Some(1_000_000),
        ..StreamSpec::new(stream::ES_CHANGES, stream::ES_CHANGES_SUBJECTS)
    };
    stream::ensure(&bus, &spec).await?;
    let run = syncline(["check", &url]).await?.ended(0);
    assert!(run.out.contains("0 messages, 0.0 MB of 1.0 MB"), "{run:#?}");
    bus.jetstream()
        .publish("es.t.x.index", vec![0; 900_000].into())
        .await?
        .await?;
    let run = syncline(["check", &url]).await?.ended(0);
    assert!(run.out.contains("nearly full"), "{run:#?}");

    let run = syncline(["check", "--nats-url=nats://127.0.0.1:1"])
        .await?
        .ended(1);
    assert!(
        run.failures().len() == 1 && run.failures()[0].contains("127.0.0.1:1"),
        "{run:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_folder_is_looked_into_without_being_touched() -> Result<()> {
    let (source, target) = tokio::join!(
        SearchNode::shared(Product::Os2),
        SearchNode::shared(Product::Es8)
    );
    let name = index(source, "folder").await?;
    let home = tempfile::tempdir()?;
    let folder = home.path().join("checkpoint");
    let flag = format!("--checkpoint-path={}", folder.display());
    let check = || async { syncline(["check", &flag]).await };

    let run = check().await?.ended(0);
    assert!(
        run.out.contains("does not exist yet") && !folder.exists(),
        "{run:#?}"
    );

    let sync = [
        "sync",
        &source.url(),
        &target.url(),
        &format!("--indices={name}"),
        &flag,
    ];
    syncline(sync).await?.ended(0);
    let before = contents(&folder)?;
    let run = check().await?.ended(0);
    assert!(run.out.contains("holds checkpoints of"), "{run:#?}");
    assert_eq!(before, contents(&folder)?, "check has touched the store");
    let foreign = format!("--source={}", target.url());
    let run = syncline(["check", &foreign, "--indices=-*", &flag])
        .await?
        .ended(1);
    assert!(
        run.failures()
            .iter()
            .any(|line| line.contains("belongs to")),
        "{run:#?}"
    );

    let lock = fs::File::open(folder.join("watcher.lock"))?;
    lock.lock()?;
    let run = check().await?.ended(0);
    assert!(run.out.contains("in use by a process"), "{run:#?}");
    drop(lock);

    fs::write(folder.join("data.mdb"), [1; 100])?;
    let failures = check().await?.ended(1).failures();
    let shown = format!("{folder:?} is damaged");
    assert!(
        failures.len() == 1 && failures[0].contains(&shown),
        "{failures:?}"
    );

    let flag = format!("--checkpoint-path={}/data.mdb/below", folder.display());
    let failures = syncline(["check", &flag]).await?.ended(1).failures();
    assert!(
        failures.len() == 1 && failures[0].contains("cannot be written"),
        "{failures:?}"
    );
    Ok(())
}

/// Every file of a folder with its bytes.
fn contents(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(contents(&path)?);
        } else {
            files.push((path.clone(), fs::read(&path)?));
        }
    }
    files.sort();
    Ok(files)
}

#[tokio::test]
async fn nothing_to_check_is_a_wrong_use_and_json_is_json() -> Result<()> {
    let run = syncline(["check"]).await?.ended(2);
    assert!(run.err.contains("nothing to check"), "{run:?}");
    let run = syncline(["check", "--json", "--source=http://127.0.0.1:1"])
        .await?
        .ended(1);
    let report: serde_json::Value = serde_json::from_str(&run.out)?;
    assert_eq!(
        (&report["failed"], &report["checks"][0]["status"]),
        (&json!(1), &json!("fail"))
    );
    Ok(())
}
