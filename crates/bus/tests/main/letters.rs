//! Dead letters: kept, replaced, removed, sent again.

use bus::{
    JetStreamDeadLetters, JetStreamReader, Letter, Letters, StreamSpec,
    dead_letters::{Address, Contents},
};
use model::{
    Action, Change, Document, DocumentId, Epoch, IndexName, Tenant, Version,
    wire::{Encoder, Envelope},
};
use pipeline::{DeadLetter, DeadLetters, Delivery, MessageSource, Payload, Replay, Replayed};
use testkit::unique_name;

use crate::support::{Log, batch, next, next_batch, publish};

const INDEX: &str = "logs.2024";

/// A log with a stream for letters.
struct Desk {
    log: Log,
    spec: StreamSpec,
}

impl Desk {
    async fn new() -> Desk {
        let log = Log::shared().await;
        let spec = StreamSpec::new(&unique_name("dlq"), &format!("dlq.{}.>", log.tenant));
        Desk { log, spec }
    }

    async fn open(&self, reader: &JetStreamReader) -> JetStreamDeadLetters {
        let opened = JetStreamDeadLetters::open(&self.log.bus, &self.spec, reader.correspondent());
        opened.await.unwrap()
    }

    fn letters(&self) -> Letters {
        Letters::new(&self.log.bus, &self.spec.name)
    }

    async fn list(&self, filter: &str) -> Vec<Letter> {
        let mut pages = self.letters().list(filter).await.unwrap();
        let mut letters = Vec::new();
        loop {
            let page = pages.next().await.unwrap();
            if page.is_empty() {
                return letters;
            }
            letters.extend(page);
        }
    }

    async fn all(&self) -> Vec<Letter> {
        self.list("dlq.>").await
    }

    async fn messages(&self) -> u64 {
        let info = bus::stream::info(&self.log.bus, &self.spec.name).await;
        info.unwrap().unwrap().messages
    }

    fn letter(&self, change: &Change, sequence: u64) -> DeadLetter {
        DeadLetter {
            sequence,
            subject: Some(format!("es.{}.logs%2E2024.index", self.log.tenant).into()),
            index: INDEX.to_owned(),
            change: Some(change.clone()),
            body: Default::default(),
            reason: "mapper_parsing_exception:\nfailed to parse".to_owned(),
        }
    }
}

fn change(id: &str, position: u64, size: usize) -> Change {
    Change {
        id: DocumentId::try_from(id).unwrap(),
        routing: None,
        version: Version::new(Epoch(0), position).unwrap(),
        over: false,
        action: Action::Index(Document::from_json(
            format!("\"{}\"", "x".repeat(size)).into(),
        )),
    }
}

fn index() -> IndexName {
    INDEX.parse().unwrap()
}

#[tokio::test]
async fn a_dead_letter_reads_back_as_the_change_it_was() {
    let desk = Desk::new().await;
    let letters = desk.open(&desk.log.reader("r.1").await).await;
    // One of them needs several messages.
    let changes = [
        Change {
            routing: Some("wo/ü".into()),
            ..change("odd\n.id", 7, 10)
        },
        change("large", 8, 3 << 20),
    ];
    for (sequence, change) in (41..).zip(&changes) {
        letters.park(desk.letter(change, sequence)).await.unwrap();
    }
    let unreadable = DeadLetter {
        change: None,
        body: "???".into(),
        ..desk.letter(&changes[0], 43)
    };
    letters.park(unreadable).await.unwrap();

    let listed = desk
        .list(&Address::filter(Some(&desk.log.stream), Some("r.1")))
        .await;
    assert_eq!(listed.len(), 3, "{listed:#?}");
    let first = &listed[0];
    assert_eq!(
        (
            first.id.as_deref(),
            first.routing.as_deref(),
            first.index(),
            first.reader()
        ),
        (Some("odd\n.id"), Some("wo/ü"), INDEX, Some("r.1"))
    );
    assert!(first.is_about("odd\n.id", Some("wo/ü")) && !first.is_about("odd\n.id", None));
    assert_eq!(first.reason, "mapper_parsing_exception: failed to parse");
    assert_eq!((first.sequence, first.attempts), (41, 1));
    assert_eq!(
        first.original,
        format!("es.{}.logs%2E2024.index", desk.log.tenant)
    );
    assert!(
        listed[1].parts > 2 && listed[1].size > 3 << 20,
        "{:?}",
        listed[1]
    );
    for (letter, change) in listed.iter().zip(&changes) {
        match desk.letters().read(letter).await.unwrap() {
            Some(Contents::Change(read)) => assert_eq!(*read, *change),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        desk.letters().read(&listed[2]).await.unwrap(),
        Some(Contents::Unreadable(body)) if body == "???"
    ));
}

