use std::collections::BTreeMap;

use model::{Action, Change, DocumentId, IndexName, Version};
use proptest::prelude::*;

use super::*;
use crate::ledger::{Counts, Entry, Gone, Shelved, Stood, block_of, remembered};

fn shard(number: u32) -> ShardKey {
    let index = IndexName::try_from("movies").unwrap();
    ShardKey {
        index,
        shard: number,
    }
}

fn history(name: &str) -> History {
    History {
        index_uuid: "i".into(),
        history_uuid: name.into(),
    }
}

fn change(id: &str, seq_no: u64) -> Change {
    Change {
        id: DocumentId::try_from(id).unwrap(),
        routing: id.ends_with('r').then(|| "röute".into()),
        version: Version::new(Epoch(3), seq_no).unwrap(),
        over: false,
        action: Action::Delete, // what it does is nothing to the ledger
    }
}

fn name(id: u8) -> String {
    format!("{id}{}", if id.is_multiple_of(3) { "r" } else { "" })
}

fn entry(id: u8, seq_no: u64) -> Entry {
    Entry {
        seq_no,
        id: DocumentId::try_from(name(id).as_str()).unwrap(),
        routing: None,
    }
}

fn enter(ledger: &Ledger, book: Book, changes: &[Change], upto: i64) {
    let title = title(&shard(0), &history("h"));
    let page = Page {
        book,
        title: &title,
        changes,
        upto,
    };
    ledger.enter([page]).unwrap();
}

fn all(ledger: &Ledger, book: Book) -> Vec<(u64, String)> {
    let entries = ledger.entries(book, 0..=SEQ_NO).unwrap().into_iter();
    entries
        .map(|entry| (entry.seq_no, entry.id.to_string()))
        .collect()
}

#[test]
fn a_book_is_found_again_with_all_that_was_entered() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    let opened = ledger
        .begin(&shard(0), &history("h"), Epoch(3), -1)
        .unwrap();
    assert_eq!((opened.upto, opened.whole), (-1, true));
    enter(&ledger, opened.book, &[change("a", 3), change("b r", 7)], 9);
    drop(ledger);
    let ledger = Ledger::open(folder.path()).unwrap();
    let again = ledger.begin(&shard(0), &history("h"), Epoch(3), 9).unwrap();
    assert_eq!(again, Opened { upto: 9, ..opened });
    let entries = ledger.entries(opened.book, 4..=7).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].id.as_str(), "b r");
    assert_eq!(entries[0].routing.as_deref(), Some("röute"));
    let other = ledger
        .begin(&shard(0), &history("other"), Epoch(3), 9)
        .unwrap();
    assert!(other.book != opened.book && !other.whole);
    let shelf = ledger.shelf(&shard(0).index).unwrap();
    assert_eq!(shelf.len(), 2);
    assert!(all(&ledger, other.book).is_empty());
}

#[test]
fn a_history_that_begins_again_has_a_new_book_and_the_old_one_stays_on_the_shelf() {
    let ledger = Ledger::temporary().unwrap();
    let begin = |epoch, published| {
        let opened = ledger.begin(&shard(0), &history("h"), Epoch(epoch), published);
        opened.unwrap()
    };
    let old = begin(0, -1);
    enter(&ledger, old.book, &[change("a", 3)], 9);
    let new = begin(1, -1);
    assert!(new.book != old.book && new.upto == -1 && new.whole);
    // A late page of the old book says nothing about the new one.
    enter(&ledger, old.book, &[change("b", 12)], 12);
    enter(&ledger, new.book, &[change("a", 1)], 1);
    assert_eq!(begin(1, 1), Opened { upto: 1, ..new });
    assert_eq!(all(&ledger, old.book), [(3, "a".into()), (12, "b".into())]);
    assert_eq!(all(&ledger, new.book), [(1, "a".into())]);
    let mut shelf = ledger.shelf(&shard(0).index).unwrap();
    shelf.sort_by_key(|shelved| shelved.book.0);
    let shelved = |opened: Opened| Shelved {
        book: opened.book,
        shard: 0,
        index_uuid: "i".into(),
    };
    assert_eq!(shelf, [shelved(old), shelved(new)]);
    assert!(!begin(2, 5).whole);
    assert!(
        !begin(3, -1).whole,
        "what the second did not know is still there"
    );
}

#[test]
fn shards_that_begin_at_once_get_books_of_their_own() {
    let ledger = Ledger::temporary().unwrap();
    let begin = |number| {
        let ledger = ledger.clone();
        std::thread::spawn(move || {
            ledger
                .begin(&shard(number), &history("h"), Epoch(3), -1)
                .unwrap()
        })
    };
    let started: Vec<_> = (0..32).map(begin).collect();
    let books: std::collections::HashSet<Book> = started
        .into_iter()
        .map(|thread| thread.join().unwrap().book)
        .collect();
    assert_eq!(books.len(), 32);
}

