//! jq programs, by jaq.
//!
//! A program is compiled once. It has no way out of the document: what would read the environment, the
//! clock or an input, or end the process, is not there, so that the same document always gives the same
//! result. How long and in how much memory it may run is the matter of whoever runs it: an interpreter
//! cannot be stopped from inside, so the gateway gives it a process of its own.

use bytes::Bytes;
use jaq_core::{
    Ctx, Vars, data,
    load::{self, Arena, File, Loader},
    unwrap_valr,
};
use jaq_json::{Val, read};
use serde_json::value::RawValue;

/// What a program may not call: the same document has to give the same result everywhere and always.
const FORBIDDEN: &[&str] = &[
    "env",
    "now",
    "halt",
    "halt_error",
    "input",
    "inputs",
    "debug",
    "debug_empty",
    "stderr",
    "stderr_empty",
    "localtime",
    "strflocaltime",
];

/// A document that a program has to be run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The program's number in the rule set.
    pub program: usize,
    /// The document.
    pub document: Bytes,
}

/// What came out: another document, `None` where the program yielded nothing, or why it failed.
pub type Answer = Result<Option<Bytes>, String>;

/// Runs the jq programs of a rule set by their numbers.
pub trait RunJq {
    /// The document that a program makes of another; `None` where it yields nothing.
    ///
    /// # Errors
    /// When the program fails, or yields several documents or none that is an object, with the reason.
    fn run(&mut self, question: &Question) -> Answer;

    /// The answers to many questions, one for each, in their order.
    fn run_all(&mut self, questions: &[Question]) -> Vec<Answer> {
        questions
            .iter()
            .map(|question| self.run(question))
            .collect()
    }
}

type Filter = jaq_core::Filter<data::JustLut<Val>>;

/// Runs programs in this thread, for as long as they take.
pub struct Jq(Vec<Filter>);

impl std::fmt::Debug for Jq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Jq({} programs)", self.0.len())
    }
}

impl Jq {
    /// Compiles programs.
    ///
    /// # Errors
    /// The first one that is wrong, with the reason.
    pub fn compile<'a>(programs: impl IntoIterator<Item = &'a str>) -> Result<Jq, String> {
        programs
            .into_iter()
            .map(compile)
            .collect::<Result<_, _>>()
            .map(Jq)
    }
}

impl RunJq for Jq {
    fn run(&mut self, question: &Question) -> Answer {
        let filter = self.0.get(question.program);
        let filter = filter.ok_or("there is no such program")?;
        let input = read::parse_single(&question.document).map_err(|error| error.to_string())?;
        let context = Ctx::<data::JustLut<Val>>::new(&filter.lut, Vars::new([]));
        let mut outputs = filter.id.run((context, input)).map(unwrap_valr);
        let Some(output) = outputs.next() else {
            return Ok(None);
        };
        let output = output.map_err(|error| shorten(&error.to_string()))?;
        if outputs.next().is_some() {
            return Err("it yields more than one document".to_owned());
        }
        // Its values are more than JSON: bytes, NaN, keys that are no text.
        let json = output.to_string();
        match serde_json::from_str::<&RawValue>(&json) {
            Ok(raw) if raw.get().starts_with('{') => Ok(Some(Bytes::from(json))),
            _ => Err(format!("it yields no JSON object but {}", shorten(&json))),
        }
    }
}

/// Messages can hold whole documents.
fn shorten(text: &str) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Compiles a program.
pub(crate) fn compile(program: &str) -> Result<Filter, String> {
    let defs = jaq_core::defs()
        .chain(jaq_std::defs())
        .chain(jaq_json::defs());
    let loader = Loader::new(defs.filter(|def| !FORBIDDEN.contains(&def.name)));
    let arena = Arena::default();
    let file = File {
        code: program,
        path: (),
    };
    let modules = loader.load(&arena, file).map_err(|errors| {
        let parts = errors.iter().map(|(_, error)| load_error(error));
        parts.collect::<Vec<_>>().join("; ")
    })?;
    let funs = jaq_core::funs()
        .chain(jaq_std::funs())
        .chain(jaq_json::funs());
    jaq_core::Compiler::default()
        .with_funs(funs.filter(|(name, ..)| !FORBIDDEN.contains(name)))
        .compile(modules)
        .map_err(|errors| {
            let undefined = errors.iter().flat_map(|(_, errors)| errors);
            let parts = undefined.map(|(name, what)| match FORBIDDEN.contains(name) {
                true => format!("`{name}` is not allowed in a rule: its result depends on more than the document"),
                false => format!("there is no {} `{name}`", what.as_str()),
            });
            parts.collect::<Vec<_>>().join("; ")
        })
}

fn load_error(error: &load::Error<&str>) -> String {
    let near = |text: &str| match text.trim() {
        "" => "at its end".to_owned(),
        text => format!("at `{}`", shorten(text)),
    };
    match error {
        load::Error::Io(errors) => errors
            .iter()
            .map(|(path, error)| format!("{path}: {error}"))
            .collect::<Vec<_>>()
            .join("; "),
        load::Error::Lex(errors) => errors
            .iter()
            .map(|(expected, at)| format!("{} is missing {}", expected.as_str(), near(at)))
            .collect::<Vec<_>>()
            .join("; "),
        load::Error::Parse(errors) => errors
            .iter()
            .map(|(expected, at)| format!("{} is missing {}", expected.as_str(), near(at)))
            .collect::<Vec<_>>()
            .join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(program: &str, document: &str) -> Result<Option<String>, String> {
        let question = Question {
            program: 0,
            document: Bytes::copy_from_slice(document.as_bytes()),
        };
        let output = Jq::compile([program])?.run(&question)?;
        Ok(output.map(|json| String::from_utf8(json.into()).unwrap()))
    }

    #[test]
    fn a_program_makes_one_object_of_another_or_none() {
        assert_eq!(
            run(
                ".n += 1 | .tags |= map(ascii_upcase)",
                r#"{"n":1,"tags":["a"]}"#
            ),
            Ok(Some(r#"{"n":2,"tags":["A"]}"#.to_owned()))
        );
        assert_eq!(run("select(.a)", "{}"), Ok(None));
        assert!(
            run(".[]", r#"{"a":{},"b":{}}"#)
                .unwrap_err()
                .contains("more than one")
        );
        assert!(
            run(".a", r#"{"a":[1]}"#)
                .unwrap_err()
                .contains("no JSON object")
        );
        assert!(
            run("{a: nan}", "{}")
                .unwrap_err()
                .contains("no JSON object")
                || run("{a: nan}", "{}").is_ok()
        );
        assert!(run(".a.b", r#"{"a":1}"#).is_err());
    }

    #[test]
    fn digits_of_numbers_stay() {
        let document = r#"{"big":123456789012345678901234567890,"exact":1.10,"e":1e400}"#;
        assert_eq!(run(".", document), Ok(Some(document.to_owned())));
    }

    #[test]
    fn what_is_wrong_with_a_program_is_said_when_it_is_compiled() {
        for (program, words) in [
            (".a |", "missing"),
            ("(.a", "missing"),
            ("nowhere(.a)", "there is no filter `nowhere`"),
            ("$x", "there is no variable"),
            ("env.HOME", "`env` is not allowed"),
            ("now", "`now` is not allowed"),
            ("halt", "`halt` is not allowed"),
            ("input", "`input` is not allowed"),
        ] {
            let error = Jq::compile([program]).unwrap_err();
            assert!(error.contains(words), "{program}: {error}");
        }
    }
}
