//! Reading the documents of a part in the order in which its shard stores them, which costs a server
//! about half of what windows by sequence number cost it (ADR 0037).
//!
//! The scroll is turned by a task of its own, which asks for the next page while the last one is
//! digested and no sooner, and clears the scroll however the reading ends: nobody aborts it, and a
//! comparison waits for it.
//!
//! A scroll sees the shard as it was at its first page, which comes after the refresh: every document
//! that a window would have seen then, the ones that are written meanwhile as they were.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use model::IndexName;
use search::{Client, Error, Page, PageSizer, Window, retry};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::{
    By, VerifyError, VerifyOptions,
    index::{Part, SideIndex},
    scan::{Gather, Read, Reading, take},
};

/// How many documents say how large the others are.
const SAMPLE: u32 = 64;
/// Pages of fewer documents gain nothing: decompressing is little beside sending them.
const FEWEST: u32 = 8;
/// How often a part's scroll may be lost before the part is read in windows, which begin again where
/// they were.
const LOSSES: u32 = 2;

/// The scrolls over an index.
#[derive(Debug)]
pub(crate) struct Scrolls {
    /// How many documents make them worth their requests.
    many: u64,
    /// Whether the cluster grants none.
    refused: AtomicBool,
    turning: TaskTracker,
}

impl Scrolls {
    pub(crate) fn new(options: &VerifyOptions) -> Scrolls {
        Scrolls {
            many: match options.by {
                By::Content => options.many,
                By::Version => u64::MAX,
            },
            refused: AtomicBool::new(false),
            turning: TaskTracker::new(),
        }
    }

    /// How many readers an index of so many documents has. A scroll has a page on its way while another
    /// is digested, and where it is given only a range of a shard, pages at its edges are no longer of
    /// documents that lie next to each other: half as many are as quick.
    pub(crate) fn readers(&self, usual: usize, documents: u64) -> usize {
        match documents >= self.many {
            true => usual.div_ceil(2),
            false => usual,
        }
    }

    /// Waits until every scroll is cleared.
    pub(crate) async fn ended(&self) {
        self.turning.close();
        self.turning.wait().await;
    }

    fn refuse(&self, index: &SideIndex, error: &Error) {
        if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::info!(
                side = %index.side, index = %index.name, %error,
                "without scrolls the index is read by sequence number, which costs its cluster more"
            );
        }
    }
}

/// How reading a part by a scroll has ended.
pub(crate) enum End {
    /// Everything was gathered.
    Complete,
    /// What was gathered is worth nothing; another scroll may do better.
    Lost(Error),
    /// What was gathered is worth nothing; the part has to be read in windows.
    Unfit,
}

/// Whether a part is read by a scroll, after so many were lost.
pub(crate) fn is_wanted(index: &SideIndex, reading: Reading, lost: u32) -> bool {
    let scrolls = &index.scrolls;
    reading == Reading::Documents
        && index.documents >= scrolls.many
        && lost < LOSSES
        && !scrolls.refused.load(Ordering::Relaxed)
}

/// Reads a part from its copy.
pub(crate) async fn read<G: Gather>(
    index: &Arc<SideIndex>,
    part: &Part,
    gathered: &mut G,
) -> Result<End, VerifyError> {
    let (pages, mut turned) = mpsc::channel(1);
    let turner = Turner {
        client: index.client.clone(),
        index: index.name.clone(),
        part: part.clone(),
        most: index.throttle.most(),
        pages,
    };
    index.scrolls.turning.spawn(turner.turn());
    loop {
        match turned.recv().await {
            Some(Turned::Page(page)) => take(index, part.shard, Read::from(page), gathered).await?,
            Some(Turned::End) => return Ok(End::Complete),
            Some(Turned::Unfit) => return Ok(End::Unfit),
            Some(Turned::Failed(error)) => return Ok(judge(index, error)),
            None => unreachable!("a scroll says how it ends, and the task has not panicked"),
        }
    }
}

fn judge(index: &SideIndex, error: Error) -> End {
    match error {
        error if retry::classify(&error) == retry::Decision::Retry => End::Lost(error),
        Error::AnswerTooLarge { .. } => End::Unfit,
        // If it is not about scrolling, windows fail in the same way.
        error => {
            index.scrolls.refuse(index, &error);
            End::Unfit
        }
    }
}

enum Turned {
    Page(Page),
    /// There are no more.
    End,
    /// Windows do better.
    Unfit,
    Failed(Error),
}

/// What turns the pages of a scroll.
struct Turner {
    client: Client,
    index: IndexName,
    part: Part,
    most: u32,
    pages: mpsc::Sender<Turned>,
}

impl Turner {
    async fn turn(self) {
        // A place in the channel is free when the page before is being digested.
        let Ok(room) = self.pages.reserve().await else {
            return;
        };
        let size = match self.page_size().await {
            Ok(Some(size)) => size,
            Ok(None) => return room.send(Turned::Unfit),
            Err(error) => return room.send(Turned::Failed(error)),
        };
        // Waited for whatever happens: whose first page nobody has seen cannot be cleared.
        let mut scroll = match self.client.open_scroll(&self.window(size)).await {
            Ok((scroll, page)) => {
                room.send(Turned::Page(page));
                scroll
            }
            Err(error) => return room.send(Turned::Failed(error)),
        };
        while let Ok(room) = self.pages.reserve().await {
            let next = tokio::select! {
                biased;
                next = scroll.next_page() => next,
                () = self.pages.closed() => break,
            };
            match next {
                Ok(Some(page)) => room.send(Turned::Page(page)),
                Ok(None) => {
                    room.send(Turned::End);
                    break;
                }
                Err(error) => {
                    room.send(Turned::Failed(error));
                    break;
                }
            }
        }
        scroll.clear().await;
    }

    /// How many documents make a page, by the size of the first ones; none where that is too few, or
    /// where there are none at all, which windows know how to tell from a copy that is late.
    async fn page_size(&self) -> Result<Option<u32>, Error> {
        let sample = self
            .client
            .sample(&self.window(SAMPLE.min(self.most)))
            .await?;
        let fit = PageSizer::fit(sample.hits.len(), sample.bytes);
        let size = fit.filter(|size| *size >= FEWEST);
        Ok(size.map(|size| size.min(self.most)))
    }

    fn window(&self, size: u32) -> Window<'_> {
        Window {
            index: &self.index,
            shard: self.part.shard,
            node: Some(&self.part.copy.node),
            after: self.part.after,
            upto: self.part.upto,
            size,
        }
    }
}
