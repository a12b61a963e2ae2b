//! Everything that can be wrong: one problem document each, with the right status, and nothing of the cluster in it.

use std::time::Duration;

use anyhow::Result;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{ChaosProxy, Product, SearchNode, unique_name, wait_until};

use crate::{
    search::films,
    support::{Api, Reply, key},
};

fn is_problem(reply: &Reply, status: u16, kind: &str, parameter: Option<&str>, what: &str) {
    assert_eq!(reply.status, status, "{what}: {}", reply.body);
    assert_eq!(
        reply.headers["content-type"], "application/problem+json",
        "{what}"
    );
    assert_eq!(
        reply.body["type"],
        format!("urn:syncline:problem:{kind}"),
        "{what}: {}",
        reply.body
    );
    assert_eq!(reply.body["status"], status, "{what}");
    assert_eq!(
        reply.body["parameter"].as_str(),
        parameter,
        "{what}: {}",
        reply.body
    );
    let text = reply.body.to_string();
    for leak in ["exception", "127.0.0.1", "org.", "\n\tat ", "_search"] {
        assert!(!text.contains(leak), "{what} says {leak:?}: {text}");
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_named() -> Result<()> {
    let node = SearchNode::shared(Product::Os2).await;
    let index = films(&node.http()).await?;
    let (key, entry) = key(&["web", "--raw"]);
    let flags = [
        "--indices",
        &index,
        "--raw-queries",
        "--max-limit",
        "20",
        "--max-clauses",
        "10",
        "--max-depth",
        "2",
    ];
    let api = Api::start(node, &[entry], &flags).await?;
    let long = "x".repeat(300);
    for (query, kind, parameter) in [
        ("nothing=eq.1", "unknown-field", Some("nothing")),
        ("sort=nothing", "unknown-field", Some("sort")),
        ("fields=nothing", "unknown-field", Some("fields")),
        ("facet_by=nothing", "unknown-field", Some("facet_by")),
        ("q=a&query_by=nothing", "unknown-field", Some("query_by")),
        ("q=a&highlight=nothing", "unknown-field", Some("highlight")),
        ("year=above.1", "unknown-operator", Some("year")),
        ("year=like.1", "unknown-operator", Some("year")),
        ("year=1977", "unknown-operator", Some("year")),
        ("year=eq.soon", "bad-value", Some("year")),
        ("year=eq.99999999999", "bad-value", Some("year")),
        ("rating=gt.high", "bad-value", Some("rating")),
        ("is_sequel=is.maybe", "bad-value", Some("is_sequel")),
        ("released=gt.yesterday", "bad-value", Some("released")),
        (&format!("title=eq.{long}"), "bad-value", Some("title")),
        ("or=(year.eq.1", "bad-parameter", Some("or")),
        ("limit=many", "bad-parameter", Some("limit")),
        ("limit=1&limit=2", "bad-parameter", Some("limit")),
        ("sort=cast.role", "bad-parameter", Some("sort")),
        ("sort=_score", "bad-parameter", Some("sort")),
        ("highlight=title", "bad-parameter", Some("highlight")),
        ("cursor=abc", "bad-cursor", Some("cursor")),
        ("limit=21", "too-costly", Some("limit")),
        ("facet_by=genre(1000)", "too-costly", Some("facet_by")),
        (
            "year=in.(1,2,3,4,5,6,7,8,9,10,11)",
            "too-costly",
            Some("filter"),
        ),
        ("or=(and(or(and(year.eq.1))))", "too-costly", Some("filter")),
        (
            "genre=like.a*&genre=like.b*&genre=like.c*&genre=like.d*&genre=like.e*",
            "too-costly",
            Some("filter"),
        ),
        ("year=eq.%ff", "bad-parameter", None),
    ] {
        let reply = api
            .get(&key, &format!("/v1/{index}/search?{query}"))
            .await?;
        is_problem(&reply, 400, kind, parameter, query);
    }
    for (body, kind, parameter) in [
        (json!({ "unknown": 1 }), "bad-body", None),
        (json!([1]), "bad-body", None),
        (
            json!({ "filter": { "year": { "above": 1 } } }),
            "unknown-operator",
            Some("filter.year"),
        ),
        (
            json!({ "raw": { "script": { "script": "1" } } }),
            "bad-parameter",
            Some("raw.script"),
        ),
    ] {
        let reply = api
            .post(&key, &format!("/v1/{index}/search"), &body)
            .await?;
        is_problem(&reply, 400, kind, parameter, &body.to_string());
    }
    let get = async |path: &str| api.get(&key, path).await;
    is_problem(
        &get("/v1/nowhere/search").await?,
        404,
        "unknown-index",
        Some("index"),
        "index",
    );
    is_problem(
        &get(&format!("/v1/{index}/none")).await?,
        404,
        "unknown-document",
        Some("id"),
        "id",
    );
    is_problem(&get("/v2").await?, 404, "unknown-path", None, "path");
    is_problem(
        &get(&format!("/v1/{index}/search?q={}", "a".repeat(9000))).await?,
        414,
        "url-too-long",
        None,
        "url",
    );
    let raw = async |method, content: &str, body: &str| {
        let headers = [("x-api-key", key.as_str()), ("content-type", content)];
        api.request(
            method,
            &format!("/v1/{index}/search"),
            &headers,
            Some(body.to_owned()),
        )
        .await
    };
    let json_type = "application/json";
    is_problem(
        &raw(Method::POST, json_type, "{").await?,
        400,
        "bad-body",
        None,
        "no JSON",
    );
    is_problem(
        &raw(Method::POST, "text/plain", "{}").await?,
        415,
        "unsupported-media-type",
        None,
        "type",
    );
    // The second is still being sent when the answer is there.
    for size in [70_000, 8 << 20] {
        let large = format!("{{\"q\":\"{}\"}}", "a".repeat(size));
        is_problem(
            &raw(Method::POST, json_type, &large).await?,
            413,
            "body-too-large",
            None,
            "large",
        );
    }
    is_problem(
        &raw(Method::DELETE, json_type, "").await?,
        405,
        "method-not-allowed",
        None,
        "method",
    );
    Ok(())
}

#[tokio::test]
async fn a_revoked_key_is_refused_without_a_restart_and_a_broken_file_changes_nothing() -> Result<()>
{
    let node = SearchNode::shared(Product::Os2).await;
    let index = films(&node.http()).await?;
    let ((web, web_entry), (app, app_entry)) = (key(&["web"]), key(&["app", "--rate", "3"]));
    let api = Api::start(
        node,
        &[web_entry.clone(), app_entry.clone()],
        &["--indices", &index],
    )
    .await?;
    let path = format!("/v1/{index}/count");
    is_problem(
        &api.request(Method::GET, &path, &[], None).await?,
        401,
        "unauthorized",
        None,
        "no key",
    );
    is_problem(
        &api.get("slq_wrong", &path).await?,
        401,
        "unauthorized",
        None,
        "wrong key",
    );
    is_problem(
        &api.get(web_entry["sha256"].as_str().unwrap(), &path)
            .await?,
        401,
        "unauthorized",
        None,
        "the hash",
    );
    for other in ["Bearer slq_wrong", "Basic eDp5", "Bearer", ""] {
        let headers = [("x-api-key", web.as_str()), ("authorization", other)];
        let reply = api.request(Method::GET, &path, &headers, None).await?;
        is_problem(
            &reply,
            401,
            "unauthorized",
            None,
            "a good key beside another",
        );
    }
    api.ok(&web, &path).await?;
    let mut refused = None;
    for _ in 0..50 {
        let reply = api.get(&app, &path).await?;
        if reply.status == 429 {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.unwrap();
    is_problem(&refused, 429, "too-many-requests", None, "rate");
    assert_eq!(refused.headers["retry-after"], "1");

    api.write_keys(&[app_entry])?;
    wait_until("the key is revoked", Duration::from_secs(20), async || {
        api.get(&web, &path)
            .await
            .is_ok_and(|reply| reply.status == 401)
    })
    .await?;
    api.write_keys(&[json!({ "id": "broken" })])?;
    wait_until(
        "the broken file is noticed",
        Duration::from_secs(20),
        async || {
            api.health
                .readiness
                .check()
                .is_err_and(|reason| reason.contains("keys:"))
        },
    )
    .await?;
    assert_ne!(
        api.get(&app, &path).await?.status,
        401,
        "the keys that were there stay"
    );
    Ok(())
}

#[tokio::test]
async fn a_cluster_that_is_down_or_slow_is_one_problem_document() -> Result<()> {
    let node = SearchNode::shared(Product::Os2).await;
    let index = films(&node.http()).await?;
    let proxy = ChaosProxy::start(node.address()).await?;
    let (key, entry) = key(&["web"]);
    let url = format!("http://{}", proxy.address());
    let flags = ["--indices", &index, "--search-timeout", "2s"];
    let api = Api::start_at(&url, &[entry], &flags).await?;
    let path = format!("/v1/{index}/search");
    api.ok(&key, &path).await?;
    proxy.half_open();
    is_problem(&api.get(&key, &path).await?, 504, "timeout", None, "slow");
    proxy.heal();
    proxy.refuse(502);
    let down = api.get(&key, &path).await?;
    is_problem(&down, 503, "unavailable", None, "down");
    assert_eq!(down.headers["retry-after"], "1");
    proxy.heal();
    wait_until("it answers again", Duration::from_secs(20), async || {
        api.get(&key, &path)
            .await
            .is_ok_and(|reply| reply.status == 200)
    })
    .await
}

#[tokio::test]
async fn an_index_that_goes_away_is_said_to_be_gone() -> Result<()> {
    let node = SearchNode::shared(Product::Os2).await;
    let http = node.http();
    let (key, entry) = key(&["web"]);
    let (old, new, alias) = (unique_name("old"), unique_name("new"), unique_name("alias"));
    http.index_documents(&old, [("1", json!({ "v": 1 }))])
        .await?;
    http.index_documents(&new, [("1", json!({ "v": 2 }))])
        .await?;
    let aliased = |remove: Value, add: &str| json!({ "actions": [remove, { "add": { "index": add, "alias": alias } }] });
    http.post_json(
        "/_aliases",
        &json!({ "actions": [{ "add": { "index": old, "alias": alias } }] }),
    )
    .await?;
    let api = Api::start(node, &[entry], &["--indices", &alias]).await?;
    let path = format!("/v1/{alias}/search");
    assert_eq!(api.ok(&key, &path).await?["hits"][0]["document"]["v"], 1);
    assert_eq!(
        api.get(&key, &format!("/v1/{old}/search")).await?.status,
        404,
        "only the alias is served"
    );
    http.post_json(
        "/_aliases",
        &aliased(json!({ "remove_index": { "index": old } }), &new),
    )
    .await?;
    wait_until(
        "the alias leads to the new index",
        Duration::from_secs(20),
        async || {
            let reply = api.get(&key, &path).await;
            reply.is_ok_and(|reply| {
                assert!([200, 503].contains(&reply.status), "{}", reply.body);
                reply.body["hits"][0]["document"]["v"] == 2
            })
        },
    )
    .await
}
