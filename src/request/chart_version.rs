//! Which versions of a chart are meant: the constraints that Helm understands.
//!
//! The language is that of <https://github.com/Masterminds/semver#checking-version-constraints>: `1.2.3`, `^1.2`, `~1.2.3`,
//! `>=1.2 <2`, `1.2 - 1.4`, `1.x`, several of them with blanks or commas for and, with `||` for or. A version that is not released
//! yet fits only a bound that names one itself.

use semver::{Prerelease, Version};

/// What `version` of a chart says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    written: String,
    /// One of them has to fit, and all bounds of it.
    any: Vec<Vec<Bound>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    Tilde,
    Caret,
}

/// Longer ones first, since the first that fits is taken.
const OPERATORS: [(&str, Operator); 12] = [
    ("!=", Operator::NotEqual),
    ("=>", Operator::GreaterEqual),
    (">=", Operator::GreaterEqual),
    ("=<", Operator::LessEqual),
    ("<=", Operator::LessEqual),
    ("==", Operator::Equal),
    ("~>", Operator::Tilde),
    ("=", Operator::Equal),
    (">", Operator::Greater),
    ("<", Operator::Less),
    ("~", Operator::Tilde),
    ("^", Operator::Caret),
];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    operator: Operator,
    /// With zeros for what is left out.
    version: Version,
    /// How many of its numbers were written.
    numbers: usize,
}

impl Constraint {
    /// Reads a constraint.
    ///
    /// # Errors
    /// What cannot be read, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let any: Option<Vec<_>> = text.split("||").map(all).collect();
        match any {
            Some(any) => Ok(Self { written: text.to_owned(), any }),
            None => {
                Err(format!("`{text}` is not a version or a range of versions: write `1.2.3`, `^1.2` or `>=1.2 <2`"))
            }
        }
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// The one version that it names, if it does.
    pub fn exact(&self) -> Option<&Version> {
        match self.any.as_slice() {
            [all] => match all.as_slice() {
                [Bound { operator: Operator::Equal, version, numbers: 3 }] => Some(version),
                _ => None,
            },
            _ => None,
        }
    }

    /// True if `version` is meant.
    pub fn matches(&self, version: &Version) -> bool {
        self.any.iter().any(|all| all.iter().all(|bound| bound.matches(version)))
    }
}

/// A version as charts write it: a leading `v` is of no account, and numbers that are left out are zero.
pub fn loose(text: &str) -> Option<Version> {
    partial(text.trim()).map(|(version, _)| version).filter(|_| !text.is_empty())
}

fn all(text: &str) -> Option<Vec<Bound>> {
    if let Some((low, high)) = text.split_once(" - ") {
        return Some(vec![bound(&format!(">={}", low.trim()))?, bound(&format!("<={}", high.trim()))?]);
    }
    // A blank after an operator belongs to it.
    let mut joined = String::new();
    for word in text.split([' ', ',', '\t']).filter(|word| !word.is_empty()) {
        if !joined.is_empty() && !joined.ends_with(['=', '>', '<', '~', '^']) {
            joined.push(' ');
        }
        joined.push_str(word);
    }
    let bounds: Vec<_> = joined.split(' ').map(bound).collect::<Option<_>>()?;
    (!bounds.is_empty()).then_some(bounds)
}

fn bound(text: &str) -> Option<Bound> {
    let found = OPERATORS.iter().find_map(|(sign, operator)| Some((*operator, text.strip_prefix(sign)?)));
    let (operator, rest) = found.unwrap_or((Operator::Equal, text));
    let (version, numbers) = partial(rest)?;
    Some(Bound { operator, version, numbers })
}

/// A version of which numbers may be missing or written as `x`, and how many are there.
fn partial(text: &str) -> Option<(Version, usize)> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (numbers, rest) = text.split_at(text.find(['-', '+']).unwrap_or(text.len()));
    let parts: Vec<_> = numbers.split('.').collect();
    let wild = |part: &&&str| matches!(**part, "x" | "X" | "*");
    let written = parts.iter().take_while(|part| !wild(part)).count();
    if text.is_empty() || parts.len() > 3 || !parts.iter().skip(written).all(|part| wild(&part)) {
        return None;
    }
    let known: Vec<_> = parts.into_iter().take(written).chain(["0"; 3]).take(3).collect();
    Version::parse(&format!("{}{rest}", known.join("."))).ok().map(|version| (version, written))
}

