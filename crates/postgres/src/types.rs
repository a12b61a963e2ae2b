//! The types of columns: what their values become in JSON, and how an index maps them.
//!
//! A value is never made to mean something else. What a search engine cannot hold as what it is (`NaN`, an
//! infinite date) stays in the document as text, and the mapping has the engine pass over it
//! (`ignore_malformed`), so that no row is refused for it.

use std::{collections::HashMap, str::FromStr, sync::Arc};

use serde_json::{Value, json};

use crate::{Connection, Error};

/// The longest keyword that Lucene takes has 32,766 bytes, and a character up to four.
const LONGEST_KEYWORD: u32 = 8191;

/// What a column holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// `boolean`.
    Bool,
    /// `smallint`, `integer`, `bigint`, `oid`: a number, and the name of its mapping.
    Integer(&'static str),
    /// `real` and `double precision`, with the name of the mapping.
    Float(&'static str),
    /// `numeric`: as many digits as it has.
    Numeric,
    /// Text that is analysed.
    Text,
    /// Text that stands for itself: enums, uuids, times, intervals, money.
    Keyword,
    /// `date`.
    Date,
    /// `timestamp`, with and without time zone.
    Timestamp,
    /// `json`, of which an object may have a key twice.
    Json,
    /// `jsonb`.
    Jsonb,
    /// JSON that the index looks into, field by field.
    Object,
    /// JSON that the index keeps and does not look into.
    Opaque,
    /// `bytea` as base64.
    Bytes,
    /// Left out of the document.
    Skipped,
    /// `inet`.
    Inet,
    /// `cidr`.
    Cidr,
    /// `point`.
    Point,
    /// A range of numbers or times.
    Range(Arc<Type>),
    /// Several of them.
    MultiRange(Arc<Type>),
    /// An array, with what stands between its elements.
    Array(Arc<Type>, u8),
    /// A row type: the names and types of its fields.
    Composite(Arc<[(String, Arc<Type>)]>),
    /// `hstore`.
    Hstore,
}

/// What somebody wants a column to be instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Override {
    /// Not in the document.
    Skip,
    /// Analysed text.
    Text,
    /// Text that stands for itself.
    Keyword,
    /// Bytes as base64.
    Base64,
    /// JSON that the index looks into.
    Object,
    /// JSON that the index does not look into.
    Opaque,
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Override, String> {
        match text {
            "skip" => Ok(Override::Skip),
            "text" => Ok(Override::Text),
            "keyword" => Ok(Override::Keyword),
            "base64" => Ok(Override::Base64),
            "object" => Ok(Override::Object),
            "opaque" => Ok(Override::Opaque),
            other => Err(format!(
                "{other:?} is none of skip, text, keyword, base64, object, opaque"
            )),
        }
    }
}

impl Override {
    /// The type that it makes of a column.
    pub fn apply(self) -> Type {
        match self {
            Override::Skip => Type::Skipped,
            Override::Text => Type::Text,
            Override::Keyword => Type::Keyword,
            Override::Base64 => Type::Bytes,
            Override::Object => Type::Object,
            Override::Opaque => Type::Opaque,
        }
    }
}