#[test]
fn what_was_entered_is_there_again_after_a_death_before_and_amid_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    let book = ledger
        .begin(&shard(0), &history("h"), Epoch(3), -1)
        .unwrap()
        .book;
    enter(&ledger, book, &[change("a", 1), change("b", 2)], 2);
    ledger.settle().unwrap();
    enter(&ledger, book, &[change("a", 3), change("c", 4)], 4);
    // The journal as it is now, beside tables that have all of it: death before it began anew.
    let journal = fs::read(folder.path().join("journal")).unwrap();
    drop(ledger);
    let expected = [(2, "b".into()), (3, "a".into()), (4, "c".into())];
    let ledger = Ledger::open(folder.path()).unwrap();
    assert_eq!(
        all(&ledger, book),
        expected,
        "it stood in the journal alone"
    );
    drop(ledger);
    fs::write(folder.path().join("journal"), journal).unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    assert_eq!(
        all(&ledger, book),
        expected,
        "once more makes no difference"
    );
    assert_eq!(ledger.counts(book, 0..=9).unwrap(), [(0, 3)]);
}

#[test]
fn a_ledger_whose_disk_failed_in_the_last_step_is_whole_when_it_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    let opened = ledger.begin(&shard(0), &history("h"), Epoch(3), -1);
    let book = opened.unwrap().book;
    lmdb::fail_headers(folder.path());
    enter(&ledger, book, &[change("a", 3)], 3);
    let error = ledger.settle().unwrap_err();
    assert!(matches!(error, LedgerError::Write { .. }), "{error}");
    let error = ledger.settle().unwrap_err();
    assert!(matches!(error, LedgerError::Broken { .. }), "{error}");
    drop(ledger);
    let ledger = Ledger::open(folder.path()).unwrap();
    assert_eq!(all(&ledger, book), [(3, "a".into())]);
}

#[test]
fn a_ledger_that_was_cut_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    let opened = ledger
        .begin(&shard(0), &history("h"), Epoch(3), -1)
        .unwrap();
    for page in 0..20u64 {
        let changes: Vec<Change> = (0..100)
            .map(|n| change(&format!("document {page} {n}"), page * 100 + n))
            .collect();
        enter(&ledger, opened.book, &changes, page as i64 * 100 + 99);
    }
    ledger.settle().unwrap();
    drop(ledger);
    let file = folder.path().join("data.mdb");
    let length = fs::metadata(&file).unwrap().len();
    let handle = fs::File::options().write(true).open(&file).unwrap();
    for cut in [length / 2, 9000, 100, 0] {
        handle.set_len(cut).unwrap();
        let error = Ledger::open(folder.path()).unwrap_err();
        assert!(matches!(error, LedgerError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("move it away"), "{error}");
    }
}

#[test]
#[ignore = "a measurement: cargo test -p es-watcher --release --lib -- --ignored --nocapture ledger"]
fn what_the_ledger_costs() {
    const DOCUMENTS: u64 = 1_000_000;
    const PAGE: u64 = 3000;
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    let book = ledger
        .begin(&shard(0), &history("h"), Epoch(3), -1)
        .unwrap()
        .book;
    let (mut dice, mut seq_no) = (fastrand::Rng::with_seed(1), 0);
    for what in ["new", "updated"] {
        let before = testkit::process::Usage::of_this_process().unwrap();
        let started = std::time::Instant::now();
        for page in 0..DOCUMENTS / PAGE {
            let changes: Vec<Change> = (0..PAGE)
                .map(|n| {
                    let document = match what {
                        "new" => page * PAGE + n,
                        _ => dice.u64(0..DOCUMENTS),
                    };
                    seq_no += 1;
                    // Twenty characters without order, as the servers' own ids are.
                    let scrambled = document.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                    change(
                        &format!("{scrambled:016x}{:04x}", document % 65_536),
                        seq_no,
                    )
                })
                .collect();
            enter(&ledger, book, &changes, seq_no as i64);
        }
        let used = testkit::process::Usage::of_this_process()
            .unwrap()
            .since(&before);
        let size = fs::metadata(folder.path().join("data.mdb")).unwrap().len();
        println!(
            "{what}: {:.2} us of CPU a document, {:.0} documents/s, {} bytes a document on disk, {} written",
            used.cpu().as_secs_f64() * 1e6 / DOCUMENTS as f64,
            DOCUMENTS as f64 / started.elapsed().as_secs_f64(),
            size / DOCUMENTS,
            used.written / DOCUMENTS,
        );
    }
    ledger.settle().unwrap();
    let started = std::time::Instant::now();
    let blocks = ledger.counts(book, 0..=SEQ_NO).unwrap().len();
    println!("{blocks} blocks are listed in {:?}", started.elapsed());
}

