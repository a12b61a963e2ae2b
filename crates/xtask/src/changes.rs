//! Changes to a source while something follows it, and how long each takes to arrive.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use testkit::{Http, PsqlSession};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use crate::indices::{CHANGED, Index};

/// How often a bulk of changes is sent.
const TICK: Duration = Duration::from_millis(10);
/// One change of so many makes a document that is deleted later, and one deletes such a document …
const PASSING: u64 = 20;
/// … so many seconds later, when it has long arrived.
const LIFETIME: u32 = 4;
/// How often the target is asked: in a loop without a pause, asking would cost it more than the changes do.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// How many changes are asked about at a time.
const ASKED: usize = 200;
/// How long a change may take.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// A change that the source has acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    index: &'static str,
    id: String,
    what: What,
    acknowledged: Instant,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// By the change of this number.
    Written(u64),
    Deleted,
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
    /// one in twenty is deleted. One change of every bulk goes to `samples`, never of a document that is deleted later,
    /// and every delete.
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
            let made = self.bulk(per_bulk, per_second * LIFETIME).await?;
            changed.changes += per_bulk;
            if let Some(samples) = &samples {
                for sample in made {
                    let taken = samples.send(sample).await;
                    taken.context("nobody looks for the changes any more")?;
                }
            }
        }
        changed.elapsed = began.elapsed();
        Ok(changed)
    }

    /// Sends a bulk and returns what of it is looked for.
    async fn bulk(&mut self, changes: u64, lifetime: u32) -> Result<Vec<Sample>> {
        let mut body = String::new();
        let mut picks = Vec::new();
        let mut deleted = Vec::new();
        for _ in 0..changes {
            self.number += 1;
            let number = self.number;
            if number.is_multiple_of(PASSING / 2) {
                let (line, gone) = self.passing(number, u64::from(lifetime));
                body.push_str(&line);
                deleted.extend(gone);
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
        let mut made = deleted;
        if !picks.is_empty() {
            let (index, id, number) = picks.swap_remove(self.dice.usize(..picks.len()));
            made.push((index, id, What::Written(number)));
        }
        let samples = made.into_iter().map(|(index, id, what)| Sample {
            index,
            id,
            what,
            acknowledged,
        });
        Ok(samples.collect())
    }

    /// Makes a document that is to be deleted, or deletes the one made a lifetime ago.
    fn passing(
        &self,
        number: u64,
        lifetime: u64,
    ) -> (String, Option<(&'static str, String, What)>) {
        let index = self.places[0].0.name();
        if number.is_multiple_of(PASSING) {
            let id = format!("passing-{number}");
            let action = json!({ "index": { "_index": index, "_id": id } });
            return (format!("{action}\n{{\"{CHANGED}\":{number}}}\n"), None);
        }
        let born = number.saturating_sub(PASSING / 2 + lifetime.next_multiple_of(PASSING));
        let id = format!("passing-{born}");
        let line = format!("{}\n", json!({ "delete": { "_index": index, "_id": id } }));
        (line, (born > 0).then_some((index, id, What::Deleted)))
    }
}

/// Inserts rows in a session one by one for so long, each under a number, and hands each on when the server has
/// committed it, or one of so many: looking for them takes from the target. `insert` makes the statement, which
/// returns the row's id.
pub(crate) async fn sample_commits(
    mut session: PsqlSession,
    index: &'static str,
    per_second: u32,
    time: Duration,
    samples: mpsc::Sender<Sample>,
    one_of: u64,
    insert: impl Fn(u64) -> String,
) -> Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let end = Instant::now() + time;
    let mut number = 0;
    while Instant::now() < end {
        ticks.tick().await;
        number += 1;
        let rows = session.run(&insert(number)).await?;
        let id = rows.into_iter().next().context("an INSERT without id")?;
        let sample = Sample {
            index,
            id,
            what: What::Written(number),
            acknowledged: Instant::now(),
        };
        if number % one_of == 0 {
            let taken = samples.send(sample).await;
            taken.context("nobody looks for the changes any more")?;
        }
    }
    Ok(())
}

/// How long changes took from the source's acknowledgment until they were seen at the target.
#[derive(Debug)]
pub(crate) struct Lag(Histogram<u64>);

/// How long documents took, and how long deletes.
#[derive(Debug)]
pub(crate) struct Lags {
    pub(crate) documents: Lag,
    #[cfg_attr(
        not(feature = "bench"),
        allow(dead_code, reason = "the demo shows documents")
    )]
    pub(crate) deletes: Lag,
}