#[tokio::test]
async fn a_document_has_one_letter_that_of_its_newest_refused_change() {
    let desk = Desk::new().await;
    let letters = desk.open(&desk.log.reader("r").await).await;
    let (older, newer) = (change("1", 7, 3 << 20), change("1", 9, 1));
    letters.park(desk.letter(&older, 41)).await.unwrap();
    assert!(letters.may_hold(&index(), &older));
    // Read again after a crash: the same letter, not another attempt.
    letters.park(desk.letter(&older, 41)).await.unwrap();
    assert_eq!(desk.all().await[0].attempts, 1);
    letters.park(desk.letter(&newer, 44)).await.unwrap();
    letters.park(desk.letter(&older, 45)).await.unwrap();
    let listed = desk.all().await;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].version, listed[0].attempts),
        (Some(newer.version), 2)
    );
    assert!(listed[0].first_parked <= listed[0].parked);
    assert_eq!(desk.messages().await, 1, "what was replaced is still there");
    assert!(letters.is_parked(&index(), &newer).await.unwrap());
    assert!(!letters.is_parked(&index(), &older).await.unwrap());

    letters.settle(&index(), &older).await.unwrap();
    assert_eq!(
        desk.messages().await,
        1,
        "a change from before it removes no letter"
    );
    letters.settle(&index(), &newer).await.unwrap();
    assert_eq!(desk.messages().await, 0);
    assert!(!letters.may_hold(&index(), &newer));
}

#[tokio::test]
async fn a_reader_that_opens_again_knows_its_letters_and_not_those_of_others() {
    let desk = Desk::new().await;
    let (mut reader, other) = (desk.log.reader("r").await, desk.log.reader("other").await);
    let (letters, others) = (desk.open(&reader).await, desk.open(&other).await);
    let parked = change("1", 7, 1);
    others.park(desk.letter(&parked, 41)).await.unwrap();
    letters.park(desk.letter(&parked, 41)).await.unwrap();
    others.settle(&index(), &parked).await.unwrap();
    assert_eq!(
        desk.all().await.len(),
        1,
        "the other's letter was taken for its own"
    );
    reader.close().await.unwrap();

    let reader = desk.log.reader("r").await;
    let letters = desk.open(&reader).await;
    assert!(letters.is_parked(&index(), &parked).await.unwrap());
    assert!(!letters.may_hold(&index(), &change("2", 7, 1)));
    assert!(!desk.open(&other).await.may_hold(&index(), &parked));
    // An operator has removed it.
    desk.letters().remove(&desk.all().await[0]).await.unwrap();
    assert!(!letters.is_parked(&index(), &parked).await.unwrap());
    assert!(!letters.may_hold(&index(), &parked));
}

#[tokio::test]
async fn a_letter_that_a_replaced_reader_stores_late_is_removed_by_the_next_one() {
    let desk = Desk::new().await;
    let mut readers = Vec::new();
    for _ in 0..2 {
        let mut reader = desk.log.reader("r").await;
        let letters = desk.open(&reader).await;
        letters
            .park(desk.letter(&change("in time", 1, 1), 1))
            .await
            .unwrap();
        reader.close().await.unwrap();
        readers.push(letters);
    }
    // The first of them wakes up, and the document was deleted meanwhile.
    readers[0]
        .park(desk.letter(&change("late", 2, 1), 2))
        .await
        .unwrap();
    assert_eq!(desk.all().await.len(), 2);
    let letters = desk.open(&desk.log.reader("r").await).await;
    let left: Vec<_> = desk
        .all()
        .await
        .into_iter()
        .filter_map(|letter| letter.id)
        .collect();
    assert_eq!(left, ["in time"]);
    assert!(!letters.may_hold(&index(), &change("late", 2, 1)));
}

/// The next entry that is something for its reader, or that follows it.
async fn payload(reader: &mut JetStreamReader) -> Payload {
    let Delivery { payload, .. } = next(reader).await;
    payload
}

/// Else one that is refused again at once would be sent again for ever.
#[tokio::test]
async fn a_listing_ends_where_the_letters_ended_when_it_began() {
    let desk = Desk::new().await;
    let reader = desk.log.reader("r").await;
    let letters = desk.open(&reader).await;
    let (old, new) = (change("1", 7, 1), change("2", 8, 1));
    letters.park(desk.letter(&old, 41)).await.unwrap();
    let mut pages = desk.letters().list("dlq.>").await.unwrap();
    letters.park(desk.letter(&new, 42)).await.unwrap();
    let mut listed = Vec::new();
    loop {
        let page = pages.next().await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|letter| letter.id));
    }
    assert_eq!(listed, [Some("1".to_owned())]);
    assert_eq!(desk.all().await.len(), 2);
}

