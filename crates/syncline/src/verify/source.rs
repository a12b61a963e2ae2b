//! What is compared at the source: the indices of a search cluster, or the tables of a PostgreSQL server.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use model::{Document, DocumentId, IndexDefinition, IndexName};
use pg_watcher::{SourceError, SourceObserver, SourceOptions, TableRows};
use search::{Client, ClientConfig, IndexPatterns};
use tokio::sync::mpsc;
use verify::{
    At, Collection, CollectionError, IndexReport, Progress, Record, VerifyError, VerifyOptions,
};

use super::CommandError;

/// How many rows are looked up together.
const ROWS: usize = 256;
/// The same where all rows have to be read to find some.
const ROWS_BY_READING: usize = 50_000;

/// How to reach a source.
pub(super) enum Address {
    Cluster(ClientConfig),
    Postgres(Box<SourceOptions>),
}

/// A source.
pub(super) enum Source {
    Cluster(Client, Teller),
    Postgres(Box<SourceOptions>, Teller),
}

/// An index of the source, or a table that becomes one.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) index: IndexName,
    /// What identifies it.
    pub(super) uuid: String,
    table: Option<Arc<dyn Collection>>,
}

impl Source {
    /// What identifies it.
    pub(super) fn id(&self) -> String {
        match self {
            Source::Cluster(client, _) => client.server().cluster_uuid.clone(),
            Source::Postgres(options, _) => {
                let databases = options.databases.iter().map(ToString::to_string);
                databases.collect::<Vec<_>>().join(",")
            }
        }
    }

    /// What there is to compare.
    pub(super) async fn found(&self, patterns: &IndexPatterns) -> Result<Vec<Found>, CommandError> {
        match self {
            Source::Cluster(client, teller) => indices(client, patterns, teller).await,
            Source::Postgres(options, teller) => {
                let tables = pg_watcher::tables(options, teller).await?;
                Ok(tables.into_iter().map(Found::from).collect())
            }
        }
    }

    /// Compares an index of the source with one of the target.
    pub(super) async fn compare(
        &self,
        found: &Found,
        (target, place): (&Client, &IndexName),
        options: &VerifyOptions,
        progress: &Arc<dyn Progress>,
    ) -> Result<IndexReport, VerifyError> {
        let pair = (&found.index, place);
        match (self, &found.table) {
            (Source::Cluster(source, _), _) => {
                verify::verify_index(source, target, pair, options, progress).await
            }
            (Source::Postgres(..), Some(table)) => {
                let table = Arc::clone(table);
                verify::verify_collection(table, target, pair, options, progress).await
            }
            (Source::Postgres(..), None) => Err(VerifyError::NoIndex {
                index: found.index.to_string(),
            }),
        }
    }
}

/// The indices of a cluster that can be compared.
async fn indices(
    source: &Client,
    patterns: &IndexPatterns,
    teller: &Teller,
) -> Result<Vec<Found>, CommandError> {
    let found = source.list_indices(patterns).await;
    let mut indices = Vec::new();
    for index in found.map_err(CommandError::Source)? {
        let reason = index.uncapturable();
        let name = index.name;
        match reason {
            None => indices.push(Found {
                index: name,
                uuid: index.uuid,
                table: None,
            }),
            Some(reason) if patterns.names().any(|named| named == name.as_str()) => {
                let index = name.to_string();
                return Err(CommandError::Uncapturable { index, reason });
            }
            Some(reason) => teller.left_out(name.as_str(), &reason.to_string()),
        }
    }
    match indices.is_empty() {
        true => Err(CommandError::NoIndex(patterns.to_string())),
        false => Ok(indices),
    }
}

/// Says once what is left out.
#[derive(Debug, Default)]
pub(super) struct Teller(Mutex<HashSet<String>>);

impl SourceObserver for Teller {
    fn left_out(&self, what: &str, reason: &str) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.insert(what.to_owned()) {
            eprintln!("{what} is left out: {reason}");
        }
    }
}

impl From<TableRows> for Found {
    fn from(table: TableRows) -> Found {
        Found {
            index: table.index().clone(),
            uuid: table.identity(),
            table: Some(Arc::new(Table(table))),
        }
    }
}

/// A table as a comparison takes it.
#[derive(Debug)]
struct Table(TableRows);

impl Collection for Table {
    fn identity(&self) -> String {
        self.0.identity()
    }

    fn origin(&self) -> (String, String) {
        self.0.origin()
    }

    fn estimate(&self) -> u64 {
        self.0.estimate()
    }

    fn parts(&self) -> usize {
        self.0.parts()
    }

    fn read(
        &self,
        part: usize,
        pages: mpsc::Sender<Vec<Record>>,
    ) -> BoxFuture<'_, Result<(), CollectionError>> {
        let read = async move { self.0.read(part, &pages).await };
        read.map(|read| read.map_err(failed)).boxed()
    }

    fn find<'a>(
        &'a self,
        ids: &'a [&'a DocumentId],
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, CollectionError>> {
        let found = self.0.find(ids);
        found.map(|found| found.map(json).map_err(failed)).boxed()
    }

    fn find_at<'a>(
        &'a self,
        ids: &'a [&'a DocumentId],
    ) -> BoxFuture<'a, Result<At, CollectionError>> {
        let found = self.0.find_at(ids);
        let at = found.map(|found| {
            let (lsn, documents) = found.map_err(failed)?;
            Ok(At {
                position: lsn.0,
                documents: json(documents),
            })
        });
        at.boxed()
    }

    fn together(&self) -> usize {
        match self.0.has_key() {
            true => ROWS,
            false => ROWS_BY_READING,
        }
    }

    fn definition(&self) -> IndexDefinition {
        self.0.definition()
    }
}

fn json(documents: Vec<Option<Document>>) -> Vec<Option<Bytes>> {
    let documents = documents.into_iter();
    documents
        .map(|document| document.map(Document::into_bytes))
        .collect()
}

fn failed(error: SourceError) -> CollectionError {
    let reason = error.to_string();
    CollectionError {
        reason,
        is_passing: pg_watcher::fault(error).is_retryable(),
    }
}
