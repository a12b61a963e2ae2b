//! What a front end asks, on every product.

use anyhow::Result;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Http, SearchNode, unique_name};

use crate::support::{Api, ids, key};

/// A few films with everything a mapping can have.
pub(crate) async fn films(http: &Http) -> Result<String> {
    let index = unique_name("films");
    http.put_json(&format!("/{index}"), &json!({
        "settings": { "number_of_shards": 2, "number_of_replicas": 0 },
        "mappings": { "properties": {
            "title": { "type": "text", "fields": { "keyword": { "type": "keyword", "ignore_above": 256 } } },
            "genre": { "type": "keyword" },
            "year": { "type": "integer" },
            "gross": { "type": "long" },
            "rating": { "type": "double" },
            "is_sequel": { "type": "boolean" },
            "released": { "type": "date" },
            "director": { "properties": { "name": { "type": "keyword" }, "born": { "type": "date" } } },
            "cast": { "type": "nested", "properties": {
                "actor": { "type": "keyword" }, "role": { "type": "keyword" },
            }},
        }},
    })).await?;
    let film =
        |title: &str, genre: &str, year: i64, rating: Value, sequel: bool, released: &str| {
            json!({
                "title": title, "genre": genre, "year": year, "rating": rating, "is_sequel": sequel,
                "gross": 9_007_199_254_740_993_i64 + year, "released": released,
                "director": { "name": format!("Director of {title}"), "born": "1940-01-01" },
                "cast": [{ "actor": "A", "role": title }, { "actor": "B", "role": "Narrator" }],
            })
        };
    http.index_documents(
        &index,
        [
            (
                "1",
                film("Star Wars", "scifi", 1977, json!(8.6), false, "1977-05-25"),
            ),
            (
                "2",
                film(
                    "The Empire Strikes Back",
                    "scifi",
                    1980,
                    json!(8.7),
                    true,
                    "1980-05-21T10:30:00Z",
                ),
            ),
            (
                "3",
                film("Alien", "horror", 1979, json!(8.5), false, "1979-05-25"),
            ),
            (
                "4",
                film("Aliens", "scifi", 1986, json!(8.4), true, "1986-07-18"),
            ),
            (
                "5/ä ö",
                film(
                    "A Star Is <b>Born</b>",
                    "drama",
                    1976,
                    Value::Null,
                    false,
                    "1976-12-17",
                ),
            ),
        ],
    )
    .await?;
    Ok(index)
}

