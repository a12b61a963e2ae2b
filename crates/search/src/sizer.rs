//! How much of a shard's history to ask for at once. Pure.
//!
//! A page is bounded by bytes, so that memory does not depend on the size of documents, and by the
//! span of sequence numbers it asks about, so that the server never sorts more than it returns: in
//! the oldest parts of a history most numbers belong to documents that have changed since.

/// A page that is as large as a page should be, in bytes of the response.
const TARGET_BYTES: usize = 1 << 20;
/// The most documents in a page, if nothing else is said; servers refuse more than 10,000.
const MOST: u32 = 4_000;
/// The first page of a shard, before anything is known about its documents.
const FIRST: u32 = 64;

/// Finds the size of the next [`crate::Window`] from the pages before it.
#[derive(Debug)]
pub struct PageSizer {
    most: u32,
    documents: u32,
    span: i64,
}

impl Default for PageSizer {
    fn default() -> PageSizer {
        PageSizer::new(FIRST, MOST)
    }
}

impl PageSizer {
    /// Begins with pages of `first` documents, and never asks for more than `most` at once.
    pub fn new(first: u32, most: u32) -> PageSizer {
        let first = first.clamp(1, most.max(1));
        PageSizer {
            most: most.max(1),
            documents: first,
            span: i64::from(first),
        }
    }

    /// How many documents make a page, where so many have so many bytes; none without any.
    pub fn fit(documents: usize, bytes: usize) -> Option<u32> {
        let average = bytes.checked_div(documents)?.max(1);
        Some(u32::try_from(TARGET_BYTES / average).map_or(MOST, |fit| fit.clamp(1, MOST)))
    }

    /// How many documents to ask for.
    pub fn documents(&self) -> u32 {
        self.documents
    }

    /// How many sequence numbers to ask about: at least as many as documents.
    pub fn span(&self) -> i64 {
        self.span
    }

    /// Learns from a page: how many documents it had, and how large the response was.
    pub fn learn(&mut self, documents: usize, bytes: usize) {
        let asked = i64::from(self.documents);
        if let Some(average) = bytes.checked_div(documents) {
            let fit = TARGET_BYTES / average.max(1);
            // Grows fourfold at most: the next documents may be larger than these.
            let most = self.most.min(self.documents.saturating_mul(4));
            self.documents = u32::try_from(fit).unwrap_or(most).clamp(1, most);
        }
        let found = documents as i64;
        self.span = match () {
            () if found * 2 < asked => self.span.saturating_mul(2),
            () if found >= asked => self.span / 2,
            () => self.span,
        };
        self.span = self.span.clamp(i64::from(self.documents), 1 << 40);
    }

    /// Learns that a page was too large to be taken.
    pub fn shrink(&mut self) {
        self.documents = (self.documents / 4).max(1);
        self.span = i64::from(self.documents);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages over documents of one size until the size settles.
    fn settle(document: usize) -> u32 {
        let mut sizer = PageSizer::default();
        for _ in 0..20 {
            sizer.learn(
                sizer.documents() as usize,
                sizer.documents() as usize * document,
            );
        }
        sizer.documents()
    }

    #[test]
    fn pages_settle_at_the_target_size_whatever_the_documents() {
        assert_eq!(settle(50), MOST);
        assert_eq!(settle(1 << 10), 1024);
        assert_eq!(settle(5 << 20), 1);
    }

    #[test]
    fn a_sparse_history_is_crossed_in_ever_larger_steps_and_a_dense_one_in_small_ones() {
        let mut sizer = PageSizer::default();
        let mut requests = 0;
        let mut position = 0i64;
        while position < 100_000_000 {
            position += sizer.span();
            sizer.learn(0, 200);
            requests += 1;
        }
        assert!(requests < 40, "{requests} requests");
        for _ in 0..60 {
            sizer.learn(sizer.documents() as usize, sizer.documents() as usize * 300);
        }
        assert_eq!(sizer.span(), i64::from(sizer.documents()));
    }
}
