//! The stream of a logical slot.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::{backend::Message, frontend};

use crate::{Connection, Error, Lsn, quote_ident, quote_literal};

/// PostgreSQL counts from 2000-01-01.
const EPOCH: Duration = Duration::from_secs(946_684_800);

/// What the stream brings.
#[derive(Debug, Clone)]
pub enum Event {
    /// A message of the output plugin.
    Data(Bytes),
    /// The server lives.
    Keepalive {
        /// Everything that was committed before here has been sent.
        end: Lsn,
        /// Whether it wants to hear from us at once.
        wants_reply: bool,
    },
}

/// A logical slot that is being read.
#[derive(Debug)]
pub struct Replication {
    connection: Connection,
}

impl Replication {
    /// Starts to read a slot with the plugin pgoutput, from where it was confirmed.
    ///
    /// # Errors
    /// When the server refuses: SQLSTATE 55006 means that another process reads the slot, 55000 that it
    /// has lost what is next, 42704 that there is none.
    pub async fn start(
        mut connection: Connection,
        slot: &str,
        publication: &str,
    ) -> Result<Replication, Error> {
        let sql = format!(
            "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {})",
            quote_ident(slot),
            quote_literal(&quote_ident(publication)),
        );
        connection.start_copy_both(&sql).await?;
        Ok(Replication { connection })
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// When the server ends the stream or the connection breaks.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            match self.connection.receive_any().await? {
                Message::CopyData(body) => {
                    return parse(body.into_bytes())
                        .ok_or_else(|| self.connection.protocol("a torn message of the stream"));
                }
                Message::ErrorResponse(body) => {
                    return Err(Error::Server {
                        host: self.connection.config().place(),
                        error: Box::new(crate::ServerError::read(body.fields())),
                    });
                }
                Message::CopyDone | Message::ReadyForQuery(_) => {
                    return Err(self.connection.config().io(std::io::Error::new(
                        std::io::ErrorKind::UnexpectedEof,
                        "the server has ended the stream",
                    )));
                }
                _ => {}
            }
        }
    }

    /// Tells the server how far we are: what is before `received` need not be sent again on this
    /// connection, what is before `flushed` never. With `wants_reply` it answers at once.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn send_status(
        &mut self,
        received: Lsn,
        flushed: Lsn,
        wants_reply: bool,
    ) -> Result<(), Error> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH + EPOCH);
        let micros = since.map_or(0, |since| since.as_micros() as i64);
        let mut status = BytesMut::with_capacity(34);
        status.put_u8(b'r');
        status.put_u64(received.0);
        status.put_u64(flushed.0);
        status.put_u64(flushed.0);
        status.put_i64(micros);
        status.put_u8(wants_reply.into());
        let mut message = BytesMut::with_capacity(40);
        let data = frontend::CopyData::new(status.freeze());
        data.map_err(|e| self.connection.config().io(e))?
            .write(&mut message);
        self.connection.send(&message).await
    }
}

fn parse(mut body: Bytes) -> Option<Event> {
    match body.try_get_u8().ok()? {
        b'w' => {
            let (_start, _end, _sent) = (
                body.try_get_u64().ok()?,
                body.try_get_u64().ok()?,
                body.try_get_i64().ok()?,
            );
            Some(Event::Data(body))
        }
        b'k' => {
            let end = Lsn(body.try_get_u64().ok()?);
            let _sent = body.try_get_i64().ok()?;
            let wants_reply = body.try_get_u8().ok()? != 0;
            Some(Event::Keepalive { end, wants_reply })
        }
        _ => None,
    }
}
