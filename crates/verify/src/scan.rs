//! Reading a whole index on one side.
//!
//! Its shards, cut into parts, are read side by side by a bounded number of readers, each in pages
//! of about a megabyte: whole documents by a scroll (`scroll`), one page ahead, everything else and
//! what no scroll is granted for in windows by sequence number. A part is read from the copy that
//! was the primary when the comparison began; if another one is the primary when
//! the part is done, what was read may have come from a copy that had not seen everything, so it is
//! thrown away and read again.
//!
//! A document that is written meanwhile moves above the last part: it is read once or not at all,
//! never twice. What is not read is settled by a second look (see `look`).

use std::sync::Arc;

use search::{Error, Hit, MOST_NUMBERS, Numbers, Page, PageSizer, Window};
use tokio::task::JoinSet;

use crate::{
    Side, VerifyError,
    index::{Part, Patience, SideIndex},
    lens::through,
    scroll::{self, End},
};

/// What is read of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// All of them.
    Documents,
    /// Their ids, routing and numbers.
    Headers,
    /// Their numbers, and the headers of those that are wanted.
    Numbers,
}

impl Reading {
    fn sizer(self) -> PageSizer {
        match self {
            Reading::Documents => PageSizer::default(),
            Reading::Headers | Reading::Numbers => PageSizer::new(4_000, MOST_NUMBERS),
        }
    }
}

/// What is made of the documents.
pub(crate) trait Gather: Sized + Send + Sync + 'static {
    /// What has to be read for it.
    fn reading(&self) -> Reading;
    /// Whether the header of a document is wanted, where numbers are read.
    fn wants(&self, numbers: Numbers) -> bool;
    /// Takes the numbers of a document in a shard, where numbers are read.
    fn count(&mut self, shard: u32, numbers: Numbers);
    /// Takes a document, or its header.
    fn add(&mut self, hit: Hit) -> Result<(), (String, crate::DigestError)>;
    /// Takes what was made of the documents of another part.
    fn merge(&mut self, other: Self);
}

/// Reads every document of the index.
pub(crate) async fn scan<G: Gather>(
    index: &Arc<SideIndex>,
    new: impl Fn() -> G + Clone + Send + 'static,
) -> Result<G, VerifyError> {
    let parts = index.parts.iter().cloned();
    let parts = parts.map(|part| read_part(Arc::clone(index), part, new.clone()));
    side_by_side(index.readers, parts, new()).await
}

/// Reads parts, so many at a time, and merges what is made of them.
pub(crate) async fn side_by_side<G: Gather>(
    most: usize,
    parts: impl Iterator<Item = impl Future<Output = Result<G, VerifyError>> + Send + 'static>,
    mut all: G,
) -> Result<G, VerifyError> {
    let mut parts = parts;
    let mut readers = JoinSet::new();
    loop {
        while readers.len() < most.max(1)
            && let Some(part) = parts.next()
        {
            readers.spawn(part);
        }
        match readers.join_next().await {
            None => return Ok(all),
            Some(Ok(part)) => all.merge(part?),
            Some(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(cancelled) => unreachable!("nobody cancels a reader: {cancelled}"),
            },
        }
    }
}

/// Reads a part until one copy was in office all the while.
async fn read_part<G: Gather>(
    index: Arc<SideIndex>,
    mut part: Part,
    new: impl Fn() -> G,
) -> Result<G, VerifyError> {
    let mut patience = Patience::new();
    let mut lost = 0;
    loop {
        let mut gathered = new();
        let end = match scroll::is_wanted(&index, gathered.reading(), lost) {
            true => scroll::read(&index, &part, &mut gathered).await?,
            false => End::Unfit,
        };
        let complete = match end {
            End::Complete => true,
            End::Lost(error) => {
                lost += 1;
                patience.wait(&index, error).await?;
                false
            }
            End::Unfit => {
                gathered = new();
                read_pages(&index, &part, &mut gathered, &mut patience).await?
            }
        };
        let now = index.primary(part.shard).await?;
        if !now.continues(&part.copy) {
            return Err(index.replaced());
        }
        if complete && now == part.copy {
            return Ok(gathered);
        }
        tracing::info!(
            side = %index.side, index = %index.name, shard = part.shard,
            moved = now != part.copy, "the copy or the scroll is lost: a part is read again"
        );
        index.make_visible().await?;
        part.copy = now;
    }
}

