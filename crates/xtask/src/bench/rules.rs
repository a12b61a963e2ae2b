//! What looking into documents costs, in one thread and without a network: a message's body is read, the rules are
//! applied, a body is written. Beside it the documents are parsed and written by a JSON library.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use model::{Batch, Change, Content, IndexName, Operation, Root, wire};
use serde_json::{Value, json};
use transform::{At, Jq, Outcome, RuleSet, Selection};

use super::Context;
use super::gateway::{PREDICATE, PREDICATE_AND_RENAME};
use super::report::{self, figure};
use super::stream::halves::Documents;
use crate::indices::Index;

pub(super) fn run(context: &Context) -> Result<()> {
    let documents = Documents::new(&Index::FLIGHTS.documents()?, 1)?;
    let encoder = wire::Encoder {
        root: Root::Gateway,
        tenant: "default".parse()?,
        max_body: 8 << 20,
        zstd_level: None,
    };
    let bodies: Vec<Batch> = documents.sealed(&encoder)?;
    let (mut count, mut bytes) = (0, 0);
    for body in &bodies {
        let opened = wire::open(body)?;
        count += opened.changes().len();
        let lengths = opened.changes().iter().filter_map(Change::document);
        bytes += lengths
            .map(|document| document.as_bytes().len())
            .sum::<usize>();
    }
    let rounds = context.pick(40, 2);
    let mut rows = Vec::new();
    let mut measure = |what: &'static str, work: &mut dyn FnMut(&Batch) -> Result<usize>| {
        // Of all rounds the fastest: the machine has other work too.
        let mut fastest = Duration::MAX;
        for _ in 0..rounds {
            let (began, mut done) = (Instant::now(), 0);
            for body in &bodies {
                done += work(body)?;
            }
            ensure!(done == count, "{what}: {done} of {count}");
            fastest = fastest.min(began.elapsed());
        }
        rows.push((what, fastest.as_secs_f64() * 1e9 / count as f64));
        anyhow::Ok(())
    };
    measure("the body is read", &mut |body| {
        Ok(wire::open(body)?.changes().len())
    })?;
    measure("read and written", &mut |body| {
        let opened = wire::open(body)?;
        Ok(encoder
            .encode(&opened)
            .iter()
            .map(|message| message.envelope.count)
            .sum())
    })?;
    for (what, text) in [
        ("read, predicate, written", PREDICATE),
        ("read, predicate, rename, written", PREDICATE_AND_RENAME),
    ] {
        let rules = Rules::read(text)?;
        measure(what, &mut |body| rules.apply(body, &encoder))?;
    }
    measure(
        "a JSON library reads and writes the documents",
        &mut |body| {
            let opened = wire::open(body)?;
            for change in opened.changes() {
                if let Some(document) = change.document() {
                    let value: Value = serde_json::from_slice(document.as_bytes())?;
                    std::hint::black_box(serde_json::to_vec(&value)?);
                }
            }
            Ok(opened.changes().len())
        },
    )?;

    let mut table = report::table(["", "ns a document", "MB/s"]);
    let size = bytes as f64 / count as f64;
    for (what, nanoseconds) in &rows {
        table.add_row([
            (*what).to_owned(),
            figure(Some(*nanoseconds), 0),
            figure(Some(size / nanoseconds * 1e3), 0),
        ]);
    }
    let title = format!("rules in one thread, documents of {size:.0} bytes");
    report::print(&title, table, 1);
    let figures: Vec<Value> = rows
        .iter()
        .map(|(what, nanoseconds)| json!({ "what": what, "nanoseconds_per_document": nanoseconds }))
        .collect();
    report::write(
        context,
        "rules",
        json!({ "bytes_per_document": size, "rows": figures }),
    )
}

/// A rule set, and what it does to changes of the index.
struct Rules {
    rules: RuleSet,
    plan: transform::Plan,
}

impl Rules {
    fn read(text: &str) -> Result<Rules> {
        let no_keys = |_: &transform::KeySource| Err("there is no key".to_owned());
        let rules = RuleSet::read(&Selection::default(), Some(("rules", text)), &no_keys)
            .map_err(|issues| anyhow::anyhow!("{issues:?}"))?;
        let plan = rules.plan(&At {
            tenant: "default".parse()?,
            index: "flights".parse()?,
            operation: Operation::Index,
        });
        Ok(Rules { rules, plan })
    }

    /// As the gateway does; returns how many changes go on.
    fn apply(&self, body: &Batch, encoder: &wire::Encoder) -> Result<usize> {
        let opened = wire::open(body)?;
        let mut jq = Jq::compile([]).map_err(anyhow::Error::msg)?;
        let mut changes = Vec::new();
        let mut index: Option<IndexName> = None;
        let mut failed = None;
        let each = |_, outcome| match outcome {
            Ok(Outcome::Changed(changed)) => {
                for (place, change) in changed {
                    index = Some(place);
                    changes.push(change);
                }
            }
            Ok(Outcome::Dropped(_) | Outcome::Removed(..)) => {}
            Err(error) => failed = Some(error),
        };
        self.rules
            .apply_all(&self.plan, opened.changes(), &mut jq, each);
        if let Some(error) = failed {
            return Err(error.into());
        }
        let batch = Batch {
            index: index.unwrap_or(opened.index),
            origin: opened.origin,
            content: Content::Changes(changes),
        };
        Ok(encoder
            .encode(&batch)
            .iter()
            .map(|message| message.envelope.count)
            .sum())
    }
}