impl Type {
    /// How an index maps it; nothing for what is not in the document.
    pub fn mapping(&self) -> Option<Value> {
        let mapping = match self {
            Type::Bool => json!({ "type": "boolean" }),
            Type::Integer(name) => json!({ "type": name }),
            Type::Float(name) => json!({ "type": name, "ignore_malformed": true }),
            Type::Numeric => json!({
                "type": "double",
                "ignore_malformed": true,
                "fields": { "exact": { "type": "keyword", "ignore_above": LONGEST_KEYWORD } },
            }),
            Type::Text => json!({
                "type": "text",
                "fields": { "keyword": { "type": "keyword", "ignore_above": 256 } },
            }),
            Type::Keyword => json!({ "type": "keyword", "ignore_above": LONGEST_KEYWORD }),
            Type::Date | Type::Timestamp => json!({ "type": "date", "ignore_malformed": true }),
            Type::Json | Type::Jsonb | Type::Hstore => {
                json!({ "type": "flattened", "ignore_above": LONGEST_KEYWORD, "depth_limit": 100 })
            }
            Type::Object => json!({ "type": "object" , "dynamic": true }),
            Type::Opaque => json!({ "type": "object", "enabled": false }),
            Type::Bytes => json!({ "type": "binary" }),
            Type::Skipped => return None,
            Type::Inet => json!({ "type": "ip", "ignore_malformed": true }),
            Type::Cidr => json!({ "type": "ip_range" }),
            Type::Point => json!({ "type": "geo_point", "ignore_malformed": true }),
            Type::Range(of) | Type::MultiRange(of) => json!({ "type": range_of(of) }),
            Type::Array(of, _) => return of.mapping(),
            Type::Composite(fields) => {
                let fields = fields.iter();
                let properties: serde_json::Map<String, Value> = fields
                    .filter_map(|(name, of)| Some((name.clone(), of.mapping()?)))
                    .collect();
                json!({ "properties": properties })
            }
        };
        Some(mapping)
    }
}

fn range_of(of: &Type) -> &'static str {
    match of {
        Type::Integer("long") => "long_range",
        Type::Integer(_) => "integer_range",
        Type::Date | Type::Timestamp => "date_range",
        _ => "double_range",
    }
}

/// The types of a database by OID.
#[derive(Debug, Clone, Default)]
pub struct Types {
    known: HashMap<u32, Arc<Type>>,
    /// The names of types that become text because nothing is known of them.
    strange: HashMap<u32, String>,
}

/// A row of `pg_type` with what belongs to it.
struct Definition {
    schema: String,
    name: String,
    kind: char,
    category: char,
    element: u32,
    base: u32,
    delimiter: u8,
    row_of: u32,
    range_of: u32,
    multirange_of: u32,
}

