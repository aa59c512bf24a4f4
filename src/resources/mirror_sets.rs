//! From a plan to mirror rules: which source is found where in the target.
//!
//! A rule names a namespace when source and target path end alike by whole components, and a repository otherwise. Nodes
//! apply a rule to everything below its source, and only the most specific one; so a rule for a namespace is made only if
//! every planned image below it lies below its mirror at the same path or has a narrower rule of its own, and one for a whole
//! host, or for a source that may not be contacted, only if all of them lie there. None is made for a namespace of the target
//! registry itself, whose own names must keep their meaning.
//!
//! Scopes follow from the plan alone, never from what was copied: a failure delays a rule and does not reshape it.

use std::collections::{BTreeMap, BTreeSet};

use super::MirrorKind;
use super::merge::within;
use crate::api::MirrorSourcePolicy;
use crate::oci::Reference;
use crate::plan::{Category, Plan};

/// How wide rules may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// As wide as is right.
    Widest,
    /// One rule for each repository.
    Repository,
}

/// One source, one mirror.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The mirror set it belongs to.
    pub category: Category,
    /// What nodes are asked for.
    pub source: String,
    /// Where they find it.
    pub mirror: String,
    /// How many images are behind it: planned ones that nodes would look for through it.
    pub images: usize,
    /// How many of them are not known to be in the target. The rule may be written only when there are none.
    pub missing: usize,
}

impl Rule {
    /// True if everything behind it is in the target.
    pub fn ready(&self) -> bool {
        self.missing == 0
    }
}

/// The rules of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Sorted by category, source and mirror.
    pub rules: Vec<Rule>,
    /// Images whose source or mirror a mirror set cannot express, sorted.
    pub inexpressible: Vec<String>,
}

/// One name that leads to one place in the target.
struct Use {
    category: Category,
    source: String,
    mirror: String,
    by_digest: bool,
    by_tag: bool,
    verified: bool,
}

/// A name that could not be resolved: nobody knows where it belongs.
struct Unknown {
    source: String,
    by_digest: bool,
    by_tag: bool,
}

/// The rules for pulls of one `kind`.
///
/// `verified` are the indexes of the items that are in the target. With [`MirrorSourcePolicy::NeverContactSource`] a rule
/// stops all other pulls of its source, so everything below it counts as behind it, by digest and by tag.
///
/// `standing` are sources that have rules already and keep them. Where one of them is narrower than a rule that is made now,
/// it would hide that rule, so what lies below it gets a rule of its own there.
pub fn rules(
    plan: &Plan,
    verified: &BTreeSet<usize>,
    kind: MirrorKind,
    policy: MirrorSourcePolicy,
    scope: Scope,
    standing: &BTreeSet<String>,
) -> Rules {
    let (uses, inexpressible) = uses(plan, verified);
    let unknown = unknown(plan);
    let mut homes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for found in &uses {
        homes.entry(&found.source).or_default().insert(&found.mirror);
    }
    let counts = |by_digest: bool, by_tag: bool| match (policy, kind) {
        (MirrorSourcePolicy::NeverContactSource, _) => true,
        (_, MirrorKind::Digest) => by_digest,
        (_, MirrorKind::Tag) => by_tag,
    };
    let mut checked: BTreeMap<(&str, &str), bool> = BTreeMap::new();
    let mut made: Vec<(&Use, &str, &str)> = Vec::new();
    for found in &uses {
        let wide = widened(&found.source, &found.mirror).filter(|_| scope == Scope::Widest);
        let wide = wide.filter(|(source, mirror)| {
            let strict = policy == MirrorSourcePolicy::NeverContactSource || !source.contains('/');
            *checked.entry((source, mirror)).or_insert_with(|| right(&homes, source, mirror, strict))
        });
        // Nodes look at the source itself anyway, so a rule from it to itself is none.
        let (source, mirror) = wide.unwrap_or((&found.source, &found.mirror));
        if source != mirror {
            made.push((found, source, mirror));
        }
    }
    // Rules of the other kind hide those of this one, too.
    let hiding: BTreeSet<&str> =
        made.iter().map(|(_, source, _)| *source).chain(standing.iter().map(String::as_str)).collect();
    // A rule may be made for a repository and for what lies below it; it is then as wide as the wider of the two.
    let mut scopes: BTreeMap<(Category, String, String), bool> = BTreeMap::new();
    for (found, source, mirror) in made {
        if !(if kind == MirrorKind::Digest { found.by_digest } else { found.by_tag }) {
            continue;
        }
        let below = found.source.get(source.len()..).unwrap_or_default();
        let wide = !below.is_empty();
        *scopes.entry((found.category, source.to_owned(), mirror.to_owned())).or_default() |= wide;
        for at in below.match_indices('/').map(|(at, _)| at).chain([below.len()]).filter(|at| *at > 0) {
            let rest = below.get(..at).unwrap_or_default();
            let narrower = format!("{source}{rest}");
            if hiding.contains(narrower.as_str()) {
                scopes.insert((found.category, narrower, format!("{mirror}{rest}")), true);
            }
        }
    }
    let rule = |((category, source, mirror), wide): ((Category, String, String), bool)| {
        let behind = |found: &&Use| {
            within(&found.source, &source)
                && (found.source != source || found.mirror == mirror)
                && counts(found.by_digest, found.by_tag)
        };
        // What could not be resolved may belong elsewhere, and then the wide rule would be wrong.
        let lost = |lost: &&Unknown| within(&lost.source, &source) && (wide || counts(lost.by_digest, lost.by_tag));
        let lost = unknown.iter().filter(lost).count();
        let start = uses.partition_point(|found| found.source < source);
        let below = uses.iter().skip(start).take_while(|found| found.source.starts_with(&source)).filter(behind);
        let (images, missing) =
            below.fold((lost, lost), |(all, missing), found| (all + 1, missing + usize::from(!found.verified)));
        Rule { category, source, mirror, images, missing }
    };
    Rules { rules: scopes.into_iter().map(rule).collect(), inexpressible }
}

