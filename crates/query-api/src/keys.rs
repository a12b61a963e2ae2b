//! API keys: who may ask what. Kept hashed in a file that is read again when it changes.
//!
//! A key is 256 random bits, so one round of SHA-256 is enough to keep it: there is nothing to guess.
//! Keys are found by their hash, which tells a listener with a clock nothing about any key.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};

use crate::{
    cursor::NoRandom,
    limits::Bucket,
    problem::{Kind, Problem},
    query::Filter,
    schema::{FieldScope, Glob},
};

/// What a key begins with, so that scanners for leaked secrets can find one.
const PREFIX: &str = "slq_";

/// A key and what it may do.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name in the file; in logs and metrics it stands for the key.
    pub(crate) id: String,
    indices: Vec<Glob>,
    pub(crate) fields: FieldScope,
    /// What every document it sees fulfils.
    pub(crate) forced: Vec<Filter>,
    expires: Option<Timestamp>,
    pub(crate) may_use_raw: bool,
    pub(crate) bucket: Option<Bucket>,
}

impl Key {
    pub(crate) fn may_see(&self, index: &str) -> bool {
        self.indices.iter().any(|glob| glob.matches(index))
    }

    /// Who asks when no key is needed.
    fn anonymous(rate: Option<f64>) -> Key {
        Key {
            id: "anonymous".to_owned(),
            indices: vec![Glob::new("*")],
            fields: FieldScope::of(&["*"]),
            forced: Vec::new(),
            expires: None,
            may_use_raw: true,
            bucket: rate.map(Bucket::new),
        }
    }
}

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the keys file {path:?} cannot be used: {reason}; `syncline query-key` writes entries for it"
)]
pub struct KeysError {
    /// The file.
    path: PathBuf,
    /// What is wrong with it.
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    keys: Vec<Entry>,
}

/// A key in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    /// Hexadecimal.
    sha256: String,
    indices: Vec<String>,
    #[serde(default = "everything")]
    fields: Vec<String>,
    /// In the notation of a URL: `tenant=eq.7&deleted=is.false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filter: Option<String>,
    /// Such as `2027-01-01T00:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    /// Requests a second instead of the configured ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    raw: bool,
}

fn everything() -> Vec<String> {
    vec!["*".to_owned()]
}

/// All keys that are valid now.
#[derive(Debug)]
pub(crate) struct Keys {
    source: Source,
    rate: Option<f64>,
}

#[derive(Debug)]
enum Source {
    Anonymous(Arc<Key>),
    File {
        path: PathBuf,
        loaded: RwLock<Loaded>,
    },
}

#[derive(Debug)]
struct Loaded {
    stamp: Option<Stamp>,
    by_hash: HashMap<String, Arc<Key>>,
}

/// What tells one state of a file from another.
type Stamp = (SystemTime, u64);

