#![allow(clippy::unwrap_used, reason = "tests")]
//! The source in the loops it is made for, with a target in memory, and the program with a real one.

use std::{fs, path::Path, sync::Arc};

use example_file_source::FileSource;
use pipeline::{
    ApplyOptions, ChangeSource, Fault, PublishOptions, apply, channel, fake::MemoryStore, publish,
};
use serde_json::json;
use testkit::{Product, SearchNode};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

async fn sync(file: &Path, store: &MemoryStore) -> Result<(), Fault> {
    let mut source = FileSource::open(file, "lines".parse().unwrap())
        .await
        .unwrap();
    let (mut sink, mut reader) = channel(2);
    let shutdown = CancellationToken::new();
    let window = PublishOptions::default();
    let publishing = async {
        let published = publish(&mut source, &mut sink, &window, &(), &shutdown).await;
        drop(sink);
        published
    };
    let store = Arc::new(store.clone());
    let applying = apply(
        &mut reader,
        Arc::clone(&store),
        store,
        Arc::new(()),
        ApplyOptions::default(),
        &shutdown,
    );
    tokio::try_join!(publishing, applying).map(drop)
}

fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

fn documents(store: &MemoryStore) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = store
        .documents()
        .into_iter()
        .map(|((_, id, _), body)| (id, String::from_utf8(body.to_vec()).unwrap()))
        .collect();
    found.sort_by_key(|(id, _)| id.parse::<u64>().unwrap());
    found
}

fn expected(numbers: std::ops::Range<u64>) -> Vec<(String, String)> {
    numbers
        .map(|n| (n.to_string(), format!("{{\"n\":{n}}}")))
        .collect()
}

#[tokio::test]
async fn every_line_becomes_a_document_and_a_second_run_reads_only_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines.ndjson");
    fs::write(&file, lines(1..1_234)).unwrap();
    let store = MemoryStore::default();
    sync(&file, &store).await.unwrap();
    assert_eq!(documents(&store), expected(1..1_234));

    fs::write(&file, lines(1..1_300)).unwrap();
    let mut source = FileSource::open(&file, "lines".parse().unwrap())
        .await
        .unwrap();
    let next = source.next().await.unwrap().unwrap();
    assert_eq!(next.batch.changes()[0].id.as_str(), "1234");

    sync(&file, &store).await.unwrap();
    assert_eq!(documents(&store), expected(1..1_300));
}

#[tokio::test]
async fn a_lost_checkpoint_only_repeats_work() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines.ndjson");
    fs::write(&file, lines(1..100)).unwrap();
    let store = MemoryStore::default();
    sync(&file, &store).await.unwrap();
    fs::remove_file(folder.path().join("lines.checkpoint")).unwrap();
    sync(&file, &store).await.unwrap();
    assert_eq!(documents(&store), expected(1..100));
}

#[tokio::test]
async fn a_line_that_is_no_json_is_named_and_nothing_behind_it_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines.ndjson");
    fs::write(&file, lines(1..700) + "{\"n\":\n" + &lines(701..800)).unwrap();
    let error = sync(&file, &MemoryStore::default()).await.unwrap_err();
    assert!(error.to_string().contains("line 700 is no JSON"), "{error}");
    let confirmed = fs::read_to_string(folder.path().join("lines.checkpoint"));
    let confirmed: u64 = confirmed.map_or(0, |text| text.parse().unwrap());
    assert!(confirmed <= 500, "confirmed up to line {confirmed}");
}

#[tokio::test]
async fn the_program_writes_every_line_into_a_real_cluster() {
    let node = SearchNode::shared(Product::Os2).await;
    let index = testkit::unique_name("lines");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines.ndjson");
    fs::write(&file, lines(1..1_001)).unwrap();

    let mut program = Command::new(env!("CARGO_BIN_EXE_example-file-source"));
    program
        .current_dir(&folder)
        .arg(&file)
        .args([&index, &node.url()]);
    let output = program.output().await.unwrap();
    assert!(output.status.success(), "{output:?}");

    let http = node.http();
    let refresh = format!("/{index}/_refresh");
    http.post_json(&refresh, &json!({})).await.unwrap();
    let search = format!("/{index}/_search");
    let everything = json!({ "size": 2_000, "version": true });
    let found = http.post_json(&search, &everything).await.unwrap();
    let mut documents: Vec<(String, String)> = Vec::new();
    for hit in found["hits"]["hits"].as_array().unwrap() {
        let id = hit["_id"].as_str().unwrap();
        assert_eq!(
            hit["_version"].to_string(),
            id,
            "the version is the number of the line"
        );
        documents.push((id.to_owned(), hit["_source"].to_string()));
    }
    documents.sort_by_key(|(id, _)| id.parse::<u64>().unwrap());
    assert_eq!(documents, expected(1..1_001));
    http.delete(&format!("/{index}")).await.unwrap();
}
