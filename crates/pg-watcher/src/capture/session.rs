//! One connection's worth of the capture: from connecting until something breaks.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use model::{Batch, Content, Epoch, Generation, IndexName, Lineage, Origin, Version};
use pipeline::Captured;
use postgres::{
    Catalogue, Connection, Event, Lsn, Replication, Types,
    pgoutput::{self, Message, Relation},
};
use runtime::backoff::Backoff;
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval, interval_at},
};

use tokio_util::task::AbortOnDropHandle;

use super::{
    Capture,
    history::{self, Identity},
    nobody_listens,
};
use crate::{
    Position, SourceError,
    copying::{Copied, CopyTable, Snapshot, copy_tables},
    layout::Layout,
    plan::{self, Task},
    publication::{self, Published},
    reread,
    source::SlotLife,
    state::TableState,
    stream::{Gathered, Sent, Transaction},
};

/// How often the server hears from us.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// The same while a copy waits for the stream.
const STATUS_SOON: Duration = Duration::from_millis(50);
/// Batches that wait between the copying connections and the log.
const COPIED: usize = 4;

/// Captures until something breaks; returns when everything is copied and nothing is to be followed.
pub(super) async fn run(capture: &mut Capture, backoff: &mut Backoff) -> Result<(), SourceError> {
    let mut control = Connection::open(&capture.config).await?;
    history::check_server(&mut control).await?;
    let mut replication = Connection::open_for_replication(&capture.config).await?;
    let identity = Identity::read(&mut replication).await?;
    let follow = capture.options.follow;
    let mut session = Session {
        partition: format!("postgres/{}/{}", identity.system, capture.database).into(),
        version: control.version(),
        control,
        types: Types::default(),
        catalogue: Catalogue::default(),
        published: Published::default(),
        layouts: HashMap::new(),
        lineages: HashMap::new(),
        relations: HashMap::new(),
        serving: HashMap::new(),
        has_looked: false,
        gathered: Gathered::default(),
        transaction: None,
        position: Lsn::default(),
        told: Lsn::default(),
        wanted: HashMap::new(),
        strange: HashSet::new(),
        preparing: None,
        ready: None,
        outgoing: VecDeque::new(),
        status: ticking(STATUS_EVERY),
        stream: None,
        identity,
        capture,
    };
    // The publication first: the stream looks for it in the catalogue as it was at each change.
    session.publish().await?;
    if follow {
        let (capture, control) = (&*session.capture, &mut session.control);
        history::settle(capture, control, &mut replication, &session.identity).await?;
    } else {
        session.forget_all()?;
    }
    session.look().await?;
    if session.published.tables.is_empty() {
        return Err(session.nothing());
    }
    if follow {
        let publication = session.capture.options.publication.clone();
        let publication = publication.unwrap_or_else(|| session.capture.slot.clone());
        let stream = Replication::start(replication, &session.capture.slot, &publication);
        session.stream = Some(stream.await?);
    }
    session.capture.observer.recovered("source");
    backoff.reset();
    session.capture.observer.fine();
    match follow {
        true => session.follow().await,
        false => session.copy_once().await,
    }
}

fn ticking(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

struct Session<'a> {
    capture: &'a mut Capture,
    identity: Identity,
    /// The server's version.
    version: u32,
    /// What the batches' origin says.
    partition: Arc<str>,
    control: Connection,
    types: Types,
    catalogue: Catalogue,
    published: Published,
    /// The captured tables as the catalogue has them.
    layouts: HashMap<u32, Arc<Layout>>,
    lineages: HashMap<u32, (Lineage, Epoch, bool)>,
    gathered: Gathered,
    transaction: Option<Transaction>,
    /// Everything that was committed before has been read.
    position: Lsn,
    /// The position that was handed on last.
    told: Lsn,
    /// The tables as the stream has described them; it does so once.
    relations: HashMap<u32, Relation>,
    /// Which tables have to be copied, and how.
    wanted: HashMap<u32, Task>,
    /// Which of them the snapshot is for: those that were published before it was asked for.
    serving: HashMap<u32, Task>,
    /// Whether what is not copied whole is under way already.
    has_looked: bool,
    /// Types that were said to be text.
    strange: HashSet<u32>,
    preparing: Option<AbortOnDropHandle<Result<Snapshot, SourceError>>>,
    ready: Option<Snapshot>,
    outgoing: VecDeque<Captured<Position>>,
    status: Interval,
    stream: Option<Replication>,
}

