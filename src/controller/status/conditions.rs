//! A set of conditions that keeps times of transition.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::api::limits;

use super::reason::{ConditionType, Reason};
use super::record::clean;

/// The conditions of a status, by type. Types that this build does not know are dropped.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    now: BTreeMap<ConditionType, Condition>,
    /// What they were at first: a condition that changes and changes back in between has not changed.
    first: BTreeMap<ConditionType, Condition>,
}

impl Conditions {
    pub(super) fn of(conditions: &[Condition]) -> Self {
        let known = conditions.iter().filter_map(|found| Some((ConditionType::parse(&found.type_)?, found.clone())));
        let first: BTreeMap<_, _> = known.collect();
        Self { now: first.clone(), first }
    }

    pub(super) fn is(&self, kind: ConditionType, status: &str) -> bool {
        self.now.get(&kind).is_some_and(|found| found.status == status)
    }

    pub(super) fn has(&self, kind: ConditionType) -> bool {
        self.now.contains_key(&kind)
    }

    pub(super) fn reason(&self, kind: ConditionType) -> Option<Reason> {
        Reason::parse(&self.now.get(&kind)?.reason)
    }

    pub(super) fn message(&self, kind: ConditionType) -> String {
        self.now.get(&kind).map(|found| found.message.clone()).unwrap_or_default()
    }

    pub(super) fn since(&self, kind: ConditionType) -> Option<Timestamp> {
        self.now.get(&kind).map(|found| found.last_transition_time.0)
    }

    pub(super) fn remove(&mut self, kind: ConditionType) {
        self.now.remove(&kind);
    }

    /// Sets a condition; the time of transition stays unless the status changes.
    pub(super) fn set(&mut self, kind: ConditionType, status: &str, reason: Reason, message: &str, now: Timestamp) {
        let since =
            self.first.get(&kind).filter(|found| found.status == status).map(|found| &found.last_transition_time);
        let condition = Condition {
            type_: kind.as_str().to_owned(),
            status: status.to_owned(),
            reason: reason.as_str().to_owned(),
            message: clean(message, limits::CONDITION_MESSAGE),
            last_transition_time: since.cloned().unwrap_or(Time(now)),
            observed_generation: None,
        };
        self.now.insert(kind, condition);
    }

    /// All of them, about `generation`, in the order of the types.
    pub(super) fn into_list(self, generation: i64) -> Vec<Condition> {
        self.now.into_values().map(|found| Condition { observed_generation: Some(generation), ..found }).collect()
    }
}