proptest! {
    /// Against the definition: a map from document to its newest number.
    #[test]
    fn the_ledger_holds_the_newest_number_of_each_document(
        pages in proptest::collection::vec(
            proptest::collection::vec((0u8..40, 0u64..600), 0..30), 1..20),
        forget in proptest::collection::vec((0u8..40, 0u64..600), 0..200),
    ) {
        let ledger = Ledger::temporary().unwrap();
        // Another book with the same ids and numbers must make no difference.
        let other = ledger.begin(&shard(1), &history("h"), Epoch(3), -1).unwrap().book;
        let book = ledger.begin(&shard(0), &history("h"), Epoch(3), -1).unwrap().book;
        let mut model: BTreeMap<String, u64> = BTreeMap::new();
        for page in pages {
            // A page has a document once; a number may be that of several, after a shrink.
            let mut ids = std::collections::HashSet::new();
            let page: Vec<(String, u64)> = page.into_iter()
                .filter(|(id, _)| ids.insert(*id))
                .map(|(id, number)| (name(id), number))
                .collect();
            let changes: Vec<Change> = page.iter().map(|(id, n)| change(id, *n)).collect();
            enter(&ledger, other, &changes, 0);
            enter(&ledger, book, &changes, 0);
            enter(&ledger, book, &changes, 0); // read again after a restart
            for (id, number) in page {
                let newest = model.entry(id).or_insert(number);
                *newest = (*newest).max(number);
            }
        }
        let mut forget: Vec<Entry> = forget.into_iter().map(|(id, number)| entry(id, number)).collect();
        forget.extend(model.iter().filter(|(_, number)| *number % 3 == 0).map(|(id, number)| Entry {
            seq_no: *number,
            id: DocumentId::try_from(id.as_str()).unwrap(),
            routing: None,
        }));
        for gone in &forget {
            prop_assert_eq!(ledger.has(book, gone).unwrap(), model.get(gone.id.as_str()) == Some(&gone.seq_no));
        }
        model.retain(|id, number| !forget.iter().any(|gone| gone.id.as_str() == id && gone.seq_no == *number));
        ledger.forget(&[Arc::new(Gone { book, entries: forget })], Some(7)).unwrap();
        let mut expected: Vec<(u64, String)> =
            model.iter().map(|(id, number)| (*number, id.clone())).collect();
        expected.sort();
        let mut found = all(&ledger, book);
        prop_assert!(found.is_sorted_by_key(|(number, _)| *number));
        found.sort();
        prop_assert_eq!(found, expected.clone());
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        for (number, id) in &expected {
            *counts.entry(block_of(*number)).or_default() += 1;
            let id = DocumentId::try_from(id.as_str()).unwrap();
            prop_assert!(ledger.knows(book, &id).unwrap());
        }
        let counts: Counts = counts.into_iter().collect();
        prop_assert_eq!(ledger.counts(book, 0..=u64::MAX).unwrap(), counts);
    }
}

/// As it is after the watcher has ended; that it may run meanwhile is shown by the test of `explain`.
#[test]
fn a_visitor_sees_a_document_wherever_the_ledger_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let index = shard(0).index;
    let look = |id: u8| {
        let id = DocumentId::try_from(name(id).as_str()).unwrap();
        remembered(folder.path(), &index, &id).unwrap()
    };
    assert_eq!(look(3), None);
    let open = || Ledger::open(&folder.path().join("ledger")).unwrap();
    let ledger = open();
    let opened = ledger.begin(&shard(0), &history("h"), Epoch(3), -1);
    let book = opened.unwrap().book;
    enter(
        &ledger,
        book,
        &[change(&name(3), 3), change(&name(4), 5)],
        9,
    );
    drop(ledger);
    let standing = |id| look(id).unwrap()[0].standing.clone();
    let stood = |seq_no, routing: Option<&str>| {
        let routing = routing.map(Box::from);
        Some(Stood { seq_no, routing })
    };
    let in_journal = look(3).unwrap();
    assert_eq!((in_journal.len(), in_journal[0].read_upto), (1, 9));
    assert_eq!(standing(3), stood(3, Some("röute")));
    assert_eq!((standing(4), standing(5)), (stood(5, None), None));

    let ledger = open();
    ledger.settle().unwrap();
    enter(&ledger, book, &[change(&name(4), 11)], 12);
    drop(ledger);
    assert_eq!(standing(3), stood(3, Some("röute")), "from the tables");
    assert_eq!(standing(4), stood(11, None), "the journal is newer");

    let ledger = open();
    let gone = Gone {
        book,
        entries: vec![entry(3, 3)],
    };
    ledger.forget(&[gone.into()], Some(7)).unwrap();
    ledger
        .begin(&shard(0), &history("h"), Epoch(4), 12)
        .unwrap();
    drop(ledger);
    let mut found = look(3).unwrap();
    found.sort_by_key(|one| one.epoch);
    let told: Vec<(u8, bool, Option<u64>)> = found
        .iter()
        .map(|one| (one.epoch.0, one.over, one.forgotten.map(|gone| gone.seq_no)))
        .collect();
    assert_eq!(told, [(3, true, Some(3)), (4, false, None)]);
}
