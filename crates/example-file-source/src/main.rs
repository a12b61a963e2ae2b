//! `cargo run -p example-file-source -- FILE INDEX TARGET_URL`: the lines of a file into a cluster.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use es_writer::{FileDeadLetters, SearchWriter};
use example_file_source::FileSource;
use pipeline::{ApplyOptions, PublishOptions, apply, channel, publish};
use search::{Client, ClientConfig, Url};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, index, target] = arguments.as_slice() else {
        bail!("usage: example-file-source FILE INDEX TARGET_URL");
    };
    let mut source = FileSource::open(Path::new(file), index.parse()?)
        .await
        .with_context(|| format!("cannot read {file}"))?;
    let target = Url::parse(target).context("TARGET_URL is no URL")?;
    let client = Client::connect(&ClientConfig::new(vec![target])).await?;

    // A log that lives in this process: a position is confirmed when the target has everything up to it.
    let (mut sink, mut reader) = channel(4);
    let window = PublishOptions::default();
    let shutdown = CancellationToken::new();
    let publishing = async {
        let published = publish(&mut source, &mut sink, &window, &(), &shutdown).await;
        drop(sink); // the log ends here, and the reader with it
        published
    };
    let applying = apply(
        &mut reader,
        Arc::new(SearchWriter::new(client)),
        Arc::new(FileDeadLetters::new(Path::new("dead-letters.ndjson"))),
        Arc::new(()),
        ApplyOptions::default(),
        &shutdown,
    );
    tokio::try_join!(publishing, applying)?;
    Ok(())
}
