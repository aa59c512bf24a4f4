//! Logs: one line per event on standard output, as JSON for machines or as text for people, and a panic hook that logs.
//!
//! JSON lines carry `time` (RFC 3339, UTC), `level`, `msg`, `target`, the event's own fields and those of the spans around it
//! (inner ones win). `info` stays readable at 30 000 images: what happens per image is `debug`.

use std::fmt;
use std::io::{self, IsTerminal as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::clock::Clock;
use crate::failure;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Json,
    /// For people; coloured on a terminal, unless `NO_COLOR` says otherwise.
    Text,
}

/// What can go wrong with logging.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not parse.
    #[error("log filter `{filter}` is not valid: give a level (`info`) or directives (`info,imageset_mirror=debug`)")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// A word in the filter is no level.
    #[error(
        "`{word}` is not a log level: write error, warn, info, debug, trace or off, or directives such as \
         `info,imageset_mirror=debug`"
    )]
    Level {
        /// The word.
        word: String,
    },
    /// Something else has installed a subscriber.
    #[error("installing the log subscriber")]
    Install(#[source] tracing_subscriber::util::TryInitError),
}

/// Installs the subscriber and the panic hook for the process. `filter` is a level or a list of `target=level` directives;
/// without one `info`, and warnings only from the HTTP stack. `to_stderr` is for commands whose output is on standard output.
pub fn install(format: Format, filter: Option<&str>, to_stderr: bool, clock: Clock) -> Result<(), Error> {
    let filter = parse_filter(filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let result = match (format, to_stderr) {
        (Format::Json, false) => registry.with(json_layer(clock, io::stdout)).try_init(),
        (Format::Json, true) => registry.with(json_layer(clock, io::stderr)).try_init(),
        (Format::Text, false) => {
            registry.with(tracing_subscriber::fmt::layer().with_ansi(coloured(io::stdout().is_terminal()))).try_init()
        }
        (Format::Text, true) => {
            let coloured = coloured(io::stderr().is_terminal());
            let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(coloured);
            registry.with(layer).try_init()
        }
    };
    result.map_err(Error::Install)?;
    log_panics();
    Ok(())
}

/// As <https://no-color.org> asks for.
fn coloured(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn parse_filter(filter: Option<&str>) -> Result<EnvFilter, Error> {
    let filter = filter.map(str::trim).filter(|filter| !filter.is_empty());
    let filter = filter.unwrap_or("info,hyper=warn,hyper_util=warn,reqwest=warn,rustls=warn,tower=warn");
    // The filter would take any other word for the name of a module, of which nobody has heard.
    let word = |part: &&str| !part.contains(['=', '[', ':']) && part.parse::<LevelFilter>().is_err();
    if let Some(word) = filter.split(',').map(str::trim).find(word) {
        return Err(Error::Level { word: word.to_owned() });
    }
    EnvFilter::try_new(filter).map_err(|source| Error::Filter { filter: filter.to_owned(), source })
}

/// A panic is one log line at `error` instead of loose text on standard error.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let message = payload.downcast_ref::<&str>().copied().map(str::to_owned);
        let message = message.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        let captured = backtrace.status() == std::backtrace::BacktraceStatus::Captured;
        let backtrace = captured.then(|| backtrace.to_string());
        tracing::error!(location, backtrace, "panic: {message}; please report this defect");
    }));
}

fn json_layer<S, W>(clock: Clock, writer: W) -> impl tracing_subscriber::Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer().fmt_fields(JsonFields).event_format(JsonEvents { clock }).with_writer(writer)
}

/// Formats the fields of a span as a JSON object, to be merged into each event's.
struct JsonFields;

