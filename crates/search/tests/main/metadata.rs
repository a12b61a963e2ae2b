use anyhow::Result;
use model::{IndexDefinition, IndexName};
use search::{Client, Error, Mark, Outcome};
use serde_json::{Value, json, value::RawValue};
use testkit::{Product, SearchNode};

use crate::{client, index_name};

async fn shape(client: &Client, index: &IndexName) -> Result<(Value, Value)> {
    let definition = client.definition(index).await?;
    let settings: Value = serde_json::from_str(definition.settings.get())?;
    let (kept, _) =
        search::portable_settings(settings.as_object().unwrap(), client.server().product);
    Ok((
        kept.into(),
        serde_json::from_str(definition.mappings.get())?,
    ))
}

#[tokio::test]
async fn an_index_looks_the_same_after_a_journey_through_every_product() -> Result<()> {
    let original = json!({
        "settings": {
            "number_of_shards": 2, "number_of_replicas": 0, "refresh_interval": "7s",
            "mapping.total_fields.limit": 2000, "max_ngram_diff": 3,
            "analysis": {"analyzer": {"own": {"type": "custom", "tokenizer": "standard", "filter": ["lowercase"]}}}
        },
        "mappings": {
            "dynamic": "strict", "_routing": {"required": true},
            "properties": {
                "title": {"type": "text", "analyzer": "own", "fields": {"raw": {"type": "keyword"}}},
                "parts": {"type": "nested", "properties": {"n": {"type": "long"}}},
                "at": {"type": "date"}, "where": {"type": "geo_point"}
            }
        }
    });
    let index = index_name("journey");
    let mut before: Option<(IndexDefinition, (Value, Value))> = None;
    let products: Vec<Product> = testkit::matrix();
    for &product in products.iter().chain(&products) {
        let node = SearchNode::shared(product).await;
        let client = client(node).await?;
        match &before {
            None => drop(
                node.http()
                    .put_json(&format!("/{index}"), &original)
                    .await?,
            ),
            Some((definition, _)) => {
                if !client.index_exists(&index).await? {
                    let created = client
                        .create_index(&index, definition, &Mark::default())
                        .await?;
                    assert_eq!(created.outcome, Outcome::Created, "{product}");
                }
                let again = client
                    .create_index(&index, definition, &Mark::default())
                    .await?;
                assert_eq!(again.outcome, Outcome::AlreadyThere, "{product}");
            }
        }
        assert!(client.index_exists(&index).await?);
        let here = shape(&client, &index).await?;
        if let Some((_, there)) = &before {
            assert_eq!(&here, there, "{product}");
        }
        before = Some((client.definition(&index).await?, here));
    }
    for product in products {
        client(SearchNode::shared(product).await)
            .await?
            .delete_index(&index)
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_definition_that_the_target_cannot_have_says_what_is_missing() -> Result<()> {
    let raw = |value: Value| RawValue::from_string(value.to_string());
    for product in testkit::matrix() {
        let client = client(SearchNode::shared(product).await).await?;
        for (mapping, missing, remedy) in [
            (
                json!({"properties": {"t": {"type": "text", "analyzer": "smartcn"}}}),
                "smartcn",
                "analysis plugin",
            ),
            (
                json!({"properties": {"t": {"type": "no_such_type"}}}),
                "no_such_type",
                "field type",
            ),
        ] {
            let index = index_name("refused");
            let definition = IndexDefinition {
                lineage: None,
                aliases: None,
                product: "elasticsearch 8.0.0".into(),
                settings: raw(json!({"number_of_shards": "1"}))?,
                mappings: raw(mapping)?,
            };
            let error = client
                .create_index(&index, &definition, &Mark::default())
                .await
                .unwrap_err();
            assert!(
                matches!(error, Error::Incompatible { .. }),
                "{product}: {error}"
            );
            let text = error.to_string();
            assert!(
                text.contains(missing) && text.contains(remedy),
                "{product}: {text}"
            );
            assert!(!client.index_exists(&index).await?);
        }
    }
    Ok(())
}
