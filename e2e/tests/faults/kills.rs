//! The program is killed when its k-th request arrives at the target, for every k: no tag is torn, and the next run
//! completes what is left.

use e2e::fault_proxy::{Fault, When};
use e2e::image::ImageSpec;
use e2e::tools::say;
use e2e::wait::LONG;

use crate::way::{Extra, Way, thorough};

/// Kills tried where not all are, each at a random place of its part of the run.
const SAMPLE: usize = 4;
/// Chosen once, so that a failure can be looked at again.
const SEED: u64 = 20_260;
/// Bytes of everything, more or less: what a kill may cost is what was under way.
const UNDER_WAY: u64 = 400_000;

/// Twenty images, some of which share layers, and an index with a signature.
async fn filled() -> Way {
    let mut way = Way::start().await;
    for number in 0..18 {
        way.image(&format!("app-{number}"), ImageSpec::seeded(number % 9).layers(2, 20_000)).await;
    }
    way.image("signed", ImageSpec::seeded(50)).await;
    way.image("large", ImageSpec::seeded(51).layers(1, 300_000)).await;
    let source = way.at_source();
    let signed = source.digest("signed", "v1").await.expect("an answer").expect("it is there");
    source.push_signature("signed", &signed, 1).await.expect("a signature");
    way
}

/// Kills at request `index`, before or after it is served; false if the run ended before.
async fn killed(way: &Way, index: usize, served: bool) -> bool {
    way.to.heal();
    way.to.forget();
    way.from.forget();
    let fault = if served { Fault::HoldAnswer } else { Fault::Hold };
    way.to.add(When::index(index), fault);
    let mut running = way.begin();
    let held = way.to.held();
    let caught = tokio::select! {
        held = way.to.until_held(held + 1, LONG) => held.is_ok(),
        _ended = running.process.wait(LONG) => false,
    };
    running.process.kill();
    way.to.heal();
    caught
}

async fn sweep(served: bool) {
    // How many requests there are to be killed at.
    let mut way = filled().await;
    let ran = way.run().await;
    assert!(ran.complete(), "{ran}");
    let total = way.to.seen().len();

    let mut random = fastrand::Rng::with_seed(SEED);
    let part = total.div_ceil(SAMPLE);
    let places: Vec<usize> = if thorough() {
        (0..total).collect()
    } else {
        (0..SAMPLE).map(|number| (number * part + random.usize(..part)).min(total - 1)).collect()
    };
    let mut kills = 0;
    for index in &places {
        way.anew();
        kills += usize::from(killed(&way, *index, served).await);
        way.tags_are_whole().await;
        way.from.forget();
        way.to.forget();
        way.survives(Extra { read: UNDER_WAY, sent: UNDER_WAY, requests: 40 }).await;
        way.is_equal().await;
    }
    let how = if served { "once it was served" } else { "before it was served" };
    say(&format!("killed at {kills} of {total} requests to the target, {how}; every tag was whole"));
    // A run may need a request fewer than the first one.
    assert!(kills * 10 >= places.len() * 9, "{kills} kills of {}", places.len());
}

#[tokio::test]
async fn killed_before_any_request_is_served() {
    sweep(false).await;
}

#[tokio::test]
async fn killed_after_any_request_is_served() {
    sweep(true).await;
}
