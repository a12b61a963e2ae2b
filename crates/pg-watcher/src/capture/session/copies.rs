//! Copying tables in the middle of the stream.

use super::*;

impl Session<'_> {
    /// Starts to take a snapshot when a table needs a copy.
    pub(super) fn prepare(&mut self) {
        if self.wanted.is_empty() || self.preparing.is_some() || self.ready.is_some() {
            return;
        }
        self.serving = std::mem::take(&mut self.wanted);
        let config = self.capture.config.clone();
        let taking = async move { Snapshot::take(&config).await };
        self.preparing = Some(AbortOnDropHandle::new(tokio::spawn(taking)));
    }

    pub(super) fn prepared(
        &mut self,
        prepared: Result<Snapshot, SourceError>,
    ) -> Result<(), SourceError> {
        self.preparing = None;
        self.ready = Some(prepared?);
        // The server says how far it is when it is asked.
        self.status = ticking(STATUS_SOON);
        Ok(())
    }

    /// Copies the tables that need it from the snapshot that is ready: the stream was read up to it.
    pub(super) async fn copy(&mut self) -> Result<(), SourceError> {
        let Some(snapshot) = self.ready.take() else {
            return Ok(());
        };
        self.status = ticking(STATUS_EVERY);
        self.flush().await?;
        self.position = self.position.max(snapshot.lsn);
        self.tell()?;
        self.deliver().await?;
        // What the tables look like in the snapshot, and not what they look like now.
        let config = self.capture.config.clone();
        let mut seen = snapshot.session(&config).await?;
        self.types = Types::read(&mut seen).await?;
        self.catalogue = Catalogue::read(&mut seen).await?;
        drop(seen);
        self.lay_out().await?;
        let mut tables = Vec::new();
        for (oid, task) in std::mem::take(&mut self.serving) {
            let Some(layout) = self.layouts.get(&oid).cloned() else {
                continue;
            };
            tables.push(self.begin_copy(&layout, &task, snapshot.lsn).await?);
        }
        self.deliver().await?;
        let (out, mut copied) = mpsc::channel(COPIED);
        let copies = self.capture.options.copies;
        let copying = copy_tables(config, Arc::new(snapshot), tables, copies, out);
        let mut copying = tokio::spawn(copying);
        loop {
            tokio::select! {
                biased;
                brought = copied.recv() => match brought {
                    Some(brought) => {
                        self.copied(brought);
                        self.deliver().await?;
                    }
                    None => break,
                },
                _ = self.status.tick() => self.send_status().await?,
                Ok(()) = self.capture.flushed.changed() => self.send_status().await?,
            }
        }
        match (&mut copying).await {
            Ok(Err(error @ SourceError::Rewritten(_))) if self.stream.is_some() => {
                tracing::warn!(%error);
                // The copies of other tables have ended with it.
                self.has_looked = false;
                self.look().await
            }
            Ok(ended) => ended,
            Err(panic) => Err(pipeline::Fault::fatal(panic).into()),
        }
    }

    /// Remembers that a table's copy begins, and says what its index looks like.
    pub(super) async fn begin_copy(
        &mut self,
        layout: &Arc<Layout>,
        task: &Task,
        lsn: Lsn,
    ) -> Result<CopyTable, SourceError> {
        let epoch = self.define(layout).await?;
        let version = Version::new(epoch, lsn.0)?;
        // What an earlier history has told is nothing to this one.
        self.reached.begin_copy(layout.oid);
        if self.stream.is_some() {
            let nothing = Content::Reached(Version::new(epoch, 0)?);
            self.push(layout.index.clone(), nothing, Position::Nothing);
        }
        let was_filled = self.lineages.get(&layout.oid).is_some_and(|known| known.2);
        let parts = match self.catalogue.tables.get(&layout.oid) {
            Some(table) => self.catalogue.parts(table),
            None => Vec::new(),
        };
        let database = Arc::clone(&self.capture.database);
        let state = self.capture.memory.get(&database);
        let was_filled = was_filled
            || state
                .as_ref()
                .is_some_and(|state| state.filled.contains(&layout.oid));
        let known = state.and_then(|state| state.tables.get(&layout.oid).cloned());
        let done = plan::begin(known.as_ref(), task, &parts);
        let (since, clears) = match (task, &known) {
            (Task::Rest, Some(known)) => (known.since, known.clears),
            (_, known) => (lsn, known.is_some() || was_filled),
        };
        if let Task::Everything(why) = task {
            tracing::info!(database = %database, table = layout.table, index = %layout.index, "copying: {}", why.as_str());
        } else {
            tracing::info!(database = %database, table = layout.table, index = %layout.index, "copying what is left");
        }
        let state = TableState {
            table: layout.table.clone(),
            fingerprint: layout.fingerprint(),
            epoch,
            since,
            is_copied: false,
            clears,
            parts: done.clone(),
        };
        self.capture.memory.update(&database, |database| {
            database.tables.insert(layout.oid, state);
        })?;
        if let Some(lineage) = self.lineages.get_mut(&layout.oid) {
            lineage.2 = true;
        }
        // From here on its rows count.
        for relation in self.relations_of(layout.oid) {
            self.describe(relation).await?;
        }
        let parts = parts.into_iter().map(|part| {
            let done = done.get(&part.oid).cloned().unwrap_or_default();
            (part, done)
        });
        Ok(CopyTable {
            layout: Arc::clone(layout),
            version,
            parts: parts.collect(),
        })
    }

    pub(super) fn copied(&mut self, brought: Copied) {
        let database = Arc::clone(&self.capture.database);
        match brought {
            Copied::Rows { layout, changes } => {
                let content = Content::Changes(changes);
                self.push(layout.index.clone(), content, Position::Nothing);
            }
            Copied::Chunk { table, part, chunk } => {
                let state = self.capture.memory.get(&database);
                let state = state.and_then(|state| state.tables.get(&table).cloned());
                self.push_empty(Position::Chunk {
                    database,
                    table,
                    part,
                    chunk,
                    since: state.map_or(Lsn::default(), |state| state.since),
                });
            }
            Copied::Table(layout) => {
                let state = self.capture.memory.get(&database);
                let state = state.and_then(|state| state.tables.get(&layout.oid).cloned());
                // What the target has from before the copy is of rows that are gone.
                let since = state.as_ref().map_or(Lsn::default(), |state| state.since);
                let upto = state.filter(|state| state.clears).and_then(|state| {
                    Version::new(state.epoch, state.since.0.checked_sub(1)?).ok()
                });
                if let Some(upto) = upto {
                    self.push(
                        layout.index.clone(),
                        Content::Clear(upto),
                        Position::Nothing,
                    );
                }
                self.capture.observer.copied(&layout.index);
                self.push_empty(Position::Copied {
                    database,
                    table: layout.oid,
                    since,
                });
            }
        }
    }
}
