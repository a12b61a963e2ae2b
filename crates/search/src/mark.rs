//! What we write down in the mapping of an index that we fill, under `_meta.syncline`.

use std::collections::{BTreeMap, BTreeSet};

use model::{IndexDefinition, IndexName, Lineage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Client, Error, Existing, Request, encode};

/// Where in the mapping's `_meta` we write.
pub(crate) const MARK: &str = "syncline";

/// What we write there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Where the index comes from.
    #[serde(flatten)]
    pub lineage: Option<Lineage>,
    /// Aliases that the index has from us.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub aliases: BTreeSet<String>,
    /// Settings as we have set them last, with full keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, Value>,
    /// The types of the columns that its fields come from, where the source has such a thing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
}

impl Mark {
    /// What a definition says; nothing where it says nothing.
    ///
    /// # Errors
    /// When what it says cannot be read.
    pub(crate) fn of(index: &IndexName, definition: &IndexDefinition) -> Result<Mark, Error> {
        let malformed = |e: serde_json::Error| {
            Error::malformed(format!("_meta.{MARK} in the mapping of {index}"), e)
        };
        let mut meta = meta_of(definition).map_err(malformed)?;
        let found = meta.remove(MARK).map(serde_json::from_value);
        Ok(found.transpose().map_err(malformed)?.unwrap_or_default())
    }

    /// Writes it into a mapping, besides what else is under its `_meta`.
    pub(crate) fn write_into(&self, mapping: &mut Map<String, Value>) {
        if *self == Mark::default() {
            return;
        }
        let meta = mapping
            .entry("_meta")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(meta) = meta {
            meta.insert(MARK.to_owned(), json!(self));
        }
    }
}

impl Client {
    /// What an index's mapping says of where it is filled from; nothing where it says nothing.
    ///
    /// # Errors
    /// Also when there is no such index, or what it says cannot be read.
    pub async fn lineage(&self, index: &IndexName) -> Result<Option<Lineage>, Error> {
        let definition = self.definition(index).await?;
        Ok(Mark::of(index, &definition)?.lineage)
    }

    /// Writes a mark down in an index that was as described.
    pub(crate) async fn put_mark(
        &self,
        index: &IndexName,
        existing: &Existing,
        mark: &Mark,
    ) -> Result<(), Error> {
        let mut mapping = Map::new();
        let meta = meta_of(&existing.definition);
        let mut meta = meta.map_err(|e| Error::malformed(format!("mapping of {index}"), e))?;
        meta.remove(MARK);
        mapping.insert("_meta".to_owned(), meta.into());
        mark.write_into(&mut mapping);
        let path = format!("/{}/_mapping", encode(index.as_str()));
        let request = Request::put(path).json(Value::from(mapping).to_string());
        self.send(request).await.map(drop)
    }
}

/// The types of columns that a definition names.
pub(crate) fn columns_of(
    definition: &IndexDefinition,
) -> Result<BTreeMap<String, String>, serde_json::Error> {
    #[derive(Default, Deserialize)]
    struct Said {
        #[serde(default)]
        columns: BTreeMap<String, String>,
    }
    let said = meta_of(definition)?.remove(MARK);
    let said: Option<Said> = said.map(serde_json::from_value).transpose()?;
    Ok(said.unwrap_or_default().columns)
}

fn meta_of(definition: &IndexDefinition) -> Result<Map<String, Value>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Mapping {
        #[serde(rename = "_meta", default)]
        meta: Map<String, Value>,
    }
    let mapping: Mapping = serde_json::from_str(definition.mappings.get())?;
    Ok(mapping.meta)
}
