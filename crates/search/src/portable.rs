//! Which of an index's settings another cluster should have.
//!
//! A list of what is kept, not of what is dropped: an unknown setting fails the creation of an
//! index, and clusters of other products and versions know others.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::Product;

/// Kept whole, by name or with everything below it. What both products have known since 7.10.
const KEPT: &[&str] = &[
    "number_of_shards",
    "number_of_replicas",
    "auto_expand_replicas",
    "refresh_interval",
    "routing_partition_size",
    "hidden",
    "analysis",
    "similarity",
    "sort",
    "query.default_field",
    "analyze.max_token_count",
    "highlight.max_analyzed_offset",
    "mapping.coerce",
    "mapping.ignore_malformed",
    "mapping.total_fields.limit",
    "mapping.depth.limit",
    "mapping.nested_fields.limit",
    "mapping.nested_objects.limit",
    "mapping.field_name_length.limit",
    "max_result_window",
    "max_inner_result_window",
    "max_rescore_window",
    "max_docvalue_fields_search",
    "max_script_fields",
    "max_ngram_diff",
    "max_shingle_diff",
    "max_terms_count",
    "max_regex_length",
];

/// Those of the kept that can change while an index is open, and what the target does then.
const FOLLOWED: &[(&str, Follows)] = &[
    ("refresh_interval", Follows::Quietly),
    ("hidden", Follows::Quietly),
    ("number_of_replicas", Follows::Replicas),
    ("auto_expand_replicas", Follows::Replicas),
    ("query.default_field", Follows::Always),
    ("analyze.max_token_count", Follows::Always),
    ("highlight.max_analyzed_offset", Follows::Always),
    ("mapping.total_fields.limit", Follows::Always),
    ("mapping.depth.limit", Follows::Always),
    ("mapping.nested_fields.limit", Follows::Always),
    ("mapping.nested_objects.limit", Follows::Always),
    ("mapping.field_name_length.limit", Follows::Always),
    ("max_result_window", Follows::Always),
    ("max_inner_result_window", Follows::Always),
    ("max_rescore_window", Follows::Always),
    ("max_docvalue_fields_search", Follows::Always),
    ("max_script_fields", Follows::Always),
    ("max_ngram_diff", Follows::Always),
    ("max_shingle_diff", Follows::Always),
    ("max_terms_count", Follows::Always),
    ("max_regex_length", Follows::Always),
];

/// How a setting of the target follows the source's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follows {
    /// It bounds what the index takes or answers: where it differs, that is told.
    Always,
    /// It is a matter of operation: where somebody has set another, that is theirs.
    Quietly,
    /// Only if somebody chooses so.
    Replicas,
}

/// Whether and how a setting such as `index.refresh_interval` follows.
pub(crate) fn follows(key: &str) -> Option<Follows> {
    let key = key.strip_prefix("index.").unwrap_or(key);
    let found = FOLLOWED.iter().find(|(name, _)| *name == key);
    found.map(|(_, how)| *how)
}

/// Kept where the target is OpenSearch, and only OpenSearch has them.
const KEPT_BY_OPENSEARCH: &[&str] = &["knn"];

/// Left out for a reason that is worth saying.
const KNOWN: &[(&str, Reason)] = &[
    ("uuid", Reason::Identity),
    ("creation_date", Reason::Identity),
    ("provided_name", Reason::Identity),
    ("version", Reason::Identity),
    ("history", Reason::Identity),
    ("verified_before_close", Reason::Identity),
    ("resize", Reason::Identity),
    ("shrink", Reason::Identity),
    ("replication", Reason::Placement),
    ("routing.allocation", Reason::Placement),
    ("allocation", Reason::Placement),
    ("number_of_routing_shards", Reason::Placement),
    ("blocks", Reason::Placement),
    ("lifecycle", Reason::Lifecycle),
    ("opendistro", Reason::Lifecycle),
    ("plugins", Reason::Lifecycle),
    ("default_pipeline", Reason::Pipeline),
    ("final_pipeline", Reason::Pipeline),
];

/// A setting of the source's index that the target's does not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Such as `index.lifecycle.name`.
    pub key: String,
    /// Why.
    pub reason: Reason,
}

/// Why a setting is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It says which index this is, and the target's is another. Nobody needs to be told.
    Identity,
    /// It says where the source's cluster puts the index.
    Placement,
    /// It names a policy of the source's cluster.
    Lifecycle,
    /// It names an ingest pipeline, which has already worked on the documents.
    Pipeline,
    /// It is not known to mean the same everywhere.
    NotPortable,
}

