//! Templates, carried between real clusters.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Http, Product, SearchNode, unique_name, wait_until};

use crate::support::program::{Ended, PATIENCE, Program, run};

/// Templates of a test's own: a component, what is composed of it, and an older one.
struct Templates {
    prefix: String,
}

impl Templates {
    fn new(test: &str) -> Templates {
        Templates {
            prefix: unique_name(&format!("tpl-{test}")),
        }
    }

    fn paths(&self) -> [String; 3] {
        let prefix = &self.prefix;
        [
            format!("/_component_template/{prefix}-part"),
            format!("/_index_template/{prefix}-index"),
            format!("/_template/{prefix}-legacy"),
        ]
    }

    async fn create(&self, http: &Http) -> Result<()> {
        let prefix = &self.prefix;
        let [part, index, legacy] = self.paths();
        http.put_json(&part, &self.part("5s")).await?;
        let labels = json!({ "type": "keyword", "ignore_above": 99 });
        let body = json!({
            "index_patterns": [format!("{prefix}-a-*"), format!("{prefix}-b-*")],
            "priority": 777, "version": 3, "composed_of": [format!("{prefix}-part")],
            "template": {
                "mappings": { "dynamic": "strict", "properties": { "labels": labels, "text": { "type": "text", "analyzer": "own" } } },
                "aliases": { format!("{prefix}-all"): {} },
            },
            "_meta": { "owner": "tests" },
        });
        http.put_json(&index, &body).await?;
        let body = json!({
            "index_patterns": [format!("{prefix}-legacy-*")], "order": 4,
            "settings": { "number_of_replicas": 0, "index.default_pipeline": "_none" },
            "mappings": { "properties": { "at": { "type": "date" } } },
        });
        http.put_json(&legacy, &body).await?;
        Ok(())
    }

    fn part(&self, refresh: &str) -> Value {
        json!({ "template": { "settings": {
            "number_of_shards": 2, "refresh_interval": refresh,
            "analysis": { "analyzer": { "own": { "type": "custom", "tokenizer": "standard" } } },
        } } })
    }

    /// Carries these templates and no others.
    async fn carry(&self, from: &SearchNode, to: &SearchNode, flags: &[&str]) -> Result<Ended> {
        let meant = format!("--templates={}*", self.prefix);
        let (from, to) = (from.url(), to.url());
        let arguments = ["metadata", &from, &to, &meant].into_iter();
        run(arguments.chain(flags.iter().copied())).await
    }

    async fn are_there(&self, http: &Http) -> Result<Vec<bool>> {
        let mut there = Vec::new();
        for path in self.paths() {
            let (status, _) = http.request("GET".parse()?, &path, "").await?;
            there.push(status == 200);
        }
        Ok(there)
    }
}

