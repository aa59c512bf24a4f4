//! The `controller` command: endpoints, leader election, the controller, and their order at start and end.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use imageset_mirror::cli::ControllerArgs;
use imageset_mirror::clock::Clock;
use imageset_mirror::controller;
use imageset_mirror::lease::{self, Elector, Ended};
use imageset_mirror::metrics::{Build, CountRequests, Metrics};
use imageset_mirror::request::Endpoints;
use imageset_mirror::server::{Endpoint, Health, Part};
use imageset_mirror::sync::Helm;
use kube::client::ClientBuilder;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Runs the operator until it is told to stop or loses its lease.
pub(crate) async fn run(args: ControllerArgs) -> anyhow::Result<ExitCode> {
    let clock = Clock::system();
    let own = BTreeSet::from([args.namespace.clone()]);
    let or_own = |list: Vec<String>| if list.is_empty() { own.clone() } else { list.into_iter().collect() };
    let mut outputs = or_own(args.cluster_output_namespaces);
    outputs.remove("none");
    let endpoints = Endpoints::try_new(args.update_service.as_deref(), &args.signature_stores)?;
    let settings = controller::Settings {
        watch_namespaces: or_own(args.watch_namespaces),
        cluster_output_namespaces: outputs,
        instance: args.pod_name.clone(),
        max_syncs: args.max_syncs,
        concurrency: args.concurrency,
        max_bytes_per_second: args.max_bytes_per_second,
        kinds_period: args.kinds_period,
        sync_gap: args.sync_gap,
        grace_period: args.grace_period,
        endpoints,
        helm: Helm::named(args.helm),
    };
    let lease_settings = lease::Settings {
        duration: args.lease_duration,
        renew_deadline: args.renew_deadline,
        retry_period: args.retry_period,
    };

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry, Build::current());
    let health = Health::new(clock.clone());
    health.set(Part::Settings, true);

    // Ends the endpoints, after everything else.
    let last = CancellationToken::new();
    let tracker = TaskTracker::new();
    let endpoint = Endpoint::metrics(args.metrics_addr, Arc::new(registry)).await?;
    health.set(Part::Metrics, true);
    let probes = Endpoint::probes(args.probe_addr, health.clone()).await?;
    tracker.spawn(endpoint.serve(last.clone()));
    tracker.spawn(probes.serve(last.clone()));
    tracker.spawn(health.clone().beat(last.clone()));

    let stop = CancellationToken::new();
    tracker.spawn(signals(stop.clone(), last.clone(), health.clone())?);

    let config = kube::Config::infer().await.context("finding the API server (in a pod, or by KUBECONFIG)")?;
    let client = ClientBuilder::try_from(config.clone()).context("making a client for the API server")?;
    let client = client.with_layer(&CountRequests::new(metrics.clone())).build();
    {
        let (client, namespaces, health) = (client.clone(), settings.watch_namespaces.clone(), health.clone());
        let stop = stop.clone();
        tracker.spawn(async move {
            let ready = |readiness: controller::Readiness| {
                health.set(Part::CrdServed, readiness.served);
                if readiness.listed {
                    health.set(Part::FirstList, true);
                }
            };
            controller::wait_for_crd(&client, &namespaces, ready, &stop).await;
        });
    }

    let release = CancellationToken::new();
    let (fence, mut leadership, electing) = if args.leader_elect {
        let lease_client = lease::client(config, &lease_settings).context("making a client for the lease")?;
        let identity = lease::identity(&args.pod_name);
        let elector = Elector::new(lease_client, &args.namespace, &args.lease_name, identity, lease_settings)?;
        let watchdog = elector.watchdog();
        health.watch("lease", Arc::new(move || watchdog.check()));
        (elector.fence(), elector.leadership(), tracker.spawn(elector.run(release.clone())))
    } else {
        let (fence, leadership, ended) = lease::alone(release.clone());
        (fence, leadership, tracker.spawn(ended))
    };

    let leading = leadership.wait_for(|state| *state == lease::Leadership::Leading);
    let leads = matches!(stop.run_until_cancelled(leading).await, Some(Ok(_)));
    let mut result = Ok(());
    if leads {
        tracing::info!(namespace = args.namespace, lease = args.leader_elect.then_some(args.lease_name), "leading");
        metrics.leads(true);
        let running = controller::run(client, settings, fence, leadership, metrics.clone(), clock, stop.clone());
        result = running.await;
        metrics.leads(false);
    }
    health.stopping();
    release.cancel();
    let ended = electing.await.context("the leader elector has ended")?;
    last.cancel();
    stop.cancel();
    tracker.close();
    tracker.wait().await;
    tracing::info!(lost = ended == Ended::Lost, "stopped");
    result?;
    Ok(ExitCode::SUCCESS)
}

/// Cancels `stop` at the first signal, from which on the process is not ready; a second one ends the process at once.
fn signals(
    stop: CancellationToken,
    last: CancellationToken,
    health: Health,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let mut count = 0;
        loop {
            tokio::select! {
                () = last.cancelled() => return,
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            count += 1;
            health.stopping();
            stop.cancel();
            if count > 1 {
                #[expect(clippy::exit, reason = "a second signal asks for exactly this")]
                std::process::exit(1);
            }
        }
    })
}
