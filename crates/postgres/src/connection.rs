//! A session with a server: authentication, queries and `COPY … TO STDOUT`.
//!
//! Queries go by the simple protocol, whose answers are text, and whose statements a connection for
//! replication takes too. Nothing that comes from outside is put into a statement unquoted
//! ([`crate::quote_literal`], [`crate::quote_ident`]).

use std::{io, ops::Range};

use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::{
    authentication::{md5_hash, sasl},
    message::{
        backend::{DataRowBody, Message},
        frontend,
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Config, Error, ServerError, socket::Socket};

/// What every session is told, so that values look the same in all of them.
const SETTINGS: [(&str, &str); 13] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "iso_8601"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("xmlbinary", "base64"),
    ("lc_monetary", "C"),
    ("search_path", "pg_catalog"),
    // Rows that a policy hides from us are an error, and never silently left out.
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
];

/// The start of the answer to START_REPLICATION, which the library does not know.
const COPY_BOTH: u8 = b'W';

/// An open session.
pub struct Connection {
    pub(crate) config: Config,
    pub(crate) socket: Socket,
    pub(crate) incoming: BytesMut,
    outgoing: BytesMut,
    version: u32,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.config)
    }
}

/// A row of an answer, as text.
#[derive(Debug, Clone)]
pub struct Row {
    values: Vec<Option<Range<usize>>>,
    buffer: Bytes,
}

impl Row {
    /// The value of a column; nothing for a null, or where there is no such column.
    pub fn get(&self, column: usize) -> Option<&str> {
        let range = self.values.get(column)?.clone()?;
        std::str::from_utf8(self.buffer.get(range)?).ok()
    }

    /// The value of a column; empty for a null.
    pub fn text(&self, column: usize) -> &str {
        self.get(column).unwrap_or_default()
    }

    /// Whether a boolean column is true.
    pub fn is_true(&self, column: usize) -> bool {
        self.get(column) == Some("t")
    }

    /// A column with a number; 0 where it is none.
    pub fn number<T: std::str::FromStr + Default>(&self, column: usize) -> T {
        self.text(column).parse().unwrap_or_default()
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = Option<&str>> {
        (0..self.values.len()).map(|column| self.get(column))
    }
}

impl Connection {
    /// Opens a session for queries.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses us.
    pub async fn open(config: &Config) -> Result<Connection, Error> {
        Connection::start(config, false).await
    }

    /// Opens a session that can also make slots and stream: it needs the attribute REPLICATION.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses us.
    pub async fn open_for_replication(config: &Config) -> Result<Connection, Error> {
        Connection::start(config, true).await
    }

    async fn start(config: &Config, replication: bool) -> Result<Connection, Error> {
        let mut connection = Connection {
            socket: Socket::connect(config).await?,
            config: config.clone(),
            incoming: BytesMut::with_capacity(64 << 10),
            outgoing: BytesMut::new(),
            version: 0,
        };
        let starting = connection.authenticate(replication);
        match tokio::time::timeout(config.connect_timeout, starting).await {
            Ok(started) => started?,
            Err(_) => {
                let late = format!("no answer within {:?}", config.connect_timeout);
                return Err(config.io(io::Error::new(io::ErrorKind::TimedOut, late)));
            }
        }
        Ok(connection)
    }

    /// The server's version, such as 150018.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Where this session leads to.
    pub fn config(&self) -> &Config {
        &self.config
    }

    async fn authenticate(&mut self, replication: bool) -> Result<(), Error> {
        let mut parameters = vec![
            ("user", self.config.user.as_str()),
            ("database", self.config.database.as_str()),
            ("application_name", self.config.application_name.as_str()),
        ];
        if replication {
            parameters.push(("replication", "database"));
        }
        parameters.extend(SETTINGS);
        frontend::startup_message(parameters, &mut self.outgoing).map_err(|e| self.config.io(e))?;
        self.flush().await?;
        loop {
            match self.receive().await? {
                Message::AuthenticationOk => break,
                Message::AuthenticationCleartextPassword => {
                    let password = self.password()?;
                    frontend::password_message(password.as_bytes(), &mut self.outgoing)
                        .map_err(|e| self.config.io(e))?;
                    self.flush().await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let password = self.password()?;
                    let hash = md5_hash(
                        self.config.user.as_bytes(),
                        password.as_bytes(),
                        body.salt(),
                    );
                    frontend::password_message(hash.as_bytes(), &mut self.outgoing)
                        .map_err(|e| self.config.io(e))?;
                    self.flush().await?;
                }
                Message::AuthenticationSasl(body) => {
                    let mut mechanisms = Vec::new();
                    let mut offered = body.mechanisms();
                    while let Some(mechanism) = offered.next().map_err(|e| self.config.io(e))? {
                        mechanisms.push(mechanism.to_owned());
                    }
                    self.scram(&mechanisms).await?;
                }
                other => {
                    return Err(Error::Authentication {
                        host: self.config.place(),
                        reason: format!(
                            "the server wants a way of authentication that is not supported ({}); \
                             use scram-sha-256, md5, password or cert in pg_hba.conf",
                            name_of(&other)
                        ),
                    });
                }
            }
        }
        loop {
            match self.receive().await? {
                Message::ParameterStatus(body) if body.name().ok() == Some("server_version") => {
                    self.version = version_number(body.value().unwrap_or_default());
                }
                Message::ReadyForQuery(_) => return Ok(()),
                _ => {}
            }
        }
    }

