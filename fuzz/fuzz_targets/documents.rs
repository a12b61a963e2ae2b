//! Documents come from anywhere: rules that look into one take it exactly if a JSON library takes it for an object, and
//! what they leave alone means the same afterwards.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use model::{Action, Change, Document, DocumentId, Epoch, Operation, Version};
use serde_json::{Value, value::RawValue};
use transform::{Answer, At, Outcome, Question, RuleSet, RunJq, Selection};

/// Every document is opened, gets a field, and is written again.
const RULES: &str = "filters: [{ drop: { document: { field: never.there, equals: 7 } } }]
transforms: [{ set: { field: mark, value: 1 } }]";

struct NoJq;

impl RunJq for NoJq {
    fn run(&mut self, _: &Question) -> Answer {
        Err("there is no program".to_owned())
    }
}

static READ: LazyLock<RuleSet> = LazyLock::new(|| {
    let no_key = |_: &transform::KeySource| Err("there is no key".to_owned());
    RuleSet::read(&Selection::default(), Some(("rules", RULES)), &no_key).expect("they are right")
});

fuzz_target!(|document: &[u8]| {
    let rules = &*READ;
    let plan = rules.plan(&At {
        tenant: "t".parse().expect("a tenant"),
        index: "index".parse().expect("an index"),
        operation: Operation::Index,
    });
    let document = Document::from_json(Bytes::copy_from_slice(document));
    let change = Change {
        id: DocumentId::try_from("1").expect("an id"),
        routing: None,
        version: Version::new(Epoch(0), 7).expect("a version"),
        over: false,
        action: Action::Index(document.clone()),
    };
    let by_library = serde_json::from_slice::<&RawValue>(document.as_bytes());
    let is_object = by_library.is_ok_and(|raw| raw.get().starts_with('{'));
    match rules.apply(&plan, &change, &mut NoJq) {
        Ok(Outcome::Changed(changes)) => {
            assert!(is_object, "no object was taken for one");
            let after = changes[0].1.document().expect("it is no delete");
            // Half a surrogate pair means nothing to the library, and neither does what is nested too deep.
            if let Ok(Value::Object(mut before)) = serde_json::from_slice(document.as_bytes())
                && !before.contains_key("mark")
            {
                before.insert("mark".to_owned(), 1.into());
                let after: Value = serde_json::from_slice(after.as_bytes()).expect("it is JSON");
                assert_eq!(after, Value::Object(before));
            }
        }
        Ok(_) => {}
        Err(error) => {
            let may_mean_nothing = escapes_by_number(document.as_bytes());
            assert!(!is_object || may_mean_nothing, "{error}");
        }
    }
});

/// Whether something is escaped by its number: a key may then be half a surrogate pair, which means nothing.
fn escapes_by_number(document: &[u8]) -> bool {
    document.windows(2).any(|two| two == b"\\u")
}