/// A writer removes letters at any time, as their documents change.
#[tokio::test]
async fn a_listing_misses_nothing_while_other_letters_vanish() {
    const LETTERS: u64 = 200;
    let desk = Desk::new().await;
    let letters = desk.open(&desk.log.reader("r").await).await;
    for number in 1..=LETTERS {
        let refused = change(&number.to_string(), number, 1);
        letters.park(desk.letter(&refused, number)).await.unwrap();
    }
    let removing = async {
        for number in (1..=LETTERS).step_by(2) {
            let taken = change(&number.to_string(), number, 1);
            letters.settle(&index(), &taken).await.unwrap();
        }
    };
    let listing = async {
        for round in 0.. {
            let listed = desk.all().await;
            let mut left = 0;
            let stays = |letter: &&Letter| letter.sequence.is_multiple_of(2);
            left += listed.iter().filter(stays).count() as u64;
            assert_eq!(left, LETTERS / 2, "in round {round}");
            if listed.len() as u64 == LETTERS / 2 {
                return;
            }
        }
    };
    tokio::join!(removing, listing);
}

#[tokio::test]
async fn a_letter_that_is_sent_again_reaches_only_the_reader_that_parked_it() {
    let desk = Desk::new().await;
    let (mut reader, mut other) = (desk.log.reader("r").await, desk.log.reader("other").await);
    let letters = desk.open(&reader).await;
    let (small, large) = (change("1", 7, 1), change("2", 8, 3 << 20));
    for change in [&small, &large] {
        letters.park(desk.letter(change, 41)).await.unwrap();
    }
    let mut sink = desk.log.sink();
    publish(&mut sink, &batch("a", 0, 1, 10)).await;
    for letter in desk.all().await {
        assert!(
            desk.letters()
                .replay(&letter, None)
                .await
                .unwrap()
                .is_some()
        );
    }
    publish(&mut sink, &batch("a", 1, 1, 10)).await;

    next_batch(&mut reader).await;
    for change in [&small, &large] {
        match payload(&mut reader).await {
            Payload::Replay(batch, Replay { reply: None }) => {
                assert_eq!(
                    (batch.index.as_str(), batch.changes()),
                    (INDEX, &[change.clone()][..])
                );
            }
            other => panic!("{other:?}"),
        }
    }
    next_batch(&mut reader).await;

    next_batch(&mut other).await;
    let parts = 1 + desk.all().await[1].parts;
    for _ in 0..parts {
        assert!(matches!(payload(&mut other).await, Payload::Nothing));
    }
    next_batch(&mut other).await;

    // One that is gone cannot be sent again.
    let letter = desk.all().await.remove(0);
    letters.settle(&index(), &small).await.unwrap();
    assert_eq!(desk.letters().replay(&letter, None).await.unwrap(), None);
}

#[tokio::test]
async fn parts_of_a_letter_and_of_its_publisher_do_not_get_mixed_up() {
    let desk = Desk::new().await;
    let mut reader = desk.log.reader("r").await;
    let letters = desk.open(&reader).await;
    letters
        .park(desk.letter(&change("1", 7, 3 << 20), 41))
        .await
        .unwrap();
    let letter = desk.all().await.remove(0);
    // A publisher's message of the same subject, in parts, with the replay in the middle.
    let encoder = Encoder {
        root: model::Root::Changes,
        tenant: Tenant::try_from(desk.log.tenant.as_str()).unwrap(),
        max_body: 1000,
        zstd_level: None,
    };
    let messages = encoder.encode(&batch(INDEX, 0, 1, 1500));
    assert_eq!(messages.len(), 2);
    for (at, message) in messages.into_iter().enumerate() {
        if at == 1 {
            desk.letters().replay(&letter, None).await.unwrap();
        }
        let mut headers = async_nats::HeaderMap::new();
        let envelope: Envelope = message.envelope;
        for (name, value) in envelope.to_headers() {
            headers.insert(name, value);
        }
        headers.insert("Syncline-Token", "7");
        let subject = message.subject.to_string();
        let jetstream = desk.log.bus.jetstream();
        let sent = jetstream
            .publish_with_headers(subject, headers, message.body)
            .await;
        sent.unwrap().await.unwrap();
    }
    assert!(matches!(payload(&mut reader).await, Payload::Replay(..)));
    assert!(matches!(payload(&mut reader).await, Payload::Batch(_)));
}

#[tokio::test]
async fn whoever_sends_a_letter_again_hears_what_became_of_it() {
    let desk = Desk::new().await;
    let mut reader = desk.log.reader("r").await;
    let letters = desk.open(&reader).await;
    letters
        .park(desk.letter(&change("1", 7, 1), 41))
        .await
        .unwrap();
    let mut answers = desk.log.bus.answers().await.unwrap();
    let reply = answers.subject("x");
    desk.letters()
        .replay(&desk.all().await[0], Some(&reply))
        .await
        .unwrap();
    match payload(&mut reader).await {
        Payload::Replay(_, replay) => letters.replayed(&replay, Replayed::Superseded),
        other => panic!("{other:?}"),
    }
    let answer = tokio::time::timeout(crate::support::WITHIN, answers.next()).await;
    assert_eq!(
        answer.unwrap(),
        Some(("x".to_owned(), "superseded".to_owned()))
    );
    reader.close().await.unwrap();
}
