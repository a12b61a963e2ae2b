//! Whether what is remembered still goes with the server: its identity, its timeline, and the slot.

use postgres::{Connection, Lsn, quote_ident, quote_literal};

use super::Capture;
use crate::{SourceError, source::SlotLife, state::DatabaseState};

/// The server as it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) system: String,
    pub(crate) timeline: u32,
    pub(crate) end: Lsn,
}

impl Identity {
    /// Asks on a connection for replication.
    pub(crate) async fn read(session: &mut Connection) -> Result<Identity, SourceError> {
        let rows = session.query("IDENTIFY_SYSTEM").await?;
        let text = |column| rows.first().map(|row| row.text(column)).unwrap_or_default();
        Ok(Identity {
            system: text(0).to_owned(),
            timeline: text(1).parse().unwrap_or(0),
            end: text(2).parse().unwrap_or_default(),
        })
    }

    /// Asks on a session for queries, for what is compared with it: a stand-by has no end of its own, and
    /// its timeline is not told.
    pub(crate) async fn of_session(session: &mut Connection) -> Result<Identity, SourceError> {
        let rows = session
            .query(
                "SELECT system_identifier, CASE WHEN pg_is_in_recovery() THEN NULL \
                 ELSE pg_walfile_name(pg_current_wal_lsn()) END FROM pg_control_system()",
            )
            .await?;
        let text = |column| rows.first().map(|row| row.text(column)).unwrap_or_default();
        // The name of a file of the log begins with its timeline.
        let timeline = text(1).get(..8).unwrap_or_default();
        Ok(Identity {
            system: text(0).to_owned(),
            timeline: u32::from_str_radix(timeline, 16).unwrap_or(0),
            end: Lsn::default(),
        })
    }

    /// What a table of a database is called as the source of an index.
    pub(crate) fn source(&self, database: &str, table: &str) -> String {
        format!("postgres/{}/{database}/{table}", self.system)
    }

    /// What names the history that positions belong to.
    pub(crate) fn history(&self) -> String {
        format!("{}/{}", self.system, self.timeline)
    }
}

/// A slot as the server has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SlotInfo {
    pub(crate) confirmed: Lsn,
    /// The server has thrown away what is next.
    pub(crate) is_lost: bool,
}

/// Refuses a server that cannot be read from.
pub(crate) async fn check_server(session: &mut Connection) -> Result<(), SourceError> {
    if session.version() < 120_000 {
        return Err(SourceError::TooOld(session.version() / 10_000));
    }
    let rows = session
        .query("SELECT current_setting('wal_level'), pg_is_in_recovery()")
        .await?;
    let Some(row) = rows.first() else {
        return Ok(());
    };
    if row.is_true(1) {
        return Err(SourceError::Standby);
    }
    match row.text(0) {
        "logical" => Ok(()),
        other => Err(SourceError::WalLevel(other.to_owned())),
    }
}

/// The slot, if it is there.
async fn find_slot(session: &mut Connection, slot: &str) -> Result<Option<SlotInfo>, SourceError> {
    let status = match session.version() >= 130_000 {
        true => "wal_status",
        false => "'reserved'",
    };
    let sql = format!(
        "SELECT slot_type, plugin, database = current_database(), confirmed_flush_lsn, {status} \
         FROM pg_replication_slots WHERE slot_name = {}",
        quote_literal(slot)
    );
    let rows = session.query(&sql).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let problem = if row.text(0) != "logical" {
        "is a physical slot"
    } else if row.text(1) != "pgoutput" {
        "has another output plugin than pgoutput"
    } else if !row.is_true(2) {
        "belongs to another database"
    } else {
        return Ok(Some(SlotInfo {
            confirmed: row.text(3).parse().unwrap_or_default(),
            is_lost: row.text(4) == "lost",
        }));
    };
    Err(SourceError::ForeignSlot {
        slot: slot.to_owned(),
        problem: problem.to_owned(),
    })
}