fn uses(plan: &Plan, verified: &BTreeSet<usize>) -> (Vec<Use>, Vec<String>) {
    let mut uses = Vec::new();
    let mut inexpressible = BTreeSet::new();
    for (index, item) in plan.items.iter().enumerate() {
        let mirror = item.destination.repository();
        for asked in item.asked.iter().filter(|asked| asked.category != Category::Direct) {
            let source = asked.named.repository();
            if source.registry().is_ipv6() || mirror.registry().is_ipv6() {
                inexpressible.insert(asked.origin.name.clone());
                continue;
            }
            uses.push(Use {
                category: asked.category,
                source: source.to_string(),
                mirror: mirror.to_string(),
                by_digest: asked.named.digest().is_some(),
                by_tag: asked.named.tag().is_some(),
                verified: verified.contains(&index),
            });
        }
    }
    uses.sort_by(|a, b| a.source.cmp(&b.source));
    (uses, inexpressible.into_iter().collect())
}

fn unknown(plan: &Plan) -> Vec<Unknown> {
    let parsed = plan.failures.iter().filter_map(|(origin, _)| origin.name.parse::<Reference>().ok());
    parsed
        .map(|named| Unknown {
            source: named.repository().to_string(),
            by_digest: named.digest().is_some(),
            by_tag: named.tag().is_some(),
        })
        .collect()
}

/// Source and mirror without their last component, if the path of the mirror ends in the whole path of the source.
fn widened<'a>(source: &'a str, mirror: &'a str) -> Option<(&'a str, &'a str)> {
    let (host, path) = source.split_once('/')?;
    let (target, below) = mirror.split_once('/')?;
    let alike = below.strip_suffix(path).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
    if !alike || host == target {
        return None;
    }
    Some((source.rsplit_once('/')?.0, mirror.rsplit_once('/')?.0))
}

/// True if everything planned below `source` lies below `mirror` at the same path; unless `strict`, also what gets a narrower
/// rule may lie elsewhere.
fn right(homes: &BTreeMap<&str, BTreeSet<&str>>, source: &str, mirror: &str, strict: bool) -> bool {
    let below = homes.range(source..).take_while(|(name, _)| name.starts_with(source));
    below.filter(|(name, _)| within(name, source)).all(|(name, places)| {
        let rest = name.strip_prefix(source).unwrap_or_default();
        // The rule of such a place is as wide as this one, and would be a second mirror of it.
        let rival = |place: &str| widened(name, place).is_some_and(|(wide, _)| wide == source);
        places
            .iter()
            .all(|place| place.strip_prefix(mirror) == Some(rest) || !strict && *name != source && !rival(place))
    })
}
