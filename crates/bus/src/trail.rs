//! What a stream still holds of one document.

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use futures::StreamExt;
use model::{
    Operation, Version, token,
    wire::{self, Assembler, Envelope, Message},
};

use crate::{Bus, Error, inbound::REPLAY_HEADER, stream};

/// How many messages are asked for at a time; each may have megabytes.
const PAGE: usize = 32;

/// What was found, and where was looked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trail {
    /// The first message of the stream that was looked at; above the last where there is none.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// Whether the stream has older messages that were not looked at.
    pub more: bool,
    /// The messages with changes of the document, oldest first.
    pub mentions: Vec<Mention>,
}

/// A change of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// The number of its message.
    pub sequence: u64,
    /// The subject it stands under.
    pub subject: String,
    /// What happened.
    pub operation: Operation,
    /// Its version.
    pub version: Version,
    /// The reader it is for, if it is a dead letter that was sent again.
    pub replay: Option<String>,
}

/// Looks for the changes of a document in the newest `newest` messages of a stream. `None` when there is no
/// such stream. Messages that cannot be read are passed over.
///
/// # Errors
/// When the server does not answer or denies it.
pub async fn trail(
    bus: &Bus,
    stream: &str,
    index: &str,
    (id, routing): (&str, Option<&str>),
    newest: u64,
) -> Result<Option<Trail>, Error> {
    let Some(info) = stream::info(bus, stream).await? else {
        return Ok(None);
    };
    let to = info.last_sequence;
    let from = (to + 1)
        .saturating_sub(newest)
        .max(info.first_sequence)
        .max(1);
    let mut trail = Trail {
        from,
        to,
        more: from > info.first_sequence,
        mentions: Vec::new(),
    };
    if from > to {
        return Ok(Some(trail));
    }
    let index = token::encode(index);
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: from,
        },
        ack_policy: AckPolicy::None,
        filter_subjects: vec![format!("es.*.{index}.*"), format!("gw.es.*.{index}.*")],
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    };
    let failed = |error: &dyn std::fmt::Display| Error::request(format!("reading {stream}"), error);
    let made = bus.jetstream().create_consumer_on_stream(config, stream);
    let consumer = made.await.map_err(|error| failed(&error))?;
    let mut assembler = Assembler::default();
    loop {
        let fetch = consumer.fetch().max_messages(PAGE).messages().await;
        let mut page = fetch.map_err(|error| failed(&error))?;
        let mut read = 0;
        while let Some(message) = page.next().await {
            let message = message.map_err(|error| failed(&error))?;
            let sequence = message
                .info()
                .map_err(|error| failed(&error))?
                .stream_sequence;
            read += 1;
            if sequence > to {
                return Ok(Some(trail)); // stored since
            }
            let found = mentions(&mut assembler, sequence, &message, id, routing);
            trail.mentions.extend(found);
        }
        if read == 0 {
            return Ok(Some(trail));
        }
    }
}

fn mentions(
    assembler: &mut Assembler,
    sequence: u64,
    message: &async_nats::Message,
    id: &str,
    routing: Option<&str>,
) -> Vec<Mention> {
    let header = |name: &'static str| Some(message.headers.as_ref()?.get_last(name)?.as_str());
    let (Ok(envelope), Ok(subject)) = (Envelope::from_headers(header), message.subject.parse())
    else {
        return Vec::new();
    };
    let body = message.payload.clone();
    let whole = assembler.push(
        sequence,
        Message {
            subject,
            envelope,
            body,
        },
    );
    let Some(batch) = whole.and_then(|whole| wire::decode(&whole).ok()) else {
        return Vec::new();
    };
    let of_it = batch
        .changes()
        .iter()
        .filter(|change| change.id.as_str() == id && change.routing.as_deref() == routing);
    of_it
        .map(|change| Mention {
            sequence,
            subject: message.subject.to_string(),
            operation: change.operation(),
            version: change.version,
            replay: header(REPLAY_HEADER).and_then(token::decode),
        })
        .collect()
}
