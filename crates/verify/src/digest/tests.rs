use std::{collections::BTreeMap, time::Instant};

use proptest::prelude::*;
use serde_json::{Map, Value, json, value::RawValue};

use super::*;

fn of(json: &str) -> u128 {
    digest(json.as_bytes()).unwrap()
}

#[test]
fn equal_values_are_equal_however_they_are_written() {
    for (one, other) in [
        (r#"{"a":1,"b":2}"#, " {\n\"b\" : 2 ,\t\"a\":1}\r\n"),
        ("1", "1.0"),
        ("-12000", "-1.2e4"),
        ("0", "-0.0e7"),
        ("0.5", "5E-1"),
        ("100000000000000000000000", "1e+23"),
        ("10000000000000000000000.5", "100000000000000000000005e-1"),
        ("0.00000000000000000000000000012", "12e-29"),
        ("0.12345678901234567890", "0.1234567890123456789"),
        ("1e9223372036854775808", "1e9223372036854775808"),
        (r#""\u00e9\n\/\ud83d\ude00""#, "\"é\\u000a/😀\""),
        (r#""\ud800x""#, r#""\uD800x""#),
        (r#"{"a":1,"a":[2],"a":3}"#, r#"{"a":3}"#),
    ] {
        assert_eq!(of(one), of(other), "{one} {other}");
    }
}

#[test]
fn different_values_are_different() {
    let texts = [
        "0",
        "1",
        "-1",
        "10",
        "0.1",
        "0.10000000000000001",
        "12345678901234567890123",
        "12345678901234567890124",
        "18446744073709551616",
        "18446744073709551615",
        "1e400",
        "1e401",
        "-12345678901234567890123",
        "1234567890123456789012.3",
        "\"1\"",
        "\"\"",
        "null",
        "true",
        "false",
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "[null]",
        "[null,null]",
        "[1,2]",
        "[2,1]",
        "[[1],2]",
        "[[1,2]]",
        "[1,[2]]",
        r#"{"a":null}"#,
        r#"{"":null}"#,
        r#"{"a":1,"b":2}"#,
        r#"{"a":2,"b":1}"#,
        r#"{"a":{"b":1}}"#,
        r#"{"a.b":1}"#,
        r#"["a","b"]"#,
        r#"["ab"]"#,
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\udc00\ud800""#,
        "\"\u{10000}\"",
        r#"{"a":1,"a":2}"#,
        r#"{"a":1,"b":1}"#,
    ];
    let mut seen = BTreeMap::new();
    for text in texts {
        if let Some(other) = seen.insert(of(text), text) {
            panic!("{text} and {other} have the same digest");
        }
    }
}

#[test]
fn what_is_not_one_json_text_is_refused_at_the_right_byte() {
    for (text, at) in [
        ("", 0),
        (" ", 1),
        ("{", 1),
        ("{\"a\"}", 4),
        ("{\"a\":}", 5),
        ("{\"a\":1,}", 7),
        ("[1,]", 3),
        ("[1 2]", 3),
        ("01", 1),
        ("-", 1),
        ("1.", 2),
        ("1e", 2),
        (".5", 0),
        ("+1", 0),
        ("nul", 0),
        ("1 1", 2),
        ("\"a", 2),
        ("\"\\x\"", 2),
        ("\"\\u12g4\"", 5),
        ("\"\n\"", 1),
        ("{a:1}", 1),
        ("NaN", 0),
        ("\"\\ud800\\u12\"", 11),
    ] {
        assert_eq!(
            digest(text.as_bytes()),
            Err(DigestError::Syntax { at }),
            "{text:?}"
        );
    }
    assert_eq!(digest(b"\"\xff\""), Err(DigestError::Encoding));
}

#[test]
fn deep_nesting_is_refused_before_the_stack_overflows() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(digest(nested(MAX_DEPTH).as_bytes()).is_ok());
    assert_eq!(
        digest(nested(MAX_DEPTH + 1).as_bytes()),
        Err(DigestError::Depth)
    );
    assert_eq!(
        digest("{\"a\":".repeat(1_000_000).as_bytes()),
        Err(DigestError::Depth)
    );
}

/// Numbers that `Value` tells apart exactly as we do: whole ones and halves.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u64..3).prop_map(Value::from),
        any::<i32>().prop_map(|n| json!(f64::from(n) + 0.5)),
        "[a-c]{0,2}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-d]|.{0,9}", inner, 0..5)
                .prop_map(|map| Value::Object(Map::from_iter(map))),
        ]
    })
}

/// Writes a value with members in reverse, spaces everywhere and every character escaped.
fn disguised(value: &Value) -> String {
    let string = |text: &str| {
        let units = text.encode_utf16().map(|unit| format!("\\u{unit:04X}"));
        format!("\"{}\"", units.collect::<String>())
    };
    match value {
        Value::Array(elements) => {
            let elements: Vec<_> = elements.iter().map(disguised).collect();
            format!("\n[ {} ]", elements.join(" ,\t"))
        }
        Value::Object(members) => {
            let pairs = members.iter().rev();
            let pairs: Vec<_> = pairs
                .map(|(key, value)| format!("{} :{}", string(key), disguised(value)))
                .collect();
            format!("{{ {}}} ", pairs.join("\r,"))
        }
        Value::String(text) => string(text),
        Value::Number(number) if number.is_i64() => format!("{number}.000e0"),
        other => other.to_string(),
    }
}

