//! Cursors: where a list goes on, sealed so that nobody can read or make one.
//!
//! The order ends with the sequence number, which every index has, on every version, without memory for
//! it. It is unique within a shard only, so documents of several shards can stand at the same place. The
//! next page therefore begins *at* the last place, not behind it, and leaves out the documents of that
//! place that were already given; there are at most as many as shards. What changes between two pages
//! can be given twice, because its number rises, but what does not change is given exactly once. In a
//! snapshot nothing changes.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest,
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    problem::{Kind, Problem},
    snapshots::Snapshot,
};

/// What a cursor is of; with another meaning of its content comes another text.
const PURPOSE: &[u8] = b"syncline query-api cursor 2";
/// Longer cursors are not looked at.
const LONGEST: usize = 16 << 10;

/// A place in an ordered list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The values that the order goes by, the sequence number last.
    pub(crate) values: Vec<Value>,
    /// The documents at this place that were given already.
    pub(crate) ids: Vec<String>,
}

impl Place {
    /// The cluster continues behind this, which is just before the place.
    pub(crate) fn search_after(&self) -> Value {
        let mut values = self.values.clone();
        if let Some(number) = values.last_mut() {
            *number = number
                .as_i64()
                .map_or(Value::Null, |number| (number - 1).into());
        }
        values.into()
    }

    /// The place of the last of some hits, given the place they came after.
    pub(crate) fn after<'a>(
        hits: impl DoubleEndedIterator<Item = (&'a str, &'a [Value])>,
        before: Option<&Place>,
    ) -> Option<Place> {
        let mut hits = hits.rev();
        let (id, values) = hits.next()?;
        let same = hits
            .take_while(|(_, other)| *other == values)
            .map(|(id, _)| id);
        let mut ids: Vec<String> = std::iter::once(id).chain(same).map(str::to_owned).collect();
        if let Some(before) = before.filter(|before| before.values == values) {
            ids.extend(before.ids.iter().cloned());
        }
        Some(Place {
            values: values.to_vec(),
            ids,
        })
    }
}

/// What a cursor holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// The name of the index as the caller knows it.
    pub(crate) index: String,
    /// The fingerprint of its schema.
    pub(crate) schema: u64,
    /// The identity of the search.
    pub(crate) search: u64,
    /// The key's id.
    pub(crate) key: String,
    pub(crate) place: Place,
    /// The snapshot that is read.
    pub(crate) snapshot: Option<Snapshot>,
}

/// What a cursor has to belong to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) index: &'a str,
    pub(crate) schema: u64,
    pub(crate) key: &'a str,
}

impl Cursor {
    /// Whether it belongs to who shows it.
    ///
    /// # Errors
    /// What does not fit. A cursor of another key is as unreadable as one that was made up.
    pub(crate) fn check(&self, owner: Owner<'_>) -> Result<(), Problem> {
        if self.key != owner.key {
            return Err(unreadable());
        }
        if self.index != owner.index {
            return Err(bad("it is of another index; begin without a cursor"));
        }
        if self.schema != owner.schema {
            return Err(bad(
                "the index has changed its fields since; begin without a cursor",
            ));
        }
        Ok(())
    }

    /// Whether it goes on with this very search.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn check_search(&self, identity: u64) -> Result<(), Problem> {
        if self.search == identity {
            return Ok(());
        }
        Err(bad(
            "it is of another search: q, filters and sort have to stay the same from page to page",
        ))
    }
}

fn bad(detail: &str) -> Problem {
    Problem::of(Kind::BadCursor, "cursor", detail)
}

fn unreadable() -> Problem {
    bad("it is not one that was given out for this key; begin without a cursor")
}

/// Seals and opens cursors.
pub(crate) struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(***)")
    }
}

/// The system gives no random numbers, without which nothing is secret.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers; without them cursors cannot be sealed")]
pub struct NoRandom;

