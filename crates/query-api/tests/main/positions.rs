//! Read your writes, over indices marked as the writers mark them.

use std::time::Duration;

use anyhow::Result;
use model::{Epoch, Version};
use serde_json::json;
use testkit::{Http, Product, SearchNode, unique_name};

use crate::support::{Api, encoded, ids, key};

/// An index as the writer leaves it for a source in its second epoch.
async fn synced(http: &Http) -> Result<String> {
    let index = unique_name("synced");
    http.put_json(
        &format!("/{index}"),
        &json!({
            "settings": { "number_of_replicas": 0, "refresh_interval": "-1" },
            "mappings": {
                "_meta": { "syncline": { "source": "cluster/x", "histories": {
                    "h1": { "index": "u1", "shard": 0, "epoch": 0 },
                    "h2": { "index": "u2", "shard": 0, "epoch": 1 },
                }}},
                "properties": { "tenant": { "type": "keyword" } },
            },
        }),
    )
    .await?;
    Ok(index)
}

async fn write(
    http: &Http,
    index: &str,
    id: &str,
    epoch: u8,
    seq_no: u64,
    tenant: &str,
) -> Result<()> {
    let version = Version::new(Epoch(epoch), seq_no)?.get();
    let path = format!("/{index}/_doc/{id}?version={version}&version_type=external");
    http.put_json(&path, &json!({ "tenant": tenant, "n": seq_no }))
        .await
        .map(drop)
}

#[tokio::test]
async fn a_search_with_a_position_waits_for_the_document_and_sees_it_without_a_refresh_of_its_own()
-> Result<()> {
    for product in testkit::matrix() {
        let node = SearchNode::shared(product).await;
        let http = node.http();
        let index = synced(&http).await?;
        let (key, entry) = key(&["web"]);
        let api = Api::start(
            node,
            &[entry],
            &["--indices", &index, "--position-timeout", "20s"],
        )
        .await?;
        write(&http, &index, "doc", 0, 1000, "a").await?;
        let path = format!("/v1/{index}/search?min_position={}", encoded("7/doc"));
        // Of an earlier epoch, however high its number: not what was asked for.
        let asked = api.ok(&key, &path);
        let (answer, written) = tokio::join!(asked, async {
            tokio::task::yield_now().await;
            write(&http, &index, "doc", 1, 7, "a").await
        });
        written?;
        assert_eq!(answer?["hits"][0]["document"]["n"], 7, "{product}");

        write(&http, &index, "doc", 1, 9, "a").await?;
        let headers = [
            ("x-api-key", key.as_str()),
            ("syncline-min-position", "8/doc"),
        ];
        let reply = api
            .request(
                reqwest::Method::GET,
                &format!("/v1/{index}/doc"),
                &headers,
                None,
            )
            .await?;
        assert_eq!(
            reply.body["document"]["n"], 9,
            "{product}: a later change has come instead"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_position_that_is_not_reached_is_a_problem_after_the_deadline() -> Result<()> {
    let node = SearchNode::shared(Product::Os2).await;
    let http = node.http();
    let index = synced(&http).await?;
    let (key, entry) = key(&["web"]);
    let api = Api::start(
        node,
        &[entry],
        &["--indices", &index, "--position-timeout", "200ms"],
    )
    .await?;
    write(&http, &index, "doc", 1, 7, "a").await?;
    let path = format!("/v1/{index}/count?min_position=");
    for (position, status) in [("7/doc", 200), ("8/doc", 504), ("1/none", 504), ("x", 400)] {
        let reply = api
            .get(&key, &format!("{path}{}", encoded(position)))
            .await?;
        assert_eq!(reply.status, status, "{position}: {}", reply.body);
    }
    let reply = api
        .get(&key, &format!("/v1/{index}/count?min_lsn=0/1"))
        .await?;
    assert_eq!(
        (reply.status, &reply.body["parameter"]),
        (400, &json!("min_lsn")),
        "no such source"
    );
    assert!(
        api.metrics
            .encode()?
            .contains("syncline_query_position_wait_seconds_count")
    );
    Ok(())
}

#[tokio::test]
async fn waiting_tells_a_tenant_nothing_of_another_tenants_documents() -> Result<()> {
    let node = SearchNode::shared(Product::Os2).await;
    let http = node.http();
    let index = synced(&http).await?;
    let (key, entry) = key(&["a", "--filter", "tenant=eq.a"]);
    let api = Api::start(
        node,
        &[entry],
        &["--indices", &index, "--position-timeout", "300ms"],
    )
    .await?;
    write(&http, &index, "mine", 1, 7, "a").await?;
    write(&http, &index, "theirs", 1, 8, "b").await?;
    let ask = async |id: &str| {
        let position = encoded(&format!("7/{id}"));
        api.get(&key, &format!("/v1/{index}/search?min_position={position}"))
            .await
    };
    assert_eq!(ids(&ask("mine").await?.body), ["mine"]);
    let (theirs, nobodys) = (ask("theirs").await?, ask("nobodys").await?);
    assert_eq!((theirs.status, nobodys.status), (504, 504));
    assert_eq!(theirs.body, nobodys.body);
    Ok(())
}

#[tokio::test]
async fn an_lsn_is_reached_when_the_mark_of_the_index_says_so() -> Result<()> {
    let node = SearchNode::start(Product::Os2).await?;
    let http = node.http();
    let index = unique_name("table");
    http.index_documents(&index, [("1", json!({ "n": 1 }))])
        .await?;
    let (key, entry) = key(&["web"]);
    let api = Api::start(
        &node,
        &[entry],
        &["--indices", &index, "--position-timeout", "20s"],
    )
    .await?;
    let mark = async |position: u64| {
        http.put_json(
            &format!("/.syncline-positions/_doc/{index}"),
            &json!({ "position": position }),
        )
        .await
    };
    mark(0x1_0000_0005).await?;
    api.ok(&key, &format!("/v1/{index}/search?min_lsn=1/5"))
        .await?;
    let path = format!("/v1/{index}/search?min_lsn=1/A");
    let (answer, marked) = tokio::join!(api.ok(&key, &path), async {
        testkit::wait_until("somebody waits", Duration::from_secs(20), async || {
            api.metrics
                .encode()
                .is_ok_and(|page| page.contains("syncline_query_in_flight 1"))
        })
        .await?;
        mark(0x1_0000_000A).await
    });
    marked?;
    assert_eq!(ids(&answer?), ["1"]);
    Ok(())
}
