//! Documents that are larger than anything they have to pass through: messages, batches, bulks.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::{Http, NodeOptions, Product, SearchNode, wait_until};

use super::index_name;
use crate::support::{
    equal::assert_equal,
    pipeline::Pipeline,
    program::{Ended, PATIENCE, Program, run},
};

const MB: usize = 1_000_000;

/// Text that hardly compresses, so that it travels in as many parts as it can need: what repeats lies
/// further apart than zstd looks back.
fn noise(seed: u64, bytes: usize) -> String {
    let mut dice = fastrand::Rng::with_seed(seed);
    let once: String = std::iter::repeat_with(|| dice.alphanumeric())
        .take(MB)
        .collect();
    once.repeat(bytes / MB)
}

async fn put(http: &Http, index: &str, id: &str, megabytes: usize, more: Value) -> Result<()> {
    let blob = noise(megabytes as u64, megabytes * MB);
    let mut document = json!({ "megabytes": megabytes, "blob": blob });
    if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
        document.extend(more);
    }
    http.put_json(&format!("/{index}/_doc/{id}"), &document)
        .await
        .map(drop)
}

async fn dlq(pipeline: &Pipeline, arguments: &[&str]) -> Result<Ended> {
    let url = pipeline.nats.url();
    run([&["dlq"], arguments, &["--nats-url", &url]].concat()).await
}

/// The most memory a program has had, in megabytes.
fn peak(program: &Program) -> Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.context("no VmHWM")?.trim().trim_end_matches(" kB");
    Ok(kilobytes.parse::<usize>()? / 1000)
}

/// A node of its own, with room for such documents. Servers take requests up to 100 MB by themselves.
async fn node(product: Product, most: &str) -> Result<SearchNode> {
    let options = NodeOptions {
        heap_megabytes: 3000,
        ..NodeOptions::default()
    };
    SearchNode::start_with(
        product,
        options.with_setting("http.max_content_length", most),
    )
    .await
}

#[tokio::test]
async fn documents_up_to_the_target_s_limit_arrive_and_larger_ones_are_dead_letters() -> Result<()>
{
    let (source, target) =
        tokio::try_join!(node(Product::Es8, "200mb"), node(Product::Os2, "100mb"))?;
    let index = index_name("large");
    let properties = json!({
        "megabytes": { "type": "long" },
        "blob": { "type": "keyword", "index": false, "doc_values": false },
    });
    let body = |dynamic: Value| {
        json!({
            "settings": { "number_of_shards": 1, "number_of_replicas": 0 },
            "mappings": { "dynamic": dynamic, "properties": properties },
        })
    };
    source
        .http()
        .put_json(&format!("/{index}"), &body(json!(true)))
        .await?;
    target
        .http()
        .put_json(&format!("/{index}"), &body(json!("strict")))
        .await?;
    let small = async |from: usize| {
        let documents =
            (from..from + 50).map(|id| (format!("small-{id}"), json!({ "megabytes": 0 })));
        let documents: Vec<_> = documents.collect();
        let documents = documents
            .iter()
            .map(|(id, document)| (id.as_str(), document.clone()));
        source.http().index_documents(&index, documents).await
    };
    small(0).await?;
    for megabytes in [20, 60, 90] {
        put(
            &source.http(),
            &index,
            &format!("of-{megabytes}"),
            megabytes,
            json!({}),
        )
        .await?;
        small(megabytes * 100).await?;
    }
    let pipeline = Pipeline::new(&source.url(), &target.url(), &index).await?;
    let (watcher, writer) = (pipeline.watcher()?, pipeline.writer()?);
    let arrived = async |lacking: u64| {
        let counts = async || {
            let (source, target) = (source.http(), target.http());
            let (ours, theirs) = tokio::join!(source.count(&index), target.count(&index));
            matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours == theirs + lacking)
        };
        let waited = wait_until("all that can arrive is there", PATIENCE * 2, counts).await;
        waited.with_context(|| format!("{}\n{}", watcher.last_words(), writer.last_words()))
    };
    arrived(0).await?;
    ensure!(
        target
            .http()
            .get_json(&format!("/{index}/_doc/of-90"))
            .await?["found"]
            == true
    );
    let (of_watcher, of_writer) = (peak(&watcher)?, peak(&writer)?);
    println!("peaks after 90 MB: watcher {of_watcher} MB, writer {of_writer} MB");
    // A document is held a few times over, as itself, as a message, as a bulk; never all of them.
    ensure!(
        of_watcher < 700 && of_writer < 700,
        "watcher {of_watcher} MB, writer {of_writer} MB"
    );

    // One that the target's server does not take at all, and one that its mapping does not take yet.
    put(&source.http(), &index, "of-110", 110, json!({})).await?;
    put(
        &source.http(),
        &index,
        "of-61",
        61,
        json!({ "unknown": "field" }),
    )
    .await?;
    small(100_000).await?;
    let listed = async || -> Result<Vec<Value>> {
        let listed = dlq(&pipeline, &["list", "--json"]).await?.success()?;
        Ok(listed
            .stdout
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?)
    };
    wait_until("both are dead letters", PATIENCE * 2, async || {
        listed().await.is_ok_and(|letters| letters.len() == 2)
    })
    .await
    .with_context(|| format!("{}\n{}", watcher.last_words(), writer.last_words()))?;
    arrived(2).await?;
    let letters = listed().await?;
    let of_110 = letters.iter().find(|letter| letter["id"] == "of-110");
    let reason = of_110.map(|letter| letter["reason"].to_string());
    ensure!(
        reason.is_some_and(|reason| reason.contains("http.max_content_length")),
        "{letters:#?}"
    );
    let shown = dlq(&pipeline, &["show", "--id", "of-110", "--json"])
        .await?
        .success()?;
    ensure!(
        shown.stdout.len() > 110 * MB,
        "{} bytes are shown",
        shown.stdout.len()
    );

    // Sent again: the one is refused again, the other is written once the mapping has its field.
    let refused = dlq(&pipeline, &["replay", "--id", "of-110", "--wait"]).await?;
    ensure!(
        refused.code == Some(1),
        "{:?} {}",
        refused.code,
        refused.stderr
    );
    let loosened = json!({ "dynamic": true });
    target
        .http()
        .put_json(&format!("/{index}/_mapping"), &loosened)
        .await?;
    dlq(&pipeline, &["replay", "--id", "of-61"])
        .await?
        .success()?;
    // The other goes by itself when its document has become smaller.
    put(&source.http(), &index, "of-110", 10, json!({})).await?;
    wait_until("no letter is left", PATIENCE * 2, async || {
        listed().await.is_ok_and(|letters| letters.is_empty())
    })
    .await?;
    arrived(0).await?;
    println!(
        "peaks: watcher {} MB, writer {} MB",
        peak(&watcher)?,
        peak(&writer)?
    );
    watcher.stop().await?;
    writer.stop().await?;
    assert_equal(&source.http(), &target.http(), &index)
        .await
        .map(drop)
}
