//! Into which parts a table is cut to be read.

use postgres::{Connection, Part, quote_ident};

use crate::{
    SourceError,
    copying::{conditions, pages_of},
    layout::Layout,
};

/// How many pages of a file (8 KiB each, as servers are built) are read by one statement: few, because it
/// keeps the server from cleaning up as long as it takes, and an operator may want it slow.
const CUT_PAGES: u32 = 512;

/// Rows that are read by one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    part: Part,
    /// Which pages; all without.
    pages: Option<(u32, Option<u32>)>,
    /// Whether rows that are equal in everything count as one.
    is_distinct: bool,
}

/// The parts of a table: ranges of its file where the server can read those (from version 14 on), and
/// whole files where not, or where equal rows have to be found.
pub(super) async fn cuts(
    session: &mut Connection,
    layout: &Layout,
    parts: &[Part],
) -> Result<Vec<Cut>, SourceError> {
    let is_distinct = layout.key.is_empty();
    let mut cuts = Vec::new();
    for part in parts {
        let cut = |pages| Cut {
            part: part.clone(),
            pages,
            is_distinct,
        };
        if is_distinct || session.version() < 140_000 {
            cuts.push(cut(None));
            continue;
        }
        let count = pages_of(session, part).await?.div_ceil(CUT_PAGES).max(1);
        cuts.extend((0..count).map(|number| {
            let from = number * CUT_PAGES;
            // What is added from now on lies behind.
            cut(Some((from, (number + 1 < count).then(|| from + CUT_PAGES))))
        }));
    }
    Ok(cuts)
}

impl Cut {
    /// The statement that reads it. The lock comes first: a table that is written anew while its reader
    /// waits for the lock looks empty to a snapshot from before.
    pub(super) fn copy(&self, layout: &Layout) -> String {
        let name = &self.part.name;
        let condition = conditions(layout, self.pages);
        let list = layout.select_list();
        let select = match self.is_distinct {
            false => format!("SELECT {list} FROM ONLY {name}{condition}"),
            true => {
                // No column is called like this.
                let row = quote_ident("a row of the table");
                format!(
                    "SELECT DISTINCT ON (({row}::text) COLLATE \"C\") {list} FROM ONLY {name} AS {row}{condition}"
                )
            }
        };
        format!("LOCK TABLE ONLY {name} IN ACCESS SHARE MODE; COPY ({select}) TO STDOUT")
    }
}

/// The statement that reads all rows of a part.
pub(super) fn whole(layout: &Layout, part: &Part) -> String {
    let cut = Cut {
        part: part.clone(),
        pages: None,
        is_distinct: false,
    };
    cut.copy(layout)
}
