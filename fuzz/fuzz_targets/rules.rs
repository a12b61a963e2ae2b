//! Rule files come from people and documents from anywhere: reading rules, and applying them, never panics; what
//! comes of a document keeps its id and its version, and is one JSON object on one line.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use model::{Action, Change, Document, DocumentId, Epoch, Operation, Version};
use transform::{Answer, At, Outcome, Question, RuleSet, RunJq, Selection};

/// Programs have a process of their own, which is not what is fuzzed here.
struct NoJq;

impl RunJq for NoJq {
    fn run(&mut self, question: &Question) -> Answer {
        Ok(Some(question.document.clone()))
    }
}

fuzz_target!(|input: (&str, &[u8])| {
    let (text, document) = input;
    let key = |_: &transform::KeySource| Ok(b"a key of sixteen bytes".to_vec());
    let Ok(rules) = RuleSet::read(&Selection::default(), Some(("rules", text)), &key) else {
        return;
    };
    let at = At {
        tenant: "t".parse().expect("a tenant"),
        index: "index".parse().expect("an index"),
        operation: Operation::Update,
    };
    let change = Change {
        id: DocumentId::try_from("1").expect("an id"),
        routing: None,
        version: Version::new(Epoch(0), 7).expect("a version"),
        over: false,
        action: Action::Update(Document::from_json(Bytes::copy_from_slice(document))),
    };
    let plan = rules.plan(&at);
    let is_json =
        serde_json::from_slice::<serde_json::Value>(document).is_ok_and(|d| d.is_object());
    let outcome = rules.apply(&plan, &change, &mut NoJq);
    if let Ok(Outcome::Changed(changes) | Outcome::Removed(_, changes)) = outcome {
        for (_, after) in changes {
            assert_eq!((&after.id, after.version), (&change.id, change.version));
            if let Some(document) = after.document().filter(|_| is_json) {
                assert!(!document.as_bytes().contains(&b'\n'));
                let json = serde_json::from_slice::<serde_json::Value>(document.as_bytes());
                assert!(json.is_ok_and(|json| json.is_object()));
            }
        }
    }
});
