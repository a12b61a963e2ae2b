//! What an index looks like, and making one like it.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::{IndexDefinition, IndexName, Lineage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{Client, Error, LeftOut, Request, capture::Shards, encode, portable_settings};

/// Where the lineage stands in the mapping's `_meta`.
const LINEAGE: &str = "syncline";

/// What came of creating an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    /// Whether it was us.
    pub outcome: Outcome,
    /// The source's settings that it does not get.
    pub left_out: Vec<LeftOut>,
}

/// Whether an index was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there before.
    Created,
    /// It was there, however it looks.
    AlreadyThere,
}

#[derive(Deserialize)]
struct RawDefinition {
    settings: RawSettings,
    mappings: Box<RawValue>,
}

#[derive(Deserialize)]
struct RawSettings {
    index: Box<RawValue>,
}

#[derive(Serialize)]
struct NewIndex<'a> {
    settings: &'a Map<String, Value>,
    mappings: &'a RawValue,
}

impl Client {
    /// What the index looks like: its settings and mappings as the cluster returns them.
    ///
    /// # Errors
    /// Also when the name is an alias of several indices.
    pub async fn definition(&self, index: &IndexName) -> Result<IndexDefinition, Error> {
        let path = format!("/{}", encode(index.as_str()));
        let body = self.send(Request::get(path)).await?;
        let malformed = |e: String| Error::malformed(format!("definition of {index}"), e);
        let found: BTreeMap<String, RawDefinition> =
            serde_json::from_slice(&body).map_err(|e| malformed(e.to_string()))?;
        let count = found.len();
        let mut definitions = found.into_values();
        match (definitions.next(), count) {
            (Some(definition), 1) => Ok(IndexDefinition {
                product: self.server().to_string(),
                settings: definition.settings.index,
                mappings: definition.mappings,
                lineage: None,
            }),
            _ => Err(malformed(format!("{count} indices go by this name"))),
        }
    }

    /// Creates an index like the given one, as far as this cluster can have one like it. Aliases
    /// are not created.
    ///
    /// # Errors
    /// [`Error::Incompatible`] when this cluster lacks what the definition needs, such as the
    /// plugin of an analyzer.
    pub async fn create_index(
        &self,
        index: &IndexName,
        definition: &IndexDefinition,
    ) -> Result<Creation, Error> {
        let malformed =
            |e: serde_json::Error| Error::malformed(format!("definition of {index}"), e);
        let settings: Map<String, Value> =
            serde_json::from_str(definition.settings.get()).map_err(malformed)?;
        let (kept, left_out) = portable_settings(&settings, self.server().product);
        let body = serde_json::to_vec(&NewIndex {
            settings: &kept,
            mappings: &definition.mappings,
        });
        let path = format!("/{}", encode(index.as_str()));
        let request = Request::put(path).json(body.map_err(malformed)?);
        let outcome = match self.send(request).await {
            Ok(_) => Outcome::Created,
            Err(Error::Rejected { kind, .. }) if kind == "resource_already_exists_exception" => {
                Outcome::AlreadyThere
            }
            Err(error) => return Err(incompatible(index, error)),
        };
        Ok(Creation { outcome, left_out })
    }

    /// What an index's mapping says of where it is filled from; nothing where it says nothing.
    ///
    /// # Errors
    /// Also when what it says cannot be read.
    pub async fn lineage(&self, index: &IndexName) -> Result<Option<Lineage>, Error> {
        let mut meta = self.meta(index).await?;
        let Some(found) = meta.remove(LINEAGE) else {
            return Ok(None);
        };
        let malformed = |e: serde_json::Error| {
            Error::malformed(format!("_meta.{LINEAGE} in the mapping of {index}"), e)
        };
        serde_json::from_value(found).map(Some).map_err(malformed)
    }