#[tokio::test]
async fn a_search_finds_filters_sorts_and_counts_on_every_product() -> Result<()> {
    for product in testkit::matrix() {
        let node = SearchNode::shared(product).await;
        let index = films(&node.http()).await?;
        let (key, entry) = key(&["web"]);
        let api = Api::start(node, &[entry], &["--indices", &index]).await?;
        let search = format!("/v1/{index}/search");
        let found = async |query: &str| -> Result<Vec<String>> {
            Ok(ids(&api.ok(&key, &format!("{search}?{query}")).await?))
        };
        for (query, expected) in [
            ("sort=year", &["5/ä ö", "1", "3", "2", "4"][..]),
            ("sort=rating.desc.nullslast&limit=3", &["2", "1", "3"]),
            ("sort=rating.desc&limit=1", &["5/ä ö"]),
            ("sort=title&limit=2", &["5/ä ö", "3"]),
            ("year=gte.1977&year=lt.1980&sort=year", &["1", "3"]),
            ("genre=in.(horror,drama)&sort=year", &["5/ä ö", "3"]),
            (
                "or=(genre.eq.horror,and(is_sequel.is.true,year.gt.1980))&sort=year",
                &["3", "4"],
            ),
            ("rating=is.null", &["5/ä ö"]),
            ("rating=not.gte.8.6&sort=year", &["3", "4"]),
            ("rating=neq.8.6&sort=year", &["3", "2", "4"]),
            ("title=like.Alien*&sort=year", &["3", "4"]),
            ("title=like.Alien_", &["4"]),
            ("title=eq.Star%20Wars", &["1"]),
            ("title=fts.star&sort=year", &["5/ä ö", "1"]),
            ("title=phfts.star+is", &["5/ä ö"]),
            ("released=eq.1977-05-25", &["1"]),
            ("released=lte.1980-05-21&sort=year", &["5/ä ö", "1", "3"]),
            ("released=gt.1980-05-21&sort=year", &["2", "4"]),
            ("director.name=eq.Director%20of%20Alien", &["3"]),
            ("cast.role=eq.Aliens", &["4"]),
            ("and=(cast.actor.eq.A,cast.role.not.eq.Narrator)", &[]),
            ("gross=eq.9007199254742970", &["1"]),
            ("_id=in.(1,3)&sort=year", &["1", "3"]),
            ("_id=neq.1&sort=year&limit=1", &["5/ä ö"]),
            ("q=star&query_by=title&sort=year", &["5/ä ö", "1"]),
            ("q=strikes+empire", &["2"]),
            ("q=strikes+alien&match=any&sort=year", &["3", "2"]),
            ("q=empire+str&match=prefix", &["2"]),
            ("q=emprie&match=fuzzy", &["2"]),
            ("q=star+wars&match=phrase", &["1"]),
        ] {
            assert_eq!(found(query).await?, expected, "{product}: {query}");
        }
        if product != testkit::Product::Es7_10 {
            assert_eq!(
                found("title=ilike.alien*&sort=year").await?,
                ["3", "4"],
                "{product}"
            );
        }

        let body = json!({
            "q": "star", "query_by": ["title^2"], "highlight": ["title"], "sort": ["year"],
            "facet_by": ["genre", "year(2)", "rating", "released", "is_sequel"],
            "fields": ["title", "director.name", "gross"], "count": "exact",
        });
        let answer = api.ok_post(&key, &search, &body).await?;
        assert_eq!(
            answer["found"],
            json!({ "count": 2, "exact": true }),
            "{product}"
        );
        let hit = &answer["hits"][0];
        assert_eq!(
            hit["highlight"]["title"][0],
            "A <em>Star</em> Is &lt;b&gt;Born&lt;&#x2F;b&gt;"
        );
        assert_eq!(
            hit["document"],
            json!({
                "title": "A Star Is <b>Born</b>", "gross": 9_007_199_254_742_969_i64,
                "director": { "name": "Director of A Star Is <b>Born</b>" },
            })
        );
        let genres = &answer["facets"]["genre"]["values"];
        assert_eq!(genres.as_array().unwrap().len(), 2, "{answer}");
        assert_eq!(answer["facets"]["rating"]["max"], 8.6);
        assert_eq!(
            answer["facets"]["released"]["min"],
            "1976-12-17T00:00:00.000Z"
        );
        assert_eq!(
            answer["facets"]["is_sequel"]["values"],
            json!([{ "value": false, "count": 2 }])
        );

        let count = api
            .ok(&key, &format!("/v1/{index}/count?genre=eq.scifi"))
            .await?;
        assert_eq!(count, json!({ "count": 3 }));
        let body = json!({ "filter": { "genre": "scifi", "rating": { "gte": 8.6 } } });
        let count = api
            .ok_post(&key, &format!("/v1/{index}/count"), &body)
            .await?;
        assert_eq!(count, json!({ "count": 2 }));

        let document = api
            .ok(
                &key,
                &format!("/v1/{index}/5%2F%C3%A4%20%C3%B6?fields=year"),
            )
            .await?;
        assert_eq!(
            document,
            json!({ "id": "5/ä ö", "document": { "year": 1976 } })
        );
        let suggested =
            async |query: &str| api.ok(&key, &format!("/v1/{index}/suggest?{query}")).await;
        let values = suggested("field=genre&prefix=sc").await?;
        assert_eq!(
            values["values"],
            json!([{ "value": "scifi", "count": 3 }]),
            "{product}"
        );
        let values = suggested("field=title&prefix=empire&genre=eq.scifi").await?;
        assert_eq!(
            values["values"][0]["value"], "The Empire Strikes Back",
            "{product}"
        );

        let several = json!({ "searches": [
            { "index": index, "filter": { "year": 1977 } },
            { "index": index, "filter": { "nothing": 1 } },
            { "index": "nowhere" },
            { "index": index, "facet_by": ["genre(1)"], "limit": 0 },
        ]});
        let answer = api.ok_post(&key, "/v1/multi-search", &several).await?;
        assert_eq!(ids(&answer["results"][0]), ["1"]);
        assert_eq!(answer["results"][1]["status"], 400);
        assert_eq!(
            answer["results"][2]["type"],
            "urn:syncline:problem:unknown-index"
        );
        assert_eq!(
            answer["results"][3]["facets"]["genre"]["values"][0],
            json!({ "value": "scifi", "count": 3 })
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_known_is_not_sent_again_and_pages_of_other_sites_ask_if_they_may()
-> Result<()> {
    let node = SearchNode::shared(testkit::Product::Os2).await;
    let index = films(&node.http()).await?;
    let (key, entry) = key(&["web"]);
    let flags = [
        "--indices",
        &index,
        "--cors-origins",
        "https://shop.example",
        "--cache-time",
        "30s",
    ];
    let api = Api::start(node, &[entry], &flags).await?;
    let path = format!("/v1/{index}/search?year=eq.1977");
    let first = api.get(&key, &path).await?;
    assert_eq!(
        first.headers["cache-control"],
        "private, max-age=30, must-revalidate"
    );
    let tag = first.headers["etag"].as_str();
    let headers = [
        ("x-api-key", key.as_str()),
        ("if-none-match", tag),
        ("origin", "https://shop.example"),
    ];
    let again = api.request(Method::GET, &path, &headers, None).await?;
    assert_eq!((again.status, again.body), (304, json!("")));
    assert_eq!(
        again.headers["access-control-allow-origin"],
        "https://shop.example"
    );
    node.http()
        .index_documents(&index, [("1", json!({ "year": 1977, "title": "Changed" }))])
        .await?;
    assert_eq!(
        api.request(Method::GET, &path, &headers, None)
            .await?
            .status,
        200
    );

    for (origin, may) in [
        ("https://shop.example", true),
        ("https://evil.example", false),
    ] {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
        ];
        let reply = api.request(Method::OPTIONS, &path, &headers, None).await?;
        assert_eq!(reply.status, 204);
        assert_eq!(
            reply.headers.contains_key("access-control-allow-origin"),
            may,
            "{origin}"
        );
        assert_eq!(
            reply.headers.contains_key("access-control-allow-headers"),
            may,
            "{origin}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_schema_says_what_can_be_asked_and_follows_the_mapping() -> Result<()> {
    let node = SearchNode::shared(testkit::Product::Os2).await;
    let (http, (key, entry)) = (node.http(), key(&["web"]));
    let index = films(&http).await?;
    let api = Api::start(node, &[entry], &["--indices", &index]).await?;
    let schema = api.ok(&key, &format!("/v1/{index}")).await?;
    assert_eq!(
        schema["fields"]["year"]["operators"],
        json!(["eq", "neq", "gt", "gte", "lt", "lte", "in", "is"])
    );
    assert_eq!(schema["fields"]["cast.role"]["sortable"], false);
    http.put_json(
        &format!("/{index}/_mapping"),
        &json!({ "properties": { "later": { "type": "ip" } } }),
    )
    .await?;
    testkit::wait_until(
        "the new field is known",
        std::time::Duration::from_secs(20),
        async || {
            api.get(&key, &format!("/v1/{index}/search?later=is.null"))
                .await
                .is_ok_and(|r| r.status == 200)
        },
    )
    .await?;
    assert!(
        api.metrics
            .encode()?
            .contains("syncline_query_requests_total{operation=\"search\",status=\"200\"}")
    );
    Ok(())
}

/// OpenSearch itself finds nothing by it, so that its negation would find too much.
#[tokio::test]
async fn a_pattern_of_nothing_is_the_empty_text_on_every_product() -> Result<()> {
    for product in testkit::matrix() {
        let node = SearchNode::shared(product).await;
        let http = node.http();
        let index = unique_name("empty");
        let mappings = json!({ "mappings": { "properties": { "k": { "type": "keyword" } } } });
        http.put_json(&format!("/{index}"), &mappings).await?;
        let documents = [
            ("1", json!({ "k": "" })),
            ("2", json!({ "k": "a" })),
            ("3", json!({})),
        ];
        http.index_documents(&index, documents).await?;
        let (key, entry) = key(&["web"]);
        let api = Api::start(node, &[entry], &["--indices", &index]).await?;
        for (filter, expected) in [("like.", "1"), ("ilike.", "1"), ("not.like.", "2")] {
            let found = api
                .ok(&key, &format!("/v1/{index}/search?k={filter}"))
                .await?;
            assert_eq!(ids(&found), [expected], "{product}: k={filter}");
        }
    }
    Ok(())
}
