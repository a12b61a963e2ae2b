//! What is encoded is decoded, whatever it is and however it is cut.

use std::collections::HashMap;

use super::*;
use crate::{
    Action, Batch, Change, Content, Document, DocumentId, Epoch, IndexName, Kind, Root, Tenant,
    Version,
};
use proptest::{collection::vec, option, prelude::*};

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let document = prop_oneof![
        Just("{}".to_owned()),
        ".{0,200}".prop_map(|s| serde_json::json!({ "text": s }).to_string()),
        "[a-z]{2000,9000}".prop_map(|s| serde_json::json!([s, 1.5, null]).to_string()),
    ];
    let change = (
        ".{1,60}",
        option::of(".{1,9}"),
        0..1u64 << 55,
        document,
        0..3usize,
        proptest::bool::ANY,
    )
        .prop_map(|(id, routing, position, document, action, over)| {
            let document = Document::from_json(document.into());
            Change {
                id: DocumentId::try_from(id.as_str()).unwrap(),
                routing: routing.map(Into::into),
                version: Version::new(Epoch(3), position).unwrap(),
                over: over && action < 2,
                action: match action {
                    0 => Action::Index(document),
                    1 => Action::Update(document),
                    _ => Action::Delete,
                },
            }
        });
    vec(change, 0..40)
}

fn batch(changes: Vec<Change>) -> Batch {
    Batch {
        index: IndexName::try_from("movies.v1").unwrap(),
        origin: Origin {
            partition: "elasticsearch/x/0".into(),
            captured_ms: 77,
            via: None,
        },
        content: Content::Changes(changes),
    }
}

proptest! {
    /// Nobody looks into a sealed batch, and it says the same wherever it is opened, also where the next
    /// server takes smaller messages.
    #[test]
    fn what_stays_sealed_says_the_same_further_on(
        changes in changes(), level in option::of(1i32..3), smaller in 40usize..4000,
    ) {
        let there = Encoder {
            root: Root::Changes,
            tenant: Tenant::try_from("t").unwrap(),
            max_body: 5000,
            zstd_level: level,
        };
        let further = Encoder { root: Root::Gateway, max_body: smaller, ..there.clone() };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let mut joined = Assembler::default();
        let mut parts = Assembler::default();
        let mut number = 0;
        for message in there.encode(&batch(changes)) {
            number += 1;
            let Some(whole) = joined.push(number, over_the_wire(&message)) else { continue };
            before.extend(decode(&whole).unwrap().changes().to_vec());
            for passed in further.encode(&seal(whole).unwrap()) {
                number += 1;
                prop_assert!(passed.body.len() <= smaller);
                if let Some(whole) = parts.push(number, over_the_wire(&passed)) {
                    prop_assert_eq!(whole.subject.root, Root::Gateway);
                    after.extend(open(&seal(whole).unwrap()).unwrap().changes().to_vec());
                }
            }
        }
        prop_assert_eq!(before, after);
    }
}

/// As a message comes out of the stream: subject and headers as text.
fn over_the_wire(message: &Message) -> Message {
    let headers: HashMap<_, _> = message.envelope.to_headers().into_iter().collect();
    Message {
        subject: message.subject.to_string().parse().unwrap(),
        envelope: Envelope::from_headers(|name| headers.get(name).map(String::as_str)).unwrap(),
        body: message.body.clone(),
    }
}

fn round_trip(encoder: &Encoder, batch: &Batch) -> Vec<Change> {
    let mut assembler = Assembler::default();
    let mut back = Vec::new();
    for (sequence, message) in encoder.encode(batch).iter().enumerate() {
        assert!(message.body.len() <= encoder.max_body);
        if let Some(whole) = assembler.push(sequence as u64, over_the_wire(message)) {
            let decoded = decode(&whole).unwrap();
            assert_eq!(decoded.index, batch.index);
            assert_eq!(decoded.origin, batch.origin);
            back.extend_from_slice(decoded.changes());
        }
    }
    assert_eq!(assembler.oldest_unfinished(), None);
    back
}

proptest! {
    #[test]
    fn any_batch_reads_back_as_itself_whatever_the_message_limit(
        mut changes in changes(), max_body in 50usize..20_000, compress: bool,
    ) {
        let encoder = Encoder {
            root: Root::Changes,
            tenant: Tenant::try_from("t").unwrap(),
            max_body,
            zstd_level: compress.then_some(1),
        };
        let back = round_trip(&encoder, &batch(changes.clone()));
        changes.sort_by_key(Change::operation);
        prop_assert_eq!(back, changes);
    }

    #[test]
    fn no_body_makes_the_decoder_panic(
        body in vec(any::<u8>(), 0..300), count in 0usize..5, compressed: bool, kind in 0usize..5,
    ) {
        let message = Message {
            subject: Subject {
                root: Root::Changes,
                tenant: Tenant::try_from("t").unwrap(),
                index: IndexName::try_from("i").unwrap(),
                kind: match Operation::ALL.get(kind) {
                    Some(operation) => Kind::Operation(*operation),
                    None if kind == 3 => Kind::Definition,
                    None => Kind::Clear,
                },
            },
            envelope: Envelope {
                format: FORMAT,
                count,
                reached: None,
                origin: Origin::now("p".into()),
                compressed,
                part: (1, 1),
            },
            body: body.into(),
        };
        let _decoded = decode(&message);
    }
}

