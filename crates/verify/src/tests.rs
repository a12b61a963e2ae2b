//! The comparison without servers: buckets, filters and the join against a comparison of two maps.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use model::{DocumentId, Epoch, Version};
use proptest::prelude::*;
use search::{Hit, Numbers};

use crate::{
    By, Side,
    buckets::{Differing, Filter, LEVELS, divide, fit},
    gather::{Entries, Summary, Taking},
    rule::{Key, Rule},
    scan::Gather,
    suspect::{Finding, Suspect, findings, suspects},
};

/// How the source's documents are taken, by content and id.
fn taking(filter: &Arc<Filter>) -> Taking {
    Taking {
        side: Side::Source,
        rule: Rule {
            by: By::Content,
            as_written: false,
            key: Key::Id,
            epoch: None,
        },
        filter: Arc::clone(filter),
    }
}

type Documents = BTreeMap<(String, Option<String>), u8>;

/// Reads documents in the given number of parts.
fn gather<G: Gather>(documents: &Documents, parts: usize, new: impl Fn() -> G) -> G {
    let mut gathered: Vec<G> = (0..parts).map(|_| new()).collect();
    for (at, ((id, routing), content)) in documents.iter().enumerate() {
        let hit = Hit {
            id: DocumentId::try_from(id.as_str()).unwrap(),
            routing: routing.as_deref().map(Into::into),
            seq_no: 0,
            version: 1,
            source: Bytes::from(format!("{{\"content\":{content}}}")),
        };
        gathered[at * 7 % parts].add(hit).unwrap();
    }
    let mut all = new();
    gathered.into_iter().for_each(|part| all.merge(part));
    all
}

/// The suspects, found with room for so many documents, and how often buckets were divided.
fn compare(source: &Documents, target: &Documents, memory: usize) -> (Vec<Suspect>, usize) {
    let mut filter = Filter::default();
    let differing: Vec<Differing> = loop {
        let shared = Arc::new(filter.clone());
        let new = || Summary::new(taking(&shared));
        let (source, target) = (gather(source, 2, new), gather(target, 3, new));
        let differing = source.buckets.differing(&target.buckets);
        if !divide(&differing, filter.level(), memory) {
            break differing;
        }
        filter = filter.within(differing.iter().map(|d| d.bucket));
    };
    let mut found = Vec::new();
    let mut rest = differing.as_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fit(rest, memory));
        let chosen = Arc::new(filter.within(now.iter().map(|d| d.bucket)));
        let new = || Entries::new(taking(&chosen));
        let (source, target) = (gather(source, 3, new), gather(target, 1, new));
        let held = source.entries.len() + target.entries.len();
        assert!(held <= memory || now.len() == 1, "{held} documents held");
        found.extend(suspects(source.entries, target.entries));
        rest = later;
    }
    (found, filter.level())
}

/// What differs, by comparing every document with every other.
fn naive(source: &Documents, target: &Documents) -> Documents {
    let mut differing = Documents::new();
    for key in source.keys().chain(target.keys()) {
        if source.get(key) != target.get(key) {
            differing.insert(key.clone(), 0);
        }
    }
    differing
}

