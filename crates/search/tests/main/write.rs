use std::time::Duration;

use anyhow::Result;
use search::{Error, Server};
use serde_json::json;
use testkit::SearchNode;

use crate::{client, config, index_name};

#[tokio::test]
async fn product_and_version_are_found() -> Result<()> {
    for product in testkit::matrix() {
        let node = SearchNode::shared(product).await;
        let client = client(node).await?;
        let server: &Server = client.server();
        assert_eq!(
            server.to_string(),
            format!("{} {}", product.name(), product.version())
        );
        assert!(!server.cluster_uuid.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn a_bulk_has_an_outcome_per_action_and_older_versions_change_nothing() -> Result<()> {
    for product in testkit::matrix() {
        let node = SearchNode::shared(product).await;
        for gzip in [false, true] {
            let mut config = config(node);
            config.gzip = gzip;
            let (client, index) = (search::Client::connect(&config).await?, index_name("bulk"));
            let mapping = json!({"mappings": {"properties": {"n": {"type": "long"}}}});
            node.http().put_json(&format!("/{index}"), &mapping).await?;
            let big = "x".repeat(5000);
            let lines = [
                json!({"index": {"_id": "1", "version": 7, "version_type": "external", "routing": "r"}}),
                json!({"n": 1, "t": big}),
                json!({"index": {"_id": "1", "version": 6, "version_type": "external", "routing": "r"}}),
                json!({"n": 2}),
                json!({"delete": {"_id": "nix", "version": 7, "version_type": "external_gte"}}),
                json!({"index": {"_id": "2", "version": 7, "version_type": "external"}}),
                json!({"n": "no number"}),
            ];
            let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let items = client
                .bulk(&index, body.into(), 4, Some(Duration::from_secs(30)))
                .await?;
            let statuses: Vec<_> = items.iter().map(|item| item.status).collect();
            assert_eq!(statuses, [201, 409, 404, 400], "{product}");
            assert!(items[2].error.is_none());
            let error = items[3].error.as_ref().unwrap();
            assert!(error.reason.contains("no number"), "{product}: {error:?}");
            client.refresh(&index).await?;
            assert_eq!(client.count(&index).await?, 1);
            client.delete_index(&index).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_bulk_that_is_no_bulk_is_rejected_as_a_whole() -> Result<()> {
    let node = SearchNode::shared(testkit::Product::Os2).await;
    let (client, index) = (client(node).await?, index_name("broken"));
    let error = client
        .bulk(&index, "{\n".into(), 1, None)
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Rejected { status: 400, .. }),
        "{error}"
    );
    Ok(())
}
