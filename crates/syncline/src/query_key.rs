//! `syncline query-key`: makes an API key for the query API.

use std::process::ExitCode;

use query_api::NewKeyArgs;
use runtime::exit;

/// Prints the entry for the keys file; the key itself goes to the terminal's other channel, so that it does
/// not end up in the file.
pub(crate) fn run(args: NewKeyArgs) -> ExitCode {
    match query_api::new_key(args) {
        Ok(new) => {
            eprintln!("the key, which is shown this once: {}", new.key);
            println!("{}", new.entry);
            ExitCode::SUCCESS
        }
        Err(error) => exit::report(&error).into(),
    }
}
