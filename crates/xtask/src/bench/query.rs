//! What the query API adds to a search: the same search sent directly and through it, in turns, at 500 a second and as
//! fast as 16 connections go.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt, stream};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use testkit::{NodeOptions, Product, SearchNode};

use super::Context;
use super::report::{self, figure};
use crate::indices::Index;

const DOCUMENTS: u64 = 100_000;
const PER_SECOND: u32 = 500;
const CONNECTIONS: usize = 16;
/// Direct and through the API take turns this many times. Short turns, and the middle one of them counts, so that what
/// else happens on the machine falls on both.
const TURNS: usize = 11;
const PERCENTS: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

/// One way of asking the question.
struct Way {
    name: &'static str,
    url: String,
    body: String,
    latency: Histogram<u64>,
    /// The percentiles of each turn, in microseconds.
    turns: Vec<[u64; 4]>,
    answered: u64,
    took: Duration,
}

impl Way {
    /// A percentile in the middle one of the turns, in milliseconds.
    fn middle(&self, percent: usize) -> f64 {
        let mut all: Vec<u64> = self.turns.iter().map(|turn| turn[percent]).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default() as f64 / 1e3
    }
}

pub(super) async fn run(context: &Context) -> Result<()> {
    testkit::install_crypto();
    let options = NodeOptions {
        heap_megabytes: 1024,
        optimised: true,
        ..NodeOptions::default()
    };
    eprintln!("query: starting {}…", Product::Os2);
    let node = SearchNode::start_with(Product::Os2, options).await?;
    let index = Index::FLIGHTS;
    index.create(&node.http()).await?;
    let documents = context.pick(DOCUMENTS, 10_000);
    index
        .fill(&node.http(), &index.documents()?, documents)
        .await?;
    node.http()
        .post_json(&format!("/{}/_refresh", index.name()), &Value::Null)
        .await?;
    let (mut service, address) = context.program.query_api(&node.url(), index.name()).await?;
    let mut ways = ways(&node.url(), &address, index.name());
    same(&ways).await?;

    let (warm, paced, fast) = context.pick((25, 4, 3), (2, 1, 1));
    eprintln!("query: warming up…");
    for way in &mut ways {
        go(way, None, Duration::from_secs(warm)).await?;
    }
    for turn in 0..TURNS {
        eprintln!("query: at {PER_SECOND}/s, turn {}…", turn + 1);
        for way in &mut ways {
            way.latency.reset();
            go(way, Some(PER_SECOND), Duration::from_secs(paced)).await?;
            let at = |percent| way.latency.value_at_percentile(percent);
            way.turns.push(PERCENTS.map(at));
        }
    }
    let mut table = report::table(["way", "p50, ms", "p90, ms", "p99, ms", "p99.9, ms"]);
    for way in &ways {
        let [p50, p90, p99, p999] = [0, 1, 2, 3].map(|at| figure(Some(way.middle(at)), 2));
        table.add_row([way.name.to_owned(), p50, p90, p99, p999]);
    }
    report::print(
        &format!("The same search at {PER_SECOND} requests/s"),
        table,
        1,
    );
    let latencies: Vec<Value> = ways.iter().map(latency).collect();

    ways.iter_mut()
        .for_each(|way| (way.answered, way.took) = (0, Duration::ZERO));
    let before = service.process.used()?;
    for turn in 0..TURNS {
        eprintln!("query: {CONNECTIONS} connections, turn {}…", turn + 1);
        for way in &mut ways {
            go(way, None, Duration::from_secs(fast)).await?;
        }
    }
    let used = service.process.used()?;
    let per_second = |way: &Way| way.answered as f64 / way.took.as_secs_f64();
    let ratio = per_second(&ways[1]) / per_second(&ways[0]);
    let cpu = used.since(&before).cpu().as_secs_f64() * 1e6 / ways[1].answered.max(1) as f64;
    let memory = used.peak_resident as f64 / f64::from(1 << 20);
    let mut table = report::table([
        "way",
        "requests/s",
        "of direct",
        "µs CPU/request",
        "most memory, MB",
    ]);
    table.add_row([
        "direct",
        &figure(Some(per_second(&ways[0])), 0),
        "1.00",
        "–",
        "–",
    ]);
    table.add_row([
        "query-api".to_owned(),
        figure(Some(per_second(&ways[1])), 0),
        figure(Some(ratio), 2),
        figure(Some(cpu), 0),
        figure(Some(memory), 1),
    ]);
    report::print(
        &format!("As fast as {CONNECTIONS} connections go"),
        table,
        1,
    );
    let figures = json!({
        "documents": documents,
        "at_500_per_second": latencies,
        "throughput": { "direct": per_second(&ways[0]), "query_api": per_second(&ways[1]), "ratio": ratio },
        "cpu_us_per_request": cpu,
        "peak_megabytes": memory,
    });
    service.process.stop().await?;
    report::write(context, "query", figures)
}

