//! Settings that can change while an index is open, and follow the source.
//!
//! Three values decide: the source's, the target's, and the one we have set last. Where the target still
//! has ours, it follows; where somebody has set another, that one stays.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{Choices, Plan, drift};
use crate::portable::{Follows, follows};

/// Those of an index's settings that follow, as it is created with them.
pub(super) fn followed(settings: &Map<String, Value>) -> BTreeMap<String, Value> {
    let followed = settings.iter().filter(|(key, _)| follows(key).is_some());
    followed
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Plans what becomes of the settings of an index that is there. `ours` is what we have set last.
pub(super) fn compare(
    plan: &mut Plan,
    source: &Map<String, Value>,
    target: &Map<String, Value>,
    ours: &BTreeMap<String, Value>,
    choices: Choices,
) {
    // A number of replicas that changes by itself is not followed.
    let expands = |settings: &Map<String, Value>| {
        let expand = settings.get("index.auto_expand_replicas");
        expand.is_some_and(|value| value != "false")
    };
    let expands = expands(source) || expands(target);
    let keys: BTreeSet<&String> = source.keys().chain(target.keys()).collect();
    for key in keys {
        let Some(how) = follows(key) else { continue };
        let (wanted, there, given) = (source.get(key), target.get(key), ours.get(key));
        if wanted == there {
            plan.given
                .extend(wanted.map(|value| (key.clone(), value.clone())));
            continue;
        }
        let chosen = match how {
            Follows::Replicas => {
                choices.replicas && !(expands && key.ends_with("number_of_replicas"))
            }
            Follows::Always | Follows::Quietly => true,
        };
        if chosen && there == given {
            plan.settings
                .insert(key.clone(), wanted.cloned().unwrap_or(Value::Null));
            plan.given
                .extend(wanted.map(|value| (key.clone(), value.clone())));
            continue;
        }
        plan.given
            .extend(given.map(|value| (key.clone(), value.clone())));
        if how == Follows::Always && wanted.is_some() {
            plan.drift
                .extend(drift(&format!("setting {key}"), wanted, there));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn planned(source: Value, target: Value, ours: Value, replicas: bool) -> Plan {
        let mut plan = Plan::default();
        let object = |value: Value| value.as_object().unwrap().clone();
        let ours = object(ours).into_iter().collect();
        compare(
            &mut plan,
            &object(source),
            &object(target),
            &ours,
            Choices { replicas },
        );
        plan
    }

    fn set(plan: &Plan) -> Value {
        plan.settings
            .clone()
            .into_iter()
            .collect::<Map<_, _>>()
            .into()
    }

    #[test]
    fn what_we_have_set_follows_and_what_somebody_else_has_set_stays() {
        const LIMIT: &str = "index.mapping.total_fields.limit";
        let (one, two, three) = (
            json!({ LIMIT: "1" }),
            json!({ LIMIT: "2" }),
            json!({ LIMIT: "3" }),
        );
        // As it was created, then raised at the source.
        let plan = planned(two.clone(), one.clone(), one.clone(), false);
        assert_eq!((set(&plan), plan.drift.len()), (two.clone(), 0));
        assert_eq!(plan.given[LIMIT], "2");
        // Raised by somebody at the target: it stays, and is told.
        let plan = planned(two.clone(), three.clone(), one.clone(), false);
        assert_eq!((set(&plan), plan.drift.len()), (json!({}), 1));
        // Set back by them: it follows again.
        assert_eq!(plan.given[LIMIT], "1");
        // Never set by anybody at the target.
        assert_eq!(set(&planned(two.clone(), json!({}), json!({}), false)), two);
        // Gone from the source: back to what it is by itself.
        let plan = planned(json!({}), two.clone(), two.clone(), false);
        assert_eq!(set(&plan), json!({ LIMIT: null }));
        assert!(plan.given.is_empty());
        // Somebody else's, of which the source says nothing.
        let plan = planned(json!({}), three.clone(), json!({}), false);
        assert_eq!((set(&plan), plan.drift.len()), (json!({}), 0));
        // The same by chance, or because somebody has made it so: ours from now on.
        let plan = planned(three.clone(), three, one, false);
        assert_eq!(
            (set(&plan), plan.given[LIMIT].clone()),
            (json!({}), json!("3"))
        );
    }

    #[test]
    fn replicas_follow_by_choice_and_not_where_they_change_by_themselves() {
        let of = |replicas: &str| json!({ "index.number_of_replicas": replicas });
        assert_eq!(set(&planned(of("2"), of("1"), of("1"), false)), json!({}));
        assert_eq!(set(&planned(of("2"), of("1"), of("1"), true)), of("2"));
        let expanding =
            json!({ "index.number_of_replicas": "1", "index.auto_expand_replicas": "0-1" });
        assert_eq!(
            set(&planned(of("2"), expanding.clone(), expanding, true)),
            json!({
                "index.auto_expand_replicas": null,
            })
        );
    }

    #[test]
    fn how_often_the_target_refreshes_is_nobodys_difference() {
        let of = |interval: &str| json!({ "index.refresh_interval": interval });
        let plan = planned(of("5s"), of("30s"), json!({}), false);
        assert_eq!((set(&plan), plan.drift.len()), (json!({}), 0));
        assert_eq!(set(&planned(of("5s"), of("1s"), of("1s"), false)), of("5s"));
    }
}