impl Keys {
    /// Everybody may ask everything.
    pub(crate) fn anonymous(rate: Option<f64>) -> Keys {
        Keys {
            source: Source::Anonymous(Arc::new(Key::anonymous(rate))),
            rate,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or makes no sense.
    pub(crate) fn load(path: &Path, rate: Option<f64>) -> Result<Keys, KeysError> {
        let loaded = RwLock::new(read(path, rate, None)?);
        Ok(Keys {
            source: Source::File {
                path: path.to_owned(),
                loaded,
            },
            rate,
        })
    }

    /// Reads the file again if it has changed. A file that cannot be used leaves the keys as they are.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(crate) fn reload(&self) -> Result<bool, KeysError> {
        let Source::File { path, loaded } = &self.source else {
            return Ok(false);
        };
        let before = loaded.read().unwrap_or_else(PoisonError::into_inner);
        if stamp(path).is_some_and(|stamp| before.stamp == Some(stamp)) {
            return Ok(false);
        }
        let new = read(path, self.rate, Some(&before))?;
        drop(before);
        *loaded.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(true)
    }

    /// The key that was shown.
    ///
    /// # Errors
    /// When it is none, or not valid any more; which of these is not said.
    pub(crate) fn find(&self, shown: Option<&str>) -> Result<Arc<Key>, Problem> {
        let Source::File { loaded, .. } = &self.source else {
            return match &self.source {
                Source::Anonymous(key) => Ok(Arc::clone(key)),
                Source::File { .. } => Err(unauthorized()),
            };
        };
        let hash = hash(shown.ok_or_else(unauthorized)?);
        let loaded = loaded.read().unwrap_or_else(PoisonError::into_inner);
        let key = loaded.by_hash.get(&hash).ok_or_else(unauthorized)?;
        match key.expires {
            Some(expires) if expires <= Timestamp::now() => Err(unauthorized()),
            _ => Ok(Arc::clone(key)),
        }
    }
}

fn unauthorized() -> Problem {
    let detail = "send a valid key as `Authorization: Bearer KEY` or `X-API-Key: KEY`";
    Problem::new(Kind::Unauthorized, detail)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

fn read(path: &Path, rate: Option<f64>, before: Option<&Loaded>) -> Result<Loaded, KeysError> {
    let refuse = |reason: String| KeysError {
        path: path.to_owned(),
        reason,
    };
    let stamp = stamp(path);
    let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    let file: File = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    let mut by_hash: HashMap<String, Arc<Key>> = HashMap::new();
    for entry in file.keys {
        let id = entry.id.clone();
        let hash = entry.sha256.to_lowercase();
        if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(refuse(format!(
                "the sha256 of {id:?} is not 64 hexadecimal digits"
            )));
        }
        if by_hash.values().any(|key| key.id == id) {
            return Err(refuse(format!("there are two keys {id:?}")));
        }
        let mut key = entry
            .key(rate)
            .map_err(|reason| refuse(format!("{id:?}: {reason}")))?;
        // Who has used up the allowance does not get a new one by the file's being touched.
        let known = before.and_then(|before| before.by_hash.get(&hash));
        if let (Some(new), Some(old)) = (&mut key.bucket, known.and_then(|key| key.bucket.as_ref()))
        {
            new.inherit(old);
        }
        if by_hash.insert(hash, Arc::new(key)).is_some() {
            return Err(refuse(format!("{id:?} has the hash of another key")));
        }
    }
    Ok(Loaded { stamp, by_hash })
}

impl Entry {
    fn key(self, rate: Option<f64>) -> Result<Key, String> {
        let mut forced = Vec::new();
        for (name, value) in
            url::form_urlencoded::parse(self.filter.as_deref().unwrap_or("").as_bytes())
        {
            let filter = Filter::of_parameter(&name, &value);
            forced.push(filter.map_err(|problem| format!("filter: {}", problem.detail))?);
        }
        // A filter that was meant to be there and is empty would let everything through.
        if self.filter.is_some() && forced.is_empty() {
            return Err(
                "filter is empty; leave it out if the key may see all documents".to_owned(),
            );
        }
        let expires = self.expires.map(|text| {
            text.parse()
                .map_err(|error| format!("expires: {text:?} is no time: {error}"))
        });
        let rate = self.rate.or(rate);
        if rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
            return Err("rate has to be a number above 0".to_owned());
        }
        Ok(Key {
            indices: self.indices.iter().map(|glob| Glob::new(glob)).collect(),
            fields: FieldScope::of(&self.fields),
            forced,
            expires: expires.transpose()?,
            may_use_raw: self.raw,
            bucket: rate.map(Bucket::new),
            id: self.id,
        })
    }
}

fn hash(key: &str) -> String {
    let digest = digest::digest(&digest::SHA256, key.as_bytes());
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A key as it is made for somebody: the text to hand over, and the entry for the file, which does not
/// contain it.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What the caller shows. It is nowhere else.
    pub key: String,
    /// The entry, as JSON.
    pub entry: String,
}