impl Lag {
    pub(crate) fn new() -> Result<Lag> {
        Ok(Lag(Histogram::new_with_bounds(1, 120_000_000, 3)?))
    }

    /// One more change took so long.
    pub(crate) fn record(&mut self, took: Duration) {
        self.0.saturating_record(took.as_micros() as u64);
    }

    /// The time that so many per cent of the changes stayed within.
    pub(crate) fn percentile(&self, percent: f64) -> Duration {
        Duration::from_micros(self.0.value_at_percentile(percent))
    }

    /// How many changes were looked for.
    pub(crate) fn samples(&self) -> u64 {
        self.0.len()
    }

    /// How many took up to how many milliseconds, bound after bound.
    #[cfg(feature = "bench")]
    pub(crate) fn histogram(&self) -> Value {
        let steps = self.0.iter_log(500, 1.5);
        let steps = steps.map(|step| {
            let milliseconds = step.value_iterated_to() as f64 / 1e3;
            json!({ "up_to_milliseconds": milliseconds, "count": step.count_since_last_iteration() })
        });
        Value::Array(steps.collect())
    }

    /// The longest of them.
    #[cfg(feature = "bench")]
    pub(crate) fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }
}

/// Looks for changes at the target, by realtime get, until all have come and no more will.
///
/// A change counts as arrived when an answer with it is here, so each figure has one `_mget` too much in it, and half
/// of [`ASK_EVERY`].
pub(crate) async fn look_for(target: &Http, mut samples: mpsc::Receiver<Sample>) -> Result<Lags> {
    let mut lags = Lags {
        documents: Lag::new()?,
        deletes: Lag::new()?,
    };
    let mut pending: Vec<Sample> = Vec::new();
    let mut asks = tokio::time::interval(ASK_EVERY);
    asks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if pending.is_empty() {
            match samples.recv().await {
                Some(sample) => pending.push(sample),
                None => return Ok(lags),
            }
        }
        while let Ok(sample) = samples.try_recv() {
            pending.push(sample);
        }
        asks.tick().await;
        let asked: Vec<Sample> = pending.drain(..pending.len().min(ASKED)).collect();
        let held = held(target, &asked).await?;
        let now = Instant::now();
        let mut still = Vec::new();
        for (sample, held) in asked.into_iter().zip(held) {
            let waited = now - sample.acknowledged;
            let arrived = match (sample.what, held) {
                (What::Written(number), Held::Written(held)) if held >= number => {
                    &mut lags.documents
                }
                (What::Deleted, Held::Nothing) => &mut lags.deletes,
                _ => {
                    still.push((sample, waited));
                    continue;
                }
            };
            arrived.record(waited);
        }
        for (sample, waited) in still {
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

/// What the target has of a document.
enum Held {
    Nothing,
    /// By the change of this number; 0 is none of ours.
    Written(u64),
}

async fn held(target: &Http, samples: &[Sample]) -> Result<Vec<Held>> {
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
    let held = documents
        .iter()
        .map(|document| match document["found"].as_bool() {
            Some(false) => Ok(Held::Nothing),
            Some(true) => Ok(Held::Written(
                document["_source"][CHANGED].as_u64().unwrap_or(0),
            )),
            None => bail!("_mget says nothing of a document: {document}"),
        });
    held.collect()
}
