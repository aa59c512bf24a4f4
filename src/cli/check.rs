//! `check`: what `helm test` runs in the cluster. One line for each thing looked at, with what to do if it is not right.

use std::collections::BTreeSet;

use regex::Regex;

use super::output::{counted, fail, print, refuse};
use super::{CheckArgs, FAILED};
use crate::api::rbac;
use crate::check::{self, Finding, Installation};
use crate::failure::chain;

/// The value of a list that stands for an empty one.
const NONE: &str = "none";

/// Runs the command.
pub(super) async fn run(args: CheckArgs) -> u8 {
    let installation = match installation(args) {
        Ok(installation) => installation,
        Err(wrong) => return refuse(&wrong),
    };
    let config = match kube::Config::infer().await {
        Ok(config) => config,
        Err(error) => return fail(&format!("finding the API server (in a pod, or by KUBECONFIG): {}", chain(&error))),
    };
    let client = match kube::Client::try_from(config) {
        Ok(client) => client,
        Err(error) => return fail(&format!("making a client for the API server: {}", chain(&error))),
    };
    let findings = check::run(&client, &installation).await;
    let printed = print(&report(&findings));
    if findings.iter().any(|finding| finding.problem.is_some()) { FAILED } else { printed }
}

/// What the user typed, or everything that is wrong with it.
fn installation(args: CheckArgs) -> Result<Installation, Vec<String>> {
    let mut wrong = Vec::new();
    let namespaces = std::iter::once(&args.namespace).chain(&args.watch_namespaces);
    wrong.extend(namespaces.filter(|name| !is_label(name)).map(|name| format!("`{name}` is not a namespace's name")));
    let usual: Vec<&str> = rbac::OUTPUTS.iter().map(|(name, _)| *name).collect();
    let known: Vec<&str> = usual.iter().copied().chain(rbac::OPTIONAL.iter().map(|found| found.output)).collect();
    let unknown = args.outputs.iter().filter(|name| !known.contains(&name.as_str()) && *name != NONE);
    wrong.extend(unknown.map(|name| format!("--output {name}: known are {} and {NONE}", known.join(", "))));
    if let Some(url) = args.ready_url.as_ref().filter(|url| !["http", "https"].contains(&url.scheme())) {
        wrong.push(format!("--ready-url {url}: write http://SERVICE:8081/readyz"));
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let or = |list: Vec<String>, all: &[&str]| -> BTreeSet<String> {
        if list.is_empty() { all.iter().map(|name| (*name).to_owned()).collect() } else { list.into_iter().collect() }
    };
    let mut outputs = or(args.outputs, &usual);
    outputs.remove(NONE);
    Ok(Installation {
        watched: or(args.watch_namespaces, &[&args.namespace]),
        namespace: args.namespace,
        outputs,
        secrets: args.secrets.into_iter().collect(),
        lease: args.leader_elect.then_some(args.lease_name),
        ready: args.ready_url,
    })
}

fn is_label(name: &str) -> bool {
    // A wrong expression would be seen by the tests below: it refuses every name.
    Regex::new("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$").is_ok_and(|label| label.is_match(name))
}

fn report(findings: &[Finding]) -> String {
    let mut lines: Vec<String> = findings
        .iter()
        .map(|finding| match &finding.problem {
            None => format!("ok      {}", finding.what),
            Some(problem) => format!("failed  {}: {problem}", finding.what),
        })
        .collect();
    let bad = findings.iter().filter(|finding| finding.problem.is_some()).count();
    lines.push(format!("{}, {bad} failed\n", counted(findings.len(), "check")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Args, Command};
    use super::*;

    fn read(args: &[&str]) -> Result<Installation, Vec<String>> {
        let all = ["imageset-mirror", "check", "--namespace=own"].iter().chain(args);
        match Args::try_parse_from(all).unwrap().command {
            Command::Check(args) => installation(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_flags_the_defaults_of_the_controller_are_looked_at() {
        let read = read(&[]).unwrap();
        assert_eq!(read.watched, BTreeSet::from(["own".to_owned()]));
        assert_eq!(read.outputs.len(), rbac::OUTPUTS.len());
        assert_eq!(read.lease.as_deref(), Some(rbac::NAME));
    }

    #[test]
    fn without_an_election_there_is_no_lease() {
        assert_eq!(read(&["--leader-elect=false"]).unwrap().lease, None);
    }

    #[test]
    fn outputs_are_those_that_are_named() {
        let outputs = |args: &[&str]| read(args).unwrap().outputs;
        assert_eq!(outputs(&["--output=imagedigestmirrorsets"]), BTreeSet::from(["imagedigestmirrorsets".to_owned()]));
        assert!(outputs(&["--output=none"]).is_empty());
        let more = outputs(&["--output=releasesignatures", "--output=updateservices"]);
        assert_eq!(more.len(), 2);
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let args = ["--watch-namespace=Team", "--output=everything", "--ready-url=ftp://service/readyz"];
        assert_eq!(
            read(&args).unwrap_err(),
            [
                "`Team` is not a namespace's name",
                "--output everything: known are imagedigestmirrorsets, imagetagmirrorsets, releasesignatures, \
                 catalogsources, clustercatalogs, updateservices and none",
                "--ready-url ftp://service/readyz: write http://SERVICE:8081/readyz",
            ]
        );
    }

    #[test]
    fn each_thing_looked_at_has_a_line_and_the_last_one_counts() {
        let finding = |what: &str, problem: Option<&str>| Finding {
            what: what.to_owned(),
            problem: problem.map(ToOwned::to_owned),
        };
        let text = report(&[finding("one", None), finding("two", Some("do this"))]);
        assert_eq!(text, "ok      one\nfailed  two: do this\n2 checks, 1 failed\n");
    }
}
