//! Templates: what a cluster gives to indices that are created in it.
//!
//! No document needs them, because an index that we create has its own definition. They matter for the
//! indices that somebody else will create at the target, after a migration above all.

mod plan;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Client, Error, Request, encode};

pub use plan::{Left, State, TemplatePlan, plan_templates};

/// The three kinds of template, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A part of index templates.
    Component,
    /// An index template.
    Index,
    /// The older kind, which index templates go before.
    Legacy,
}

impl Kind {
    /// All of them: components before what is composed of them.
    pub const ALL: [Kind; 3] = [Kind::Component, Kind::Index, Kind::Legacy];

    fn path(self) -> &'static str {
        match self {
            Kind::Component => "/_component_template",
            Kind::Index => "/_index_template",
            Kind::Legacy => "/_template",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Component => "component template",
            Kind::Index => "index template",
            Kind::Legacy => "legacy template",
        })
    }
}

/// A template by its kind and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TemplateName {
    /// Its kind.
    pub kind: Kind,
    /// Its name, which is its own among those of its kind.
    pub name: String,
}

impl fmt::Display for TemplateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// The templates of a cluster, as it describes them.
pub type Templates = BTreeMap<TemplateName, Map<String, Value>>;

/// Templates that come with the product and do not say so.
const UNMARKED: [&str; 6] = [
    "ilm-history",
    "slm-history",
    "watch-history",
    "logstash-index-template",
    "security-index-template",
    "tenant_template",
];

/// Whether a template belongs to the product and not to its user.
pub(crate) fn is_system(name: &str, body: &Map<String, Value>) -> bool {
    let managed = body.get("_meta").and_then(|meta| meta.get("managed"));
    name.starts_with('.')
        || managed.is_some_and(|managed| managed == true || managed == "true")
        || UNMARKED.contains(&name)
}

impl Client {
    /// All templates of the cluster, those of the product itself included.
    ///
    /// # Errors
    /// When the cluster does not let us look.
    pub async fn templates(&self) -> Result<Templates, Error> {
        #[derive(Deserialize)]
        struct Component {
            name: String,
            component_template: Map<String, Value>,
        }
        #[derive(Deserialize)]
        struct Index {
            name: String,
            index_template: Map<String, Value>,
        }
        #[derive(Deserialize)]
        struct Listed {
            #[serde(default)]
            component_templates: Vec<Component>,
            #[serde(default)]
            index_templates: Vec<Index>,
        }
        let mut templates = Templates::new();
        for kind in Kind::ALL {
            let body = self.send(Request::get(kind.path())).await?;
            let malformed = |e: serde_json::Error| Error::malformed(format!("list of {kind}s"), e);
            let of = |(name, body)| (TemplateName { kind, name }, body);
            if kind == Kind::Legacy {
                let listed: BTreeMap<String, Map<String, Value>> =
                    serde_json::from_slice(&body).map_err(malformed)?;
                templates.extend(listed.into_iter().map(of));
                continue;
            }
            let listed: Listed = serde_json::from_slice(&body).map_err(malformed)?;
            let components = listed.component_templates.into_iter();
            let components = components.map(|found| (found.name, found.component_template));
            let indices = listed.index_templates.into_iter();
            let indices = indices.map(|found| (found.name, found.index_template));
            templates.extend(components.chain(indices).map(of));
        }
        Ok(templates)
    }

    /// Whether the cluster could have indices with such settings and mappings: what it says against it,
    /// or nothing. Nothing is written.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn try_template(&self, template: &Value) -> Result<Option<String>, Error> {
        // No index has this name, and no template of the cluster may take part.
        let body = json!({
            "index_patterns": ["syncline-check-template"],
            "priority": i32::MAX,
            "template": template,
        });
        let request = Request::post("/_index_template/_simulate").json(body.to_string());
        match self.send(request).await {
            // Who may not simulate is told when it is written.
            Ok(_) | Err(Error::Forbidden { .. }) => Ok(None),
            Err(Error::Rejected { reason, .. }) => Ok(Some(reason)),
            Err(error) => Err(error),
        }
    }

    /// Writes a template, in the place of one that has its name.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub async fn put_template(
        &self,
        template: &TemplateName,
        body: &Map<String, Value>,
    ) -> Result<(), Error> {
        let path = format!("{}/{}", template.kind.path(), encode(&template.name));
        let request = Request::put(path).json(Value::from(body.clone()).to_string());
        self.send(request).await.map(drop)
    }
}
