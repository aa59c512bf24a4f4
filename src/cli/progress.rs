//! Progress of a sync for people: bars on a terminal, one line an image otherwise.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::copy::{ItemReport, Observe, Outcome};
use crate::plan::PlanItem;

/// Shows a copy as it goes, on standard error.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar over `total` images if standard error is a terminal.
    pub(super) fn new(total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            // The template is checked by a test.
            let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

const TEMPLATE: &str = "{spinner} {pos}/{len} images [{wide_bar}] {prefix} {elapsed} {wide_msg}";

/// One line about an image that is done.
fn line(report: &ItemReport) -> String {
    let destination = &report.destination;
    match &report.outcome {
        Outcome::Copied => {
            let mut what = vec![format!("{} sent", HumanBytes(report.uploaded_bytes))];
            let breaks = [(report.resumed, "resumed"), (report.retried, "begun again")];
            what.extend(breaks.iter().filter(|(times, _)| *times > 0).map(|(times, how)| format!("{times} × {how}")));
            format!("copied   {destination} ({})", what.join(", "))
        }
        Outcome::Present => format!("present  {destination}"),
        Outcome::Failed(failure) => format!("failed   {destination}: {failure}"),
        Outcome::Cancelled => format!("stopped  {destination}"),
    }
}

impl Observe for Progress {
    fn started(&self, item: &PlanItem) {
        if let Some(bar) = &self.bar {
            bar.set_message(item.destination.to_string());
        }
    }

    fn finished(&self, report: &ItemReport) {
        match &self.bar {
            Some(bar) => {
                if !report.complete() {
                    bar.println(line(report));
                }
                bar.inc(1);
            }
            None => tracing::info!("{}", line(report)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_of_the_bar_is_valid() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