/// The body that is sent directly asks for what the API's asks for: one aeroplane's long flights, as a page of somebody's
/// orders would. What costs the cluster much says nothing of what the API adds.
fn ways(cluster: &str, api: &str, index: &str) -> [Way; 2] {
    let direct = json!({
        "query": { "bool": { "filter": [
            { "term": { "tailnum": "N14228" } }, { "range": { "distance": { "gte": 1000 } } },
        ] } },
        "sort": [{ "dep_delay": { "order": "desc", "missing": "_last" } }, { "_seq_no": "asc" }],
        "size": 10, "track_total_hits": 10_000,
    });
    let through = json!({
        "filter": { "tailnum": "N14228", "distance": { "gte": 1000 } },
        "sort": ["dep_delay.desc.nullslast"], "limit": 10,
    });
    let way = |name, url, body: Value| Way {
        name,
        url,
        body: body.to_string(),
        latency: Histogram::new(3).expect("three digits are allowed"),
        turns: Vec::new(),
        answered: 0,
        took: Duration::ZERO,
    };
    [
        way("direct", format!("{cluster}/{index}/_search"), direct),
        way(
            "query-api",
            format!("http://{api}/v1/{index}/search"),
            through,
        ),
    ]
}

/// Both find the same documents in the same order.
async fn same(ways: &[Way; 2]) -> Result<()> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()?;
    let mut answers = Vec::new();
    for way in ways {
        let body: Value = serde_json::from_slice(&ask(&client, way).await?)?;
        let hits = body
            .pointer("/hits/hits")
            .or(body.get("hits"))
            .and_then(Value::as_array);
        let hits = hits.context("an answer without hits")?;
        let ids: Vec<Value> = hits
            .iter()
            .map(|hit| hit.get("_id").unwrap_or(&hit["id"]).clone())
            .collect();
        answers.push(ids);
    }
    ensure!(
        answers[0] == answers[1] && answers[0].len() == 10,
        "the answers differ: {answers:?}"
    );
    Ok(())
}

/// Asks at a rate, each request at its time whether those before are answered or not; or without a pause.
async fn go(way: &mut Way, rate: Option<u32>, time: Duration) -> Result<()> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()?;
    let began = Instant::now();
    let due =
        |number: u32| rate.map_or(began, |rate| began + Duration::from_secs(1) * number / rate);
    let asked = way as &Way;
    let goes_on = |number: &u32| due(*number).max(Instant::now()) < began + time;
    let mut results = stream::iter((0..).take_while(goes_on))
        .map(|number| {
            let client = &client;
            async move {
                tokio::time::sleep_until(due(number).into()).await;
                let start = due(number).max(began);
                let start = if rate.is_some() {
                    start
                } else {
                    Instant::now()
                };
                ask(client, asked).await.map(|_| start.elapsed())
            }
        })
        .buffer_unordered(if rate.is_some() { 256 } else { CONNECTIONS });
    let mut latencies = Vec::new();
    while let Some(result) = results.next().await {
        latencies.push(result?);
    }
    drop(results);
    way.took += began.elapsed();
    way.answered += latencies.len() as u64;
    for latency in latencies {
        way.latency.record(latency.as_micros() as u64)?;
    }
    Ok(())
}

async fn ask(client: &reqwest::Client, way: &Way) -> Result<bytes::Bytes> {
    let request = client
        .post(&way.url)
        .header("content-type", "application/json");
    let response = request.body(way.body.clone()).send().await?;
    let status = response.status();
    let body = response.bytes().await?;
    ensure!(
        status.is_success(),
        "{}: {status}: {}",
        way.name,
        String::from_utf8_lossy(&body)
    );
    Ok(body)
}

fn latency(way: &Way) -> Value {
    let names = PERCENTS.map(|percent| format!("p{percent}")).into_iter();
    let percentiles = names
        .enumerate()
        .map(|(at, name)| (name, json!(way.middle(at))));
    let percentiles: serde_json::Map<String, Value> = percentiles.collect();
    json!({ "way": way.name, "milliseconds_in_the_middle_turn": percentiles })
}
