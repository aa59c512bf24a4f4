//! The ledger and the last plan, kept in the target.

use imageset_mirror::failure::Failure;
use imageset_mirror::plan::{Blocked, Plan};
use imageset_mirror::state::Completed::{self, Alone, WithAttachments};
use imageset_mirror::state::{Ledger, MayCommit, Memory, Place, Record, find_out_about_posts, load_plan};

use super::fake::{Seen, error, html};
use super::*;

const NOW: &str = "2026-01-02T03:04:05Z";
const STATE: &str = "imageset-mirror/state";

struct Kept {
    world: World,
    client: Arc<Client>,
    place: Place,
}

async fn kept(items: usize) -> Kept {
    let mut world = World::new().await;
    for number in 0..items {
        let digest = Digest::of(&number.to_be_bytes());
        world.wants("a/b", &digest, &format!("m/a:{number}"));
    }
    let client = client(Side::Target, &world.target);
    let place = Place::new(&world.target.registry(), None, "cluster", "ns", "name").unwrap();
    Kept { world, client, place }
}

impl Kept {
    /// Keeps a plan as one who knows of nothing else.
    async fn save_plan(
        &self,
        plan: &Plan,
        completed: Option<Completed>,
        may_commit: MayCommit<'_>,
    ) -> Result<(), Failure> {
        let plan = Arc::new(plan.clone());
        Record::default().save_plan(&self.client, &self.place, &plan, completed, may_commit).await
    }

    /// How often the config of all artifacts was written.
    fn configs(&self) -> usize {
        let empty = Digest::of(b"{}").to_string();
        let put = |seen: &Seen| seen.method == "PUT" && seen.query.get("digest") == Some(&vec![empty.clone()]);
        self.world.target.seen().iter().filter(|seen| put(seen)).count()
    }
}

