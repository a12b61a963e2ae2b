//! Which indices a cluster has, and which of them can be captured.

use std::{collections::BTreeMap, fmt};

use model::IndexName;
use serde::Deserialize;

use crate::{Client, Error, IndexPatterns, Product, Request, encode, request::index_lists};

/// An index as far as capturing it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexInfo {
    /// Its name.
    pub name: IndexName,
    /// What identifies it.
    pub uuid: String,
    /// Hidden by its settings.
    pub hidden: bool,
    /// Open; nothing can be read from a closed one.
    pub open: bool,
    /// How many shards it has.
    pub shards: u32,
    /// How its replicas get their documents.
    pub replication: Replication,
    /// Whether it keeps its documents.
    pub source_enabled: bool,
    /// Whether it throws sequence numbers away.
    pub seq_no_disabled: bool,
    /// The data stream whose backing index it is.
    pub data_stream: Option<String>,
}

/// How replicas get their documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// Each copy indexes them itself.
    Document,
    /// Copies fetch the primary's files (OpenSearch), so what they show lags behind.
    Segment,
}

/// Why an index cannot be captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncapturable {
    /// It is closed.
    Closed,
    /// It does not keep its documents.
    SourceDisabled,
    /// It does not keep sequence numbers.
    NoSequenceNumbers,
}

impl fmt::Display for Uncapturable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Uncapturable::Closed => "the index is closed; open it or exclude it",
            Uncapturable::SourceDisabled => {
                "its mapping disables _source, so the documents are not kept; exclude it or rebuild \
                 it with _source"
            }
            Uncapturable::NoSequenceNumbers => {
                "index.disable_sequence_numbers is set, so changes cannot be found; exclude it or \
                 rebuild it without"
            }
        })
    }
}

impl IndexInfo {
    /// The reason why the index cannot be captured, if there is one.
    pub fn uncapturable(&self) -> Option<Uncapturable> {
        if !self.open {
            Some(Uncapturable::Closed)
        } else if !self.source_enabled {
            Some(Uncapturable::SourceDisabled)
        } else if self.seq_no_disabled {
            Some(Uncapturable::NoSequenceNumbers)
        } else {
            None
        }
    }
}

#[derive(Deserialize)]
struct RawIndex {
    #[serde(default)]
    aliases: BTreeMap<String, serde::de::IgnoredAny>,
    data_stream: Option<String>,
    #[serde(default)]
    mappings: Mappings,
    settings: Settings,
    defaults: Option<Settings>,
}

#[derive(Default, Deserialize)]
struct Mappings {
    _source: Option<Source>,
}

#[derive(Deserialize)]
struct Source {
    enabled: Option<Flag>,
}

#[derive(Default, Deserialize)]
struct Settings {
    index: IndexSettings,
}

/// Settings come as strings.
#[derive(Default, Deserialize)]
struct IndexSettings {
    #[serde(default)]
    uuid: String,
    hidden: Option<Flag>,
    verified_before_close: Option<Flag>,
    number_of_shards: Option<String>,
    disable_sequence_numbers: Option<Flag>,
    replication: Option<RawReplication>,
}

#[derive(Deserialize)]
struct RawReplication {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// A boolean that may be written as a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Flag {
    Bool(bool),
    Text(String),
}

impl Flag {
    fn is_set(&self) -> bool {
        match self {
            Flag::Bool(value) => *value,
            Flag::Text(text) => text == "true",
        }
    }
}

impl Client {
    /// The indices that the patterns mean, by name. An alias or a data stream stands for the
    /// indices behind it: a data stream like a name, an alias only when it is written in full.
    ///
    /// # Errors
    /// When the cluster does not let us look (privilege `view_index_metadata`).
    pub async fn list_indices(&self, patterns: &IndexPatterns) -> Result<Vec<IndexInfo>, Error> {
        const FIELDS: &str = "*.aliases,*.data_stream,*.mappings._source.enabled,\
            *.settings.index.uuid,*.settings.index.hidden,*.settings.index.number_of_shards,\
            *.settings.index.verified_before_close,*.settings.index.replication.type,\
            *.settings.index.disable_sequence_numbers,*.defaults.index.disable_sequence_numbers";
        let server = self.server();
        // The setting exists since 9.4, and its default depends on the index's mode.
        let defaults = server.product == Product::Elasticsearch && server.version.at_least(9, 4);
        let malformed = |e: String| Error::malformed("the list of indices", e);
        let mut found: BTreeMap<String, RawIndex> = BTreeMap::new();
        // Asked for no more than what is meant: a role may not be allowed to see the rest.
        for list in index_lists(patterns.included()) {
            let path = format!(
                "/{list}?expand_wildcards=all&ignore_unavailable=true&allow_no_indices=true\
                 &include_defaults={defaults}&filter_path={FIELDS}"
            );
            let body = self.send(Request::get(path)).await?;
            let part: BTreeMap<String, RawIndex> =
                serde_json::from_slice(&body).map_err(|e| malformed(e.to_string()))?;
            found.extend(part);
        }
        found
            .into_iter()
            .filter(|(name, index)| index.is_meant(name, patterns))
            .map(|(name, index)| index.info(&name).map_err(malformed))
            .collect()
    }

    /// Whether there is such an index, alias or data stream.
    ///
    /// # Errors
    /// When the cluster does not tell.
    pub async fn index_exists(&self, index: &IndexName) -> Result<bool, Error> {
        let path = format!(
            "/{}?filter_path=*.settings.index.uuid",
            encode(index.as_str())
        );
        match self.send(Request::get(path)).await {
            Ok(_) => Ok(true),
            Err(Error::IndexNotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl RawIndex {
    fn is_meant(&self, name: &str, patterns: &IndexPatterns) -> bool {
        let hidden = self
            .settings
            .index
            .hidden
            .as_ref()
            .is_some_and(Flag::is_set);
        let stream = self.data_stream.as_deref();
        !patterns.excludes(name)
            && (patterns.matches(name, hidden)
                || stream.is_some_and(|stream| patterns.matches(stream, false))
                || self
                    .aliases
                    .keys()
                    .any(|alias| patterns.matches_alias(alias)))
    }

    fn info(self, name: &str) -> Result<IndexInfo, String> {
        let settings = self.settings.index;
        let defaults = self.defaults.unwrap_or_default().index;
        let numbers_off = settings
            .disable_sequence_numbers
            .or(defaults.disable_sequence_numbers);
        let shards = settings.number_of_shards.unwrap_or_default();
        let replication = settings.replication.and_then(|r| r.kind);
        Ok(IndexInfo {
            name: IndexName::try_from(name).map_err(|e| e.to_string())?,
            uuid: settings.uuid,
            hidden: settings.hidden.is_some_and(|flag| flag.is_set()),
            // Set for as long as the index is closed.
            open: !settings
                .verified_before_close
                .is_some_and(|flag| flag.is_set()),
            shards: shards
                .parse()
                .map_err(|_| format!("{name:?} has {shards:?} shards"))?,
            replication: match replication.as_deref() {
                Some("SEGMENT") => Replication::Segment,
                _ => Replication::Document,
            },
            source_enabled: self
                .mappings
                ._source
                .and_then(|source| source.enabled)
                .is_none_or(|flag| flag.is_set()),
            seq_no_disabled: numbers_off.is_some_and(|flag| flag.is_set()),
            data_stream: self.data_stream,
        })
    }
}
