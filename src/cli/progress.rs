//! Progress of a sync for people: bars on a terminal, one line an image otherwise.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::copy::{ItemReport, Observe, Outcome};
use crate::plan::PlanItem;

/// Shows a copy as it goes, on standard error.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    /// Bytes sent, for their rate; shown as part of the bar.
    sent: ProgressBar,
    /// Cancelled by the first image that fails for good.
    fail_fast: Option<CancellationToken>,
}

impl Progress {
    /// A bar over `total` images if standard error is a terminal. `fail_fast` is cancelled by the first image that fails for
    /// good.
    pub(super) fn new(total: usize, fail_fast: Option<CancellationToken>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            // The template is checked by a test.
            let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, sent: ProgressBar::hidden(), fail_fast }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The name of an image gets what is left of the line, so that narrow terminals keep the numbers.
const TEMPLATE: &str = "{spinner} {pos}/{len} images, {prefix}, {elapsed}, about {eta} left {wide_msg}";

fn rate(sent: &ProgressBar) -> String {
    // A rate is no number of bytes, and nobody wants parts of one.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is not negative and far from 2^64"
    )]
    let per_second = sent.per_sec() as u64;
    format!("{} sent, {}/s", HumanBytes(sent.position()), HumanBytes(per_second))
}

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
            bar.set_prefix(rate(&self.sent));
            bar.set_message(item.destination.to_string());
        }
    }

    fn uploaded(&self, bytes: u64) {
        self.sent.inc(bytes);
        if let Some(bar) = &self.bar {
            bar.set_prefix(rate(&self.sent));
        }
    }

    fn finished(&self, report: &ItemReport) {
        if let (Some(stop), Outcome::Failed(failure)) = (&self.fail_fast, &report.outcome)
            && !failure.transient
        {
            stop.cancel();
        }
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
