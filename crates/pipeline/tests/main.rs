#![allow(clippy::unwrap_used, reason = "tests")]
//! The two loops against the fakes: whatever fails and whoever dies, the target ends up equal.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use model::{
    Action, Batch, Change, Content, Document, DocumentId, Epoch, IndexName, Origin, Version,
};
use pipeline::{
    ApplyOptions, Fault, Filter, Filtered, PublishOptions, Verdict, apply, channel,
    fake::{Answer, Arrival, MemoryLog, MemoryStore, ScriptedSource},
    publish,
};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

mod reached;

const INDEX: &str = "movies";

/// What a document has in it that the target may refuse.
const BAD: &str = "bad";

fn change(id: u64, position: u64, delete: bool) -> Change {
    let text = if position.is_multiple_of(3) {
        BAD
    } else {
        "good"
    };
    let document = format!("{{\"n\":{position},\"is\":\"{text}\"}}");
    Change {
        id: DocumentId::try_from(id.to_string().as_str()).unwrap(),
        routing: None,
        version: Version::new(Epoch(0), position).unwrap(),
        over: false,
        action: match delete {
            true => Action::Delete,
            false => Action::Index(Document::from_json(document.into())),
        },
    }
}

fn batch(changes: Vec<Change>) -> Batch {
    Batch {
        index: IndexName::try_from(INDEX).unwrap(),
        origin: Origin::now("scripted".into()),
        content: Content::Changes(changes),
    }
}

/// A random history over a few documents, in batches in which no document occurs twice. A delete has a
/// number of its own, or that of the change before it.
fn history(seed: u64) -> Vec<Batch> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let (mut position, mut last) = (0, [0; 8]);
    let mut batches = Vec::new();
    for _ in 0..dice.usize(1..30) {
        let mut ids: Vec<u64> = (0..8).collect();
        dice.shuffle(&mut ids);
        ids.truncate(dice.usize(0..6));
        let changes = ids.into_iter().map(|id| {
            let delete = dice.u8(0..4) == 0;
            let before = &mut last[id as usize];
            if !delete || *before == 0 || dice.bool() {
                position += 1;
                *before = position;
            }
            change(id, *before, delete)
        });
        batches.push(batch(changes.collect()));
    }
    batches
}

/// A random history of a database: all changes of a transaction have one version, some documents change
/// several times in it, and now and then everything is gone in the middle of one.
fn transactions(seed: u64) -> Vec<Batch> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut batches = Vec::new();
    for position in 1..dice.u64(2..20) {
        for part in 0..dice.u64(1..4) {
            if dice.u8(0..8) == 0 {
                let upto = Version::new(Epoch(0), position).unwrap();
                batches.push(Batch {
                    content: Content::Clear(upto),
                    ..batch(Vec::new())
                });
                continue;
            }
            let mut ids: Vec<u64> = (0..8).collect();
            dice.shuffle(&mut ids);
            ids.truncate(dice.usize(0..6));
            let changes = ids.into_iter().map(|id| {
                let mut change = change(id, position, dice.u8(0..4) == 0);
                if let Action::Index(document) = &mut change.action {
                    let text = format!("{{\"n\":{position},\"part\":{part}}}");
                    *document = Document::from_json(text.into());
                    change.over = true;
                }
                change
            });
            batches.push(batch(changes.collect()));
        }
    }
    batches
}

/// What must be at the target in the end.
fn truth(batches: &[Batch]) -> BTreeMap<String, Bytes> {
    let mut documents = BTreeMap::new();
    for batch in batches {
        if matches!(batch.content, Content::Clear(_)) {
            documents.clear();
        }
        write_all(batch, &mut documents);
    }
    documents
}

fn write_all(batch: &Batch, documents: &mut BTreeMap<String, Bytes>) {
    for change in batch.changes() {
        match change.document() {
            Some(d) => {
                documents.insert(change.id.to_string(), Bytes::copy_from_slice(d.as_bytes()))
            }
            None => documents.remove(change.id.as_str()),
        };
    }
}

