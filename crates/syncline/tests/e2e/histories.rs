//! What becomes of an index at the source, and what the target has then: the table *Histories* of
//! `docs/guarantees.md`, row by row, without anything being killed. The rows where a node dies are in
//! `lost_tails.rs`.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::{Http, Product, SearchNode, wait_until};

use super::{index_name, nodes};
use crate::support::{
    corpus::{self, bulk, delete_by_query},
    equal::{contents, until_equal},
    pipeline::Pipeline,
    program::{PATIENCE, run},
};

/// An index with the numbers up to `documents`.
async fn fill(http: &Http, index: &str, shards: u32, documents: usize) -> Result<()> {
    corpus::create(http, index, shards, false).await?;
    corpus::index_numbers(http, index, 0..documents, 0).await
}

async fn delete_below(http: &Http, index: &str, number: usize) -> Result<()> {
    let query = json!({ "range": { "number": { "lt": number } } });
    delete_by_query(http, index, query).await
}

async fn post(http: &Http, path: &str) -> Result<Value> {
    http.post_json(path, &Value::Null).await
}

/// Something of everything that can happen to a document: changed, new, deleted.
async fn change(source: &Http, index: &str, round: usize) -> Result<()> {
    let new = 10_000 * round;
    for numbers in [0..5, 40..60, new..new + 20] {
        corpus::index_numbers(source, index, numbers, round).await?;
    }
    delete_below(source, index, 10 * round).await
}

/// Snapshots of a node in a folder of their own.
struct Snapshots {
    http: Http,
    name: String,
}

impl Snapshots {
    async fn new(node: &SearchNode) -> Result<Snapshots> {
        let (http, name) = (node.http(), testkit::unique_name("repository"));
        let location = node.repository().join(&name);
        let body = json!({ "type": "fs", "settings": { "location": location } });
        http.put_json(&format!("/_snapshot/{name}"), &body).await?;
        Ok(Snapshots { http, name })
    }

    async fn take(&self, index: &str) -> Result<()> {
        let path = format!("/_snapshot/{}/one?wait_for_completion=true", self.name);
        let body = json!({ "indices": index, "include_global_state": false });
        let taken = self.http.put_json(&path, &body).await?;
        ensure!(taken["snapshot"]["state"] == "SUCCESS", "{taken}");
        Ok(())
    }

    /// Restores what was taken under a name.
    async fn restore(&self, name: &str) -> Result<()> {
        let path = format!(
            "/_snapshot/{}/one/_restore?wait_for_completion=true",
            self.name
        );
        let body = json!({
            "include_global_state": false, "rename_pattern": ".+", "rename_replacement": name,
        });
        let restored = self.http.post_json(&path, &body).await?;
        ensure!(restored["snapshot"]["shards"]["failed"] == 0, "{restored}");
        Ok(())
    }
}

