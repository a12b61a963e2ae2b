use std::collections::BTreeMap;

use anyhow::Result;
use model::IndexName;
use search::{
    Client, Error, Hit, IndexPatterns, MgetOptions, Replication, Request, ShardCopy, ShardStats,
    Uncapturable, Window,
};
use serde_json::json;
use testkit::{Product, SearchNode};

use crate::{client, id, index_name};

/// Every document of a shard, read in pages of a few.
async fn read_shard(
    client: &Client,
    index: &IndexName,
    stats: &ShardStats,
    size: u32,
) -> Result<Vec<Hit>> {
    let mut all: Vec<Hit> = Vec::new();
    let mut after = -1;
    loop {
        let window = Window {
            index,
            shard: stats.shard,
            node: Some(&stats.node),
            after,
            upto: stats.global_checkpoint,
            size,
        };
        let page = client.read_window(&window).await?;
        assert!(page.hits.is_sorted_by_key(|hit| hit.seq_no));
        let Some(last) = page.hits.last() else {
            return Ok(all);
        };
        after = last.seq_no as i64;
        all.extend(page.hits);
    }
}

#[tokio::test]
async fn documents_come_byte_for_byte_with_ids_and_routing_from_every_shard() -> Result<()> {
    for product in testkit::matrix() {
        let node = SearchNode::shared(product).await;
        let (http, client, index) = (node.http(), client(node).await?, index_name("bytes"));
        let definition = json!({
            "settings": {"number_of_shards": 3, "number_of_replicas": 0},
            "mappings": {"properties": {"n": {"type": "nested"}}}
        });
        http.put_json(&format!("/{index}"), &definition).await?;
        let mut expected = BTreeMap::new();
        let mut actions = String::new();
        for n in 0..500 {
            let (name, routing) = (
                format!("a b/é{n}"),
                (n % 3 == 0).then(|| format!("r{}", n % 7)),
            );
            let source = format!(
                "{{ \"n\":[{{\"x\":{n}}},{{\"x\":1}}],\t\"u\" : \"\\u00e9é\\n\", \"d\": 1.50, \"e\":1e2 , \"{n}\":null}}"
            );
            let mut action = json!({"_id": name});
            if let Some(routing) = &routing {
                action["routing"] = json!(routing);
            }
            actions.push_str(&format!("{}\n{source}\n", json!({"index": action})));
            expected.insert(name, (routing, source));
        }
        http.post_ndjson(&format!("/{index}/_bulk"), actions.clone())
            .await?;
        http.post_ndjson(&format!("/{index}/_bulk"), actions)
            .await?;
        let pretty = "{\n  \"a\" : [\n 1 ]\n}";
        let path = format!("/{index}/_doc/pretty");
        client.send(Request::put(path).json(pretty)).await?;
        expected.insert("pretty".into(), (None, pretty.into()));
        client.refresh(&index).await?;

        let stats = client.shard_stats(&[&index]).await?;
        assert_eq!(stats.len(), 3, "{product}");
        let mut found = BTreeMap::new();
        for shard in &stats {
            assert!(shard.global_checkpoint >= 0 && !shard.history_uuid.is_empty());
            for hit in read_shard(&client, &index, shard, 37).await? {
                let created = hit.id.as_str() == "pretty";
                assert_eq!(hit.version, if created { 1 } else { 2 }, "{product}");
                let source = String::from_utf8(hit.source.to_vec())?;
                let routing = hit.routing.map(String::from);
                let twice = found.insert(hit.id.to_string(), (routing, source));
                assert!(twice.is_none(), "{product}: {} came twice", hit.id);
            }
        }
        assert_eq!(found, expected, "{product}");
        assert_eq!(client.count(&index).await?, expected.len() as u64);
        client.delete_index(&index).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_window_pinned_to_a_node_that_is_gone_says_so_instead_of_coming_back_empty() -> Result<()>
{
    for product in testkit::matrix() {
        let node = SearchNode::shared(product).await;
        let (http, client, index) = (node.http(), client(node).await?, index_name("gone"));
        http.index_documents(index.as_str(), [("1", json!({"a": 1}))])
            .await?;
        let window = Window {
            index: &index,
            shard: 0,
            node: Some("nosuchnode"),
            after: -1,
            upto: 9,
            size: 10,
        };
        let error = client.read_window(&window).await.unwrap_err();
        assert!(
            matches!(error, Error::CopyGone { .. }),
            "{product}: {error}"
        );
        let options = MgetOptions {
            source: false,
            node: Some("nosuchnode"),
            ..MgetOptions::default()
        };
        let error = client
            .mget(&index, &[(&id("1"), None)], options)
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::CopyGone { .. }),
            "{product}: {error}"
        );
        let beyond = Window {
            shard: 7,
            node: None,
            ..window
        };
        let error = client.read_window(&beyond).await.unwrap_err();
        assert!(matches!(error, Error::Shards { .. }), "{product}: {error}");
        client.delete_index(&index).await?;
        let error = client.read_window(&window).await.unwrap_err();
        assert!(
            matches!(&error, Error::IndexNotFound { index: name } if name == index.as_str()),
            "{error}"
        );
        let error = client.shard_stats(&[&index]).await.unwrap_err();
        assert!(
            matches!(error, Error::IndexNotFound { .. }),
            "{product}: {error}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn documents_are_looked_up_with_their_routing_before_any_refresh() -> Result<()> {
    for product in testkit::matrix() {
        let node = SearchNode::shared(product).await;
        let (http, client, index) = (node.http(), client(node).await?, index_name("mget"));
        http.put_json(
            &format!("/{index}"),
            &json!({"settings": {"number_of_shards": 5, "refresh_interval": "-1"}}),
        )
        .await?;
        http.put_json(&format!("/{index}/_doc/a%2Fb?routing=r1"), &json!({"x": 1}))
            .await?;
        let options = MgetOptions {
            source: true,
            ..MgetOptions::default()
        };
        let wanted = [(&id("a/b"), Some("r1")), (&id("nix"), None)];
        let found = client.mget(&index, &wanted, options).await?;
        assert!(found[0].found && !found[1].found, "{product}");
        assert_eq!(found[0].source.as_deref(), Some(&br#"{"x":1}"#[..]));
        assert_eq!(found[0].routing.as_deref(), Some("r1"));
        assert_eq!((found[0].version, found[0].seq_no), (Some(1), Some(0)));
        let bare = client
            .mget(&index, &wanted[..1], MgetOptions::default())
            .await?;
        assert!(bare[0].found && bare[0].source.is_none(), "{product}");
        client.delete_index(&index).await?;
        let error = client.mget(&index, &wanted, options).await.unwrap_err();
        assert!(
            matches!(error, Error::IndexNotFound { .. }),
            "{product}: {error}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn indices_are_listed_by_pattern_and_say_why_they_cannot_be_captured() -> Result<()> {
    for product in testkit::matrix() {
        let node = SearchNode::shared(product).await;
        let (http, client, prefix) = (node.http(), client(node).await?, index_name("list"));
        let one = |n: u32| json!({"settings": {"number_of_shards": n, "number_of_replicas": 0}});
        for (name, body) in [
            ("plain", one(2)),
            ("temp_1", one(1)),
            ("hidden", json!({"settings": {"hidden": true}})),
            ("closed", one(1)),
            (
                "sourceless",
                json!({"mappings": {"_source": {"enabled": false}}}),
            ),
        ] {
            http.put_json(&format!("/{prefix}-{name}"), &body).await?;
        }
        client
            .send(Request::post(format!("/{prefix}-closed/_close")))
            .await?;
        client
            .send(Request::put(format!(
                "/{prefix}-plain/_alias/{prefix}-alias"
            )))
            .await?;

        let patterns: IndexPatterns = format!("{prefix}-*,-*-temp_*").parse()?;
        let found = client.list_indices(&patterns).await?;
        let names: Vec<_> = found
            .iter()
            .map(|i| i.name.as_str().replace(prefix.as_str(), ""))
            .collect();
        assert_eq!(names, ["-closed", "-plain", "-sourceless"], "{product}");
        assert_eq!(found[0].uncapturable(), Some(Uncapturable::Closed));
        assert_eq!(found[1].uncapturable(), None);
        assert_eq!(found[2].uncapturable(), Some(Uncapturable::SourceDisabled));
        assert_eq!(
            (found[1].shards, found[1].replication),
            (2, Replication::Document)
        );
        let stats = client.shard_stats(&[&found[1].name]).await?;
        assert_eq!(stats[0].index_uuid, found[1].uuid);

        let named = format!("{prefix}-hidden,{prefix}-alias,{prefix}-closed,{prefix}-missing");
        let found = client.list_indices(&named.parse()?).await?;
        let seen: Vec<_> = found.iter().map(|i| (i.hidden, i.open)).collect();
        assert_eq!(
            seen,
            [(false, false), (true, true), (false, true)],
            "{product}"
        );
        let nothing: IndexPatterns = format!("{prefix}-missing,{prefix}-no*").parse()?;
        assert!(client.list_indices(&nothing).await?.is_empty(), "{product}");
        for name in ["plain", "temp_1", "hidden", "closed", "sourceless"] {
            client
                .delete_index(&IndexName::try_from(format!("{prefix}-{name}"))?)
                .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_index_without_sequence_numbers_is_refused() -> Result<()> {
    let Ok(_) = Product::Es9.jdk() else {
        eprintln!("left out: it needs {}", Product::Es9);
        return Ok(());
    };
    let node = SearchNode::shared(Product::Es9).await;
    let (client, index) = (client(node).await?, index_name("numberless"));
    node.http()
        .put_json(
            &format!("/{index}"),
            &json!({"settings": {"index.disable_sequence_numbers": true}}),
        )
        .await?;
    let found = client.list_indices(&index.as_str().parse()?).await?;
    assert_eq!(
        found[0].uncapturable(),
        Some(Uncapturable::NoSequenceNumbers)
    );
    client.delete_index(&index).await?;
    Ok(())
}

#[tokio::test]
async fn segment_replication_is_recognised() -> Result<()> {
    let node = SearchNode::shared(Product::Os2).await;
    let (client, index) = (client(node).await?, index_name("segment"));
    let settings =
        json!({"settings": {"index.replication.type": "SEGMENT", "number_of_replicas": 0}});
    node.http()
        .put_json(&format!("/{index}"), &settings)
        .await?;
    let found = client.list_indices(&index.as_str().parse()?).await?;
    assert_eq!(found[0].replication, Replication::Segment);
    client.delete_index(&index).await?;
    Ok(())
}

#[tokio::test]
async fn an_index_that_has_only_seen_the_delete_of_a_missing_document_is_read_as_empty()
-> Result<()> {
    for product in testkit::matrix() {
        let node = SearchNode::shared(product).await;
        let (http, client, index) = (node.http(), client(node).await?, index_name("unmapped"));
        let settings = json!({"settings": {"number_of_shards": 1, "number_of_replicas": 0}});
        http.put_json(&format!("/{index}"), &settings).await?;
        let delete = "{\"delete\":{\"_id\":\"missing\"}}\n".to_owned();
        http.request("POST".parse()?, &format!("/{index}/_bulk"), delete)
            .await?;
        client.refresh(&index).await?;
        let stats = client.shard_stats(&[&index]).await?;
        assert_eq!(stats[0].global_checkpoint, 0, "{product}: {stats:?}");
        assert!(read_shard(&client, &index, &stats[0], 10).await?.is_empty());
        http.delete(&format!("/{index}")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn blocks_are_counted_and_live_numbers_listed_as_the_shard_holds_them() -> Result<()> {
    for product in testkit::matrix() {
        let node = SearchNode::shared(product).await;
        let (http, client, index) = (node.http(), client(node).await?, index_name("count"));
        let definition = json!({
            "settings": {"number_of_shards": 1, "number_of_replicas": 0},
            "mappings": {"properties": {"n": {"type": "nested"}}}
        });
        http.put_json(&format!("/{index}"), &definition).await?;
        let mut actions = String::new();
        // Nested documents have the numbers of their parents, and must not be counted.
        for n in 0..1000 {
            actions += &format!("{{\"index\":{{\"_id\":\"{n}\"}}}}\n{{\"n\":[{{}},{{}}]}}\n");
        }
        for n in (0..1000).step_by(10) {
            actions += &format!("{{\"delete\":{{\"_id\":\"{n}\"}}}}\n");
        }
        actions += "{\"index\":{\"_id\":\"1\"}}\n{}\n";
        http.post_ndjson(&format!("/{index}/_bulk"), actions)
            .await?;
        client.refresh(&index).await?;
        let stats = client.shard_stats(&[&index]).await?;
        assert_eq!(stats[0].deletes, 100, "{product}");
        let copy = ShardCopy {
            index: &index,
            shard: 0,
            node: &stats[0].node,
        };
        let counts = client.count_blocks(copy, &(0..=1099), 100).await?;
        let expected: Vec<(u64, u32)> = (0..10)
            .map(|block| (block, if block == 0 { 89 } else { 90 }))
            .collect();
        assert_eq!(counts, expected, "{product}");
        let ranges = [0..=25, 1095..=1100];
        let live = client.live_numbers(copy, &ranges, 100).await?;
        let mut expected: Vec<u64> = (0..=25).filter(|n| n % 10 != 0 && *n != 1).collect();
        expected.push(1100);
        assert_eq!(live, expected, "{product}");
        let first = client.live_numbers(copy, &ranges, 3).await?;
        assert_eq!(first, expected[..3], "{product}");
        let newest = client.newest_documents(copy, 1099, 2).await?;
        let newest: Vec<(u64, &str)> = newest.iter().map(|(n, id)| (*n, id.as_str())).collect();
        assert_eq!(newest, [(999, "999"), (998, "998")], "{product}");
        let nowhere = ShardCopy {
            node: "nobody",
            ..copy
        };
        let error = client
            .count_blocks(nowhere, &(0..=9), 10)
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::CopyGone { .. }),
            "{product}: {error}"
        );
        http.delete(&format!("/{index}")).await?;
    }
    Ok(())
}
