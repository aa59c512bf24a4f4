//! What a run keeps in memory about a large plan, counted by the allocator. One test: others would be counted too.
#![cfg(test)]

use imageset_mirror::copy::{Claims, Sharing, Turn};
use imageset_mirror::oci::{Digest, Repository};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const IMAGES: usize = 10_000;
const LAYERS: usize = 5;

/// Ten thousand images in as many repositories: a config and two layers of their own, and three layers that others have too.
fn layer(image: usize, layer: usize) -> Digest {
    let shared = layer >= 2;
    let name = if shared { format!("shared {} {layer}", image % 40) } else { format!("own {image} {layer}") };
    Digest::of(name.as_bytes())
}

#[test]
fn ten_thousand_images_cost_at_most_five_megabytes() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let claims = Claims::new(Sharing::Mounts);
    runtime.block_on(async {
        for image in 0..IMAGES {
            let repository: Repository = format!("registry.example.com:5000/mirror/team-{image}/app").parse().unwrap();
            for number in 0..=LAYERS {
                match claims.turn(&repository, &layer(image, number)).await {
                    Turn::Yours { claim, .. } => claim.done(),
                    Turn::Present => panic!("nothing is there twice"),
                }
            }
        }
    });
    let (kept, peak) = (ALLOCATOR.current_usage() - before, ALLOCATOR.peak_usage() - before);
    assert!(peak <= 5_000_000, "{kept} bytes kept, {peak} at most");
    drop(claims);
}