fn found(store: &MemoryStore) -> BTreeMap<String, Bytes> {
    store
        .documents()
        .into_iter()
        .map(|((_, id, _), document)| (id, document))
        .collect()
}

fn options(dice: &mut fastrand::Rng) -> ApplyOptions {
    ApplyOptions {
        lanes: dice.usize(1..5),
        bulk_count: dice.usize(1..10),
        entries: dice.usize(1..20),
        ..ApplyOptions::default()
    }
}

/// Somewhere in a history all documents are asked for again, as they are then and in another form, as
/// after the change of a rule; a page of them may be read once more after that.
fn ask_again(batches: &mut Vec<Batch>, dice: &mut fastrand::Rng) {
    let at = dice.usize(0..=batches.len());
    let mut again: Vec<Change> = newest(&batches[..at])
        .into_values()
        .filter(|change| change.document().is_some())
        .collect();
    for change in &mut again {
        let other = format!("{{\"again\":{}}}", change.version.position());
        change.action = Action::Update(Document::from_json(other.into()));
    }
    if dice.bool() {
        batches.insert(at, batch(again.clone()));
    }
    again.iter_mut().for_each(|change| change.over = true);
    batches.insert(at, batch(again));
}

/// A history, with or without that.
fn asked_again(seed: u64) -> Vec<Batch> {
    let mut batches = history(seed);
    let mut dice = fastrand::Rng::with_seed(seed);
    if dice.bool() {
        ask_again(&mut batches, &mut dice);
    }
    batches
}

/// What becomes of the next batches, fewer than `most`.
fn arrivals(dice: &mut fastrand::Rng, most: usize) -> Vec<Arrival> {
    let fates = [Arrival::Stored, Arrival::Lost, Arrival::Unacknowledged];
    let count = dice.usize(0..most);
    (0..count).map(|_| fates[dice.usize(0..3)]).collect()
}

/// What the store says to the next bulks.
fn answers(dice: &mut fastrand::Rng) -> Vec<Answer> {
    let count = dice.usize(0..10);
    let answers = (0..count).map(|_| match dice.bool() {
        true => Answer::Written,
        false => Answer::Busy,
    });
    answers.collect()
}

/// Both ends are killed at random moments, messages and acknowledgments get lost, the store is busy
/// and keeps no tombstones; then everything is left to finish.
async fn survive(seed: u64, batches: Vec<Batch>) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let expected = truth(&batches);
    let source = ScriptedSource::new(batches);
    let log = MemoryLog::default();
    let store = MemoryStore::default();
    let (never, window) = (CancellationToken::new(), PublishOptions::default());

    for _ in 0..dice.usize(0..8) {
        log.plan(arrivals(&mut dice, 6));
        store.plan(answers(&mut dice));
        let life = Duration::from_millis(dice.u64(0..400));
        let (mut source, mut sink, mut reader) = (source.restarted(), log.clone(), log.reader());
        let publishing = publish(&mut source, &mut sink, &window, &(), &never);
        let applying = apply(
            &mut reader,
            Arc::new(store.clone()),
            Arc::new(store.clone()),
            Arc::new(()),
            options(&mut dice),
            &never,
        );
        // Dropping the futures in the middle is the crash.
        let _crashed =
            tokio::time::timeout(life, async { tokio::join!(publishing, applying) }).await;
    }

    let mut restarted = source.restarted();
    publish(
        &mut restarted,
        &mut log.clone(),
        &PublishOptions::default(),
        &(),
        &never,
    )
    .await
    .expect("the log takes everything");
    log.end();
    let store = Arc::new(store);
    apply(
        &mut log.reader(),
        store.clone(),
        store.clone(),
        Arc::new(()),
        options(&mut dice),
        &never,
    )
    .await
    .expect("the store takes everything");
    assert_eq!(found(&store), expected, "seed {seed}");
}

