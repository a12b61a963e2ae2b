//! One connection's worth of the capture: from connecting until something breaks.

mod copies;
mod reached;
mod tables;

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

use self::reached::Reached;

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
        reached: Reached::default(),
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
    session.capture.has_read = true;
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
    /// What those who wait for a position were told.
    reached: Reached,
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
            let tells_at = self.tells_at();
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
                () = reached::at(tells_at) => self.tell_reached()?,
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
                    self.tell()?;
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
        if !self.layouts.get(&self.captured(oid)).is_some_and(fits) {
            self.look().await?;
        }
        self.relations.insert(oid, relation);
        self.describe(oid).await
    }

    /// The table under which a relation of the stream is captured: a server that cannot publish partitioned tables
    /// publishes their partitions.
    fn captured(&self, oid: u32) -> u32 {
        match self.layouts.contains_key(&oid) {
            true => oid,
            false => self.catalogue.root(oid),
        }
    }

    /// The relations of the stream that are captured under a table.
    fn relations_of(&self, table: u32) -> Vec<u32> {
        let oids = self.relations.keys().copied();
        oids.filter(|oid| self.captured(*oid) == table).collect()
    }

    /// Says how the rows of a relation are to be read that the stream has described.
    async fn describe(&mut self, oid: u32) -> Result<(), SourceError> {
        let Some(relation) = self.relations.get(&oid).cloned() else {
            return Ok(());
        };
        let relation = &relation;
        let table = self.captured(oid);
        let state = self.capture.memory.get(&self.capture.database);
        let is_live = state.is_some_and(|state| state.tables.contains_key(&table));
        let (Some(layout), true) = (self.layouts.get(&table).cloned(), is_live) else {
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
            if sent.layout.oid != *oid {
                // One partition of several: that its rows are gone is seen by its file.
                self.look().await?;
                continue;
            }
            let upto = Version::new(sent.epoch, commit.0)?;
            let index = sent.layout.index.clone();
            self.reached.changed(*oid);
            self.push(index, Content::Clear(upto), Position::Nothing);
        }
        self.deliver().await
    }

    /// Hands on what was gathered, with the position that is reached.
    async fn flush(&mut self) -> Result<(), SourceError> {
        for buffer in self.gathered.take() {
            let index = buffer.layout.index.clone();
            self.reached.changed(buffer.layout.oid);
            let changes = reread::complete(&mut self.control, buffer).await?;
            if !changes.is_empty() {
                self.push(index, Content::Changes(changes), Position::Nothing);
            }
        }
        if self.transaction.is_none() {
            self.tell()?;
        }
        self.deliver().await
    }

    /// Hands on the position, with the last batch if one waits.
    fn tell(&mut self) -> Result<(), SourceError> {
        if self.position <= self.told || !self.gathered.is_empty() {
            return Ok(());
        }
        self.tell_reached()?;
        self.told = self.position;
        let position = Position::Stream {
            database: Arc::clone(&self.capture.database),
            lsn: self.position,
        };
        match self.outgoing.back_mut() {
            Some(last) if last.position == Position::Nothing => last.position = position,
            _ => self.push_empty(position),
        }
        Ok(())
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
                begins_again: false,
                filled: Default::default(),
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