impl Bound {
    fn matches(&self, version: &Version) -> bool {
        let released = |version: &Version| version.pre == Prerelease::EMPTY;
        if !released(version) && released(&self.version) {
            return self.operator == Operator::NotEqual && !self.within(version, self.numbers);
        }
        let order = version.cmp_precedence(&self.version);
        match self.operator {
            Operator::Equal if self.numbers == 3 => order.is_eq(),
            Operator::Equal => self.within(version, self.numbers),
            Operator::NotEqual if self.numbers == 3 => order.is_ne(),
            Operator::NotEqual => !self.within(version, self.numbers),
            Operator::Greater => order.is_gt() && (self.numbers == 3 || !self.within(version, self.numbers)),
            Operator::GreaterEqual => order.is_ge(),
            Operator::Less => order.is_lt(),
            Operator::LessEqual => order.is_le() || (self.numbers < 3 && self.within(version, self.numbers)),
            Operator::Tilde => order.is_ge() && self.within(version, self.numbers.min(2)),
            Operator::Caret => order.is_ge() && self.within(version, self.significant()),
        }
    }

    /// True if the first `count` numbers are the same.
    fn within(&self, version: &Version, count: usize) -> bool {
        let numbers = |version: &Version| [version.major, version.minor, version.patch];
        numbers(version).iter().zip(numbers(&self.version)).take(count).all(|(one, other)| *one == other)
    }

    /// The numbers up to the first that is not zero: a change of these may break something.
    fn significant(&self) -> usize {
        let leading = match (self.version.major, self.version.minor) {
            (0, 0) => 3,
            (0, _) => 2,
            _ => 1,
        };
        leading.min(self.numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_mean_what_helm_makes_of_them() {
        let all = ["0.0.1", "0.2.3", "0.2.9", "1.2.3", "1.2.9", "1.3.0", "1.10.0", "2.0.0", "2.1.0-rc.1", "2.1.0-rc.2"];
        for (text, expected) in [
            ("1.2.3", &["1.2.3"][..]),
            ("v1.2.3", &["1.2.3"]),
            ("=1.2", &["1.2.3", "1.2.9"]),
            ("1.2.x", &["1.2.3", "1.2.9"]),
            ("1", &["1.2.3", "1.2.9", "1.3.0", "1.10.0"]),
            ("~1.2.3", &["1.2.3", "1.2.9"]),
            ("~1", &["1.2.3", "1.2.9", "1.3.0", "1.10.0"]),
            ("^1.2.9", &["1.2.9", "1.3.0", "1.10.0"]),
            ("^0.2.3", &["0.2.3", "0.2.9"]),
            ("^0.0.1", &["0.0.1"]),
            ("^0", &["0.0.1", "0.2.3", "0.2.9"]),
            (">=1.2.9 <2", &["1.2.9", "1.3.0", "1.10.0"]),
            (">= 1.2.9, < 2", &["1.2.9", "1.3.0", "1.10.0"]),
            (">1.2", &["1.3.0", "1.10.0", "2.0.0"]),
            ("<=1.2", &["0.0.1", "0.2.3", "0.2.9", "1.2.3", "1.2.9"]),
            ("1.2.9 - 1.3", &["1.2.9", "1.3.0"]),
            ("0.0.1 || 2.0.0", &["0.0.1", "2.0.0"]),
            ("^1 !=1.3.0", &["1.2.3", "1.2.9", "1.10.0"]),
            ("*", &["0.0.1", "0.2.3", "0.2.9", "1.2.3", "1.2.9", "1.3.0", "1.10.0", "2.0.0"]),
            (">=2.1.0-rc.2", &["2.1.0-rc.2"]),
            (">=2.0.0-0", &["2.0.0", "2.1.0-rc.1", "2.1.0-rc.2"]),
            ("3", &[]),
        ] {
            let constraint = Constraint::parse(text).unwrap_or_else(|error| panic!("{error}"));
            let found: Vec<_> =
                all.iter().copied().filter(|version| constraint.matches(&version.parse().unwrap())).collect();
            assert_eq!(found, *expected, "{text}");
        }
    }

    #[test]
    fn only_a_whole_version_alone_is_exact() {
        for (text, exact) in
            [("1.2.3", true), ("v1.2.3+b", true), ("=1.2.3-rc.1", true), ("1.2", false), ("^1.2.3", false)]
        {
            assert_eq!(Constraint::parse(text).unwrap().exact().is_some(), exact, "{text}");
        }
    }

    #[test]
    fn what_is_no_constraint_is_told() {
        for text in ["", "latest", "1.2.3.4", "1.x.3", ">", "1..2", "1.2.3 ||", "01.2.3"] {
            assert!(Constraint::parse(text).unwrap_err().contains("not a version"), "{text}");
        }
    }
}
