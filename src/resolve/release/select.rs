//! Which releases: from channels to versions and their payloads.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;

use crate::failure::{Failure, Reason};
use crate::request::{Product, ReleaseChannel, Versions};
use crate::resolve::graph::{Edges, Graph, GraphKey, NodeId};

/// What is known of the graphs.
pub(super) trait Graphs {
    /// A graph, or why there is none; nothing if nobody has asked yet.
    fn graph(&self, key: &GraphKey) -> Option<Result<&Graph, &Failure>>;
}

/// A release that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) version: Version,
    /// The image, as the update service names it.
    pub(super) payload: String,
    pub(super) product: Product,
    /// In Go's spelling, or `multi`.
    pub(super) architecture: String,
    /// The channels that it was found in.
    pub(super) channels: BTreeSet<String>,
}

/// What was found for all channels of one architecture.
#[derive(Debug, Default)]
pub(super) struct Selected {
    /// By payload.
    pub(super) chosen: BTreeMap<String, Chosen>,
    /// By the name of the channel.
    pub(super) failures: Vec<(String, Failure)>,
    /// What is worth knowing.
    pub(super) notes: Vec<String>,
}

/// More graphs are needed.
pub(super) struct More(pub(super) BTreeSet<GraphKey>);

/// The bounds that a channel's versions lie in.
struct Bounds<'a> {
    channel: &'a str,
    min: Version,
    max: Version,
}

pub(super) fn select(channels: &[ReleaseChannel], architecture: &str, graphs: &dyn Graphs) -> Result<Selected, More> {
    let key = |product: Product, channel: &str| GraphKey {
        product,
        architecture: architecture.to_owned(),
        channel: channel.to_owned(),
    };
    let keys = channels.iter().map(|channel| key(channel.product, &channel.name));
    let unasked: BTreeSet<_> = keys.filter(|key| graphs.graph(key).is_none()).collect();
    if !unasked.is_empty() {
        return Err(More(unasked));
    }
    let mut selected = Selected::default();
    let mut bounds = Vec::new();
    for channel in channels {
        let graph = match graphs.graph(&key(channel.product, &channel.name)) {
            Some(Ok(graph)) => graph,
            Some(Err(failure)) => {
                selected.failures.push((channel.name.clone(), failure.clone()));
                continue;
            }
            None => continue,
        };
        let found = of_channel(channel, graph);
        for node in found.nodes {
            selected.add(channel.product, architecture, &channel.name, graph, node);
        }
        if let Some(failure) = found.failure {
            selected.failures.push((channel.name.clone(), failure));
        }
        // Ways from channel to channel are known to OpenShift alone.
        if let Some((min, max)) = found.bounds.filter(|_| channel.product == Product::Ocp) {
            bounds.push(Bounds { channel: &channel.name, min, max });
        }
    }
    if bounds.len() > 1 {
        let way = Way { graphs, key: &|channel: &str| key(Product::Ocp, channel) };
        way.across(&bounds, architecture, &mut selected)?;
    }
    Ok(selected)
}

impl Selected {
    fn add(&mut self, product: Product, architecture: &str, channel: &str, graph: &Graph, node: NodeId) {
        let node = graph.node(node);
        let chosen = self.chosen.entry(node.payload.to_string()).or_insert_with(|| Chosen {
            version: node.version.clone(),
            payload: node.payload.to_string(),
            product,
            architecture: architecture.to_owned(),
            channels: BTreeSet::new(),
        });
        chosen.channels.insert(channel.to_owned());
    }
}

/// What one channel gives by itself.
#[derive(Default)]
struct Found {
    nodes: Vec<NodeId>,
    bounds: Option<(Version, Version)>,
    failure: Option<Failure>,
}

impl Found {
    fn failed(message: String) -> Self {
        Self { failure: Some(Failure::permanent(Reason::ReleaseNotFound, message)), ..Self::default() }
    }
}

fn of_channel(channel: &ReleaseChannel, graph: &Graph) -> Found {
    let name = &channel.name;
    let (Some(lowest), Some(highest)) = (graph.lowest(), graph.highest()) else {
        return Found::failed(format!(
            "the update service has no versions in channel `{name}`: check the name and the architecture"
        ));
    };
    let version = |node: NodeId| graph.node(node).version.clone();
    match &channel.versions {
        Versions::Newest { max } => {
            let newest = match max {
                None => Some(highest),
                Some(max) => graph.range(&version(lowest), max).last(),
            };
            match (newest, max) {
                (Some(newest), _) => {
                    let bounds = Some((version(newest), version(newest)));
                    Found { nodes: vec![newest], bounds, failure: None }
                }
                (None, Some(max)) => {
                    Found::failed(format!("channel `{name}` has no version up to {max}; {}", nearest(graph, max)))
                }
                (None, None) => Found::default(),
            }
        }
        Versions::Range { min, max } => {
            let (min, max) =
                (min.clone().unwrap_or_else(|| version(lowest)), max.clone().unwrap_or_else(|| version(highest)));
            Found { nodes: graph.range(&min, &max).collect(), bounds: Some((min, max)), failure: None }
        }
        Versions::ShortestPath { min, max } => {
            let ends = [min, max].map(|version| graph.find(version).ok_or(version));
            let (from, to) = match ends {
                [Ok(from), Ok(to)] => (from, to),
                [Err(missing), _] | [_, Err(missing)] => {
                    return Found::failed(format!(
                        "channel `{name}` has no version {missing}; {}",
                        nearest(graph, missing)
                    ));
                }
            };
            let bounds = Some((min.clone(), max.clone()));
            match shortest(graph, from, to) {
                Some(nodes) => Found { nodes, bounds, failure: None },
                None => {
                    let failure = Failure::permanent(Reason::ReleaseNotFound, no_way(graph, name, from, to));
                    Found { nodes: vec![from, to], bounds, failure: Some(failure) }
                }
            }
        }
    }
}

