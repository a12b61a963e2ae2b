//! Making the target equal.

use anyhow::Result;
use model::{Epoch, Version};
use serde_json::json;
use testkit::Product;
use verify::{By, Plan, Repair, VerifyOptions};

use crate::support::{Pair, counts, documents, index, options};

fn repairing(repair: Repair, by: By) -> VerifyOptions {
    VerifyOptions {
        repair,
        by,
        limit: 3,
        ..options()
    }
}

/// Writes a document at the target by hand, with a version of an epoch.
async fn write_at_target(pair: &Pair, id: &str, epoch: u8, position: u64) -> Result<()> {
    let version = Version::new(Epoch(epoch), position)?.get();
    let query = format!("version={version}&version_type=external_gte");
    let path = format!("/{}/_doc/{id}?{query}", pair.index);
    let edited = json!({"edited": "by hand"});
    pair.at_target.put_json(&path, &edited).await.map(drop)
}

/// Every kind of difference, in a target of epoch 3.
async fn differing(pair: &Pair, by: By) -> Result<()> {
    pair.bulk(&pair.at_source, &documents(300)).await?;
    let line = |id: &str, routing: Option<&str>| index(id, routing, "{\"y\":1}");
    let apart = pair.apart_from("r1").await?;
    let more = ["stale", "edited", "high", "same"].map(|id| line(id, None));
    pair.bulk(&pair.at_source, &more.concat()).await?;
    pair.bulk(&pair.at_source, &line("moved", Some("r1")))
        .await?;
    pair.copy(3, |id| !id.ends_with('9') && id != "moved")
        .await?;
    // A change that has not arrived.
    pair.bulk(&pair.at_source, &index("stale", None, "{\"y\":2}"))
        .await?;
    // By hand with the cluster's own next version, far above, and under the very version.
    let edited = index("edited", None, "{\"by\":\"hand\"}");
    pair.bulk(&pair.at_target, &edited).await?;
    // (By version one document of a later epoch would make all others different.)
    let epoch = if by == By::Content { 40 } else { 3 };
    write_at_target(pair, "high", epoch, 1_000_000).await?;
    let same = Version::try_from(pair.version("same").await?)?;
    write_at_target(pair, "same", 3, same.position()).await?;
    // In another shard, and there is no such document at the source.
    pair.bulk(&pair.at_target, &line("moved", Some(&apart)))
        .await?;
    let extra = line("extra 1", None) + &line("extra 2", Some("r"));
    pair.bulk(&pair.at_target, &extra).await
}

#[tokio::test]
async fn a_repair_makes_the_target_equal_and_lets_the_next_change_win() -> Result<()> {
    for (source, target, by) in [
        (Product::Es8, Product::Os2, By::Content),
        (Product::Os2, Product::Es7_17, By::Version),
    ] {
        let pair = Pair::new(source, target).await?;
        pair.create((2, 3)).await?;
        differing(&pair, by).await?;
        // Under its own version only the content tells.
        let different = if by == By::Content { 4 } else { 3 };
        let expected = (30, 2, different, 1);
        let report = pair.verify_with(&repairing(Repair::Plan, by)).await?;
        assert_eq!(counts(&report), expected, "{report}");
        let plan = Plan {
            create: false,
            write: 31 + different,
            delete: 3,
        };
        assert_eq!(report.plan, Some(plan));
        assert!(!report.equal() && report.exact);
        let report = pair.verify_with(&repairing(Repair::All, by)).await?;
        assert_eq!(counts(&report), expected, "the plan has changed something");
        assert!(report.equal() && report.left == 0, "{report}");
        let repaired = &report.repaired;
        assert_eq!((repaired.written, repaired.deleted), (31 + different, 3));
        assert_eq!(repaired.foreign, different - 1);
        assert_eq!(repaired.refused.count, 0);
        let report = pair.verify().await?;
        assert_eq!(counts(&report), (0, 0, different_left(by), 0), "{report}");

        let path = format!("/{}/_doc/stale", pair.index);
        let found = pair.at_source.get_json(&path).await?;
        let seq_no = found["_seq_no"].as_u64().unwrap();
        let version = Version::new(Epoch(3), seq_no)?.get();
        assert_eq!(pair.version("stale").await?, version);
        let next = ["stale", "edited", "same"].map(|id| index(id, None, "{\"y\":9}"));
        // One change of something else, so that the numbers go on as they do in a busy index.
        pair.bulk(&pair.at_source, &documents(300)).await?;
        pair.bulk(&pair.at_source, &next.concat()).await?;
        pair.copy(3, |_| true).await?;
        assert!(pair.verify().await?.equal());
        pair.delete().await?;
    }
    Ok(())
}