    fn password(&self) -> Result<String, Error> {
        self.config
            .password
            .clone()
            .ok_or_else(|| Error::Authentication {
                host: self.config.place(),
                reason: format!(
                    "the server wants a password for user {:?} and none is given; set PGPASSWORD or give a \
                     password file",
                    self.config.user
                ),
            })
    }

    async fn scram(&mut self, mechanisms: &[String]) -> Result<(), Error> {
        let config = self.config.clone();
        let refuse = |reason: String| Error::Authentication {
            host: config.place(),
            reason,
        };
        if !mechanisms.iter().any(|name| name == sasl::SCRAM_SHA_256) {
            return Err(refuse(format!(
                "the server offers only {}; SCRAM-SHA-256 is supported",
                mechanisms.join(", ")
            )));
        }
        let password = self.password()?;
        let mut scram =
            sasl::ScramSha256::new(password.as_bytes(), sasl::ChannelBinding::unsupported());
        let first = scram.message().to_vec();
        frontend::sasl_initial_response(sasl::SCRAM_SHA_256, &first, &mut self.outgoing)
            .map_err(|e| config.io(e))?;
        self.flush().await?;
        match self.receive().await? {
            Message::AuthenticationSaslContinue(body) => scram
                .update(body.data())
                .map_err(|e| refuse(e.to_string()))?,
            other => return Err(self.unexpected(&other)),
        }
        let answer = scram.message().to_vec();
        frontend::sasl_response(&answer, &mut self.outgoing).map_err(|e| config.io(e))?;
        self.flush().await?;
        match self.receive().await? {
            Message::AuthenticationSaslFinal(body) => {
                scram.finish(body.data()).map_err(|e| refuse(e.to_string()))
            }
            other => Err(self.unexpected(&other)),
        }
    }