/// What a new key may do.
#[derive(Debug, Clone, clap::Args)]
pub struct NewKeyArgs {
    /// What the key is called in logs and metrics.
    #[arg(value_name = "NAME")]
    id: String,
    /// Indices it may search (comma-separated; * stands for any text).
    #[arg(long, default_value = "*", value_name = "LIST")]
    indices: config::CommaList,
    /// Fields it may see (comma-separated; * stands for any text, - takes one away).
    #[arg(
        long,
        default_value = "*",
        value_name = "LIST",
        allow_hyphen_values = true
    )]
    fields: config::CommaList,
    /// What every document it sees fulfils, such as tenant=eq.7.
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// When it ends, such as 2027-01-01T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    expires: Option<Timestamp>,
    /// Requests a second, instead of the service's --rate.
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Whether it may send queries in the cluster's own language.
    #[arg(long)]
    raw: bool,
}

/// Makes a key.
///
/// # Errors
/// When the filter cannot be read, or the system gives no random numbers.
pub fn new_key(args: NewKeyArgs) -> Result<NewKey, NewKeyError> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandom)?;
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    let entry = Entry {
        id: args.id,
        sha256: hash(&key),
        indices: args.indices.into_vec(),
        fields: args.fields.into_vec(),
        filter: args.filter,
        expires: args.expires.map(|time| time.to_string()),
        rate: args.rate,
        raw: args.raw,
    };
    entry.clone().key(None).map_err(NewKeyError::Entry)?;
    let entry =
        serde_json::to_string_pretty(&entry).map_err(|e| NewKeyError::Entry(e.to_string()))?;
    Ok(NewKey { key, entry })
}

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub enum NewKeyError {
    /// No randomness.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// What it may do makes no sense.
    #[error("no key can be made like that: {0}")]
    Entry(String),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(entries: &serde_json::Value) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json!({ "keys": entries }).to_string()).unwrap();
        file
    }

    fn entry(id: &str, key: &str) -> serde_json::Value {
        json!({ "id": id, "sha256": hash(key), "indices": ["movies*"] })
    }

    #[test]
    fn a_key_is_known_by_its_hash_until_it_is_taken_out_of_the_file() {
        let file = file(&json!([entry("web", "one"), entry("app", "two")]));
        let keys = Keys::load(file.path(), None).unwrap();
        assert_eq!(keys.find(Some("one")).unwrap().id, "web");
        assert!(keys.find(Some("three")).is_err() && keys.find(None).is_err());
        assert!(
            keys.find(Some(&hash("one"))).is_err(),
            "what is in the file is no key"
        );
        assert!(!keys.reload().unwrap());
        std::fs::write(
            file.path(),
            json!({ "keys": [entry("app", "two")] }).to_string(),
        )
        .unwrap();
        assert!(keys.reload().unwrap());
        assert!(keys.find(Some("one")).is_err());
        assert_eq!(keys.find(Some("two")).unwrap().id, "app");
    }

    #[test]
    fn a_file_that_cannot_be_used_leaves_the_keys_as_they_were() {
        let file = file(&json!([entry("web", "one")]));
        let keys = Keys::load(file.path(), None).unwrap();
        for broken in ["{", "{\"keys\":[{}]}", "{\"keys\":[],\"more\":1}"] {
            std::fs::write(file.path(), broken).unwrap();
            assert!(keys.reload().is_err(), "{broken}");
            assert!(keys.find(Some("one")).is_ok());
        }
    }

    #[test]
    fn an_entry_that_would_let_too_much_through_is_refused() {
        for change in [
            json!({ "filter": "" }),
            json!({ "filter": "tenant" }),
            json!({ "rate": 0 }),
            json!({ "sha256": "ab" }),
            json!({ "scope": [] }),
        ] {
            let mut entry = entry("web", "one");
            entry
                .as_object_mut()
                .unwrap()
                .extend(change.as_object().unwrap().clone());
            assert!(
                Keys::load(file(&json!([entry])).path(), None).is_err(),
                "{change}"
            );
        }
        let twice = json!([entry("web", "one"), entry("web", "two")]);
        assert!(Keys::load(file(&twice).path(), None).is_err());
    }

    #[test]
    fn a_key_that_has_ended_is_no_key() {
        let mut past = entry("web", "one");
        past["expires"] = "2020-01-01T00:00:00Z".into();
        let keys = Keys::load(file(&json!([past])).path(), None).unwrap();
        assert_eq!(keys.find(Some("one")).unwrap_err().kind, Kind::Unauthorized);
    }
}