fn large_batch() -> (Encoder, Vec<Message>) {
    let encoder = Encoder {
        root: Root::Changes,
        tenant: Tenant::try_from("t").unwrap(),
        max_body: 100,
        zstd_level: None,
    };
    let document = format!("\"{}\"", "x".repeat(250));
    let messages = encoder.encode(&batch(vec![Change {
        id: DocumentId::try_from("1").unwrap(),
        routing: None,
        version: Version::new(Epoch(0), 1).unwrap(),
        over: false,
        action: Action::Index(Document::from_json(document.into())),
    }]));
    assert_eq!(messages.len(), 4);
    (encoder, messages)
}

#[test]
fn an_attempt_that_was_given_up_in_the_middle_leaves_nothing_behind() {
    let (_, messages) = large_batch();
    let mut assembler = Assembler::default();
    let mut whole = Vec::new();
    let log = messages[..2].iter().chain(&messages);
    for (sequence, message) in log.enumerate() {
        whole.extend(assembler.push(sequence as u64, message.clone()));
    }
    assert_eq!(whole.len(), 1);
    assert_eq!(decode(&whole[0]).unwrap().changes().len(), 1);
    assert_eq!(assembler.oldest_unfinished(), None);
}

#[test]
fn an_unfinished_body_says_where_a_reader_must_start_again() {
    let (_, messages) = large_batch();
    let mut assembler = Assembler::default();
    assert!(assembler.push(41, messages[0].clone()).is_none());
    assert!(assembler.push(42, messages[1].clone()).is_none());
    assert_eq!(assembler.oldest_unfinished(), Some(41));
}

#[test]
fn a_part_without_its_beginning_is_dropped() {
    let (_, messages) = large_batch();
    let mut assembler = Assembler::default();
    assert!(assembler.push(1, messages[3].clone()).is_none());
    assert!(assembler.push(2, messages[0].clone()).is_none());
    assert!(assembler.push(3, messages[2].clone()).is_none());
    assert_eq!(assembler.oldest_unfinished(), None);
}

#[test]
fn how_far_a_source_has_come_is_a_message_of_no_changes_to_an_earlier_reader() {
    let encoder = Encoder {
        root: Root::Changes,
        tenant: Tenant::try_from("t").unwrap(),
        max_body: 1000,
        zstd_level: Some(3),
    };
    let version = Version::new(Epoch(2), 41).unwrap();
    let reached = Batch {
        content: Content::Reached(version),
        ..batch(Vec::new())
    };
    assert!(!reached.is_empty(), "it is carried");
    let messages = encoder.encode(&reached);
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].envelope.format, 1);
    let headers = messages[0].envelope.to_headers();
    let read = |known: &[&str]| {
        let header = |name: &'static str| {
            let known = headers.iter().filter(|_| known.contains(&name));
            let found = known.into_iter().find(|(header, _)| *header == name);
            found.map(|(_, value)| value.as_str())
        };
        let envelope = Envelope::from_headers(header).unwrap();
        let message = Message {
            envelope,
            ..messages[0].clone()
        };
        let sealed = seal(message.clone()).unwrap().content;
        (decode(&message).unwrap().content, sealed)
    };
    let before = [
        "Syncline-Format",
        "Syncline-Count",
        "Syncline-Partition",
        "Syncline-Captured",
        "Content-Encoding",
    ];
    let (opened, _) = read(&before);
    assert!(matches!(opened, Content::Changes(changes) if changes.is_empty()));
    let now = [&before[..], &["Syncline-Reached"]].concat();
    let (opened, sealed) = read(&now);
    assert!(matches!(opened, Content::Reached(found) if found == version));
    assert!(matches!(sealed, Content::Reached(found) if found == version));
}

#[test]
fn only_what_an_earlier_reader_would_not_understand_has_a_new_format() {
    let encoder = Encoder {
        root: Root::Changes,
        tenant: Tenant::try_from("t").unwrap(),
        max_body: 1000,
        zstd_level: None,
    };
    let upto = Version::new(Epoch(1), 7).unwrap();
    let clear = Batch {
        content: Content::Clear(upto),
        ..batch(Vec::new())
    };
    let messages = encoder.encode(&clear);
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].envelope.format, 2);
    assert_eq!(messages[0].subject.kind, Kind::Clear);
    assert_eq!(
        messages[0].subject.to_string().parse(),
        Ok(messages[0].subject.clone())
    );
    assert!(matches!(decode(&messages[0]).unwrap().content, Content::Clear(v) if v == upto));
    let delete = Change {
        id: DocumentId::try_from("1").unwrap(),
        routing: None,
        version: upto,
        over: false,
        action: Action::Delete,
    };
    assert_eq!(encoder.encode(&batch(vec![delete]))[0].envelope.format, 1);
}

#[test]
fn a_message_from_a_newer_syncline_is_refused_with_the_remedy() {
    let error = Envelope::from_headers(|_| Some("9"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("upgrade the reader"), "{error}");
}
