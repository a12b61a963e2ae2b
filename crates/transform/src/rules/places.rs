//! Where the documents of an index go.
//!
//! A place has the documents of a single index. Where rules would put those of several into one, equal ids would replace
//! each other, and what empties one would empty the other; so only one of them has it, and what comes of the others is
//! refused.

use model::{IndexDefinition, IndexName, Operation};

use super::{RuleError, RuleSet};
use crate::{
    definition::adapt,
    route::{Target, unrouted},
    scope::At,
};

impl RuleSet {
    /// Where the changes of an index go.
    pub(super) fn target(&self, at: &At) -> Result<Target, String> {
        let target = match self.routes.iter().find(|(scope, _)| scope.holds(at)) {
            None => unrouted(at),
            Some((_, route)) => route.target(&at.index, &at.tenant)?,
        };
        for place in target.places() {
            if let Some(owner) = self.owner(place, at).filter(|owner| *owner != at.index) {
                let index = &at.index;
                return Err(format!(
                    "{place} belongs to the documents of {owner}, which are routed there; those of {index} would \
                     replace and clear them: give one of the two another name by a route"
                ));
            }
        }
        Ok(target)
    }

    /// The index whose documents are routed to a place. There may be others that would go there; theirs is the place
    /// of the first route, and of the shortest name. None where nothing is routed there: then it belongs to the
    /// index of its own name.
    fn owner(&self, place: &IndexName, at: &At) -> Option<IndexName> {
        let mut routes = self.routes.iter().enumerate();
        routes.find_map(|(number, (scope, route))| {
            let only = scope
                .indices
                .as_ref()
                .and_then(|patterns| patterns.names().next());
            let mut sources = route.sources(place, &at.tenant, only);
            sources.retain(|index| {
                let at = At {
                    index: index.clone(),
                    ..at.clone()
                };
                let first = self.routes.iter().position(|(scope, _)| scope.holds(&at));
                first == Some(number) && self.goes_on(&at)
            });
            sources.sort_by_key(|index| (index.as_str().len(), index.clone()));
            sources.into_iter().next()
        })
    }

    /// Whether a change of an index can go on at all.
    fn goes_on(&self, at: &At) -> bool {
        Operation::ALL.into_iter().any(|operation| {
            let at = At {
                operation,
                ..at.clone()
            };
            self.dropped_by(&at, None).is_none()
        })
    }

    /// The indices that may have documents of an index. None where no change of it goes on.
    ///
    /// # Errors
    /// When a route gives it a name that no index can have.
    pub fn places(&self, at: &At) -> Result<Vec<IndexName>, RuleError> {
        if !self.goes_on(at) {
            return Ok(Vec::new());
        }
        let target = self.target(at).map_err(|reason| RuleError {
            rule: "route".to_owned(),
            reason,
        })?;
        Ok(target.places().into_iter().cloned().collect())
    }

    /// The indices that lose what is not above a version when the source says that so much of an index is gone: the
    /// places of its documents, which are in no other's. None where its deletes do not go on either.
    ///
    /// # Errors
    /// As for [`Self::places`].
    pub fn cleared(&self, at: &At) -> Result<Vec<IndexName>, RuleError> {
        let delete = At {
            operation: Operation::Delete,
            ..at.clone()
        };
        match self.dropped_by(&delete, None) {
            Some(_) => Ok(Vec::new()),
            None => self.places(at),
        }
    }