    /// Writes down where an index is filled from, besides what else is under `_meta`.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn put_lineage(&self, index: &IndexName, lineage: &Lineage) -> Result<(), Error> {
        let mut meta = self.meta(index).await?;
        meta.insert(LINEAGE.to_owned(), json!(lineage));
        let mapping = json!({ "_meta": meta }).to_string();
        let path = format!("/{}/_mapping", encode(index.as_str()));
        self.send(Request::put(path).json(mapping)).await.map(drop)
    }

    async fn meta(&self, index: &IndexName) -> Result<Map<String, Value>, Error> {
        #[derive(Deserialize)]
        struct Mapping {
            #[serde(rename = "_meta", default)]
            meta: Map<String, Value>,
        }
        let definition = self.definition(index).await?;
        let mapping: Mapping = serde_json::from_str(definition.mappings.get())
            .map_err(|e| Error::malformed(format!("mapping of {index}"), e))?;
        Ok(mapping.meta)
    }

    /// Adds to the mapping of an index.
    ///
    /// # Errors
    /// When a field is there with another type.
    pub async fn put_mapping(&self, index: &IndexName, mappings: &RawValue) -> Result<(), Error> {
        let path = format!("/{}/_mapping", encode(index.as_str()));
        let body = Bytes::copy_from_slice(mappings.get().as_bytes());
        match self.send(Request::put(path).json(body)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(incompatible(index, error)),
        }
    }

    /// Deletes an index with everything in it. One that is not there is deleted already.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn delete_index(&self, index: &IndexName) -> Result<(), Error> {
        let path = format!("/{}", encode(index.as_str()));
        match self.send(Request::delete(path)).await {
            Ok(_) | Err(Error::IndexNotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How many documents a search sees, nested ones not counted.
    ///
    /// # Errors
    /// Also when only some shards were counted.
    pub async fn count(&self, index: &IndexName) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Counted {
            count: u64,
            _shards: Shards,
        }
        let path = format!("/{}/_count", encode(index.as_str()));
        let body = self.send(Request::get(path)).await?;
        let counted: Counted = serde_json::from_slice(&body)
            .map_err(|e| Error::malformed(format!("count of {index}"), e))?;
        counted._shards.complete(index, None)?;
        Ok(counted.count)
    }
}

/// Adds the remedy to a refused definition.
fn incompatible(index: &IndexName, error: Error) -> Error {
    let Error::Rejected { reason, .. } = error else {
        return error;
    };
    Error::Incompatible {
        index: index.to_string(),
        remedy: remedy(&reason),
        reason,
    }
}

fn remedy(reason: &str) -> &'static str {
    const REMEDIES: [(&[&str], &str); 4] = [
        (
            &[
                "No handler for type",
                "mapper type",
                "unsupported type",
                "unknown vector",
            ],
            "this cluster has no such field type: install the plugin that brings it, or create the index yourself with another type",
        ),
        (
            &["nalyzer", "okenizer", "ilter", "ormalizer"],
            "install the analysis plugin that brings it on every node of this cluster, or create the index yourself with another analyzer",
        ),
        (
            &["cannot be changed from type", "different type", "mapper ["],
            "the index is there with another mapping: give the target another index name, or delete the index there",
        ),
        (
            &["shards open", "validation failed"],
            "make room in this cluster, or raise its limit",
        ),
    ];
    let fits = |signs: &[&str]| signs.iter().any(|sign| reason.contains(sign));
    REMEDIES.iter().find(|(signs, _)| fits(signs)).map_or(
        "create the index yourself before the first document",
        |(_, remedy)| remedy,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_definition_says_what_to_install() {
        for (reason, part) in [
            (
                "Failed to parse mapping: No handler for type [dense_vector] declared on field [v]",
                "field type",
            ),
            (
                "The mapper type [x] declared on field [y] does not exist",
                "field type",
            ),
            (
                "analyzer [smartcn] has not been configured in mappings",
                "analysis plugin",
            ),
            (
                "Custom Analyzer [a] failed to find tokenizer under name [ik]",
                "analysis plugin",
            ),
            (
                "mapper [a] cannot be changed from type [long] to [text]",
                "another mapping",
            ),
            ("something else", "create the index yourself"),
        ] {
            assert!(remedy(reason).contains(part), "{reason}");
        }
    }
}
