//! What one request, one key and all of them may cost.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    compile::raw,
    problem::{Kind, Problem},
    query::{Filter, Query},
    schema::Operator,
};

/// The most that a request may ask for.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Documents in an answer, and how many there are if nobody says.
    pub(crate) documents: u64,
    pub(crate) default_documents: u64,
    /// Tests in a filter, each value of a list counted.
    pub(crate) clauses: usize,
    /// Brackets in brackets.
    pub(crate) depth: usize,
    /// `like` and `ilike`, which look at every value of a field.
    pub(crate) patterns: usize,
    pub(crate) facets: usize,
    pub(crate) facet_values: u64,
    /// Searches in one request.
    pub(crate) searches: usize,
    pub(crate) has_raw: bool,
}

/// How many characters `q` may have.
pub(crate) const WORDS: usize = 1_000;
/// Criteria of the order, highlighted fields, fields to search in or to show.
pub(crate) const NAMES: usize = 100;
pub(crate) const CRITERIA: usize = 8;

impl Limits {
    /// The number of documents to ask for.
    ///
    /// # Errors
    /// When anything of the query costs too much.
    pub(crate) fn check(&self, query: &Query) -> Result<u64, Problem> {
        let limit = query
            .limit
            .unwrap_or(self.default_documents.min(self.documents));
        most(
            "limit",
            "documents",
            limit as usize,
            self.documents as usize,
        )?;
        self.check_filter(&query.filter, query.raw.as_ref())?;
        most("facet_by", "facets", query.facets.len(), self.facets)?;
        for facet in &query.facets {
            let size = facet.size.unwrap_or(1);
            if size == 0 {
                return Err(Problem::of(
                    Kind::BadParameter,
                    "facet_by",
                    "no value is asked for",
                ));
            }
            most(
                "facet_by",
                "values of a facet",
                size as usize,
                self.facet_values as usize,
            )?;
        }
        most("sort", "criteria", query.sort.len(), CRITERIA)?;
        most(
            "fields",
            "fields",
            query.fields.as_ref().map_or(0, Vec::len),
            NAMES,
        )?;
        most("highlight", "fields", query.highlight.len(), CRITERIA)?;
        if let Some(text) = &query.text {
            most("q", "characters", text.words.chars().count(), WORDS)?;
            most("query_by", "fields", text.by.len(), NAMES)?;
        }
        Ok(limit)
    }

    /// The filters alone.
    ///
    /// # Errors
    /// When they cost too much.
    pub(crate) fn check_filter(
        &self,
        filters: &[Filter],
        raw: Option<&serde_json::Value>,
    ) -> Result<(), Problem> {
        let (mut clauses, mut patterns) = (raw.map_or(0, raw::clauses), 0);
        for filter in filters {
            let (depth, tests) = filter.cost();
            most(
                "filter",
                "levels of brackets",
                depth.saturating_sub(1),
                self.depth,
            )?;
            clauses += tests;
            patterns += self::patterns(filter);
        }
        most("filter", "conditions", clauses, self.clauses)?;
        most("filter", "like and ilike", patterns, self.patterns)
    }
}

fn patterns(filter: &Filter) -> usize {
    match filter {
        Filter::Test(test) => {
            usize::from(matches!(test.operator, Operator::Like | Operator::Ilike))
        }
        Filter::Not(inner) => patterns(inner),
        Filter::All(inner) | Filter::Any(inner) => inner.iter().map(patterns).sum(),
    }
}

/// # Errors
/// When there are more than allowed.
pub(crate) fn most(parameter: &str, what: &str, count: usize, limit: usize) -> Result<(), Problem> {
    if count <= limit {
        return Ok(());
    }
    let detail = format!("{count} {what} are asked for, {limit} are allowed");
    Err(Problem::of(Kind::TooCostly, parameter, detail))
}

/// A budget of requests that fills steadily; a second's worth can be used at once.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: f64,
    state: Mutex<(f64, Instant)>,
}

impl Bucket {
    pub(crate) fn new(rate: f64) -> Bucket {
        Bucket {
            rate,
            state: Mutex::new((rate.max(1.0), Instant::now())),
        }
    }

    /// Goes on where another has come to.
    pub(crate) fn inherit(&mut self, other: &Bucket) {
        let (left, at) = *other.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.state = Mutex::new((left.min(self.rate.max(1.0)), at));
    }

    /// Takes one.
    ///
    /// # Errors
    /// When there is none; it says when there will be one.
    pub(crate) fn take(&self, now: Instant) -> Result<(), Problem> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, at) = *state;
        let gained = now.saturating_duration_since(at).as_secs_f64() * self.rate;
        let left = (left + gained).min(self.rate.max(1.0));
        *state = if left >= 1.0 {
            (left - 1.0, now)
        } else {
            (left, now)
        };
        if left >= 1.0 {
            return Ok(());
        }
        let pause = Duration::from_secs_f64((1.0 - left) / self.rate);
        let detail = format!("the key has {} requests a second", self.rate);
        Err(Problem::new(Kind::TooManyRequests, detail).retry_after(pause.as_secs() + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_a_seconds_worth_through_and_then_what_flows_in() {
        let bucket = Bucket::new(2.0);
        let start = Instant::now();
        bucket.take(start).unwrap();
        bucket.take(start).unwrap();
        let refused = bucket.take(start).unwrap_err();
        assert_eq!(
            (refused.kind, refused.retry_after),
            (Kind::TooManyRequests, Some(1))
        );
        bucket.take(start + Duration::from_millis(600)).unwrap();
        assert!(bucket.take(start + Duration::from_millis(700)).is_err());
        let slow = Bucket::new(0.1);
        slow.take(start).unwrap();
        assert_eq!(slow.take(start).unwrap_err().retry_after, Some(11));
    }
}