impl<'writer> FormatFields<'writer> for JsonFields {
    fn format_fields<R: tracing_subscriber::field::RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let mut line = Line::default();
        fields.record(&mut line);
        write!(writer, "{}", Value::Object(line.0))
    }

    fn add_fields(
        &self,
        current: &'writer mut FormattedFields<Self>,
        fields: &tracing::span::Record<'_>,
    ) -> fmt::Result {
        let mut line = Line(serde_json::from_str(&current.fields).unwrap_or_default());
        fields.record(&mut line);
        current.fields = Value::Object(line.0).to_string();
        Ok(())
    }
}

struct JsonEvents {
    clock: Clock,
}

impl<S> FormatEvent<S, JsonFields> for JsonEvents
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line::default();
        for span in ctx.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>().map(|fields| fields.fields.as_str());
            let fields: Map<String, Value> = serde_json::from_str(fields.unwrap_or("{}")).unwrap_or_default();
            line.0.extend(fields);
        }
        event.record(&mut line);
        let message = line.0.remove("message").unwrap_or_default();
        let metadata = event.metadata();
        let time = self.clock.now().round(jiff::Unit::Millisecond).unwrap_or_default();
        // Written by hand so that the four fixed keys come first.
        write!(
            writer,
            "{{\"time\":\"{time}\",\"level\":\"{}\",\"msg\":{},\"target\":{}",
            metadata.level().as_str().to_ascii_lowercase(),
            if message.is_string() { message } else { Value::from("") },
            Value::from(metadata.target()),
        )?;
        for (key, value) in &line.0 {
            if !matches!(key.as_str(), "time" | "level" | "msg" | "target") {
                write!(writer, ",{}:{value}", Value::from(key.as_str()))?;
            }
        }
        writeln!(writer, "}}")
    }
}

/// The fields of one line.
#[derive(Default)]
struct Line(Map<String, Value>);

impl Line {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().trim_start_matches("r#").to_owned(), value.into());
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string());
        let chain = failure::chain(value);
        self.0.insert(format!("{}_chain", field.name()), chain.into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> Vec<String> {
        let captured = Captured::default();
        let writer = captured.clone();
        let clock = Clock::from_fn(|| "2026-11-22T08:00:00.25Z".parse().unwrap());
        let layer = json_layer(clock, move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_has_its_own_fields_and_those_of_its_spans() {
        let lines = logged(|| {
            let outer =
                tracing::info_span!("reconcile", namespace = "ns", name = "set", sync_id = tracing::field::Empty);
            let _outer = outer.enter();
            outer.record("sync_id", "abc");
            tracing::info!(images = 3u64, name = "inner", "mirror \"finished\"");
        });
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert!(
            lines[0].starts_with(r#"{"time":"2026-11-22T08:00:00.25Z","level":"info","msg":"mirror \"finished\"""#)
        );
        assert_eq!(line["namespace"], "ns");
        assert_eq!(line["sync_id"], "abc");
        assert_eq!(line["images"], 3);
        assert_eq!(line["name"], "inner");
    }

    #[test]
    fn an_error_is_logged_with_its_chain() {
        #[derive(Debug, thiserror::Error)]
        #[error("opening `x`")]
        struct Outer(#[source] io::Error);
        let lines = logged(|| {
            let error = Outer(io::Error::other("no such file"));
            tracing::warn!(error = &error as &dyn std::error::Error, "skipped");
        });
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["error"], "opening `x`");
        assert_eq!(line["error_chain"], "opening `x`: no such file");
    }

    #[test]
    fn a_word_that_is_no_level_is_named() {
        assert!(parse_filter(Some("info,imageset_mirror::copy=debug")).is_ok());
        assert!(parse_filter(Some("info,loud")).unwrap_err().to_string().starts_with("`loud` is not a log level"));
    }

    #[test]
    fn a_bad_filter_is_named() {
        assert!(parse_filter(Some("imageset_mirror=loud")).unwrap_err().to_string().contains("imageset_mirror=loud"));
        assert!(parse_filter(Some("debug")).is_ok());
        assert!(parse_filter(None).is_ok());
    }
}
