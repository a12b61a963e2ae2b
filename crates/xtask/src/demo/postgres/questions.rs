//! What a person would ask of the flights, by REST: the question, the URL, the answer.

use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets};
use serde_json::Value;
use testkit::{Http, PostgresServer, wait_until};

use super::PATIENCE;
use crate::nycflights::DATABASE;

/// What the API serves.
pub(super) const INDICES: &str = "airlines,airports,flights,planes,routes,weather";

/// Asks all of them.
pub(super) async fn ask(url: &str, source: &PostgresServer) -> Result<()> {
    println!("\nThe same rows, asked by REST ({url}/docs has a page of all that can be asked):");
    let api = Api {
        http: Http::new(url),
        url,
    };
    api.late_arrivals().await?;
    api.worst_to_los_angeles().await?;
    api.by_name().await?;
    api.own_write(source).await
}

struct Api<'a> {
    http: Http,
    url: &'a str,
}

impl Api<'_> {
    /// Prints question and URL; returns the answer.
    async fn question(&self, question: &str, path: &str) -> Result<Value> {
        if !question.is_empty() {
            println!("\n{question}");
        }
        println!("  GET {}{path}", self.url);
        let (status, answer) = self.http.request("GET".parse()?, path, "").await?;
        ensure!(status == 200, "{path} was answered with {status}: {answer}");
        Ok(answer)
    }

    async fn late_arrivals(&self) -> Result<()> {
        let path =
            "/v1/flights/search?arr_delay=gte.60&facet_by=carrier(5),dest(5)&limit=0&count=exact";
        let question = "Who was an hour late or more, most often, and where to?";
        let answer = self.question(question, path).await?;
        println!("  {} flights were.", answer["found"]["count"]);
        let (carriers, destinations) = (facet(&answer, "carrier")?, facet(&answer, "dest")?);
        let question = "And what are these called?";
        let airlines = self
            .names(question, "airlines", "carrier", &carriers)
            .await?;
        let airports = self.names("", "airports", "faa", &destinations).await?;
        show(&airlines);
        println!();
        show(&airports);
        Ok(())
    }

    /// A table of the values of a facet, with the names that another index has for them.
    async fn names(
        &self,
        question: &str,
        index: &str,
        key: &str,
        facet: &[(String, u64)],
    ) -> Result<Table> {
        let codes: Vec<&str> = facet.iter().map(|(code, _)| code.as_str()).collect();
        let path = format!(
            "/v1/{index}/search?{key}=in.({})&fields=name",
            codes.join(",")
        );
        let answer = self.question(question, &path).await?;
        let name = |code: &str| {
            let mut hits = answer["hits"].as_array().into_iter().flatten();
            let found = hits.find(|hit| hit["id"] == code);
            found.map_or("–".to_owned(), |hit| text(&hit["document"]["name"]))
        };
        let mut table = table([index, "", "flights"]);
        for (code, count) in facet {
            table.add_row([code, &name(code), &count.to_string()]);
        }
        Ok(table)
    }

    async fn worst_to_los_angeles(&self) -> Result<()> {
        let first = "/v1/flights/search?origin=eq.JFK&dest=eq.LAX&arr_delay=gt.120&sort=arr_delay.desc\
                     &fields=carrier,flight,time_hour,dep_delay,arr_delay&limit=4";
        let question =
            "Which flights from JFK to LAX arrived more than two hours late, the worst first?";
        let answer = self.question(question, first).await?;
        println!("  {} did; the first four:", answer["found"]["count"]);
        show(&flights(&answer));
        let cursor = answer["cursor"].as_str().context("a list of one page")?;
        let next = format!("{first}&cursor={cursor}");
        println!(
            "\nAnd the next four?\n  GET the same, with &cursor={:.24}…",
            cursor
        );
        show(&flights(&self.http.get_json(&next).await?));
        Ok(())
    }

    async fn by_name(&self) -> Result<()> {
        let path = "/v1/airports/search?q=international%20chicgo&query_by=name&match=fuzzy&highlight=name&limit=3";
        let answer = self.question("An airport in Chicgo?", path).await?;
        let mut table = table(["code", "airport", "found by"]);
        for hit in answer["hits"].as_array().into_iter().flatten() {
            let found_by = text(&hit["highlight"]["name"][0]);
            table.add_row([text(&hit["id"]), text(&hit["document"]["name"]), found_by]);
        }
        show(&table);
        Ok(())
    }

    /// A commit, and at once a question that waits until the index has it.
    async fn own_write(&self, source: &PostgresServer) -> Result<()> {
        let mut session = source.session(DATABASE)?;
        let update = "UPDATE airlines SET name = 'United' WHERE carrier = 'UA'";
        println!("\n{update}; SELECT pg_current_wal_insert_lsn()");
        let rows = session
            .run(&format!("{update};\nSELECT pg_current_wal_insert_lsn()"))
            .await?;
        let lsn = rows.first().context("no position")?;
        println!("  {lsn}");
        let path = format!("/v1/airlines/UA?min_lsn={lsn}");
        let question = "Does the index show what has just been committed?";
        println!("\n{question}\n  GET {}{path}", self.url);
        let (status, answer) = self.http.request("GET".parse()?, &path, "").await?;
        let answer = if status == 400 && answer["parameter"] == "min_lsn" {
            // A watcher without position marks: nothing says up to where the index is.
            println!(
                "  {}; so it is asked until it does",
                text(&answer["detail"])
            );
            self.until_united().await?
        } else {
            ensure!(status == 200, "{path} was answered with {status}: {answer}");
            answer
        };
        let document = answer.get("document").unwrap_or(&answer);
        println!("  {document}");
        ensure!(
            document["name"] == "United",
            "an answer from before the write"
        );
        Ok(())
    }

    async fn until_united(&self) -> Result<Value> {
        let path = "/v1/airlines/UA";
        let shows = |answer: &Value| answer.to_string().contains("\"United\"");
        wait_until("the index shows it", PATIENCE, async || {
            self.http
                .get_json(path)
                .await
                .is_ok_and(|answer| shows(&answer))
        })
        .await?;
        self.http.get_json(path).await
    }
}

/// The values of a facet with how many documents have each.
fn facet(answer: &Value, field: &str) -> Result<Vec<(String, u64)>> {
    let values = answer["facets"][field]["values"].as_array();
    let values = values.with_context(|| format!("no facet {field}: {answer}"))?;
    let pair = |value: &Value| Some((text(&value["value"]), value["count"].as_u64()?));
    Ok(values.iter().filter_map(pair).collect())
}

fn flights(answer: &Value) -> Table {
    let mut table = table(["flight", "day", "left late by", "arrived late by"]);
    for hit in answer["hits"].as_array().into_iter().flatten() {
        let flight = &hit["document"];
        let minutes = |field: &str| format!("{} min", flight[field]);
        table.add_row([
            format!("{} {}", text(&flight["carrier"]), flight["flight"]),
            text(&flight["time_hour"]).chars().take(10).collect(),
            minutes("dep_delay"),
            minutes("arr_delay"),
        ]);
    }
    table
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    table
}

fn show(table: &Table) {
    for line in table.to_string().lines() {
        println!("   {}", line.trim_end());
    }
}

/// A value as people write it.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
