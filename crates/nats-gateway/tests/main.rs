#![allow(clippy::unwrap_used, reason = "tests")]
//! The gateway's loop against the fakes: whatever fails and whoever dies, the target has what the rules make of
//! the source, and nothing else.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use clap::{Command, FromArgMatches};
use model::{
    Action, Batch, Change, Content, Document, DocumentId, Epoch, IndexDefinition, Operation,
    Origin, Version, wire::Packing,
};
use nats_gateway::{Args, Control, GatewayMetrics, Relay};
use pipeline::{
    ApplyOptions, DeadLetters, PublishOptions, Replayed, apply,
    fake::{Arrival, MemoryLog, MemoryReader, MemoryStore},
    publish,
};
use proptest::prelude::*;
use runtime::{health::Readiness, metrics::Metrics};
use tokio_util::sync::CancellationToken;

const LIVE: &str = r#"
filters:
  - name: live
    keep: { document: { field: status, equals: live } }
transforms:
  - mask: secret
  - rename: { from: n, to: number }
"#;

const BY_COUNTRY: &str = r#"
transforms:
  - on: { index: users }
    route: { index: "users-{country}", values: [de, fr, it] }
"#;

/// More than is worth a thread of its own.
const LARGE: usize = 20 << 10;

struct Gateway {
    control: Control,
    _folder: tempfile::TempDir,
}

impl Gateway {
    fn with(rules: &str) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.yaml");
        std::fs::write(&file, rules).unwrap();
        let command = <Args as clap::Args>::augment_args(Command::new("nats-gateway"));
        let file = file.display().to_string();
        let matches = command.get_matches_from(["nats-gateway", "--rules", &file]);
        let args = Args::from_arg_matches(&matches).unwrap();
        Gateway {
            control: Control::new(&args).unwrap(),
            _folder: folder,
        }
    }

    fn relay(&self, input: &MemoryLog, letters: &MemoryStore) -> Relay<MemoryReader, MemoryStore> {
        Relay::new(
            input.reader(),
            letters.clone(),
            self.control.rules(),
            self.control.paused(),
            Arc::new(GatewayMetrics::new(
                &Metrics::new(),
                Readiness::default(),
                None,
            )),
            (Duration::from_secs(1), 64 << 20),
            Packing {
                max_body: 30 << 10,
                zstd_level: None,
            },
        )
    }
}

fn change(id: u64, position: u64, action: Action) -> Change {
    Change {
        id: DocumentId::try_from(id.to_string().as_str()).unwrap(),
        routing: None,
        version: Version::new(Epoch(0), position).unwrap(),
        over: false,
        action,
    }
}

fn batch(index: &str, changes: Vec<Change>) -> Batch {
    Batch {
        index: index.parse().unwrap(),
        origin: Origin::now("scripted".into()),
        content: Content::Changes(changes),
    }
}

/// Writes batches into a log, each as the messages that it would become: one for each operation.
async fn fill(log: &mut MemoryLog, batches: &[Batch]) {
    use pipeline::MessageSink;
    for batch in batches {
        if let Content::Clear(_) = batch.content {
            drop(log.publish(&Arc::new(batch.clone()), 0).await.unwrap());
        }
        for operation in Operation::ALL {
            let of_kind = batch
                .changes()
                .iter()
                .filter(|c| c.operation() == operation);
            let changes: Vec<Change> = of_kind.cloned().collect();
            if !changes.is_empty() {
                let content = Content::Changes(changes);
                let message = Arc::new(Batch {
                    content,
                    ..batch.clone()
                });
                drop(log.publish(&message, 0).await.unwrap());
            }
        }
    }
}

/// That everything up to a position is gone.
fn clear(index: &str, position: u64) -> Batch {
    Batch {
        content: Content::Clear(Version::new(Epoch(0), position).unwrap()),
        ..batch(index, Vec::new())
    }
}