/// The newest change of each document.
fn newest(batches: &[Batch]) -> BTreeMap<String, Change> {
    let changes = batches.iter().flat_map(|batch| batch.changes());
    changes
        .map(|change| (change.id.to_string(), change.clone()))
        .collect()
}

/// Applies what the log has, and is killed if that takes longer than a life.
async fn live(log: &MemoryLog, store: &MemoryStore, dice: &mut fastrand::Rng, life: Duration) {
    let (mut reader, never) = (log.reader(), CancellationToken::new());
    let store = Arc::new(store.clone());
    let applying = apply(
        &mut reader,
        store.clone(),
        store,
        Arc::new(()),
        options(dice),
        &never,
    );
    let ended = tokio::time::timeout(life, applying).await;
    assert!(!matches!(ended, Ok(Err(_))), "{ended:?}");
}

/// Batches as a publisher sends them that fails now and then: everything again from some point on.
fn repeated(batches: &[Batch], dice: &mut fastrand::Rng) -> Vec<Batch> {
    let mut sent = Vec::new();
    for (at, batch) in batches.iter().enumerate() {
        sent.push(batch.clone());
        if dice.u8(0..6) == 0 {
            sent.extend_from_slice(&batches[dice.usize(0..=at)..=at]);
        }
    }
    sent
}

/// What lies below the floor is at the target, or a letter stands for it.
fn assert_settled(log: &MemoryLog, store: &MemoryStore, seed: u64) {
    let entries = log.entries();
    let changes = |upto: u64| {
        let entries = entries.iter().take(upto as usize);
        entries.flat_map(|batch| batch.changes().to_vec())
    };
    let mut newest: BTreeMap<String, Change> = BTreeMap::new();
    for change in changes(log.floor()) {
        let held = newest
            .entry(change.id.to_string())
            .or_insert(change.clone());
        if change.version >= held.version {
            *held = change;
        }
    }
    let (letters, found) = (store.letters(), found(store));
    for (id, newest) in newest {
        let covers = |change: &Change| change.id == newest.id && change.version >= newest.version;
        let parked = letters
            .iter()
            .filter_map(|letter| letter.change.as_ref())
            .any(covers);
        let deleted = changes(u64::MAX).any(|c| covers(&c) && c.document().is_none());
        let written = changes(u64::MAX).any(|c| {
            let document = c.document().map(|d| Bytes::copy_from_slice(d.as_bytes()));
            covers(&c) && document.is_some() && found.get(&id) == document.as_ref()
        });
        assert!(
            parked || deleted || written,
            "seed {seed}: {id} is neither parked nor written"
        );
    }
}

/// The target refuses some documents for a while. Letters are sent again at any time, also those that
/// have been dealt with since; readers are killed and begin again at their floor; the store is busy and
/// keeps no tombstones.
async fn survive_letters(seed: u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let batches = history(seed);
    let (expected, newest) = (truth(&batches), newest(&batches));
    let (log, store) = (MemoryLog::default(), MemoryStore::default());
    store.refuse(Some(BAD));
    let mut seen = Vec::new();
    for batch in repeated(&batches, &mut dice) {
        publish_one(&log, batch).await;
        store.plan((0..dice.usize(0..4)).map(|_| match dice.u8(0..4) {
            0 => Answer::Busy,
            _ => Answer::Written,
        }));
        if dice.bool() {
            let life = Duration::from_millis(dice.u64(0..40));
            live(&log, &store, &mut dice, life).await;
            assert_settled(&log, &store, seed);
            log.set_back(dice.u64(0..6));
        }
        seen.extend(store.letters());
        if dice.bool()
            && let Some(letter) = dice.choice(seen.iter())
        {
            log.replay(letter);
        }
        if dice.u8(0..8) == 0 {
            store.refuse(dice.choice([None, Some(BAD)]).flatten());
        }
    }
    // Equal, or a letter says why not.
    log.end();
    live(&log, &store, &mut dice, Duration::MAX).await;
    let (letters, found_now) = (store.letters(), found(&store));
    for (id, change) in &newest {
        let mut parked = letters.iter().filter_map(|letter| letter.change.as_ref());
        match parked.find(|parked| parked.id.as_str() == id) {
            Some(letter) => assert_eq!(letter, change, "seed {seed}: the letter of {id} is old"),
            None => assert_eq!(found_now.get(id), expected.get(id), "seed {seed}: {id}"),
        }
    }
    // The mapping is corrected, and what there is of letters is sent again, some twice.
    store.refuse(None);
    for letter in &letters {
        (0..dice.usize(1..3)).for_each(|_| log.replay(letter));
    }
    live(&log, &store, &mut dice, Duration::MAX).await;
    assert_eq!(found(&store), expected, "seed {seed}");
    assert!(store.letters().is_empty(), "seed {seed}");
}