/// Makes sure that there is a slot to read and that what is remembered goes with it. Where that is not so,
/// every table is copied again, over what the target has.
pub(crate) async fn settle(
    capture: &Capture,
    session: &mut Connection,
    replication: &mut Connection,
    identity: &Identity,
) -> Result<(), SourceError> {
    let known = capture.memory.get(&capture.database);
    // Kept when it was so before: not every table's copy may have begun since.
    let begins_again = known
        .as_ref()
        .is_some_and(|known| known.begins_again || has_gone_back(known, identity));
    // The bucket says so, too, unless it went with its server.
    let filled = known.as_ref().map_or_else(Default::default, |known| {
        let copied = known.tables.keys().copied();
        known.filled.iter().copied().chain(copied).collect()
    });
    let known = known.filter(|known| {
        let goes = known.owner == *capture.memory.owner() && known.slot == capture.slot;
        if !goes {
            tracing::warn!(
                database = %capture.database,
                "what is remembered belongs to another stream, target or slot: all tables are copied"
            );
        }
        goes
    });
    let temporary = capture.options.slot_lives == SlotLife::Connection;
    let slot = match temporary {
        true => None,
        false => find_slot(session, &capture.slot).await?,
    };
    let again = match (&known, &slot) {
        (None, _) => Some(None),
        (Some(known), slot) => why_again(known, identity, slot.as_ref()).map(Some),
    };
    let mut confirmed = slot.as_ref().map_or(Lsn::default(), |slot| slot.confirmed);
    if slot.as_ref().is_none_or(|slot| slot.is_lost) {
        if slot.is_some() {
            // It holds nothing that anybody could still read, and its name is ours.
            let sql = format!("DROP_REPLICATION_SLOT {}", quote_ident(&capture.slot));
            replication.query(&sql).await?;
        }
        let kind = if temporary { " TEMPORARY" } else { "" };
        let sql = format!(
            "CREATE_REPLICATION_SLOT {}{kind} LOGICAL pgoutput NOEXPORT_SNAPSHOT",
            quote_ident(&capture.slot)
        );
        let rows = replication.query(&sql).await?;
        let point = rows.first().and_then(|row| row.text(1).parse().ok());
        confirmed = point.unwrap_or_default();
        if !temporary {
            tracing::info!(
                database = %capture.database, slot = capture.slot,
                "created the replication slot; the server keeps its log for it until it is read or dropped"
            );
        }
    }
    let Some(why) = again else {
        return Ok(());
    };
    if let Some(why) = why {
        tracing::warn!(
            database = %capture.database,
            "{why}: every table is copied again, over what the target has"
        );
    }
    capture.memory.put(
        &capture.database,
        DatabaseState {
            owner: capture.memory.owner().clone(),
            system: identity.system.clone(),
            timeline: identity.timeline,
            slot: capture.slot.clone(),
            confirmed,
            begins_again,
            filled,
            tables: Default::default(),
        },
    )
}

/// Whether positions of the server may come a second time, for other changes than before. Pure.
fn has_gone_back(known: &DatabaseState, identity: &Identity) -> bool {
    known.system != identity.system
        || known.timeline != identity.timeline
        || identity.end < known.confirmed
}

/// Why the stream does not continue what is remembered. Pure.
fn why_again(
    known: &DatabaseState,
    identity: &Identity,
    slot: Option<&SlotInfo>,
) -> Option<&'static str> {
    if known.system != identity.system {
        return Some("this is another database cluster than before");
    }
    if known.timeline != identity.timeline {
        return Some("the server's timeline has changed, as after a failover or a restore");
    }
    if identity.end < known.confirmed {
        return Some("the server's log ends before what was read of it, as after a restore");
    }
    match slot {
        None => Some("the replication slot is gone"),
        Some(slot) if slot.is_lost => Some(
            "the server has thrown away what the replication slot had still to read (max_slot_wal_keep_size)",
        ),
        Some(slot) if slot.confirmed > known.confirmed => Some(
            "the replication slot is not the one that was read, or somebody else has read from it",
        ),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Owner;

    #[test]
    fn a_stream_with_a_gap_is_never_continued() {
        let known = DatabaseState {
            owner: Owner {
                tenant: "t".to_owned(),
                stream: None,
            },
            system: "1".to_owned(),
            timeline: 1,
            slot: "s".to_owned(),
            confirmed: Lsn(100),
            begins_again: false,
            filled: Default::default(),
            tables: Default::default(),
        };
        let server = Identity {
            system: "1".to_owned(),
            timeline: 1,
            end: Lsn(200),
        };
        let slot = |confirmed, is_lost| {
            Some(SlotInfo {
                confirmed: Lsn(confirmed),
                is_lost,
            })
        };
        let again = |server: &Identity, slot: Option<SlotInfo>| {
            why_again(&known, server, slot.as_ref()).is_some()
        };
        assert!(!again(&server, slot(100, false)));
        assert!(!has_gone_back(&known, &server));
        assert!(!again(&server, slot(50, false)), "a crash sets it back");
        assert!(again(&server, slot(101, false)));
        assert!(again(&server, slot(100, true)));
        assert!(again(&server, None));
        for other in [
            Identity {
                system: "2".to_owned(),
                ..server.clone()
            },
            Identity {
                timeline: 2,
                ..server.clone()
            },
            Identity {
                end: Lsn(99),
                ..server.clone()
            },
        ] {
            assert!(again(&other, slot(50, false)));
            assert!(has_gone_back(&known, &other));
        }
    }
}
