//! What an index looks like, and making one like it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use model::{IndexDefinition, IndexName, Lineage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    Client, Dialect, Drift, Error, Existing, LeftOut, Plan, Request, capture::Shards, encode, plan,
    plan::mapping_for, portable_settings, request::index_lists,
};

/// Where in the mapping's `_meta` we write.
pub(crate) const MARK: &str = "syncline";

/// What we write there.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Mark {
    #[serde(flatten)]
    lineage: Option<Lineage>,
    /// Aliases that the index has from us.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    aliases: BTreeSet<String>,
}

/// What came of creating an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    /// Whether it was us.
    pub outcome: Outcome,
    /// The source's settings that it does not get.
    pub left_out: Vec<LeftOut>,
}

/// Tells an index's definition from earlier ones of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DefinitionVersion {
    mapping_version: u64,
    settings_version: u64,
    aliases_version: u64,
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
    #[serde(default)]
    aliases: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct RawSettings {
    index: Box<RawValue>,
}

#[derive(Serialize)]
struct NewIndex<'a> {
    settings: &'a Map<String, Value>,
    mappings: &'a Map<String, Value>,
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
                aliases: definition.aliases,
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
        let mappings = mapping_for(definition, self.dialect(), &mut Vec::new());
        let body = serde_json::to_vec(&NewIndex {
            settings: &kept,
            mappings: &mappings.map_err(malformed)?,
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

    /// Numbers that rise with every change of an index's mapping, settings or aliases, by the index's
    /// name. They are never older than what [`Client::shard_stats`] has shown before.
    ///
    /// # Errors
    /// Also when the user may not see the cluster's state (`cluster:monitor/state`).
    pub async fn definition_versions(
        &self,
        indices: &[&IndexName],
    ) -> Result<BTreeMap<String, DefinitionVersion>, Error> {
        #[derive(Default, Deserialize)]
        struct State {
            #[serde(default)]
            metadata: Metadata,
        }
        #[derive(Default, Deserialize)]
        struct Metadata {
            #[serde(default)]
            indices: BTreeMap<String, DefinitionVersion>,
        }
        let fields = ["mapping_version", "settings_version", "aliases_version"]
            .map(|version| format!("metadata.indices.*.{version}"))
            .join(",");
        let mut versions = BTreeMap::new();
        for list in index_lists(indices.iter().map(|name| name.as_str())) {
            let path = format!(
                "/_cluster/state/metadata/{list}?ignore_unavailable=true&filter_path={fields}"
            );
            let body = self.send(Request::get(path)).await?;
            let state: State = serde_json::from_slice(&body)
                .map_err(|e| Error::malformed("versions of definitions".to_owned(), e))?;
            versions.extend(state.metadata.indices);
        }
        Ok(versions)
    }

    /// Which dialect this cluster speaks.
    pub fn dialect(&self) -> Dialect {
        let server = self.server();
        Dialect {
            product: server.product,
            version: server.version,
        }
    }

    /// What has to be done so that an index looks like a source's.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn plan(&self, index: &IndexName, source: &IndexDefinition) -> Result<Plan, Error> {
        let existing = match self.definition(index).await {
            Ok(definition) => Some(Existing {
                ours: self.mark_of(index, &definition)?.aliases,
                definition,
            }),
            Err(Error::IndexNotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        plan(source, existing.as_ref(), self.dialect())
            .map_err(|e| Error::malformed(format!("definition of {index}"), e))
    }

    /// Does what a plan says for an index that is there. Returns what could not be done besides what
    /// differs anyhow: a cluster that refuses a field or an alias gets the documents all the same.
    ///
    /// # Errors
    /// When the cluster does not answer, or denies it.
    pub async fn carry_out(&self, index: &IndexName, plan: &Plan) -> Result<Vec<Drift>, Error> {
        let mut refused = plan.drift.clone();
        let refusal = |what: String, error: Error| match error {
            Error::Incompatible { reason, .. } | Error::Rejected { reason, .. } => Ok(Drift {
                what,
                source: "there".to_owned(),
                target: format!("refused: {reason}"),
            }),
            // Aliases have names of their own, which a role need not cover.
            Error::Forbidden { ref action, .. } if what.starts_with("alias") => Ok(Drift {
                what,
                source: "there".to_owned(),
                target: format!("denied: the user lacks {action}"),
            }),
            error => Err(error),
        };
        if !plan.mapping.is_empty() {
            let body = serde_json::value::to_raw_value(&plan.mapping)
                .map_err(|e| Error::malformed(format!("mapping of {index}"), e))?;
            if let Err(error) = self.put_mapping(index, &body).await {
                refused.push(refusal(format!("fields {}", plan.added.join(", ")), error)?);
            }
        }
        if !plan.aliases.is_empty() || !plan.dropped.is_empty() {
            // What we give is ours before it is there: what is not noted is never taken away.
            let mut ours = self.mark(index).await?.aliases;
            ours.extend(plan.aliases.keys().cloned());
            self.put_mark(index, |mark| mark.aliases = ours).await?;
        }
        for (name, alias) in &plan.aliases {
            if let Err(error) = self.set_alias(index, name, alias).await {
                refused.push(refusal(format!("alias {name}"), error)?);
            }
        }
        for name in &plan.dropped {
            let remove = json!({ "remove": { "index": index, "alias": name } });
            match self.alias_actions(vec![remove]).await {
                Ok(()) => {
                    self.put_mark(index, |mark| mark.aliases.retain(|ours| ours != name))
                        .await?
                }
                Err(error) => refused.push(refusal(format!("alias {name}"), error)?),
            }
        }
        Ok(refused)
    }

    /// Sets an alias. Of several indices with it only one is written to: with the source's word that
    /// it is this one, it is no other any more.
    async fn set_alias(&self, index: &IndexName, name: &str, alias: &Value) -> Result<(), Error> {
        let mut actions = Vec::new();
        if alias["is_write_index"] == true {
            let path = format!("/_alias/{}", encode(name));
            let others: BTreeMap<String, Value> = match self.send(Request::get(path)).await {
                Ok(body) => serde_json::from_slice(&body)
                    .map_err(|e| Error::malformed(format!("alias {name}"), e))?,
                Err(Error::IndexNotFound { .. } | Error::Rejected { .. }) => BTreeMap::new(),
                Err(error) => return Err(error),
            };
            for (other, found) in others {
                let mut theirs = found["aliases"][name].clone();
                if other != index.as_str() && theirs["is_write_index"] == true {
                    theirs["is_write_index"] = false.into();
                    actions.push(alias_action(&other, name, &theirs));
                }
            }
        }
        actions.push(alias_action(index.as_str(), name, alias));
        self.alias_actions(actions).await
    }

    async fn alias_actions(&self, actions: Vec<Value>) -> Result<(), Error> {
        let request = Request::post("/_aliases").json(json!({ "actions": actions }).to_string());
        self.send(request).await.map(drop)
    }

    /// What an index's mapping says of where it is filled from; nothing where it says nothing.
    ///
    /// # Errors
    /// Also when what it says cannot be read.
    pub async fn lineage(&self, index: &IndexName) -> Result<Option<Lineage>, Error> {
        Ok(self.mark(index).await?.lineage)
    }

    /// Writes down where an index is filled from, besides what else is under `_meta`.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn put_lineage(&self, index: &IndexName, lineage: &Lineage) -> Result<(), Error> {
        self.put_mark(index, |mark| mark.lineage = Some(lineage.clone()))
            .await
    }

    async fn mark(&self, index: &IndexName) -> Result<Mark, Error> {
        let definition = self.definition(index).await?;
        self.mark_of(index, &definition)
    }

    fn mark_of(&self, index: &IndexName, definition: &IndexDefinition) -> Result<Mark, Error> {
        let malformed = |e: serde_json::Error| {
            Error::malformed(format!("_meta.{MARK} in the mapping of {index}"), e)
        };
        let mut meta = meta_of(definition).map_err(malformed)?;
        let found = meta.remove(MARK).map(serde_json::from_value);
        Ok(found.transpose().map_err(malformed)?.unwrap_or_default())
    }

    async fn put_mark(
        &self,
        index: &IndexName,
        change: impl FnOnce(&mut Mark),
    ) -> Result<(), Error> {
        let definition = self.definition(index).await?;
        let mut mark = self.mark_of(index, &definition)?;
        change(&mut mark);
        let mut meta =
            meta_of(&definition).map_err(|e| Error::malformed(format!("mapping of {index}"), e))?;
        meta.insert(MARK.to_owned(), json!(mark));
        let path = format!("/{}/_mapping", encode(index.as_str()));
        let mapping = json!({ "_meta": meta }).to_string();
        self.send(Request::put(path).json(mapping)).await.map(drop)
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

fn meta_of(definition: &IndexDefinition) -> Result<Map<String, Value>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Mapping {
        #[serde(rename = "_meta", default)]
        meta: Map<String, Value>,
    }
    let mapping: Mapping = serde_json::from_str(definition.mappings.get())?;
    Ok(mapping.meta)
}

/// Gives an index an alias as `GET /{index}` describes one.
fn alias_action(index: &str, name: &str, alias: &Value) -> Value {
    let mut add = alias.as_object().cloned().unwrap_or_default();
    add.insert("index".to_owned(), index.into());
    add.insert("alias".to_owned(), name.into());
    json!({ "add": add })
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
