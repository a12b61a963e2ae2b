//! Lists page by page: every document once, whatever the order, on every product.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use serde_json::json;
use testkit::{Http, Product, SearchNode, unique_name, wait_until};

use crate::support::{Api, key};

const DOCUMENTS: usize = 120;

/// Many documents with few values, on several shards: sequence numbers collide between shards.
async fn collisions(http: &Http) -> Result<String> {
    let index = unique_name("lists");
    http.put_json(
        &format!("/{index}"),
        &json!({
            "settings": { "number_of_shards": 5, "number_of_replicas": 0 },
            "mappings": { "properties": {
                "n": { "type": "long" }, "k": { "type": "keyword" }, "d": { "type": "date" },
                "x": { "type": "double" }, "b": { "type": "boolean" }, "t": { "type": "text" },
                "i": { "type": "ip" }, "ns": { "type": "date_nanos" },
            }},
        }),
    )
    .await?;
    let documents = (0..DOCUMENTS).map(|n| {
        let mut document = json!({
            "n": n % 3, "k": format!("k{}", n % 4), "d": format!("2024-01-0{}", n % 5 + 1),
            "x": (n % 3) as f64 / 3.0, "b": n % 2 == 0, "t": "same words", "i": "10.0.0.1",
            "ns": format!("2024-01-01T00:00:00.{:09}Z", n % 7),
        });
        if n % 6 == 0 {
            document = json!({ "t": "same words" });
        }
        (format!("id{n}"), document)
    });
    http.index_documents(&index, documents).await?;
    Ok(index)
}

