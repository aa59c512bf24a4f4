//! The update graph of one channel: versions, and which upgrade leads from one to another.
//!
//! Format: <https://github.com/openshift/cincinnati/blob/master/docs/design/openshift.md>. Besides its plain edges, which are
//! recommended for every cluster, a graph has conditional ones, which are recommended unless a known risk applies to the
//! cluster. They are kept apart: a path prefers plain edges and takes conditional ones only where nothing else leads on, with
//! the names of the risks. An answer with one invalid version is refused as a whole, since the indexes of its edges mean
//! nothing without it. Cycles are harmless; a conditional edge to a version that is not in the channel is left out.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::VecDeque;

use semver::Version;
use serde::Deserialize;

pub use crate::request::Product;

/// The most versions of a graph; the largest channels have a few hundred.
const MAX_NODES: usize = 50_000;
/// The most edges of each kind.
const MAX_EDGES: usize = 2_000_000;

/// Names a graph: what the update service is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GraphKey {
    /// Whose update service.
    pub product: Product,
    /// Architecture in Go's spelling, or `multi`.
    pub architecture: String,
    /// The channel, such as `stable-4.18`.
    pub channel: String,
}

/// Names a version within its graph. Ascending: a greater id is a later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(u32);

/// Which edges a path may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edges {
    /// Those recommended for every cluster.
    Recommended,
    /// Those that carry risks for some clusters, too.
    Conditional,
}

/// A version of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The version.
    pub version: Version,
    /// The image of its payload, as the update service names it.
    pub payload: Box<str>,
}

/// An upgrade that is recommended unless one of the risks applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Conditional {
    from: u32,
    to: Reverse<u32>,
    /// Index into `risks`.
    group: u32,
}

/// The versions of a channel and the upgrades between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// By precedence, lowest first.
    nodes: Vec<Node>,
    /// Sorted by start, and then by end from the highest down.
    edges: Vec<(u32, Reverse<u32>)>,
    /// In the same order.
    conditional: Vec<Conditional>,
    /// The names of the risks of each group of conditional edges.
    risks: Vec<Box<[Box<str>]>>,
}

/// Why an answer is not a graph.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// Something else.
    #[error("the answer is not an update graph: {0}")]
    Form(#[from] serde_json::Error),
    /// A version outside the grammar.
    #[error("the update graph has `{text}` among its versions, which is not a version: {source}")]
    Version {
        /// What stands there.
        text: String,
        /// What is wrong with it.
        source: semver::Error,
    },
    /// One version, two payloads.
    #[error("the update graph has version {version} twice, as `{first}` and as `{second}`")]
    Twice {
        /// The version.
        version: Version,
        /// One payload.
        first: String,
        /// The other.
        second: String,
    },
    /// An edge that starts or ends nowhere.
    #[error("the update graph has an edge from its version number {from} to number {to}, but only {nodes} versions")]
    Edge {
        /// Start.
        from: u32,
        /// End.
        to: u32,
        /// How many versions there are.
        nodes: usize,
    },
    /// More than any real graph has.
    #[error("the update graph has {count} {what}; at most {most} are read")]
    TooLarge {
        /// Versions or edges.
        what: &'static str,
        /// How many.
        count: usize,
        /// The bound.
        most: usize,
    },
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    nodes: Vec<AnswerNode<'a>>,
    #[serde(default)]
    edges: Option<Vec<(u32, u32)>>,
    #[serde(default, borrow, rename = "conditionalEdges")]
    conditional: Option<Vec<AnswerGroup<'a>>>,
}

#[derive(Deserialize)]
struct AnswerNode<'a> {
    #[serde(borrow)]
    version: Cow<'a, str>,
    #[serde(borrow)]
    payload: Cow<'a, str>,
}

#[derive(Deserialize)]
struct AnswerGroup<'a> {
    #[serde(default, borrow)]
    edges: Vec<AnswerEdge<'a>>,
    #[serde(default, borrow)]
    risks: Vec<AnswerRisk<'a>>,
}

#[derive(Deserialize)]
struct AnswerEdge<'a> {
    #[serde(borrow)]
    from: Cow<'a, str>,
    #[serde(borrow)]
    to: Cow<'a, str>,
}

#[derive(Deserialize)]
struct AnswerRisk<'a> {
    #[serde(default, borrow)]
    name: Cow<'a, str>,
}