impl Session<'_> {
    /// Reads the stream, and copies what has to be copied, until something breaks.
    async fn follow(&mut self) -> Result<(), SourceError> {
        let mut looks = interval(self.capture.options.look_every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.deliver().await?;
            self.prepare();
            if self
                .ready
                .as_ref()
                .is_some_and(|ready| self.position >= ready.lsn)
                && self.transaction.is_none()
            {
                self.copy().await?;
                continue;
            }
            let is_idle = self.transaction.is_none() && !self.gathered.is_empty();
            let Some(stream) = &mut self.stream else {
                return Ok(());
            };
            tokio::select! {
                biased;
                event = stream.next() => self.event(event?).await?,
                prepared = prepared(&mut self.preparing) => self.prepared(prepared)?,
                _ = self.status.tick() => self.send_status().await?,
                Ok(()) = self.capture.flushed.changed() => self.send_status().await?,
                _ = looks.tick() => self.look().await?,
                () = std::future::ready(()), if is_idle => self.flush().await?,
            }
        }
    }

    /// Copies all tables, and ends.
    async fn copy_once(&mut self) -> Result<(), SourceError> {
        while !self.wanted.is_empty() {
            self.serving = std::mem::take(&mut self.wanted);
            self.ready = Some(Snapshot::take(&self.capture.config).await?);
            self.copy().await?;
        }
        self.deliver().await
    }

    /// Starts to take a snapshot when a table needs a copy.
    fn prepare(&mut self) {
        if self.wanted.is_empty() || self.preparing.is_some() || self.ready.is_some() {
            return;
        }
        self.serving = std::mem::take(&mut self.wanted);
        let config = self.capture.config.clone();
        let taking = async move { Snapshot::take(&config).await };
        self.preparing = Some(AbortOnDropHandle::new(tokio::spawn(taking)));
    }

    fn prepared(&mut self, prepared: Result<Snapshot, SourceError>) -> Result<(), SourceError> {
        self.preparing = None;
        self.ready = Some(prepared?);
        // The server says how far it is when it is asked.
        self.status = ticking(STATUS_SOON);
        Ok(())
    }

    async fn event(&mut self, event: Event) -> Result<(), SourceError> {
        match event {
            Event::Data(data) => self.message(pgoutput::decode(data)?).await,
            Event::Keepalive { end, wants_reply } => {
                self.capture.observer.fine();
                if self.transaction.is_none() {
                    self.position = self.position.max(end);
                    if !self.gathered.is_empty() {
                        self.flush().await?;
                    }
                    self.tell();
                }
                match wants_reply {
                    true => self.send_status().await,
                    false => Ok(()),
                }
            }
        }
    }

    async fn message(&mut self, message: Message) -> Result<(), SourceError> {
        match message {
            Message::Begin { commit, xid, .. } => {
                if self.ready.as_ref().is_some_and(|ready| commit >= ready.lsn) {
                    self.copy().await?;
                }
                self.transaction = Some(Transaction { commit, xid });
            }
            Message::Commit { end, .. } => {
                self.transaction = None;
                self.position = self.position.max(end);
                if self.gathered.is_full() {
                    self.flush().await?;
                }
            }
            Message::Relation(relation) => self.relation(relation).await?,
            Message::Insert { relation, new } => {
                let transaction = self.transaction()?;
                self.gathered.insert(transaction, relation, &new)?;
            }
            Message::Update { relation, old, new } => {
                let transaction = self.transaction()?;
                self.gathered
                    .update(transaction, relation, old.as_ref(), &new)?;
            }
            Message::Delete { relation, old } => {
                let transaction = self.transaction()?;
                self.gathered.delete(transaction, relation, &old)?;
            }
            Message::Truncate { relations } => self.truncate(&relations).await?,
            Message::Other => {}
        }
        // A transaction can be larger than memory.
        match self.transaction.is_some() && self.gathered.is_full() {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    fn transaction(&self) -> Result<Transaction, SourceError> {
        self.transaction
            .ok_or(pgoutput::DecodeError::Odd('I', "no transaction around it").into())
    }

    /// A table is described, because it comes for the first time or has changed.
    async fn relation(&mut self, relation: Relation) -> Result<(), SourceError> {
        // What was gathered has the old columns.
        self.flush().await?;
        let oid = relation.oid;
        let fits = |layout: &Arc<Layout>| layout.fits(&relation);
        if !self.layouts.get(&oid).is_some_and(fits) {
            self.look().await?;
        }
        self.relations.insert(oid, relation);
        self.describe(oid).await
    }

    /// Says how the rows of a table are to be read that the stream has described.
    async fn describe(&mut self, oid: u32) -> Result<(), SourceError> {
        let Some(relation) = self.relations.get(&oid).cloned() else {
            return Ok(());
        };
        let relation = &relation;
        let state = self.capture.memory.get(&self.capture.database);
        let is_live = state.is_some_and(|state| state.tables.contains_key(&oid));
        let (Some(layout), true) = (self.layouts.get(&oid).cloned(), is_live) else {
            // It comes with its copy, or is not captured.
            self.gathered.describe(oid, None);
            return Ok(());
        };
        let layout = match layout.fits(relation) {
            true => layout,
            false => {
                let columns = &self.capture.options.columns;
                let then = Layout::of_relation(relation, &layout, &self.types, columns);
                Arc::new(then)
            }
        };
        let epoch = self.define(&layout).await?;
        let sent = Sent::new(layout, epoch, relation);
        self.gathered.describe(oid, Some(sent));
        Ok(())
    }

    async fn truncate(&mut self, tables: &[u32]) -> Result<(), SourceError> {
        let commit = self.transaction()?.commit;
        self.flush().await?;
        for oid in tables {
            let Some(sent) = self.gathered.table(*oid) else {
                continue;
            };
            let upto = Version::new(sent.epoch, commit.0)?;
            let index = sent.layout.index.clone();
            self.push(index, Content::Clear(upto), Position::Nothing);
        }
        self.deliver().await
    }

    /// Hands on what was gathered, with the position that is reached.
    async fn flush(&mut self) -> Result<(), SourceError> {
        for buffer in self.gathered.take() {
            let index = buffer.layout.index.clone();
            let changes = reread::complete(&mut self.control, buffer).await?;
            if !changes.is_empty() {
                self.push(index, Content::Changes(changes), Position::Nothing);
            }
        }
        if self.transaction.is_none() {
            self.tell();
        }
        self.deliver().await
    }

    /// Hands on the position, with the last batch if one waits.
    fn tell(&mut self) {
        if self.position <= self.told || !self.gathered.is_empty() {
            return;
        }
        self.told = self.position;
        let position = Position::Stream {
            database: Arc::clone(&self.capture.database),
            lsn: self.position,
        };
        match self.outgoing.back_mut() {
            Some(last) if last.position == Position::Nothing => last.position = position,
            _ => self.push_empty(position),
        }
    }

    fn push_empty(&mut self, position: Position) {
        let index = self
            .layouts
            .values()
            .next()
            .map(|layout| layout.index.clone());
        let index = index.unwrap_or_else(|| {
            IndexName::try_from("none").expect("a text that is not empty is a name")
        });
        self.push(index, Content::Changes(Vec::new()), position);
    }

    fn push(&mut self, index: IndexName, content: Content, position: Position) {
        self.outgoing.push_back(Captured {
            batch: Arc::new(Batch {
                index,
                origin: Origin::now(Arc::clone(&self.partition)),
                content,
            }),
            position,
        });
    }

    /// Hands on what waits. The server hears from us meanwhile, however long that takes.
    async fn deliver(&mut self) -> Result<(), SourceError> {
        while let Some(captured) = self.outgoing.pop_front() {
            let out = self.capture.out.clone();
            let permit = loop {
                tokio::select! {
                    biased;
                    permit = out.reserve() => break permit.map_err(|_| nobody_listens())?,
                    _ = self.status.tick() => self.send_status().await?,
                    Ok(()) = self.capture.flushed.changed() => self.send_status().await?,
                }
            };
            permit.send(captured);
        }
        Ok(())
    }

    async fn send_status(&mut self) -> Result<(), SourceError> {
        let flushed = *self.capture.flushed.borrow_and_update();
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        let received = self.position.max(flushed);
        let waits = self.ready.is_some();
        stream.send_status(received, flushed, waits).await?;
        Ok(())
    }

    /// Copies the tables that need it from the snapshot that is ready: the stream was read up to it.
    async fn copy(&mut self) -> Result<(), SourceError> {
        let Some(snapshot) = self.ready.take() else {
            return Ok(());
        };
        self.status = ticking(STATUS_EVERY);
        self.flush().await?;
        self.position = self.position.max(snapshot.lsn);
        self.tell();
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
    async fn begin_copy(
        &mut self,
        layout: &Arc<Layout>,
        task: &Task,
        lsn: Lsn,
    ) -> Result<CopyTable, SourceError> {
        let epoch = self.define(layout).await?;
        let version = Version::new(epoch, lsn.0)?;
        let was_filled = self.lineages.get(&layout.oid).is_some_and(|known| known.2);
        let parts = match self.catalogue.tables.get(&layout.oid) {
            Some(table) => self.catalogue.parts(table),
            None => Vec::new(),
        };
        let database = Arc::clone(&self.capture.database);
        let known = self.capture.memory.get(&database);
        let known = known.and_then(|state| state.tables.get(&layout.oid).cloned());
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
        self.describe(layout.oid).await?;
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

    fn copied(&mut self, brought: Copied) {
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

    /// Notices what has to be copied.
    async fn look(&mut self) -> Result<(), SourceError> {
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
    async fn publish(&mut self) -> Result<(), SourceError> {
        self.types = Types::read(&mut self.control).await?;
        self.catalogue = Catalogue::read(&mut self.control).await?;
        let capture = &*self.capture;
        self.published = publication::ensure(
            &mut self.control,
            &self.catalogue,
            &capture.options,
            &capture.slot,
            capture.observer.as_ref(),
        )
        .await?;
        self.lay_out().await
    }

    /// A table that is not captured any more has a gap from now on: should it come back, it is copied.
    fn forget_others(&mut self, known: &BTreeMap<u32, TableState>) -> Result<(), SourceError> {
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
            self.gathered.describe(*oid, None);
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
    async fn lay_out(&mut self) -> Result<(), SourceError> {
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
        self.layouts = layouts;
        Ok(())
    }

    /// Says how far the slot is behind.
    async fn measure(&mut self) -> Result<(), SourceError> {
        if self.stream.is_none() || self.capture.options.slot_lives == SlotLife::Connection {
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
    async fn define(&mut self, layout: &Arc<Layout>) -> Result<Epoch, SourceError> {
        let (lineage, epoch, _) = self.lineage(layout).await?;
        let definition = layout.definition(self.version, Some(lineage));
        let content = Content::Definition(definition);
        self.push(layout.index.clone(), content, Position::Nothing);
        Ok(epoch)
    }

    /// Where an index comes from, the epoch of its versions, and whether it was filled before.
    async fn lineage(&mut self, layout: &Layout) -> Result<(Lineage, Epoch, bool), SourceError> {
        let (system, database) = (&self.identity.system, &self.capture.database);
        let source = format!("postgres/{system}/{database}/{}", layout.table);
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

    /// A copy that is not followed begins anew each time.
    fn forget_all(&mut self) -> Result<(), SourceError> {
        let database = Arc::clone(&self.capture.database);
        self.capture.memory.put(
            &database,
            crate::state::DatabaseState {
                owner: self.capture.memory.owner().clone(),
                system: self.identity.system.clone(),
                timeline: self.identity.timeline,
                slot: self.capture.slot.clone(),
                confirmed: Lsn::default(),
                tables: Default::default(),
            },
        )
    }

    fn nothing(&self) -> SourceError {
        SourceError::NoTable {
            database: self.capture.database.to_string(),
            patterns: self.capture.options.indices.to_string(),
            template: self.capture.options.template.to_string(),
        }
    }
}

fn is_new_part(table: Option<&TableState>, parts: &[postgres::Part]) -> bool {
    let known = |part: &postgres::Part| table.is_some_and(|t| t.parts.contains_key(&part.oid));
    !parts.iter().all(known)
}

async fn prepared(
    preparing: &mut Option<AbortOnDropHandle<Result<Snapshot, SourceError>>>,
) -> Result<Snapshot, SourceError> {
    match preparing {
        Some(task) => match task.await {
            Ok(prepared) => prepared,
            Err(panic) => Err(pipeline::Fault::fatal(panic).into()),
        },
        None => std::future::pending().await,
    }
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
