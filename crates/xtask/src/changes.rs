//! Changes to a source while something follows it, and how long each takes to arrive.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use testkit::Http;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::indices::{CHANGED, Index};

/// How often a bulk of changes is sent.
const TICK: Duration = Duration::from_millis(10);
/// One change of so many makes a document that is deleted later, and one deletes such a document …
const PASSING: u64 = 20;
/// … so many changes later.
const LIFETIME: u64 = 1000;
/// How many changes are asked about at a time.
const ASKED: usize = 200;
/// How long a change may take.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// A change that the source has acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    index: &'static str,
    id: String,
    number: u64,
    acknowledged: Instant,
}

/// Changes documents of some indices, whose ids are the numbers from 1.
#[derive(Debug)]
pub(crate) struct Changer {
    source: Http,
    places: Vec<(Index, u64)>,
    dice: fastrand::Rng,
    number: u64,
}

/// What was changed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Changed {
    pub(crate) changes: u64,
    pub(crate) elapsed: Duration,
}

impl Changed {
    #[cfg(feature = "bench")]
    pub(crate) fn per_second(&self) -> f64 {
        self.changes as f64 / self.elapsed.as_secs_f64()
    }
}

impl Changer {
    /// `places` are the indices and how many documents each has.
    pub(crate) fn new(source: Http, places: Vec<(Index, u64)>) -> Changer {
        Changer {
            source,
            places,
            dice: fastrand::Rng::with_seed(1),
            number: 0,
        }
    }

    /// Changes so many documents a second until `end` is ready: nearly half are updated in part, nearly half are new, and
    /// one in twenty is deleted. One change of every bulk goes to `samples`, never of a document that is deleted later.
    pub(crate) async fn run(
        &mut self,
        per_second: u32,
        samples: Option<mpsc::Sender<Sample>>,
        end: impl Future<Output = ()>,
    ) -> Result<Changed> {
        let began = Instant::now();
        let per_bulk = (u64::from(per_second) * TICK.as_millis() as u64 / 1000).max(1);
        let mut ticks =
            tokio::time::interval(Duration::from_secs(1) * per_bulk as u32 / per_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut changed = Changed::default();
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                () = &mut end => break,
                _ = ticks.tick() => {}
            }
            let sample = self.bulk(per_bulk).await?;
            changed.changes += per_bulk;
            if let Some((samples, sample)) = samples.as_ref().zip(sample) {
                samples
                    .send(sample)
                    .await
                    .context("nobody looks for the changes any more")?;
            }
        }
        changed.elapsed = began.elapsed();
        Ok(changed)
    }

    /// Sends a bulk and returns one of its changes that can be looked for.
    async fn bulk(&mut self, changes: u64) -> Result<Option<Sample>> {
        let mut body = String::new();
        let mut picks = Vec::new();
        for _ in 0..changes {
            self.number += 1;
            let number = self.number;
            if number.is_multiple_of(PASSING / 2) {
                body.push_str(&self.passing(number));
                continue;
            }
            let (index, documents) = self.places[self.dice.usize(..self.places.len())];
            let id = if number.is_multiple_of(2) {
                let id = self.dice.u64(1..=documents).to_string();
                let action = json!({ "update": { "_index": index.name(), "_id": id } });
                body.push_str(&format!(
                    "{action}\n{{\"doc\":{{\"{CHANGED}\":{number}}}}}\n"
                ));
                id
            } else {
                let id = format!("new-{number}");
                let action = json!({ "index": { "_index": index.name(), "_id": id } });
                let document = json!({ CHANGED: number, "note": "written while Syncline follows" });
                body.push_str(&format!("{action}\n{document}\n"));
                id
            };
            picks.push((index.name(), id, number));
        }
        self.source
            .post_ndjson("/_bulk?filter_path=errors,items.*.error", body)
            .await?;
        let acknowledged = Instant::now();
        if picks.is_empty() {
            return Ok(None);
        }
        let (index, id, number) = picks.swap_remove(self.dice.usize(..picks.len()));
        Ok(Some(Sample {
            index,
            id,
            number,
            acknowledged,
        }))
    }

    /// Makes a document that is to be deleted, or deletes the one made a lifetime ago.
    fn passing(&self, number: u64) -> String {
        let index = self.places[0].0.name();
        if number.is_multiple_of(PASSING) {
            let id = format!("passing-{number}");
            let action = json!({ "index": { "_index": index, "_id": id } });
            return format!("{action}\n{{\"{CHANGED}\":{number}}}\n");
        }
        let born = number.saturating_sub(PASSING / 2 + LIFETIME);
        let id = format!("passing-{born}");
        format!("{}\n", json!({ "delete": { "_index": index, "_id": id } }))
    }
}

/// How long changes took from the source's acknowledgment until they were seen at the target.
#[derive(Debug)]
pub(crate) struct Lag(Histogram<u64>);

impl Lag {
    /// The time that so many per cent of the changes stayed within.
    pub(crate) fn percentile(&self, percent: f64) -> Duration {
        Duration::from_micros(self.0.value_at_percentile(percent))
    }

    /// How many changes were looked for.
    pub(crate) fn samples(&self) -> u64 {
        self.0.len()
    }

    /// The longest of them.
    #[cfg(feature = "bench")]
    pub(crate) fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }
}

/// Looks for changes at the target, by realtime get, until all have come and no more will.
///
/// A change counts as arrived when an answer with it is here, so each figure has one `_mget` too much in it.
pub(crate) async fn look_for(target: &Http, mut samples: mpsc::Receiver<Sample>) -> Result<Lag> {
    let mut lag = Histogram::new_with_bounds(1, 120_000_000, 3)?;
    let mut pending: Vec<Sample> = Vec::new();
    loop {
        if pending.is_empty() {
            match samples.recv().await {
                Some(sample) => pending.push(sample),
                None => return Ok(Lag(lag)),
            }
        }
        while let Ok(sample) = samples.try_recv() {
            pending.push(sample);
        }
        let asked: Vec<Sample> = pending.drain(..pending.len().min(ASKED)).collect();
        let held = held(target, &asked).await?;
        let now = Instant::now();
        for (sample, held) in asked.into_iter().zip(held) {
            let waited = now - sample.acknowledged;
            if held.is_some_and(|number| number >= sample.number) {
                lag.saturating_record(waited.as_micros() as u64);
                continue;
            }
            ensure!(
                waited < LOST_AFTER,
                "a change of {} in {} has not arrived after {waited:?}",
                sample.id,
                sample.index
            );
            pending.push(sample);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// By which change each document was written last, as far as the target has it.
async fn held(target: &Http, samples: &[Sample]) -> Result<Vec<Option<u64>>> {
    let asked: Vec<Value> = samples
        .iter()
        .map(|sample| json!({ "_index": sample.index, "_id": sample.id, "_source": [CHANGED] }))
        .collect();
    let answer = target
        .post_json("/_mget", &json!({ "docs": asked }))
        .await?;
    let documents = answer["docs"]
        .as_array()
        .context("_mget without documents")?;
    let numbers = documents
        .iter()
        .map(|document| document["_source"][CHANGED].as_u64());
    Ok(numbers.collect())
}
