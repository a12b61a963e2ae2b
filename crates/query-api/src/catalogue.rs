//! Which indices are served and what they look like, looked at again and again.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use search::{Client, IndexPatterns};

use crate::{
    keys::Key,
    problem::{Kind, Problem},
    schema::Schema,
};

/// The schemas by the name they are asked by.
#[derive(Debug)]
pub(crate) struct Catalogue {
    patterns: IndexPatterns,
    schemas: RwLock<Arc<BTreeMap<String, Arc<Schema>>>>,
}

impl Catalogue {
    pub(crate) fn new(patterns: IndexPatterns) -> Catalogue {
        Catalogue {
            patterns,
            schemas: RwLock::default(),
        }
    }

    /// Looks at the cluster.
    ///
    /// # Errors
    /// When it does not answer; what was known stays.
    pub(crate) async fn refresh(&self, client: &Client) -> Result<(), search::Error> {
        let exposed = client.exposed(&self.patterns).await?;
        let before = self.all();
        let schemas = exposed.into_iter().map(|found| {
            let schema = Schema::of(&found.name, &found.index, &found.uuid, &found.mappings);
            // What has not changed is not held twice while requests still use it.
            let known = before.get(&found.name).filter(|known| {
                (known.fingerprint, known.epoch) == (schema.fingerprint, schema.epoch)
            });
            (
                found.name,
                known.cloned().unwrap_or_else(|| Arc::new(schema)),
            )
        });
        let schemas = Arc::new(schemas.collect());
        *self.schemas.write().unwrap_or_else(PoisonError::into_inner) = schemas;
        Ok(())
    }

    /// Everything that is served.
    pub(crate) fn all(&self) -> Arc<BTreeMap<String, Arc<Schema>>> {
        Arc::clone(&self.schemas.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// An index as a key sees it: one that it may not see does not exist.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn find(&self, name: &str, key: &Key) -> Result<Arc<Schema>, Problem> {
        let found = self.all().get(name).cloned().filter(|_| key.may_see(name));
        found.ok_or_else(|| {
            Problem::of(
                Kind::UnknownIndex,
                "index",
                format!("there is no index {name:?}"),
            )
        })
    }
}
