//! The least that source and target have to allow, as the role definitions of both products.
//!
//! The tests create OpenSearch's on a real server, run with them, and take away one privilege after
//! the other. Elasticsearch's security cannot be had as a public artefact; its roles follow from the
//! same actions and Elastic's list of what each named privilege contains.

use search::IndexPatterns;
use serde_json::{Value, json};

/// A role, and how the products call what it needs.
struct Role {
    name: &'static str,
    purpose: &'static str,
    open_search: (&'static [&'static str], &'static [&'static str]),
    elasticsearch: (&'static [&'static str], &'static [&'static str]),
}

const ROLES: [Role; 3] = [
    Role {
        name: "syncline-source",
        purpose: "the source of sync or es-watcher",
        open_search: (
            &["cluster:monitor/main", "indices:data/read/mget"],
            &[
                "indices:admin/get",
                "indices:monitor/stats",
                "indices:admin/refresh",
                "indices:admin/refresh[s]",
                "indices:data/read/search",
                "indices:data/read/mget[shard]",
            ],
        ),
        elasticsearch: (
            &["monitor"],
            &["view_index_metadata", "monitor", "maintenance", "read"],
        ),
    },
    Role {
        name: "syncline-target",
        purpose: "the target of sync or es-writer",
        open_search: (
            &["cluster:monitor/main", "indices:data/write/bulk"],
            &[
                "indices:admin/create",
                "indices:admin/get",
                "indices:admin/mapping/put",
                "indices:admin/settings/update",
                "indices:data/write/bulk[s]",
                "indices:data/write/index",
                "indices:data/write/delete",
            ],
        ),
        elasticsearch: (&["monitor"], &["manage", "index", "delete"]),
    },
    Role {
        name: "syncline-verify",
        purpose: "both sides of verify",
        open_search: (
            &[
                "cluster:monitor/main",
                "indices:data/read/mget",
                "indices:data/read/scroll",
                "indices:data/read/scroll/clear",
            ],
            &[
                "indices:admin/get",
                "indices:monitor/stats",
                "indices:admin/refresh",
                "indices:admin/refresh[s]",
                "indices:data/read/search",
                "indices:data/read/mget[shard]",
            ],
        ),
        elasticsearch: (
            &["monitor"],
            &["view_index_metadata", "monitor", "maintenance", "read"],
        ),
    },
];

/// The roles for these indices: for people, or as JSON by product and role.
pub(crate) fn page(indices: &IndexPatterns, json: bool) -> String {
    let patterns = indices.to_string();
    let patterns: Vec<&str> = patterns
        .split(',')
        .filter(|pattern| !pattern.starts_with('-'))
        .collect();
    if json {
        let of = |body: fn(&Role, &[&str]) -> Value| -> Value {
            ROLES
                .iter()
                .map(|role| (role.name.to_owned(), body(role, &patterns)))
                .collect()
        };
        let all = json!({ "opensearch": of(Role::open_search), "elasticsearch": of(Role::elasticsearch) });
        return format!("{all:#}\n");
    }
    let mut page = String::new();
    for role in &ROLES {
        page.push_str(&format!("# {}: {}\n\n", role.name, role.purpose));
        page.push_str(&format!(
            "OpenSearch: PUT /_plugins/_security/api/roles/{}\n{:#}\n\n",
            role.name,
            role.open_search(&patterns)
        ));
        page.push_str(&format!(
            "Elasticsearch: PUT /_security/role/{}\n{:#}\n\n",
            role.name,
            role.elasticsearch(&patterns)
        ));
    }
    page.push_str(
        "Without the refresh privilege (indices:admin/refresh, maintenance) run with --source-refresh natural, and verify with --no-refresh.\n\
         Without indices:data/read/mget at the source run with --deletes off: what is deleted there then stays at the target.\n\
         Without indices:admin/settings/update at the target settings do not follow the source's later, which is said.\n\
         Without indices:admin/aliases at the target (on indices and aliases) aliases are not carried, which is said.\n\
         Without cluster:monitor/state at the source changes of mappings are noticed once a minute only.\n\
         Without indices:data/read/scroll (and its clear) verify reads by sequence number, which costs the cluster more.\n\
         verify --delete-extra needs syncline-target's privileges at the target too.\n",
    );
    page
}

impl Role {
    fn open_search(&self, patterns: &[&str]) -> Value {
        let (cluster, index) = self.open_search;
        json!({
            "cluster_permissions": cluster,
            "index_permissions": [{ "index_patterns": patterns, "allowed_actions": index }]
        })
    }

    fn elasticsearch(&self, patterns: &[&str]) -> Value {
        let (cluster, index) = self.elasticsearch;
        json!({ "cluster": cluster, "indices": [{ "names": patterns, "privileges": index }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roles_cover_what_is_included_and_nothing_else() {
        let indices: IndexPatterns = "movies,logs-*,-logs-old".parse().unwrap();
        let page: Value = serde_json::from_str(&page(&indices, true)).unwrap();
        let role = &page["opensearch"]["syncline-source"]["index_permissions"][0];
        assert_eq!(role["index_patterns"], json!(["movies", "logs-*"]));
    }

    #[test]
    fn the_documentation_has_every_privilege_that_is_printed() {
        let documented = include_str!("../../../../docs/privileges.md");
        for role in &ROLES {
            let (open, elastic) = (role.open_search, role.elasticsearch);
            for privilege in [open.0, open.1, elastic.0, elastic.1].concat() {
                assert!(
                    documented.contains(&format!("`{privilege}`")),
                    "{privilege}"
                );
            }
        }
    }
}