/// The fewest upgrades; those that carry a risk for some clusters only where nothing else leads on.
fn shortest(graph: &Graph, from: NodeId, to: NodeId) -> Option<Vec<NodeId>> {
    graph.path(from, to, Edges::Recommended).or_else(|| graph.path(from, to, Edges::Conditional))
}

fn nearest(graph: &Graph, version: &Version) -> String {
    let near: Vec<_> = graph.nearest(version).iter().map(|node| node.version.to_string()).collect();
    format!("the nearest are {}", near.join(", "))
}

fn no_way(graph: &Graph, channel: &str, from: NodeId, to: NodeId) -> String {
    let (reached, leading) = graph.gap(from, to);
    let version = |node: NodeId| graph.node(node).version.to_string();
    format!(
        "no upgrades lead from {} to {} in channel `{channel}`: they end at {}, and those to the target begin at {}",
        version(from),
        version(to),
        version(reached),
        version(leading)
    )
}

/// The way from the lowest version of all channels to the highest.
struct Way<'a> {
    graphs: &'a dyn Graphs,
    key: &'a dyn Fn(&str) -> GraphKey,
}

impl Way<'_> {
    fn graph(&self, channel: &str) -> Result<Result<&Graph, &Failure>, More> {
        let key = (self.key)(channel);
        self.graphs.graph(&key).ok_or_else(|| More(BTreeSet::from([key])))
    }

    /// Adds what lies on the way, as oc-mirror does whenever there are several channels.
    fn across(&self, bounds: &[Bounds<'_>], architecture: &str, selected: &mut Selected) -> Result<(), More> {
        let (Some(first), Some(last)) = (
            bounds.iter().min_by(|a, b| a.min.cmp_precedence(&b.min)),
            // The first of several, as for the lowest.
            bounds.iter().rev().max_by(|a, b| a.max.cmp_precedence(&b.max)),
        ) else {
            return Ok(());
        };
        let (Some((prefix, mut at)), Some((last_prefix, end))) = (minor(first.channel), minor(last.channel)) else {
            if first.channel == last.channel {
                return self.leg(first.channel, &first.min, &last.max, architecture, selected).map(drop);
            }
            selected.notes.push(format!(
                "`{}` and `{}` are not both of the form PREFIX-MAJOR.MINOR: whether upgrades lead from one to the other is not known",
                first.channel, last.channel
            ));
            return Ok(());
        };
        if first.channel == last.channel || (at == end && prefix != last_prefix) {
            return self.leg(last.channel, &first.min, &last.max, architecture, selected).map(drop);
        }
        // First up to the highest of the channel itself, then channel by channel.
        let mut from = first.min.clone();
        let Some(goal) = self.highest(first.channel, selected)? else { return Ok(()) };
        if !self.leg(first.channel, &from, &goal, architecture, selected)? {
            return Ok(());
        }
        from = goal;
        while at < end {
            at.1 += 1;
            let is_last = at >= end;
            let channel = if is_last { last.channel.to_owned() } else { format!("{prefix}-{}.{}", at.0, at.1) };
            let goal = if is_last { Some(last.max.clone()) } else { self.highest(&channel, selected)? };
            let Some(goal) = goal else { return Ok(()) };
            if !self.leg(&channel, &from, &goal, architecture, selected)? {
                return Ok(());
            }
            from = goal;
        }
        Ok(())
    }

    fn highest(&self, channel: &str, selected: &mut Selected) -> Result<Option<Version>, More> {
        match self.graph(channel)? {
            Ok(graph) => match graph.highest() {
                Some(highest) => Ok(Some(graph.node(highest).version.clone())),
                None => {
                    selected
                        .notes
                        .push(format!("the way from channel to channel ends at `{channel}`, which has no versions"));
                    Ok(None)
                }
            },
            Err(failure) => {
                selected
                    .notes
                    .push(format!("the way from channel to channel ends at `{channel}`: {}", failure.message));
                Ok(None)
            }
        }
    }

    /// The upgrades within one channel; false if they lead nowhere, which is noted.
    fn leg(
        &self,
        channel: &str,
        from: &Version,
        to: &Version,
        architecture: &str,
        selected: &mut Selected,
    ) -> Result<bool, More> {
        let Ok(graph) = self.graph(channel)? else { return Ok(false) };
        let (start, goal) = (graph.find(from), graph.find(to));
        if let Some(goal) = goal {
            selected.add(Product::Ocp, architecture, channel, graph, goal);
        }
        let (Some(start), Some(goal)) = (start, goal) else {
            let missing = if start.is_none() { from } else { to };
            selected.notes.push(format!(
                "no upgrades lead from {from} to {to}: channel `{channel}` has no version {missing}; {}",
                nearest(graph, missing)
            ));
            return Ok(false);
        };
        selected.add(Product::Ocp, architecture, channel, graph, start);
        let Some(nodes) = shortest(graph, start, goal) else {
            selected.notes.push(no_way(graph, channel, start, goal));
            return Ok(true);
        };
        for node in nodes {
            selected.add(Product::Ocp, architecture, channel, graph, node);
        }
        Ok(true)
    }
}

/// `stable` and 4.18 of `stable-4.18`.
fn minor(channel: &str) -> Option<(&str, (u64, u64))> {
    let (prefix, numbers) = channel.rsplit_once('-')?;
    let (major, minor) = numbers.split_once('.')?;
    Some((prefix, (major.parse().ok()?, minor.parse().ok()?)))
}
