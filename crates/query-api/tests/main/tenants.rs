//! One tenant's key against another tenant's documents: a test for each way somebody might try.

use anyhow::Result;
use serde_json::{Value, json};
use testkit::{Http, Product, SearchNode, unique_name};

use crate::support::{Api, Reply, encoded, ids, key};

/// What only the other tenant's documents contain.
const SECRET: &str = "zebra";

/// Documents of two tenants, and what the first one's key sees of them.
async fn two_tenants(http: &Http) -> Result<String> {
    let index = unique_name("tenants");
    http.put_json(
        &format!("/{index}"),
        &json!({
            "settings": { "number_of_shards": 2, "number_of_replicas": 0 },
            "mappings": { "properties": {
                "tenant": { "type": "keyword" },
                "lower": { "type": "keyword", "ignore_above": 20 },
                "name": { "type": "text", "fields": { "keyword": { "type": "keyword" } } },
                "tag": { "type": "keyword" },
                "price": { "type": "double" },
                "salary": { "type": "long", "copy_to": "figures" },
                "figures": { "type": "keyword" },
                "wages": { "type": "alias", "path": "salary" },
                "lines": { "type": "nested", "properties": { "sku": { "type": "keyword" } } },
            }},
        }),
    )
    .await?;
    let document = |tenant: &str, word: &str, n: i64| {
        json!({
            "tenant": tenant, "name": format!("{word} thing {n}"), "tag": format!("{word}-{n}"),
            "price": n, "salary": 1000 + n, "lines": [{ "sku": format!("{word}-sku-{n}") }],
        })
    };
    let mine = (0..10).map(|n| (format!("a{n}"), document("a", "apple", n)));
    let theirs = (100..110).map(|n| (format!("b{n}"), document("b", SECRET, n)));
    http.index_documents(&index, mine.chain(theirs)).await?;
    Ok(index)
}

struct Attack {
    api: Api,
    key: String,
    all: String,
    index: String,
}

impl Attack {
    /// The key is of tenant a and sees no salaries; another one sees everything, which shows that there
    /// is something to get.
    async fn on(product: Product) -> Result<Attack> {
        let node = SearchNode::shared(product).await;
        let index = two_tenants(&node.http()).await?;
        let flags = [
            "a",
            "--filter",
            "tenant=eq.a",
            "--fields",
            "*,-salary",
            "--raw",
        ];
        let ((key, one), (all, two)) = (key(&flags), key(&["all", "--raw"]));
        let flags = ["--indices", &index, "--raw-queries", "--cursor-secret", "s"];
        let api = Api::start(node, &[one, two], &flags).await?;
        Ok(Attack {
            api,
            key,
            all,
            index,
        })
    }

    async fn get(&self, path: &str) -> Result<Reply> {
        let reply = self
            .api
            .get(&self.key, &format!("/v1/{}/{path}", self.index))
            .await?;
        self.gives_nothing_away(path, &reply);
        Ok(reply)
    }

    async fn post(&self, body: &Value) -> Result<Reply> {
        let path = format!("/v1/{}/search", self.index);
        let reply = self.api.post(&self.key, &path, body).await?;
        self.gives_nothing_away(&body.to_string(), &reply);
        Ok(reply)
    }

    /// The other tenant's documents have ids, words, prices and salaries that nothing else has.
    fn gives_nothing_away(&self, what: &str, reply: &Reply) {
        let mut body = reply.body.clone();
        // A problem may repeat what it was asked.
        if reply.status >= 400 {
            body["detail"] = Value::Null;
            body["parameter"] = Value::Null;
        }
        let body = body.to_string();
        let ids: Vec<String> = (100..110).map(|n| format!("\"b{n}\"")).collect();
        for secret in ids.iter().map(String::as_str).chain([
            SECRET,
            "1100",
            "\"salary\"",
            "\"wages\"",
            "1001",
        ]) {
            assert!(
                !body.contains(secret),
                "{what} gives {secret} away: {}",
                reply.body
            );
        }
    }

