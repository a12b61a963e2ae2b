use model::Subject;
use proptest::prelude::*;

use super::*;
use crate::{At, Selection};

fn rules(selection: &Selection, text: &str) -> RuleSet {
    let keys = |_: &crate::KeySource| Err("there are no keys".to_owned());
    RuleSet::read(selection, Some(("rules", text)), &keys).unwrap()
}

fn selected(
    include: Option<&str>,
    exclude: Option<&str>,
    operations: Option<&[Operation]>,
) -> Vec<String> {
    let selection = Selection {
        include_indices: include.map(|text| text.parse().unwrap()),
        exclude_patterns: exclude.map(|text| text.parse().unwrap()),
        include_operations: operations.map(<[Operation]>::to_vec),
    };
    let rules = rules(&selection, "{}");
    assert_eq!(rules.subjects(), rules.selected_subjects());
    rules.subjects()
}

fn by_rules(text: &str) -> Vec<String> {
    rules(&Selection::default(), text).subjects()
}

#[test]
fn names_and_operations_of_flags_become_subject_filters_and_globs_do_not() {
    assert_eq!(
        selected(Some("metadata,assets.v1"), Some("temp_*,logs"), None),
        ["es.*.assets%2Ev1.>", "es.*.metadata.>"]
    );
    assert_eq!(
        selected(None, None, Some(&[Operation::Update, Operation::Index])),
        ["es.*.*.definition", "es.*.*.index", "es.*.*.update"]
    );
    assert!(selected(Some("assets,media-*"), None, None).is_empty());
    assert!(selected(None, Some("logs"), None).is_empty());
    assert_eq!(
        selected(Some("assets,logs"), Some("logs"), None),
        ["es.*.assets.>"]
    );
    let names = |count: usize| -> String {
        let names: Vec<String> = (0..count).map(|n| format!("i{n}")).collect();
        names.join(",")
    };
    let both = selected(Some(&names(40)), None, Some(&[Operation::Index]));
    assert_eq!(both.len(), 40, "{both:?}");
    assert!(selected(Some(&names(100)), None, None).is_empty());
    assert!(selected(Some(&names(5000)), None, None).is_empty());
}

/// An index that is emptied is as many deletes; so it comes wherever deletes do.
#[test]
fn that_an_index_was_emptied_comes_with_the_deletes() {
    let all = [Operation::Index, Operation::Update, Operation::Delete];
    assert!(selected(None, None, Some(&all)).is_empty());
    let some = selected(None, None, Some(&[Operation::Index, Operation::Delete]));
    assert_eq!(
        some,
        [
            "es.*.*.clear",
            "es.*.*.definition",
            "es.*.*.delete",
            "es.*.*.index"
        ]
    );
}

#[test]
fn what_filters_of_a_file_name_in_full_becomes_subject_filters() {
    assert_eq!(
        by_rules(
            "filters: [{ keep: { index: [users, assets], document: { field: a, exists: true } } }]"
        ),
        ["es.*.assets.>", "es.*.users.>"]
    );
    assert_eq!(
        by_rules("filters: [{ keep: { tenant: [a, b], index: users } }]"),
        ["es.a.users.>", "es.b.users.>"]
    );
    assert_eq!(
        by_rules("filters: [{ keep: { subject: 'es.a.users' } }]"),
        ["es.a.users.>"]
    );
    assert_eq!(
        by_rules("filters: [{ drop: { operation: [delete, update] } }]"),
        ["es.*.*.definition", "es.*.*.index"]
    );
    assert_eq!(
        by_rules(
            "filters: [{ keep: { index: 'users,assets,logs' } }, { drop: { index: 'l*' } }, \
             { drop: { index: assets, operation: delete } }]"
        ),
        [
            "es.*.assets.definition",
            "es.*.assets.index",
            "es.*.assets.update",
            "es.*.users.>"
        ]
    );
    assert_eq!(
        by_rules(
            "filters: { mode: first, default: drop, rules: [{ keep: { index: users } }, { drop: { tenant: x } }, \
             { keep: { index: assets } }] }"
        ),
        ["es.*.assets.>", "es.*.users.>"]
    );
    // Overlapping ones would be refused: the narrowest that means both takes their place.
    assert_eq!(
        by_rules("filters: [{ keep: { subject: ['es.a.users', 'es.*.users.index'] } }]"),
        ["es.*.users.>"]
    );
}

