//! What an index looks like, and making one like it.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::{IndexDefinition, IndexName, Lineage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    Choices, Client, Dialect, Drift, Error, Existing, LeftOut, Mark, Plan, Request,
    capture::Shards, encode, plan, plan::mapping_for, portable_settings, request::index_lists,
};

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
    data_stream: Option<String>,
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
    /// Also when the name is a data stream, or an alias of several indices.
    pub async fn definition(&self, index: &IndexName) -> Result<IndexDefinition, Error> {
        let path = format!("/{}", encode(index.as_str()));
        let body = self.send(Request::get(path)).await?;
        let malformed = |e: String| Error::malformed(format!("definition of {index}"), e);
        let found: BTreeMap<String, RawDefinition> =
            serde_json::from_slice(&body).map_err(|e| malformed(e.to_string()))?;
        let count = found.len();
        let mut definitions = found.into_values();
        let no_index = |what: String| Error::NoIndex {
            index: index.to_string(),
            what,
        };
        match (definitions.next(), count) {
            (
                Some(RawDefinition {
                    data_stream: Some(stream),
                    ..
                }),
                _,
            ) if stream == index.as_str() => Err(no_index("a data stream".to_owned())),
            (Some(definition), 1) => Ok(IndexDefinition {
                product: self.server().to_string(),
                settings: definition.settings.index,
                mappings: definition.mappings,
                aliases: definition.aliases,
                lineage: None,
            }),
            (_, 0) => Err(malformed("it is empty".to_owned())),
            (_, count) => Err(no_index(format!("an alias of {count} indices"))),
        }
    }

    /// Creates an index like the given one, as far as this cluster can have one like it, with what we
    /// write down there. Aliases are not created.
    ///
    /// # Errors
    /// [`Error::Incompatible`] when this cluster lacks what the definition needs, such as the
    /// plugin of an analyzer.
    pub async fn create_index(
        &self,
        index: &IndexName,
        definition: &IndexDefinition,
        mark: &Mark,
    ) -> Result<Creation, Error> {
        let malformed =
            |e: serde_json::Error| Error::malformed(format!("definition of {index}"), e);
        let settings: Map<String, Value> =
            serde_json::from_str(definition.settings.get()).map_err(malformed)?;
        let (kept, left_out) = portable_settings(&settings, self.server().product);
        let mappings = mapping_for(definition, self.dialect(), &mut Vec::new());
        let mut mappings = mappings.map_err(malformed)?;
        mark.write_into(&mut mappings);
        let body = serde_json::to_vec(&NewIndex {
            settings: &kept,
            mappings: &mappings,
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

    /// The index as it is, with what we have written down there; nothing where there is none.
    ///
    /// # Errors
    /// Also when the name is an alias, or a data stream.
    pub async fn existing(&self, index: &IndexName) -> Result<Option<Existing>, Error> {
        match self.definition(index).await {
            Ok(definition) => Ok(Some(Existing {
                mark: Mark::of(index, &definition)?,
                definition,
            })),
            Err(Error::IndexNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What has to be done so that an index looks like a source's.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn plan(
        &self,
        index: &IndexName,
        source: &IndexDefinition,
        choices: Choices,
    ) -> Result<Plan, Error> {
        let existing = self.existing(index).await?;
        self.plan_for(index, source, existing.as_ref(), choices)
    }

    /// The same for an index that was looked at already.
    ///
    /// # Errors
    /// When a definition is no JSON object.
    pub fn plan_for(
        &self,
        index: &IndexName,
        source: &IndexDefinition,
        existing: Option<&Existing>,
        choices: Choices,
    ) -> Result<Plan, Error> {
        plan(source, existing, self.dialect(), choices)
            .map_err(|e| Error::malformed(format!("definition of {index}"), e))
    }

    /// Does what a plan says for an index that is there, and writes down where it comes from. Returns
    /// what could not be done besides what differs anyhow: a cluster that refuses a field, a setting or
    /// an alias gets the documents all the same.
    ///
    /// # Errors
    /// When the cluster does not answer, or denies it.
    pub async fn carry_out(
        &self,
        index: &IndexName,
        existing: &Existing,
        plan: &Plan,
        lineage: Option<Lineage>,
    ) -> Result<Vec<Drift>, Error> {
        let mut refused = plan.drift.clone();
        if !plan.mapping.is_empty() {
            let body = serde_json::value::to_raw_value(&plan.mapping)
                .map_err(|e| Error::malformed(format!("mapping of {index}"), e))?;
            if let Err(error) = self.put_mapping(index, &body).await {
                refused.push(refusal(format!("fields {}", plan.added.join(", ")), error)?);
            }
        }
        let mut mark = Mark {
            lineage: lineage.or_else(|| existing.mark.lineage.clone()),
            aliases: existing.mark.aliases.clone(),
            settings: plan.given.clone(),
            columns: match plan.columns.is_empty() {
                true => existing.mark.columns.clone(),
                false => plan.columns.clone(),
            },
        };
        for (key, value) in &plan.settings {
            let path = format!("/{}/_settings", encode(index.as_str()));
            let request = Request::put(path).json(json!({ key: value }).to_string());
            if let Err(error) = self.send(request).await {
                refused.push(refusal(format!("setting {key}"), error)?);
                // Ours is still the one before.
                match existing.mark.settings.get(key) {
                    Some(before) => mark.settings.insert(key.clone(), before.clone()),
                    None => mark.settings.remove(key),
                };
            }
        }
        // An alias is ours before it is there: what is not noted is never taken away.
        mark.aliases.extend(plan.aliases.keys().cloned());
        if mark != existing.mark {
            self.put_mark(index, existing, &mark).await?;
        }
        for (name, alias) in &plan.aliases {
            if let Err(error) = self.set_alias(index, name, alias).await {
                refused.push(refusal(format!("alias {name}"), error)?);
            }
        }
        let noted = mark.aliases.len();
        for name in &plan.dropped {
            let remove = json!({ "remove": { "index": index, "alias": name } });
            match self.alias_actions(vec![remove]).await {
                Ok(()) => drop(mark.aliases.remove(name)),
                Err(error) => refused.push(refusal(format!("alias {name}"), error)?),
            }
        }
        if mark.aliases.len() < noted {
            self.put_mark(index, existing, &mark).await?;
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

/// Gives an index an alias as `GET /{index}` describes one.
fn alias_action(index: &str, name: &str, alias: &Value) -> Value {
    let mut add = alias.as_object().cloned().unwrap_or_default();
    add.insert("index".to_owned(), index.into());
    add.insert("alias".to_owned(), name.into());
    json!({ "add": add })
}

/// What a target refuses, as a difference that stays; whatever else has failed is an error.
fn refusal(what: String, error: Error) -> Result<Drift, Error> {
    // Aliases have names of their own, which a role need not cover; nor need it settings.
    let may_be_denied = what.starts_with("alias") || what.starts_with("setting");
    let target = match error {
        Error::Incompatible { reason, .. } | Error::Rejected { reason, .. } => {
            format!("refused: {reason}")
        }
        Error::Forbidden { action, .. } if may_be_denied => {
            format!("denied: the user lacks {action}")
        }
        error => return Err(error),
    };
    Ok(Drift {
        what,
        source: "there".to_owned(),
        target,
    })
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