    async fn finds(&self, query: &str, expected: usize) -> Result<()> {
        let reply = self.get(&format!("search?limit=100&{query}")).await?;
        assert_eq!(reply.status, 200, "{query}: {}", reply.body);
        assert_eq!(ids(&reply.body).len(), expected, "{query}");
        assert_eq!(reply.body["found"]["count"], expected, "{query}");
        Ok(())
    }
}

#[tokio::test]
async fn what_is_attacked_is_there() -> Result<()> {
    let attack = Attack::on(Product::Os2).await?;
    let path = format!("/v1/{}/search?limit=100&facet_by=tag(100)", attack.index);
    let answer = attack.api.ok(&attack.all, &path).await?.to_string();
    for secret in [SECRET, "\"b100\"", "1100", "\"salary\""] {
        assert!(answer.contains(secret), "{secret}");
    }
    Ok(())
}

#[tokio::test]
async fn filters_cannot_widen_what_is_seen() -> Result<()> {
    for product in testkit::matrix() {
        let attack = Attack::on(product).await?;
        for (query, expected) in [
            ("", 10),
            ("tenant=eq.b", 0),
            ("tenant=in.(a,b)", 10),
            ("tenant=not.eq.a", 0),
            ("or=(tenant.eq.b,tenant.eq.a)", 10),
            ("or=(price.gte.0,price.is.null)", 10),
            ("not.and=(tenant.eq.a)", 0),
            ("not.or=(tenant.eq.zz,price.lt.0)", 10),
            ("lines.sku=like.*", 10),
            ("_id=in.(b100,b101,a1)", 1),
            ("_id=neq.a1", 9),
        ] {
            attack.finds(query, expected).await?;
        }
        for query in ["tag=like.*", "tag=is.not_null", "name=fts.thing"] {
            attack.finds(query, 10).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn words_have_no_syntax_that_leads_elsewhere() -> Result<()> {
    let attack = Attack::on(Product::Os2).await?;
    for words in [
        "tenant:b",
        "* OR tenant:b",
        "_exists_:salary",
        "salary:[1 TO 2000]",
        "zebra",
        "\"zebra\" | thing~9",
        "name:zebra OR _id:b100",
        "/.*/",
        "(tenant:b)^99",
        "zeb*",
    ] {
        for mode in ["all", "any", "phrase", "prefix", "fuzzy"] {
            let reply = attack
                .get(&format!(
                    "search?limit=100&match={mode}&q={}",
                    encoded(words)
                ))
                .await?;
            assert_eq!(reply.status, 200, "{words}: {}", reply.body);
        }
    }
    attack.finds("q=zebra&query_by=name,tag", 0).await?;
    attack.finds("q=thing", 10).await
}

#[tokio::test]
async fn facets_count_nothing_of_others_not_even_nothing() -> Result<()> {
    for product in testkit::matrix() {
        let attack = Attack::on(product).await?;
        let reply = attack
            .get("search?limit=0&facet_by=tag(100),tenant(100),price,name(100)")
            .await?;
        assert_eq!(
            reply.body["facets"]["tag"]["values"]
                .as_array()
                .unwrap()
                .len(),
            10,
            "{product}"
        );
        assert_eq!(reply.body["facets"]["tag"]["others"], 0);
        assert_eq!(
            reply.body["facets"]["tenant"]["values"],
            json!([{ "value": "a", "count": 10 }])
        );
        assert_eq!(reply.body["facets"]["price"]["max"], 9.0, "{product}");
        let empty = attack
            .get("search?limit=0&tenant=eq.b&facet_by=tag(100),price")
            .await?;
        assert_eq!(empty.body["facets"]["tag"]["values"], json!([]));
        assert_eq!(empty.body["facets"]["price"]["max"], Value::Null);
    }
    Ok(())
}

#[tokio::test]
async fn sorting_and_cursors_stay_within_the_tenant() -> Result<()> {
    for product in testkit::matrix() {
        let attack = Attack::on(product).await?;
        for order in [
            "price.desc",
            "tag.desc",
            "tenant.desc",
            "price.desc&snapshot=true",
        ] {
            if product == Product::Es7_10 && order.contains("snapshot") {
                continue;
            }
            let path = format!("/v1/{}/search?limit=3&sort={order}", attack.index);
            let ids = attack.api.ids_by_pages(&attack.key, &path).await?;
            assert_eq!(ids.len(), 10, "{product} {order}");
            assert!(
                ids.iter().all(|id| id.starts_with('a')),
                "{product} {order}: {ids:?}"
            );
            // The other key's cursor stands among the other tenant's documents.
            let theirs = attack.api.ok(&attack.all, &path).await?;
            let cursor = theirs["cursor"].as_str().unwrap();
            let reply = attack
                .api
                .get(&attack.key, &format!("{path}&cursor={cursor}"))
                .await?;
            assert_eq!(reply.status, 400, "{product} {order}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_cursor_outlives_no_change_of_what_its_key_is_forced_to() -> Result<()> {
    let node = SearchNode::shared(Product::Os2).await;
    let index = two_tenants(&node.http()).await?;
    let (key, mut entry) = key(&["a", "--filter", "tenant=eq.a"]);
    let api = Api::start(node, std::slice::from_ref(&entry), &["--indices", &index]).await?;
    let path = format!("/v1/{index}/search?limit=3");
    let page = api.ok(&key, &path).await?;
    let next = format!("{path}&cursor={}", page["cursor"].as_str().unwrap());
    entry["filter"] = "tenant=eq.b".into();
    api.write_keys(&[entry])?;
    testkit::wait_until(
        "the key's filter is another",
        std::time::Duration::from_secs(20),
        async || {
            api.get(&key, &next)
                .await
                .is_ok_and(|reply| reply.body["type"] == "urn:syncline:problem:bad-cursor")
        },
    )
    .await
}

#[tokio::test]
async fn highlights_show_only_what_may_be_seen() -> Result<()> {
    let attack = Attack::on(Product::Os2).await?;
    let reply = attack
        .get("search?limit=100&q=thing&highlight=name")
        .await?;
    assert_eq!(ids(&reply.body).len(), 10);
    for field in ["salary", "wages", "lines.sku", "*"] {
        let reply = attack
            .get(&format!("search?q=thing&highlight={}", encoded(field)))
            .await?;
        assert_eq!(reply.status, 400, "{field}");
    }
    Ok(())
}

#[tokio::test]
async fn a_hidden_field_is_in_no_answer_and_no_question() -> Result<()> {
    let attack = Attack::on(Product::Os2).await?;
    attack.finds("", 10).await?;
    for query in [
        "salary=gt.0",
        "wages=gt.0",
        "figures=eq.1001",
        "facet_by=figures",
        "sort=figures",
        "q=1001&query_by=figures",
        "sort=salary",
        "sort=wages",
        "facet_by=salary",
        "facet_by=wages",
        "fields=salary",
        "fields=wages",
        "fields=sal*",
        "fields=*",
        "fields=-name",
        "or=(salary.gt.1050,price.gt.0)",
        "q=1&query_by=salary",
        "facet_by=_id",
        "sort=_id",
        "facet_by=_seq_no",
        "_source=salary",
        "_index=eq.x",
        "_routing=eq.x",
        "facet_by=name.keyword",
    ] {
        let reply = attack.get(&format!("search?{query}")).await?;
        assert_eq!(reply.status, 400, "{query}: {}", reply.body);
    }
    let schema = attack.get("").await?;
    assert!(schema.status == 404 || schema.status == 200);
    let schema = attack
        .api
        .get(&attack.key, &format!("/v1/{}", attack.index))
        .await?;
    attack.gives_nothing_away("schema", &schema);
    let document = attack.api.get(&attack.key, "/openapi.json").await?;
    attack.gives_nothing_away("openapi", &document);
    Ok(())
}

#[tokio::test]
async fn looking_up_counting_and_completing_see_no_more() -> Result<()> {
    for product in testkit::matrix() {
        let attack = Attack::on(product).await?;
        let mine = attack.get("a1").await?;
        assert_eq!(
            (mine.status, &mine.body["document"]["price"]),
            (200, &json!(1))
        );
        let theirs = attack.get("b100").await?;
        let nobodys = attack.get("c100").await?;
        assert_eq!((theirs.status, nobodys.status), (404, 404), "{product}");
        let same = theirs.body.to_string().replace("b100", "c100");
        assert_eq!(
            same,
            nobodys.body.to_string(),
            "nothing tells a hidden document from none"
        );
        assert_eq!(attack.get("b100?fields=salary").await?.status, 400);
        for (query, expected) in [
            ("", 10),
            ("tenant=eq.b", 0),
            ("tenant=not.eq.a", 0),
            ("q=zebra", 0),
        ] {
            let reply = attack.get(&format!("count?{query}")).await?;
            assert_eq!(
                reply.body,
                json!({ "count": expected }),
                "{product}: {query}"
            );
        }
        for (query, expected) in [
            ("field=tag&prefix=z", 0),
            ("field=tag&prefix=apple", 10),
            ("field=name&prefix=zeb", 0),
            ("field=tag&prefix=z&tenant=eq.b", 0),
            ("field=tag&prefix=apple-1%7Czebra", 0),
            ("field=tag&prefix=.", 0),
        ] {
            if product == Product::Es7_10 && query.contains("tag") {
                continue;
            }
            let reply = attack.get(&format!("suggest?{query}")).await?;
            assert_eq!(reply.status, 200, "{product} {query}: {}", reply.body);
            assert_eq!(
                reply.body["values"].as_array().unwrap().len(),
                expected,
                "{product}: {query}"
            );
        }
        assert_eq!(
            attack.get("suggest?field=salary&prefix=1").await?.status,
            400
        );
    }
    Ok(())
}

#[tokio::test]
async fn several_searches_at_once_see_no_more_than_one() -> Result<()> {
    for product in testkit::matrix() {
        let attack = Attack::on(product).await?;
        let searches = json!({ "searches": [
            { "index": attack.index, "filter": { "tenant": "b" } },
            { "index": attack.index, "limit": 100, "facet_by": ["tag(100)"] },
            { "index": format!("{},*", attack.index) },
            { "index": "*" },
            { "index": "_all" },
            { "index": attack.index, "fields": ["salary"] },
            { "index": attack.index, "search_type": "dfs_query_then_fetch" },
        ]});
        let reply = attack
            .api
            .post(&attack.key, "/v1/multi-search", &searches)
            .await?;
        attack.gives_nothing_away(
            "multi-search",
            &Reply {
                body: reply.body["results"][1].clone(),
                ..reply
            },
        );
        let reply = attack
            .api
            .post(&attack.key, "/v1/multi-search", &searches)
            .await?;
        let results = reply.body["results"].as_array().unwrap();
        assert_eq!(ids(&results[0]).len(), 0, "{product}");
        assert_eq!(ids(&results[1]).len(), 10, "{product}");
        for (number, status) in [(2, 404), (3, 404), (4, 404), (5, 400), (6, 400)] {
            assert_eq!(results[number]["status"], status, "{product}: {number}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn raw_queries_are_beside_the_filter_and_only_of_kinds_that_see_nothing_else() -> Result<()> {
    let attack = Attack::on(Product::Os2).await?;
    let index = attack.index.clone();
    for (raw, expected) in [
        (json!({ "match_all": {} }), 10),
        (
            json!({ "bool": { "must_not": [{ "term": { "tenant": "a" } }] } }),
            0,
        ),
        (
            json!({ "bool": { "should": [{ "term": { "tenant": "b" } }, { "match_all": {} }] } }),
            10,
        ),
        (json!({ "terms": { "tenant": ["a", "b"] } }), 10),
        (json!({ "ids": { "values": ["b100"] } }), 0),
        (
            json!({ "multi_match": { "query": "zebra thing", "fields": ["name^2"] } }),
            10,
        ),
        (json!({ "range": { "price": { "gte": 5 } } }), 5),
    ] {
        let reply = attack.post(&json!({ "raw": raw, "limit": 100 })).await?;
        assert_eq!(reply.status, 200, "{raw}: {}", reply.body);
        assert_eq!(ids(&reply.body).len(), expected, "{raw}");
    }
    for raw in [
        json!({ "query_string": { "query": "tenant:b" } }),
        json!({ "simple_query_string": { "query": "zebra" } }),
        json!({ "script": { "script": { "source": "true" } } }),
        json!({ "script_score": { "query": { "match_all": {} }, "script": { "source": "1" } } }),
        json!({ "terms": { "tag": { "index": index, "id": "b100", "path": "tag" } } }),
        json!({ "more_like_this": { "like": { "_index": index, "_id": "b100" } } }),
        json!({ "percolate": { "field": "q", "index": index, "id": "b100" } }),
        json!({ "has_child": { "type": "x", "query": { "match_all": {} } } }),
        json!({ "nested": { "path": "lines", "query": { "match_all": {} }, "inner_hits": {} } }),
        json!({ "function_score": { "query": { "match_all": {} } } }),
        json!({ "wrapper": { "query": "e30=" } }),
        json!({ "distance_feature": { "field": "price" } }),
        json!({ "term": { "salary": 1100 } }),
        json!({ "term": { "wages": 1100 } }),
        json!({ "exists": { "field": "salary" } }),
        json!({ "exists": { "field": "sal*" } }),
        json!({ "multi_match": { "query": "zebra" } }),
        json!({ "multi_match": { "query": "1100", "fields": ["*"] } }),
        json!({ "match": { "name": { "query": "a", "analyzer": "x" } } }),
        json!({ "bool": { "filter": [{ "term": { "salary": 1100 } }] } }),
        json!({ "term": { "tenant": "a" }, "match_all": {} }),
        json!({}),
        json!([]),
        json!("match_all"),
    ] {
        let reply = attack.post(&json!({ "raw": raw })).await?;
        assert_eq!(reply.status, 400, "{raw}: {}", reply.body);
    }
    for member in [
        "query",
        "aggs",
        "aggregations",
        "runtime_mappings",
        "script_fields",
        "suggest",
        "knn",
        "post_filter",
        "rescore",
        "collapse",
        "_source",
        "docvalue_fields",
        "stored_fields",
        "explain",
        "profile",
        "pit",
        "slice",
        "from",
        "indices_boost",
        "search_after",
        "retriever",
        "ext",
    ] {
        let reply = attack.post(&json!({ member: {} })).await?;
        assert_eq!(reply.status, 400, "{member}");
        assert_eq!(
            reply.body["type"], "urn:syncline:problem:bad-body",
            "{member}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_index_whose_fields_cannot_keep_tenants_apart_is_closed_to_the_key() -> Result<()> {
    let node = SearchNode::shared(Product::Os2).await;
    let http = node.http();
    for (what, mapping) in [
        ("no such field", json!({ "other": { "type": "keyword" } })),
        ("analysed text", json!({ "tenant": { "type": "text" } })),
        ("other type", json!({ "tenant": { "type": "boolean" } })),
        (
            "nested",
            json!({ "tenant": { "type": "nested", "properties": { "x": { "type": "keyword" } } } }),
        ),
    ] {
        let index = unique_name("closed");
        http.put_json(
            &format!("/{index}"),
            &json!({ "mappings": { "properties": mapping } }),
        )
        .await?;
        let (key, entry) = key(&["a", "--filter", "tenant=eq.a"]);
        let api = Api::start(node, &[entry], &["--indices", &index]).await?;
        for path in ["search", "count", "x"] {
            let reply = api.get(&key, &format!("/v1/{index}/{path}")).await?;
            assert_eq!(reply.status, 403, "{what}: {}", reply.body);
        }
    }
    Ok(())
}