/// A random history of documents that come, change their country and state, and go, one by one or all at once: of few
/// that change often, or of many that nothing later makes up for. In every second one some are so large that the rules
/// are applied in threads of their own, several entries at once.
fn history(seed: u64) -> Vec<Batch> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let (mut position, documents) = (0, if dice.bool() { 6 } else { 60 });
    let largest = if dice.bool() { LARGE } else { 0 };
    let mut batches = Vec::new();
    for _ in 0..dice.usize(1..40) {
        if dice.u8(0..15) == 0 {
            batches.push(clear("users", position));
        }
        let mut ids: Vec<u64> = (0..documents).collect();
        dice.shuffle(&mut ids);
        ids.truncate(dice.usize(1..4));
        let changes = ids.into_iter().map(|id| {
            position += 1;
            let status = dice.choice(["live", "dead"]).unwrap();
            let country = dice.choice(["de", "fr", "it"]).unwrap();
            let pad = "x".repeat(*dice.choice([0, 0, largest].iter()).unwrap());
            let text = format!(
                r#"{{"status":"{status}","country":"{country}","pad":"{pad}","secret":"s{position}","n":{position}}}"#
            );
            let document = Document::from_json(text.into());
            let action = match dice.u8(0..5) {
                0 => Action::Delete,
                1 => Action::Index(document),
                _ => Action::Update(document),
            };
            change(id, position, action)
        });
        batches.push(batch("users", changes.collect()));
    }
    batches
}

/// The last state of every document.
fn truth(batches: &[Batch]) -> BTreeMap<String, String> {
    let mut documents = BTreeMap::new();
    for batch in batches {
        if let Content::Clear(_) = batch.content {
            documents.clear();
        }
        for change in batch.changes() {
            match change.document() {
                Some(document) => {
                    let text = String::from_utf8(document.as_bytes().to_vec()).unwrap();
                    documents.insert(change.id.to_string(), text);
                }
                None => drop(documents.remove(change.id.as_str())),
            }
        }
    }
    documents
}

fn found(store: &MemoryStore) -> BTreeMap<(String, String), String> {
    let documents = store.documents().into_iter();
    documents
        .map(|((index, id, _), document)| {
            ((index, id), String::from_utf8(document.to_vec()).unwrap())
        })
        .collect()
}