impl Graph {
    /// Reads an answer of the update service.
    ///
    /// # Errors
    /// It is something else, contradicts itself, or is larger than any real graph.
    pub fn parse(answer: &[u8]) -> Result<Self, GraphError> {
        let answer: Answer<'_> = serde_json::from_slice(answer)?;
        let edges = answer.edges.unwrap_or_default();
        let groups = answer.conditional.unwrap_or_default();
        let conditional: usize = groups.iter().map(|group| group.edges.len()).sum();
        for (what, count, most) in [
            ("versions", answer.nodes.len(), MAX_NODES),
            ("edges", edges.len(), MAX_EDGES),
            ("conditional edges", conditional, MAX_EDGES),
        ] {
            if count > most {
                return Err(GraphError::TooLarge { what, count, most });
            }
        }
        let (nodes, positions) = sorted(&answer.nodes)?;
        let mut graph = Self { nodes, ..Self::default() };
        graph.edges.reserve_exact(edges.len());
        for (from, to) in edges {
            let position = |index: u32| positions.get(usize::try_from(index).ok()?).copied();
            let (Some(start), Some(end)) = (position(from), position(to)) else {
                return Err(GraphError::Edge { from, to, nodes: positions.len() });
            };
            graph.edges.push((start, Reverse(end)));
        }
        graph.edges.sort_unstable();
        graph.edges.dedup();
        for (group, found) in (0_u32..).zip(&groups) {
            let known = |text: &str| graph.find(&Version::parse(text).ok()?);
            let edges = found.edges.iter().filter_map(|edge| Some((known(&edge.from)?, known(&edge.to)?)));
            let edges: Vec<_> =
                edges.map(|(from, to)| Conditional { from: from.0, to: Reverse(to.0), group }).collect();
            graph.conditional.extend(edges);
            graph.risks.push(found.risks.iter().map(|risk| Box::from(&*risk.name)).collect());
        }
        graph.conditional.sort_unstable();
        Ok(graph)
    }

    /// True if the channel has no versions, or does not exist: the update service does not tell them apart.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The versions, lowest first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The version with this id.
    ///
    /// # Panics
    /// The id is one of another graph.
    #[expect(clippy::indexing_slicing, reason = "ids come from the graph itself")]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The id of a version; build metadata is of no account.
    pub fn find(&self, version: &Version) -> Option<NodeId> {
        self.nodes.binary_search_by(|node| node.version.cmp_precedence(version)).ok().map(id)
    }

    /// The versions from `min` to `max`, both included, lowest first.
    pub fn range(&self, min: &Version, max: &Version) -> impl Iterator<Item = NodeId> + use<> {
        let start = self.nodes.partition_point(|node| node.version.cmp_precedence(min).is_lt());
        let end = self.nodes.partition_point(|node| node.version.cmp_precedence(max).is_le());
        (start..end).map(id)
    }

    /// The lowest version.
    pub fn lowest(&self) -> Option<NodeId> {
        (!self.is_empty()).then_some(NodeId(0))
    }

    /// The highest version.
    pub fn highest(&self) -> Option<NodeId> {
        self.nodes.len().checked_sub(1).map(id)
    }

    /// Up to two versions below and two above.
    pub fn nearest(&self, version: &Version) -> &[Node] {
        let at = self.nodes.partition_point(|node| node.version.cmp_precedence(version).is_lt());
        self.nodes.get(at.saturating_sub(2)..(at + 2).min(self.nodes.len())).unwrap_or_default()
    }

    /// The fewest upgrades that lead from one version to another, both included; of several such paths the one whose first
    /// steps are the highest.
    pub fn path(&self, from: NodeId, to: NodeId, edges: Edges) -> Option<Vec<NodeId>> {
        let parents = self.walk(from, Some(to), |node| self.next(node, edges));
        let mut path = vec![to];
        let mut at = to.0;
        while at != from.0 {
            at = (*parents.get(at as usize)?)?;
            path.push(NodeId(at));
        }
        path.reverse();
        Some(path)
    }

