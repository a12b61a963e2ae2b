//! A page of a shard's history that ends where the next can begin.
//!
//! A sequence number is one document's, except in an index that was made by `_shrink`: there the
//! documents of what were several shards keep the numbers they had, and share them. A page that is full
//! may then end between two documents of one number, and the next page begins above it.

use search::{Client, Error, Page, ShardCopy, Window};

/// Reads a window, and says up to where it was read: whole numbers only, and at least one.
///
/// # Errors
/// As [`Client::read_window`].
pub(crate) async fn read_whole_numbers(
    client: &Client,
    window: &Window<'_>,
    copy: ShardCopy<'_>,
) -> Result<(Page, i64), Error> {
    let mut page = client.read_window(window).await?;
    let (first, last) = match (page.hits.first(), page.hits.last()) {
        (Some(first), Some(last)) if page.hits.len() >= window.size as usize => {
            (first.seq_no, last.seq_no)
        }
        _ => return Ok((page, window.upto)),
    };
    if first < last {
        // The last number is left to the next page.
        page.hits.retain(|hit| hit.seq_no < last);
        return Ok((page, last as i64 - 1));
    }
    // Nearly always one document that is large enough for a page of its own.
    let counted = client.count_blocks(copy, &(last..=last), 1).await?;
    let sharing = counted.first().map_or(0, |(_, count)| *count);
    if sharing as usize > page.hits.len() {
        let all = Window {
            after: last as i64 - 1,
            upto: last as i64,
            size: sharing,
            ..*window
        };
        page = client.read_window(&all).await?;
    }
    Ok((page, last as i64))
}