async fn publish_one(log: &MemoryLog, batch: Batch) {
    let mut source = ScriptedSource::new(vec![batch]);
    publish(
        &mut source,
        &mut log.clone(),
        &PublishOptions::default(),
        &(),
        &CancellationToken::new(),
    )
    .await
    .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_dead_letter_sent_again_never_beats_what_came_after_it(seed: u64) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(survive_letters(seed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_crashes_or_gets_lost_the_target_ends_up_equal(seed: u64) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(survive(seed, asked_again(seed)));
    }

    #[test]
    fn transactions_and_what_clears_an_index_survive_all_of_that_too(seed: u64) {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(survive(seed, transactions(seed)));
    }
}

/// Runs a whole copy through a channel.
async fn copy(batches: Vec<Batch>, store: &MemoryStore) -> ScriptedSource {
    copy_with(batches, store, ApplyOptions::default()).await
}

async fn copy_with(
    batches: Vec<Batch>,
    store: &MemoryStore,
    options: ApplyOptions,
) -> ScriptedSource {
    let never = CancellationToken::new();
    let (source, published) = copy_until(batches, store, options, &never).await;
    published.unwrap();
    source
}

/// The same until it has to stop; also says how publishing has ended.
async fn copy_until(
    batches: Vec<Batch>,
    store: &MemoryStore,
    options: ApplyOptions,
    shutdown: &CancellationToken,
) -> (ScriptedSource, Result<(), Fault>) {
    let source = ScriptedSource::new(batches);
    let (mut sink, mut reader) = channel(4);
    let (mut reading, store) = (source.clone(), Arc::new(store.clone()));
    let publishing = async {
        let window = PublishOptions::default();
        let published = publish(&mut reading, &mut sink, &window, &(), shutdown).await;
        drop(sink);
        published
    };
    let applying = apply(
        &mut reader,
        store.clone(),
        store.clone(),
        Arc::new(()),
        options,
        shutdown,
    );
    let (published, applied) = tokio::join!(publishing, applying);
    applied.unwrap();
    (source, published)
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_has_to_stop_in_the_middle_ends_and_confirms_only_what_is_there() {
    for after in 0..30 {
        let batches = (0..40).map(|n| batch(vec![change(n, n * 3 + 1, false)]));
        let (store, stop) = (MemoryStore::default(), CancellationToken::new());
        let options = ApplyOptions {
            max_rate: NonZeroU64::new(100),
            ..ApplyOptions::default()
        };
        let stopping = async {
            tokio::time::sleep(Duration::from_millis(after * 10)).await;
            stop.cancel();
        };
        let copying = copy_until(batches.collect(), &store, options, &stop);
        let both = async { tokio::join!(copying, stopping) };
        let ended = tokio::time::timeout(Duration::from_secs(60), both).await;
        let ((source, _), ()) = ended.expect("it ends");
        let there = store.documents().len();
        assert!(source.confirmed() <= there, "after {after}: {there}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_lanes_together_keep_to_the_rate() {
    let changes = (0..1000).map(|number| change(number, number * 3 + 1, false));
    let batches: Vec<Batch> = changes.map(|change| batch(vec![change])).collect();
    let options = ApplyOptions {
        max_rate: NonZeroU64::new(100),
        ..ApplyOptions::default()
    };
    let begun = tokio::time::Instant::now();
    let store = MemoryStore::default();
    copy_with(batches, &store, options).await;
    assert_eq!(store.documents().len(), 1000);
    assert_eq!(
        begun.elapsed().as_secs(),
        10,
        "a thousand at a hundred a second"
    );
}

#[tokio::test(start_paused = true)]
async fn a_copy_in_one_process_confirms_everything_once_the_target_has_it() {
    let store = MemoryStore::default();
    let batches = history(7);
    let (expected, count) = (truth(&batches), batches.len());
    let source = copy(batches, &store).await;
    assert_eq!(found(&store), expected);
    assert_eq!(source.confirmed(), count);
}

#[tokio::test(start_paused = true)]
async fn a_refused_change_is_parked_with_its_reason_and_the_rest_goes_on() {
    let store = MemoryStore::default();
    store.plan([Answer::Written, Answer::Refused, Answer::Written]);
    let changes = (1..=3).map(|n| change(n, n, false)).collect();
    let store_options = vec![batch(changes)];
    copy(store_options, &store).await;
    let letters = store.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "refused");
    assert_eq!(found(&store).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unacknowledged_batch_is_published_again_with_all_that_came_after_it() {
    let log = MemoryLog::default();
    log.plan([Arrival::Stored, Arrival::Unacknowledged]);
    let mut source =
        ScriptedSource::new((1..=4).map(|n| batch(vec![change(n, n, false)])).collect());
    let never = CancellationToken::new();
    publish(
        &mut source,
        &mut log.clone(),
        &PublishOptions::default(),
        &(),
        &never,
    )
    .await
    .unwrap();
    let order: Vec<u64> = log
        .entries()
        .iter()
        .map(|b| b.changes()[0].version.position())
        .collect();
    let tail = &order[order.len() - 3..];
    assert_eq!(tail, [2, 3, 4], "the log has {order:?}");
    assert_eq!(source.confirmed(), 4);
}

/// Changes one by one, and among them marks that all so far has been handed on.
fn marked(dice: &mut fastrand::Rng) -> Vec<Batch> {
    let mut batches = Vec::new();
    for position in 1..dice.u64(2..40) {
        batches.push(batch(vec![change(position, position, false)]));
        for _ in 0..dice.usize(0..3) {
            let reached = Version::new(Epoch(0), position).unwrap();
            batches.push(Batch {
                content: Content::Reached(reached),
                ..batch(Vec::new())
            });
        }
    }
    batches
}

/// The log loses messages and acknowledgments, and the publisher is killed at random moments.
async fn tell(seed: u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let batches = marked(&mut dice);
    let (source, log) = (ScriptedSource::new(batches.clone()), MemoryLog::default());
    let (never, window) = (CancellationToken::new(), PublishOptions::default());
    for round in (0..dice.usize(1..6)).rev() {
        let (mut source, mut sink) = (source.restarted(), log.clone());
        let publishing = publish(&mut source, &mut sink, &window, &(), &never);
        match round {
            0 => publishing.await.expect("the log takes everything"),
            _ => {
                log.plan(arrivals(&mut dice, 12));
                let life = Duration::from_millis(dice.u64(0..300));
                let _crashed = tokio::time::timeout(life, publishing).await;
            }
        }
    }
    let (mut there, mut told) = (BTreeSet::new(), BTreeSet::new());
    for entry in log.entries() {
        if let Content::Reached(reached) = entry.content {
            let missing = (1..=reached.position()).find(|position| !there.contains(position));
            assert_eq!(missing, None, "seed {seed}: {reached:?} is told too early");
            told.insert(reached.position());
        }
        there.extend(
            entry
                .changes()
                .iter()
                .map(|change| change.version.position()),
        );
    }
    let marks = batches.iter().filter_map(|batch| match batch.content {
        Content::Reached(reached) => Some(reached.position()),
        _ => None,
    });
    assert_eq!(told, marks.collect(), "seed {seed}: every mark gets there");
    assert_eq!(source.confirmed(), batches.len(), "seed {seed}");
}

proptest! {
    #[test]
    fn nothing_is_told_before_the_log_has_all_that_it_tells_of(seed: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        runtime.block_on(tell(seed));
    }
}

/// A mark waits for what is before it, and nothing waits for the mark.
#[tokio::test(start_paused = true)]
async fn what_comes_after_a_mark_is_on_its_way_while_the_mark_waits() {
    let log = MemoryLog::default();
    let mark = Batch {
        content: Content::Reached(Version::new(Epoch(0), 1).unwrap()),
        ..batch(Vec::new())
    };
    let one = |n| batch(vec![change(n, n, false)]);
    let mut source = ScriptedSource::new(vec![one(1), mark, one(2)]);
    let never = CancellationToken::new();
    let options = PublishOptions::default();
    publish(&mut source, &mut log.clone(), &options, &(), &never)
        .await
        .unwrap();
    let order: Vec<bool> = log
        .entries()
        .iter()
        .map(|entry| matches!(entry.content, Content::Reached(_)))
        .collect();
    assert_eq!(order, [false, false, true]);
    assert_eq!(source.confirmed(), 3);
}

#[tokio::test(start_paused = true)]
async fn no_bulk_holds_two_changes_of_one_document() {
    let (log, store) = (MemoryLog::default(), Arc::new(MemoryStore::default()));
    let (never, window) = (CancellationToken::new(), PublishOptions::default());
    let batches = vec![
        batch(vec![change(1, 1, false)]),
        batch(vec![change(1, 2, true)]),
    ];
    let mut source = ScriptedSource::new(batches);
    publish(&mut source, &mut log.clone(), &window, &(), &never)
        .await
        .unwrap();
    log.end();
    // Both changes are gathered for one bulk, and the first is not written now. Were the older in
    // that bulk, it would be sent again after the delete, and the document would return.
    store.plan([Answer::Busy]);
    let options = ApplyOptions {
        linger: Duration::from_millis(50),
        ..ApplyOptions::default()
    };
    let (letters, observer) = (store.clone(), Arc::new(()));
    let mut reader = log.reader();
    apply(
        &mut reader,
        store.clone(),
        letters,
        observer,
        options,
        &never,
    )
    .await
    .unwrap();
    assert!(store.documents().is_empty());
}

/// Lets only even ids through.
struct Even;

impl Filter for Even {
    fn evaluate(&self, _: &IndexName, change: &Change) -> Verdict {
        match change.id.as_str().parse::<u64>() {
            Ok(id) if id % 2 == 0 => Verdict::Keep,
            _ => Verdict::Drop,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_filter_drops_never_reaches_the_log_and_is_confirmed_all_the_same() {
    let (log, never) = (MemoryLog::default(), CancellationToken::new());
    let batches = vec![
        batch((1..=4).map(|n| change(n, n, false)).collect()),
        batch(vec![change(5, 5, false)]),
    ];
    let source = ScriptedSource::new(batches);
    let mut filtered = Filtered::new(source.clone(), Even);
    let window = PublishOptions::default();
    publish(&mut filtered, &mut log.clone(), &window, &(), &never)
        .await
        .unwrap();
    let ids: Vec<String> = log
        .entries()
        .iter()
        .flat_map(|b| b.changes().to_vec())
        .map(|c| c.id.to_string())
        .collect();
    assert_eq!(ids, ["2", "4"]);
    assert_eq!(log.entries().len(), 1, "an empty batch is not published");
    assert_eq!(source.confirmed(), 2);
}