/// Reads a part from its copy; false when that is gone.
async fn read_pages<G: Gather>(
    index: &SideIndex,
    part: &Part,
    gathered: &mut G,
    patience: &mut Patience,
) -> Result<bool, VerifyError> {
    let mut sizer = gathered.reading().sizer();
    let mut after = part.after;
    while after < part.upto {
        let window = Window {
            index: &index.name,
            shard: part.shard,
            node: Some(&part.copy.node),
            after,
            upto: part.upto.min(after.saturating_add(sizer.span())),
            size: sizer.documents().min(index.throttle.most()),
        };
        let read = match read_page(index, &window, gathered).await {
            Ok(read) => read,
            Err(Error::AnswerTooLarge { .. }) if window.size > 1 => {
                sizer.shrink();
                continue;
            }
            Err(error @ Error::CopyGone { .. }) => {
                patience.wait(index, error).await?;
                return Ok(false);
            }
            Err(error) => {
                patience.wait(index, error).await?;
                continue;
            }
        };
        patience.restore();
        after = match read.last {
            Some(last) if read.documents >= window.size as usize => last as i64,
            _ => window.upto,
        };
        sizer.learn(read.documents, read.bytes);
        take(index, part.shard, read, gathered).await?;
    }
    Ok(true)
}

/// Gathers what was read.
pub(crate) async fn take<G: Gather>(
    index: &SideIndex,
    shard: u32,
    read: Read,
    gathered: &mut G,
) -> Result<(), VerifyError> {
    let (documents, bytes) = (read.documents, read.bytes as u64);
    read.numbers
        .into_iter()
        .for_each(|numbers| gathered.count(shard, numbers));
    for hit in read.hits {
        let Some(hit) = through(index.lens.as_deref(), hit) else {
            continue;
        };
        gathered
            .add(hit)
            .map_err(|(id, error)| VerifyError::Document {
                side: index.side,
                index: index.name.to_string(),
                id,
                error,
            })?;
    }
    index.progress.advance(index.side, documents as u64, bytes);
    index.throttle.take(documents).await;
    Ok(())
}

/// A page of any kind of reading.
pub(crate) struct Read {
    documents: usize,
    bytes: usize,
    /// The highest sequence number in it.
    last: Option<u64>,
    numbers: Vec<Numbers>,
    hits: Vec<Hit>,
}

impl From<Page> for Read {
    fn from(page: Page) -> Read {
        Read {
            documents: page.hits.len(),
            bytes: page.bytes,
            last: page.hits.last().map(|hit| hit.seq_no),
            numbers: Vec::new(),
            hits: page.hits,
        }
    }
}

async fn read_page<G: Gather>(
    index: &SideIndex,
    window: &Window<'_>,
    gathered: &G,
) -> Result<Read, Error> {
    let client = &index.client;
    match gathered.reading() {
        Reading::Documents => client.read_window(window).await.map(Read::from),
        Reading::Headers => client.read_headers(window).await.map(Read::from),
        Reading::Numbers => {
            let (numbers, bytes) = match every_number(index, window).await? {
                Some(numbers) => (numbers, 0),
                None => client.read_numbers(window).await?,
            };
            let wanted = numbers.iter().filter(|numbers| gathered.wants(**numbers));
            let wanted: Vec<u64> = wanted.map(|numbers| numbers.seq_no).collect();
            // What was written between the two requests is in neither: a second look settles it.
            let hits = match wanted.is_empty() {
                true => Vec::new(),
                false => client.read_headers_of(window, &wanted).await?.hits,
            };
            Ok(Read {
                documents: numbers.len(),
                bytes,
                last: numbers.last().map(|numbers| numbers.seq_no),
                numbers,
                hits,
            })
        }
    }
}

/// The numbers of a window in which each belongs to a document: they need not be read. At the source
/// only, for a target's versions do not follow from its numbers.
async fn every_number(
    index: &SideIndex,
    window: &Window<'_>,
) -> Result<Option<Vec<Numbers>>, Error> {
    let span = window.upto - window.after;
    if index.side == Side::Target || span > i64::from(window.size) {
        return Ok(None);
    }
    let count = index.client.count_window(window).await?;
    let all = (window.after + 1..=window.upto).map(|number| Numbers {
        seq_no: number as u64,
        version: 0,
    });
    Ok((count == span as u64).then(|| all.collect()))
}
