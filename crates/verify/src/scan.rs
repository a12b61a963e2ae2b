//! Reading a whole index on one side.
//!
//! Its shards, cut into parts, are read side by side by a bounded number of readers, each in pages
//! of about a megabyte that are gone before the next one comes. A part is read from the copy that
//! was the primary when the comparison began; if another one is the primary when
//! the part is done, what was read may have come from a copy that had not seen everything, so it is
//! thrown away and read again.
//!
//! A document that is written meanwhile moves above the last part: it is read once or not at all,
//! never twice. What is not read is settled by a second look (see `look`).

use std::sync::Arc;

use search::{Error, Hit, PageSizer, Window};
use tokio::task::JoinSet;

use crate::{
    VerifyError,
    index::{Part, Patience, SideIndex},
};

/// What is made of the documents.
pub(crate) trait Gather: Sized + Send + 'static {
    /// Takes a document.
    fn add(&mut self, hit: Hit) -> Result<(), (String, crate::DigestError)>;
    /// Takes what was made of the documents of another part.
    fn merge(&mut self, other: Self);
}

/// Reads every document of the index.
pub(crate) async fn scan<G: Gather>(
    index: &Arc<SideIndex>,
    new: impl Fn() -> G + Clone + Send + 'static,
) -> Result<G, VerifyError> {
    let mut all = new();
    let mut parts = index.parts.iter().cloned();
    let mut readers = JoinSet::new();
    loop {
        while readers.len() < index.readers.max(1)
            && let Some(part) = parts.next()
        {
            readers.spawn(read_part(Arc::clone(index), part, new.clone()));
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
    loop {
        let mut gathered = new();
        let complete = read_pages(&index, &part, &mut gathered, &mut patience).await?;
        let now = index.primary(part.shard).await?;
        if !now.continues(&part.copy) {
            return Err(index.replaced());
        }
        if complete && now == part.copy {
            return Ok(gathered);
        }
        tracing::info!(
            side = %index.side, index = %index.name, shard = part.shard,
            "the primary moved: a part is read again"
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
    let mut sizer = PageSizer::default();
    let mut after = part.after;
    while after < part.upto {
        let window = Window {
            index: &index.name,
            shard: part.shard,
            node: Some(&part.copy.node),
            after,
            upto: part.upto.min(after.saturating_add(sizer.span())),
            size: sizer.documents(),
        };
        let page = match index.client.read_window(&window).await {
            Ok(page) => page,
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
        after = match page.hits.last() {
            Some(last) if page.hits.len() >= window.size as usize => last.seq_no as i64,
            _ => window.upto,
        };
        sizer.learn(page.hits.len(), page.bytes);
        let (documents, bytes) = (page.hits.len() as u64, page.bytes as u64);
        for hit in page.hits {
            gathered
                .add(hit)
                .map_err(|(id, error)| VerifyError::Document {
                    side: index.side,
                    index: index.name.to_string(),
                    id,
                    error,
                })?;
        }
        index.progress.advance(index.side, documents, bytes);
    }
    Ok(true)
}
