//! How far a source has come is told when all of it is at the target, and never before.

use pipeline::fake::Told;

use super::*;

fn reached(position: u64) -> Batch {
    Batch {
        content: Content::Reached(Version::new(Epoch(0), position).unwrap()),
        ..batch(Vec::new())
    }
}

/// A history in which the source tells now and then how far it has come.
fn telling(seed: u64) -> Vec<Batch> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut batches = Vec::new();
    let mut position = 0;
    for batch in history(seed) {
        let positions = batch.changes().iter().map(|c| c.version.position());
        position = positions.fold(position, u64::max);
        batches.push(batch);
        for _ in 0..dice.usize(0..3) {
            batches.push(reached(position));
        }
    }
    batches.push(reached(position + 1));
    batches
}

/// Every change up to what was told was there then, or what came after it.
/// A store without tombstones forgets a delete when what came before it is sent again, so without a fault only
/// are deletes compared.
fn assert_true(batches: &[Batch], told: &Told, fails: bool, seed: u64) {
    let (_, version, documents) = told;
    let changes = || batches.iter().flat_map(|batch| batch.changes());
    let is_it = |batch: &&Batch| !matches!(batch.content, Content::Reached(v) if v == *version);
    let ahead = batches.iter().take_while(is_it);
    let mut newest = BTreeMap::new();
    for change in ahead.flat_map(|batch| batch.changes()) {
        newest.insert(&change.id, change);
    }
    for (id, change) in newest {
        let place = (INDEX.to_owned(), id.to_string(), None);
        let held = documents.get(&place).map(|(version, _)| *version);
        let is_right = match (change.document(), held) {
            (Some(_), Some(held)) => held >= change.version,
            (None, None) => true,
            (None, Some(_)) if fails => true,
            (None, Some(held)) => held > change.version,
            // It was there and is deleted by a later change.
            (Some(_), None) => changes().any(|later| {
                later.id == *id && later.document().is_none() && later.version >= change.version
            }),
        };
        assert!(
            is_right,
            "seed {seed}: {version} was told while {id} had {held:?} and not {}",
            change.version
        );
    }
}

/// The store is busy; with `fails`, messages and acknowledgments get lost and both ends are killed.
async fn tell(seed: u64, fails: bool) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let batches = telling(seed);
    let source = ScriptedSource::new(batches.clone());
    let (log, store) = (MemoryLog::default(), Arc::new(MemoryStore::default()));
    let (never, window) = (CancellationToken::new(), PublishOptions::default());
    let lives = if fails { dice.usize(0..6) } else { 0 };
    for life in 0..=lives {
        if fails {
            log.plan(arrivals(&mut dice, 8));
        }
        store.plan(answers(&mut dice));
        let (mut source, mut sink, mut reader) = (source.restarted(), log.clone(), log.reader());
        let publishing = async {
            let published = publish(&mut source, &mut sink, &window, &(), &never).await;
            if life == lives {
                log.end();
            }
            published
        };
        let (letters, observer) = (store.clone(), Arc::new(()));
        let options = options(&mut dice);
        let applying = apply(
            &mut reader,
            store.clone(),
            letters,
            observer,
            options,
            &never,
        );
        let both = async { tokio::join!(publishing, applying) };
        if life == lives {
            let (published, applied) = both.await;
            published.unwrap();
            applied.unwrap();
        } else {
            let life = Duration::from_millis(dice.u64(0..400));
            let _crashed = tokio::time::timeout(life, both).await;
        }
    }
    let told = store.reached();
    told.iter()
        .for_each(|told| assert_true(&batches, told, fails, seed));
    let last = batches.last().map(|batch| &batch.content);
    let Some(Content::Reached(last)) = last else {
        panic!("the history ends with it");
    };
    assert!(
        told.iter().any(|(_, version, _)| version == last),
        "seed {seed}: the end was not told"
    );
    assert_eq!(found(&store), truth(&batches), "seed {seed}");
}

proptest! {
    #[test]
    fn nothing_is_told_before_it_is_so_and_the_end_is_told_whatever_fails(seed: u64, fails: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(tell(seed, fails));
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_in_one_process_tells_how_far_it_has_come() {
    let store = MemoryStore::default();
    let batches = telling(7);
    copy(batches.clone(), &store).await;
    let told = store.reached();
    assert!(!told.is_empty());
    told.iter()
        .for_each(|told| assert_true(&batches, told, false, 7));
}
