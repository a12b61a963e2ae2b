//! Which tables are captured, what they look like, and where their indices come from.

use postgres::{Table, Type};

use super::*;

impl Session<'_> {
    /// Notices what has to be copied.
    pub(super) async fn look(&mut self) -> Result<(), SourceError> {
        self.publish().await?;
        let state = self.capture.memory.get(&self.capture.database);
        let known = state.map(|state| state.tables).unwrap_or_default();
        self.forget_others(&known)?;
        let layouts: Vec<Arc<Layout>> = self.layouts.values().cloned().collect();
        for layout in layouts {
            let epoch = self.lineage(&layout).await?.1;
            let parts = match self.catalogue.tables.get(&layout.oid) {
                Some(table) => self.catalogue.parts(table),
                None => continue,
            };
            if self.serving.contains_key(&layout.oid) {
                continue;
            }
            let table = known.get(&layout.oid);
            let fingerprint = layout.fingerprint();
            // What is being copied is not copied whole yet: that is no news.
            match plan::plan(table, fingerprint, epoch, &parts) {
                Some(Task::Rest) if self.has_looked && !is_new_part(table, &parts) => {}
                Some(task) => {
                    self.wanted.insert(layout.oid, task);
                }
                None => {}
            }
        }
        self.has_looked = true;
        self.measure().await
    }

    /// Reads the catalogue, and has the publication hold what is captured.
    pub(super) async fn publish(&mut self) -> Result<(), SourceError> {
        loop {
            self.types = Types::read(&mut self.control).await?;
            self.catalogue = Catalogue::read(&mut self.control).await?;
            let capture = &*self.capture;
            let published = publication::ensure(
                &mut self.control,
                &self.catalogue,
                &capture.options,
                &capture.slot,
                capture.observer.as_ref(),
            );
            match published.await {
                // Dropped since the catalogue was read: the next one does not have it.
                Err(error) if error.is_one_of(&publication::DROPPED_SINCE) => {}
                published => {
                    self.published = published?;
                    return self.lay_out().await;
                }
            }
        }
    }

    /// A table that is not captured any more has a gap from now on: should it come back, it is copied.
    pub(super) fn forget_others(
        &mut self,
        known: &BTreeMap<u32, TableState>,
    ) -> Result<(), SourceError> {
        let others = known
            .iter()
            .filter(|(oid, _)| !self.layouts.contains_key(oid));
        let others: Vec<(u32, String)> = others
            .map(|(oid, state)| (*oid, state.table.clone()))
            .collect();
        for (oid, table) in &others {
            let what = match self.catalogue.tables.contains_key(oid) {
                true => "is not captured any more",
                false => "was dropped",
            };
            tracing::warn!(database = %self.capture.database, table, "the table {what}; its index stays as it is");
            let parts = self.relations_of(*oid).into_iter();
            for relation in parts.chain([*oid]) {
                self.gathered.describe(relation, None);
            }
        }
        if others.is_empty() {
            return Ok(());
        }
        let database = Arc::clone(&self.capture.database);
        self.capture.memory.update(&database, |state| {
            others.iter().for_each(|(oid, _)| {
                state.tables.remove(oid);
            });
        })
    }

    /// Makes the layouts of the captured tables from the catalogue.
    pub(super) async fn lay_out(&mut self) -> Result<(), SourceError> {
        let mut layouts = HashMap::new();
        for (oid, (index, scope)) in &self.published.tables {
            let Some(table) = self.catalogue.tables.get(oid) else {
                continue;
            };
            let columns = &self.capture.options.columns;
            let layout = Layout::of(table, index.clone(), scope, &self.types, columns);
            let known = self.layouts.get(oid);
            let same = known.filter(|known| known.fingerprint() == layout.fingerprint());
            let layout = match same {
                Some(known) => Arc::clone(known),
                None => Arc::new(layout),
            };
            if known.is_none() {
                self.capture.observer.found(&layout.index);
            }
            layouts.insert(*oid, layout);
        }
        for layout in layouts.values() {
            for column in &layout.columns {
                if let Some(name) = self.types.strange(column.type_oid)
                    && self.strange.insert(column.type_oid)
                {
                    tracing::warn!(
                        table = layout.table,
                        column = column.name,
                        "the type {name} is not known: its values are text"
                    );
                }
            }
        }
        for (column, remedy) in self.columns_left_out(&layouts) {
            self.capture.observer.column_left_out(&column, &remedy);
        }
        self.layouts = layouts;
        Ok(())
    }

    /// The columns that are in no document because of their type, each with what takes it along.
    fn columns_left_out(&self, layouts: &HashMap<u32, Arc<Layout>>) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let choices = &self.capture.options.columns;
        for layout in layouts.values() {
            let Some(Table { schema, name, .. }) = self.catalogue.tables.get(&layout.oid) else {
                continue;
            };
            let skipped = layout.columns.iter();
            let skipped = skipped.filter(|column| *column.of == Type::Skipped);
            found.extend(
                skipped
                    .filter(|column| choices.of(schema, name, &column.name).is_none())
                    .map(|column| {
                        let column = format!("{schema}.{name}.{}", column.name);
                        let remedy = format!("--pg-columns {column}=base64");
                        (column, remedy)
                    }),
            );
        }
        found
    }

    /// Says how far the slot is behind.
    pub(super) async fn measure(&mut self) -> Result<(), SourceError> {
        if self.stream.is_none() {
            return Ok(());
        }
        let sql = format!(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), current_setting('max_slot_wal_keep_size', true), \
             pg_wal_lsn_diff(pg_current_wal_lsn(), '{}') FROM pg_replication_slots WHERE slot_name = {}",
            self.position,
            postgres::quote_literal(&self.capture.slot)
        );
        let rows = self.control.query(&sql).await?;
        if let Some(row) = rows.first() {
            let (observer, database) = (&self.capture.observer, &self.capture.database);
            let positive = |column| row.number::<i64>(column).max(0) as u64;
            let budget = megabytes(row.text(1)).map(|megabytes| megabytes << 20);
            observer.retained(database, positive(0), budget);
            observer.behind(database, positive(2));
        }
        Ok(())
    }

    /// Says what an index looks like and where it comes from, before anything of it.
    pub(super) async fn define(&mut self, layout: &Arc<Layout>) -> Result<Epoch, SourceError> {
        let (lineage, epoch, _) = self.lineage(layout).await?;
        let definition = layout.definition(self.version, Some(lineage));
        let content = Content::Definition(definition);
        self.push(layout.index.clone(), content, Position::Nothing);
        Ok(epoch)
    }

    /// Where an index comes from, the epoch of its versions, and whether it was filled before.
    pub(super) async fn lineage(
        &mut self,
        layout: &Layout,
    ) -> Result<(Lineage, Epoch, bool), SourceError> {
        let system = &self.identity.system;
        let source = self.identity.source(&self.capture.database, &layout.table);
        if let Some(known) = self.lineages.get(&layout.oid)
            && known.0.source == source
        {
            return Ok(known.clone());
        }
        let registry = &self.capture.registry;
        let known = registry.known(&source, &layout.index).await?;
        let was_filled = known
            .as_ref()
            .is_some_and(|known| !known.histories.is_empty());
        let mut lineage = known.unwrap_or_else(|| Lineage::of(source.clone()));
        lineage.source = source;
        let history = self.identity.history();
        if self.begins_again(layout.oid) && lineage.epoch_of(&history).is_some() {
            lineage.renew(&history)?;
        }
        let epoch = lineage.epoch_for(&history, system, 0)?;
        lineage.histories.insert(
            history.clone(),
            Generation {
                index: system.clone(),
                shard: 0,
                epoch,
            },
        );
        let recorded = registry.record(&lineage).await?;
        let epoch = recorded.epoch_of(&history).unwrap_or(epoch);
        let found = (recorded, epoch, was_filled);
        self.lineages.insert(layout.oid, found.clone());
        Ok(found)
    }

    /// Whether a table's versions have to lie above all that this history of the server has given, because
    /// the server has gone back in it.
    fn begins_again(&self, table: u32) -> bool {
        let known = self.capture.memory.get(&self.capture.database);
        known.is_some_and(|known| known.begins_again && !known.tables.contains_key(&table))
    }
}

fn is_new_part(table: Option<&TableState>, parts: &[postgres::Part]) -> bool {
    let known = |part: &postgres::Part| table.is_some_and(|t| t.parts.contains_key(&part.oid));
    !parts.iter().all(known)
}

/// A setting such as `2GB`; nothing for -1, which is no limit.
fn megabytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    Some(match &text[digits.len()..] {
        "TB" => number << 20,
        "GB" => number << 10,
        "kB" => number >> 10,
        _ => number,
    })
}
