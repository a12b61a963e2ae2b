//! Whatever a server sends is a message or an error, and never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: Vec<u8>| {
    let _any = postgres::pgoutput::decode(message.into());
});