/// The layers of the ledger's manifest.
fn layers(kept: &Kept) -> Vec<Digest> {
    let (_, tag) = kept.world.target.tags().into_iter().find(|(_, tag)| tag.ends_with("-ledger")).unwrap();
    let manifest = kept.world.target.manifest(STATE, &tag).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["digest"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn what_was_completed_is_known_to_the_next_process() {
    let kept = kept(3).await;
    let mut ledger = Ledger::load(&kept.client, &kept.place).await.unwrap();
    assert!(ledger.is_empty());
    for item in &kept.world.items[..2] {
        ledger.add(item, true, NOW);
    }
    ledger.save(&kept.client, &kept.place, &|| true).await.unwrap();
    let again = Ledger::load(&kept.client, &kept.place).await.unwrap();
    assert!(again.has(&kept.world.items[0], true) && again.has(&kept.world.items[1], true));
    assert!(!again.has(&kept.world.items[0], false), "another manner is looked at again");
    assert!(!again.has(&kept.world.items[2], true));
}

#[tokio::test]
async fn appending_moves_only_what_is_new_and_nothing_new_costs_nothing() {
    let kept = kept(2).await;
    let mut ledger = Ledger::default();
    for item in &kept.world.items {
        ledger.add(item, true, NOW);
        ledger.save(&kept.client, &kept.place, &|| true).await.unwrap();
    }
    assert_eq!(layers(&kept).len(), 2);
    kept.world.target.clear();
    ledger.add(&kept.world.items[0], true, "2027-01-01T00:00:00Z");
    ledger.save(&kept.client, &kept.place, &|| true).await.unwrap();
    assert!(kept.world.target.seen().is_empty());
    assert_eq!(Ledger::load(&kept.client, &kept.place).await.unwrap().len(), 2);
}

#[tokio::test]
async fn many_small_layers_become_few_and_lose_nothing() {
    let kept = kept(80).await;
    let mut ledger = Ledger::default();
    for item in &kept.world.items {
        ledger.add(item, true, NOW);
        ledger.save(&kept.client, &kept.place, &|| true).await.unwrap();
    }
    assert!(layers(&kept).len() < 40);
    assert_eq!(Ledger::load(&kept.client, &kept.place).await.unwrap().len(), 80);
}

#[tokio::test]
async fn a_lost_layer_loses_only_what_was_in_it() {
    let kept = kept(4).await;
    let mut ledger = Ledger::default();
    for item in &kept.world.items[..3] {
        ledger.add(item, true, NOW);
        ledger.save(&kept.client, &kept.place, &|| true).await.unwrap();
    }
    kept.world.target.lose_blob(STATE, &layers(&kept)[0]);
    let mut again = Ledger::load(&kept.client, &kept.place).await.unwrap();
    assert_eq!(again.len(), 2);
    again.add(&kept.world.items[3], true, NOW);
    again.save(&kept.client, &kept.place, &|| true).await.unwrap();
    assert_eq!(Ledger::load(&kept.client, &kept.place).await.unwrap().len(), 3);
    assert_eq!(kept.world.target.torn(), Vec::<String>::new());
    // Whoever still remembers all writes all.
    kept.world.target.lose_blob(STATE, &layers(&kept)[0]);
    ledger.add(&kept.world.items[3], true, NOW);
    ledger.save(&kept.client, &kept.place, &|| true).await.unwrap();
    assert_eq!(Ledger::load(&kept.client, &kept.place).await.unwrap().len(), 4);
}

#[tokio::test]
async fn something_else_under_the_tags_of_the_state_counts_as_none() {
    let kept = kept(1).await;
    let mut ledger = Ledger::default();
    ledger.add(&kept.world.items[0], true, NOW);
    ledger.save(&kept.client, &kept.place, &|| true).await.unwrap();
    kept.save_plan(&kept.world.plan(), None, &|| true).await.unwrap();
    for (_, tag) in kept.world.target.tags() {
        kept.world.target.put_manifest(STATE, &tag, media_type::OCI_INDEX, r#"{"manifests":[]}"#);
    }
    assert!(Ledger::load(&kept.client, &kept.place).await.unwrap().is_empty());
    assert_eq!(load_plan(&kept.client, &kept.place).await.unwrap(), None);
}

#[tokio::test]
async fn a_plan_is_read_back_as_it_was_whatever_its_size() {
    let kept = kept(3000).await;
    let mut plan = kept.world.plan();
    let asked = plan.items[0].asked[0].clone();
    let failure = Failure::permanent(Reason::SourceNotFound, "no".repeat(200));
    let blocked = |number: usize| Blocked { asked: asked.clone(), pattern: format!("{}{number}", "x".repeat(300)) };
    plan.blocked = (0..1500).map(blocked).collect();
    let origin = |number: usize| Origin { kind: OriginKind::Additional, name: format!("{number}") };
    plan.failures = (0..1500).map(|number| (origin(number), failure.clone())).collect();
    plan.items[7].after = vec![1, 2];
    plan.items[8].platforms = ["linux/amd64".to_owned()].into();
    kept.save_plan(&plan, None, &|| true).await.unwrap();
    assert!(load_plan(&kept.client, &kept.place).await.unwrap() == Some(plan));
    let blobs = kept.world.target.blobs();
    let length = |blob: &String| kept.world.target.blob(STATE, &blob.parse().unwrap()).unwrap().len();
    let longest = blobs.iter().map(length).max().unwrap();
    assert!(longest <= 256 << 10, "{longest}");
}

#[tokio::test]
async fn a_plan_that_has_lost_a_layer_is_none() {
    let kept = kept(1).await;
    assert_eq!(load_plan(&kept.client, &kept.place).await.unwrap(), None);
    kept.save_plan(&kept.world.plan(), None, &|| true).await.unwrap();
    let empty = Digest::of(b"{}").to_string();
    for blob in kept.world.target.blobs().into_iter().filter(|blob| *blob != empty) {
        kept.world.target.lose_blob(STATE, &blob.parse().unwrap());
    }
    assert_eq!(load_plan(&kept.client, &kept.place).await.unwrap(), None);
}

/// Writes the state of a sync that has completed everything.
async fn completed(kept: &Kept) -> Arc<Plan> {
    let mut ledger = Ledger::load(&kept.client, &kept.place).await.unwrap();
    for item in &kept.world.items {
        ledger.add(item, true, NOW);
    }
    ledger.save(&kept.client, &kept.place, &|| true).await.unwrap();
    let plan = kept.world.plan();
    kept.save_plan(&plan, Some(WithAttachments), &|| true).await.unwrap();
    Arc::new(plan)
}

#[tokio::test]
async fn state_is_read_once_per_process() {
    let kept = kept(1).await;
    let memory = Memory::default();
    let plan = Arc::new(kept.world.plan());
    let mut record = memory.get(&kept.client, &kept.place, &plan, WithAttachments).await.unwrap();
    assert!(record.plan.is_none());
    record.ledger.as_mut().unwrap().add(&kept.world.items[0], true, NOW);
    record.plan = Some(Arc::clone(&plan));
    memory.put(&kept.place, record);
    kept.world.target.clear();
    let record = memory.get(&kept.client, &kept.place, &plan, WithAttachments).await.unwrap();
    assert_eq!((record.ledger.unwrap().len(), record.plan.is_some()), (1, true));
    assert!(kept.world.target.seen().is_empty());
}

#[tokio::test]
async fn a_process_that_begins_with_the_plan_that_was_completed_last_reads_nothing_else() {
    let kept = kept(3000).await;
    let plan = completed(&kept).await;
    kept.world.target.clear();
    let memory = Memory::default();
    for _ in 0..2 {
        let record = memory.get(&kept.client, &kept.place, &plan, WithAttachments).await.unwrap();
        assert!(record.ledger.is_none());
        assert_eq!((record.plan.as_ref(), record.completed), (Some(&plan), Some(WithAttachments)));
        assert_eq!(kept.world.target.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_plan_in_another_manner_or_with_another_item_needs_the_ledger() {
    let mut kept = kept(2).await;
    let plan = completed(&kept).await;
    let record = Memory::default().get(&kept.client, &kept.place, &plan, Alone).await.unwrap();
    assert_eq!(record.ledger.map(|ledger| ledger.len()), Some(2));
    assert_eq!((record.plan.as_ref(), record.completed), (Some(&plan), Some(WithAttachments)));
    // Also in a process that has not read it so far.
    let memory = Memory::default();
    memory.get(&kept.client, &kept.place, &plan, WithAttachments).await.unwrap();
    kept.world.wants("a/b", &Digest::of(b"new"), "m/a:new");
    let wider = Arc::new(kept.world.plan());
    let record = memory.get(&kept.client, &kept.place, &wider, WithAttachments).await.unwrap();
    assert_eq!(record.ledger.map(|ledger| ledger.len()), Some(2));
    assert_eq!(record.plan, Some(plan));
}

#[tokio::test]
async fn a_plan_of_which_not_all_is_in_the_ledger_says_nothing_of_it() {
    let kept = kept(2).await;
    let plan = completed(&kept).await;
    kept.save_plan(&plan, None, &|| true).await.unwrap();
    let record = Memory::default().get(&kept.client, &kept.place, &plan, WithAttachments).await.unwrap();
    assert_eq!((record.ledger.is_some(), record.completed), (true, None));
}

#[tokio::test]
async fn a_page_of_a_load_balancer_is_no_lost_layer() {
    let kept = kept(1).await;
    let mut ledger = Ledger::default();
    ledger.add(&kept.world.items[0], true, NOW);
    ledger.save(&kept.client, &kept.place, &|| true).await.unwrap();
    kept.world.target.rule(|seen| (seen.method == "GET" && seen.path.contains("/blobs/")).then(|| html(404)));
    let failure = Ledger::load(&kept.client, &kept.place).await.unwrap_err();
    assert!(failure.transient, "{failure}");
}

#[tokio::test]
async fn a_target_that_refuses_a_ledger_is_not_sent_all_of_it() {
    let kept = kept(2).await;
    let mut ledger = Ledger::default();
    ledger.add(&kept.world.items[0], true, NOW);
    ledger.save(&kept.client, &kept.place, &|| true).await.unwrap();
    ledger.add(&kept.world.items[1], true, NOW);
    kept.world.target.clear();
    kept.world.target.times(1, ("PUT", "-ledger"), || error(403, "DENIED", "no"));
    let failure = ledger.save(&kept.client, &kept.place, &|| true).await.unwrap_err();
    assert_eq!(failure.reason, Reason::TargetAuth);
    assert_eq!(kept.world.target.count("PUT /v2/imageset-mirror/state/manifests/"), 1);
    ledger.save(&kept.client, &kept.place, &|| true).await.unwrap();
    assert_eq!(Ledger::load(&kept.client, &kept.place).await.unwrap().len(), 2);
}

#[tokio::test]
async fn who_is_not_in_charge_any_more_puts_no_tag() {
    let kept = kept(1).await;
    let mut ledger = Ledger::default();
    ledger.add(&kept.world.items[0], true, NOW);
    let failure = ledger.save(&kept.client, &kept.place, &|| false).await.unwrap_err();
    assert_eq!(failure.reason, Reason::Cancelled);
    assert!(kept.save_plan(&kept.world.plan(), None, &|| false).await.is_err());
    assert!(kept.world.target.tags().is_empty());
}

#[tokio::test]
async fn the_config_of_all_artifacts_is_written_with_the_first() {
    let kept = kept(2).await;
    let target = &kept.world.target;
    let mut record = Record { ledger: Some(Ledger::default()), ..Record::default() };
    for (number, item) in kept.world.items.iter().enumerate() {
        let ledger = record.ledger.as_mut().unwrap();
        ledger.add(item, true, NOW);
        ledger.save(&kept.client, &kept.place, &|| true).await.unwrap();
        let mut plan = kept.world.plan();
        plan.items.truncate(number + 1);
        let plan = Arc::new(plan);
        record.save_plan(&kept.client, &kept.place, &plan, Some(Alone), &|| true).await.unwrap();
        assert_eq!((record.plan.as_ref(), record.completed), (Some(&plan), Some(Alone)));
    }
    assert_eq!(kept.configs(), 1);
    for blob in target.blobs() {
        target.lose_blob(STATE, &blob.parse().unwrap());
    }
    let plan = Arc::new(kept.world.plan());
    record.save_plan(&kept.client, &kept.place, &plan, None, &|| true).await.unwrap();
    assert_eq!(load_plan(&kept.client, &kept.place).await.unwrap().as_ref(), Some(&*plan));
    assert_eq!(kept.configs(), 2);
}

#[tokio::test]
async fn whether_the_target_takes_small_blobs_whole_is_found_out_once_with_bytes_of_ours() {
    for whole in [true, false] {
        let kept = kept(0).await;
        let target = &kept.world.target;
        if whole {
            target.takes_whole();
        }
        assert_eq!(kept.client.posts_whole(kept.place.repository()), None);
        for _ in 0..2 {
            find_out_about_posts(&kept.client, &kept.place).await.unwrap();
        }
        assert_eq!(kept.client.posts_whole(kept.place.repository()), Some(whole));
        assert_eq!((target.count("POST "), target.blobs()), (1, [Digest::of(b"{}").to_string()].into()));
    }
}