#[tokio::test]
async fn templates_are_carried_between_the_products_and_make_the_same_index() -> Result<()> {
    for (from, to) in [
        (Product::Es7_17, Product::Os2),
        (Product::Os2, Product::Es8),
        (Product::Es8, Product::Es7_17),
    ] {
        let (source, target) = (SearchNode::shared(from).await, SearchNode::shared(to).await);
        let templates = Templates::new("carried");
        templates.create(&source.http()).await?;
        let dry = templates.carry(source, target, &["--dry-run"]).await?;
        ensure!(dry.code == Some(3), "{from} {to}: {dry:#?}");
        ensure!(
            dry.stdout.contains("3 to be written") && dry.stdout.contains("nothing was changed"),
            "{dry:#?}"
        );
        ensure!(
            templates.are_there(&target.http()).await? == [false; 3],
            "a dry run wrote"
        );

        let done = templates.carry(source, target, &[]).await?.success()?;
        ensure!(done.stdout.contains("3 written"), "{done:#?}");
        ensure!(
            done.stdout
                .contains("index.default_pipeline (_none) is left out"),
            "{done:#?}"
        );
        ensure!(templates.are_there(&target.http()).await? == [true; 3]);
        let again = templates.carry(source, target, &[]).await?.success()?;
        ensure!(
            again.stdout.contains("3 the same, 0 written"),
            "{from} {to}: {again:#?}"
        );

        // What counts: an index that somebody creates there is like one that is created here.
        let index = format!("{}-a-1", templates.prefix);
        let mut shapes = Vec::new();
        for node in [source, target] {
            node.http()
                .put_json(&format!("/{index}"), &json!({}))
                .await?;
            let mut shape = node.http().get_json(&format!("/{index}")).await?;
            let mut shape = shape[&index].take();
            let settings = &shape["settings"]["index"];
            let settings = json!([
                settings["number_of_shards"],
                settings["refresh_interval"],
                settings["analysis"]
            ]);
            shapes.push((shape["mappings"].take(), shape["aliases"].take(), settings));
        }
        ensure!(shapes[0] == shapes[1], "{from} {to}: {shapes:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_template_that_differs_is_told_and_replaced_only_if_that_is_asked_for() -> Result<()> {
    let (source, target) = super::nodes().await;
    let templates = Templates::new("differs");
    templates.create(&source.http()).await?;
    templates.carry(source, target, &[]).await?.success()?;
    let [part, index, _] = templates.paths();
    target
        .http()
        .put_json(&part, &templates.part("31s"))
        .await?;
    let own = format!("/_index_template/{}-own", templates.prefix);
    let body =
        json!({ "index_patterns": [format!("{}-own-*", templates.prefix)], "priority": 778 });
    target.http().put_json(&own, &body).await?;

    let refresh = async || -> Result<Value> {
        let found = target.http().get_json(&part).await?;
        let template = &found["component_templates"][0]["component_template"]["template"];
        Ok(template["settings"]["index"]["refresh_interval"].clone())
    };
    let told = templates.carry(source, target, &[]).await?;
    ensure!(told.code == Some(3), "{told:#?}");
    ensure!(
        told.stdout
            .contains("differs in settings; it stays as it is"),
        "{told:#?}"
    );
    ensure!(refresh().await? == "31s");
    let dry = templates
        .carry(source, target, &["--overwrite", "--dry-run"])
        .await?;
    ensure!(dry.stdout.contains("is to be replaced"), "{dry:#?}");
    ensure!(refresh().await? == "31s");
    templates
        .carry(source, target, &["--overwrite"])
        .await?
        .success()?;
    ensure!(refresh().await? == "5s");
    let (status, _) = target.http().request("GET".parse()?, &own, "").await?;
    ensure!(status == 200, "what only the target has is gone");
    let (status, _) = target.http().request("GET".parse()?, &index, "").await?;
    ensure!(status == 200);
    Ok(())
}

#[tokio::test]
async fn what_the_target_cannot_have_is_said_before_anything_is_written() -> Result<()> {
    let (source, target) = super::nodes().await;
    let templates = Templates::new("refused");
    let body = json!({
        "index_patterns": [format!("{}-*", templates.prefix)], "priority": 779,
        "template": { "mappings": { "properties": { "v": { "type": "dense_vector", "dims": 3 } } } },
    });
    let [_, index, _] = templates.paths();
    source.http().put_json(&index, &body).await?;
    let dry = templates.carry(source, target, &["--dry-run"]).await?;
    ensure!(dry.code == Some(3), "{dry:#?}");
    ensure!(
        dry.stdout.contains("the target cannot have it") && dry.stdout.contains("dense_vector"),
        "{dry:#?}"
    );
    let done = templates.carry(source, target, &[]).await?;
    ensure!(done.code == Some(3), "{done:#?}");
    ensure!(templates.are_there(&target.http()).await? == [false; 3]);
    Ok(())
}

#[tokio::test]
async fn a_fresh_cluster_has_no_template_that_is_carried() -> Result<()> {
    for product in [Product::Es7_17, Product::Es8, Product::Os2] {
        let (node, other) = (SearchNode::shared(product).await, super::nodes().await);
        let other = if product == Product::Os2 {
            other.0
        } else {
            other.1
        };
        let all = run(["metadata", &node.url(), &other.url(), "--dry-run", "--json"]).await?;
        for line in all.stdout.lines() {
            let line: Value = serde_json::from_str(line)?;
            let name = line["plan"]["template"]["name"]
                .as_str()
                .context("no name")?;
            // Other tests make theirs at the same time.
            ensure!(
                name.starts_with("tpl-") || name.starts_with("e2e-"),
                "{product} has {name}: it belongs to the product"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_template_that_is_created_later_is_carried_by_the_service_and_a_difference_is_counted()
-> Result<()> {
    let (source, target) = super::nodes().await;
    let templates = Templates::new("followed");
    let arguments = [
        "metadata".to_owned(),
        source.url(),
        target.url(),
        format!("--templates={}*", templates.prefix),
        "--continuous".to_owned(),
        "--interval=100ms".to_owned(),
    ];
    let service = Program::start(arguments)?;
    service.ready().await?;
    templates.create(&source.http()).await?;
    wait_until("all are there", PATIENCE, async || {
        templates
            .are_there(&target.http())
            .await
            .is_ok_and(|there| there == [true; 3])
    })
    .await
    .with_context(|| service.last_words())?;
    let [part, _, _] = templates.paths();
    source.http().put_json(&part, &templates.part("6s")).await?;
    service
        .says(&["differs in settings", "it stays as it is"])
        .await?;
    wait_until("it is counted", PATIENCE, async || {
        let page = service.admin().await;
        let Ok(page) = page else { return false };
        let page = page.get_json("/metrics").await;
        page.is_ok_and(|page| {
            page.as_str().is_some_and(|page| {
                page.contains("syncline_metadata_templates{state=\"different\"} 1")
            })
        })
    })
    .await?;
    service.stop().await
}