    /// The names of the risks of an upgrade; empty if it is recommended for every cluster.
    pub fn risks(&self, from: NodeId, to: NodeId) -> Vec<&str> {
        if self.edges.binary_search(&(from.0, Reverse(to.0))).is_ok() {
            return Vec::new();
        }
        let key = |edge: &Conditional| (edge.from, edge.to);
        let start = self.conditional.partition_point(|edge| key(edge) < (from.0, Reverse(to.0)));
        let groups = self.conditional.iter().skip(start).take_while(|edge| key(edge) == (from.0, Reverse(to.0)));
        let groups = groups.filter_map(|edge| self.risks.get(edge.group as usize));
        let mut names: Vec<_> = groups.flat_map(|names| names.iter().map(|name| &**name)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Where a way from one version to another breaks off: the last version not above `to` that upgrades from `from` reach,
    /// and the first not below `from` from which upgrades lead to `to`.
    pub fn gap(&self, from: NodeId, to: NodeId) -> (NodeId, NodeId) {
        let reached = self.walk(from, None, |node| self.next(node, Edges::Conditional));
        let mut before: Vec<Vec<u32>> = vec![Vec::new(); self.nodes.len()];
        let conditional = self.conditional.iter().map(|edge| (edge.from, edge.to));
        for (start, Reverse(end)) in self.edges.iter().copied().chain(conditional) {
            if let Some(before) = before.get_mut(end as usize) {
                before.push(start);
            }
        }
        let leading = self.walk(to, None, |node| before.get(node as usize).into_iter().flatten().copied());
        let among = |found: &[Option<u32>], end: NodeId| {
            let (low, high) = (from.min(to), from.max(to));
            let inside = (low.0..=high.0).map(NodeId);
            inside
                .filter(|node| *node == end || found.get(node.0 as usize).is_some_and(Option::is_some))
                .collect::<Vec<_>>()
        };
        (among(&reached, from).pop().unwrap_or(from), among(&leading, to).first().copied().unwrap_or(to))
    }

    /// Breadth first: from where each version was reached first. Ends at `goal`.
    fn walk<I: Iterator<Item = u32>>(
        &self,
        start: NodeId,
        goal: Option<NodeId>,
        next: impl Fn(u32) -> I,
    ) -> Vec<Option<u32>> {
        let mut parents = vec![None; self.nodes.len()];
        let mut open = VecDeque::from([start.0]);
        while let Some(at) = open.pop_front() {
            for neighbour in next(at).filter(|neighbour| *neighbour != start.0) {
                if let Some(parent @ None) = parents.get_mut(neighbour as usize) {
                    *parent = Some(at);
                    if goal == Some(NodeId(neighbour)) {
                        return parents;
                    }
                    open.push_back(neighbour);
                }
            }
        }
        parents
    }

    /// Where upgrades lead from here, the highest first.
    fn next(&self, from: u32, edges: Edges) -> impl Iterator<Item = u32> {
        let start = self.edges.partition_point(|(start, _)| *start < from);
        let plain = self.edges.iter().skip(start).take_while(move |(start, _)| *start == from).map(|(_, end)| end.0);
        let start = match edges {
            Edges::Recommended => self.conditional.len(),
            Edges::Conditional => self.conditional.partition_point(|edge| edge.from < from),
        };
        let risky = self.conditional.iter().skip(start).take_while(move |edge| edge.from == from).map(|edge| edge.to.0);
        merged(plain, risky)
    }
}

/// Two descending sequences as one.
fn merged(one: impl Iterator<Item = u32>, other: impl Iterator<Item = u32>) -> impl Iterator<Item = u32> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || if one.peek() >= other.peek() { one.next() } else { other.next() })
}

/// The id at a position; positions are bounded by [`MAX_NODES`].
fn id(position: usize) -> NodeId {
    NodeId(u32::try_from(position).unwrap_or(u32::MAX))
}

