//! Writes events about objects.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _, ResourceExt as _};

use super::events::{EventKind, EventNote, EventReason};
use crate::api::{FIELD_MANAGER, ImageSetMirror};

/// An event is not worth waiting longer for.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Publishes events; one that cannot be written is logged and lost, since nothing depends on it.
pub(super) struct Publisher {
    recorder: Recorder,
    /// By object, reason and action, what was last told as news.
    told: Mutex<BTreeMap<(String, EventReason, String), String>>,
}

impl Publisher {
    /// Events reported by `instance`, the pod.
    pub(super) fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some(instance.to_owned()) };
        Self { recorder: Recorder::new(client, reporter), told: Mutex::default() }
    }

    /// Publishes an event about something that lasts, when this process first sees it.
    pub(super) async fn publish_news(&self, object: &ImageSetMirror, note: EventNote) {
        let known = {
            let key = (object.uid().unwrap_or_default(), note.reason, note.action.clone());
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.insert(key, note.note.clone()).as_ref() == Some(&note.note)
        };
        if !known {
            self.publish(object, note).await;
        }
    }

    /// Forgets what was told about an object.
    pub(super) fn forget(&self, uid: &str) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).retain(|(object, _, _), _| object != uid);
    }

    /// Publishes one event about `object`.
    pub(super) async fn publish(&self, object: &ImageSetMirror, note: EventNote) {
        let reason = note.reason.as_str();
        let event = Event {
            type_: match note.kind {
                EventKind::Normal => EventType::Normal,
                EventKind::Warning => EventType::Warning,
            },
            reason: reason.to_owned(),
            note: Some(note.note),
            action: note.action,
            secondary: None,
        };
        let reference = object.object_ref(&());
        match tokio::time::timeout(TIMEOUT, self.recorder.publish(&event, &reference)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(reason, error = super::apply::describe(&error), "event not written"),
            Err(_elapsed) => tracing::warn!(reason, "event not written in time"),
        }
    }

    /// What was written stays although its object wanted it removed.
    pub(super) async fn orphaned(&self, object: &ImageSetMirror, left: &str, why: &str) {
        tracing::error!(object = object.name_any(), namespace = object.namespace(), left, why, "cleanup abandoned");
        let note = format!("stays in the cluster, because {why}: {left}");
        self.publish_news(object, EventNote::new(EventReason::CleanupAbandoned, "Orphaned", &note)).await;
    }

    /// The finalizer is dropped although something was left.
    pub(super) async fn cleanup_abandoned(&self, object: &ImageSetMirror, left: &str) {
        tracing::error!(object = %object.object_ref(&()).name.unwrap_or_default(), left, "cleanup abandoned");
        let note = format!("gave up removing cluster objects after 30 minutes: {left}");
        self.publish(object, EventNote::new(EventReason::CleanupAbandoned, "Abandoned", &note)).await;
    }
}
