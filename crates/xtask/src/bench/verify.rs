//! Comparing 1,000,000 equal documents by content and by version, beside a bare scroll over one of the sides.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use testkit::process::Usage;
use testkit::{NodeOptions, Product, SearchNode};

use super::Context;
use super::report::{self, figure};
use super::runs::{Run, median};
use crate::indices::Index;

/// As many documents in a page as copying tools take by default at most.
const PAGE: usize = 5000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Scroll,
    Content,
    Version,
}

impl Way {
    const ALL: [Way; 3] = [Way::Scroll, Way::Content, Way::Version];

    fn title(self) -> &'static str {
        match self {
            Way::Scroll => "bare scroll over the source",
            Way::Content => "verify --by content, both sides",
            Way::Version => "verify --by version, both sides",
        }
    }
}

struct Clusters {
    source: SearchNode,
    target: SearchNode,
    index: Index,
    documents: u64,
}

pub(super) async fn run(context: &Context) -> Result<()> {
    let clusters = clusters(context).await?;
    eprintln!("verify: warming up…");
    for way in Way::ALL {
        clusters.run(way, context).await?;
    }
    let mut runs = Way::ALL.map(|way| (way, Vec::new()));
    for round in 1..=context.pick(5, 1) {
        for (way, runs) in &mut runs {
            let run = clusters.run(*way, context).await?;
            eprintln!(
                "verify: round {round}: {}: {:.0}/s",
                way.title(),
                run.per_second()
            );
            runs.push(run);
        }
    }
    print(&runs, clusters.documents);
    report::write(context, "verify", figures(&runs))
}

async fn clusters(context: &Context) -> Result<Clusters> {
    let options = NodeOptions {
        heap_megabytes: 1024,
        optimised: true,
        ..NodeOptions::default()
    };
    let (source, target) = tokio::try_join!(
        SearchNode::start_with(Product::Es7_17, options.clone()),
        SearchNode::start_with(Product::Os2, options),
    )?;
    let index = Index::FLIGHTS;
    let documents = context.pick(1_000_000, 100_000);
    eprintln!("verify: filling the source with {documents} documents, and the target with a copy…");
    index.create(&source.http()).await?;
    index
        .fill(&source.http(), &index.documents()?, documents)
        .await?;
    index.create(&target.http()).await?;
    let arguments = [
        "sync",
        &source.url(),
        &target.url(),
        "--indices",
        index.name(),
    ];
    let mut copied = context.program.command("sync", &arguments)?;
    copied.succeed().await?;
    Ok(Clusters {
        source,
        target,
        index,
        documents,
    })
}

impl Clusters {
    async fn run(&self, way: Way, context: &Context) -> Result<Run> {
        let by = match way {
            Way::Scroll => return self.scroll().await,
            Way::Content => "content",
            Way::Version => "version",
        };
        let (source, target) = (self.source.url(), self.target.url());
        let index = self.index.name();
        let arguments = ["verify", &source, &target, "--indices", index, "--by", by];
        let name = format!("verify-{by}");
        let finished = context
            .program
            .command(&name, &arguments)?
            .succeed()
            .await?;
        Ok(Run {
            documents: self.documents,
            elapsed: finished.elapsed,
            used: Some(finished.used),
        })
    }

    /// Reads every document of the source, and looks at nothing but how many there are.
    async fn scroll(&self) -> Result<Run> {
        testkit::install_crypto();
        let client = reqwest::Client::builder().no_proxy().build()?;
        let server = self.source.url();
        let ask = async |path: String, query: Value| -> Result<Bytes> {
            let request = client
                .post(format!("{server}/{path}"))
                .header("Content-Type", "application/json");
            let answer = request.body(query.to_string()).send().await?;
            Ok(answer.error_for_status()?.bytes().await?)
        };
        let before = Usage::of_this_process()?;
        let began = Instant::now();
        let first = format!("{}/_search?scroll=1m", self.index.name());
        let mut page = ask(first, json!({ "size": PAGE, "sort": ["_doc"] })).await?;
        let mut documents = 0;
        loop {
            let text = std::str::from_utf8(&page)?;
            let found = text.matches("\"_index\":").count() as u64;
            if found == 0 {
                break;
            }
            documents += found;
            let (_, id) = text.split_once("\"_scroll_id\":\"").context("no scroll")?;
            let (id, _) = id.split_once('"').context("no scroll")?;
            let next = json!({ "scroll": "1m", "scroll_id": id });
            page = ask("_search/scroll".to_owned(), next).await?;
        }
        let elapsed = began.elapsed();
        ensure!(
            documents == self.documents,
            "{documents} of {} were read",
            self.documents
        );
        // Its memory is that of the benchmark, which says nothing.
        let used = Usage {
            peak_resident: 0,
            ..Usage::of_this_process()?.since(&before)
        };
        Ok(Run {
            documents,
            elapsed,
            used: Some(used),
        })
    }
}

fn print(runs: &[(Way, Vec<Run>)], documents: u64) {
    let of = |wanted: Way| {
        let runs = runs.iter().find(|(way, _)| *way == wanted);
        runs.and_then(|(_, runs)| speed(runs))
    };
    let (scroll, content) = (of(Way::Scroll), of(Way::Content));
    let mut table = report::table([
        "",
        "runs",
        "documents/s",
        "× the scroll",
        "× by content",
        "µs CPU/document",
        "most memory, MB",
    ]);
    for (way, runs) in runs {
        let speed = speed(runs);
        let ratio = |to: Option<f64>| speed.zip(to).map(|(own, other)| own / other);
        let peak = median(runs.iter().filter_map(Run::peak)).filter(|peak| *peak > 0.0);
        table.add_row([
            way.title().to_owned(),
            runs.len().to_string(),
            figure(speed, 0),
            figure(ratio(scroll), 2),
            figure(ratio(content), 2),
            figure(median(runs.iter().filter_map(Run::cpu)), 2),
            figure(peak, 0),
        ]);
    }
    let title =
        format!("{documents} equal flights, Elasticsearch 7.17 and OpenSearch 2.19 (medians)");
    report::print(&title, table, 1);
}

fn speed(runs: &[Run]) -> Option<f64> {
    median(runs.iter().map(Run::per_second))
}

fn figures(runs: &[(Way, Vec<Run>)]) -> Value {
    let ways: Vec<Value> = runs
        .iter()
        .map(|(way, runs)| {
            json!({
                "way": way.title(),
                "documents_per_second": speed(runs),
                "runs": runs.iter().map(Run::figures).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!(ways)
}
