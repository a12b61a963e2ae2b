//! A message from a stream may hold anything: reading it never panics, and what can be read is written
//! and read again without loss.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model::{
    Batch, Change, Content, Root, Tenant,
    wire::{self, Assembler, Encoder, Envelope, Message},
};

fuzz_target!(|input: (&str, Vec<(u8, String)>, Vec<u8>, u16)| {
    let (subject, headers, body, max_body) = input;
    const NAMES: [&str; 6] = [
        "Syncline-Format",
        "Syncline-Count",
        "Syncline-Partition",
        "Syncline-Captured",
        "Syncline-Part",
        "Content-Encoding",
    ];
    let header = |name: &'static str| {
        let found = headers
            .iter()
            .find(|(at, _)| NAMES[*at as usize % 6] == name);
        match (found, name) {
            (Some((_, value)), _) => Some(value.as_str()),
            // Without these nothing is read at all, and the fuzzer would have to guess them.
            (None, "Syncline-Format" | "Syncline-Count" | "Syncline-Captured") => Some("1"),
            (None, "Syncline-Partition") => Some("p"),
            (None, _) => None,
        }
    };
    let (Ok(subject), Ok(envelope)) = (subject.parse(), Envelope::from_headers(header)) else {
        return;
    };
    let message = Message {
        subject,
        envelope,
        body: body.into(),
    };
    let mut assembler = Assembler::default();
    let Some(message) = assembler.push(1, message) else {
        return;
    };
    let Ok(batch) = wire::decode(&message) else {
        return;
    };
    // A small input can unpack to much; cutting that into tiny parts would only cost time.
    if batch.size() < 1 << 20 {
        reads_back(&batch, usize::from(max_body).max(64));
    }
});

fn reads_back(batch: &Batch, max_body: usize) {
    let Content::Changes(changes) = &batch.content else {
        return;
    };
    let encoder = Encoder {
        root: Root::Changes,
        tenant: Tenant::try_from("t").expect("it is not empty"),
        max_body,
        zstd_level: max_body.is_multiple_of(2).then_some(1),
    };
    let mut assembler = Assembler::default();
    let mut back: Vec<Change> = Vec::new();
    for (sequence, message) in encoder.encode(batch).into_iter().enumerate() {
        if let Some(whole) = assembler.push(sequence as u64, message) {
            let decoded = wire::decode(&whole).expect("what was written can be read");
            back.extend_from_slice(decoded.changes());
        }
    }
    assert_eq!(&back, changes);
}