/// Gateway and writer are killed at random moments, messages and acknowledgments get lost; then everything is
/// left to finish. The target forgets deletes at once.
async fn survive(seed: u64, rules: &str) -> (BTreeMap<String, String>, MemoryStore) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let batches = history(seed);
    let gateway = Gateway::with(rules);
    let (mut input, output) = (MemoryLog::default(), MemoryLog::default());
    let (letters, store) = (MemoryStore::default(), MemoryStore::default());
    fill(&mut input, &batches).await;
    input.end();
    let (never, window) = (CancellationToken::new(), PublishOptions::default());
    let rounds = dice.usize(0..6);
    for round in 0..=rounds {
        let is_last = round == rounds;
        if !is_last {
            output.plan((0..dice.usize(0..8)).map(|_| {
                let arrivals = [Arrival::Stored, Arrival::Lost, Arrival::Unacknowledged];
                *dice.choice(arrivals.iter()).unwrap()
            }));
        }
        let (mut relay, mut sink) = (gateway.relay(&input, &letters), output.clone());
        let mut reader = output.reader();
        let publishing = async {
            publish(&mut relay, &mut sink, &window, &(), &never)
                .await
                .unwrap();
            if is_last {
                output.end();
            }
        };
        let applying = apply(
            &mut reader,
            Arc::new(store.clone()),
            Arc::new(store.clone()),
            Arc::new(()),
            ApplyOptions::default(),
            &never,
        );
        let both = async { tokio::join!(publishing, applying) };
        if is_last {
            both.await.1.unwrap();
        } else {
            let life = Duration::from_millis(dice.u64(0..100));
            let _crashed = tokio::time::timeout(life, both).await;
        }
    }
    assert!(letters.letters().is_empty());
    (truth(&batches), store)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_dies_the_target_has_exactly_what_matches(seed: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        let (truth, store) = runtime.block_on(survive(seed, LIVE));
        let expected: BTreeMap<_, _> = truth
            .into_iter()
            .filter(|(_, document)| document.contains(r#""status":"live""#))
            .map(|(id, document)| {
                let n = document.split(r#""n":"#).nth(1).unwrap().trim_end_matches('}').to_owned();
                let start = document.split(r#""secret""#).next().unwrap().to_owned();
                let seen = format!(r#"{start}"secret":"***","number":{n}}}"#);
                (("users".to_owned(), id), seen)
            })
            .collect();
        prop_assert_eq!(found(&store), expected);
    }

    #[test]
    fn whatever_dies_a_document_is_in_one_place_that_of_its_field(seed: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        let (truth, store) = runtime.block_on(survive(seed, BY_COUNTRY));
        let expected: BTreeMap<_, _> = truth
            .into_iter()
            .map(|(id, document)| {
                let country = ["de", "fr", "it"].into_iter()
                    .find(|country| document.contains(&format!(r#""country":"{country}""#))).unwrap();
                ((format!("users-{country}"), id), document)
            })
            .collect();
        prop_assert_eq!(found(&store), expected);
    }
}

/// Runs a gateway over what the input has, and a writer over what comes of it.
async fn run_over(gateway: &Gateway, input: &MemoryLog, letters: &MemoryStore) -> MemoryLog {
    let output = MemoryLog::default();
    let (mut relay, mut sink) = (gateway.relay(input, letters), output.clone());
    let (never, window) = (CancellationToken::new(), PublishOptions::default());
    input.end();
    publish(&mut relay, &mut sink, &window, &(), &never)
        .await
        .unwrap();
    output
}

/// Writes all of an output.
async fn write(output: &MemoryLog, store: &MemoryStore) {
    output.end();
    let (writer, letters) = (Arc::new(store.clone()), Arc::new(store.clone()));
    let (options, never) = (ApplyOptions::default(), CancellationToken::new());
    let mut reader = output.reader();
    apply(&mut reader, writer, letters, Arc::new(()), options, &never)
        .await
        .unwrap();
}

fn index(id: u64, position: u64, text: &str) -> Change {
    let document = Document::from_json(Bytes::copy_from_slice(text.as_bytes()));
    change(id, position, Action::Index(document))
}

#[tokio::test(start_paused = true)]
async fn what_a_rule_does_not_work_on_is_a_letter_until_something_newer_has_passed() {
    let gateway = Gateway::with(BY_COUNTRY);
    let (mut input, letters) = (MemoryLog::default(), MemoryStore::default());
    let bad = vec![
        index(1, 1, r#"{"country":"xx"}"#),
        index(2, 2, "no json"),
        index(3, 3, r#"{"country":"de"}"#),
    ];
    fill(&mut input, &[batch("users", bad)]).await;
    let output = run_over(&gateway, &input, &letters).await;
    assert_eq!(input.floor(), 1, "the floor moves over what is parked");
    let parked = letters.letters();
    let reasons: Vec<&str> = parked.iter().map(|letter| letter.reason.as_str()).collect();
    assert!(
        reasons[0].contains("none of the route's values"),
        "{reasons:?}"
    );
    assert!(reasons[1].contains("not JSON"), "{reasons:?}");
    let passed: usize = output
        .entries()
        .iter()
        .map(|batch| batch.changes().len())
        .sum();
    assert_eq!(passed, 3, "one document, and its delete in two places");

    // A letter that is sent again before anything newer is refused again; a newer change settles it.
    input.replay(&parked[0]);
    fill(
        &mut input,
        &[batch("users", vec![index(1, 9, r#"{"country":"fr"}"#)])],
    )
    .await;
    input.replay(&parked[0]);
    run_over(&gateway, &input, &letters).await;
    assert_eq!(letters.letters().len(), 1);
    assert_eq!(
        letters.replayed(),
        [Replayed::Refused, Replayed::Superseded]
    );
    assert!(DeadLetters::may_hold(
        &letters,
        &"users".parse().unwrap(),
        &index(2, 2, "")
    ));
}

/// Several entries are at work at once, and each of them has to know of the letters of those before it.
#[tokio::test(start_paused = true)]
async fn a_letter_is_settled_by_what_comes_right_behind_it_however_large_both_are() {
    let gateway = Gateway::with(BY_COUNTRY);
    let (mut input, letters) = (MemoryLog::default(), MemoryStore::default());
    let large = |id, position, country: &str| {
        let text = format!(r#"{{"country":"{country}","pad":"{}"}}"#, "x".repeat(LARGE));
        batch("users", vec![index(id, position, &text)])
    };
    let mut batches = Vec::new();
    for id in 0..20 {
        batches.push(large(id, 2 * id + 1, "xx"));
        batches.push(large(id, 2 * id + 2, if id == 7 { "yy" } else { "de" }));
    }
    fill(&mut input, &batches).await;
    run_over(&gateway, &input, &letters).await;
    let left = letters.letters();
    let left: Vec<_> = left
        .iter()
        .filter_map(|letter| letter.change.as_ref())
        .map(|change| (change.id.as_str(), change.version.position()))
        .collect();
    assert_eq!(
        left,
        [("7", 16)],
        "the newest state of a document, where no rule had an answer"
    );
}

#[tokio::test(start_paused = true)]
async fn definitions_go_where_documents_may_go_and_nowhere_else() {
    let gateway = Gateway::with(
        "filters: [{ drop: { index: logs } }]\n\
         transforms: [{ on: { index: users }, route: { index: 'u-{country}', values: [de, fr] } }]",
    );
    let (mut input, letters) = (MemoryLog::default(), MemoryStore::default());
    for name in ["users", "logs", "assets"] {
        use pipeline::MessageSink;
        let raw = |text: &str| serde_json::value::RawValue::from_string(text.to_owned()).unwrap();
        let definition = IndexDefinition {
            product: "elasticsearch 8".to_owned(),
            settings: raw("{}"),
            mappings: raw("{}"),
            aliases: None,
            lineage: None,
        };
        let content = Content::Definition(definition);
        let message = Arc::new(Batch {
            content,
            ..batch(name, Vec::new())
        });
        drop(input.publish(&message, 0).await.unwrap());
    }
    let output = run_over(&gateway, &input, &letters).await;
    let entries = output.entries();
    let defined: Vec<&str> = entries.iter().map(|batch| batch.index.as_str()).collect();
    assert_eq!(defined, ["u-de", "u-fr", "assets"]);
    assert_eq!(input.floor(), 3);
}

#[tokio::test(start_paused = true)]
async fn emptying_an_index_takes_its_documents_and_letters_away_everywhere_and_no_others() {
    let gateway = Gateway::with(
        "transforms:\n\
         - { on: { index: users }, route: { index: 'users-{country}', values: [de, fr] } }\n\
         - { on: { index: assets }, route: { index: media } }\n",
    );
    let (mut input, letters) = (MemoryLog::default(), MemoryStore::default());
    let store = MemoryStore::default();
    let german = r#"{"country":"de"}"#;
    let history = [
        batch(
            "users",
            vec![
                index(1, 1, german),
                index(2, 2, r#"{"country":"fr"}"#),
                index(3, 3, r#"{"country":"xx"}"#),
            ],
        ),
        batch("assets", vec![index(4, 4, "{}")]),
        // It would go where the assets are.
        batch("media", vec![index(5, 5, "{}")]),
        clear("media", 50),
        clear("users", 50),
        batch("users", vec![index(6, 51, german)]),
    ];
    fill(&mut input, &history[..4]).await;
    write(&run_over(&gateway, &input, &letters).await, &store).await;
    assert_eq!(letters.letters().len(), 2, "of users/3 and of media");
    assert_eq!(found(&store).len(), 3);
    fill(&mut input, &history[4..]).await;
    write(&run_over(&gateway, &input, &letters).await, &store).await;
    let left = letters.letters();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(
        left[0]
            .reason
            .contains("media belongs to the documents of assets"),
        "{left:?}"
    );
    let there: Vec<(String, String)> = found(&store).into_keys().collect();
    let place = |index: &str, id: &str| (index.to_owned(), id.to_owned());
    assert_eq!(there, [place("media", "4"), place("users-de", "6")]);
}

#[tokio::test(start_paused = true)]
async fn where_deletes_do_not_go_on_an_index_is_not_emptied_either() {
    let gateway = Gateway::with("filters: [{ drop: { operation: delete } }]");
    let (mut input, letters) = (MemoryLog::default(), MemoryStore::default());
    fill(
        &mut input,
        &[batch("users", vec![index(1, 1, "{}")]), clear("users", 9)],
    )
    .await;
    let output = run_over(&gateway, &input, &letters).await;
    let cleared = output
        .entries()
        .into_iter()
        .filter(|batch| matches!(batch.content, Content::Clear(_)));
    assert_eq!(cleared.count(), 0);
    assert_eq!(input.floor(), 2);
}