/// Changes the leaf with this number; says how many leaves there were.
fn change_leaf(value: &mut Value, wanted: usize, seen: &mut usize) {
    match value {
        Value::Array(elements) if !elements.is_empty() => {
            elements
                .iter_mut()
                .for_each(|element| change_leaf(element, wanted, seen));
        }
        Value::Object(members) if !members.is_empty() => {
            members
                .values_mut()
                .for_each(|member| change_leaf(member, wanted, seen));
        }
        leaf => {
            if *seen == wanted {
                *leaf = match leaf {
                    Value::Null => json!(false),
                    Value::Bool(bool) => json!(!*bool),
                    Value::Number(number) if number.is_i64() => json!(number.as_i64().unwrap() ^ 1),
                    Value::Number(number) => json!(number.as_f64().unwrap() + 1.0),
                    Value::String(text) => json!(format!("{text}x")),
                    Value::Array(_) => json!({}),
                    Value::Object(_) => json!([]),
                };
            }
            *seen += 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_value_has_one_digest_however_it_is_written(value in value()) {
        let plain = of(&value.to_string());
        prop_assert_eq!(plain, of(&serde_json::to_string_pretty(&value).unwrap()));
        prop_assert_eq!(plain, of(&disguised(&value)));
    }

    #[test]
    fn two_values_have_the_same_digest_exactly_if_they_are_equal(one in value(), other in value()) {
        prop_assert_eq!(one == other, of(&one.to_string()) == of(&other.to_string()));
    }

    #[test]
    fn every_changed_leaf_changes_the_digest(value in value()) {
        let before = of(&value.to_string());
        let mut leaves = 0;
        change_leaf(&mut value.clone(), usize::MAX, &mut leaves);
        for wanted in 0..leaves {
            let mut changed = value.clone();
            change_leaf(&mut changed, wanted, &mut 0);
            prop_assert_ne!(before, of(&changed.to_string()), "leaf {} of {}", wanted, value);
        }
    }

    #[test]
    fn the_order_of_an_array_matters(elements in prop::collection::vec(value(), 2..6)) {
        let mut turned = elements.clone();
        turned.rotate_left(1);
        let same = elements == turned;
        prop_assert_eq!(same, of(&json!(elements).to_string()) == of(&json!(turned).to_string()));
    }

    /// The same digits with the point anywhere and the exponent that makes up for it.
    #[test]
    fn a_number_is_the_same_wherever_its_point_stands(
        digits in "[1-9][0-9]{0,40}", zeros in 0usize..30, point: prop::sample::Index, other in "[1-9][0-9]{0,40}",
    ) {
        let padded = format!("{digits}{}", "0".repeat(zeros));
        let point = point.index(padded.len()).max(1);
        let (whole, fraction) = padded.split_at(point);
        let shifted = if fraction.is_empty() { padded.clone() } else { format!("{whole}.{fraction}e{}", fraction.len()) };
        prop_assert_eq!(of(&padded), of(&shifted));
        prop_assert_eq!(of(&padded), of(&format!("{digits}E+{zeros}")));
        prop_assert_eq!(of(&padded), of(&format!("0.000{padded}e{}", padded.len() + 3)));
        prop_assert_ne!(of(&padded), of(&format!("-{padded}")));
        let same = digits.trim_end_matches('0') == other.trim_end_matches('0');
        prop_assert_eq!(same, of(&format!("0.{digits}")) == of(&format!("0.{other}")));
    }

    #[test]
    fn what_is_accepted_is_what_serde_json_accepts(text in "[\\[\\]{}:,\"\\\\u0-9a-f.eE+\\- \ntrlsn]{0,24}") {
        let theirs = serde_json::from_str::<&RawValue>(&text).is_ok();
        prop_assert_eq!(digest(text.as_bytes()).is_ok(), theirs, "{:?}", text);
    }

    #[test]
    fn a_damaged_document_is_refused_like_serde_json_does(value in value(), at: prop::sample::Index, byte: u8) {
        let mut text = value.to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let theirs = serde_json::from_slice::<&RawValue>(&text).is_ok();
        prop_assert_eq!(digest(&text).is_ok(), theirs, "{:?}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn any_bytes_are_judged_like_serde_json_does(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let theirs = serde_json::from_slice::<&RawValue>(&bytes).is_ok();
        prop_assert_eq!(digest(&bytes).is_ok(), theirs);
    }
}

/// Not a test: prints how long a document takes. `cargo test --release -p verify -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn how_long_a_digest_takes() {
    const ROUNDS: u32 = 1_000_000;
    let flight = r#"{"year":2013,"month":1,"day":1,"dep_time":517,"sched_dep_time":515,"dep_delay":2,"arr_time":830,"sched_arr_time":819,"arr_delay":11,"carrier":"UA","flight":1545,"tailnum":"N14228","origin":"EWR","dest":"IAH","air_time":227,"distance":1400,"hour":5,"minute":15,"time_hour":"2013-01-01T10:00:00Z"}"#;
    let mut digester = Digester::default();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        std::hint::black_box(
            digester
                .digest(std::hint::black_box(flight.as_bytes()))
                .unwrap(),
        );
    }
    let took = start.elapsed() / ROUNDS;
    println!("digest of {} bytes: {took:?}", flight.len());
    let start = Instant::now();
    for _ in 0..ROUNDS / 10 {
        std::hint::black_box(serde_json::from_str::<Value>(std::hint::black_box(flight)).unwrap());
    }
    println!("serde_json::Value: {:?}", start.elapsed() / (ROUNDS / 10));
}