    /// What an index looks like at the target, in each of its [places](Self::places).
    ///
    /// # Errors
    /// When a route gives it a name that no index can have.
    pub fn define(
        &self,
        at: &At,
        definition: &IndexDefinition,
    ) -> Result<Vec<(IndexName, IndexDefinition)>, RuleError> {
        let plan = self.plan(at);
        let steps = plan
            .steps
            .iter()
            .filter_map(|number| self.steps.get(*number));
        let definition = adapt(definition, steps);
        let places = self.places(at)?.into_iter();
        Ok(places.map(|index| (index, definition.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Selection;

    fn rules(text: &str) -> RuleSet {
        let keys = |_: &crate::KeySource| Err("there are no keys".to_owned());
        RuleSet::read(&Selection::default(), Some(("rules", text)), &keys).unwrap()
    }

    fn at(index: &str) -> At {
        At {
            tenant: "t".parse().unwrap(),
            index: index.parse().unwrap(),
            operation: Operation::Delete,
        }
    }

    fn cleared(rules: &RuleSet, index: &str) -> Result<Vec<String>, String> {
        let places = rules.cleared(&at(index));
        let places = places.map(|places| places.iter().map(ToString::to_string).collect());
        places.map_err(|error| error.reason)
    }

    #[test]
    fn emptying_an_index_empties_all_places_of_its_documents() {
        let by_country =
            "transforms: [{ route: { index: '{index}-{country}', values: [de, fr] } }]";
        assert_eq!(
            cleared(&rules(by_country), "users").unwrap(),
            ["users-de", "users-fr"]
        );
        assert_eq!(cleared(&rules("{}"), "users").unwrap(), ["users"]);
        let no_deletes = rules("filters: [{ drop: { operation: delete } }]");
        assert!(cleared(&no_deletes, "users").unwrap().is_empty());
        let none = rules("filters: [{ drop: { index: users } }]");
        assert!(cleared(&none, "users").unwrap().is_empty());
    }

    /// The first of `indices` has the place, and the others are refused with its name.
    fn has(rules: &str, place: &str, indices: &[&str]) {
        let rules = self::rules(rules);
        let (owner, others) = indices.split_first().unwrap();
        assert!(
            cleared(&rules, owner).unwrap().contains(&place.to_owned()),
            "{owner}"
        );
        for other in others {
            let refused = cleared(&rules, other).unwrap_err();
            assert!(
                refused.contains(&format!("{place} belongs to the documents of {owner},")),
                "{refused}"
            );
            let change = rules.plan(&at(other));
            assert!(change.passes_whole().is_none(), "{other}");
        }
    }

    #[test]
    fn a_place_has_the_documents_of_one_index() {
        let into_media = "{ on: { index: assets }, route: { index: media } }";
        has(
            &format!("transforms: [{into_media}]"),
            "media",
            &["assets", "media"],
        );
        let users_too = "{ on: { index: users }, route: { index: media } }";
        has(
            &format!("transforms: [{into_media}, {users_too}]"),
            "media",
            &["assets", "users", "media"],
        );
        has(
            "transforms: [{ on: { index: users }, route: { index: 'u-{c}', values: [de, fr] } }]",
            "u-fr",
            &["users", "u-fr"],
        );
        has(
            "transforms: [{ on: { index: 'u*' }, route: { index: '{index}-{c}', values: [b, a-b] } }]",
            "u-a-b",
            &["u", "u-a"],
        );
    }

    #[test]
    fn a_place_that_nothing_else_goes_to_is_free() {
        for (text, index) in [
            (
                "transforms: [{ route: { index: '{index}-v2' } }]",
                "users-v2",
            ),
            (
                "transforms: [{ on: { index: 'log-*' }, route: { index: '{index}-v2' } }]",
                "users-v2",
            ),
            // Two that change places.
            (
                "transforms: [{ on: { index: a }, route: { index: b } }, { on: { index: b }, route: { index: a } }]",
                "a",
            ),
            // What would be routed there does not go on.
            (
                "filters: [{ drop: { index: assets } }]\n\
                 transforms: [{ on: { index: assets }, route: { index: media } }]",
                "media",
            ),
            (
                "transforms: [{ on: { index: 'x*' }, route: { index: '{index}{index}' } }]",
                "xx",
            ),
        ] {
            assert_eq!(cleared(&rules(text), index).unwrap().len(), 1, "{text}");
        }
    }
}