#[tokio::test]
async fn an_index_that_is_deleted_and_not_recreated_stays_at_the_target_as_it_was() -> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let prefix = index_name("deleted");
    let (gone, stays) = (format!("{prefix}-gone"), format!("{prefix}-stays"));
    fill(&from, &gone, 2, 300).await?;
    fill(&from, &stays, 1, 100).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &format!("{prefix}-*")).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    until_equal(&from, &to, &gone, PATIENCE).await?;
    let before = contents(&from, &gone).await?;
    from.delete(&format!("/{gone}")).await?;
    watcher.says(&["index is gone", &gone]).await?;
    // What is captured afterwards comes after whatever the deletion might have led to.
    change(&from, &stays, 1).await?;
    until_equal(&from, &to, &stays, PATIENCE).await?;
    ensure!(contents(&to, &gone).await? == before);
    watcher.stop().await?;
    // Nor does one that finds it missing at its start.
    let watcher = pipeline.watcher()?;
    change(&from, &stays, 2).await?;
    until_equal(&from, &to, &stays, PATIENCE).await?;
    ensure!(contents(&to, &gone).await? == before);
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn an_index_recreated_with_other_shards_while_the_watcher_was_down_replaces_the_old_one()
-> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    for (before, after) in [(1, 3), (3, 1)] {
        let index = index_name("reshaped");
        fill(&from, &index, before, 500).await?;
        let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
        let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
        until_equal(&from, &to, &index, PATIENCE).await?;
        watcher.stop().await?;
        from.delete(&format!("/{index}")).await?;
        corpus::create(&from, &index, after, false).await?;
        corpus::index_numbers(&from, &index, 400..700, 1).await?;
        let watcher = pipeline.watcher()?;
        ensure!(until_equal(&from, &to, &index, PATIENCE).await? == 300);
        change(&from, &index, 2).await?;
        until_equal(&from, &to, &index, PATIENCE).await?;
        watcher.stop().await?;
        writer.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_closed_index_holds_up_no_other_and_is_read_on_when_it_is_opened() -> Result<()> {
    for (from, to) in [(Product::Es8, Product::Os2), (Product::Os2, Product::Es8)] {
        let (source, target) = (SearchNode::shared(from).await, SearchNode::shared(to).await);
        let (from, to) = (source.http(), target.http());
        let prefix = index_name("closed");
        let (closed, open) = (format!("{prefix}-closed"), format!("{prefix}-open"));
        fill(&from, &closed, 2, 300).await?;
        fill(&from, &open, 1, 100).await?;
        let patterns = format!("{closed},{open}");
        let pipeline = Pipeline::new(&source.url(), &target.url(), &patterns).await?;
        let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
        until_equal(&from, &to, &closed, PATIENCE).await?;
        post(&from, &format!("/{closed}/_close")).await?;
        change(&from, &open, 1).await?;
        until_equal(&from, &to, &open, PATIENCE).await?;
        watcher.says(&["index is closed", &closed]).await?;
        post(&from, &format!("/{closed}/_open")).await?;
        change(&from, &closed, 1).await?;
        until_equal(&from, &to, &closed, PATIENCE).await?;
        // Now it is closed and changed while nobody looks.
        watcher.stop().await?;
        post(&from, &format!("/{closed}/_close")).await?;
        post(&from, &format!("/{closed}/_open")).await?;
        change(&from, &closed, 2).await?;
        post(&from, &format!("/{closed}/_close")).await?;
        // It is named, and closed at the start: it is waited for.
        let watcher = pipeline.watcher()?;
        watcher.says(&["left out", "closed", &closed]).await?;
        change(&from, &open, 2).await?;
        until_equal(&from, &to, &open, PATIENCE).await?;
        post(&from, &format!("/{closed}/_open")).await?;
        until_equal(&from, &to, &closed, PATIENCE).await?;
        change(&from, &closed, 3).await?;
        until_equal(&from, &to, &closed, PATIENCE).await?;
        // A target index that is closed is waited for, too, and nothing becomes a dead letter.
        post(&to, &format!("/{closed}/_close")).await?;
        change(&from, &closed, 4).await?;
        let metric = "syncline_writer_retries_total";
        let before = writer.metric(metric).await?;
        wait_until("the writer tries again", PATIENCE, async || {
            let retries = writer.metric(metric).await;
            retries.is_ok_and(|retries| retries > before)
        })
        .await?;
        post(&to, &format!("/{closed}/_open")).await?;
        until_equal(&from, &to, &closed, PATIENCE).await?;
        watcher.stop().await?;
        writer.stop().await?;
        // A copy that does not follow has nothing to wait for.
        post(&from, &format!("/{closed}/_close")).await?;
        let copy = ["sync", &source.url(), &target.url(), "--indices", &closed];
        run(copy)
            .await?
            .refused(1, &[&closed, "closed", "open it"])?;
    }
    Ok(())
}

#[tokio::test]
async fn a_snapshot_restored_over_an_index_takes_the_target_back_with_it() -> Result<()> {
    for (from, to) in [
        (Product::Es7_17, Product::Os2),
        (Product::Es8, Product::Os2),
        (Product::Os2, Product::Es8),
    ] {
        let (source, target) = (SearchNode::shared(from).await, SearchNode::shared(to).await);
        let (from, to) = (source.http(), target.http());
        let index = index_name("restored");
        let copy = format!("{index}-copy");
        let snapshots = Snapshots::new(source).await?;
        fill(&from, &index, 3, 200).await?;
        change(&from, &index, 1).await?;
        let patterns = format!("{index}*");
        let pipeline = Pipeline::new(&source.url(), &target.url(), &patterns).await?;
        let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
        until_equal(&from, &to, &index, PATIENCE).await?;
        let then = contents(&from, &index).await?;
        snapshots.take(&index).await?;

        // Over the closed index, which keeps its UUID: under the watcher's eyes, and unseen.
        change(&from, &index, 2).await?;
        until_equal(&from, &to, &index, PATIENCE).await?;
        post(&from, &format!("/{index}/_close")).await?;
        snapshots.restore(&index).await?;
        until_equal(&from, &to, &index, PATIENCE).await?;
        ensure!(contents(&to, &index).await? == then);
        change(&from, &index, 3).await?;
        until_equal(&from, &to, &index, PATIENCE).await?;
        watcher.stop().await?;
        change(&from, &index, 4).await?;
        post(&from, &format!("/{index}/_close")).await?;
        snapshots.restore(&index).await?;
        let watcher = pipeline.watcher()?;
        until_equal(&from, &to, &index, PATIENCE).await?;
        ensure!(contents(&to, &index).await? == then);

        // As an index of another name.
        snapshots.restore(&copy).await?;
        change(&from, &copy, 2).await?;
        until_equal(&from, &to, &copy, PATIENCE).await?;

        // After the index was deleted.
        change(&from, &index, 5).await?;
        until_equal(&from, &to, &index, PATIENCE).await?;
        from.delete(&format!("/{index}")).await?;
        snapshots.restore(&index).await?;
        until_equal(&from, &to, &index, PATIENCE).await?;
        ensure!(contents(&to, &index).await? == then);
        change(&from, &index, 6).await?;
        until_equal(&from, &to, &index, PATIENCE).await?;
        watcher.stop().await?;
        writer.stop().await?;
    }
    Ok(())
}

/// Makes `index` of `source` as `_split`, `_shrink` or `_clone` do.
async fn resize(http: &Http, source: &str, how: &str, index: &str, shards: u32) -> Result<()> {
    let body = json!({ "settings": {
        "index.number_of_shards": shards, "index.number_of_replicas": 0, "index.blocks.write": null,
    }});
    http.put_json(&format!("/{source}/_{how}/{index}"), &body)
        .await?;
    let health = format!("/_cluster/health/{index}?wait_for_status=green&timeout=30s");
    http.get_json(&health).await.map(drop)
}

#[tokio::test]
async fn split_shrunk_and_cloned_indices_arrive_complete_with_their_later_changes_and_deletes()
-> Result<()> {
    for (from, to) in [
        (Product::Es8, Product::Os2),
        (Product::Os2, Product::Es7_17),
    ] {
        let (source, target) = (SearchNode::shared(from).await, SearchNode::shared(to).await);
        let (from, to) = (source.http(), target.http());
        let prefix = index_name("resized");
        let original = format!("{prefix}-original");
        // Of three, so that documents of one number end up on both sides of a page's end.
        fill(&from, &original, 3, 3000).await?;
        let pipeline = Pipeline::new(&source.url(), &target.url(), &format!("{prefix}-*")).await?;
        let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
        until_equal(&from, &to, &original, PATIENCE).await?;
        let blocked = json!({ "index.blocks.write": true });
        from.put_json(&format!("/{original}/_settings"), &blocked)
            .await?;
        for (how, shards) in [("split", 6), ("shrink", 1), ("clone", 3)] {
            let index = format!("{prefix}-{how}");
            resize(&from, &original, how, &index, shards).await?;
            let arrived = until_equal(&from, &to, &index, PATIENCE).await?;
            ensure!(arrived == 3000, "{how}: {arrived}");
            change(&from, &index, 1).await?;
            until_equal(&from, &to, &index, PATIENCE).await?;
            delete_below(&from, &index, 1500).await?;
            let left = until_equal(&from, &to, &index, PATIENCE).await?;
            ensure!(left == 1520, "{how}: {left}");
        }
        ensure!(
            !watcher.has_said(&["the ledger does not know"]),
            "{}",
            watcher.last_words()
        );
        watcher.stop().await?;
        // What was deleted while nobody looked.
        let shrunk = format!("{prefix}-shrink");
        delete_below(&from, &shrunk, 2500).await?;
        let watcher = pipeline.watcher()?;
        ensure!(until_equal(&from, &to, &shrunk, PATIENCE).await? == 520);
        watcher.stop().await?;
        writer.stop().await?;
    }
    Ok(())
}

/// Points an alias at another index in one step.
async fn swap(http: &Http, alias: &str, from: Option<&str>, to: &str) -> Result<()> {
    let mut actions = vec![json!({ "add": { "index": to, "alias": alias } })];
    actions.extend(from.map(|from| json!({ "remove": { "index": from, "alias": alias } })));
    let body = json!({ "actions": actions });
    http.post_json("/_aliases", &body).await.map(drop)
}

#[tokio::test]
async fn an_alias_stands_for_the_index_behind_it_and_a_swap_moves_the_watch() -> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let prefix = index_name("alias");
    let (first, second) = (format!("{prefix}-1"), format!("{prefix}-2"));
    // By names the swap changes nothing, by the alias it does.
    for (patterns, by_alias) in [(format!("{first},{second}"), false), (prefix.clone(), true)] {
        fill(&from, &first, 1, 100).await?;
        fill(&from, &second, 2, 50).await?;
        swap(&from, &prefix, None, &first).await?;
        let pipeline = Pipeline::new(&source.url(), &target.url(), &patterns).await?;
        let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
        until_equal(&from, &to, &first, PATIENCE).await?;
        let left = contents(&to, &first).await?;
        swap(&from, &prefix, Some(&first), &second).await?;
        if by_alias {
            watcher.says(&["index is gone", &first]).await?;
            change(&from, &first, 1).await?;
        }
        corpus::index_numbers(&from, &prefix, 30..80, 2).await?;
        until_equal(&from, &to, &second, PATIENCE).await?;
        change(&from, &second, 3).await?;
        until_equal(&from, &to, &second, PATIENCE).await?;
        match by_alias {
            // But for the alias, the index that is not meant any more stays as it was when it was.
            true => ensure!(contents(&to, &first).await? == left),
            false => until_equal(&from, &to, &first, PATIENCE).await.map(drop)?,
        }
        let has_followed = async || {
            let found = to.get_json(&format!("/_alias/{prefix}")).await;
            found.is_ok_and(|found| {
                let has = |index: &str| found.get(index).is_some();
                has(&second) && !has(&first)
            })
        };
        wait_until("the alias has followed", PATIENCE, has_followed).await?;
        watcher.stop().await?;
        writer.stop().await?;
        for http in [&from, &to] {
            http.delete(&format!("/{first},{second}")).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_index_that_is_rolled_over_goes_on_in_the_next_one() -> Result<()> {
    let (source, target) = nodes().await;
    let (from, to) = (source.http(), target.http());
    let prefix = index_name("rollover");
    let (first, second) = (format!("{prefix}-000001"), format!("{prefix}-000002"));
    let body = json!({
        "settings": { "number_of_replicas": 0 },
        "aliases": { &prefix: { "is_write_index": true } },
    });
    from.put_json(&format!("/{first}"), &body).await?;
    let pipeline = Pipeline::new(&source.url(), &target.url(), &format!("{prefix}-*")).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    corpus::index_numbers(&from, &prefix, 0..100, 0).await?;
    until_equal(&from, &to, &first, PATIENCE).await?;
    post(&from, &format!("/{prefix}/_rollover")).await?;
    // Through the alias into the new one, and by name into the old one.
    corpus::index_numbers(&from, &prefix, 50..150, 1).await?;
    change(&from, &first, 1).await?;
    until_equal(&from, &to, &second, PATIENCE).await?;
    until_equal(&from, &to, &first, PATIENCE).await?;
    watcher.stop().await?;
    writer.stop().await
}

#[tokio::test]
async fn the_backing_indices_of_a_data_stream_are_captured_under_their_own_names() -> Result<()> {
    for (from, to) in [(Product::Es8, Product::Os2), (Product::Os2, Product::Es8)] {
        let (source, target) = (SearchNode::shared(from).await, SearchNode::shared(to).await);
        let (from, to) = (source.http(), target.http());
        let stream = testkit::unique_name("e2e-stream");
        let template = json!({
            "index_patterns": [stream], "data_stream": {}, "priority": 500,
            "template": { "settings": { "number_of_replicas": 0 } },
        });
        from.put_json(&format!("/_index_template/{stream}"), &template)
            .await?;
        let add = async |ids: std::ops::Range<usize>| {
            let document =
                |id: usize| json!({ "@timestamp": "2026-01-01T00:00:00Z", "number": id });
            let documents: Vec<_> = ids.map(|id| (id.to_string(), None, document(id))).collect();
            let body = bulk(&documents).replace("\"index\"", "\"create\"");
            from.post_ndjson(&format!("/{stream}/_bulk"), body).await
        };
        let backing = async || -> Result<Vec<String>> {
            let path = format!("/{stream}?expand_wildcards=all");
            let found = from.get_json(&path).await?;
            Ok(found
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone())
                .collect())
        };
        add(0..100).await?;
        let pipeline = Pipeline::new(&source.url(), &target.url(), &stream).await?;
        let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
        let first = backing().await?;
        ensure!(
            first.len() == 1 && first[0].starts_with(".ds-"),
            "{first:?}"
        );
        until_equal(&from, &to, &first[0], PATIENCE).await?;
        post(&from, &format!("/{stream}/_rollover")).await?;
        add(100..150).await?;
        delete_below(&from, &first[0], 30).await?;
        let both = backing().await?;
        ensure!(both.len() == 2, "{both:?}");
        for index in &both {
            until_equal(&from, &to, index, PATIENCE).await?;
        }
        ensure!(
            to.get_json(&format!("/_data_stream/{stream}"))
                .await
                .is_err(),
            "the target has no data stream, only its indices"
        );
        watcher.stop().await?;
        writer.stop().await?;
        // A glob without a dot means the stream by its name, too, and never the indices by theirs.
        let pattern = format!("{stream}*");
        let copy = ["sync", &source.url(), &target.url(), "--indices", &pattern];
        run(copy).await?.success()?;
        for index in &both {
            until_equal(&from, &to, index, PATIENCE).await?;
            to.delete(&format!("/{index}")).await?;
        }
        // Where there is a way to delete a stream: the test server of Elasticsearch has none.
        let path = format!("/_data_stream/{stream}");
        from.request("DELETE".parse()?, &path, "").await?;
    }
    Ok(())
}