#[test]
fn what_cannot_be_said_by_subjects_is_read_and_decided_by_the_rules() {
    for text in [
        "filters: [{ drop: { index: logs } }]",
        "filters: [{ keep: { index: 'media-*' } }]",
        "filters: [{ on: { index: users }, keep: { operation: index } }]",
        "filters: [{ drop: { operation: delete, document: { field: a, exists: true } } }]",
        "filters: { mode: first, rules: [{ keep: { index: users } }] }",
        "filters: { mode: first, rules: [{ keep: { index: 'm*' } }, { drop: { operation: delete } }] }",
        "filters: { mode: first, default: drop, rules: [{ keep: { index: users } }, { keep: { index: 'm*' } }] }",
    ] {
        assert!(by_rules(text).is_empty(), "{text}: {:?}", by_rules(text));
    }
}

/// A scope as a rule file has it, of few words, so that they meet.
fn scope() -> impl Strategy<Value = String> {
    let list = |words: &'static [&'static str]| {
        proptest::option::of(proptest::sample::subsequence(words, 1..=2))
    };
    let patterns: &[&str] = &["a", "b.c", "m-*", "*,-a", "*"];
    let subjects: &[&str] = &[
        "es.t.a",
        "es.*.a.index",
        "es.u.*.delete",
        "*.t",
        "es.*.b%2Ec.>",
        ">",
    ];
    (
        list(patterns),
        list(&["index", "update", "delete"]),
        list(&["t", "u"]),
        list(subjects),
    )
        .prop_map(|(indices, operations, tenants, subjects)| {
            let entry = |key: &str, list: Option<Vec<&str>>| {
                list.map(|list| format!("{key}: ['{}']", list.join("', '")))
            };
            let entries = [
                entry("index", indices),
                entry("operation", operations),
                entry("tenant", tenants),
                entry("subject", subjects),
            ];
            let entries: Vec<String> = entries.into_iter().flatten().collect();
            entries.join(", ")
        })
}

fn file() -> impl Strategy<Value = String> {
    let on = prop_oneof![2 => Just(String::new()), 1 => scope()];
    let filter =
        (any::<bool>(), any::<bool>(), on, scope()).prop_map(|(keeps, looks, on, scope)| {
            let word = if keeps { "keep" } else { "drop" };
            let document = match (looks, scope.is_empty()) {
                (false, _) => "",
                (true, true) => "document: { field: f, exists: true }",
                (true, false) => ", document: { field: f, exists: true }",
            };
            format!("{{ on: {{ {on} }}, {word}: {{ {scope}{document} }} }}")
        });
    let mode = prop_oneof![
        Just("all"),
        Just("first, default: keep"),
        Just("first, default: drop")
    ];
    (mode, proptest::collection::vec(filter, 0..4)).prop_map(|(mode, filters)| {
        format!(
            "filters: {{ mode: {mode}, rules: [{}] }}",
            filters.join(", ")
        )
    })
}

fn matches(subject: &str, filter: &str) -> bool {
    let mut tokens = subject.split('.');
    let mut wanted = filter.split('.').zip(&mut tokens);
    wanted.all(|(wanted, token)| wanted == "*" || wanted == ">" || wanted == token)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// What rules let through is delivered, and so is what goes with it; and JetStream takes the filters.
    #[test]
    fn nothing_that_may_go_on_is_left_out(text in file()) {
        let rules = rules(&Selection::default(), &text);
        let subjects = rules.subjects();
        prop_assert!(subjects.len() <= MOST_SUBJECTS);
        let is_delivered = |subject: &str| {
            subjects.is_empty() || subjects.iter().any(|filter| matches(subject, filter))
        };
        for tenant in ["t", "u", "v"] {
            for index in ["a", "b.c", "m-1", "z"] {
                for operation in Operation::ALL {
                    let at = At {
                        tenant: tenant.parse().unwrap(),
                        index: index.parse().unwrap(),
                        operation,
                    };
                    if rules.plan(&at).drops_all() {
                        continue;
                    }
                    let mut kinds = vec![at.subject().kind, model::Kind::Definition];
                    if operation == Operation::Delete {
                        kinds.push(model::Kind::Clear);
                    }
                    for kind in kinds {
                        let subject = Subject { kind, ..at.subject() }.to_string();
                        prop_assert!(is_delivered(&subject), "{} {:?}", subject, subjects);
                    }
                }
            }
        }
        for (number, one) in subjects.iter().enumerate() {
            for other in &subjects[number + 1..] {
                let mut tokens = one.split('.').zip(other.split('.'));
                let overlaps = tokens.all(|(one, other)| {
                    one == other || [one, other].iter().any(|t| matches!(*t, "*" | ">"))
                });
                prop_assert!(!overlaps, "{} and {}", one, other);
            }
        }
    }
}