fn documents() -> impl Strategy<Value = Documents> {
    let routing = prop::option::of("[ab]{0,1}");
    prop::collection::btree_map(("[a-e]{1,2}", routing), 0u8..3, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_differs_is_found_whatever_the_memory(
        source in documents(), changes in documents(), drop in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        memory in 1usize..40,
    ) {
        let mut target = source.clone();
        target.extend(changes.into_iter().take(5));
        let keys: Vec<_> = target.keys().cloned().collect();
        drop.iter().filter(|_| !keys.is_empty()).for_each(|at| drop_key(&mut target, &keys[at.index(keys.len())]));
        let (found, _) = compare(&source, &target, memory);
        let found: Documents = found
            .into_iter()
            .map(|suspect| ((suspect.id.to_string(), suspect.routing.map(String::from)), 0))
            .collect();
        prop_assert_eq!(found, naive(&source, &target));
    }
}

fn drop_key(documents: &mut Documents, key: &(String, Option<String>)) {
    documents.remove(key);
}

/// A document and the number of the change that it has, in one of two shards.
type Numbered = BTreeMap<String, u64>;

fn shard(id: &str) -> u32 {
    u32::from(id.ends_with(['a', 'c', 'e']))
}

/// What is there after changes and deletes of documents, numbered by shard as a cluster does; of each
/// document only so many of its changes count.
fn after(history: &[(String, bool)], counted: impl Fn(&str) -> usize) -> Numbered {
    let (mut numbers, mut seen, mut live) = ([0, 0], BTreeMap::new(), Numbered::new());
    for (id, deleted) in history {
        let number = &mut numbers[shard(id) as usize];
        let seen = seen.entry(id).or_insert(0);
        *seen += 1;
        if *seen <= counted(id) {
            match deleted {
                true => live.remove(id),
                false => live.insert(id.clone(), *number),
            };
        }
        *number += 1;
    }
    live
}

/// Takes documents as a scan by version does.
fn gather_by_version<G: Gather>(live: &Numbered, taking: Taking, new: fn(Taking) -> G) -> G {
    let (side, key) = (taking.side, taking.rule.key);
    let mut gathered = new(taking);
    for (id, number) in live {
        let (seq_no, version) = match side {
            Side::Source => (*number, 1),
            Side::Target => (7, Version::new(Epoch(2), *number).unwrap().get()),
        };
        let numbers = Numbers { seq_no, version };
        if key == Key::Position {
            gathered.count(shard(id), numbers);
        }
        if key == Key::Id || gathered.wants(numbers) {
            let hit = Hit {
                id: DocumentId::try_from(id.as_str()).unwrap(),
                routing: None,
                seq_no,
                version,
                source: Bytes::new(),
            };
            gathered.add(hit).unwrap();
        }
    }
    gathered
}

/// The ids that differ by version.
fn compare_by_version(source: &Numbered, target: &Numbered, key: Key) -> Vec<String> {
    let taking = |side, filter: &Filter| Taking {
        side,
        rule: Rule {
            by: By::Version,
            as_written: false,
            key,
            epoch: None,
        },
        filter: Arc::new(filter.clone()),
    };
    let all = Filter::default();
    let ours = gather_by_version(source, taking(Side::Source, &all), Summary::new);
    let theirs = gather_by_version(target, taking(Side::Target, &all), Summary::new);
    let differing = ours.buckets.differing(&theirs.buckets);
    let filter = all.within(differing.iter().map(|d| d.bucket));
    let ours = gather_by_version(source, taking(Side::Source, &filter), Entries::new);
    let theirs = gather_by_version(target, taking(Side::Target, &filter), Entries::new);
    let suspects = suspects(ours.entries, theirs.entries);
    suspects
        .iter()
        .map(|suspect| suspect.id.to_string())
        .collect()
}

proptest! {
    /// Whatever of its history a target has of each document, also where shards give the same numbers.
    #[test]
    fn what_has_not_arrived_is_found_by_positions_as_by_ids(
        history in prop::collection::vec(("[a-f]{1,2}", prop::bool::weighted(0.3)), 0..60),
        behind in prop::collection::vec(0usize..4, 7),
    ) {
        let source = after(&history, |_| usize::MAX);
        let changes = |id: &str| history.iter().filter(|(other, _)| other == id).count();
        let lag = |id: &str| behind[id.bytes().map(usize::from).sum::<usize>() % behind.len()];
        let target = after(&history, |id| changes(id).saturating_sub(lag(id)));
        let mut differing: Vec<_> = source.keys().chain(target.keys()).cloned().collect();
        differing.retain(|id| source.get(id) != target.get(id));
        differing.sort_unstable();
        differing.dedup();
        prop_assert_eq!(&compare_by_version(&source, &target, Key::Id), &differing);
        prop_assert_eq!(&compare_by_version(&source, &target, Key::Position), &differing);
    }
}

#[test]
fn one_difference_among_many_is_found_in_little_memory_by_dividing() {
    let source: Documents = (0..200_000)
        .map(|n| ((n.to_string(), None), (n % 200) as u8))
        .collect();
    let mut target = source.clone();
    for n in [7, 1_000, 77_777] {
        target.insert((n.to_string(), None), 255);
    }
    let (found, divided) = compare(&source, &target, 8);
    let mut ids: Vec<_> = found.iter().map(|suspect| suspect.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["1000", "7", "77777"]);
    assert_eq!(divided, 1);
}

#[test]
fn dividing_ends() {
    let all: Vec<_> = (0..100)
        .map(|bucket| Differing {
            bucket,
            source: 9,
            target: 9,
        })
        .collect();
    assert!(divide(&all, 0, 100));
    assert!(!divide(&all, LEVELS - 1, 100));
    assert!(!divide(&all, 0, 1_800));
    assert_eq!((fit(&all, 100), fit(&all, 1), fit(&[], 1)), (5, 1, 0));
}

#[test]
fn an_id_under_another_routing_is_misrouted_and_under_more_routings_missing_or_extra_too() {
    let suspect = |source, target| Suspect {
        id: DocumentId::try_from("x").unwrap(),
        routing: None,
        source,
        target,
        bytes: 0,
    };
    let (missing, extra) = (suspect(Some(1), None), suspect(None, Some(1)));
    let different = suspect(Some(1), Some(2));
    let all = [missing.clone(), extra.clone(), different, missing.clone()];
    let expected = [
        Finding::Different(2),
        Finding::Misrouted(0, 1),
        Finding::Missing(3),
    ];
    assert_eq!(findings(&all), expected);
    assert_eq!(
        findings(&[extra.clone(), extra]),
        [Finding::Extra(0), Finding::Extra(1)]
    );
    assert_eq!(findings(&[missing]), [Finding::Missing(0)]);
}