#[tokio::test]
async fn every_document_is_in_a_list_exactly_once_in_any_order() -> Result<()> {
    for product in testkit::matrix() {
        let node = SearchNode::shared(product).await;
        let index = collisions(&node.http()).await?;
        let (key, entry) = key(&["web"]);
        let api = Api::start(node, &[entry], &["--indices", &index]).await?;
        let expected: BTreeSet<String> = (0..DOCUMENTS).map(|n| format!("id{n}")).collect();
        for order in [
            "",
            "sort=n",
            "sort=n.desc",
            "sort=k,d.desc",
            "sort=x.nullsfirst",
            "sort=b",
            "sort=i,b.desc",
            "sort=d",
            "sort=ns.desc.nullslast",
            "q=same",
            "q=same&sort=_score,n",
        ] {
            for limit in [1, 7] {
                if limit == 1 && order.len() > 6 {
                    continue;
                }
                let path = format!("/v1/{index}/search?{order}&limit={limit}");
                let ids = api.ids_by_pages(&key, &path).await?;
                assert_eq!(ids.len(), DOCUMENTS, "{product}: {path}");
                assert_eq!(
                    ids.into_iter().collect::<BTreeSet<_>>(),
                    expected,
                    "{product}: {path}"
                );
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_snapshot_shows_the_list_as_it_was_when_it_was_begun() -> Result<()> {
    for product in testkit::matrix() {
        let node = SearchNode::shared(product).await;
        let http = node.http();
        let index = collisions(&http).await?;
        let (key, entry) = key(&["web"]);
        let api = Api::start(node, &[entry], &["--indices", &index]).await?;
        let path = format!("/v1/{index}/search?sort=n&limit=50&snapshot=true");
        let first = api.get(&key, &path).await?;
        if product == Product::Es7_10 {
            assert_eq!(
                (first.status, &first.body["parameter"]),
                (400, &json!("snapshot"))
            );
            continue;
        }
        assert_eq!(first.status, 200, "{product}: {}", first.body);
        http.post_json(
            &format!("/{index}/_delete_by_query?refresh=true"),
            &json!({ "query": { "match_all": {} } }),
        )
        .await
        .ok();
        let documents = (0..DOCUMENTS).map(|n| (format!("new{n}"), json!({ "n": 0 })));
        http.index_documents(&index, documents).await?;
        let mut ids = crate::support::ids(&first.body);
        let mut page = first.body;
        while let Some(cursor) = page["cursor"].as_str() {
            page = api.ok(&key, &format!("{path}&cursor={cursor}")).await?;
            ids.extend(crate::support::ids(&page));
        }
        assert_eq!(ids.len(), DOCUMENTS, "{product}");
        assert!(ids.iter().all(|id| id.starts_with("id")), "{product}");
    }
    Ok(())
}

#[tokio::test]
async fn a_key_reads_from_so_many_snapshots_and_one_read_to_its_end_gives_way() -> Result<()> {
    for product in testkit::matrix() {
        if product == Product::Es7_10 {
            continue;
        }
        let node = SearchNode::shared(product).await;
        let index = collisions(&node.http()).await?;
        let ((web, web_entry), (app, app_entry)) = (key(&["web"]), key(&["app"]));
        let flags = ["--indices", &index, "--max-snapshots", "2"];
        let api = Api::start(node, &[web_entry, app_entry], &flags).await?;
        let path = format!("/v1/{index}/search?sort=n&limit=50&snapshot=true");
        let first = api.ok(&web, &path).await?;
        let second = api.ok(&web, &path).await?;
        let refused = api.get(&web, &path).await?;
        assert_eq!(refused.status, 429, "{product}: {}", refused.body);
        assert_eq!(refused.body["parameter"], "snapshot");
        let pause: u64 = refused.headers["retry-after"].parse()?;
        assert!((1..=61).contains(&pause), "{pause}");
        api.ok(&app, &path).await?;
        // The gauge is set now and then.
        let counted = async || {
            let metrics = api.metrics.encode().unwrap_or_default();
            metrics.contains("\nsyncline_query_snapshots 3\n")
        };
        wait_until("three are counted", Duration::from_secs(30), counted).await?;

        let (mut page, mut last) = (first, String::new());
        while let Some(cursor) = page["cursor"].as_str() {
            last = format!("{path}&cursor={cursor}");
            page = api.ok(&web, &last).await?;
        }
        let again = api.ok(&web, &last).await?;
        assert_eq!(
            again["hits"], page["hits"],
            "{product}: the last page may be asked for again"
        );
        api.ok(&web, &path).await?;
        let gone = api.get(&web, &last).await?;
        assert_eq!(
            (gone.status, &gone.body["type"]),
            (400, &json!("urn:syncline:problem:bad-cursor")),
            "{product}: the cluster has closed it"
        );
        let cursor = second["cursor"].as_str().unwrap();
        api.ok(&web, &format!("{path}&cursor={cursor}")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_cursor_is_refused_for_anything_but_the_list_it_is_of() -> Result<()> {
    let node = SearchNode::shared(Product::Os2).await;
    let http = node.http();
    let (one, two) = (collisions(&http).await?, collisions(&http).await?);
    let ((web, web_entry), (app, app_entry)) = (key(&["web"]), key(&["app"]));
    let api = Api::start(
        node,
        &[web_entry, app_entry],
        &["--indices", &format!("{one},{two}")],
    )
    .await?;
    let page = api
        .ok(&web, &format!("/v1/{one}/search?sort=n&limit=5&n=gte.1"))
        .await?;
    let cursor = page["cursor"].as_str().unwrap();
    let refused = async |key: &str, path: String| -> Result<()> {
        let reply = api.get(key, &path).await?;
        assert_eq!(reply.status, 400, "{path}");
        assert_eq!(
            reply.body["type"], "urn:syncline:problem:bad-cursor",
            "{path}"
        );
        assert_eq!(reply.body["parameter"], "cursor");
        Ok(())
    };
    let good = format!("/v1/{one}/search?sort=n&limit=5&n=gte.1&cursor={cursor}");
    api.ok(&web, &good).await?;
    refused(&app, good.clone()).await?;
    refused(&web, good.replace(&one, &two)).await?;
    refused(&web, good.replace("n=gte.1", "n=gte.0")).await?;
    refused(&web, good.replace("sort=n", "sort=n.desc")).await?;
    refused(&web, format!("{good}x")).await?;
    refused(&web, format!("/v1/{one}/search?cursor=")).await?;
    http.put_json(
        &format!("/{one}/_mapping"),
        &json!({ "properties": { "more": { "type": "long" } } }),
    )
    .await?;
    testkit::wait_until(
        "the cursor is of an old mapping",
        std::time::Duration::from_secs(20),
        async || {
            api.get(&web, &good)
                .await
                .is_ok_and(|reply| reply.status == 400)
        },
    )
    .await?;
    refused(&web, good).await
}