/// The versions in order, and for each of the answer where it is among them.
fn sorted(answer: &[AnswerNode<'_>]) -> Result<(Vec<Node>, Vec<u32>), GraphError> {
    let mut found = Vec::with_capacity(answer.len());
    for (index, node) in answer.iter().enumerate() {
        let version = Version::parse(&node.version)
            .map_err(|source| GraphError::Version { text: crate::failure::cut(&node.version, 64), source })?;
        found.push((version, index));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp_precedence(b));
    let mut nodes: Vec<Node> = Vec::with_capacity(found.len());
    let mut positions = vec![0; found.len()];
    for (version, index) in found {
        let payload = answer.get(index).map(|node| &*node.payload).unwrap_or_default();
        match nodes.last() {
            Some(last) if last.version.cmp_precedence(&version).is_eq() => {
                if *last.payload != *payload {
                    let (first, second) = (last.payload.to_string(), payload.to_owned());
                    return Err(GraphError::Twice { version, first, second });
                }
            }
            _ => nodes.push(Node { version, payload: payload.into() }),
        }
        if let Some(position) = positions.get_mut(index) {
            *position = id(nodes.len() - 1).0;
        }
    }
    Ok((nodes, positions))
}

#[cfg(test)]
pub(crate) mod testing {
    use serde_json::json;

    use super::*;
    use crate::oci::Digest;

    /// The payload that made-up graphs have for a version.
    pub(crate) fn payload(version: &str) -> String {
        format!("quay.io/openshift-release-dev/ocp-release@{}", Digest::of(version.as_bytes()))
    }

    /// A graph of these versions, with edges by index, and conditional edges by version that carry the risk `Risky`.
    pub(crate) fn graph(versions: &[&str], edges: &[(usize, usize)], conditional: &[(&str, &str)]) -> Graph {
        let nodes: Vec<_> = versions
            .iter()
            .map(|version| json!({"version": version, "payload": payload(version), "metadata": {}}))
            .collect();
        let risky: Vec<_> = conditional.iter().map(|(from, to)| json!({"from": from, "to": to})).collect();
        let conditional = json!([{"edges": risky, "risks": [{"name": "Risky", "url": "u", "message": "m"}]}]);
        let answer = json!({"version": 1, "nodes": nodes, "edges": edges, "conditionalEdges": conditional});
        Graph::parse(answer.to_string().as_bytes()).unwrap()
    }

    /// The graphs of E28 to E44.
    pub(crate) fn small(channel: &str) -> Graph {
        let zero = ["4.0.0-4", "4.0.0-5", "4.0.0-6", "4.0.0-0.okd-0", "4.0.0-7", "4.0.0-8"];
        let edges = [(0, 1), (1, 2), (2, 4), (2, 5), (4, 5)];
        match channel {
            "stable-4.0" => graph(&zero, &edges, &[]),
            "stable-4.1" => graph(&[&zero[..], &["4.1.0-6"]].concat(), &[&edges[..], &[(5, 6)]].concat(), &[]),
            "stable-4.2" => graph(&["4.1.0-6", "4.2.0-2", "4.2.0-3", "4.2.0-5"], &[(0, 2), (1, 2), (2, 3)], &[]),
            "stable-4.3" => graph(&["4.3.0", "4.3.1"], &[(0, 1)], &[]),
            "fast-4.3" => graph(&["4.2.0-5", "4.3.0", "4.3.1", "4.3.2"], &[(0, 1), (1, 2), (2, 3)], &[]),
            _ => graph(&[], &[], &[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::testing::{graph, small};
    use super::*;

    fn parse(answer: &Value) -> Result<Graph, GraphError> {
        Graph::parse(answer.to_string().as_bytes())
    }

    fn at(graph: &Graph, version: &str) -> NodeId {
        graph.find(&version.parse().unwrap()).unwrap()
    }

    fn path(graph: &Graph, from: &str, to: &str, edges: Edges) -> Option<Vec<String>> {
        let path = graph.path(at(graph, from), at(graph, to), edges)?;
        Some(path.into_iter().map(|id| graph.node(id).version.to_string()).collect())
    }

    #[test]
    fn shortest_paths_are_those_of_oc_mirror() {
        let stable = small("stable-4.0");
        let plain = |from, to| path(&stable, from, to, Edges::Recommended);
        // E28 to E30.
        assert_eq!(plain("4.0.0-4", "4.0.0-5").unwrap(), ["4.0.0-4", "4.0.0-5"]);
        assert_eq!(plain("4.0.0-4", "4.0.0-8").unwrap(), ["4.0.0-4", "4.0.0-5", "4.0.0-6", "4.0.0-8"]);
        assert_eq!(plain("4.0.0-4", "4.0.0-0.okd-0"), None);
        assert_eq!(plain("4.0.0-4", "4.0.0-4").unwrap(), ["4.0.0-4"]);
        // E32, E33.
        let version = |id: Option<NodeId>| id.map(|id| stable.node(id).version.to_string());
        assert_eq!(version(stable.lowest()).unwrap(), "4.0.0-0.okd-0");
        assert_eq!(version(stable.highest()).unwrap(), "4.0.0-8");
        assert_eq!((small("empty-4.0").lowest(), small("empty-4.0").is_empty()), (None, true));
    }

    #[test]
    fn of_equally_short_paths_the_highest_steps_are_taken() {
        let graph = graph(&["4.1.0", "4.1.1", "4.1.2", "4.1.3"], &[(0, 1), (0, 2), (1, 3), (2, 3)], &[]);
        assert_eq!(path(&graph, "4.1.0", "4.1.3", Edges::Recommended).unwrap(), ["4.1.0", "4.1.2", "4.1.3"]);
    }

    #[test]
    fn conditional_edges_are_apart_and_name_their_risks() {
        let risky = [("4.1.0", "4.1.2"), ("4.1.0", "4.1.1"), ("4.1.1", "4.9.9")];
        let graph = graph(&["4.1.0", "4.1.1", "4.1.2"], &[(0, 1)], &risky);
        assert_eq!(path(&graph, "4.1.0", "4.1.2", Edges::Recommended), None);
        assert_eq!(path(&graph, "4.1.0", "4.1.2", Edges::Conditional).unwrap(), ["4.1.0", "4.1.2"]);
        assert_eq!(graph.risks(at(&graph, "4.1.0"), at(&graph, "4.1.2")), ["Risky"]);
        assert!(graph.risks(at(&graph, "4.1.0"), at(&graph, "4.1.1")).is_empty());
    }

    #[test]
    fn a_gap_is_between_what_is_reached_and_what_leads_on() {
        let versions = ["4.1.0", "4.1.1", "4.1.2", "4.1.3", "4.1.4"];
        let graph = graph(&versions, &[(0, 1), (0, 2), (3, 4), (1, 0)], &[]);
        let (reached, leads) = graph.gap(at(&graph, "4.1.0"), at(&graph, "4.1.4"));
        assert_eq!((reached, leads), (at(&graph, "4.1.2"), at(&graph, "4.1.3")));
    }

    #[test]
    fn cycles_end() {
        let graph = graph(&["4.1.0", "4.1.1", "4.1.2"], &[(0, 0), (0, 1), (1, 0)], &[("4.1.1", "4.1.1")]);
        assert_eq!(path(&graph, "4.1.0", "4.1.2", Edges::Conditional), None);
        assert_eq!(path(&graph, "4.1.1", "4.1.0", Edges::Recommended).unwrap(), ["4.1.1", "4.1.0"]);
    }

    #[test]
    fn an_answer_that_is_no_graph_is_refused_with_a_sentence() {
        let node = |version: &str, payload: &str| json!({"version": version, "payload": payload});
        for (answer, text) in [
            // E43.
            (json!({"nodes": [node("4.0.0", "a"), node("v4.0.0-0.1", "b")]}), "`v4.0.0-0.1`"),
            (json!({"nodes": [node("4-0-0+0.1", "a")]}), "`4-0-0+0.1`"),
            (json!({"nodes": [node("4.0.0", "a")], "edges": [[0, 1]]}), "to number 1, but only 1 versions"),
            (json!({"nodes": [node("4.0.0", "a"), node("4.0.0", "b")]}), "4.0.0 twice, as `a` and as `b`"),
            (json!({"kind": "invalid_params", "value": "x"}), "not an update graph: missing field `nodes`"),
        ] {
            let error = parse(&answer).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        let error = Graph::parse(b"<html><body>Bad gateway</body></html>").unwrap_err().to_string();
        assert!(error.starts_with("the answer is not an update graph: expected value"), "{error}");
        let many: Vec<_> = (0..=MAX_NODES).map(|minor| node(&format!("4.{minor}.0"), "a")).collect();
        assert!(parse(&json!({"nodes": many})).unwrap_err().to_string().contains("at most 50000"));
        let twice =
            parse(&json!({"nodes": [node("4.0.1", "a"), node("4.0.0", "b"), node("4.0.1", "a")], "edges": [[1, 2]]}));
        assert_eq!(path(&twice.unwrap(), "4.0.0", "4.0.1", Edges::Recommended).unwrap().len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn a_path_is_found_exactly_if_one_exists_and_takes_only_edges(
            edges in proptest::collection::vec((0_usize..12, 0_usize..12), 0..40),
        ) {
            let names: Vec<_> = (0..12).map(|patch| format!("4.1.{patch}")).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let graph = graph(&names, &edges, &[]);
            let mut reached = [false; 12];
            reached[3] = true;
            for _ in 0..12 {
                for (from, to) in &edges {
                    reached[*to] |= reached[*from];
                }
            }
            for (target, reached) in reached.iter().enumerate() {
                let found = graph.path(NodeId(3), id(target), Edges::Recommended);
                proptest::prop_assert_eq!(found.is_some(), *reached);
                for step in found.unwrap_or_default().windows(2) {
                    proptest::prop_assert!(edges.contains(&(step[0].0 as usize, step[1].0 as usize)));
                }
            }
        }
    }
}
