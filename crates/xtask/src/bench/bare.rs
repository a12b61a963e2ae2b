//! The bare bulk loader: prebuilt bodies, nothing read, nothing looked at but whether it worked. No tool that writes the
//! same documents can be faster at the same number of connections.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use model::{Action, Change, Document, DocumentId, Epoch, Version, wire};
use testkit::process::Usage;

use super::runs::Run;
use crate::indices::Index;

/// As many as `sync` has lanes.
const CONNECTIONS: usize = 4;
/// As many documents as `sync` puts into a bulk.
const BULK: usize = 1000;

/// Bodies exactly as `sync` sends them, with external versions.
#[derive(Debug)]
pub(super) struct Bodies {
    bodies: Vec<Bytes>,
    documents: u64,
}

impl Bodies {
    pub(super) fn of(index: Index) -> Result<Bodies> {
        let documents = index.documents()?;
        let changes: Vec<Change> = documents
            .iter()
            .enumerate()
            .map(|(at, document)| change(at as u64, document))
            .collect::<Result<_>>()?;
        Ok(Bodies::of_changes(&changes))
    }

    pub(super) fn of_changes(changes: &[Change]) -> Bodies {
        let body = |changes: &[Change]| {
            let mut body = BytesMut::new();
            changes
                .iter()
                .for_each(|change| wire::write_change(&mut body, change));
            body.freeze()
        };
        Bodies {
            bodies: changes.chunks(BULK).map(body).collect(),
            documents: changes.len() as u64,
        }
    }

    /// Sends all of them.
    pub(super) async fn load(&self, server: &str, index: &str) -> Result<Run> {
        testkit::install_crypto();
        let client = reqwest::Client::builder().no_proxy().build()?;
        let path = "_bulk?filter_path=took,errors,items.*.status,items.*.error";
        let url = format!("{server}/{index}/{path}");
        let before = Usage::of_this_process()?;
        let began = Instant::now();
        stream::iter(&self.bodies)
            .map(|body| send(&client, &url, body.clone()))
            .buffer_unordered(CONNECTIONS)
            .try_collect::<()>()
            .await?;
        let elapsed = began.elapsed();
        let used = Usage::of_this_process()?.since(&before);
        // Its memory is the prebuilt bodies, which says nothing.
        let used = Usage {
            peak_resident: 0,
            ..used
        };
        Ok(Run {
            documents: self.documents,
            elapsed,
            used: Some(used),
        })
    }
}

/// A document of a dataset as a change; its id is its number from 1.
pub(super) fn change(number: u64, document: &str) -> Result<Change> {
    let id = (number + 1).to_string();
    Ok(Change {
        id: DocumentId::try_from(id.as_str()).context("a number is a valid id")?,
        routing: None,
        version: Version::new(Epoch(0), number).context("a small version")?,
        over: false,
        action: Action::Index(Document::from_json(Bytes::copy_from_slice(
            document.as_bytes(),
        ))),
    })
}

async fn send(client: &reqwest::Client, url: &str, body: Bytes) -> Result<()> {
    let request = client
        .post(url)
        .header("Content-Type", "application/x-ndjson");
    let answer = request.body(body).send().await?.error_for_status()?;
    let answer = answer.bytes().await?;
    let beginning = &answer[..answer.len().min(200)];
    let beginning = String::from_utf8_lossy(beginning);
    ensure!(
        beginning.contains("\"errors\":false"),
        "a bulk failed: {beginning}"
    );
    Ok(())
}