/// What a repair does not touch because it does not see it.
fn different_left(by: By) -> u64 {
    u64::from(by == By::Version)
}

#[tokio::test]
async fn a_document_that_moved_within_its_shard_is_replaced_and_not_deleted() -> Result<()> {
    let pair = Pair::new(Product::Es8, Product::Os2).await?;
    pair.create((1, 1)).await?;
    pair.bulk(&pair.at_source, &index("moved", Some("r1"), "{}"))
        .await?;
    pair.bulk(&pair.at_target, &index("moved", Some("r2"), "{}"))
        .await?;
    let options = repairing(Repair::All, By::Content);
    let report = pair.verify_with(&options).await?;
    assert_eq!(counts(&report), (0, 0, 0, 1));
    assert!(report.equal(), "{report}");
    assert_eq!((report.repaired.written, report.repaired.deleted), (1, 0));
    assert!(pair.verify().await?.equal());
    pair.delete().await
}

#[tokio::test]
async fn what_the_target_does_not_take_is_named_and_left() -> Result<()> {
    let pair = Pair::new(Product::Es8, Product::Os2).await?;
    pair.create((1, 1)).await?;
    let mapping = json!({"properties": {"f": {"type": "long"}}});
    let path = format!("/{}/_mapping", pair.index);
    pair.at_target.put_json(&path, &mapping).await?;
    let lines = index("bad", None, "{\"f\":\"text\"}") + &index("good", None, "{\"f\":1}");
    pair.bulk(&pair.at_source, &lines).await?;
    let options = repairing(Repair::All, By::Content);
    let report = pair.verify_with(&options).await?;
    assert!(!report.equal() && report.left == 1, "{report}");
    assert_eq!(report.repaired.written, 1);
    let refused = &report.repaired.refused.listed[0];
    assert_eq!(refused.id, "bad");
    assert!(refused.reason.contains("parse"), "{}", refused.reason);
    pair.delete().await
}

#[tokio::test]
async fn what_was_just_deleted_by_hand_is_said_to_need_another_minute() -> Result<()> {
    let pair = Pair::new(Product::Es7_17, Product::Os2).await?;
    pair.create((1, 1)).await?;
    pair.bulk(&pair.at_source, &index("x", None, "{}")).await?;
    pair.copy(0, |_| true).await?;
    pair.bulk(&pair.at_target, "{\"delete\":{\"_id\":\"x\"}}\n")
        .await?;
    let options = repairing(Repair::All, By::Content);
    let report = pair.verify_with(&options).await?;
    assert!(!report.equal() && report.left == 1, "{report}");
    let refused = &report.repaired.refused.listed[0];
    assert!(refused.reason.contains("gc_deletes"), "{}", refused.reason);
    pair.delete().await
}

#[tokio::test]
async fn an_index_that_the_target_lacks_is_created_like_the_sources_and_filled() -> Result<()> {
    let pair = Pair::new(Product::Es8, Product::Os2).await?;
    pair.create((2, 2)).await?;
    pair.bulk(&pair.at_source, &documents(1_000)).await?;
    pair.target.delete_index(&pair.index).await?;
    let planning = repairing(Repair::Plan, By::Content);
    let report = pair.verify_with(&planning).await?;
    let plan = Plan {
        create: true,
        write: 1_000,
        delete: 0,
    };
    assert_eq!(report.plan, Some(plan));
    assert!(!report.target_exists && !report.equal());
    let report = pair.verify().await?;
    assert!(!report.target_exists, "the plan has created it");

    let repairing = VerifyOptions {
        memory: 100, // in several passes
        ..repairing(Repair::All, By::Version)
    };
    let report = pair.verify_with(&repairing).await?;
    assert!(report.equal() && report.repaired.created, "{report}");
    assert_eq!(report.repaired.written, 1_000);
    let path = format!("/{}/_mapping", pair.index);
    let mapping = pair.at_target.get_json(&path).await?;
    let nested = &mapping[pair.index.as_str()]["mappings"]["properties"]["n"]["type"];
    assert_eq!(nested, "nested");
    for by in [By::Version, By::Content] {
        let report = pair.verify_with(&repairing_not(by)).await?;
        assert!(report.equal(), "{report}");
    }
    pair.delete().await
}

fn repairing_not(by: By) -> VerifyOptions {
    repairing(Repair::No, by)
}