impl Types {
    /// Reads all types of the session's database.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn read(connection: &mut Connection) -> Result<Types, Error> {
        let multirange = match connection.version() >= 140_000 {
            true => "coalesce(m.rngsubtype, 0)",
            false => "0",
        };
        let join = match connection.version() >= 140_000 {
            true => "LEFT JOIN pg_range m ON m.rngmultitypid = t.oid",
            false => "",
        };
        // The row types of tables are left out: a column may have one, which is then text.
        let sql = format!(
            "SELECT t.oid, n.nspname, t.typname, t.typtype, t.typcategory, t.typelem, t.typbasetype, t.typdelim, \
               t.typrelid, coalesce(r.rngsubtype, 0), {multirange}, t.typlen \
             FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
               LEFT JOIN pg_class c ON c.oid = t.typrelid \
               LEFT JOIN pg_range r ON r.rngtypid = t.oid {join} \
             WHERE t.typrelid = 0 OR c.relkind = 'c'"
        );
        let mut definitions = HashMap::new();
        for row in connection.query(&sql).await? {
            let character = |column: usize| row.text(column).chars().next().unwrap_or(' ');
            definitions.insert(
                row.number::<u32>(0),
                Definition {
                    schema: row.text(1).to_owned(),
                    name: row.text(2).to_owned(),
                    kind: character(3),
                    category: character(4),
                    element: match row.text(11) {
                        "-1" => row.number(5),
                        _ => 0, // point and box have elements too, and are no arrays
                    },
                    base: row.number(6),
                    delimiter: character(7) as u8,
                    row_of: row.number(8),
                    range_of: row.number(9),
                    multirange_of: row.number(10),
                },
            );
        }
        let fields = connection
            .query(
                "SELECT a.attrelid, a.attname, a.atttypid FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
                 WHERE c.relkind = 'c' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum",
            )
            .await?;
        let mut composites: HashMap<u32, Vec<(String, u32)>> = HashMap::new();
        for row in fields {
            let of = composites.entry(row.number(0)).or_default();
            of.push((row.text(1).to_owned(), row.number(2)));
        }
        let mut types = Types::default();
        for oid in definitions.keys() {
            types.resolve(*oid, &definitions, &composites, 0);
        }
        Ok(types)
    }

    /// A type by its OID; text where it is not known.
    pub fn get(&self, oid: u32) -> Arc<Type> {
        self.known
            .get(&oid)
            .cloned()
            .unwrap_or_else(|| Arc::new(Type::Text))
    }

    /// The name of a type of which nothing is known but its text.
    pub fn strange(&self, oid: u32) -> Option<&str> {
        self.strange.get(&oid).map(String::as_str)
    }

    fn resolve(
        &mut self,
        oid: u32,
        definitions: &HashMap<u32, Definition>,
        composites: &HashMap<u32, Vec<(String, u32)>>,
        depth: usize,
    ) -> Arc<Type> {
        if let Some(known) = self.known.get(&oid) {
            return Arc::clone(known);
        }
        let Some(definition) = definitions.get(&oid).filter(|_| depth < 32) else {
            return Arc::new(Type::Text);
        };
        let mut of = |oid: u32| self.resolve(oid, definitions, composites, depth + 1);
        let resolved = match definition.kind {
            'd' => of(definition.base),
            'e' => Arc::new(Type::Keyword),
            'r' => Arc::new(Type::Range(of(definition.range_of))),
            'm' => Arc::new(Type::MultiRange(of(definition.multirange_of))),
            'c' => {
                let fields = composites.get(&definition.row_of);
                let fields = fields.into_iter().flatten();
                let fields = fields.map(|(name, oid)| (name.clone(), of(*oid)));
                Arc::new(Type::Composite(fields.collect()))
            }
            _ if definition.category == 'A' && definition.element != 0 => {
                let element = definitions.get(&definition.element);
                let delimiter = element.map_or(b',', |element| element.delimiter);
                Arc::new(Type::Array(of(definition.element), delimiter))
            }
            _ => match by_name(&definition.schema, &definition.name) {
                Some(known) => Arc::new(known),
                None => {
                    let name = format!("{}.{}", definition.schema, definition.name);
                    self.strange.insert(oid, name);
                    Arc::new(Type::Text)
                }
            },
        };
        self.known.insert(oid, Arc::clone(&resolved));
        resolved
    }
}

/// The types that the server and its extensions bring.
fn by_name(schema: &str, name: &str) -> Option<Type> {
    // An extension's types are wherever it was installed.
    match name {
        "hstore" => return Some(Type::Hstore),
        "citext" => return Some(Type::Text),
        "ltree" | "lquery" | "ltxtquery" => return Some(Type::Keyword),
        _ if schema != "pg_catalog" => return None,
        _ => {}
    }
    Some(match name {
        "bool" => Type::Bool,
        "int2" => Type::Integer("short"),
        "int4" => Type::Integer("integer"),
        "int8" | "oid" | "xid8" => Type::Integer("long"),
        "float4" => Type::Float("float"),
        "float8" => Type::Float("double"),
        "numeric" => Type::Numeric,
        "text" | "varchar" | "bpchar" | "xml" | "tsvector" => Type::Text,
        "name" | "char" | "uuid" | "interval" | "money" | "time" | "timetz" | "bit" | "varbit"
        | "macaddr" | "macaddr8" | "pg_lsn" | "tsquery" => Type::Keyword,
        "date" => Type::Date,
        "timestamp" | "timestamptz" => Type::Timestamp,
        "json" => Type::Json,
        "jsonb" => Type::Jsonb,
        // Large, and of no use to a search: in the document if it is asked for.
        "bytea" => Type::Skipped,
        "inet" => Type::Inet,
        "cidr" => Type::Cidr,
        "point" => Type::Point,
        _ => return None,
    })
}