impl Reason {
    /// The reason as part of a sentence.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Identity => "it identifies the source's index",
            Reason::Placement => "it places the index in the source's cluster",
            Reason::Lifecycle => "it names a policy of the source's cluster",
            Reason::Pipeline => "the documents have already passed the pipeline",
            Reason::NotPortable => "not every cluster knows it",
        }
    }
}

/// Splits the object under `settings.index` of `GET /{index}` into what a new index on `target`
/// gets, with full keys such as `index.number_of_shards`, and what it does not.
pub fn portable_settings(
    settings: &Map<String, Value>,
    target: Product,
) -> (Map<String, Value>, Vec<LeftOut>) {
    let mut kept = Map::new();
    let mut left_out = Vec::new();
    for (key, value) in flatten(settings) {
        match reason_against(&key, &value, target) {
            None => {
                kept.insert(format!("index.{key}"), value);
            }
            Some(reason) => left_out.push(LeftOut {
                key: format!("index.{key}"),
                reason,
            }),
        }
    }
    (kept, left_out)
}

pub(crate) fn reason_against(key: &str, value: &Value, target: Product) -> Option<Reason> {
    let below = |name: &str| {
        key.strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let kept = KEPT.iter().any(|name| below(name))
        || target == Product::OpenSearch && KEPT_BY_OPENSEARCH.iter().any(|name| below(name))
        // Other codecs belong to one product.
        || key == "codec" && matches!(value.as_str(), Some("default" | "best_compression"));
    if kept {
        return None;
    }
    let known = KNOWN.iter().find(|(name, _)| below(name));
    Some(known.map_or(Reason::NotPortable, |(_, reason)| *reason))
}

/// Nested objects as dotted keys; clusters take both.
pub(crate) fn flatten(settings: &Map<String, Value>) -> Vec<(String, Value)> {
    let mut flat = Vec::new();
    for (key, value) in settings {
        match value {
            Value::Object(inner) => flat.extend(
                flatten(inner)
                    .into_iter()
                    .map(|(below, value)| (format!("{key}.{below}"), value)),
            ),
            _ => flat.push((key.clone(), value.clone())),
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_describes_the_data_is_kept_and_what_describes_the_cluster_is_not() {
        let settings = json!({
            "number_of_shards": "2", "uuid": "x", "creation_date": "1", "provided_name": "a",
            "version": {"created": "8537000"}, "codec": "best_compression", "knn": "true",
            "routing": {"allocation": {"include": {"_tier_preference": "data_content"}}},
            "lifecycle": {"name": "hot"}, "default_pipeline": "p", "unheard_of": "1",
            "analysis": {"analyzer": {"my.own": {"type": "custom", "filter": ["lowercase"]}}},
            "mapping": {"total_fields": {"limit": "5000", "ignore_dynamic_beyond_limit": "true"}},
            "sort": {"field": ["a", "b"], "order": ["asc", "desc"]}
        });
        let (kept, left_out) =
            portable_settings(settings.as_object().unwrap(), Product::Elasticsearch);
        assert_eq!(
            Value::Object(kept),
            json!({
                "index.number_of_shards": "2", "index.codec": "best_compression",
                "index.analysis.analyzer.my.own.type": "custom",
                "index.analysis.analyzer.my.own.filter": ["lowercase"],
                "index.mapping.total_fields.limit": "5000",
                "index.sort.field": ["a", "b"], "index.sort.order": ["asc", "desc"]
            })
        );
        let reason = |key: &str| {
            let found = left_out.iter().find(|l| l.key == key);
            found.map(|l| l.reason)
        };
        assert_eq!(reason("index.uuid"), Some(Reason::Identity));
        assert_eq!(
            reason("index.routing.allocation.include._tier_preference"),
            Some(Reason::Placement)
        );
        assert_eq!(reason("index.lifecycle.name"), Some(Reason::Lifecycle));
        assert_eq!(reason("index.default_pipeline"), Some(Reason::Pipeline));
        assert_eq!(reason("index.unheard_of"), Some(Reason::NotPortable));
        assert_eq!(reason("index.knn"), Some(Reason::NotPortable));
        assert_eq!(
            reason("index.mapping.total_fields.ignore_dynamic_beyond_limit"),
            Some(Reason::NotPortable)
        );
    }

    #[test]
    fn vectors_stay_between_clusters_of_opensearch() {
        let settings = json!({"knn": "true", "knn_like": "1"});
        let (kept, left_out) =
            portable_settings(settings.as_object().unwrap(), Product::OpenSearch);
        assert!(kept.contains_key("index.knn"));
        assert_eq!(left_out.len(), 1);
    }
}