    /// Runs statements and returns the rows of all of them.
    ///
    /// # Errors
    /// When the server refuses one, or the connection breaks.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, Error> {
        self.send_query(sql).await?;
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            match self.receive_any().await? {
                Message::DataRow(body) => rows.push(self.row(&body)?),
                Message::ErrorResponse(body) => failed = Some(self.refused(&body)),
                Message::ReadyForQuery(_) => break,
                Message::CopyOutResponse(_) | Message::CopyInResponse(_) => {
                    return Err(self.protocol("a copy where there should be rows"));
                }
                _ => {}
            }
        }
        failed.map_or(Ok(rows), Err)
    }

    /// Starts a `COPY … TO STDOUT`. It has to be read to its end, or the session is of no more use.
    ///
    /// # Errors
    /// When the server refuses, or the connection breaks.
    pub async fn copy_out(&mut self, sql: &str) -> Result<CopyOut<'_>, Error> {
        self.send_query(sql).await?;
        let mut failed = None;
        loop {
            match self.receive_any().await? {
                Message::CopyOutResponse(_) => return Ok(CopyOut { connection: self }),
                Message::ErrorResponse(body) => failed = Some(self.refused(&body)),
                Message::ReadyForQuery(_) => {
                    let nothing = || self.protocol("no copy where there should be one");
                    return Err(failed.unwrap_or_else(nothing));
                }
                _ => {}
            }
        }
    }

    /// Starts streaming. The session is one stream from then on.
    pub(crate) async fn start_copy_both(&mut self, sql: &str) -> Result<(), Error> {
        self.send_query(sql).await?;
        let mut failed = None;
        loop {
            self.fill(5).await?;
            if self.incoming[0] == COPY_BOTH {
                let mut length = &self.incoming[1..5];
                let length = length.get_u32() as usize + 1;
                self.fill(length).await?;
                self.incoming.advance(length);
                return Ok(());
            }
            match self.receive_any().await? {
                Message::ErrorResponse(body) => failed = Some(self.refused(&body)),
                Message::ReadyForQuery(_) => {
                    let nothing = || self.protocol("no stream where there should be one");
                    return Err(failed.unwrap_or_else(nothing));
                }
                _ => {}
            }
        }
    }

    async fn send_query(&mut self, sql: &str) -> Result<(), Error> {
        frontend::query(sql, &mut self.outgoing).map_err(|e| self.config.io(e))?;
        self.flush().await
    }

    /// Sends bytes that are a whole message.
    pub(crate) async fn send(&mut self, message: &[u8]) -> Result<(), Error> {
        self.outgoing.extend_from_slice(message);
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let outgoing = self.outgoing.split();
        self.socket
            .write_all(&outgoing)
            .await
            .map_err(|e| self.config.io(e))?;
        self.socket.flush().await.map_err(|e| self.config.io(e))
    }

    /// The next message; a refusal is an error.
    async fn receive(&mut self) -> Result<Message, Error> {
        match self.receive_any().await? {
            Message::ErrorResponse(body) => Err(self.refused(&body)),
            message => Ok(message),
        }
    }

    /// The next message, notices apart. Cancel safe.
    pub(crate) async fn receive_any(&mut self) -> Result<Message, Error> {
        loop {
            let parsed = Message::parse(&mut self.incoming);
            match parsed.map_err(|e| self.protocol(&e.to_string()))? {
                Some(Message::NoticeResponse(body)) => {
                    let notice = ServerError::read(body.fields());
                    tracing::debug!(host = self.config.place(), %notice, "the server says");
                }
                Some(message) => return Ok(message),
                None => self.read().await?,
            }
        }
    }

    /// Waits until so many bytes are there. Cancel safe.
    async fn fill(&mut self, bytes: usize) -> Result<(), Error> {
        while self.incoming.len() < bytes {
            self.read().await?;
        }
        Ok(())
    }

    /// Reads what is there. Cancel safe.
    pub(crate) async fn read(&mut self) -> Result<(), Error> {
        if self.incoming.capacity() - self.incoming.len() < 16 << 10 {
            self.incoming.reserve(64 << 10);
        }
        match self.socket.read_buf(&mut self.incoming).await {
            Ok(0) => {
                let closed = "the server has closed the connection";
                Err(self
                    .config
                    .io(io::Error::new(io::ErrorKind::UnexpectedEof, closed)))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(self.config.io(error)),
        }
    }

    fn row(&self, body: &DataRowBody) -> Result<Row, Error> {
        let ranges: Vec<_> = body
            .ranges()
            .collect()
            .map_err(|e| self.protocol(&e.to_string()))?;
        Ok(Row {
            values: ranges,
            buffer: body.buffer_bytes().clone(),
        })
    }

    fn refused(&self, body: &postgres_protocol::message::backend::ErrorResponseBody) -> Error {
        Error::Server {
            host: self.config.place(),
            error: Box::new(ServerError::read(body.fields())),
        }
    }

    pub(crate) fn protocol(&self, reason: &str) -> Error {
        Error::Protocol {
            host: self.config.place(),
            reason: reason.to_owned(),
        }
    }

    fn unexpected(&self, message: &Message) -> Error {
        self.protocol(name_of(message))
    }
}

/// A `COPY` under way.
#[derive(Debug)]
pub struct CopyOut<'a> {
    connection: &'a mut Connection,
}

impl CopyOut<'_> {
    /// The next row as a line of the text format; nothing at the end. Cancel safe.
    ///
    /// # Errors
    /// When the server stops in the middle, or the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.connection.receive_any().await? {
                Message::CopyData(body) => return Ok(Some(body.into_bytes())),
                Message::ErrorResponse(body) => {
                    let error = self.connection.refused(&body);
                    while !matches!(
                        self.connection.receive_any().await?,
                        Message::ReadyForQuery(_)
                    ) {}
                    return Err(error);
                }
                Message::ReadyForQuery(_) => return Ok(None),
                _ => {}
            }
        }
    }
}

/// A message's name, for what was not expected.
fn name_of(message: &Message) -> &'static str {
    match message {
        Message::AuthenticationKerberosV5 => "Kerberos",
        Message::AuthenticationScmCredential => "SCM credentials",
        Message::AuthenticationGss | Message::AuthenticationGssContinue(_) => "GSSAPI",
        Message::AuthenticationSspi => "SSPI",
        Message::DataRow(_) => "a row",
        Message::ReadyForQuery(_) => "the end of an answer",
        _ => "another message",
    }
}

/// `15.18 (Debian 15.18-0+deb12u1)` is 150018, `18beta1` is 180000.
fn version_number(text: &str) -> u32 {
    let digits = |text: &str| -> u32 {
        let end = text.find(|c: char| !c.is_ascii_digit());
        text[..end.unwrap_or(text.len())].parse().unwrap_or(0)
    };
    let (major, rest) = text.split_once('.').unwrap_or((text, ""));
    digits(major) * 10_000 + digits(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert_eq!(version_number("15.18 (Debian 15.18-0+deb12u1)"), 150_018);
        assert_eq!(version_number("18beta1"), 180_000);
        assert_eq!(version_number("12.22"), 120_022);
    }
}
