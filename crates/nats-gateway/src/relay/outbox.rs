//! What goes out, in order: batches, each with how far the input is settled with it, and before them the letters of
//! their entry.

use std::{collections::VecDeque, sync::Arc};

use model::{Batch, Change, Content, IndexName, Origin, Version};
use pipeline::{Captured, DeadLetter, Replay, Replayed};

/// How far the input is settled once the output has a batch, and what is settled with it.
#[derive(Debug, Clone, Default)]
pub struct Passage {
    /// The entry that is settled with this batch; `None` where more of it follows.
    pub(super) floor: Option<u64>,
    /// The changes that are newer than the letters of their documents may be.
    pub(super) settled: Vec<(IndexName, Change)>,
    /// An index that was emptied up to a version, and its letters with it.
    pub(super) cleared: Option<(IndexName, Version)>,
    /// A letter that was sent again, and what has become of it.
    pub(super) replayed: Option<(Replay, Replayed)>,
}

/// What waits to go out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// What has to be parked before anything of its entry goes on.
    pub(super) parking: VecDeque<DeadLetter>,
    pub(super) ready: VecDeque<Captured<Passage>>,
    /// The newest entry of which everything is here or has gone out.
    pub(super) yielded: u64,
}

impl Outbox {
    /// Puts in what comes of an entry. The last batch settles it, with everything in `passage`; where there is none, an
    /// empty one does, so that the floor moves over every entry in order.
    pub(super) fn put(&mut self, sequence: u64, mut batches: Vec<Batch>, passage: Passage) {
        let last = batches.pop().unwrap_or_else(nothing);
        for batch in batches {
            self.ready.push_back(Captured {
                batch: Arc::new(batch),
                position: Passage::default(),
            });
        }
        self.ready.push_back(Captured {
            batch: Arc::new(last),
            position: Passage {
                floor: Some(sequence),
                ..passage
            },
        });
        self.yielded = sequence;
    }

    /// Nothing of an entry goes on.
    pub(super) fn pass_over(&mut self, sequence: u64) {
        self.put(sequence, Vec::new(), Passage::default());
    }
}

fn nothing() -> Batch {
    Batch {
        index: IndexName::try_from("-").expect("the name is not empty"),
        origin: Origin {
            partition: "".into(),
            captured_ms: 0,
            via: None,
        },
        content: Content::Changes(Vec::new()),
    }
}