impl Sealer {
    /// With a secret that several processes share, or one of its own.
    ///
    /// # Errors
    /// When there is no randomness.
    pub(crate) fn new(secret: Option<&str>) -> Result<Sealer, NoRandom> {
        let random = SystemRandom::new();
        let mut bytes = [0; 32];
        match secret {
            Some(secret) => {
                let digest = digest::digest(&digest::SHA256, secret.as_bytes());
                bytes.copy_from_slice(digest.as_ref());
            }
            None => random.fill(&mut bytes).map_err(|_| NoRandom)?,
        }
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).map_err(|_| NoRandom)?;
        Ok(Sealer {
            key: LessSafeKey::new(key),
            random,
        })
    }

    pub(crate) fn seal(&self, cursor: &Cursor) -> Result<String, Problem> {
        let failed = || Problem::new(Kind::Internal, "no cursor could be made");
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| failed())?;
        let mut sealed = serde_json::to_vec(cursor).map_err(|_| failed())?;
        let unique = Nonce::assume_unique_for_key(nonce);
        let aad = Aad::from(PURPOSE);
        self.key
            .seal_in_place_append_tag(unique, aad, &mut sealed)
            .map_err(|_| failed())?;
        let mut text = nonce.to_vec();
        text.extend(sealed);
        Ok(URL_SAFE_NO_PAD.encode(text))
    }

    /// # Errors
    /// When it was not sealed with this secret.
    pub(crate) fn open(&self, text: &str) -> Result<Cursor, Problem> {
        if text.len() > LONGEST {
            return Err(unreadable());
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| unreadable())?;
        let (nonce, sealed) = bytes
            .split_at_mut_checked(NONCE_LEN)
            .ok_or_else(unreadable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| unreadable())?;
        let plain = self.key.open_in_place(nonce, Aad::from(PURPOSE), sealed);
        serde_json::from_slice(plain.map_err(|_| unreadable())?).map_err(|_| unreadable())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn cursor() -> Cursor {
        Cursor {
            index: "movies".to_owned(),
            schema: 7,
            search: 8,
            key: "web".to_owned(),
            place: Place {
                values: vec![json!("a"), json!(5)],
                ids: vec!["x".to_owned()],
            },
            snapshot: None,
        }
    }

    #[test]
    fn a_cursor_is_only_for_who_got_it_and_what_it_was_got_for() {
        let owner = Owner {
            index: "movies",
            schema: 7,
            key: "web",
        };
        cursor().check(owner).unwrap();
        for other in [
            Owner {
                index: "flights",
                ..owner
            },
            Owner { schema: 1, ..owner },
            Owner {
                key: "app",
                ..owner
            },
        ] {
            assert_eq!(cursor().check(other).unwrap_err().kind, Kind::BadCursor);
        }
        cursor().check_search(8).unwrap();
        assert_eq!(cursor().check_search(9).unwrap_err().kind, Kind::BadCursor);
    }

    #[test]
    fn the_next_page_begins_at_the_last_place_without_what_was_given() {
        let (a, b) = ([json!(1), json!(3)], [json!(1), json!(4)]);
        let hits = [("x", &a[..]), ("y", &b[..]), ("z", &b[..])];
        let place = Place::after(hits.into_iter(), None).unwrap();
        assert_eq!(place.ids, ["z", "y"]);
        assert_eq!(place.search_after(), json!([1, 3]));
        let more = Place::after([("w", &b[..])].into_iter(), Some(&place)).unwrap();
        assert_eq!(more.ids, ["w", "z", "y"]);
        assert_eq!(Place::after([].into_iter(), Some(&place)), None);
    }

    proptest! {
        #[test]
        fn a_changed_cursor_is_not_opened(at in 0usize..200, bit in 0u8..8) {
            let sealer = Sealer::new(Some("secret")).unwrap();
            let sealed = sealer.seal(&cursor()).unwrap();
            prop_assert_eq!(sealer.open(&sealed).unwrap(), cursor());
            let mut bytes = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(sealer.open(&URL_SAFE_NO_PAD.encode(bytes)).is_err());
            let other = Sealer::new(Some("another")).unwrap();
            prop_assert!(other.open(&sealed).is_err());
        }

        #[test]
        fn any_text_is_refused(text in ".{0,300}") {
            prop_assert!(Sealer::new(Some("secret")).unwrap().open(&text).is_err());
        }
    }
}
