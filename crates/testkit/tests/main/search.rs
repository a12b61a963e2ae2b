//! Search nodes: the matrix, the secured one, sharing, clusters, crashes.

use reqwest::Method;
use serde_json::json;
use testkit::{
    ExpiredServer, Http, Product, SearchCluster, SearchNode, Security, matrix, process, unique_name,
};

#[tokio::test]
async fn every_product_of_the_matrix_stores_and_returns_a_document() {
    for product in matrix() {
        let node = SearchNode::shared(product).await;
        let http = node.http();
        let root = http.get_json("/").await.unwrap();
        assert_eq!(root["version"]["number"], product.version(), "{product}");
        let index = unique_name("films");
        http.index_documents(&index, [("1", json!({"title": "The Land Girls"}))])
            .await
            .unwrap();
        let document = http.get_json(&format!("/{index}/_doc/1")).await.unwrap();
        assert_eq!(
            document["_source"],
            json!({"title": "The Land Girls"}),
            "{product}"
        );
        assert_eq!(http.count(&index).await.unwrap(), 1, "{product}");
    }
}

#[tokio::test]
async fn a_shared_node_is_the_same_for_everyone() {
    let one = SearchNode::shared(Product::Os2).await;
    let other = SearchNode::shared(Product::Os2).await;
    assert_eq!(one.pid(), other.pid());
    let index = unique_name("shared");
    one.http()
        .index_documents(&index, [("1", json!({}))])
        .await
        .unwrap();
    assert_eq!(other.http().count(&index).await.unwrap(), 1);
}

#[tokio::test]
async fn a_dropped_node_leaves_no_process_and_no_data() {
    let node = SearchNode::start(Product::Es8).await.unwrap();
    let (pid, repository) = (node.pid(), node.repository());
    assert!(process::Usage::of(pid).unwrap().resident > 0);
    drop(node);
    assert_eq!(process::Usage::of(pid).map_or(0, |usage| usage.resident), 0);
    assert!(!repository.exists());
}

#[tokio::test]
async fn a_killed_node_comes_back_with_its_documents() {
    let mut node = SearchNode::start(Product::Es7_17).await.unwrap();
    let url = node.url();
    node.http()
        .index_documents("kept", [("1", json!({"n": 1}))])
        .await
        .unwrap();
    node.kill();
    node.restart().await.unwrap();
    assert_eq!(node.url(), url);
    assert_eq!(node.http().count("kept").await.unwrap(), 1);
}

#[tokio::test]
async fn a_cluster_survives_the_death_of_a_data_node() {
    let mut cluster = SearchCluster::start(Product::Es8, 2).await.unwrap();
    let http = cluster.nodes()[0].http();
    let index = json!({"settings": {"number_of_shards": 2, "number_of_replicas": 1}});
    http.put_json("/copies", &index).await.unwrap();
    cluster.wait_for_green().await.unwrap();
    http.index_documents("copies", (0..20).map(|n| (n.to_string(), json!({"n": n}))))
        .await
        .unwrap();
    cluster.kill(1);
    cluster.wait_for_nodes(1).await.unwrap();
    assert_eq!(http.count("copies").await.unwrap(), 20);
}

#[tokio::test]
async fn the_secured_server_asks_who_is_there() {
    let node = SearchNode::shared(Product::Os2Secured).await;
    let security = node.security().unwrap();
    let anonymous = Http::tls(&node.url(), &security.authority(), None).unwrap();
    assert_eq!(status(&anonymous).await.unwrap(), 401);
    let (user, password) = Security::ADMIN;
    assert_eq!(
        status(&anonymous.clone().with_user(user, "wrong"))
            .await
            .unwrap(),
        401
    );
    assert_eq!(
        status(&anonymous.clone().with_user(user, password))
            .await
            .unwrap(),
        200
    );

    let client = Http::tls(&node.url(), &security.authority(), Some(&security.client())).unwrap();
    assert_eq!(status(&client).await.unwrap(), 200);
    let expired = Http::tls(
        &node.url(),
        &security.authority(),
        Some(&security.expired_client()),
    )
    .unwrap();
    assert!(status(&expired).await.is_err());
    assert!(
        Http::new(&node.url()).get_json("/").await.is_err(),
        "an unknown authority is refused"
    );
}

#[tokio::test]
async fn a_reader_may_not_write_and_roles_can_be_added() {
    let node = SearchNode::shared(Product::Os2Secured).await;
    let security = node.security().unwrap();
    let anonymous = Http::tls(&node.url(), &security.authority(), None).unwrap();
    let index = unique_name("guarded");
    node.http()
        .index_documents(&index, [("1", json!({}))])
        .await
        .unwrap();

    let (user, password) = Security::READER;
    let reader = anonymous.clone().with_user(user, password);
    let (status, _) = reader
        .request(Method::GET, &format!("/{index}/_doc/1"), "")
        .await
        .unwrap();
    assert_eq!(status, 200);
    let (status, _) = reader
        .request(Method::POST, &format!("/{index}/_refresh"), "")
        .await
        .unwrap();
    assert_eq!(status, 403);

    let name = unique_name("refresher");
    let permissions = json!({"index_permissions": [
        {"index_patterns": [index], "allowed_actions": ["indices:admin/refresh*"]},
    ]});
    node.add_user(&name, "a-long-Passw0rd", &permissions)
        .await
        .unwrap();
    let refresher = anonymous.with_user(&name, "a-long-Passw0rd");
    let (status, answer) = refresher
        .request(Method::POST, &format!("/{index}/_refresh"), "")
        .await
        .unwrap();
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn a_server_with_an_expired_certificate_is_refused_by_clients() {
    let security = SearchNode::shared(Product::Os2Secured)
        .await
        .security()
        .unwrap();
    let expired = ExpiredServer::start(&security).await.unwrap();
    let http = Http::tls(&expired.url(), &security.authority(), None).unwrap();
    let error = format!("{:?}", http.get_json("/").await.unwrap_err());
    assert!(error.contains("xpired"), "{error}");
}

async fn status(http: &Http) -> anyhow::Result<u16> {
    Ok(http.request(Method::GET, "/", "").await?.0)
}
