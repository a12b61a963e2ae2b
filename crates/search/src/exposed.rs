//! What can be searched, by the names it is searched by.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::{Client, Error, IndexPatterns, Request, request::index_lists};

/// An index under a name of its own or of an alias.
#[derive(Debug, Clone, PartialEq)]
pub struct Exposed {
    /// The name it goes by.
    pub name: String,
    /// The index itself.
    pub index: String,
    /// What identifies the index.
    pub uuid: String,
    /// The object under `mappings` of `GET /{index}`.
    pub mappings: Value,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    aliases: BTreeMap<String, RawAlias>,
    #[serde(default)]
    mappings: Value,
    settings: RawSettings,
}

#[derive(Deserialize)]
struct RawAlias {
    filter: Option<Value>,
}

#[derive(Deserialize)]
struct RawSettings {
    index: RawIndex,
}

#[derive(Deserialize)]
struct RawIndex {
    uuid: String,
    hidden: Option<Value>,
}

impl Client {
    /// The open indices that the patterns mean, and the aliases they mean that stand for one index. An
    /// alias with a filter is left out: nothing says that every way of searching heeds it.
    ///
    /// # Errors
    /// When the cluster does not let us look (privilege `view_index_metadata`).
    pub async fn exposed(&self, patterns: &IndexPatterns) -> Result<Vec<Exposed>, Error> {
        const FIELDS: &str = "*.aliases,*.mappings,*.settings.index.uuid,*.settings.index.hidden";
        let mut found: BTreeMap<String, Raw> = BTreeMap::new();
        for list in index_lists(patterns.included()) {
            let path = format!(
                "/{list}?expand_wildcards=open,hidden&ignore_unavailable=true&allow_no_indices=true\
                 &filter_path={FIELDS}"
            );
            let body = self.send(Request::get(path)).await?;
            let part: BTreeMap<String, Raw> = serde_json::from_slice(&body)
                .map_err(|error| Error::malformed("the list of indices", error))?;
            found.extend(part);
        }
        Ok(exposed(found, patterns))
    }
}

fn exposed(found: BTreeMap<String, Raw>, patterns: &IndexPatterns) -> Vec<Exposed> {
    let mut by_name: BTreeMap<String, Option<Exposed>> = BTreeMap::new();
    for (index, raw) in &found {
        let of = |name: &str| Exposed {
            name: name.to_owned(),
            index: index.clone(),
            uuid: raw.settings.index.uuid.clone(),
            mappings: raw.mappings.clone(),
        };
        let hidden = raw.settings.index.hidden.as_ref();
        let hidden = hidden.is_some_and(|flag| *flag == true || *flag == "true");
        if patterns.matches(index, hidden) {
            by_name.insert(index.clone(), Some(of(index)));
        }
        for (alias, about) in raw
            .aliases
            .iter()
            .filter(|(name, _)| patterns.matches(name, false))
        {
            let one = about.filter.is_none().then(|| of(alias));
            // A second index behind the alias makes it none of both.
            by_name
                .entry(alias.clone())
                .and_modify(|known| *known = None)
                .or_insert(one);
        }
    }
    by_name.into_values().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_stands_for_one_whole_index_or_is_left_out() {
        let raw = |aliases: Value| {
            let raw = serde_json::json!({
                "aliases": aliases, "mappings": {}, "settings": { "index": { "uuid": "u" } },
            });
            serde_json::from_value::<Raw>(raw).unwrap()
        };
        let found = BTreeMap::from([
            (
                "a-1".to_owned(),
                raw(serde_json::json!({ "a": {}, "both": {} })),
            ),
            (
                "b-1".to_owned(),
                raw(serde_json::json!({ "both": {}, "part": { "filter": {} } })),
            ),
            (".system".to_owned(), raw(serde_json::json!({}))),
        ]);
        let exposed = exposed(found, &IndexPatterns::all());
        let names: Vec<_> = exposed
            .iter()
            .map(|e| (e.name.as_str(), e.index.as_str()))
            .collect();
        assert_eq!(names, [("a", "a-1"), ("a-1", "a-1"), ("b-1", "b-1")]);
    }
}
